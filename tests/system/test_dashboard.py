"""The dashboard and the alerts against the real thing: Prometheus, two workers, Redis, a small load, real faults."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.support.load import environment, load
from tests.support.prometheus import PrometheusServer
from tests.support.proxy_backend_server import DecidingBackend
from tests.support.running import Starling
from tests.support.services import RedisServer
from tools.dashboards.dashboard import Panel
from tools.dashboards.internals import internals
from tools.dashboards.overview import overview

LOAD_SECONDS = 8
# More than twice gunicorn's look at its workers, and far more than the alert's threshold.
FREEZE_SECONDS = 6
# A busy machine delays timers too, and deliveries: half of them late, where one in a hundred may be, spend the budget
# 50 times too fast. tests/chart has the thresholds themselves.
HALF_LATE = 50.0
THRESHOLDS = {
    "StarlingEventLoopLag": FREEZE_SECONDS / 2,
    **dict.fromkeys(("StarlingLatencyFastBurn", "StarlingLatencyBurn", "StarlingLatencySlowBurn"), HALF_LATE),
}


@dataclass
class Monitored:
    """A Starling under Prometheus; `began` is when the load began, in seconds since 1970."""

    starling: Starling
    redis: RedisServer
    prometheus: PrometheusServer
    began: float = field(default_factory=time.time)


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    """Two workers over Redis, in use from here to the end."""
    with (
        RedisServer() as redis,
        DecidingBackend(lambda path, body: {"error": {"code": 104, "message": "method not found"}}) as backend,
        Starling(
            environment(tmp_path_factory.mktemp("channels"), redis.url) | {"STARLING_PROXY_RPC": backend.url("rpc")}
        ) as starling,
        PrometheusServer({"starling-0": f"127.0.0.1:{starling.internal_port}"}, thresholds=THRESHOLDS) as prometheus,
    ):
        running = Monitored(starling, redis, prometheus)
        with load(starling.url):
            time.sleep(LOAD_SECONDS)
            yield running


@pytest.mark.parametrize("panel", [*overview().panels, *internals().panels], ids=lambda panel: str(panel.title))
def test_a_panel_shows_something(monitored: Monitored, panel: Panel) -> None:
    for query in panel.queries:
        found = monitored.prometheus.range(query.expression, monitored.began, time.time())
        assert any(series.values for series in found), query.expression


def test_a_healthy_service_alarms_nobody(monitored: Monitored) -> None:
    assert monitored.prometheus.firing() == set()


def test_the_numbers_of_panels_are_those_of_the_load(monitored: Monitored) -> None:
    latest = {
        panel.title: monitored.prometheus.range(panel.queries[0].expression, time.time() - 3, time.time())
        for panel in overview().panels
    }

    def value(title: str) -> float:
        (series,) = latest[title]
        return series.values[-1]

    assert value("Broker") == 1
    assert value("Pods") == 1
    assert value("Ready workers") == 2
    assert {series.labels["transport"] for series in latest["Opened"]} >= {"chat", "echo", "items"}
    assert {series.labels["pod"] for series in latest["Resident memory"]} == {"starling-0"}
    assert 0 < value("Open files") < 0.8


def test_redis_stopped_fires_broker_down_and_is_over_when_it_is_back(monitored: Monitored) -> None:
    monitored.redis.stop()
    monitored.prometheus.until(lambda firing: "StarlingBrokerDown" in firing, "StarlingBrokerDown fires")
    monitored.redis.start()
    monitored.prometheus.until(lambda firing: "StarlingBrokerDown" not in firing, "StarlingBrokerDown is over")


# With its runbook: test_fault_found.py.
@pytest.mark.long
def test_a_worker_that_stood_still_fires_event_loop_lag(monitored: Monitored) -> None:
    assert "StarlingEventLoopLag" not in monitored.prometheus.firing()
    worker = monitored.starling.workers[0]
    os.kill(worker, signal.SIGSTOP)
    try:
        time.sleep(FREEZE_SECONDS)
    finally:
        os.kill(worker, signal.SIGCONT)
    monitored.prometheus.until(lambda firing: "StarlingEventLoopLag" in firing, "StarlingEventLoopLag fires")


def test_workers_that_die_fire_worker_restarts(monitored: Monitored) -> None:
    for worker in monitored.starling.workers:
        os.kill(worker, signal.SIGKILL)
    monitored.prometheus.until(lambda firing: "StarlingWorkerRestarts" in firing, "StarlingWorkerRestarts fires")


def test_a_service_that_is_gone_fires_target_down_and_absent(monitored: Monitored) -> None:
    monitored.starling.process.send_signal(signal.SIGTERM)
    wanted = {"StarlingTargetDown", "StarlingAbsent"}
    monitored.prometheus.until(lambda firing: wanted <= firing, f"{sorted(wanted)} fire")
