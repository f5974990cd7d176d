"""Tickets of a single process."""

import secrets
from collections.abc import Callable

from starling.clocks import steady_clock


class MemoryTickets:
    """Implements starling.engine.small_stores.TicketStore. `clock` is in seconds; the clock never goes back.

    `check` raises BrokerUnavailable while nothing may be read or changed.
    """

    def __init__(self, clock: Callable[[], float] = steady_clock, *, check: Callable[[], None] = lambda: None) -> None:
        self._check = check
        self._clock = clock
        self._kept: dict[str, tuple[float, bytes]] = {}
        self._key = secrets.token_bytes(32)

    async def keep(self, digest: str, content: bytes, seconds: float) -> None:
        """Keep what a ticket grants for so long."""
        self._check()
        now = self._clock()
        self._kept = {each: kept for each, kept in self._kept.items() if kept[0] > now}
        self._kept[digest] = (now + seconds, content)

    async def spend(self, digest: str) -> bytes | None:
        """Return what a ticket grants and forget it; None where it is unknown, spent or over."""
        self._check()
        ends_at, content = self._kept.pop(digest, (0.0, b""))
        return content if ends_at > self._clock() else None

    async def signing_key(self) -> bytes:
        """The secret that this process signs with."""
        return self._key
