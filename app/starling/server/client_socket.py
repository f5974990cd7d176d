"""The writing half of a client's socket after the hand-off, whatever its protocol: joined writes, and no task."""

import asyncio
import os
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Protocol

import structlog

from starling.engine.transport import VANISHED, WRITE_ERROR, Handler
from starling.protocol.messages import Batch, Frame
from starling.server.options import ServerOptions
from starling.server.read_turns import ReadTurns
from starling.server.waiting import SlowClient, WaitingBudget

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.server")

# What keeps a client from being read.
BY_HANDLER, BY_REPLIES = 1, 2

# The time in seconds after which writing yields to the loop, and the number of sockets between two looks at the clock.
FLUSH_SLICE = 0.005
FLUSH_BUNCH = 64

# What a refused peer may still send, so that it gets to reading the answer; then it waits to be cut.
DISCARD_BYTES = 2**20


class WaitingClient(SlowClient, Protocol):
    """A client for which bytes wait that the kernel does not take at the moment."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes that the kernel has not taken yet."""


class Flusher:
    """The sockets of one worker that have frames to write in this loop tick, or the next if there are very many.

    `waiting` are those whose kernel takes no more at the moment. `turns` is the order of those that have much to read.
    """

    __slots__ = ("_dirty", "_scheduled", "budget", "turns", "waiting")

    def __init__(self, waiting_budget_bytes: int = 0) -> None:
        """`waiting_budget_bytes` bounds what may wait for all clients; 0: no bound."""
        self.waiting: set[WaitingClient] = set()
        self.budget = WaitingBudget(self.waiting, waiting_budget_bytes)
        self.turns = ReadTurns()
        self._dirty: deque[ClientSocket] = deque()
        self._scheduled = False

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait in this process for clients that read slowly."""
        return sum(transport.waiting_bytes for transport in self.waiting)

    def add(self, transport: "ClientSocket", loop: asyncio.AbstractEventLoop) -> None:
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


class WireForm(Protocol):
    """Another form of frames than their `wire`, for the clients that have agreed to it."""

    def wire_of_frame(self, frame: Frame) -> bytes:
        """The bytes of a frame in this form."""

    def wire_of_batch(self, batch: Batch) -> bytes:
        """The bytes of a batch in this form."""


class ClientSocket(asyncio.Protocol, ABC):
    """What every Transport of our own server has in common; subclasses read, ping and close in their protocol.

    Frames may be sent before `_take_over`, and are written after it.
    """

    __slots__ = (
        "_abort_timer",
        "_close_code",
        "_connections",
        "_discarded",
        "_fd",
        "_finished",
        "_flusher",
        "_form",
        "_handler",
        "_loop",
        "_options",
        "_overflowed",
        "_own_pending",
        "_own_waiting",
        "_paused",
        "_pending",
        "_socket",
        "_waited",
        "_write_failed",
        "_write_limit",
    )

    def __init__(
        self,
        socket: asyncio.Transport,
        *,
        loop: asyncio.AbstractEventLoop,
        connections: set[object],
        flusher: Flusher,
        options: ServerOptions,
        form: WireForm | None,
    ) -> None:
        """`form` None: frames are written as their `wire`."""
        self._socket = socket
        self._loop = loop
        self._connections = connections
        self._flusher = flusher
        self._options = options
        self._form = form
        self._handler: Handler | None = None
        self._write_limit = 0
        self._write_failed = False
        self._overflowed = False
        # The socket's descriptor while it may be written to directly: nothing waits before it, and no TLS is between.
        self._fd = -1
        self._pending: list[bytes] | None = None
        self._paused = 0
        # Of what waits, at most this much is memory of this client alone; and whether what is queued holds such.
        self._own_waiting = 0
        self._own_pending = False
        # What waited when it was last looked at whether the client reads.
        self._waited = 0
        self._close_code: int | None = None
        self._finished = False
        self._discarded = 0
        self._abort_timer: asyncio.TimerHandle | None = None

    def _take_over(self, handler: Handler, write_limit: int) -> None:
        """Have `handler` get the events of the socket from now on."""
        self._handler = handler
        self._write_limit = write_limit
        self._socket.set_protocol(self)
        self._connections.add(self)
        # From now on the first byte that waits calls pause_writing, and the last resume_writing.
        self._socket.set_write_buffer_limits(0)
        if waiting := self._socket.get_write_buffer_size():
            # A response of the protocol before may wait: then that one was asked to pause, and this one is not.
            self._own_waiting = waiting
            self.pause_writing()
        else:
            self.resume_writing()

    # What subclasses define

    @abstractmethod
    def _hold_input(self) -> None:
        """Take no more input of the peer for now."""

    @abstractmethod
    def _take_input(self) -> None:
        """Take input again, in another tick."""

    @abstractmethod
    def close(self, code: int, reason: str = "") -> None:
        """Write what is queued and end the conversation; see starling.engine.transport.Transport."""

    # What the engine asks

    def send_frame(self, frame: Frame) -> None:
        """Queue `frame` for this tick's one write; nothing is sent after a close."""
        if self._finished or self._close_code is not None:
            return
        wire = frame.wire if self._form is None else self._form.wire_of_frame(frame)
        self._own_pending = True
        if self._pending is None:
            self._pending = [wire]
            self._flusher.add(self, self._loop)
        else:
            self._pending.append(wire)

    def send_batch(self, batch: Batch) -> None:
        """Write what is queued, and `batch`, now and in one piece; nothing is sent after a close."""
        wire = batch.wire if self._form is None else self._form.wire_of_batch(batch)
        if self._fd >= 0 and self._pending is None:
            try:
                sent = os.write(self._fd, wire)
            except OSError as error:
                sent = self._note_failure(error)
            if sent != len(wire):
                self._write_later(wire[sent:], own=sent > 0, single=len(batch.frames) == 1)
        elif not self._finished and self._close_code is None:
            pending, self._pending = self._pending, None
            if pending is None:
                self._write(wire, own=False, single=len(batch.frames) == 1)
            else:
                self._own_pending = False
                self._write(b"".join((*pending, wire)), own=True)

    def queue_batch(self, batch: Batch) -> None:
        """Queue `batch` for this tick's one write; nothing is sent after a close."""
        if self._finished or self._close_code is not None:
            return
        self._queue(batch.wire if self._form is None else self._form.wire_of_batch(batch))

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
                self._take_input()

    # Writing

    def _queue(self, wire: bytes) -> None:
        if self._pending is None:
            self._pending = [wire]
            self._flusher.add(self, self._loop)
        else:
            self._pending.append(wire)

    def flush(self) -> None:
        """Write what is queued, in one piece."""
        pending, self._pending = self._pending, None
        own, self._own_pending = self._own_pending, False
        if pending is not None and not self._socket.is_closing():
            if len(pending) == 1:
                self._write(pending[0], own=own, single=True)
            else:
                self._write(b"".join(pending), own=True)

    def _write(self, data: bytes, *, own: bool, single: bool = False) -> None:
        """Write `data` after all that was written: the kernel takes it at once, or what it leaves waits."""
        sent = 0
        if self._fd >= 0:
            try:
                sent = os.write(self._fd, data)
            except OSError as error:
                sent = self._note_failure(error)
            if sent == len(data):
                return
        self._write_later(data[sent:], own=own or sent > 0, single=single)

    def _note_failure(self, error: OSError) -> int:
        """Nothing was written: the buffer is full, or the peer is gone, which the socket reports later."""
        self._write_failed = not isinstance(error, BlockingIOError)
        return 0

    def _write_later(self, data: bytes, *, own: bool, single: bool = False) -> None:
        """Let `data` wait, of one frame if it is `single`; `own`: no other client shares its memory, as of a reply."""
        if self._socket.is_closing():
            return
        waited = self._socket.get_write_buffer_size()
        self._socket.write(data)
        # One large message makes nobody a slow reader: that is a client that has not taken what was before it, either.
        if (waited or not single) and self._socket.get_write_buffer_size() > self._write_limit:
            self.overflow()
        if own:
            self._own_waiting += len(data)
            if not self.closing and self in self._flusher.waiting:
                self._paused |= BY_REPLIES
                self._hold_input()
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

    @property
    def waiting_bytes(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._socket.get_write_buffer_size()

    @property
    def own_waiting_bytes(self) -> int:
        """Of these, those whose memory no other client shares, at most."""
        return min(self._own_waiting, self._socket.get_write_buffer_size())

    # Ends

    def shutdown(self) -> None:
        """Close because the process stops: by the handler, or else with 1012."""
        if self._finished or self._close_code is not None or self._handler is None:
            return
        self._notify(self._handler.on_shutdown)
        self.close(1012)

    def abort(self) -> None:
        """Cut the socket, and drop what waits."""
        self._socket.abort()

    def abort_later(self) -> None:
        """Cut the socket when the peer has had `close_seconds` for its part of the end."""
        if self._abort_timer is None:
            self._abort_timer = self._loop.call_later(self._options.close_seconds, self._socket.abort)

    def _finish(self) -> None:
        self._finished = True
        self._fd = -1

    # Events of the socket

    def pause_writing(self) -> None:
        """Bytes wait in the socket's buffer: what comes must line up behind them."""
        self._fd = -1
        self._flusher.waiting.add(self)

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
            self._notify_close(VANISHED, WRITE_ERROR if failed else "")

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
