"""The seam between a client's socket and the engine: what may be written, and what the socket reports."""

from typing import Protocol

from starling.protocol.messages import Batch, Frame

# Where an ASGI scope offers the Transport of a server that hands its sockets over.
EXTENSION = "starling.websocket"
WRITE_ERROR = "write error"
# RFC 6455 section 7.4.1: this code is never sent, so to close with it is to end without a close frame.
NO_CLOSE_FRAME = 1006
# RFC 6455 section 7.1.5: the code of a connection that ended without one.
VANISHED = NO_CLOSE_FRAME


class Transport(Protocol):
    """One client's socket, from the moment the upgrade was accepted. No method waits, none raises for a lost peer."""

    def send_frame(self, frame: Frame) -> None:
        """Queue `frame`; the frames of one loop tick leave in one write, in the order they were queued."""

    def send_batch(self, batch: Batch) -> None:
        """Write what is queued and then `batch`, at once."""

    def queue_batch(self, batch: Batch) -> None:
        """Queue `batch`, as its frames would be one by one."""

    def ping(self) -> None:
        """Send a WebSocket ping; the handler's `on_pong` receives the pong."""

    def pause_reading(self) -> None:
        """Take no more input from the peer until `resume_reading`."""

    def resume_reading(self) -> None:
        """Take input again."""

    @property
    def replies_wait(self) -> bool:
        """Whether replies wait for a peer that reads slowly; it is not read from, and `on_drained` follows."""

    def takes_replies(self) -> bool:
        """Whether replies wait and the peer has taken some since the last call, so that it lives though unread."""

    def close(self, code: int, reason: str = "") -> None:
        """Write what is queued, then a close frame; the socket is cut after a grace if the peer does not answer.

        With the code NO_CLOSE_FRAME the socket is closed without one, and its peer sees a lost connection.
        The handler's `on_close` is called once, with this code if the peer gave none.
        """


class Handler(Protocol):
    """What a Transport calls. Every method is called from the event loop and must return at once."""

    def on_message(self, message: str | bytes) -> None:
        """One whole message arrived, text as `str`."""

    def on_pong(self) -> None:
        """The peer answered a ping."""

    def on_overflow(self) -> None:
        """More bytes wait for this peer than the write limit allows: it reads too slowly."""

    def on_drained(self) -> None:
        """The peer has taken all replies that waited."""

    def on_shutdown(self) -> None:
        """This process stops: close with the code of the endpoint (1012, or 3001 on the client endpoint)."""

    def on_close(self, code: int, reason: str) -> None:
        """The connection has ended; called exactly once. 1005: the peer gave no code, VANISHED: it sent no close frame.

        With VANISHED the reason is WRITE_ERROR where that showed when it was written to.
        """
