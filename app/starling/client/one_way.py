"""Connections of clients that only read bare pushes: their one request says who they are and what they want."""

import time
from abc import abstractmethod

import structlog
from msgspec import MsgspecError

from starling.client.authority import Handshake
from starling.client.client_connection import ClientConnection, Executor, fail
from starling.client.pending_transport import Answer, PendingTransport
from starling.engine.transport import NO_CLOSE_FRAME, Transport
from starling.protocol import codes
from starling.protocol.codec_json import JSON, JsonPushes, read_connect_request
from starling.protocol.codes import Disconnect, Error
from starling.protocol.commands import Command, ConnectRequest
from starling.protocol.event_stream import event
from starling.protocol.messages import ConnectResult, DisconnectPush, Frame, Push, Reply, StreamFrame
from starling.protocol.session_core import SessionState

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.client")

# How Reply begins, and what stands behind the push in it.
_BEFORE_PUSH, _BEHIND_PUSH = len('{"push":'), -1
EMPTY = b"{}"

# What ends a connection where a client would get this error in answer to its connect command.
_DISCONNECT_FOR = {
    codes.ERROR_INTERNAL.code: codes.DISCONNECT_INTERNAL,
    codes.ERROR_TOO_MANY_REQUESTS.code: codes.DISCONNECT_TOO_MANY_REQUESTS,
    codes.ERROR_UNAUTHORIZED.code: codes.DISCONNECT_INVALID_TOKEN,
    codes.ERROR_TOKEN_EXPIRED.code: codes.DISCONNECT_INVALID_TOKEN,
    codes.ERROR_EXPIRED.code: codes.DISCONNECT_INVALID_TOKEN,
    codes.ERROR_BAD_REQUEST.code: codes.DISCONNECT_BAD_REQUEST,
    codes.ERROR_LIMIT_EXCEEDED.code: codes.DISCONNECT_CHANNEL_LIMIT,
    codes.ERROR_NOT_AVAILABLE.code: codes.DISCONNECT_NOT_AVAILABLE,
}


def disconnect_for(error: Error) -> Disconnect:
    """The end of a connection whose connect command is answered with `error`."""
    return _DISCONNECT_FOR.get(error.code, codes.DISCONNECT_PERMISSION_DENIED)


def bare(reply: Reply) -> bytes:
    """A reply as a push without anything around it."""
    if reply.connect is not None:
        return JSON.encode(Reply(connect=reply.connect))
    return EMPTY if reply.push is None else JSON.encode(reply)[_BEFORE_PUSH:_BEHIND_PUSH]


class OneWayConnection(ClientConnection):
    """A client that sends nothing after its request; subclasses name the form of what it reads."""

    __slots__ = ("_request",)

    one_way = True
    codec = JSON

    def __init__(self, executor: Executor, handshake: Handshake, request: ConnectRequest | None = None) -> None:
        """`request` is the connect command; None where it comes as the first message."""
        super().__init__(executor, handshake)
        self._request = request

    def connect(self, request: ConnectRequest) -> None:
        """Carry out the connect command."""
        try:
            self.carry_out(self.session.receive(Command(id=1, connect=request), time.monotonic()))
        except Exception:
            log.exception("client_failed", connection_id=self.id)
            fail(self)

    def encode(self, reply: Reply) -> bytes:
        """See ClientConnection; empty for what the client is not sent."""
        if reply.error is not None:
            self.decline(reply.error)
            return b""
        if reply.connect is not None:
            return self.encode_connect(reply.connect)
        return self.keep_alive() if reply.push is None else self.encode_push(reply.push)

    def decline(self, error: Error) -> None:
        """End the connection, whose connect command is answered with `error`."""
        disconnect = disconnect_for(error)
        reason = error.message.encode()[: codes.REASON_BYTES].decode(errors="ignore")
        self.carry_out(self.session.close(Disconnect(disconnect.code, reason)))

    @abstractmethod
    def encode_connect(self, result: ConnectResult) -> bytes:
        """What the client gets first."""

    @abstractmethod
    def encode_push(self, push: Push) -> bytes:
        """What the client gets for a push of its own."""

    @abstractmethod
    def keep_alive(self) -> bytes:
        """What the client gets when it got nothing for a while."""

    def reply(self, frame: Frame) -> None:
        """Queue a frame for this client alone, unless there is nothing in it."""
        if frame.payload:
            super().reply(frame)


class StreamedConnection(OneWayConnection):
    """A client that reads a response without an end. Its request is refused by a status, before the response begins."""

    __slots__ = ("_pending",)

    sends_pongs = False

    def __init__(self, executor: Executor, handshake: Handshake, request: ConnectRequest, answer: Answer) -> None:
        """`answer` is given once the connect command has its outcome."""
        super().__init__(executor, handshake, request)
        self._pending = PendingTransport(answer, self.on_close)

    def start(self, address: str) -> None:
        """Carry out the request of the client at `address`."""
        super().open(self._pending, address)
        request, self._request = self._request, None
        if request is not None:
            self.connect(request)

    def open(self, transport: Transport, address: str = "") -> None:
        """Take over `transport`, the socket of the client, which has been accepted."""
        transport = self.wrap(transport)
        self._pending.take_over(transport)
        if self.transport is self._pending:
            self.transport = transport

    def begin(self) -> None:
        """Do nothing: what the client gets first has been written."""

    def wrap(self, transport: Transport) -> Transport:
        """What writes to the client."""
        return transport

    def accept(self) -> None:
        """Begin the response; nothing, if it has begun."""
        self._pending.accept()
        if self.transport is self._pending and self._pending.socket is not None:
            self.transport = self._pending.socket

    def decline(self, error: Error) -> None:
        """Refuse the request with a status, or end the response that has begun."""
        self._pending.refuse(error)
        super().decline(error)

    def close(self, code: int, reason: str = "") -> None:
        """End the response; its last message says why."""
        self.engine.hub.flush(self)
        if code != NO_CLOSE_FRAME and self.close_code is None and self._pending.accepted:
            goodbye = self.encode_push(Push(disconnect=DisconnectPush(code, reason, codes.reconnects(code))))
            self.transport.send_frame(StreamFrame(goodbye))
        self.transport.close(code, reason)


class StreamedPushes(JsonPushes):
    """What the encoders of responses without an end have in common."""

    carries_channel_ids = False

    def encode_replies(self, replies: list[bytes]) -> Frame:
        """Encoded replies to one client as a piece of the response; an empty frame where there is nothing in them."""
        payload = b"".join(replies)
        return StreamFrame(payload) if payload else Frame(b"", text=False)


class BareLines(StreamedPushes):
    """Encodes pushes as lines of JSON."""

    def encode_push(self, push: Push) -> Frame:
        """One push as a line."""
        return StreamFrame(bare(Reply(push=push)) + b"\n")


class BareEvents(StreamedPushes):
    """Encodes pushes as server-sent events."""

    def encode_push(self, push: Push) -> Frame:
        """One push as an event."""
        return StreamFrame(event(bare(Reply(push=push))))


class BareMessages(JsonPushes):
    """Encodes pushes as WebSocket messages."""

    def encode_push(self, push: Push) -> Frame:
        """One push as a text frame."""
        return Frame(bare(Reply(push=push)), text=True)


class OneWayHttpStream(StreamedConnection):
    """A client that reads a line of JSON for each push."""

    __slots__ = ()

    kind = "uni_http_stream"
    encoder = BareLines()

    def encode_connect(self, result: ConnectResult) -> bytes:
        """The connect push; with it the response begins."""
        self.accept()
        return bare(Reply(connect=result)) + b"\n"

    def encode_push(self, push: Push) -> bytes:
        """A line."""
        return self.encoder.encode_push(push).payload

    def keep_alive(self) -> bytes:
        """An empty object."""
        return EMPTY + b"\n"


class OneWayEvents(StreamedConnection):
    """A client that reads a server-sent event for each push."""

    __slots__ = ()

    kind = "uni_sse"
    encoder = BareEvents()

    def encode_connect(self, result: ConnectResult) -> bytes:
        """The connect push; with it the response begins."""
        self.accept()
        return event(bare(Reply(connect=result)))

    def encode_push(self, push: Push) -> bytes:
        """An event."""
        return self.encoder.encode_push(push).payload

    def keep_alive(self) -> bytes:
        """An event with an empty object."""
        return event(EMPTY)


class OneWayWebSocket(OneWayConnection):
    """A client that reads a WebSocket message for each push."""

    __slots__ = ()

    kind = "uni_websocket"
    encoder = BareMessages()

    def open(self, transport: Transport, address: str = "") -> None:
        """Take over `transport`, and carry out the connect command, if the address brought it."""
        super().open(transport, address)
        request, self._request = self._request, None
        if request is not None:
            self.connect(request)

    def on_message(self, message: str | bytes) -> None:
        """Take the connect command. What comes after it means that the client lives, and costs of its budget."""
        self.count_received(message)
        if self.session.state is not SessionState.OPENED:
            self.on_pong()
            return
        try:
            request = read_connect_request(message.encode() if isinstance(message, str) else message)
        except (MsgspecError, UnicodeError, RecursionError) as problem:
            log.info("connect_request_malformed", connection_id=self.id, problem=str(problem))
            self.send_disconnect(codes.DISCONNECT_BAD_REQUEST)
        else:
            self.connect(request)

    def on_pong(self) -> None:
        """Note that the client lives."""
        self.carry_out(self.session.receive(Command(), time.monotonic()))

    def encode_connect(self, result: ConnectResult) -> bytes:
        """The connect push."""
        return self._send(Reply(connect=result))

    def encode_push(self, push: Push) -> bytes:
        """A message."""
        return self._send(Reply(push=push))

    def keep_alive(self) -> bytes:
        """An empty object, and a ping that browsers answer by themselves."""
        self.transport.ping()
        return self._send(Reply())

    def _send(self, reply: Reply) -> bytes:
        """Send a message of its own for each push: several in one are several lines. Nothing is left to be sent."""
        self.reply(Frame(bare(reply), text=True))
        return b""
