"""One client's streamed response after the hand-off: chunks out, the end of the client in, and nothing in between."""

import asyncio
import socket as sockets
import sys
from collections.abc import Callable

from starling.engine.direct_request import StreamResponse
from starling.protocol.messages import Batch, Frame
from starling.server.client_socket import BY_REPLIES, DISCARD_BYTES, ClientSocket, Flusher, linger
from starling.server.options import ServerOptions
from starling.server.service import RejectReason

# RFC 9112 section 7.1: a chunk of no bytes, and no trailer fields, end the response.
LAST_CHUNK = b"0\r\n\r\n"
# Where Linux's `struct tcp_info` has `tcpi_unacked`, in segments, and `tcpi_last_ack_recv`, in milliseconds.
_UNACKNOWLEDGED, _LAST_ACK = slice(24, 28), slice(56, 60)
_TCP_INFO: int | None = getattr(sockets, "TCP_INFO", None)


class Unchunked:
    """The form of frames for clients of HTTP/1.0, which know no chunks: their response ends with the connection."""

    def wire_of_frame(self, frame: Frame) -> bytes:
        """The payload."""
        return frame.payload

    def wire_of_batch(self, batch: Batch) -> bytes:
        """The payloads."""
        return b"".join([frame.payload for frame in batch.frames])


_UNCHUNKED = Unchunked()


class StreamTransport(ClientSocket):
    """A Transport that writes the response to one request, and nothing after it on this connection.

    Its client sends nothing more here. One that ends its side has left, as a client that vanishes does.
    """

    __slots__ = ("_on_refused",)

    def __init__(
        self,
        socket: asyncio.Transport,
        *,
        loop: asyncio.AbstractEventLoop,
        connections: set[object],
        flusher: Flusher,
        options: ServerOptions,
        on_refused: Callable[..., None],
        chunked: bool,
    ) -> None:
        """`chunked`: the client knows chunks, as every client of HTTP/1.1 does."""
        form = None if chunked else _UNCHUNKED
        super().__init__(socket, loop=loop, connections=connections, flusher=flusher, options=options, form=form)
        self._on_refused = on_refused

    def detach(self, response: StreamResponse, head: bytes) -> None:
        """Take the socket over, and begin `response`.

        `head` lacks the fields of the body, and the empty line. When more bytes wait for the peer after a write than
        the response allows, `on_overflow` is called, once.
        """
        connection, beginning = response.connection, response.beginning
        self._take_over(connection, response.write_limit)
        if self._form is None:
            chunk = b"%x\r\n%b\r\n" % (len(beginning), beginning) if beginning else b""
            self._queue(b"%btransfer-encoding: chunked\r\n\r\n%b" % (head, chunk))
        else:
            self._queue(b"%b\r\n%b" % (head, beginning))
        connection.open(self, response.address)
        # uvicorn pauses reading where more requests follow than it has answered.
        self._socket.resume_reading()
        if self._socket.is_closing():
            # It may have been lost before the hand-off, and asyncio calls connection_lost only once.
            self._loop.call_soon(self.connection_lost, None)
        self._notify(connection.begin)

    def ping(self) -> None:
        """Do nothing: what keeps a stream alive is a frame of its own."""

    def pause_reading(self) -> None:
        """Do nothing: the client's commands come by other requests."""

    def resume_reading(self) -> None:
        """Have the handler go on, after this tick, with the commands that wait there."""
        self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._handler is not None:
            self._notify(self._handler.on_drained)

    def takes_replies(self) -> bool:
        """Whether the client lives though nothing is read of it: its host acknowledges what was written last.

        Waiting replies that the client takes are that, too.
        """
        return super().takes_replies() or self._is_acknowledged()

    def close(self, code: int, reason: str = "") -> None:
        """Write what is queued, and end the response; the socket is cut `close_seconds` later at most."""
        if self._finished or self._close_code is not None:
            return
        if self._form is None:
            self._queue(LAST_CHUNK)
        self._close_code = code
        self.flush()
        self._fd = -1
        self._let_read(BY_REPLIES)
        linger(self._socket)
        self.abort_later()

    # Events of the socket

    def data_received(self, data: bytes) -> None:
        """Discard what a client sends after its request, of which there is no use, and cut one that sends much."""
        self._discarded += len(data)
        if self._discarded > DISCARD_BYTES:
            self._on_refused(RejectReason.PROTOCOL_ERROR, detail="a client sends on while its response is streamed")
            self.abort()

    def eof_received(self) -> None:
        """The client has left: the socket is closed when what is queued has left, or cut."""
        self._finish()
        self.abort_later()

    # What the base class asks

    def _hold_input(self) -> None:
        """Read on, so that the end of the client shows."""

    def _take_input(self) -> None:
        """Do nothing: reading has not stopped."""

    def _is_acknowledged(self) -> bool:
        """Whether the client's host has acknowledged all that was written, or something of it just now."""
        tcp = self._socket.get_extra_info("socket")
        if _TCP_INFO is None or tcp is None:
            return True
        try:
            report: bytes = tcp.getsockopt(sockets.IPPROTO_TCP, _TCP_INFO, _LAST_ACK.stop)
        except OSError:
            # A socket of another family; its peer is on this host.
            return True
        if not any(report[_UNACKNOWLEDGED]):
            return True
        return int.from_bytes(report[_LAST_ACK], sys.byteorder) < self._options.acknowledge_seconds * 1000
