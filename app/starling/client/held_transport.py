"""A transport that holds frames back until the client has received its connect reply."""

from starling.engine.transport import Batch, Frame, Transport


class HeldTransport:
    """Holds frames back until the reply to `connect` is written, which must be the first that a client gets."""

    def __init__(self, transport: Transport) -> None:
        self._held: list[Frame] = []
        self._transport = transport

    def send_frame(self, frame: Frame) -> None:
        """Hold a frame back."""
        self._held.append(frame)

    def send_batch(self, batch: Batch) -> None:
        """Hold frames back."""
        self._held += batch.frames

    def queue_batch(self, batch: Batch) -> None:
        """Hold frames back."""
        self._held += batch.frames

    def release(self) -> Transport:
        """Send what was held, and give the transport back."""
        for frame in self._held:
            self._transport.send_frame(frame)
        return self._transport

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
