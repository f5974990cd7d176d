"""One client's WebSocket after the hand-off: frames in, frames out, and no task, queue or scope in between."""

import asyncio
from collections.abc import Callable

import structlog
from websockets.frames import Close, Opcode
from websockets.frames import Frame as PeerFrame
from websockets.protocol import State
from websockets.server import ServerProtocol

from app.core.transport import Frame, Handler
from app.server.assembly import MessageAssembler, PeerError
from app.server.options import ServerOptions
from app.server.refusal import Refusal

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.server")

PING = b"\x89\x00"
# A loop tick reads at most this much of one client, so that a flood of tiny frames shares the loop.
READ_BYTES = 16384
# A close frame holds 125 bytes, two of them the code (RFC 6455 section 5.5).
REASON_BYTES = 123

# What a refused peer may still send, so that it gets to reading the answer; then it waits to be cut.
DISCARD_BYTES = 2**20

REFUSALS = {
    1002: Refusal.PROTOCOL_ERROR,
    1007: Refusal.INVALID_UTF8,
    1008: Refusal.CONTROL_FLOOD,
    1009: Refusal.MESSAGE_TOO_LARGE,
}


class Flusher:
    """The sockets of one worker that have frames to write in this loop tick."""

    __slots__ = ("_dirty",)

    def __init__(self) -> None:
        self._dirty: list[WebSocketTransport] = []

    def add(self, transport: "WebSocketTransport", loop: asyncio.AbstractEventLoop) -> None:
        """Write what `transport` has queued when this tick's callbacks have run."""
        if not self._dirty:
            loop.call_soon(self._flush)
        self._dirty.append(transport)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for transport in dirty:
            transport.flush()


class WebSocketTransport(asyncio.Protocol):
    """A Transport over one socket, found in the ASGI scope as the extension `starling.websocket`.

    The endpoint accepts, calls `detach` and returns. Frames may be sent before that, and are written after it.
    """

    __slots__ = (
        "_abort_timer",
        "_assembler",
        "_close_code",
        "_connections",
        "_discarded",
        "_events",
        "_finished",
        "_flusher",
        "_handler",
        "_loop",
        "_on_refused",
        "_options",
        "_overflowed",
        "_parser",
        "_paused",
        "_pending",
        "_pinged",
        "_release",
        "_socket",
        "_unread",
        "_write_limit",
    )

    def __init__(
        self,
        socket: asyncio.Transport,
        parser: ServerProtocol,
        release: Callable[[], bytes],
        *,
        loop: asyncio.AbstractEventLoop,
        connections: set[object],
        flusher: Flusher,
        options: ServerOptions,
        on_refused: Callable[[str], None],
    ) -> None:
        """`release` is called once by `detach`: it gives the socket up and returns what was read too early."""
        self._socket = socket
        self._parser = parser
        self._release: Callable[[], bytes] | None = release
        self._loop = loop
        self._connections = connections
        self._flusher = flusher
        self._options = options
        self._on_refused = on_refused
        self._handler: Handler | None = None
        self._write_limit = 0
        self._overflowed = False
        self._pending: list[bytes] = []
        self._unread = b""
        self._events: list[PeerFrame] = []  # the next one last
        self._paused = False
        self._assembler = MessageAssembler(options.max_fragments)
        self._pinged = False
        self._close_code: int | None = None
        self._finished = False
        self._discarded = 0
        self._abort_timer: asyncio.TimerHandle | None = None

    def detach(self, handler: Handler, *, write_limit: int) -> None:
        """Take the accepted socket over from the endpoint, which then returns: from now on `handler` is told.

        Nothing is told before this tick's end. More than `write_limit` bytes waiting for the peer after a write are
        told as `on_overflow`, once. Raises RuntimeError before `accept` and the second time.
        """
        if self._release is None:
            raise RuntimeError("detach was called before: a WebSocket is handed off once")
        early = self._release()
        self._release = None
        self._handler = handler
        self._write_limit = write_limit
        self._socket.set_protocol(self)
        self._connections.add(self)
        self._unread = early
        self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        if self._socket.is_closing():
            # It may have been lost before the hand-off, and that is told only once.
            self.connection_lost(None)
        else:
            self._read_on()

    # What the engine asks

    def send_frame(self, frame: Frame) -> None:
        """Queue `frame` for this tick's one write; nothing is sent after a close."""
        if self._finished or self._close_code is not None:
            return
        if not self._pending:
            self._flusher.add(self, self._loop)
        self._pending.append(frame.wire)

    def ping(self) -> None:
        """Queue a ping; the next pong is told as its answer."""
        if self._finished or self._close_code is not None:
            return
        self._pinged = True
        if not self._pending:
            self._flusher.add(self, self._loop)
        self._pending.append(PING)

    def pause_reading(self) -> None:
        """Tell the handler of no more messages, and read no more, until `resume_reading`."""
        self._paused = True
        self._socket.pause_reading()

    def resume_reading(self) -> None:
        """Read again, beginning with what is here already, after this tick."""
        if self._paused:
            self._paused = False
            self._loop.call_soon(self._read_on)

    def close(self, code: int, reason: str = "") -> None:
        """Write what is queued and a close frame, then wait `close_seconds` at most for the peer's.

        A `reason` is cut to 123 bytes. Raises websockets' ProtocolError for a code that may not be sent.
        """
        if self._finished or self._close_code is not None:
            return
        # Else the peer's own close frame or failure is among what is still to be dealt with.
        if self._parser.state is State.OPEN:
            self._parser.send_close(code, reason.encode()[:REASON_BYTES].decode(errors="ignore"))
        self._close_code = code
        self.flush()
        self._write_answers()
        self._abort_later()
        # The peer's close frame is wanted, whatever the handler wanted.
        self.resume_reading()

    def flush(self) -> None:
        """Write what is queued, in one piece."""
        pending = self._pending
        if not pending or self._socket.is_closing():
            pending.clear()
            return
        self._socket.write(pending[0] if len(pending) == 1 else b"".join(pending))
        pending.clear()
        self._check_write_buffer()

    def _check_write_buffer(self) -> None:
        if (
            not self._overflowed
            and not self._finished
            and self._close_code is None
            and self._handler is not None
            and self._socket.get_write_buffer_size() > self._write_limit
        ):
            self._overflowed = True
            self._tell(self._handler.on_overflow)

    # What uvicorn's server asks

    def shutdown(self) -> None:
        """Let the client go, by the handler's own word or else with 1012."""
        if self._finished or self._close_code is not None or self._handler is None:
            return
        self._tell(self._handler.on_shutdown)
        self.close(1012)

    # What the socket tells

    def data_received(self, data: bytes) -> None:
        """Take a piece of input."""
        if self._finished:
            self._discarded += len(data)
            if self._discarded > DISCARD_BYTES:
                self._socket.pause_reading()
            return
        if self._paused or self._unread or self._events or len(data) > READ_BYTES:
            self._unread += data
            self._socket.pause_reading()
            self._loop.call_soon(self._read_on)
        else:
            self._parse(data)

    def eof_received(self) -> None:
        """The peer writes no more: the socket is closed when what is queued has left, or cut."""
        self._abort_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        self._connections.discard(self)
        self._finish()
        self._tell_close(self._close_code or 1006, "")

    # Input

    def _read_on(self) -> None:
        """Deal with what has arrived, a piece a tick, then read again."""
        if not self._deal():
            return
        if self._unread:
            piece, self._unread = self._unread[:READ_BYTES], self._unread[READ_BYTES:]
            self._parse(piece)
            self._loop.call_soon(self._read_on)
        else:
            self._socket.resume_reading()

    def _parse(self, data: bytes) -> None:
        self._parser.receive_data(data)
        self._events = self._parser.events_received()  # type: ignore[assignment]  # the request came before these
        self._events.reverse()
        self._deal()

    def _deal(self) -> bool:
        """Handle the frames that are here; False if there shall be no more."""
        while self._events and not self._paused and not self._finished:
            self._handle(self._events.pop())
        if self._paused or self._finished:
            return False
        if self._parser.parser_exc is not None:
            sent = self._parser.close_sent
            self._fail(sent.code if sent else 1011, sent.reason if sent else "")
            return False
        self._write_answers()
        return True

    def _handle(self, frame: PeerFrame) -> None:
        try:
            if frame.opcode is Opcode.CLOSE:
                self._answer_close()
            elif frame.opcode is Opcode.PING:
                self._assembler.spend_control(self._loop.time())
            elif frame.opcode is Opcode.PONG:
                self._assembler.spend_control(self._loop.time())
                if self._pinged and self._handler is not None:
                    self._pinged = False
                    self._tell(self._handler.on_pong)
            else:
                message = self._assembler.take_data(frame, self._loop.time())
                if message is not None and self._close_code is None and self._handler is not None:
                    self._tell(self._handler.on_message, message)
        except PeerError as error:
            self._fail(error.code, error.reason)

    # Ends

    def _answer_close(self) -> None:
        received = self._parser.close_rcvd or Close(1005, "")
        self._finish()
        self._pending.clear()
        self._write_answers()
        self._abort_later()
        self._socket.close()
        self._tell_close(received.code, received.reason)

    def _fail(self, code: int, reason: str) -> None:
        """Fail the connection (RFC 6455 section 7.1.7): a close frame, a grace to read it, and no more input."""
        self._on_refused(REFUSALS.get(code, Refusal.PROTOCOL_ERROR))
        log.debug("client_cut", code=code, reason=reason)
        self._finish()
        self.flush()
        if self._parser.parser_exc is None:
            self._parser.data_to_send()  # pongs to a flood of pings
            self._parser.fail(code, reason)
        self._write_answers()
        linger(self._socket)
        self._abort_later()
        self._tell_close(code, reason)

    def _finish(self) -> None:
        self._finished = True
        self._events.clear()
        self._unread = b""

    def _write_answers(self) -> None:
        """Write the parser's pongs and close frames."""
        answers = b"".join(self._parser.data_to_send())
        if answers and not self._socket.is_closing():
            self._socket.write(answers)
            self._check_write_buffer()

    def _abort_later(self) -> None:
        if self._abort_timer is None:
            self._abort_timer = self._loop.call_later(self._options.close_seconds, self._socket.abort)

    def _tell_close(self, code: int, reason: str) -> None:
        handler, self._handler = self._handler, None
        if handler is not None:
            self._tell(handler.on_close, code, reason)

    def _tell(self, call: Callable[..., None], *args: object) -> None:
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
