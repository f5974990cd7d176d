"""A clock that a test turns forward: `time.time`, `time.monotonic` and, with them, the timers of the event loop."""

import asyncio
import time

# The service looks at what is due once a second; larger steps would look like an event loop that stood still.
_STEP = 1.0
_MOST_STEPS = 1000
# The last second is turned in steps that are no delay at all.
_FINE_STEP = 0.1
# Turns of the event loop in which what was due is done.
_SETTLE_TURNS = 10


class TurnedClock:
    """The clock of this process, which runs on between the calls of `turn`. `stop` restores the real one."""

    def __init__(self) -> None:
        self.ahead = 0.0
        """Seconds that it was turned."""
        self._real_time = time.time
        self._real_monotonic = time.monotonic
        self._turns = False

    async def turn(self, seconds: float) -> None:
        """Turn it forward, and let everything happen that is due until then.

        Raises ValueError for a negative number, RuntimeError on an event loop with a clock of its own, such as uvloop.
        """
        if not seconds >= 0:
            raise ValueError(f"turn({seconds!r}): give a number of seconds from 0 on")
        self._begin()
        end = self.ahead + seconds
        step = max(_STEP, seconds / _MOST_STEPS)
        while self.ahead < end:
            left = end - self.ahead
            self.ahead += min(left, min(step, left - _STEP) if left > 2 * _STEP else _FINE_STEP)
            await settle()

    def stop(self) -> None:
        """Restore the real clock. The timers of the running event loop keep theirs, so that none waits anew."""
        if not self._turns:
            return
        self._turns = False
        time.time, time.monotonic = self._real_time, self._real_monotonic
        loop, ahead, real = asyncio.get_running_loop(), self.ahead, self._real_monotonic
        loop.time = lambda: real() + ahead  # type: ignore[method-assign]

    def _begin(self) -> None:
        if self._turns:
            return
        if not isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
            problem = "turn() needs asyncio's own event loop: the clock of this one cannot be turned"
            raise RuntimeError(problem)  # noqa: TRY004 - the caller gave no argument of that type
        self._turns = True
        self._real_time, self._real_monotonic = time.time, time.monotonic
        time.time = lambda: self._real_time() + self.ahead
        time.monotonic = lambda: self._real_monotonic() + self.ahead


async def settle() -> None:
    """Let what is ready happen, and what follows from it."""
    for _ in range(_SETTLE_TURNS):
        await asyncio.sleep(0)
