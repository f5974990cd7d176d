"""Time in one worker: what runs every second, what runs every few seconds, and how late the event loop is."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import structlog

from starling.clocks import steady_clock
from starling.engine.tasks import Tasks
from starling.engine.timer_wheel import Timed, Wheel
from starling.telemetry.metrics import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.clock")

TURN_SECONDS = 1.0
LAG_INTERVAL = 0.1
# The metric is the worst of this many turns: a reader every 15 s, as Prometheus is with the chart, misses no delay.
LAG_TURNS_REPORTED = 15


class Turn(NamedTuple):
    """The second that has passed: its real length and the event loop's worst delay in it, both in seconds."""

    seconds: float
    lag: float


class Periodic(NamedTuple):
    """Work that is repeated every `seconds`, a little earlier at random so that workers do not act as one."""

    seconds: float
    work: Callable[[], Awaitable[None]]


class Clock:
    """Turns a timer wheel and calls `each_second`; both run between `start` and the end of `tasks`."""

    def __init__(
        self, tasks: Tasks, *, each_second: Sequence[Callable[[Turn], None]], periodic: Sequence[Periodic] = ()
    ) -> None:
        self.lag_seconds = 0.0
        """The event loop's worst delay in the last second."""
        self._lags: deque[float] = deque(maxlen=LAG_TURNS_REPORTED)
        # The last time that the event loop stood still: its begin, and the end of what may have waited for it.
        self._stalled_from = self._stalled_until = 0.0
        self._tasks = tasks
        self._each_second = each_second
        self._periodic = periodic
        self._wheel = Wheel(steady_clock)
        self._running: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, on the running event loop."""
        self._running = [self._tasks.start(self._run())]
        self._running += [self._tasks.start(self._repeat(each)) for each in self._periodic]

    def stop(self) -> None:
        """End."""
        for task in self._running:
            task.cancel()

    def schedule(self, item: Timed, deadline: float) -> None:
        """Call `item.tick` at `deadline`, in seconds of `time.monotonic`, or up to a second later."""
        self._wheel.schedule(item, deadline)

    def remove(self, item: Timed) -> None:
        """Call `item.tick` no more."""
        self._wheel.remove(item)

    def arrival(self, received_at: float) -> float:
        """The earliest time at which something may have arrived that was received at `received_at`.

        Both are on the clock of `time.monotonic`. While the event loop stands still, what arrives waits unread.
        """
        return min(received_at, self._stalled_from) if received_at < self._stalled_until else received_at

    def report(self, metrics: Metrics) -> None:
        """Set the metric of the event loop's delay."""
        metrics.set("starling_event_loop_lag_seconds", max(self._lags, default=0.0))

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            worst, began = 0.0, loop.time()
            while (before := loop.time()) < began + TURN_SECONDS - LAG_INTERVAL / 2:
                await asyncio.sleep(LAG_INTERVAL)
                late = loop.time() - before - LAG_INTERVAL
                worst = max(worst, late)
                if late > LAG_INTERVAL:
                    self._stalled_from = before + LAG_INTERVAL
                    self._stalled_until = time.monotonic() + LAG_INTERVAL
            self.lag_seconds = worst
            self._lags.append(worst)
            self._turn(Turn(loop.time() - began, worst))

    def _turn(self, turn: Turn) -> None:
        self._wheel.turn()
        for work in self._each_second:
            try:
                work(turn)
            except Exception:
                # The rest of what is due this second must run all the same.
                log.exception("clock_failed")

    async def _repeat(self, each: Periodic) -> None:
        while True:
            await asyncio.sleep(each.seconds * random.uniform(0.8, 1.0))  # noqa: S311 - spreads load
            try:
                await each.work()
            except Exception:
                log.exception("periodic_work_failed", work=each.work.__name__)
