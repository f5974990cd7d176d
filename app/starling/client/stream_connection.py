"""Connections of the client protocol over a streamed response: their commands come by requests of their own."""

import asyncio
import secrets
import time
from math import inf

import structlog

from starling.client.authority import Handshake
from starling.client.client_connection import ClientConnection, Executor, fail
from starling.client.emulation import EmulatedSessions, Forwarding
from starling.engine.transport import NO_CLOSE_FRAME, Transport
from starling.protocol.codec_json import JSON, JsonPushes
from starling.protocol.codec_protobuf import PROTOBUF, ProtobufPushes
from starling.protocol.codes import reconnects
from starling.protocol.command_sequence import CommandSequence
from starling.protocol.commands import Command
from starling.protocol.event_stream import event
from starling.protocol.messages import DisconnectPush, Frame, Push, Reply, StreamFrame
from starling.protocol.session_core import SessionState

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.client")

# Bytes of the secret that a client shows with each of its commands.
SECRET_BYTES = 24
# Bytes of a client's commands that may wait here for those before them, and for the client to take its replies: of its
# requests, and of what each command takes in addition. One request may have more, where nothing waits.
MOST_WAITING = 2**18
COMMAND_BYTES = 256


class EmulatedConnection(ClientConnection):
    """A client that reads a stream and sends its commands by requests; subclasses name the format of the stream.

    Nothing is expected of an idle client: the transport notices one that is gone.
    """

    __slots__ = (
        "_backlog_sizes",
        "_first",
        "_first_ids",
        "_reason",
        "_request_bytes",
        "_sequence",
        "_sessions",
        "_timer",
    )

    def __init__(
        self, executor: Executor, handshake: Handshake, sessions: EmulatedSessions, first: str | bytes
    ) -> None:
        """`first` holds the connect command."""
        super().__init__(executor, handshake, secret=secrets.token_urlsafe(SECRET_BYTES))
        self._sessions = sessions
        self._first = first
        self._first_ids: tuple[int, ...] | None = None
        # Made with the first request after the one that opened the stream.
        self._sequence: CommandSequence | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._request_bytes = 0
        # Of the last of the backlog; the sizes of those before it are left when they are carried out.
        self._backlog_sizes: list[int] = []
        self._reason = ""

    def open(self, transport: Transport, address: str = "") -> None:
        """Take over `transport`, and be found by requests."""
        super().open(transport, address)
        self._sessions.add(self)

    def begin(self) -> None:
        """Take the commands that came with the request."""
        first, self._first = self._first, b""
        self.on_message(first)

    def on_close(self, code: int, reason: str) -> None:
        """Leave every channel, and be found no more."""
        self._sessions.remove(self)
        if self._timer is not None:
            self._timer.cancel()
        super().on_close(code, reason or self._reason)

    def close(self, code: int, reason: str = "") -> None:
        """End the stream; a push says why, because there is no close frame."""
        self.engine.hub.flush(self)
        if code != NO_CLOSE_FRAME:
            push = Push(disconnect=DisconnectPush(code, reason, reconnects(code)))
            self.transport.send_frame(self.encoder.encode_push(push))
        self._reason = self._reason or reason
        self.transport.close(code, reason)

    # Requests with commands

    def on_request(self, data: str | bytes) -> Forwarding:
        """Take the commands of one request, to be carried out in the order of the session."""
        if self.close_code is not None or self.session.state is SessionState.CLOSED:
            return Forwarding.GONE
        if isinstance(data, str) is not self.codec.text:
            return Forwarding.MALFORMED
        if (waiting := self._waiting_bytes()) and waiting + len(data) > MOST_WAITING:
            return Forwarding.BUSY
        self.count_received(data)
        self._request_bytes = len(data)
        try:
            return Forwarding.TAKEN if self._take(data) else Forwarding.MALFORMED
        except Exception:
            log.exception("client_failed", connection_id=self.id)
            fail(self)
            return Forwarding.UNAVAILABLE

    def _receive(self, commands: list[Command]) -> None:
        if self._first_ids is None:
            self._first_ids = tuple(command.id for command in commands if command.id)
            super()._receive(commands)
            return
        if self._sequence is None:
            self._sequence = CommandSequence(self._first_ids)
        size = self._request_bytes + COMMAND_BYTES * len(commands)
        before = self._sequence.waiting_bytes + size
        ready = self._sequence.take(commands, time.monotonic(), size)
        self._carry_out_later(ready, before - self._sequence.waiting_bytes)

    def _take_overdue(self) -> None:
        """Carry out what has waited long enough for the commands before it."""
        self._timer = None
        if self._sequence is not None and self.close_code is None:
            try:
                before = self._sequence.waiting_bytes
                ready = self._sequence.overdue(time.monotonic())
                self._carry_out_later(ready, before - self._sequence.waiting_bytes)
            except Exception:
                log.exception("client_failed", connection_id=self.id)
                fail(self)

    def _carry_out_later(self, ready: list[Command], size: int) -> None:
        """Carry out what is `ready`, of `size` bytes, when the client may be read from, as its transport would be."""
        if ready:
            self._backlog = [*self._backlog, *ready]
            self._backlog_sizes += [size // len(ready)] * len(ready)
        self._work_off()
        deadline = self._sequence.deadline if self._sequence is not None else inf
        if deadline < inf and self._timer is None:
            delay = max(0.0, deadline - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._take_overdue)

    def _waiting_bytes(self) -> int:
        """The size of the commands that wait for those before them or for the client, and of no others."""
        self._backlog_sizes = self._backlog_sizes[max(0, len(self._backlog_sizes) - len(self._backlog)) :]
        return sum(self._backlog_sizes) + (0 if self._sequence is None else self._sequence.waiting_bytes)


class JsonLines(JsonPushes):
    """Encodes everything as lines of JSON in a stream."""

    def encode_push(self, push: Push) -> Frame:
        """One push as a line."""
        return StreamFrame(JSON.encode(Reply(push=push)) + b"\n")

    def encode_replies(self, replies: list[bytes]) -> Frame:
        """Encoded replies to one client, a line each."""
        return StreamFrame(JSON.join(replies) + b"\n")


class ProtobufMessages(ProtobufPushes):
    """Encodes everything as messages of Protobuf in a stream, each with its length before it."""

    def encode_push(self, push: Push) -> Frame:
        """One push as a message."""
        return StreamFrame(PROTOBUF.encode(Reply(push=push)))

    def encode_replies(self, replies: list[bytes]) -> Frame:
        """Encoded replies to one client as messages."""
        return StreamFrame(PROTOBUF.join(replies))


class JsonEvents(JsonPushes):
    """Encodes everything as events of an event stream, each with one reply in JSON."""

    def encode_push(self, push: Push) -> Frame:
        """One push as an event."""
        return self.encode_replies([JSON.encode(Reply(push=push))])

    def encode_replies(self, replies: list[bytes]) -> Frame:
        """Encoded replies to one client, an event each."""
        return StreamFrame(b"".join([event(reply) for reply in replies]))


class HttpStreamConnection(EmulatedConnection):
    """A client that reads a line of JSON for each reply and push."""

    __slots__ = ()

    kind = "http_stream"
    codec = JSON
    encoder = JsonLines()


class ProtobufStreamConnection(EmulatedConnection):
    """A client that reads Protobuf."""

    __slots__ = ()

    kind = "http_stream_protobuf"
    codec = PROTOBUF
    encoder = ProtobufMessages()


class SseConnection(EmulatedConnection):
    """A client that reads an event for each reply and push."""

    __slots__ = ()

    kind = "sse"
    codec = JSON
    encoder = JsonEvents()
