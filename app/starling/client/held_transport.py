"""A transport that holds frames back until the client has received its connect reply."""

from collections.abc import Callable

from starling.engine.transport import Transport
from starling.protocol.messages import Batch, Frame

# Payload bytes that may be held for one client: as many as may wait for a slow reader, by default.
HELD_BYTES = 2**20


class HeldTransport:
    """Holds frames back until the reply to `connect` is written, which must be the first that a client gets."""

    def __init__(self, transport: Transport, on_overflow: Callable[[], None]) -> None:
        """`on_overflow` is called once, when more is held than may be for one client."""
        self._held: list[Frame] = []
        self._transport = transport
        self._on_overflow = on_overflow
        self._room = HELD_BYTES

    def send_frame(self, frame: Frame) -> None:
        """Hold a frame back."""
        if self._room < 0:
            return
        self._held.append(frame)
        self._room -= len(frame.payload)
        if self._room < 0:
            self._on_overflow()

    def send_batch(self, batch: Batch) -> None:
        """Hold frames back."""
        for frame in batch.frames:
            self.send_frame(frame)

    def queue_batch(self, batch: Batch) -> None:
        """Hold frames back."""
        self.send_batch(batch)

    def release(self) -> None:
        """Send what was held; from now on the transport is used without this one."""
        for frame in self._held:
            self._transport.send_frame(frame)

    def ping(self) -> None:
        """As the transport does."""
        self._transport.ping()

    def pause_reading(self) -> None:
        """As the transport does."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """As the transport does."""
        self._transport.resume_reading()

    @property
    def replies_wait(self) -> bool:
        """As the transport has it."""
        return self._transport.replies_wait

    def takes_replies(self) -> bool:
        """As the transport has it."""
        return self._transport.takes_replies()

    def close(self, code: int, reason: str = "") -> None:
        """As the transport does; what is held is not for a client that never connected."""
        self._held.clear()
        self._transport.close(code, reason)
