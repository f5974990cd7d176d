"""The arithmetic of `starling size`, with round constants and by examples that were computed by hand."""

import json

import pytest
from typer.testing import CliRunner

from starling.cli import capacity
from starling.cli.capacity import Load, TooLargeError, plan, pod_of, proxy_tls_cores, reached_workers, redis_of
from starling.cli.entry import cli
from tests.chart.rendering import render
from tools.docs.capacity_tables import capacity_tables

ROUND = {
    "MASTER_BYTES": 30e6,
    "WORKER_BYTES": 50e6,
    "IDLE_CORES": 0.01,
    "CONNECTION_BYTES": 10_000,
    "SUBSCRIPTION_BYTES": 1_000,
    "CHANNEL_BYTES": 2_000,
    "RECENT_BYTES": 1_000,
    "CONNECT_SECONDS": 1e-3,
    "PING_SECONDS": 50e-6,
    "PUBLISH_SECONDS": 200e-6,
    "PUBLISH_KEPT_SECONDS": 400e-6,
    "RECEIVE_SECONDS": 100e-6,
    "RECEIVE_KEPT_SECONDS": 200e-6,
    "DELIVERY_SECONDS": 10e-6,
    "DELIVERY_BYTE_SECONDS": 1e-9,
    "REDIS_PUBLISH_SECONDS": 20e-6,
    "REDIS_PUBLISH_KEPT_SECONDS": 60e-6,
    "REDIS_RECEIVER_SECONDS": 10e-6,
    "REDIS_RECEIVER_KEPT_SECONDS": 10e-6,
    "REDIS_IDLE_CORES": 0.001,
    "REDIS_BYTES": 1e6,
    "REDIS_ENTRY_BYTES": 100,
    "REDIS_CHANNEL_BYTES": 1_000,
    "TLS_HANDSHAKE_SECONDS": 100e-6,
    "TLS_BYTE_SECONDS": 1e-9,
    "ENVELOPE_BYTES": 70,
}


@pytest.fixture(autouse=True)
def round_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ROUND.items():
        monkeypatch.setattr(capacity, name, value)


def test_one_pod_without_history() -> None:
    load = Load(connections=1000, rate=10, channels=10, message_bytes=130, subscribers=100)

    pod, redis = pod_of(load, 1, 1), redis_of(load, 1)

    # At rest 0.01, 40 pings 0.002, 10 taken 0.002, 10 received 0.001, 1,000 delivered at 10.2 us each.
    assert pod.cores == pytest.approx(0.01 + 0.002 + 0.002 + 0.001 + 0.0102)
    assert pod.memory_bytes == pytest.approx(90_020_000)
    assert redis.cores == pytest.approx(0.0013)
    assert redis.memory_bytes == 1_000_000


def test_two_pods_with_history() -> None:
    load = Load(connections=100, rate=100, channels=100, message_bytes=130, subscribers=1, history_size=10)

    pod, redis = pod_of(load, 2, 1), redis_of(load, 2)

    # At rest 0.02, 4 pings, 100 kept 0.04, each received by one of the two 0.02, 100 delivered; half of that a pod.
    assert pod.cores == pytest.approx((0.02 + 0.0002 + 0.04 + 0.02 + 0.00102) / 2)
    assert pod.memory_bytes == pytest.approx(80_000_000 + 100_000 + 565_000 + 500_000)
    assert redis.cores == pytest.approx(0.009)
    assert redis.memory_bytes == 1_330_000


def test_further_subscriptions_and_new_clients_take_their_part() -> None:
    one = Load(connections=100, rate=0, channels=10, message_bytes=0, subscribers=10)
    more = Load(connections=100, rate=0, channels=10, message_bytes=0, subscribers=50, connects=20)

    assert pod_of(more, 1, 1).memory_bytes - pod_of(one, 1, 1).memory_bytes == pytest.approx(400_000)
    assert pod_of(more, 1, 1).cores - pod_of(one, 1, 1).cores == pytest.approx(0.02)


def test_what_workers_remember_is_bounded() -> None:
    load = Load(connections=1000, rate=0, channels=1000, message_bytes=100_000, subscribers=1, history_size=300)

    assert pod_of(load, 1, 1).memory_bytes == pytest.approx(80_000_000 + 2_000_000 + 67_108_864 + 10_000_000)


@pytest.mark.parametrize(("subscribers", "workers", "reached"), [(1, 10, 1), (2, 2, 1.5), (1000, 4, 4), (0, 3, 0)])
def test_a_publication_reaches_the_workers_with_a_subscriber(subscribers: int, workers: int, reached: float) -> None:
    load = Load(connections=1000, rate=1, channels=1, message_bytes=1, subscribers=subscribers)

    assert reached_workers(load, workers) == pytest.approx(reached)


def test_the_fewest_pods_that_carry_it_with_one_of_them_away() -> None:
    found = plan(Load(connections=10_000, rate=10, channels=1, message_bytes=130, subscribers=10_000), 1)

    # Two would do (0.53 CPUs each), but the one that is left would need 1.05.
    assert found.pods == 3
    assert found.pod.cores == pytest.approx(1.075 / 3)
    assert (found.max_connections, found.drain_seconds, found.grace_seconds) == (7500, 20, 60)
    assert found.values() == {
        "replicaCount": 3,
        "settings": {"workers": 1, "maxConnections": 7500, "drainSeconds": 20},
        "resources": {"requests": {"cpu": "600m", "memory": "160Mi"}, "limits": {"memory": "256Mi"}},
    }
    assert found.warnings() == []


def test_a_full_pod_drains_at_the_rate_of_the_cluster() -> None:
    found = plan(Load(connections=60_000, rate=0, channels=1, message_bytes=0, subscribers=0), 1)

    # Four, since three times 20,000 are left when one is away; each may hold half as much again.
    assert (found.pods, found.max_connections) == (4, 30_000)
    assert (found.drain_seconds, found.grace_seconds) == (60, 100)


def test_redis_beyond_one_cpu_is_reported() -> None:
    found = plan(Load(connections=10_000, rate=40_000, channels=20_000, message_bytes=10, subscribers=0.5), 4)

    assert any("Redis needs" in warning for warning in found.warnings())


def test_what_no_number_of_pods_carries_is_refused() -> None:
    with pytest.raises(TooLargeError, match="each worker receives"):
        plan(Load(connections=10_000, rate=20_000, channels=1, message_bytes=10, subscribers=10_000), 1)


def test_tls_is_the_proxies() -> None:
    load = Load(connections=10, rate=10, channels=1, message_bytes=130, subscribers=10, tls=True, connects=50)

    assert proxy_tls_cores(load) == pytest.approx(50 * 100e-6 + 100 * 200 * 1e-9)


def test_a_constant_that_was_lost_in_noise_is_not_reported_as_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "noise" not in capacity_tables().lower()

    monkeypatch.setattr(capacity, "REDIS_RECEIVER_KEPT_SECONDS", 0.0)
    lines = capacity_tables().splitlines()

    assert "| for each worker that receives it | 10 µs | below measurement noise |" in lines
    assert lines[-1] == "Below the measurement noise there, and counted as zero: `REDIS_RECEIVER_KEPT_SECONDS`."


def size(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, ["size", *arguments], env={"COLUMNS": "200"})
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.processes
def test_the_command_reports_a_plan_and_values_that_the_chart_takes() -> None:
    asked = ("--connections", "10000", "--rate", "10", "--channels", "1", "--message-bytes", "130")
    code, shown, _ = size(*asked, "--tls")
    reported = json.loads(size(*asked, "--json")[1])

    assert code == 0
    assert "3, each with 1 worker\n" in shown
    assert "TLS at the proxy" in shown
    assert "replicaCount: 3" in shown
    assert (reported["pods"], reported["grace_seconds"], reported["deliveries_per_second"]) == (3, 60, 100_000)
    pod = render(reported["values"]).one("Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= 60


def test_more_subscribers_than_clients_are_refused() -> None:
    code, _, problem = size("--connections", "10", "--rate", "1", "--channels", "1", "--subscribers", "11")

    assert code == 2
    assert problem == "--subscribers: 11 of a channel are more than --connections 10\n"


def test_a_load_too_large_is_reported_in_a_line() -> None:
    code, _, problem = size("--connections", "100000", "--rate", "50000", "--channels", "1")

    assert code == 1
    assert len(problem.splitlines()) == 1
