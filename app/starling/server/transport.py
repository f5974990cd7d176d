"""One client's WebSocket after the hand-off: frames in, frames out, and no task, queue or scope in between."""

import asyncio
import time
from collections.abc import Callable

from websockets.exceptions import ProtocolError
from websockets.frames import Close, apply_mask  # type: ignore[attr-defined]  # the one in C, if there is one

from starling.engine.transport import NO_CLOSE_FRAME, Handler
from starling.protocol.codes import REASON_BYTES
from starling.server.assembly import ControlBudget, FragmentedMessage
from starling.server.client_socket import BY_HANDLER, BY_REPLIES, DISCARD_BYTES, ClientSocket, Flusher, linger
from starling.server.compression import Deflater, Inflater
from starling.server.frames import (
    BINARY,
    CLOSE,
    COMPRESSED,
    CONTINUATION,
    CONTROL,
    FINAL,
    INCOMPLETE,
    OPCODE,
    PING,
    PONG,
    PeerError,
    control_frame,
    frame_end,
    payload_start,
)
from starling.server.options import ServerOptions
from starling.server.service import RejectReason

PING_FRAME = control_frame(PING)
# A loop tick reads at most this much of one client, so that a flood of tiny frames shares the loop.
READ_BYTES = 16384
# Or for this long, after the first frame: the shortest commands take the longest for a byte.
READ_SECONDS = 0.002
# Up to here input is dealt with at once, also while others wait for their turn.
LIGHT_BYTES = 1024

REFUSALS = {
    1002: RejectReason.PROTOCOL_ERROR,
    1007: RejectReason.INVALID_UTF8,
    1008: RejectReason.CONTROL_FLOOD,
    1009: RejectReason.MESSAGE_TOO_LARGE,
}


class WebSocketTransport(ClientSocket):
    """A Transport over one socket, found in the ASGI scope as the extension `starling.websocket`.

    The endpoint accepts, calls `detach` and returns. Frames may be sent before that, and are written after it.

    An idle connection has no reader: what is half read stands in `_unread`, and a message of which some fragments have
    come in `_fragmented`.
    """

    __slots__ = (
        "_budget",
        "_compression",
        "_fragmented",
        "_held_back",
        "_on_refused",
        "_pinged",
        "_release",
        "_unread",
    )

    def __init__(
        self,
        socket: asyncio.Transport,
        release: Callable[[], bytes],
        *,
        loop: asyncio.AbstractEventLoop,
        connections: set[object],
        flusher: Flusher,
        options: ServerOptions,
        on_refused: Callable[..., None],
        deflater: Deflater | None = None,
    ) -> None:
        """`release` is called once by `detach`: it gives the socket up and returns what was read too early.

        `deflater`: the client reads compressed messages, and may send some.
        """
        super().__init__(socket, loop=loop, connections=connections, flusher=flusher, options=options, form=deflater)
        self._release: Callable[[], bytes] | None = release
        self._on_refused = on_refused
        self._compression = deflater is not None
        self._unread: bytearray | None = None
        # What is unread waits for another tick, not for more bytes.
        self._held_back = False
        self._fragmented: FragmentedMessage | None = None
        self._budget: ControlBudget | None = None
        self._pinged = False

    def detach(self, handler: Handler, *, write_limit: int) -> None:
        """Take the accepted socket over from the endpoint, which then returns: from now on `handler` gets the events.

        The first event follows after this tick. When more than `write_limit` bytes wait for the peer after a write,
        `on_overflow` is called, once. Raises RuntimeError before `accept` and the second time.
        """
        if self._release is None:
            raise RuntimeError("detach was called before: a WebSocket is handed off once")
        early = self._release()
        self._release = None
        self._take_over(handler, write_limit)
        if early:
            self._unread = bytearray(early)
        self._held_back = True
        self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        if self._socket.is_closing():
            # It may have been lost before the hand-off, and asyncio calls connection_lost only once.
            self.connection_lost(None)
        else:
            self._read_on()

    # What the engine asks

    def ping(self) -> None:
        """Queue a ping; the next pong calls `on_pong`."""
        if self._finished or self._close_code is not None:
            return
        self._pinged = True
        self._queue(PING_FRAME)

    def pause_reading(self) -> None:
        """Pass no more messages to the handler, and read no more, until `resume_reading`."""
        self._paused |= BY_HANDLER
        self._socket.pause_reading()

    def resume_reading(self) -> None:
        """Read again, beginning with what is here already, after this tick."""
        self._let_read(BY_HANDLER)

    def _hold_input(self) -> None:
        self._socket.pause_reading()

    def _take_input(self) -> None:
        self._held_back = True
        self._loop.call_soon(self._read_on)

    def close(self, code: int, reason: str = "") -> None:
        """Write what is queued and a close frame, then wait `close_seconds` at most for the peer's.

        A `reason` is cut to 123 bytes. Raises websockets' ProtocolError for a code that may not be sent.
        """
        if self._finished or self._close_code is not None:
            return
        if code == NO_CLOSE_FRAME:
            self._end_without_frame()
            return
        reason = reason.encode()[:REASON_BYTES].decode(errors="ignore")
        self._queue(control_frame(CLOSE, Close(code, reason).serialize()))
        self._close_code = code
        self._fragmented = None
        self.flush()
        self._fd = -1
        self.abort_later()
        # The peer's close frame is wanted, whatever the handler wanted.
        self._let_read(BY_HANDLER)
        self._let_read(BY_REPLIES)

    def _end_without_frame(self) -> None:
        self._close_code = NO_CLOSE_FRAME
        self._finish()
        self.flush()
        self._socket.close()
        self.abort_later()

    # Events of the socket

    def data_received(self, data: bytes) -> None:
        """Take a piece of input."""
        if self._finished:
            self._discarded += len(data)
            if self._discarded > DISCARD_BYTES:
                self._socket.pause_reading()
        elif self._paused or self._held_back:
            self._unread = bytearray() if self._unread is None else self._unread
            self._unread += data
            self._socket.pause_reading()
        elif self._unread is None:
            if len(data) > LIGHT_BYTES and self._flusher.turns.busy:
                self._unread = bytearray(data)
                self._await_turn()
            else:
                self._take(data)
        else:
            self._unread += data
            self._take(self._unread)

    def eof_received(self) -> None:
        """The peer writes no more: the socket is closed when what is queued has left, or cut."""
        self.abort_later()

    # Input

    def _read_on(self) -> None:
        """Deal with what has arrived, a piece a tick, then read again."""
        self._held_back = False
        if self._unread is not None:
            self._take(self._unread)
        if not (self._paused or self._held_back or self._finished):
            self._socket.resume_reading()

    def _await_turn(self) -> None:
        """Read on when others that have much input have had their turn."""
        self._held_back = True
        self._socket.pause_reading()
        self._flusher.turns.add(self._read_on, self._loop)

    def _take(self, data: bytes | bytearray) -> None:
        """Deal with the whole frames that `data` begins with, READ_BYTES or READ_SECONDS at most, and keep the rest."""
        at, deadline = 0, 0.0
        while at < len(data) and not self._paused and not self._finished:
            if at:
                now = time.monotonic()
                deadline = deadline or now + READ_SECONDS
                if at >= READ_BYTES or now >= deadline:
                    self._await_turn()
                    break
            try:
                end = self._take_frame(data, at)
            except PeerError as error:
                self._fail(error.code, error.reason)
                break
            if end == INCOMPLETE:
                break
            at = end
        if at == len(data) or self._finished:
            self._unread = None
        elif data is not self._unread:
            self._unread = bytearray(data[at:])
        elif at:
            del self._unread[:at]

    def _take_frame(self, data: bytes | bytearray, at: int) -> int:
        """Deal with the frame that begins at `at`, if it is whole; return the index behind it, or INCOMPLETE."""
        fragmented = self._fragmented
        room = self._options.max_message_bytes if fragmented is None else fragmented.room
        end = frame_end(data, at, room, compression=self._compression)
        if end == INCOMPLETE:
            return INCOMPLETE
        start = payload_start(data, at)
        first, payload = data[at], apply_mask(data[start:end], data[start - 4 : start])
        if first & CONTROL:
            self._take_control(first & OPCODE, payload)
        elif self._close_code is None and self._handler is not None:
            message = self._message(first, payload)
            if message is not None:
                self._notify(self._handler.on_message, message)
        return end

    def _message(self, first: int, payload: bytes) -> str | bytes | None:
        """Give the message that a data frame is, or completes."""
        if self._fragmented is not None or not first & FINAL or not first & OPCODE:
            return self._fragment(first, payload)
        if first & COMPRESSED:
            payload = Inflater().take(payload, self._options.max_message_bytes, last=True)
        if first & OPCODE == BINARY:
            return payload
        try:
            return payload.decode()
        except UnicodeDecodeError:
            raise PeerError(1007, "text is not UTF-8") from None

    def _fragment(self, first: int, payload: bytes) -> str | bytes | None:
        fragmented = self._fragmented
        if first & OPCODE == CONTINUATION:
            if fragmented is None:
                raise PeerError(1002, "unexpected continuation frame")
        else:
            if fragmented is not None:
                raise PeerError(1002, "expected a continuation frame")
            most, size = self._options.max_fragments, self._options.max_message_bytes
            self._fragmented = fragmented = FragmentedMessage(first, max_fragments=most, max_bytes=size)
        message = fragmented.take(first, payload)
        if message is not None:
            self._fragmented = None
        elif not payload:
            self._spend()
        return message

    def _take_control(self, opcode: int, payload: bytes) -> None:
        if opcode == CLOSE:
            self._answer_close(payload)
        elif opcode == PONG and self._pinged:
            # One for each ping of ours: that cannot be a flood.
            self._pinged = False
            if self._handler is not None:
                self._notify(self._handler.on_pong)
        else:
            self._spend()
            if opcode == PING and self._close_code is None:
                self._queue(control_frame(PONG, payload))

    def _spend(self) -> None:
        if self._budget is None:
            self._budget = ControlBudget()
        self._budget.spend(self._loop.time())

    # Ends

    def _answer_close(self, payload: bytes) -> None:
        try:
            received = Close.parse(payload)
        except UnicodeDecodeError:
            raise PeerError(1007, "the reason is not UTF-8") from None
        except ProtocolError as error:
            raise PeerError(1002, str(error)) from None
        code = received.code
        if self._close_code is None:
            self._queue(control_frame(CLOSE, payload))
        elif not payload:
            code = self._close_code
        self._finish()
        self.flush()
        self.abort_later()
        self._socket.close()
        self._notify_close(code, received.reason)

    def _fail(self, code: int, reason: str) -> None:
        """Fail the connection (RFC 6455 section 7.1.7): a close frame, a grace to read it, and no more input."""
        self._on_refused(REFUSALS.get(code, RejectReason.PROTOCOL_ERROR), code=code, detail=reason)
        if self._close_code is None:
            self._queue(control_frame(CLOSE, Close(code, reason).serialize()))
        self._finish()
        self.flush()
        linger(self._socket)
        self.abort_later()
        self._notify_close(code, reason)

    def _finish(self) -> None:
        super()._finish()
        self._unread = None
        self._fragmented = None
