"""One client's WebSocket after the hand-off: frames in, frames out, and no task, queue or scope in between."""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable

import structlog
from websockets.exceptions import ProtocolError
from websockets.frames import Close, apply_mask  # type: ignore[attr-defined]  # the one in C, if there is one

from starling.engine.transport import NO_CLOSE_FRAME, WRITE_ERROR, Batch, Frame, Handler
from starling.protocol.codes import REASON_BYTES
from starling.server.assembly import ControlBudget, FragmentedMessage
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
from starling.server.reject_reason import RejectReason
from starling.server.waiting import WaitingBudget

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.server")

PING_FRAME = control_frame(PING)
# A loop tick reads at most this much of one client, so that a flood of tiny frames shares the loop.
READ_BYTES = 16384
# Who keeps a connection from being read.
BY_HANDLER, BY_REPLIES = 1, 2

# The time in seconds after which writing yields to the loop, and the number of sockets between two looks at the clock.
FLUSH_SLICE = 0.005
FLUSH_BUNCH = 64

# What a refused peer may still send, so that it gets to reading the answer; then it waits to be cut.
DISCARD_BYTES = 2**20

REFUSALS = {
    1002: RejectReason.PROTOCOL_ERROR,
    1007: RejectReason.INVALID_UTF8,
    1008: RejectReason.CONTROL_FLOOD,
    1009: RejectReason.MESSAGE_TOO_LARGE,
}


class Flusher:
    """The sockets of one worker that have frames to write in this loop tick, or the next if there are very many.

    `waiting` are those whose kernel takes no more at the moment.
    """

    __slots__ = ("_dirty", "_scheduled", "budget", "waiting")

    def __init__(self, waiting_budget_bytes: int = 0) -> None:
        """`waiting_budget_bytes` bounds what may wait for all clients; 0: no bound."""
        self.waiting: set[WebSocketTransport] = set()
        self.budget = WaitingBudget(self.waiting, waiting_budget_bytes)
        self._dirty: deque[WebSocketTransport] = deque()
        self._scheduled = False

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait in this process for clients that read slowly."""
        return sum(transport.waiting_bytes for transport in self.waiting)

    def add(self, transport: "WebSocketTransport", loop: asyncio.AbstractEventLoop) -> None:
        """Write what `transport` has queued when this tick's callbacks have run."""
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._flush, loop)
        self._dirty.append(transport)

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        deadline = time.monotonic() + FLUSH_SLICE
        dirty = self._dirty
        try:
            while dirty and time.monotonic() < deadline:
                for _ in range(min(FLUSH_BUNCH, len(dirty))):
                    dirty.popleft().flush()
        finally:
            self._scheduled = bool(dirty)
            if dirty:
                loop.call_soon(self._flush, loop)


class WebSocketTransport(asyncio.Protocol):
    """A Transport over one socket, found in the ASGI scope as the extension `starling.websocket`.

    The endpoint accepts, calls `detach` and returns. Frames may be sent before that, and are written after it.

    An idle connection has no reader: what is half read stands in `_unread`, and a message of which some fragments have
    come in `_fragmented`.
    """

    __slots__ = (
        "_abort_timer",
        "_budget",
        "_close_code",
        "_connections",
        "_deflater",
        "_discarded",
        "_fd",
        "_finished",
        "_flusher",
        "_fragmented",
        "_handler",
        "_held_back",
        "_loop",
        "_on_refused",
        "_options",
        "_overflowed",
        "_own_pending",
        "_own_waiting",
        "_paused",
        "_pending",
        "_pinged",
        "_release",
        "_socket",
        "_unread",
        "_waited",
        "_write_failed",
        "_write_limit",
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
        self._socket = socket
        self._release: Callable[[], bytes] | None = release
        self._loop = loop
        self._connections = connections
        self._flusher = flusher
        self._options = options
        self._on_refused = on_refused
        self._deflater = deflater
        self._handler: Handler | None = None
        self._write_limit = 0
        self._write_failed = False
        self._overflowed = False
        # The socket's descriptor while it may be written to directly: nothing waits before it, and no TLS is between.
        self._fd = -1
        self._pending: list[bytes] | None = None
        self._unread: bytearray | None = None
        # What is unread waits for another tick, not for more bytes.
        self._held_back = False
        self._paused = 0
        # Of what waits, at most this much is memory of this client alone; and whether what is queued holds such.
        self._own_waiting = 0
        self._own_pending = False
        # What waited when it was last looked at whether the client reads.
        self._waited = 0
        self._fragmented: FragmentedMessage | None = None
        self._budget: ControlBudget | None = None
        self._pinged = False
        self._close_code: int | None = None
        self._finished = False
        self._discarded = 0
        self._abort_timer: asyncio.TimerHandle | None = None

    def detach(self, handler: Handler, *, write_limit: int) -> None:
        """Take the accepted socket over from the endpoint, which then returns: from now on `handler` gets the events.

        The first event follows after this tick. When more than `write_limit` bytes wait for the peer after a write,
        `on_overflow` is called, once. Raises RuntimeError before `accept` and the second time.
        """
        if self._release is None:
            raise RuntimeError("detach was called before: a WebSocket is handed off once")
        early = self._release()
        self._release = None
        self._handler = handler
        self._write_limit = write_limit
        self._socket.set_protocol(self)
        self._connections.add(self)
        # From now on the first byte that waits calls pause_writing, and the last resume_writing.
        self._socket.set_write_buffer_limits(0)
        if self._socket.get_write_buffer_size() == 0:
            self.resume_writing()
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

    def send_frame(self, frame: Frame) -> None:
        """Queue `frame` for this tick's one write; nothing is sent after a close."""
        if self._finished or self._close_code is not None:
            return
        wire = frame.wire if self._deflater is None else self._deflater.wire_of_frame(frame)
        self._own_pending = True
        if self._pending is None:
            self._pending = [wire]
            self._flusher.add(self, self._loop)
        else:
            self._pending.append(wire)

    def send_batch(self, batch: Batch) -> None:
        """Write what is queued, and `batch`, now and in one piece; nothing is sent after a close."""
        wire = batch.wire if self._deflater is None else self._deflater.wire_of_batch(batch)
        if self._fd >= 0 and self._pending is None:
            try:
                sent = os.write(self._fd, wire)
            except OSError as error:
                sent = self._note_failure(error)
            if sent != len(wire):
                self._write_later(wire[sent:], own=sent > 0)
        elif not self._finished and self._close_code is None:
            pending, self._pending = self._pending, None
            if pending is None:
                self._write(wire, own=False)
            else:
                self._own_pending = False
                self._write(b"".join((*pending, wire)), own=True)

    def queue_batch(self, batch: Batch) -> None:
        """Queue `batch` for this tick's one write; nothing is sent after a close."""
        if self._finished or self._close_code is not None:
            return
        self._queue(batch.wire if self._deflater is None else self._deflater.wire_of_batch(batch))

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

    @property
    def replies_wait(self) -> bool:
        """Whether replies wait for the client, which is not read from until it has taken them."""
        return bool(self._paused & BY_REPLIES)

    def takes_replies(self) -> bool:
        """Whether replies wait and the client has taken some since the last call, so that it lives though unread."""
        before, self._waited = self._waited, self._socket.get_write_buffer_size()
        return self.replies_wait and self._waited < before

    def _let_read(self, reason: int) -> None:
        if self._paused & reason:
            self._paused &= ~reason
            if not self._paused:
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

    def flush(self) -> None:
        """Write what is queued, in one piece."""
        pending, self._pending = self._pending, None
        own, self._own_pending = self._own_pending, False
        if pending is not None and not self._socket.is_closing():
            if len(pending) == 1:
                self._write(pending[0], own=own)
            else:
                self._write(b"".join(pending), own=True)

    def _write(self, data: bytes, *, own: bool) -> None:
        """Write `data` after all that was written: the kernel takes it at once, or what it leaves waits."""
        sent = 0
        if self._fd >= 0:
            try:
                sent = os.write(self._fd, data)
            except OSError as error:
                sent = self._note_failure(error)
            if sent == len(data):
                return
        self._write_later(data[sent:], own=own or sent > 0)

    def _note_failure(self, error: OSError) -> int:
        """Nothing was written: the buffer is full, or the peer is gone, which the socket reports later."""
        self._write_failed = not isinstance(error, BlockingIOError)
        return 0

    def _write_later(self, data: bytes, *, own: bool) -> None:
        """Let `data` wait; `own`: its memory is this client's alone, as that of a reply is."""
        if self._socket.is_closing():
            return
        self._socket.write(data)
        if self._socket.get_write_buffer_size() > self._write_limit:
            self.overflow()
        if own:
            self._own_waiting += len(data)
            if not self.closing and self in self._flusher.waiting:
                self._paused |= BY_REPLIES
                self._socket.pause_reading()
                self._waited = self._socket.get_write_buffer_size()
            self._flusher.budget.add(len(data))

    def overflow(self) -> None:
        """Have the handler disconnect a client that reads too slowly, once."""
        if self._overflowed or self.closing or self._handler is None:
            return
        self._overflowed = True
        self._notify(self._handler.on_overflow)

    @property
    def closing(self) -> bool:
        """Whether the conversation is at its end, and the socket is not."""
        return self._finished or self._close_code is not None

    def abort(self) -> None:
        """Cut the socket, and drop what waits."""
        self._socket.abort()

    # What uvicorn's server asks

    def shutdown(self) -> None:
        """Close because the process stops: by the handler, or else with 1012."""
        if self._finished or self._close_code is not None or self._handler is None:
            return
        self._notify(self._handler.on_shutdown)
        self.close(1012)

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
            self._take(data)
        else:
            self._unread += data
            self._take(self._unread)

    def eof_received(self) -> None:
        """The peer writes no more: the socket is closed when what is queued has left, or cut."""
        self.abort_later()

    def pause_writing(self) -> None:
        """Bytes wait in the socket's buffer: what comes must line up behind them."""
        self._fd = -1
        self._flusher.waiting.add(self)

    @property
    def waiting_bytes(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._socket.get_write_buffer_size()

    @property
    def own_waiting_bytes(self) -> int:
        """Of these, those whose memory no other client shares, at most."""
        return min(self._own_waiting, self._socket.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Nothing waits any more."""
        self._flusher.waiting.discard(self)
        self._own_waiting = 0
        if self.replies_wait:
            self._let_read(BY_REPLIES)
            if self._handler is not None:
                self._notify(self._handler.on_drained)
        if self._finished or self._close_code is not None or self._socket.get_extra_info("sslcontext") is not None:
            return
        tcp = self._socket.get_extra_info("socket")
        self._fd = -1 if tcp is None else tcp.fileno()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        self._connections.discard(self)
        self._flusher.waiting.discard(self)
        self._finish()
        if self._close_code is not None:
            self._notify_close(self._close_code, "")
        else:
            # The kernel reports bytes that it could not deliver in time as a timeout.
            failed = self._write_failed or isinstance(exc, BrokenPipeError | TimeoutError)
            self._notify_close(1006, WRITE_ERROR if failed else "")

    # Input

    def _read_on(self) -> None:
        """Deal with what has arrived, a piece a tick, then read again."""
        self._held_back = False
        if self._unread is not None:
            self._take(self._unread)
        if not (self._paused or self._held_back or self._finished):
            self._socket.resume_reading()

    def _take(self, data: bytes | bytearray) -> None:
        """Deal with the whole frames that `data` begins with, READ_BYTES at most, and keep the rest."""
        at = 0
        while at < len(data) and not self._paused and not self._finished:
            if at >= READ_BYTES:
                self._held_back = True
                self._socket.pause_reading()
                self._loop.call_soon(self._read_on)
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
        end = frame_end(data, at, room, compression=self._deflater is not None)
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

    def _queue(self, wire: bytes) -> None:
        if self._pending is None:
            self._pending = [wire]
            self._flusher.add(self, self._loop)
        else:
            self._pending.append(wire)

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
        self._finished = True
        self._fd = -1
        self._unread = None
        self._fragmented = None

    def abort_later(self) -> None:
        """Cut the socket when the peer has had `close_seconds` for its part of the end."""
        if self._abort_timer is None:
            self._abort_timer = self._loop.call_later(self._options.close_seconds, self._socket.abort)

    def _notify_close(self, code: int, reason: str) -> None:
        handler, self._handler = self._handler, None
        if handler is not None:
            self._notify(handler.on_close, code, reason)

    def _notify(self, call: Callable[..., None], *args: object) -> None:
        try:
            call(*args)
        except Exception:
            log.exception("client_handler_failed")
            self.close(1011, "internal server error")


def linger(socket: asyncio.Transport) -> None:
    """Send FIN and go on reading: closing with unread input would reset the connection, and the answer be lost."""
    if not socket.is_closing():
        if socket.can_write_eof():
            socket.write_eof()
        socket.resume_reading()
