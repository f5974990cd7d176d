"""Whether one more client may come in, decided before any work is done for it."""

import random
from dataclasses import dataclass

from app.core.hub import Hub
from app.core.readiness import Readiness, Unready


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a client is turned away, and after how many seconds it should try again."""

    reason: str
    message: str
    retry_after: int


class Admission:
    """Turns clients away while this worker drains or is full. `capacity` 0: bounded by open files only."""

    def __init__(self, hub: Hub, readiness: Readiness, capacity: int) -> None:
        self._hub = hub
        self._readiness = readiness
        self._capacity = capacity

    @property
    def full(self) -> bool:
        """True when no further client fits."""
        return bool(self._capacity) and len(self._hub.connections) >= self._capacity

    def refusal(self) -> Refusal | None:
        """None lets the client in. The times to come back are spread, so that a crowd does not return as one."""
        if self._readiness.draining:
            return Refusal("draining", "this server is stopping; connect again", _between(1, 5))
        if self.full:
            return Refusal("capacity", "this server is full; try again", _between(5, 30))
        return None

    def update(self) -> None:
        """Tell readiness whether there is room; once a second."""
        if self.full:
            self._readiness.hold(Unready.AT_CAPACITY)
        else:
            self._readiness.release(Unready.AT_CAPACITY)


def _between(least: int, most: int) -> int:
    return random.randint(least, most)  # noqa: S311 - spreads a crowd, hides nothing
