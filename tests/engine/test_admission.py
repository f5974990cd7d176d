"""Who is let in: each limit at one below, at it and one above, and when a limit that was passed is forgotten."""

import asyncio
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from starling.engine.admission import Admission, AdmissionLimits, ClientLimits
from starling.engine.allowances import Budgets, ConnectionLimit
from starling.engine.hub import Hub
from starling.engine.readiness import Readiness, Unready
from tests.support.receivers import FakeReceiver


class Door:
    """Admission with a hub, a readiness and a share of memory that the test sets."""

    def __init__(self, limits: AdmissionLimits) -> None:
        self.hub = Hub()
        self.readiness = Readiness()
        self.readiness.release(Unready.STARTING)
        self.memory: float | None = None
        clients = ClientLimits(Budgets(0, 0), ConnectionLimit(0, 0), Budgets(0, 0))
        self.admission = Admission(self.hub, self.readiness, limits, lambda: self.memory, clients)

    def hold(self, count: int) -> None:
        while len(self.hub.connections) < count:
            self.hub.connections.add(FakeReceiver())
        while len(self.hub.connections) > count:
            self.hub.connections.pop()

    def reason(self) -> str:
        refusal = self.admission.refusal()
        return refusal.reason if refusal else ""


@pytest.mark.parametrize(("held", "reason"), [(4, ""), (5, "capacity"), (6, "capacity")])
def test_the_last_place_is_given_and_none_beyond_it(held: int, reason: str) -> None:
    door = Door(AdmissionLimits(connections=5))
    door.hold(held)

    assert door.reason() == reason


def test_a_full_worker_is_unready_until_somebody_leaves() -> None:
    door = Door(AdmissionLimits(connections=2))
    door.hold(2)
    door.admission.observe(0)
    assert door.readiness.reasons == {Unready.AT_CAPACITY}

    door.hold(1)
    door.admission.observe(0)
    assert door.readiness.ready


def test_as_many_connects_as_the_rate_may_come_at_once_and_not_one_more() -> None:
    door = Door(AdmissionLimits(connects_per_second=3))

    assert [door.reason() for _ in range(5)] == ["", "", "", "connect_rate", "connect_rate"]
    # It passes by itself within the second, so no router should be told.
    door.admission.observe(0)
    assert door.readiness.ready


async def test_connects_are_given_back_by_time_whatever_was_refused_meanwhile() -> None:
    door = Door(AdmissionLimits(connects_per_second=20))
    while not door.reason():
        pass
    for _ in range(100):
        assert door.reason() == "connect_rate"

    await asyncio.sleep(0.26)

    assert [door.reason() for _ in range(5)] == [""] * 5


def test_less_than_one_connect_in_a_second_lets_one_in() -> None:
    door = Door(AdmissionLimits(connects_per_second=0.5))

    assert [door.reason() for _ in range(2)] == ["", "connect_rate"]


@pytest.mark.parametrize(("lag", "reason"), [(0.49, ""), (0.5, ""), (0.51, "lag")])
def test_a_loop_that_is_late_for_seconds_lets_nobody_in(lag: float, reason: str) -> None:
    door = Door(AdmissionLimits(lag=0.5))
    for _ in range(10):
        door.admission.observe(lag)

    assert door.reason() == reason
    assert door.readiness.ready is not bool(reason)


def test_a_loop_that_was_late_once_is_forgiven() -> None:
    door = Door(AdmissionLimits(lag=0.5))
    door.admission.observe(0.9)

    assert door.reason() == ""


def test_a_loop_that_stood_still_lets_clients_in_again_when_it_is_well_below_the_limit() -> None:
    door = Door(AdmissionLimits(lag=0.5))
    door.admission.observe(4)
    assert door.reason() == "lag"
    for _ in range(20):
        door.admission.observe(0.4)
    assert door.reason() == "lag"

    for _ in range(5):
        door.admission.observe(0.1)

    assert door.reason() == ""
    assert door.readiness.ready


@pytest.mark.parametrize(("share", "reason"), [(0.89, ""), (0.9, ""), (0.91, "memory"), (None, "")])
def test_a_pod_near_its_memory_limit_lets_nobody_in(share: float | None, reason: str) -> None:
    door = Door(AdmissionLimits(memory=0.9))
    door.memory = share
    door.admission.observe(0)

    assert door.reason() == reason
    assert door.readiness.ready is not bool(reason)


def test_memory_must_fall_a_twentieth_before_clients_come_in_again() -> None:
    door = Door(AdmissionLimits(memory=0.9))
    found = []
    for share in (0.95, 0.88, 0.86, 0.84, 0.88):
        door.memory = share
        door.admission.observe(0)
        found.append(door.reason())

    assert found == ["memory", "memory", "memory", "", ""]


def test_without_limits_everyone_comes_in() -> None:
    door = Door(AdmissionLimits())
    door.hold(1000)
    door.memory = 1.0
    for _ in range(10):
        door.admission.observe(60)

    assert [door.reason() for _ in range(1000)] == [""] * 1000
    assert door.readiness.ready


def draining(door: Door) -> None:
    door.readiness.hold(Unready.DRAINING)


def full(door: Door) -> None:
    door.hold(5)


def late(door: Door) -> None:
    door.admission.observe(60)


@pytest.mark.parametrize("cause", [draining, full, late])
def test_the_times_to_come_back_are_spread(cause: Callable[[Door], None]) -> None:
    door = Door(AdmissionLimits(connections=5, lag=1))
    cause(door)

    times = {refusal.retry_after for _ in range(200) if (refusal := door.admission.refusal())}

    assert len(times) >= 5
    assert min(times) >= 1


def test_however_many_are_refused_the_log_has_one_line_with_their_number() -> None:
    door = Door(AdmissionLimits(connections=1))
    door.hold(1)
    with capture_logs() as lines:
        for _ in range(5):
            for _ in range(1000):
                door.reason()
            door.admission.observe(0)

    told = [(line["event"], line.get("capacity")) for line in lines]
    assert told == [("admission_changed", None), ("clients_refused", 1000)]
