"""One timer wheel for all connections: who is due in which second."""

from collections.abc import Callable
from math import ceil
from typing import Protocol

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.wheel")


class Timed(Protocol):
    """What a wheel turns."""

    slot: int

    def tick(self, now: float) -> float:
        """Do what is due at `now`, and return when the next is; seconds on the wheel's clock."""


class Wheel:
    """Ticks each of its items at the second it asked for, or up to a second later.

    What is further away than the wheel reaches is looked at once a turn. `turn`, once a second, drives it.
    """

    SECONDS = 64

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._slots: list[set[Timed]] = [set() for _ in range(self.SECONDS)]
        self._turned_to = int(clock())

    def schedule(self, item: Timed, deadline: float) -> None:
        """Tick `item` at `deadline`, and not when it was scheduled before."""
        self.remove(item)
        reach = self._turned_to + self.SECONDS - 1
        second = max(self._turned_to + 1, ceil(deadline) if deadline < reach else reach)
        item.slot = second % self.SECONDS
        self._slots[item.slot].add(item)

    def remove(self, item: Timed) -> None:
        """Tick `item` no more."""
        if item.slot >= 0:
            self._slots[item.slot].discard(item)
            item.slot = -1

    def turn(self) -> None:
        """Tick what is due by now; what raises is logged, and ticked no more."""
        now = self._clock()
        while self._turned_to < int(now):
            self._turned_to += 1
            slot = self._turned_to % self.SECONDS
            due, self._slots[slot] = self._slots[slot], set()
            for item in due:
                if item.slot == slot:
                    item.slot = -1
                    # The second it is due in, so that lateness does not add up; but not long past, after a standstill.
                    try:
                        deadline = item.tick(max(float(self._turned_to), now - 1))
                    except Exception:
                        # The others are due all the same.
                        log.exception("tick_failed")
                        continue
                    if item.slot < 0:
                        self.schedule(item, deadline)
