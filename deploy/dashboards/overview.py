"""The dashboard "Starling overview"."""

from deploy.dashboards.dashboard import CHOSEN, Dashboard, Figure, Panel, Query, Row


def overview() -> Dashboard:
    """The dashboard an on-call engineer opens first: is the service well, and if not, which part of it?"""
    return Dashboard(
        uid="starling-overview",
        title="Starling overview",
        meaning="Connections, messages, the broker and the workers of Starling.",
        rows=(
            Row("Overview", _figures()),
            Row("Connections", _connections()),
            Row("Messages", _messages()),
            Row("Real-time protocol", _realtime()),
            Row("Broker", _broker(), folded=True),
            Row("Webhooks", _webhooks(), folded=True),
            Row("Workers", _workers(), folded=True),
        ),
    )


def _of(metric: str, matchers: str = "") -> str:
    """What the variables choose of `metric`."""
    return f"{metric}{{{CHOSEN}{',' if matchers else ''}{matchers}}}"


def _rate(metric: str, matchers: str = "") -> str:
    """How fast a counter grows, in each second."""
    return f"rate({_of(metric, matchers)}[$__rate_interval])"


def _delivery(quantile: str, by: str = "le") -> str:
    return f"histogram_quantile({quantile}, sum by ({by}) ({_rate('starling_delivery_seconds_bucket')}))"


def _figures() -> tuple[Figure, ...]:
    failed = _rate("starling_publications_total", 'result="failed"')
    errors = f"sum({failed}) + (sum({_rate('starling_broker_dropped_total')}) or vector(0))"
    return (
        Figure("Connections", "Open now.", "short", (Query(f"sum({_of('starling_connections')})", "open"),)),
        Figure(
            "To clients", "Messages sent.", "ops", (Query(f"sum({_rate('starling_messages_sent_total')})", "sent"),)
        ),
        Figure(
            "Delivery, 99 %",
            "Time from the broker's taking a publication to its frames being handed to the sockets.",
            "s",
            (Query(_delivery("0.99"), "delivery"),),
        ),
        Figure("Errors", "Publications that failed and broker messages dropped.", "ops", (Query(errors, "errors"),)),
        Figure(
            "Broker",
            "Up while every worker hears itself through the broker.",
            "short",
            (Query(f"min({_of('starling_broker_up')})", "broker"),),
            words={"0": ("down", "red"), "1": ("up", "green")},
        ),
        Figure("Pods", "Pods that Prometheus reaches.", "short", (Query(f"sum({_of('up')})", "pods"),)),
        Figure(
            "Ready workers", "Want new clients.", "short", (Query(f"sum({_of('starling_worker_ready')})", "ready"),)
        ),
        Figure(
            "Version",
            "What runs; two versions during a rolling update.",
            "short",
            (Query(f"count by (version) ({_of('starling_build_info')})", "{{version}}"),),
            by_name=True,
        ),
    )


def _connections() -> tuple[Panel, ...]:
    def by(label: str, series: str) -> tuple[Query, ...]:
        return (Query(f"sum by ({label}) ({series})", f"{{{{{label}}}}}"),)

    return (
        Panel("Connections by pod", "Open now.", "short", by("pod", _of("starling_connections")), width=12),
        Panel("Connections by transport", "Open now.", "short", by("transport", _of("starling_connections")), width=12),
        Panel("Opened", "Accepted a second.", "ops", by("transport", _rate("starling_connections_opened_total"))),
        Panel(
            "Closed by code",
            "Ended a second. 1000, 1001: the client's own wish; 1006: vanished; 1012: drain; 3008: slow.",
            "ops",
            by("code", _rate("starling_connections_closed_total")),
        ),
        Panel(
            "Refused by reason",
            "Turned away a second, before the upgrade.",
            "ops",
            by("reason", _rate("starling_connections_refused_total")),
        ),
    )


def _messages() -> tuple[Panel, ...]:
    received = f"sum by (transport) ({_rate('starling_messages_received_total')})"
    sent = f"sum by (transport) ({_rate('starling_messages_sent_total')})"
    return (
        Panel("From clients", "Messages received a second.", "ops", (Query(received, "{{transport}}"),)),
        Panel("To clients by transport", "Messages sent a second.", "ops", (Query(sent, "{{transport}}"),)),
        Panel(
            "Payload",
            "Bytes a second, without frames' headers.",
            "Bps",
            (
                Query(f"sum({_rate('starling_received_bytes_total')})", "received"),
                Query(f"sum({_rate('starling_sent_bytes_total')})", "sent"),
            ),
        ),
        Panel(
            "Delivery",
            "Time from the broker's taking a publication to its frames being handed to the sockets.",
            "s",
            (Query(_delivery("0.5"), "50 %"), Query(_delivery("0.99"), "99 %")),
        ),
        Panel(
            "Delivery by pod",
            "The same for each pod, at the quantile chosen above.",
            "s",
            (Query(_delivery("$quantile", "le, pod"), "{{pod}}"),),
        ),
        Panel(
            "Publications by result",
            "A second, of clients and API. Failed: the broker did not take them.",
            "ops",
            (Query(f"sum by (result) ({_rate('starling_publications_total')})", "{{result}}"),),
        ),
        Panel(
            "Channels",
            "Channels with a subscriber, summed over workers.",
            "short",
            (Query(f"sum by (pod) ({_of('starling_channels')})", "{{pod}}"),),
            width=24,
        ),
    )


def _realtime() -> tuple[Panel, ...]:
    def by(label: str, metric: str) -> tuple[Query, ...]:
        return (Query(f"sum by ({label}) ({_rate(metric)})", f"{{{{{label}}}}}"),)

    return (
        Panel(
            "Subscriptions",
            "Of real-time clients.",
            "short",
            (Query(f"sum by (pod) ({_of('starling_subscriptions')})", "{{pod}}"),),
        ),
        Panel("Commands by method", "Carried out a second.", "ops", by("method", "starling_commands_total")),
        Panel(
            "Command errors by code",
            "Errors a second. 100: ours; 103: forbidden; 108: not available; 112: not recoverable.",
            "ops",
            by("code", "starling_command_errors_total"),
        ),
        Panel(
            "Recoveries by result",
            "Clients a second that came back with a position. Refused: the history no longer reached back so far.",
            "ops",
            by("result", "starling_recoveries_total"),
            width=12,
        ),
        Panel(
            "Gaps in streams",
            "A second: healed by reading the stream, unnoticed by clients; reset where it could not fill the gap.",
            "ops",
            (
                Query(f"sum({_rate('starling_stream_heals_total')})", "healed"),
                Query(f"sum({_rate('starling_stream_resets_total')})", "reset"),
            ),
            width=12,
        ),
    )


def _broker() -> tuple[Panel, ...]:
    def worst(metric: str, function: str = "max") -> tuple[Query, ...]:
        return (Query(f"{function} by (pod) ({_of(metric)})", "{{pod}}"),)

    dropped = f"sum by (reason) ({_rate('starling_broker_dropped_total')})"
    return (
        Panel(
            "Broker up",
            "1 while every worker of the pod hears itself through the broker.",
            "short",
            worst("starling_broker_up", "min"),
            maximum=1,
        ),
        Panel(
            "Canary's round trip",
            "How long a worker's message to itself takes; the worst worker's.",
            "s",
            worst("starling_broker_canary_seconds"),
        ),
        Panel(
            "Canary's age",
            "How long ago a worker last heard itself; grows while the broker is away.",
            "s",
            worst("starling_broker_canary_age_seconds"),
        ),
        Panel(
            "Reconnects",
            "Times a minute that a link to the broker was lost and found.",
            "short",
            (Query(f"60 * sum by (pod) ({_rate('starling_broker_reconnects_total')})", "{{pod}}"),),
            width=12,
        ),
        Panel(
            "Dropped by reason",
            "Broker messages a second that reached no client.",
            "ops",
            (Query(dropped, "{{reason}}"),),
            width=12,
        ),
        Panel(
            "Failed links",
            "Links to the broker that failed one after the other; 0 while every worker has one.",
            "short",
            worst("starling_broker_failed_swaps"),
            width=12,
        ),
        Panel(
            "Probes by result",
            "A minute. Heard while links go on failing: the worker itself is at fault, and is replaced.",
            "short",
            (Query(f"60 * sum by (result) ({_rate('starling_broker_probes_total')})", "{{result}}"),),
            width=12,
        ),
    )


def _webhooks() -> tuple[Panel, ...]:
    return (
        Panel(
            "Webhook events by result",
            "A second. Failed: given up after all attempts; dropped: the queue was full, or the worker ended.",
            "ops",
            (Query(f"sum by (result) ({_rate('starling_webhook_events_total')})", "{{result}}"),),
            width=12,
        ),
        Panel(
            "Webhook events waiting",
            "Grows while the receiver is away or slow; a worker keeps 10,000 at most.",
            "short",
            (Query(f"sum by (pod) ({_of('starling_webhook_queue')})", "{{pod}}"),),
            width=12,
        ),
    )


def _workers() -> tuple[Panel, ...]:
    files = f"{_of('starling_worker_open_files')} / {_of('starling_worker_open_files_limit')}"
    return (
        Panel(
            "Worker states",
            "Workers that run, that want new clients, and that let theirs go.",
            "short",
            (
                Query(f"sum({_of('starling_workers')})", "running"),
                Query(f"sum({_of('starling_worker_ready')})", "ready"),
                Query(f"sum({_of('starling_worker_draining')})", "draining"),
            ),
        ),
        Panel(
            "Event loop lag",
            "How late timers run in the worst worker: everything is late by as much.",
            "s",
            (Query(f"max by (pod) ({_of('starling_event_loop_lag_seconds')})", "{{pod}}"),),
        ),
        Panel(
            "Restarts",
            "Workers a minute that ended unexpectedly and were replaced.",
            "short",
            (Query(f"60 * sum by (pod) ({_rate('starling_worker_restarts_total')})", "{{pod}}"),),
        ),
        Panel(
            "Resident memory",
            "Of all workers of a pod; what they share is counted more than once.",
            "bytes",
            (Query(f"sum by (pod) ({_of('starling_worker_resident_memory_bytes')})", "{{pod}}"),),
        ),
        Panel(
            "Processor",
            "Processors in use by the workers of a pod.",
            "short",
            (Query(f"sum by (pod) ({_rate('starling_worker_cpu_seconds_total')})", "{{pod}}"),),
        ),
        Panel(
            "Open files",
            "Share of the files that the worker with the most may open. A connection is one.",
            "percentunit",
            (Query(f"max by (pod) ({files})", "{{pod}}"),),
            maximum=1,
        ),
    )
