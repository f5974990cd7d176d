"""A proxy's backend over real HTTP: pooled connections, failures by their reason, and the circuit breaker."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import structlog
from prometheus_client import CollectorRegistry

from starling.telemetry.metrics import Metrics
from starling.web.proxy_backend import REPLY_BYTES, BackendAway, ProxyBackend
from starling.web.proxy_breaker import FAILURES, FIRST_PAUSE, LONGEST_PAUSE, CircuitBreaker
from tests.support.proxy_backend_server import Answer, DecidingBackend
from tests.support.waiting import until


class Clock:
    """A clock that the test moves, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def server() -> Iterator[DecidingBackend]:
    with DecidingBackend() as server:
        yield server


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def backend(server: DecidingBackend, metrics: Metrics, clock: Clock) -> AsyncIterator[ProxyBackend]:
    backend = ProxyBackend(server.url("connect"), metrics, timeout=5.0, breaker=CircuitBreaker(clock))
    yield backend
    await backend.close()


async def test_requests_share_connections_and_carry_the_headers_given(
    backend: ProxyBackend, server: DecidingBackend
) -> None:
    for number in range(3):
        assert await backend.ask("connect", b'{"n":%d}' % number, {"cookie": "sessionid=a"}) == b'{"result": {}}'

    assert [asked.body["n"] for asked in server.asked] == [0, 1, 2]
    assert {asked.connection for asked in server.asked} == {server.asked[0].connection}
    assert {(asked.headers["cookie"], asked.headers["content-type"]) for asked in server.asked} == {
        ("sessionid=a", "application/json")
    }


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (302, "redirect"),
        (301, "redirect"),
        (401, "refused"),
        (403, "refused"),
        (404, "client_error"),
        (405, "client_error"),
        (429, "server_error"),
        (500, "server_error"),
        (503, "server_error"),
        (b"x" * (REPLY_BYTES + 1), "too_long"),
    ],
)
async def test_a_reply_that_is_none_is_counted_by_its_reason_and_logged_with_a_remedy(
    backend: ProxyBackend, server: DecidingBackend, metrics: Metrics, answer: Answer, reason: str
) -> None:
    server.decide = lambda path, body: answer

    with structlog.testing.capture_logs() as lines, pytest.raises(BackendAway):
        await backend.ask("subscribe", b"{}", {})

    assert metrics.proxy_requests == {("subscribe", reason): 1}
    assert [line["event"] for line in lines] == ["proxy_request_failed"]
    assert lines[0]["remedy"]
    assert "/connect" not in str(lines)


async def test_a_backend_that_hangs_costs_the_time_out(server: DecidingBackend, metrics: Metrics) -> None:
    backend = ProxyBackend(server.url("rpc"), metrics, timeout=0.05)
    server.free.clear()

    with pytest.raises(BackendAway):
        await backend.ask("rpc", b"{}", {})
    server.free.set()
    await backend.close()

    assert metrics.proxy_requests == {("rpc", "timeout"): 1}


async def test_a_backend_that_is_away_is_left_alone_and_found_again(
    backend: ProxyBackend, server: DecidingBackend, metrics: Metrics, clock: Clock
) -> None:
    server.stop()
    for _ in range(FAILURES):
        with pytest.raises(BackendAway):
            await backend.ask("connect", b"{}", {})
    assert backend.away
    server.start()

    with pytest.raises(BackendAway):
        await backend.ask("connect", b"{}", {})
    assert server.asked == []
    clock.now += FIRST_PAUSE
    with structlog.testing.capture_logs() as lines:
        await backend.ask("connect", b"{}", {})

    assert not backend.away
    assert [line["event"] for line in lines] == ["proxy_backend_back"]
    assert metrics.proxy_requests == {("connect", "unreachable"): FAILURES, ("connect", "skipped"): 1}


async def test_a_request_that_is_cancelled_gives_the_trial_back(
    backend: ProxyBackend, server: DecidingBackend, clock: Clock
) -> None:
    server.decide = lambda path, body: 500
    for _ in range(FAILURES):
        with pytest.raises(BackendAway):
            await backend.ask("connect", b"{}", {})
    clock.now += FIRST_PAUSE
    server.free.clear()
    trial = asyncio.create_task(backend.ask("connect", b"{}", {}))
    await until(lambda: len(server.asked) == FAILURES + 1, "the trial is asked")
    trial.cancel()
    await asyncio.wait((trial,))
    server.decide = lambda path, body: {"result": {}}
    server.free.set()

    assert await backend.ask("connect", b"{}", {}) == b'{"result": {}}'


def fail(breaker: CircuitBreaker, times: int) -> list[bool]:
    """Fail `times` calls that the breaker admits; return what each call of `failed` returned."""
    outcomes = []
    for _ in range(times):
        assert breaker.admits()
        outcomes.append(breaker.failed())
    return outcomes


def test_only_failures_in_a_row_open_the_circuit(clock: Clock) -> None:
    breaker = CircuitBreaker(clock)
    fail(breaker, FAILURES - 1)
    breaker.succeeded()

    assert fail(breaker, FAILURES) == [False] * (FAILURES - 1) + [True]
    assert breaker.open
    assert not breaker.admits()


def test_one_call_at_a_time_tries_a_backend_that_was_away_and_each_failure_doubles_the_pause(clock: Clock) -> None:
    breaker = CircuitBreaker(clock)
    fail(breaker, FAILURES)
    pause = FIRST_PAUSE
    while pause < 2 * LONGEST_PAUSE:
        clock.now += min(pause, LONGEST_PAUSE) - 0.001
        assert not breaker.admits()
        clock.now += 0.001
        assert breaker.admits()
        assert not breaker.admits()
        assert not breaker.failed()
        pause *= 2
    clock.now += LONGEST_PAUSE
    assert breaker.admits()
    assert breaker.succeeded()
    assert breaker.admits()
    assert breaker.admits()
