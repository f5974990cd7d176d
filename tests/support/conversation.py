"""One client of the client protocol over any two-way transport, as plain dictionaries: for tests with parameters."""

import base64
import http.client
import json
import urllib.parse
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from google.protobuf import json_format
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from starling.protocol import client_pb2
from tests.support.streams import SECONDS, Stream, post

TRANSPORTS = ("websocket", "websocket_protobuf", "http_stream", "http_stream_protobuf", "sse")
EMULATED = TRANSPORTS[2:]
# Fields that are bytes in the schema, and JSON here.
_PAYLOADS = frozenset({"data", "info", "conn_info", "chan_info"})


class Ended(Exception):
    """The conversation has ended, with this code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Response(NamedTuple):
    """The response to a request with commands."""

    status: int
    body: bytes


class Conversation:
    """A connected client. Commands of emulated transports go to `emulation`, ports of any workers, in turn."""

    def __init__(
        self,
        transport: str,
        port: int,
        connect_request: Mapping[str, Any] | None = None,
        *,
        emulation: Sequence[int] = (),
        receive_buffer: int = 0,
        headers: Sequence[str] = (),
        host: str = "127.0.0.1",
    ) -> None:
        self.transport = transport
        self.protobuf = transport.endswith("protobuf")
        self.emulated = not transport.startswith("websocket")
        self._host = host
        self._emulation = list(emulation) or [port]
        self._replies: deque[dict[str, Any]] = deque()
        self._last = 1
        self._buffer = b""
        first = self.encoded({"id": 1, "connect": dict(connect_request or {})})
        self._websocket: ClientConnection | None = None
        self._stream: Stream | None = None
        if self.emulated:
            self._stream = Stream(port, self._request(first, headers), receive_buffer=receive_buffer, host=host)
        else:
            protocols = [Subprotocol("centrifuge-protobuf")] if self.protobuf else None
            fields = dict(header.split(": ", 1) for header in headers)
            url = f"ws://{host}:{port}/connection/websocket"
            self._websocket = connect(
                url,
                subprotocols=protocols,
                additional_headers=fields,
                compression=None,
                max_size=None,
                ping_interval=None,
                legacy=True,
            )
            self.write(first)

    def _request(self, first: bytes, headers: Sequence[str]) -> bytes:
        if self.transport == "sse":
            query = urllib.parse.quote(first.decode())
            return post(f"/connection/sse?cf_connect={query}", b"", *headers, method="GET")
        kind = ["Content-Type: application/octet-stream"] if self.protobuf else []
        return post("/connection/http_stream", first, *kind, *headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket, without a close frame."""
        if self._websocket is not None:
            self._websocket.socket.close()
        if self._stream is not None:
            self._stream.socket.close()

    # What the client sends

    def connected(self) -> dict[str, Any]:
        """Wait for the reply to `connect`; emulated transports need it before anything else is said."""
        reply = self.reply(1)
        self.session, self.node = reply.get("connect", {}).get("session", ""), reply.get("connect", {}).get("node", "")
        return reply

    def call(self, method: str, /, **fields: Any) -> dict[str, Any]:
        """Send a command and wait for its reply."""
        return self.reply(self.say(method, **fields))

    def say(self, method: str, /, **fields: Any) -> int:
        """Send a command; returns its id."""
        self._last += 1
        self.write(self.encoded({"id": self._last, method: fields}))
        return self._last

    def write(self, frame: bytes) -> Response | None:
        """Send bytes as one message; returns the response, where there is one."""
        if self._websocket is not None:
            self._websocket.send(frame if self.protobuf else frame.decode(errors="surrogateescape"))
            return None
        port = self._emulation[0]
        self._emulation = [*self._emulation[1:], port]
        return emulate(port, self.session, self.node, frame, protobuf=self.protobuf, host=self._host)

    # What it receives

    def reply(self, number: int) -> dict[str, Any]:
        """The reply to the command with this id; what comes before it is kept."""
        skipped: list[dict[str, Any]] = []
        try:
            while (reply := self.next()).get("id") != number:
                skipped.append(reply)
        finally:
            self._replies.extendleft(reversed(skipped))
        return reply

    def push(self, kind: str = "pub") -> dict[str, Any]:
        """The next push of a kind, with its channel."""
        while kind not in (push := self.next().get("push", {})):
            pass
        return {"channel": push.get("channel", ""), **push[kind]}

    def await_replies(self, number: int) -> int:
        """Wait for that many replies over WebSocket, which are only counted; returns how many have errors."""
        assert self._websocket is not None
        errors = 0
        while number > 0:
            frame = self._websocket.recv(SECONDS)
            content = frame if isinstance(frame, bytes) else frame.encode()
            for has_error in self._replies_in(content):
                number -= 1
                errors += has_error
        return errors

    def _replies_in(self, content: bytes) -> Iterator[bool]:
        """For each reply in a frame whether it has an error; pushes are left out."""
        if not self.protobuf:
            yield from (b'"error":{' in line[:40] for line in content.splitlines() if line.startswith(b'{"id":'))
            return
        at = 0
        while at < len(content):
            size, at = _read_varint(content, at)
            message = client_pb2.Reply.FromString(content[at : at + size])
            at += size
            if message.id:
                yield message.HasField("error")

    def end(self) -> tuple[int, str]:
        """The code and reason that end the conversation, after all else that is read."""
        try:
            while True:
                self.next()
        except Ended as ended:
            return ended.code, ended.reason

    def next(self) -> dict[str, Any]:
        """The next reply or push. Raises Ended."""
        while not self._replies:
            self._replies.extend(self._receive())
        return self._replies.popleft()

    def _receive(self) -> Iterator[dict[str, Any]]:
        if self._websocket is not None:
            try:
                frame = self._websocket.recv(SECONDS)
            except ConnectionClosed as closed:
                received = closed.rcvd
                raise Ended(received.code if received else 1006, received.reason if received else "") from None
            yield from self._decoded(frame if isinstance(frame, bytes) else frame.encode())
            return
        assert self._stream is not None
        try:
            piece = self._stream.piece()
        except (EOFError, ConnectionError):
            piece = b""
        if not piece:
            raise Ended(1006, "")
        self._buffer += piece
        for reply in self._decoded(self._take_whole()):
            if (gone := reply.get("push", {}).get("disconnect")) is not None:
                raise Ended(gone["code"], gone["reason"])
            yield reply

    def _take_whole(self) -> bytes:
        """The whole replies of the buffer."""
        if self.protobuf:
            whole, self._buffer = self._buffer, b""
            return whole
        whole, separator, self._buffer = self._buffer.rpartition(b"\n\n" if self.transport == "sse" else b"\n")
        return whole + separator

    # Formats

    def encoded(self, *commands: Mapping[str, Any]) -> bytes:
        """Commands in the format of the transport."""
        return encoded_commands(commands, protobuf=self.protobuf)

    def _decoded(self, content: bytes) -> Iterator[dict[str, Any]]:
        if self.transport == "sse":
            for block in content.decode().strip("\r\n").split("\n\n"):
                lines = [line.removeprefix("data: ") for line in block.split("\n") if line.startswith("data: ")]
                if lines:
                    yield json.loads("\n".join(lines))
        elif not self.protobuf:
            yield from map(json.loads, content.splitlines())
        else:
            yield from protobuf_replies(content)


def encoded_commands(commands: Sequence[Mapping[str, Any]], *, protobuf: bool) -> bytes:
    """Commands as one message."""
    if not protobuf:
        return b"\n".join(json.dumps(command, separators=(",", ":")).encode() for command in commands)
    messages = (json_format.ParseDict(_to_bytes(command), client_pb2.Command()) for command in commands)
    return b"".join(_varint(message.ByteSize()) + message.SerializeToString() for message in messages)


def protobuf_replies(content: bytes) -> Iterator[dict[str, Any]]:
    """The replies and pushes in a message of Protobuf."""
    at = 0
    while at < len(content):
        size, at = _read_varint(content, at)
        message = client_pb2.Reply.FromString(content[at : at + size])
        yield _from_bytes(json_format.MessageToDict(message, preserving_proto_field_name=True))
        at += size


def emulate(
    port: int, session: str, node: str, commands: bytes, *, protobuf: bool = False, host: str = "127.0.0.1"
) -> Response:
    """Send commands of a session to whatever worker answers at `port`."""
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    if protobuf:
        body = client_pb2.EmulationRequest(node=node, session=session, data=commands).SerializeToString()
        kind = "application/octet-stream"
    else:
        body = json.dumps({"session": session, "node": node, "data": commands.decode()}).encode()
        kind = "application/json"
    try:
        connection.request("POST", "/emulation", body, {"Content-Type": kind})
        response = connection.getresponse()
        return Response(response.status, response.read())
    finally:
        connection.close()


def _to_bytes(value: Any, name: str = "") -> Any:
    """Payloads as the JSON form of Protobuf has bytes."""
    if name in _PAYLOADS:
        return base64.b64encode(json.dumps(value).encode()).decode()
    if isinstance(value, Mapping):
        return {key: _to_bytes(item, key) for key, item in value.items()}
    return value


def _from_bytes(value: Any, name: str = "") -> Any:
    if name in _PAYLOADS and isinstance(value, str):
        return json.loads(base64.b64decode(value))
    if isinstance(value, dict):
        # 64-bit numbers are text in the JSON form of Protobuf. A patch is no JSON.
        kept = "data" if value.get("delta") else ""
        return {
            key: int(item) if key == "offset" else item if key == kept else _from_bytes(item, key)
            for key, item in value.items()
        }
    return [_from_bytes(item) for item in value] if isinstance(value, list) else value


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = content[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
