"""The drain rate of a single process."""

from collections.abc import Callable

from starling.clocks import steady_clock


class MemoryDrainRate:
    """Implements starling.engine.small_stores.DrainRateStore."""

    def __init__(self, clock: Callable[[], float] = steady_clock) -> None:
        self._clock = clock
        self._free_at = 0.0

    async def reserve(self, count: int, per_second: float) -> float:
        """Take the next `count` turns; returns the seconds until they begin."""
        now = self._clock()
        turn = max(self._free_at, now)
        self._free_at = turn + count / per_second
        return turn - now
