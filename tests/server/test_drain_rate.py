"""The rate at which clients are disconnected, by many workers together: exact times on a clock that jumps."""

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starling.brokers.memory.drain_rate import MemoryDrainRate
from starling.engine.broker import BrokerUnavailable
from starling.engine.small_stores import DrainRateStore
from starling.server.drain_rate import (
    TURNS_AT_ONCE,
    DrainBatch,
    DrainRate,
    DrainReason,
    batch_size,
    plan_local,
    plan_turns,
)
from tests.support.virtual_time import run_in_virtual_time

ROUND_TRIP = 0.001
NEVER = (0.0, 0.0)


@dataclass
class Store:
    """A store that answers as one over a network does: after a while, late, or not at all."""

    clock: Callable[[], float]
    away: tuple[float, float] = NEVER
    frozen: tuple[float, float] = NEVER
    asked: list[float] = field(default_factory=list)
    turns: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rate = MemoryDrainRate(self.clock)

    async def reserve(self, count: int, per_second: float) -> float:
        now = self.clock()
        self.asked.append(now)
        await asyncio.sleep(ROUND_TRIP)
        if self.away[0] <= now < self.away[1]:
            raise BrokerUnavailable("away")
        if self.frozen[0] <= now < self.frozen[1]:
            await asyncio.sleep(self.frozen[1] - now)
        wait = await self._rate.reserve(count, per_second)
        self.turns.append((self.clock() + wait, count / per_second))
        return wait


@dataclass
class Worker:
    """A drain of `clients` that begins at `begin`; afterwards, when each went and why."""

    clients: int
    seconds: float
    begin: float = 0.0
    gone: list[float] = field(default_factory=list)
    reasons: Counter[DrainReason] = field(default_factory=Counter)

    async def drain(self, store: DrainRateStore | None, per_second: float) -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(self.begin)
        drain_rate = DrainRate(self.seconds, store, per_second, clock=clock)
        while len(self.gone) < self.clients:
            going = await drain_rate(self.clients - len(self.gone))
            assert 1 <= going <= self.clients - len(self.gone)
            self.gone += [clock()] * going
            self.reasons[drain_rate.reason] += going
        drain_rate.close()


def drain(
    per_second: float, *workers: Worker, away: tuple[float, float] = NEVER, frozen: tuple[float, float] = NEVER
) -> Store:
    async def all_at_once() -> Store:
        shared = Store(asyncio.get_running_loop().time, away, frozen)
        await asyncio.gather(*(worker.drain(shared, per_second) for worker in workers))
        return shared

    return run_in_virtual_time(all_at_once())


def most_in_a_second(*workers: Worker) -> int:
    """The largest number that went within any one second."""
    times = sorted(moment for worker in workers for moment in worker.gone)
    return max(place + 1 - bisect_left(times, moment - 1.0) for place, moment in enumerate(times))


# The arithmetic


def test_turns_that_come_in_time_are_used_when_they_come() -> None:
    assert plan_turns(10, 100, turn=7.0, per_second=20.0, start=5.0, end=105.0) == DrainBatch(
        10, 7.0, 7.5, DrainReason.SHARED
    )


def test_turns_that_come_too_late_are_not_waited_for_and_the_rest_is_spread_evenly() -> None:
    assert plan_turns(10, 100, turn=14.6, per_second=20.0, start=5.0, end=105.0) == DrainBatch(
        10, 5.0, 15.0, DrainReason.DEADLINE
    )
    assert plan_turns(10, 100, turn=14.5, per_second=20.0, start=5.0, end=105.0).reason is DrainReason.SHARED


def test_turns_that_have_passed_are_used_from_now_on() -> None:
    assert plan_turns(10, 100, turn=1.0, per_second=20.0, start=5.0, end=105.0) == DrainBatch(
        10, 5.0, 5.5, DrainReason.SHARED
    )


def test_the_local_rate_takes_the_time_that_is_left_or_a_second_a_client() -> None:
    assert plan_local(10, 100, start=5.0, end=25.0) == DrainBatch(10, 5.0, 7.0, DrainReason.LOCAL)
    assert plan_local(3, 3, start=5.0, end=605.0) == DrainBatch(3, 5.0, 8.0, DrainReason.LOCAL)


@pytest.mark.parametrize(
    ("left", "remaining", "per_second", "size"),
    [
        (1000, 20.0, 100.0, 10),
        (7, 20.0, 100.0, 7),
        (1000, 20.0, 500.0, 10),
        (9000, 20.0, 5000.0, 100),
        (9000, 1, 0, 180),
    ],
)
def test_turns_are_asked_for_in_tens_as_many_as_take_20_ms(
    left: int, remaining: float, per_second: float, size: int
) -> None:
    assert batch_size(left, remaining, per_second) == size


# One worker by itself


def test_without_a_shared_rate_clients_go_evenly_over_the_whole_time() -> None:
    worker = Worker(5000, 10.0)
    drain(0.0, worker)

    assert worker.reasons == {DrainReason.LOCAL: 5000}
    assert 9.9 < worker.gone[-1] <= 10.0
    assert most_in_a_second(worker) <= 505


def test_a_few_clients_need_not_wait_for_the_whole_time() -> None:
    worker = Worker(2, 600.0)
    drain(0.0, worker)
    assert worker.gone[-1] <= 2.0


def test_no_time_disconnects_all_at_once() -> None:
    alone, sharing = Worker(1000, 0.0), Worker(1000, 0.0)
    drain(0.0, alone)
    drain(10.0, sharing)
    assert alone.gone == sharing.gone == [0.0] * 1000
    assert (alone.reasons, sharing.reasons) == ({DrainReason.LOCAL: 1000}, {DrainReason.DEADLINE: 1000})


def test_one_worker_keeps_to_the_rate_without_waiting_for_answers() -> None:
    worker = Worker(1000, 60.0)
    store = drain(100.0, worker)

    assert worker.reasons == {DrainReason.SHARED: 1000}
    assert len(store.asked) == 1000 / TURNS_AT_ONCE
    assert 9.8 < worker.gone[-1] < 10.1


def test_clients_go_at_times_that_nobody_can_foresee() -> None:
    worker = Worker(1000, 60.0)
    drain(100.0, worker)
    gaps = [after - before for before, after in pairwise(worker.gone)]
    assert len({round(gap, 5) for gap in gaps}) > 500
    assert max(gaps) < 0.05


# Many


def test_four_workers_share_one_rate() -> None:
    workers = [Worker(500, 40.0) for _ in range(4)]
    drain(100.0, *workers)

    assert {reason for worker in workers for reason in worker.reasons} == {DrainReason.SHARED}
    assert most_in_a_second(*workers) <= 120
    assert 19.0 < max(worker.gone[-1] for worker in workers) < 21.0


def test_who_has_more_to_do_goes_faster_and_the_others_give_way() -> None:
    large, small = Worker(1200, 20.0), Worker(800, 20.0)
    drain(100.0, large, small)

    assert most_in_a_second(large, small) <= 120
    assert large.reasons[DrainReason.DEADLINE] > 600, "half of the rate is too little for it"
    assert small.reasons[DrainReason.SHARED] > 300
    assert 19.0 < large.gone[-1] <= 20.0
    assert 19.0 < small.gone[-1] <= 20.0


def test_the_deadline_wins_and_the_excess_is_spread_evenly() -> None:
    workers = [Worker(1000, 10.0) for _ in range(4)]
    drain(100.0, *workers)

    assert max(worker.gone[-1] for worker in workers) <= 10.0
    assert most_in_a_second(*workers) <= 400 * 1.2
    assert all(worker.reasons[DrainReason.DEADLINE] > 900 for worker in workers)


def test_who_comes_after_others_waits_for_the_turns_they_have_left() -> None:
    first, second = Worker(1000, 40.0), Worker(1000, 40.0, begin=5.0)
    store = drain(100.0, first, second)

    assert most_in_a_second(first, second) <= 120
    taken = sorted(store.turns)
    for (begin, lasts), (after, _) in pairwise(taken):
        assert after >= begin + lasts - 1e-6, "two have a turn at once"


@settings(max_examples=60, deadline=None)
@given(
    clients=st.lists(st.integers(1, 800), min_size=1, max_size=6),
    begins=st.lists(st.floats(0, 10), min_size=6, max_size=6),
    per_second=st.sampled_from([20.0, 100.0, 333.0, 2000.0]),
    seconds=st.floats(0.5, 30.0),
)
def test_everybody_is_gone_in_time_and_never_faster_than_rate_and_deadlines_need(
    clients: list[int], begins: list[float], per_second: float, seconds: float
) -> None:
    workers = [Worker(count, seconds, begin) for count, begin in zip(clients, begins, strict=False)]
    drain(per_second, *workers)

    for worker in workers:
        assert len(worker.gone) == worker.clients
        assert worker.gone[-1] <= worker.begin + seconds + 0.01
    # Even if every deadline pressed at the same time. The last part: one batch of each that the window cuts.
    needed = max(per_second, sum(worker.clients / seconds for worker in workers))
    batches = sum(batch_size(worker.clients, seconds, per_second) for worker in workers)
    assert most_in_a_second(*workers) <= needed * 1.1 + batches


# The store away


def test_a_store_that_refuses_is_not_waited_for_and_asked_again_later() -> None:
    worker = Worker(1000, 20.0)
    store = drain(100.0, worker, away=(0.0, 5.0))

    assert worker.gone[0] < 0.5
    assert 240 < worker.reasons[DrainReason.LOCAL] < 330, "50 a second for five to six seconds, and a batch under way"
    assert worker.reasons[DrainReason.LOCAL] + worker.reasons[DrainReason.SHARED] == 1000
    assert len([moment for moment in store.asked if moment < 5.0]) <= 5
    assert worker.gone[-1] < 14.0


def test_a_store_that_does_not_answer_is_waited_for_a_quarter_of_a_second_once() -> None:
    worker = Worker(1000, 20.0)
    drain(100.0, worker, frozen=(0.0, 100.0))

    assert worker.gone[0] < 0.6
    assert worker.reasons == {DrainReason.LOCAL: 1000}
    gaps = [after - before for before, after in pairwise(worker.gone)]
    assert max(gaps) < 0.1, "each later question is asked beside"
    assert worker.gone[-1] <= 20.0


def test_a_store_that_goes_away_in_the_middle_changes_the_rate_and_nothing_else() -> None:
    workers = [Worker(500, 20.0) for _ in range(4)]
    drain(150.0, *workers, frozen=(2.0, 4.0))

    assert all(len(worker.gone) == 500 for worker in workers)
    assert max(worker.gone[-1] for worker in workers) <= 20.0
    assert {reason for worker in workers for reason in worker.reasons} >= {DrainReason.SHARED, DrainReason.LOCAL}
