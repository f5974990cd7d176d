"""The dashboard "Starling overview"."""

from tools.dashboards.dashboard import Dashboard, Number, Panel, Query, Row
from tools.dashboards.overview_rows import api, append_streams, broker, proxies, tokens, webhooks, workers
from tools.dashboards.queries import by, of, quantile, rate


def overview() -> Dashboard:
    """The dashboard that an on-call engineer opens first: is the service healthy, and if not, which part is not?"""
    return Dashboard(
        uid="starling-overview",
        title="Starling overview",
        meaning="Connections, messages, the broker and the workers of Starling.",
        rows=(
            Row("Overview", _stats()),
            Row("Connections", _connections()),
            Row("Messages", _messages()),
            Row("Real-time protocol", _realtime()),
            Row("Append-only streams", append_streams(), folded=True),
            Row("Server API", api(), folded=True),
            Row("Tokens", tokens(), folded=True),
            Row("Webhooks", webhooks(), folded=True),
            Row("Proxies", proxies(), folded=True),
            Row("Broker", broker(), folded=True),
            Row("Workers", workers(), folded=True),
        ),
    )


def _stats() -> tuple[Number, ...]:
    failed = rate("starling_publications_total", 'result="failed"')
    errors = f"sum({failed}) + (sum({rate('starling_broker_dropped_total')}) or vector(0))"
    return (
        Number("Connections", "Open now.", "short", (Query(f"sum({of('starling_connections')})", "open"),)),
        Number("To clients", "Messages sent.", "ops", (Query(f"sum({rate('starling_messages_sent_total')})", "sent"),)),
        Number(
            "Delivery, 99 %",
            "From a worker receiving a publication to its last write to a socket. The broker's part: the canary.",
            "s",
            (Query(quantile("starling_delivery_seconds", "0.99"), "delivery"),),
        ),
        Number("Errors", "Publications that failed and broker messages dropped.", "ops", (Query(errors, "errors"),)),
        Number(
            "Broker",
            "Up while every worker receives its own messages through the broker.",
            "short",
            (Query(f"min({of('starling_broker_up')})", "broker"),),
            words={"0": ("down", "red"), "1": ("up", "green")},
        ),
        Number("Pods", "Pods that Prometheus reaches.", "short", (Query(f"sum({of('up')})", "pods"),)),
        Number(
            "Ready workers",
            "Workers that accept new clients.",
            "short",
            (Query(f"sum({of('starling_worker_ready')})", "ready"),),
        ),
        Number(
            "Version",
            "Running versions; two during a rolling update.",
            "short",
            (Query(f"count by (version) ({of('starling_build_info')})", "{{version}}"),),
            by_name=True,
        ),
    )


def _connections() -> tuple[Panel, ...]:
    held = of("starling_connections")
    return (
        Panel("Connections by pod", "Open now.", "short", by("pod", of("starling_connections")), width=12),
        Panel("Connections by transport", "Open now.", "short", by("transport", of("starling_connections")), width=12),
        Panel("Opened", "Accepted a second.", "ops", by("transport", rate("starling_connections_opened_total"))),
        Panel(
            "Closed by code",
            "Ended a second. 1000, 1001: by the client; 1006, 3000: connection lost; 1012, 3001: drain; "
            "1013, 3008: slow.",
            "ops",
            by("code", rate("starling_connections_closed_total")),
        ),
        Panel(
            "Refused by reason",
            "A second: rejected before the upgrade, or closed for what they sent.",
            "ops",
            by("reason", rate("starling_connections_refused_total")),
        ),
        Panel(
            "Slow clients",
            "Disconnected a second, because they read too slowly.",
            "ops",
            by("pod", rate("starling_connections_closed_total", 'code=~"1013|3008"')),
            width=12,
        ),
        Panel(
            "Capacity",
            "Share of the connections that the workers may hold.",
            "percentunit",
            (Query(f"sum by (pod) ({held}) / sum by (pod) ({of('starling_connections_capacity')})", "{{pod}}"),),
            width=12,
            maximum=1,
        ),
    )


def _messages() -> tuple[Panel, ...]:
    in_time = rate("starling_delivery_seconds_bucket", 'le="0.25"')
    late = f"1 - sum({in_time}) / sum({rate('starling_delivery_seconds_count')})"
    received = f"sum by (transport) ({rate('starling_messages_received_total')})"
    sent = f"sum by (transport) ({rate('starling_messages_sent_total')})"
    return (
        Panel("From clients", "Messages received a second.", "ops", (Query(received, "{{transport}}"),)),
        Panel("To clients by transport", "Messages sent a second.", "ops", (Query(sent, "{{transport}}"),)),
        Panel(
            "Payload",
            "Bytes a second, without frames' headers.",
            "Bps",
            (
                Query(f"sum({rate('starling_received_bytes_total')})", "received"),
                Query(f"sum({rate('starling_sent_bytes_total')})", "sent"),
            ),
        ),
        Panel(
            "Delivery",
            "From a worker receiving a publication to its last write to a socket. The broker's part: the canary.",
            "s",
            (
                Query(quantile("starling_delivery_seconds", "0.5"), "50 %"),
                Query(quantile("starling_delivery_seconds", "0.99"), "99 %"),
            ),
        ),
        Panel(
            "Delivery by pod",
            "The same for each pod, at the quantile chosen above.",
            "s",
            (Query(quantile("starling_delivery_seconds", "$quantile", "le, pod"), "{{pod}}"),),
        ),
        Panel(
            "Late deliveries",
            "Share of deliveries over 250 ms. The objective: at most 1 % within 30 days.",
            "percentunit",
            (Query(late, "late"),),
        ),
        Panel(
            "Lost publications",
            "A second: dropped before a worker delivered them, gaps that the stream could not fill, and data that "
            "JSON clients cannot read (see publication_data_format). "
            "The objective: at most 0.01 % of what is delivered.",
            "ops",
            (
                Query(f"sum({rate('starling_broker_dropped_total')})", "dropped"),
                Query(f"sum({rate('starling_stream_resets_total')})", "gaps"),
                Query(f"sum({rate('starling_unreadable_messages_total')})", "unreadable"),
            ),
        ),
        Panel(
            "Publications by result",
            "A second, of clients and API. Failed: the broker did not accept them.",
            "ops",
            (Query(f"sum by (result) ({rate('starling_publications_total')})", "{{result}}"),),
        ),
        Panel(
            "Publications by namespace",
            "A second, of clients and API.",
            "ops",
            by("channel_namespace", rate("starling_publications_total")),
            width=12,
        ),
        Panel(
            "Channels",
            "Channels with a subscriber, summed over workers.",
            "short",
            by("pod", of("starling_channels")),
            width=12,
        ),
    )


def _realtime() -> tuple[Panel, ...]:
    return (
        Panel(
            "Subscriptions",
            "Of clients on the client endpoint.",
            "short",
            by("pod", of("starling_subscriptions")),
        ),
        Panel(
            "Subscriptions by namespace",
            "Of clients on the client endpoint.",
            "short",
            by("channel_namespace", of("starling_subscriptions")),
        ),
        Panel(
            "Presence",
            "Clients shown in presence, each once a channel.",
            "short",
            by("pod", of("starling_presence_clients")),
        ),
        Panel(
            "Commands by method",
            "Executed a second.",
            "ops",
            by("method", rate("starling_commands_total")),
            width=12,
        ),
        Panel(
            "Command errors by code",
            "Errors a second. 100: internal; 103: permission denied; 108: not available; 112: not recoverable.",
            "ops",
            by("code", rate("starling_command_errors_total")),
            width=12,
        ),
        Panel(
            "Recoveries by result",
            "Clients a second that reconnected with a position. Refused: the history was too short.",
            "ops",
            by("result", rate("starling_recoveries_total")),
            width=12,
        ),
        Panel(
            "Gaps in streams",
            "A second. Healed: filled from the stream, clients notice nothing. Reset: the gap could not be filled.",
            "ops",
            (
                Query(f"sum({rate('starling_stream_heals_total')})", "healed"),
                Query(f"sum({rate('starling_stream_resets_total')})", "reset"),
            ),
            width=12,
        ),
    )
