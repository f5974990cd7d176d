"""Every metric of a worker: its name, kind, labels and help, from which dashboards and documentation follow."""

from dataclasses import dataclass
from typing import Literal

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
    "uni_http_stream": 3008,
    "uni_sse": 3008,
    "uni_websocket": 3008,
    "event_stream": 3008,
    "application": 1013,
}

# The WebSocket routes of a user's application.
APPLICATION_TRANSPORT = "application"

DELIVERY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

API_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

PROXY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

REVOCATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

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
    "connect_refused",
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
    "emulation_gone",
    "emulation_malformed",
    "emulation_busy",
    "emulation_unavailable",
    "emulation_flood",
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
    Metric("starling_streams_open", "gauge", "Append-only streams that are open, in all pods.", mode="livemax"),
    Metric("starling_streams_opened_total", "counter", "Append-only streams opened.", ("channel_namespace",)),
    Metric(
        "starling_streams_ended_total",
        "counter",
        "Append-only streams closed, by status; interrupted ones, whose producer was silent, may go on.",
        ("channel_namespace", "status"),
    ),
    Metric(
        "starling_stream_appends_total",
        "counter",
        "Publications that appended to streams.",
        ("channel_namespace",),
    ),
    Metric(
        "starling_stream_appended_chunks_total",
        "counter",
        "Requests to append; those of one window become one publication.",
        ("channel_namespace",),
    ),
    Metric(
        "starling_stream_appended_bytes_total",
        "counter",
        "Bytes of content appended to streams.",
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
