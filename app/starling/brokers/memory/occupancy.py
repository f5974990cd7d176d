"""Occupancy in memory, for the broker of a single process."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from starling.clocks import steady_clock
from starling.engine.occupancy import LEASE_SHARE, OccupancyChange
from starling.engine.presence import DEFAULT_TTL


@dataclass(slots=True)
class _Holder:
    deadline: float = 0.0
    number: int = 0
    answer: OccupancyChange | None = None
    channels: set[str] = field(default_factory=set)


class MemoryOccupancy:
    """Implements starling.engine.occupancy.OccupancyStore.

    `ttl` and `clock` are in seconds; the clock never goes back.
    """

    def __init__(self, ttl: float = DEFAULT_TTL, clock: Callable[[], float] = steady_clock) -> None:
        self.ttl = ttl
        self._clock = clock
        self._holders: dict[str, _Holder] = {}
        self._counts: Counter[str] = Counter()
        self._revision = 0

    async def change(
        self, holder: str, number: int, *, enter: Sequence[str] = (), leave: Sequence[str] = ()
    ) -> OccupancyChange | None:
        """Hold, leave and stay alive, as the contract says."""
        now = self._clock()
        known = self._holders.get(holder)
        if known is not None and known.number == number:
            return known.answer
        if known is None:
            if number != 1:
                return None
            known = self._holders[holder] = _Holder()
        elif known.number != number - 1 or known.deadline <= now:
            return None
        known.deadline = now + self.ttl * LEASE_SHARE
        occupied = [channel for channel in enter if self._enter(known, channel)]
        vacated = [channel for channel in leave if self._leave(known, channel)]
        for name, other in list(self._holders.items()):
            if other.deadline <= now:
                vacated += [channel for channel in sorted(other.channels) if self._leave(other, channel)]
                del self._holders[name]
        self._revision += 1
        known.number, known.answer = number, OccupancyChange(occupied, vacated, self._revision)
        return known.answer

    def _enter(self, holder: _Holder, channel: str) -> bool:
        if channel in holder.channels:
            return False
        holder.channels.add(channel)
        self._counts[channel] += 1
        return self._counts[channel] == 1

    def _leave(self, holder: _Holder, channel: str) -> bool:
        if channel not in holder.channels:
            return False
        holder.channels.remove(channel)
        self._counts[channel] -= 1
        if self._counts[channel]:
            return False
        del self._counts[channel]
        return True
