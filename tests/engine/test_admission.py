"""Who is let in: each limit at one below, at it and one above, and when a limit that was passed is forgotten."""

import asyncio
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from starling.engine.admission import Admission, ClientLimits
from starling.engine.allowances import AddressBudgets, Budgets, ConnectionLimit
from starling.engine.hub import Hub
from starling.engine.options import AdmissionOptions
from starling.engine.readiness import Readiness, Unready
from tests.support.fake_receivers import FakeReceiver


class Endpoint:
    """Admission with a hub, a readiness and a share of memory that the test sets."""

    def __init__(self, limits: AdmissionOptions) -> None:
        self.hub = Hub()
        self.readiness = Readiness()
        self.readiness.release(Unready.STARTING)
        self.memory: float | None = None
        clients = ClientLimits(Budgets(0, 0), ConnectionLimit(0, 0), AddressBudgets(0, 0))
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
    endpoint = Endpoint(AdmissionOptions(max_connections=5))
    endpoint.hold(held)

    assert endpoint.reason() == reason


def test_a_full_worker_is_unready_until_somebody_leaves() -> None:
    endpoint = Endpoint(AdmissionOptions(max_connections=2))
    endpoint.hold(2)
    endpoint.admission.observe(0)
    assert endpoint.readiness.reasons == {Unready.AT_CAPACITY}

    endpoint.hold(1)
    endpoint.admission.observe(0)
    assert endpoint.readiness.ready


def test_as_many_connects_as_the_rate_may_come_at_once_and_not_one_more() -> None:
    endpoint = Endpoint(AdmissionOptions(connects_per_second=3))

    assert [endpoint.reason() for _ in range(5)] == ["", "", "", "connect_rate", "connect_rate"]
    # It passes by itself within the second, so no router should learn of it.
    endpoint.admission.observe(0)
    assert endpoint.readiness.ready


async def test_connects_are_given_back_by_time_whatever_was_refused_meanwhile() -> None:
    endpoint = Endpoint(AdmissionOptions(connects_per_second=20))
    while not endpoint.reason():
        pass
    for _ in range(100):
        assert endpoint.reason() == "connect_rate"

    await asyncio.sleep(0.26)

    assert [endpoint.reason() for _ in range(5)] == [""] * 5


def test_less_than_one_connect_in_a_second_lets_one_in() -> None:
    endpoint = Endpoint(AdmissionOptions(connects_per_second=0.5))

    assert [endpoint.reason() for _ in range(2)] == ["", "connect_rate"]


@pytest.mark.parametrize(("lag", "reason"), [(0.49, ""), (0.5, ""), (0.51, "lag")])
def test_a_loop_that_is_late_for_seconds_lets_nobody_in(lag: float, reason: str) -> None:
    endpoint = Endpoint(AdmissionOptions(max_lag_seconds=0.5))
    for _ in range(10):
        endpoint.admission.observe(lag)

    assert endpoint.reason() == reason
    assert endpoint.readiness.ready is not bool(reason)


def test_a_loop_that_was_late_once_is_forgiven() -> None:
    endpoint = Endpoint(AdmissionOptions(max_lag_seconds=0.5))
    endpoint.admission.observe(0.9)

    assert endpoint.reason() == ""


def test_a_loop_that_stood_still_lets_clients_in_again_when_it_is_well_below_the_limit() -> None:
    endpoint = Endpoint(AdmissionOptions(max_lag_seconds=0.5))
    endpoint.admission.observe(4)
    assert endpoint.reason() == "lag"
    for _ in range(20):
        endpoint.admission.observe(0.4)
    assert endpoint.reason() == "lag"

    for _ in range(5):
        endpoint.admission.observe(0.1)

    assert endpoint.reason() == ""
    assert endpoint.readiness.ready


@pytest.mark.parametrize(("share", "reason"), [(0.89, ""), (0.9, ""), (0.91, "memory"), (None, "")])
def test_a_pod_near_its_memory_limit_lets_nobody_in(share: float | None, reason: str) -> None:
    endpoint = Endpoint(AdmissionOptions(max_memory_share=0.9))
    endpoint.memory = share
    endpoint.admission.observe(0)

    assert endpoint.reason() == reason
    assert endpoint.readiness.ready is not bool(reason)


def test_memory_must_fall_a_twentieth_before_clients_come_in_again() -> None:
    endpoint = Endpoint(AdmissionOptions(max_memory_share=0.9))
    found = []
    for share in (0.95, 0.88, 0.86, 0.84, 0.88):
        endpoint.memory = share
        endpoint.admission.observe(0)
        found.append(endpoint.reason())

    assert found == ["memory", "memory", "memory", "", ""]


def test_without_limits_everyone_comes_in() -> None:
    endpoint = Endpoint(AdmissionOptions(max_lag_seconds=0, max_memory_share=0))
    endpoint.hold(1000)
    endpoint.memory = 1.0
    for _ in range(10):
        endpoint.admission.observe(60)

    assert [endpoint.reason() for _ in range(1000)] == [""] * 1000
    assert endpoint.readiness.ready


def draining(endpoint: Endpoint) -> None:
    endpoint.readiness.hold(Unready.DRAINING)


def full(endpoint: Endpoint) -> None:
    endpoint.hold(5)


def late(endpoint: Endpoint) -> None:
    endpoint.admission.observe(60)


@pytest.mark.parametrize("cause", [draining, full, late])
def test_the_times_to_return_are_spread(cause: Callable[[Endpoint], None]) -> None:
    endpoint = Endpoint(AdmissionOptions(max_connections=5, max_lag_seconds=1))
    cause(endpoint)

    times = {refusal.retry_after for _ in range(200) if (refusal := endpoint.admission.refusal())}

    assert len(times) >= 5
    assert min(times) >= 1


def test_however_many_are_refused_the_log_has_one_line_with_their_number() -> None:
    endpoint = Endpoint(AdmissionOptions(max_connections=1))
    endpoint.hold(1)
    with capture_logs() as lines:
        for _ in range(5):
            for _ in range(1000):
                endpoint.reason()
            endpoint.admission.observe(0)

    reported = [(line["event"], line.get("capacity")) for line in lines]
    assert reported == [("admission_changed", None), ("clients_refused", 1000)]
