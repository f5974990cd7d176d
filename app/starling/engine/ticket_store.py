"""The contract of what keeps one-time tickets: each is spent once, over all processes."""

from typing import Protocol


class TicketStore(Protocol):
    """Keeps tickets by their digests, so that nobody who reads the store can use one.

    Each call may raise BrokerUnavailable.
    """

    async def keep(self, digest: str, content: bytes, seconds: float) -> None:
        """Keep what a ticket grants for so long."""

    async def spend(self, digest: str) -> bytes | None:
        """Return what a ticket grants and forget it, in one step; None where it is unknown, spent or over."""

    async def signing_key(self) -> bytes:
        """The secret that all processes sign with: made by the first that asks, 32 bytes."""
