"""What stands in the place of a client's socket until it is decided how its request is answered."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from starling.engine.transport import VANISHED, Transport
from starling.protocol.codes import DISCONNECT_CODES, DISCONNECT_CONNECTION_CLOSED, Disconnect, Error
from starling.protocol.messages import Batch, Frame

# An accepted client whose socket is not there after this time has left. Seconds.
OPEN_SECONDS = 10.0


class Answer(Protocol):
    """The two answers to the request of a client that only reads. One of them is given, once."""

    def accept(self) -> None:
        """Begin the response, whose server then opens the connection again, with its socket."""

    def refuse(self, reason: Error | Disconnect) -> None:
        """Answer with a status and the reason."""


class PendingTransport:
    """A Transport that keeps frames until the response has begun, and from then on passes them to the socket."""

    __slots__ = ("_answer", "_frames", "_on_close", "_timer", "accepted", "socket")

    def __init__(self, answer: Answer, on_close: Callable[[int, str], None]) -> None:
        """`on_close` is called once where there will be no socket."""
        # Kept until it is given: it holds the request.
        self._answer: Answer | None = answer
        self.accepted = False
        """Whether the response has begun."""
        self._frames: list[Frame] = []
        self._on_close = on_close
        self._timer: asyncio.TimerHandle | None = None
        self.socket: Transport | None = None

    def accept(self) -> None:
        """Begin the response; nothing, if it has begun."""
        answer, self._answer = self._answer, None
        if answer is None:
            return
        self.accepted = True
        answer.accept()
        if self.socket is None:
            # A client that left meanwhile gets none.
            self._timer = asyncio.get_running_loop().call_later(OPEN_SECONDS, self._on_close, VANISHED, "")

    def refuse(self, reason: Error | Disconnect) -> bool:
        """Answer with a status; False where the response has begun."""
        answer, self._answer = self._answer, None
        if answer is None:
            return False
        answer.refuse(reason)
        return True

    def take_over(self, socket: Transport) -> None:
        """Pass everything to `socket` from now on, with what was kept."""
        if self._timer is not None:
            self._timer.cancel()
        self.socket = socket
        frames, self._frames = self._frames, []
        for frame in frames:
            socket.send_frame(frame)

    def send_frame(self, frame: Frame) -> None:
        """Send a frame, or keep it."""
        if self.socket is None:
            self._frames.append(frame)
        else:
            self.socket.send_frame(frame)

    def send_batch(self, batch: Batch) -> None:
        """Send frames, or keep them."""
        self.queue_batch(batch)

    def queue_batch(self, batch: Batch) -> None:
        """Send frames, or keep them."""
        for frame in batch.frames:
            self.send_frame(frame)

    def ping(self) -> None:
        """As the socket does."""
        if self.socket is not None:
            self.socket.ping()

    def pause_reading(self) -> None:
        """As the socket does."""
        if self.socket is not None:
            self.socket.pause_reading()

    def resume_reading(self) -> None:
        """As the socket does."""
        if self.socket is not None:
            self.socket.resume_reading()

    @property
    def replies_wait(self) -> bool:
        """As the socket has it."""
        return self.socket is not None and self.socket.replies_wait

    def takes_replies(self) -> bool:
        """As the socket has it; a client without one waits."""
        return self.socket is None or self.socket.takes_replies()

    def close(self, code: int, reason: str = "") -> None:
        """As the socket does; a response that has not begun is a refusal."""
        if self.socket is not None:
            self.socket.close(code, reason)
            return
        self.refuse(Disconnect(code, reason) if code in DISCONNECT_CODES else DISCONNECT_CONNECTION_CLOSED)
        self._frames.clear()
        if self._timer is not None:
            self._timer.cancel()
        asyncio.get_running_loop().call_soon(self._on_close, code, reason)
