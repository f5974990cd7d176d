"""How fast a worker lets its clients go: at its turns of a pace that all share, and everybody gone in time."""

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
from starling.engine.drain_rate import DrainRateStore
from starling.telemetry.metric_sink import MetricSink

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.server")

TURNS_AT_ONCE = 10
# So few clients that they could leave further apart than this are no storm, and need not wait.
LONGEST_GAP = 1.0
# What is asked for at once lasts as long as this at least, however fast the pace.
SHORTEST_BATCH = 0.02
# The local pace does not wait for a store that is slow, and asks it again after a while.
ANSWER_SECONDS = 0.25
RETRY_SECONDS = 1.0
# A worker that comes late to what it planned makes up for this much of it.
LATE_SECONDS = 0.05


class DrainReason(StrEnum):
    """Why clients may go when they do, as metrics and log lines name it."""

    SHARED = "shared"
    """It was their turn."""
    DEADLINE = "deadline"
    """Their turn would have come too late for everybody to be gone in time."""
    LOCAL = "local"
    """No pace is shared, or its store is away."""


@dataclass(slots=True)
class DrainStats:
    """How a worker's drain goes: clients still to go, and those that went by the reason for the moment."""

    left: int = 0
    gone: dict[DrainReason, int] = field(default_factory=lambda: dict.fromkeys(DrainReason, 0))

    def report(self, metrics: MetricSink) -> None:
        """Set the metrics of the drain."""
        metrics.set("starling_drain_left", self.left)
        for grant, total in self.gone.items():
            metrics.count("starling_drain_closes_total", total, grant)


@dataclass(frozen=True, slots=True)
class DrainBatch:
    """`count` clients that go evenly from `begin` to `finish`, seconds on the clock of the one that planned it."""

    count: int
    begin: float
    finish: float
    grant: DrainReason


def batch_size(left: int, remaining: float, per_second: float) -> int:
    """How many of the clients that are left are planned at once."""
    fastest = max(per_second, left / remaining)
    return min(left, TURNS_AT_ONCE * math.ceil(fastest * SHORTEST_BATCH / TURNS_AT_ONCE))


def plan_local(count: int, left: int, *, start: float, end: float) -> DrainBatch:
    """Let `count` clients go at the even pace that has all that are `left` gone at `end`, or faster where few are."""
    return DrainBatch(count, start, start + count * min((end - start) / left, LONGEST_GAP), DrainReason.LOCAL)


def plan_turns(count: int, left: int, *, turn: float, per_second: float, start: float, end: float) -> DrainBatch:
    """Let `count` clients go when it is their `turn`, unless the others that are `left` could not go by `end` then.

    `start` is the earliest that they may go: the batch before has gone by then.
    """
    begin = max(turn, start)
    finish = begin + count / per_second
    latest = start + count * (end - start) / left
    if finish <= latest:
        return DrainBatch(count, begin, finish, DrainReason.SHARED)
    return DrainBatch(count, start, latest, DrainReason.DEADLINE)


class DrainRate:
    """Tells when how many clients may go, from its making on until `seconds` later.

    With a `store` this worker asks for turns at `per_second` clients of all processes together. They are asked for
    while the clients before them go, so that nobody waits for an answer.
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
        self.grant = DrainReason.LOCAL
        """Why those may go who were told last."""

    async def __call__(self, left: int) -> int:
        """Wait until some of the `left` clients may go; returns how many."""
        if self._clock() >= self._end:
            self.grant = DrainReason.LOCAL if self._store is None else DrainReason.DEADLINE
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
        self.grant = batch.grant
        apart = (batch.finish - batch.begin) / batch.count
        self._due.extend(batch.begin + (place + random.random()) * apart for place in range(batch.count))  # noqa: S311 - spreads load
        self._ask(left - batch.count)

    def _ask(self, left: int) -> None:
        now = self._clock()
        if self._store is None or self._asked is not None or left <= 0 or now < self._retry_at or now >= self._end:
            return
        count = batch_size(left, self._end - now, self._per_second)
        self._asked = asyncio.create_task(self._reserve(self._store, count), name="drain-pace")

    async def _turns(self) -> tuple[int, float] | None:
        """How many turns there are and when they begin; None where nobody knows."""
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
