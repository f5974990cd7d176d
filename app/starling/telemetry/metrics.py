"""The metrics of a worker: plain counters that the hot path adds to, and their export once a second.

An `inc` in prometheus_client's multiprocess mode costs 1.2 microseconds, an integer addition 0.06: so connections add
to integers, and `flush` carries the differences over once a second.
"""

import platform
import resource
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from starling import __version__
from starling.telemetry.metric_list import (
    API_BUCKETS,
    DELIVERY_BUCKETS,
    METRICS,
    PROXY_BUCKETS,
    PUBLISHED,
    REFUSALS,
    TRANSPORTS,
    Metric,
)
from starling.telemetry.process_stats import count_open_files, open_files_limit, resident_memory
from starling.telemetry.refusals import RefusalLog

# The code of a valid request to the server API that failed.
FAILED = 100


# Clients may close with thousands of codes, and each code is a series of its own.
MOST_CLOSE_CODES = 64
_OTHER_CODE = 0


class TransportStats:
    """What the connections of one transport add to."""

    __slots__ = ("bytes_in", "bytes_out", "closed", "messages_in", "messages_out", "now", "opened")

    def __init__(self, slow_code: int) -> None:
        self.now = 0
        self.opened = 0
        self.messages_in = 0
        self.messages_out = 0
        self.bytes_in = 0
        self.bytes_out = 0
        # Exported as 0 from the start: `rate()` misses the first increase of a series that appears at 1.
        self.closed: Tally[int] = Tally({slow_code: 0})

    def close(self, code: int) -> None:
        """Count the end of a connection."""
        known = code in self.closed or len(self.closed) < MOST_CLOSE_CODES
        self.closed[code if known else _OTHER_CODE] += 1


class Distribution:
    """Observations counted by bucket; `bounds` are upper bounds in seconds, ascending."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count an observation, `times` times."""
        self.counts[bisect_left(self.bounds, seconds)] += times
        self.total += seconds * times

    def clear(self) -> None:
        """Begin anew."""
        self.counts = [0] * len(self.counts)
        self.total = 0.0


class Metrics:
    """Owner of the metrics of this worker. Each flush calls `sources`, which set the metrics that others keep."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.transports = {name: TransportStats(slow_code) for name, slow_code in TRANSPORTS.items()}
        self.refused: Tally[str] = Tally(dict.fromkeys(REFUSALS, 0))
        self.refusal_log = RefusalLog()
        self.published: Tally[tuple[str, str]] = Tally()
        self.commands: Tally[str] = Tally()
        self.errors: Tally[int] = Tally()
        self.subscriptions: Tally[str] = Tally()
        self.webhook_events: Tally[str] = Tally(delivered=0, failed=0, dropped=0)
        self.webhook_queue = 0
        self.proxy_requests: Tally[tuple[str, str]] = Tally()
        self.unanswered_renewals: Tally[str] = Tally(connection=0, subscription=0)
        self.proxy_seconds: dict[str, Distribution] = {}
        self.delivery = Distribution(DELIVERY_BUCKETS)
        self.api: Tally[tuple[str, int]] = Tally()
        self.api_seconds: dict[str, Distribution] = {}
        self.sources: list[Callable[[Metrics], None]] = []
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        self._flushed: dict[tuple[str, ...], float] = {}
        for metric in METRICS:
            self._register(metric)

    def _register(self, metric: Metric) -> None:
        if metric.kind == "counter":
            self._counters[metric.name] = Counter(metric.name, metric.help, metric.labels, registry=self.registry)
        elif metric.kind == "gauge":
            self._gauges[metric.name] = Gauge(
                metric.name, metric.help, metric.labels, registry=self.registry, multiprocess_mode=metric.mode
            )
        else:
            self._histograms[metric.name] = Histogram(
                metric.name, metric.help, metric.labels, registry=self.registry, buckets=metric.buckets
            )

    def refuse(self, reason: str, **seen: object) -> None:
        """Count and log a client that was refused before the upgrade, or cut for what it sent.

        `seen` is for the log: origin, path, address, remedy, detail.
        """
        self.refused[reason] += 1
        self.refusal_log.write(reason, **seen)

    def name_namespaces(self, names: Iterable[str]) -> None:
        """Export 0 for these namespaces from the start: `rate()` misses the first increase of a new series."""
        for name in names:
            self.subscriptions[name] += 0
            for result in PUBLISHED:
                self.published[name, result] += 0

    def name_methods(self, names: Iterable[str]) -> None:
        """Export 0 for these methods of the server API from the start, done and failed."""
        for name in names:
            for code in (0, FAILED):
                self.api[name, code] += 0

    def set_waiting(self, clients: int, size: int) -> None:
        """Set the number of clients for which bytes wait, and of those bytes."""
        self.set("starling_write_buffer_clients", clients)
        self.set("starling_write_buffer_bytes", size)

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set gauge `name`."""
        gauge = self._gauges[name]
        (gauge.labels(*labels) if labels else gauge).set(value)

    def count(self, name: str, total: float, *labels: str) -> None:
        """Set counter `name` to `total`, which only grows within this process."""
        key = (name, *labels)
        difference = total - self._flushed.get(key, 0.0)
        counter = self._counters[name]
        (counter.labels(*labels) if labels else counter).inc(difference)
        self._flushed[key] = total

    def observe(self, name: str, seconds: float) -> None:
        """Add one observation to histogram `name`, which has no labels."""
        self._histograms[name].observe(seconds)

    def count_api(self, method: str, code: int, seconds: float, times: int = 1) -> None:
        """Count an answered request to the server API, or `times` of the same result; `code` 0 is success."""
        self.api[method, code] += times
        if (distribution := self.api_seconds.get(method)) is None:
            distribution = self.api_seconds[method] = Distribution(API_BUCKETS)
        distribution.observe(seconds, times)

    def observe_proxy(self, event: str, seconds: float) -> None:
        """Count how long a proxy took."""
        if (distribution := self.proxy_seconds.get(event)) is None:
            distribution = self.proxy_seconds[event] = Distribution(PROXY_BUCKETS)
        distribution.observe(seconds)

    def flush(self) -> None:
        """Copy the plain counters to Prometheus; once a second and when the worker ends."""
        for source in self.sources:
            source(self)
        self.refusal_log.flush()
        for name, stats in self.transports.items():
            self._flush_transport(name, stats)
        for reason, total in self.refused.items():
            self.count("starling_connections_refused_total", total, reason)
        for (namespace, result), total in self.published.items():
            self.count("starling_publications_total", total, namespace, result)
        for method, total in self.commands.items():
            self.count("starling_commands_total", total, method)
        for code, total in self.errors.items():
            self.count("starling_command_errors_total", total, str(code))
        for namespace, subscriptions in self.subscriptions.items():
            self.set("starling_subscriptions", subscriptions, namespace)
        for result, total in self.webhook_events.items():
            self.count("starling_webhook_events_total", total, result)
        self.set("starling_webhook_queue", self.webhook_queue)
        self._flush_distribution(self._histograms["starling_delivery_seconds"], self.delivery)
        self._flush_api()
        self._flush_proxies()
        self._flush_process()
        self.set("starling_build_info", 1, __version__, platform.python_version())

    def _flush_transport(self, name: str, stats: TransportStats) -> None:
        self.set("starling_connections", stats.now, name)
        self.count("starling_connections_opened_total", stats.opened, name)
        self.count("starling_messages_received_total", stats.messages_in, name)
        self.count("starling_messages_sent_total", stats.messages_out, name)
        self.count("starling_received_bytes_total", stats.bytes_in, name)
        self.count("starling_sent_bytes_total", stats.bytes_out, name)
        for code, total in stats.closed.items():
            self.count("starling_connections_closed_total", total, name, str(code) if code else "other")

    def _flush_api(self) -> None:
        for (method, code), total in self.api.items():
            self.count("starling_api_requests_total", total, method, str(code))
        for method, distribution in self.api_seconds.items():
            self._flush_distribution(self._histograms["starling_api_request_seconds"].labels(method), distribution)

    def _flush_proxies(self) -> None:
        for (event, result), total in self.proxy_requests.items():
            self.count("starling_proxy_requests_total", total, event, result)
        for kind, total in self.unanswered_renewals.items():
            self.count("starling_proxy_unanswered_renewals_total", total, kind)
        for event, distribution in self.proxy_seconds.items():
            self._flush_distribution(self._histograms["starling_proxy_request_seconds"].labels(event), distribution)

    def _flush_distribution(self, histogram: Histogram, distribution: Distribution) -> None:
        # prometheus_client has no way to add many observations at once, so this adds to its buckets themselves.
        for bucket, seen in zip(histogram._buckets, distribution.counts, strict=True):
            if seen:
                bucket.inc(seen)
        histogram._sum.inc(distribution.total)
        distribution.clear()

    def _flush_process(self) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        self.count("starling_worker_cpu_seconds_total", used.ru_utime + used.ru_stime)
        self.set("starling_worker_resident_memory_bytes", resident_memory())
        self.set("starling_worker_open_files", count_open_files())
        self.set("starling_worker_open_files_limit", open_files_limit())
