"""The circuit breaker of a backend: after failures in a row it is left alone for a while, and then tried once."""

import time
from collections.abc import Callable

# Failures in a row that open it, and how long it stays open, in seconds; each failed trial doubles that.
FAILURES = 5
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 15.0


class CircuitBreaker:
    """Closed, it admits every call. Open, it admits none until its pause is over, then one at a time as a trial."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._pause = FIRST_PAUSE
        self._closed_from = 0.0
        self._trying = False

    @property
    def open(self) -> bool:
        """Whether the backend counts as away."""
        return self._failures >= FAILURES

    def admits(self) -> bool:
        """Whether a call may begin; then exactly one of `succeeded`, `failed` and `abandoned` must follow."""
        if not self.open:
            return True
        if self._trying or self._clock() < self._closed_from:
            return False
        self._trying = True
        return True

    def succeeded(self) -> bool:
        """The backend replied; True where it was away until now."""
        was_open = self.open
        self._failures, self._pause, self._trying = 0, FIRST_PAUSE, False
        return was_open

    def failed(self) -> bool:
        """A call failed; True where the backend counts as away from now on."""
        was_open = self.open
        self._failures += 1
        if was_open and not self._trying:
            # It began before the circuit opened, and says nothing new.
            return False
        if was_open:
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
        self._trying = False
        if self.open:
            self._closed_from = self._clock() + self._pause
        return self.open and not was_open

    def abandoned(self) -> None:
        """A call ended without any outcome, because its task was cancelled."""
        self._trying = False
