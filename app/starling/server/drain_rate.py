"""The drain rate of a worker: it disconnects clients at its turns of the shared rate, and all before the deadline."""

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import structlog

from starling.engine.broker import BrokerUnavailable
from starling.engine.small_stores import DrainRateStore
from starling.telemetry.metric_sink import MetricSink

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.server")

TURNS_AT_ONCE = 10
# The longest interval between two disconnects: few clients that reconnect are no storm, and need not wait. Seconds.
LONGEST_GAP = 1.0
# The turns of one request last at least as long as this, at any rate. Seconds.
SHORTEST_BATCH = 0.02
# The local rate replaces a store that does not answer in time; the store is asked again after a pause. Seconds.
ANSWER_SECONDS = 0.25
RETRY_SECONDS = 1.0
# A worker that is late against its plan catches up by this much. Seconds.
LATE_SECONDS = 0.05


class DrainReason(StrEnum):
    """The reason why clients are disconnected at their time, as metrics and log lines name it."""

    SHARED = "shared"
    """It was their turn."""
    DEADLINE = "deadline"
    """Their turn would have come too late to disconnect all before the deadline."""
    LOCAL = "local"
    """No rate is shared, or its store is unavailable."""


@dataclass(slots=True)
class DrainStats:
    """The progress of a worker's drain: clients still connected, and those disconnected, by DrainReason."""

    left: int = 0
    gone: dict[DrainReason, int] = field(default_factory=lambda: dict.fromkeys(DrainReason, 0))

    def report(self, metrics: MetricSink) -> None:
        """Set the metrics of the drain."""
        metrics.set("starling_drain_left", self.left)
        for reason, total in self.gone.items():
            metrics.count("starling_drain_closes_total", total, reason)


@dataclass(frozen=True, slots=True)
class DrainBatch:
    """`count` clients to disconnect evenly from `begin` to `finish`, in seconds on the clock of the planner."""

    count: int
    begin: float
    finish: float
    reason: DrainReason


def batch_size(left: int, remaining: float, per_second: float) -> int:
    """The number of clients that one batch plans."""
    fastest = max(per_second, left / remaining)
    return min(left, TURNS_AT_ONCE * math.ceil(fastest * SHORTEST_BATCH / TURNS_AT_ONCE))


def plan_local(count: int, left: int, *, start: float, end: float) -> DrainBatch:
    """Disconnect `count` clients at the even rate that ends with the last of `left` at `end`, or faster if few."""
    return DrainBatch(count, start, start + count * min((end - start) / left, LONGEST_GAP), DrainReason.LOCAL)


def plan_turns(count: int, left: int, *, turn: float, per_second: float, start: float, end: float) -> DrainBatch:
    """Disconnect `count` clients at their `turn`, unless the rest of `left` could then not be disconnected by `end`.

    `start` is the earliest time: the end of the batch before.
    """
    begin = max(turn, start)
    finish = begin + count / per_second
    latest = start + count * (end - start) / left
    if finish <= latest:
        return DrainBatch(count, begin, finish, DrainReason.SHARED)
    return DrainBatch(count, start, latest, DrainReason.DEADLINE)


class DrainRate:
    """Decides when a drain disconnects how many clients, from its construction until `seconds` later.

    With a `store` this worker reserves turns at a rate of `per_second` clients of all processes together. It reserves
    the next turns while it disconnects the clients before them, so that no client waits for the answer.
    """

    def __init__(
        self,
        seconds: float,
        store: DrainRateStore | None = None,
        per_second: float = 0.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._planned_until = clock()
        self._end = self._planned_until + seconds
        self._store = store if per_second > 0 else None
        self._per_second = per_second
        self._due: deque[float] = deque()
        self._asked: asyncio.Task[tuple[int, float] | None] | None = None
        self._away = False
        self._retry_at = 0.0
        self.reason = DrainReason.LOCAL
        """The reason of the last batch."""

    async def __call__(self, left: int) -> int:
        """Wait until some of the `left` clients are due; returns their number."""
        if self._clock() >= self._end:
            self.reason = DrainReason.LOCAL if self._store is None else DrainReason.DEADLINE
            return left
        if not self._due:
            await self._plan(left)
        await asyncio.sleep(max(0.0, self._due[0] - self._clock()))
        now, going = self._clock(), 0
        while self._due and (not going or self._due[0] <= now):
            self._due.popleft()
            going += 1
        return min(going, left)

    def close(self) -> None:
        """Ask for nothing more."""
        if self._asked is not None:
            self._asked.cancel()

    async def _plan(self, left: int) -> None:
        self._ask(left)
        turns = await self._turns()
        start = max(self._planned_until, self._clock() - LATE_SECONDS)
        end = max(self._end, start)
        if turns is None:
            count = batch_size(left, max(end - start, SHORTEST_BATCH), 0.0)
            batch = plan_local(count, left, start=start, end=end)
        else:
            count, turn = turns
            batch = plan_turns(count, max(left, count), turn=turn, per_second=self._per_second, start=start, end=end)
        self._planned_until = batch.finish
        self.reason = batch.reason
        apart = (batch.finish - batch.begin) / batch.count
        self._due.extend(batch.begin + (index + random.random()) * apart for index in range(batch.count))  # noqa: S311 - spreads load
        self._ask(left - batch.count)

    def _ask(self, left: int) -> None:
        now = self._clock()
        if self._store is None or self._asked is not None or left <= 0 or now < self._retry_at or now >= self._end:
            return
        count = batch_size(left, self._end - now, self._per_second)
        self._asked = asyncio.create_task(self._reserve(self._store, count), name="drain-rate")

    async def _turns(self) -> tuple[int, float] | None:
        """The number of reserved turns and the time when they begin; None where the store did not answer."""
        if self._asked is None or (self._away and not self._asked.done()):
            return None
        asked, self._asked = self._asked, None
        return await asked

    async def _reserve(self, store: DrainRateStore, count: int) -> tuple[int, float] | None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                wait = await store.reserve(count, self._per_second)
        except (BrokerUnavailable, TimeoutError) as error:
            self._retry_at = self._clock() + RETRY_SECONDS
            if not self._away:
                log.warning("drain_rate_local", reason=str(error) or f"no answer within {ANSWER_SECONDS:g} s")
            self._away = True
            return None
        if self._away:
            log.info("drain_rate_shared")
        self._away = False
        return count, self._clock() + wait
