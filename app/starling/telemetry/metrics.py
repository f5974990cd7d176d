"""The metrics of a worker, in one list, and the plain counters that the hot path adds to.

An `inc` in prometheus_client's multiprocess mode costs 1.2 microseconds, an integer addition 0.06: so connections add
to integers, and `flush` carries the differences over once a second.
"""

import os
import platform
import resource
import sys
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from starling import __version__
from starling.telemetry.refusals import RefusalLog

# The close code of each transport for a client that reads too slowly.
TRANSPORTS = {
    "echo": 1013,
    "items": 1013,
    "chat": 1013,
    "json": 3008,
    "protobuf": 3008,
    "http_stream": 3008,
    "http_stream_protobuf": 3008,
    "sse": 3008,
    "application": 1013,
}
# The WebSocket routes of a user's application.
APPLICATION_TRANSPORT = "application"
DELIVERY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
API_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
PROXY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
REVOCATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# The code of a valid request to the server API that failed.
FAILED = 100
PUBLISHED = ("stored", "failed", "too_large")
REFUSALS = (
    "draining",
    "capacity",
    "lag",
    "memory",
    "connect_rate",
    "origin",
    "no_token",
    "invalid_token",
    "issuer_unavailable",
    "parameters",
    "unknown_path",
    "handshake_timeout",
    "head_too_large",
    "body_timeout",
    "malformed_request",
    "bad_upgrade",
    "protocol_error",
    "invalid_utf8",
    "message_too_large",
    "control_flood",
    "message_rate",
)


@dataclass(frozen=True)
class Metric:
    """One metric as Prometheus sees it; `mode` is how the workers' gauges of one pod become one value.

    With `liveall` they do not: each has its worker's process id as the label `pid`.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    mode: Literal["livesum", "livemax", "livemin", "liveall", "max"] = "livesum"
    buckets: tuple[float, ...] = ()


METRICS = (
    Metric("starling_connections", "gauge", "Connections open now.", ("transport",)),
    Metric("starling_connections_opened_total", "counter", "Connections accepted.", ("transport",)),
    Metric(
        "starling_connections_closed_total",
        "counter",
        "WebSocket connections ended, by close code (vanished: 1006, of the client endpoint 3000 or 3009; more than 64 "
        "different ones, which clients may name: other).",
        ("transport", "code"),
    ),
    Metric(
        "starling_connections_refused_total",
        "counter",
        "Clients refused before the upgrade, or cut for what they sent.",
        ("reason",),
    ),
    Metric("starling_messages_received_total", "counter", "Messages from clients.", ("transport",)),
    Metric("starling_messages_sent_total", "counter", "Messages to clients.", ("transport",)),
    Metric("starling_received_bytes_total", "counter", "Payload bytes from clients.", ("transport",)),
    Metric("starling_sent_bytes_total", "counter", "Payload bytes to clients.", ("transport",)),
    Metric(
        "starling_delivery_seconds",
        "histogram",
        "From receiving a publication from the broker to writing it to the last subscriber's socket, in each worker, "
        "by its own clock; for one that a heal brought from noticing the gap. The broker's part is the canary's.",
        buckets=DELIVERY_BUCKETS,
    ),
    Metric("starling_write_buffer_bytes", "gauge", "Bytes that wait for clients that read slowly."),
    Metric("starling_write_buffer_clients", "gauge", "Clients for which bytes wait."),
    Metric(
        "starling_publications_total",
        "counter",
        "Publications by this pod's clients and API, by result.",
        ("channel_namespace", "result"),
    ),
    Metric(
        "starling_unreadable_messages_total",
        "counter",
        "Messages of channels that JSON clients did not get, because they could not read them; once a worker.",
    ),
    Metric("starling_subscriptions", "gauge", "Subscriptions of real-time clients.", ("channel_namespace",)),
    Metric(
        "starling_presence_clients",
        "gauge",
        "Clients that this pod shows in presence, or whose joins it publishes; one a channel.",
    ),
    Metric("starling_commands_total", "counter", "Commands of real-time clients that were carried out.", ("method",)),
    Metric("starling_command_errors_total", "counter", "Errors that answered a command, by code.", ("code",)),
    Metric(
        "starling_stream_heals_total",
        "counter",
        "Reads of a stream to fill a gap in the messages of the broker.",
        ("channel_namespace",),
    ),
    Metric(
        "starling_stream_healed_total",
        "counter",
        "Publications that the broker did not deliver and the stream had, delivered late.",
        ("channel_namespace",),
    ),
    Metric(
        "starling_stream_resets_total",
        "counter",
        "Gaps the stream could not fill; the subscribers got code 2500.",
        ("channel_namespace",),
    ),
    Metric("starling_stream_join_reads_total", "counter", "Reads of a stream for clients that enter its channel."),
    Metric("starling_stream_recent_bytes", "gauge", "Memory of the publications kept for clients that reconnect."),
    Metric(
        "starling_recoveries_total",
        "counter",
        "Clients that recovered from a position, by result.",
        ("channel_namespace", "result"),
    ),
    Metric(
        "starling_recoveries_from_memory_total",
        "counter",
        "Clients that recovered from a position without a read of entries from the broker.",
    ),
    Metric(
        "starling_api_requests_total",
        "counter",
        "Requests to the server API; code 0: done, 100 to 112: the error of the answer, 4xx: refused before that.",
        ("method", "code"),
    ),
    Metric(
        "starling_api_request_seconds",
        "histogram",
        "From a server API request's head to its answer, by method.",
        ("method",),
        buckets=API_BUCKETS,
    ),
    Metric(
        "starling_revocations_in_force", "gauge", "Revocations that the worker with the most knows.", mode="livemax"
    ),
    Metric(
        "starling_revocations_unstored",
        "gauge",
        "Revocations that the broker has not stored, kept by the worker that keeps the most.",
        mode="livemax",
    ),
    Metric("starling_revocations_total", "counter", "Revocations carried out by this pod's workers.", ("kind",)),
    Metric("starling_revoked_connections_total", "counter", "Connections ended because their token was revoked."),
    Metric(
        "starling_revocation_seconds",
        "histogram",
        "From the request to revoke to its execution, once a worker.",
        buckets=REVOCATION_BUCKETS,
    ),
    Metric("starling_channels", "gauge", "Channels with a subscriber in this worker, summed over workers."),
    Metric(
        "starling_broker_up",
        "gauge",
        "1 while every worker receives its own canary through the broker.",
        mode="livemin",
    ),
    Metric(
        "starling_broker_canary_seconds", "gauge", "Last round trip of a worker's canary, by worker.", mode="liveall"
    ),
    Metric(
        "starling_broker_canary_age_seconds",
        "gauge",
        "Time since a worker received its canary, by worker.",
        mode="liveall",
    ),
    Metric("starling_broker_reconnects_total", "counter", "Times the broker link was lost and came up again."),
    Metric(
        "starling_broker_failed_swaps",
        "gauge",
        "Broker links that failed one after the other, the worst worker's; 0 while each has one.",
        mode="livemax",
    ),
    Metric(
        "starling_broker_probes_total",
        "counter",
        "Probes of the broker while its links fail; received: the broker is healthy and the worker is at fault.",
        ("result",),
    ),
    Metric("starling_broker_dropped_total", "counter", "Broker messages not delivered, by reason.", ("reason",)),
    Metric("starling_webhook_events_total", "counter", "Webhook events, by result.", ("result",)),
    Metric("starling_webhook_queue", "gauge", "Webhook events that wait or are being sent."),
    Metric(
        "starling_proxy_requests_total",
        "counter",
        "Decisions asked of proxies, by event and result: answered, refused, cached, skipped by the circuit breaker, "
        "or why the backend gave no decision.",
        ("event", "result"),
    ),
    Metric(
        "starling_proxy_request_seconds",
        "histogram",
        "From a request to a proxy to its reply, by event.",
        ("event",),
        buckets=PROXY_BUCKETS,
    ),
    Metric(
        "starling_proxy_unanswered_renewals_total",
        "counter",
        "Connections and subscriptions at their end that no proxy gave an answer about; each is asked about again.",
        ("kind",),
    ),
    Metric("starling_proxy_backends_away", "gauge", "Backends that the circuit breaker of a worker leaves alone."),
    Metric("starling_trace_spans_total", "counter", "Trace spans, by result.", ("result",)),
    Metric(
        "starling_jwks_age_seconds",
        "gauge",
        "Time since the issuer's keys were fetched, or a fetch failed; 0 where none are fetched.",
        mode="livemax",
    ),
    Metric(
        "starling_event_loop_lag_seconds",
        "gauge",
        "Worst delay of a timer in the last 15 seconds, by worker.",
        mode="liveall",
    ),
    Metric("starling_worker_gc_seconds_total", "counter", "Time the garbage collector took; nothing else ran then."),
    Metric("starling_worker_gc_collections_total", "counter", "Runs of the garbage collector.", ("generation",)),
    Metric(
        "starling_connections_capacity",
        "gauge",
        "Connections that the workers may hold: STARLING_MAX_CONNECTIONS, or as many as files may be open.",
    ),
    Metric("starling_worker_ready", "gauge", "Workers that accept new clients."),
    Metric("starling_worker_draining", "gauge", "Workers that drain."),
    Metric("starling_drain_left", "gauge", "Clients that draining workers have still to disconnect."),
    Metric(
        "starling_drain_closes_total",
        "counter",
        "Clients disconnected by a drain: at the shared rate, faster for the deadline, or at a local rate.",
        ("reason",),
    ),
    Metric("starling_worker_resident_memory_bytes", "gauge", "Resident memory of the workers."),
    Metric(
        "starling_memory_used_ratio",
        "gauge",
        "Share of the pod's memory limit in use, without pages of files; 0 without a limit.",
        mode="livemax",
    ),
    Metric("starling_worker_cpu_seconds_total", "counter", "CPU time of the workers."),
    Metric("starling_worker_open_files", "gauge", "Open files of the worker with the most.", mode="livemax"),
    Metric("starling_worker_open_files_limit", "gauge", "Open files a worker may have.", mode="livemin"),
    Metric("starling_build_info", "gauge", "1, with the versions that run.", ("version", "python"), mode="max"),
)


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
        # What has never been 0 has no rate at its first time.
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

    def observe(self, seconds: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

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

    def waiting(self, clients: int, size: int) -> None:
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

    def answered(self, method: str, code: int, seconds: float) -> None:
        """Count a request to the server API; `code` 0 is one that was done."""
        self.api[method, code] += 1
        if (distribution := self.api_seconds.get(method)) is None:
            distribution = self.api_seconds[method] = Distribution(API_BUCKETS)
        distribution.observe(seconds)

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
        self.set("starling_worker_open_files", _count_open_files())
        self.set("starling_worker_open_files_limit", open_files_limit())


def open_files_limit() -> int:
    """Files, sockets among them, that this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def resident_memory() -> int:
    """Bytes of this process that are in memory; where the kernel has no /proc (macOS), the most there ever were."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def _count_open_files() -> int:
    # Since Linux 6.2 the size of the directory is their number; to list them takes milliseconds where there are many.
    directory = "/proc/self/fd"
    try:
        return Path(directory).stat().st_size or len(os.listdir(directory))  # noqa: PTH208 - the names are not needed
    except OSError:
        # macOS has no /proc; its /dev/fd lists the same, but its size is not their number.
        return len(os.listdir("/dev/fd"))  # noqa: PTH208 - the names are not needed
