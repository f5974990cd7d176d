"""Contracts of small stores that a broker may keep: turns of drains, and one-time tickets."""

from typing import Protocol


class DrainRateStore(Protocol):
    """Gives turns one after the other over all processes: a generic cell rate algorithm without a burst."""

    async def reserve(self, count: int, per_second: float) -> float:
        """Take the next `count` turns of all processes; returns the seconds from now until they begin.

        They last `count / per_second` seconds, in which no other process has a turn. Unused turns are lost. Raises
        BrokerUnavailable; the turns may be taken even so.
        """


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
