"""A client of streamed responses over a bare socket: it keeps the head, and gives the body piece by piece."""

import json
import socket
import time
from types import TracebackType
from typing import Any, Self

from tests.support.event_reader import Event, EventReader

SECONDS = 10.0


class Stream:
    """One request and its response; chunks are parsed to the byte (RFC 9112 section 7.1)."""

    def __init__(self, port: int, request: bytes, *, receive_buffer: int = 0, host: str = "127.0.0.1") -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(SECONDS)
        self._unread = b""
        try:
            self.socket.connect((host, port))
            self.socket.sendall(request)
            head = self._until(b"\r\n\r\n")
        except BaseException:
            self.socket.close()
            raise
        first, *fields = head[:-4].decode().split("\r\n")
        self.version, self.status = first.split(" ")[0], int(first.split(" ")[1])
        self.headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        self.ended = False
        self._body = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    @property
    def is_chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return self.headers.get("transfer-encoding") == "chunked"

    def piece(self) -> bytes:
        """The next piece of the body: a chunk, or what has come; empty at the end."""
        if self.is_chunked:
            size = int(self._until(b"\r\n")[:-2], 16)
            chunk = self._exactly(size + 2)
            assert chunk.endswith(b"\r\n")
            self.ended = not size
            return chunk[:-2]
        got, self._unread = self._unread, b""
        got = got or self.socket.recv(65536)
        self.ended = not got
        return got

    def until(self, end: bytes) -> bytes:
        """The body up to and with `end`."""
        while end not in self._body:
            piece = self.piece()
            if not piece:
                raise EOFError(self._body)
            self._body += piece
        at = self._body.index(end) + len(end)
        found, self._body = self._body[:at], self._body[at:]
        return found

    def rest(self) -> bytes:
        """The body to its end, or the whole body of a response with a length."""
        if (length := self.headers.get("content-length")) is not None:
            return self._exactly(int(length))
        body, self._body = self._body, b""
        while piece := self.piece():
            body += piece
        return body

    def _until(self, end: bytes) -> bytes:
        while end not in self._unread:
            self._receive()
        at = self._unread.index(end) + len(end)
        found, self._unread = self._unread[:at], self._unread[at:]
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._unread) < size:
            self._receive()
        found, self._unread = self._unread[:size], self._unread[size:]
        return found

    def _receive(self) -> None:
        got = self.socket.recv(65536)
        if not got:
            raise EOFError(self._unread)
        self._unread += got


class JsonStream(Stream):
    """Replies and pushes, one JSON object a line."""

    def reply(self) -> dict[str, Any]:
        """The next of them."""
        found: dict[str, Any] = json.loads(self.until(b"\n"))
        return found

    def publication(self) -> Any:
        """The data of the next publication."""
        while "pub" not in (push := self.reply().get("push", {})):
            pass
        return push["pub"]["data"]


def post(path: str, body: bytes, *headers: str, version: str = "1.1", method: str = "POST") -> bytes:
    """The bytes of a request."""
    lines = [f"{method} {path} HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def encoded(*commands: dict[str, Any]) -> bytes:
    """Commands as lines."""
    return b"\n".join(json.dumps(command).encode() for command in commands)


class EventStream(Stream):
    """Server-sent events, as a strict reader of the standard understands them."""

    def __init__(self, port: int, request: bytes, *, receive_buffer: int = 0, host: str = "127.0.0.1") -> None:
        super().__init__(port, request, receive_buffer=receive_buffer)
        self.reader = EventReader()
        self._read = 0

    def event(self) -> Event:
        """The next event. Raises TimeoutError where only comments come."""
        deadline = time.monotonic() + 2 * SECONDS
        while self._read == len(self.reader.events):
            if time.monotonic() > deadline:
                raise TimeoutError
            piece = self.piece()
            if not piece:
                raise EOFError
            self.reader.feed(piece)
        self._read += 1
        return self.reader.events[self._read - 1]

    def data(self, count: int) -> list[Any]:
        """The data of the next `count` events."""
        return [json.loads(self.event().data) for _ in range(count)]

    def opened(self) -> Self:
        """Read on until the response has begun with an id or the time to reconnect."""
        while self.reader.retry is None:
            piece = self.piece()
            if not piece:
                raise EOFError
            self.reader.feed(piece)
        return self


def get(path: str, *headers: str, version: str = "1.1", method: str = "GET") -> bytes:
    """The bytes of a request without a body."""
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: x", *headers, "", ""]).encode()
