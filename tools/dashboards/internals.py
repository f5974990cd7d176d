"""The dashboard "Starling internals"."""

from tools.dashboards.dashboard import Dashboard, Panel, Query, Row
from tools.dashboards.queries import by, of, rate


def internals() -> Dashboard:
    """What goes on inside the workers, for whoever knows which part of the service is not well."""
    return Dashboard(
        uid="starling-internals",
        title="Starling internals",
        meaning="The busiest channels, and what goes on inside the workers.",
        rows=(
            Row("Busiest channels", _channels()),
            Row("Event loops", _loops()),
            Row("Memory and writing", _memory()),
            Row("Links to the broker", _links()),
            Row("Streams", _streams()),
            Row("Tracing", _tracing()),
        ),
    )


def _each(metric: str) -> tuple[Query, ...]:
    """One line for each worker."""
    return (Query(of(metric), "{{pod}} {{pid}}"),)


def _channels() -> tuple[Panel, ...]:
    def top(figure: str, function: str = "sum") -> tuple[Query, ...]:
        return by("channel", of(f"starling_top_channel_{figure}"), function)

    return (
        Panel(
            "Deliveries by channel",
            "Messages to single clients a second, of the busiest channels of each pod, over about ten seconds.",
            "ops",
            top("deliveries_per_second"),
            width=12,
        ),
        Panel(
            "Messages by channel",
            "Publications, joins and leaves a second, each counted once.",
            "ops",
            top("messages_per_second", "max"),
            width=12,
        ),
        Panel("Bytes by channel", "Payload to clients a second.", "Bps", top("bytes_per_second")),
        Panel("Subscribers by channel", "Of the busiest channels.", "short", top("subscribers")),
        Panel(
            "Drops by channel",
            "Broker messages a second that a worker had no room for.",
            "ops",
            top("dropped_per_second"),
        ),
    )


def _loops() -> tuple[Panel, ...]:
    return (
        Panel("Loop lag by worker", "How late timers run.", "s", _each("starling_event_loop_lag_seconds"), width=12),
        Panel(
            "Worker silence",
            "Since a worker showed the master that its event loop turns; each does so every second.",
            "s",
            (Query(of("starling_worker_silent_seconds"), "{{pod}} worker {{worker}}"),),
            width=12,
        ),
        Panel(
            "Garbage collector",
            "Share of the time in which nothing else runs, summed over a pod's workers.",
            "percentunit",
            by("pod", rate("starling_worker_gc_seconds_total")),
            width=12,
        ),
        Panel(
            "Collections by generation",
            "Runs of the garbage collector a minute.",
            "short",
            (
                Query(
                    f"60 * sum by (generation) ({rate('starling_worker_gc_collections_total')})",
                    "generation {{generation}}",
                ),
            ),
            width=12,
        ),
    )


def _memory() -> tuple[Panel, ...]:
    resident, open_now = of("starling_worker_resident_memory_bytes"), of("starling_connections")
    return (
        Panel(
            "Memory a connection",
            "Resident memory by open connections. It should fall as connections come; that it rises is a leak.",
            "bytes",
            (Query(f"sum by (pod) ({resident}) / clamp_min(sum by (pod) ({open_now}), 1)", "{{pod}}"),),
        ),
        Panel(
            "Write buffers",
            "Bytes that wait for clients that read slowly.",
            "bytes",
            by("pod", of("starling_write_buffer_bytes")),
        ),
        Panel(
            "Clients behind",
            "Clients for which bytes wait.",
            "short",
            by("pod", of("starling_write_buffer_clients")),
        ),
    )


def _links() -> tuple[Panel, ...]:
    return (
        Panel("Canary by worker", "The last round trip.", "s", _each("starling_broker_canary_seconds"), width=12),
        Panel(
            "Canary's age by worker",
            "Since a worker last heard itself through the broker.",
            "s",
            _each("starling_broker_canary_age_seconds"),
            width=12,
        ),
    )


def _streams() -> tuple[Panel, ...]:
    from_memory = f"sum({rate('starling_recoveries_from_memory_total')})"
    return (
        Panel(
            "Stream reads",
            "Reads of Redis a second: to fill gaps, and for clients that enter a channel.",
            "ops",
            (
                Query(f"sum({rate('starling_stream_heals_total')})", "heal"),
                Query(f"sum({rate('starling_stream_join_reads_total')})", "join"),
            ),
        ),
        Panel(
            "Healed publications",
            "Publications a second that Pub/Sub lost and the stream had; delivered late.",
            "ops",
            by("channel_namespace", rate("starling_stream_healed_total")),
        ),
        Panel(
            "Recoveries from memory",
            "Share of clients back with a position that a worker's memory served, without entries of Redis's.",
            "percentunit",
            (Query(f"{from_memory} / sum({rate('starling_recoveries_total')})", "from memory"),),
            maximum=1,
        ),
        Panel(
            "Recent publications",
            "Memory of the publications kept for clients that come back; 64 MiB a worker at most.",
            "bytes",
            by("pod", of("starling_stream_recent_bytes")),
            width=24,
        ),
    )


def _tracing() -> tuple[Panel, ...]:
    return (
        Panel(
            "Trace spans by result",
            "A second. Failed: the collector did not take them; dropped: too many waited, or the worker ended.",
            "ops",
            by("result", rate("starling_trace_spans_total")),
            width=24,
        ),
    )
