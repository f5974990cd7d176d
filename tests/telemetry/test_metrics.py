"""Metrics: every one is listed, the plain numbers arrive in Prometheus once, and distributions keep their shape."""

import gc
import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry

from starling.telemetry.garbage import GarbageStats
from starling.telemetry.metric_list import METRICS
from starling.telemetry.metrics import Distribution, Metrics


def sample(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def test_every_listed_metric_is_exposed_and_nothing_else() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.flush()

    exposed = {family.name + ("_total" if family.type == "counter" else "") for family in registry.collect()}

    assert exposed == {metric.name for metric in METRICS}


def test_names_say_what_they_are() -> None:
    for metric in METRICS:
        assert metric.name.startswith("starling_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.help.endswith(".")


def test_before_anything_happened_nothing_is_counted() -> None:
    registry = CollectorRegistry()
    Metrics(registry).flush()

    families = [family for family in registry.collect() if family.type in {"counter", "histogram"}]
    begun = [one for family in families for one in family.samples if not one.name.endswith("_created")]

    assert begun
    assert {one.name for one in begun if one.value} <= {"starling_worker_cpu_seconds_total"}


def test_numbers_are_carried_over_once() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.transports["chat"].messages_in = 3
    metrics.flush()
    metrics.transports["chat"].messages_in = 5

    metrics.flush()
    metrics.flush()

    assert sample(registry, "starling_messages_received_total", transport="chat") == 5


def test_closes_are_counted_by_code() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for code in (1000, 1006, 1000):
        metrics.transports["echo"].close(code)

    metrics.flush()

    assert sample(registry, "starling_connections_closed_total", transport="echo", code="1000") == 2
    assert sample(registry, "starling_connections_closed_total", transport="echo", code="1006") == 1


def test_close_codes_that_clients_make_up_are_reported_as_one_beyond_64() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for code in (3001, *range(4000, 4999), 3001, 4998):
        metrics.transports["json"].close(code)

    metrics.flush()

    assert sample(registry, "starling_connections_closed_total", transport="json", code="3001") == 2
    # 3008 is listed from the start, 3001 is one, and 62 others make 64.
    assert sample(registry, "starling_connections_closed_total", transport="json", code="other") == 1000 - 62
    series = [
        one
        for family in registry.collect()
        for one in family.samples
        if one.name == "starling_connections_closed_total" and one.labels["transport"] == "json"
    ]
    assert len(series) == 65


def test_delivery_times_fall_into_their_buckets_over_several_flushes() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.delivery.observe(0.0004)
    metrics.delivery.observe(0.003)
    metrics.flush()
    metrics.delivery.observe(0.003)
    metrics.delivery.observe(99.0)

    metrics.flush()

    assert sample(registry, "starling_delivery_seconds_bucket", le="0.0005") == 1
    assert sample(registry, "starling_delivery_seconds_bucket", le="0.005") == 3
    assert sample(registry, "starling_delivery_seconds_bucket", le="10.0") == 3
    assert sample(registry, "starling_delivery_seconds_count") == 4
    assert sample(registry, "starling_delivery_seconds_sum") == 0.0004 + 0.003 + 0.003 + 99.0


def test_a_value_on_a_bound_belongs_to_its_bucket() -> None:
    distribution = Distribution((0.1, 0.2))
    distribution.observe(0.1)
    distribution.observe(0.2)
    distribution.observe(0.3)

    assert distribution.counts == [1, 1, 1]


def test_namespaces_are_there_from_the_start() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.name_namespaces(["(default)", "news"])
    metrics.published["news", "failed"] += 2
    metrics.subscriptions["(default)"] += 3

    metrics.flush()

    assert sample(registry, "starling_publications_total", channel_namespace="news", result="failed") == 2
    assert sample(registry, "starling_publications_total", channel_namespace="news", result="stored") == 0
    assert sample(registry, "starling_publications_total", channel_namespace="(default)", result="stored") == 0
    assert sample(registry, "starling_subscriptions", channel_namespace="(default)") == 3
    assert sample(registry, "starling_subscriptions", channel_namespace="news") == 0


def test_a_collection_is_counted_and_takes_time() -> None:
    registry = CollectorRegistry()
    metrics, garbage = Metrics(registry), GarbageStats()
    garbage.start()
    gc.collect()
    garbage.stop()
    gc.collect()

    garbage.report(metrics)

    assert sample(registry, "starling_worker_gc_collections_total", generation="2") == 1
    assert (sample(registry, "starling_worker_gc_seconds_total") or 0) > 0


def test_methods_of_the_api_are_there_from_the_start() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.name_methods(["publish"])
    metrics.count_api("publish", 100, 0.1)

    metrics.flush()

    assert sample(registry, "starling_api_requests_total", method="publish", code="0") == 0
    assert sample(registry, "starling_api_requests_total", method="publish", code="100") == 1


@pytest.mark.processes
def test_what_the_command_imports_before_it_sets_the_directory_of_metrics_reads_it_not() -> None:
    modules = "starling.cli.serve, starling.server.options, starling.engine.readiness"
    code = f"import sys, {modules}; print('prometheus_client' in sys.modules)"

    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
