"""The dashboard "Starling internals"."""

from tools.dashboards.dashboard import Dashboard, Panel, Query, Row
from tools.dashboards.queries import by, of, rate


def internals() -> Dashboard:
    """The inside of the workers, for those who know which part of the service is not healthy."""
    return Dashboard(
        uid="starling-internals",
        title="Starling internals",
        meaning="The busiest channels, and the inside of the workers.",
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
    def top(measure: str, function: str = "sum") -> tuple[Query, ...]:
        return by("channel", of(f"starling_top_channel_{measure}"), function)

    return (
        Panel(
            "Deliveries by channel",
            "Messages to single clients a second, of the busiest channels of each pod, averaged over ten seconds.",
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
            "Broker messages a second that a worker dropped because its queue was full.",
            "ops",
            top("dropped_per_second"),
        ),
    )


def _loops() -> tuple[Panel, ...]:
    return (
        Panel("Loop lag by worker", "How late timers run.", "s", _each("starling_event_loop_lag_seconds"), width=12),
        Panel(
            "Worker silence",
            "Time since a worker last reported to the master; each reports every second.",
            "s",
            (Query(of("starling_worker_silent_seconds"), "{{pod}} worker {{worker}}"),),
            width=12,
        ),
        Panel(
            "Garbage collector",
            "Share of the time spent in garbage collection, summed over a pod's workers.",
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
            "Resident memory by open connections. It falls as connections are added; a rise is a leak.",
            "bytes",
            (Query(f"sum by (pod) ({resident}) / clamp_min(sum by (pod) ({open_now}), 1)", "{{pod}}"),),
        ),
        Panel(
            "Write buffers",
            "Bytes buffered for slow clients.",
            "bytes",
            by("pod", of("starling_write_buffer_bytes")),
        ),
        Panel(
            "Clients behind",
            "Clients with buffered bytes.",
            "short",
            by("pod", of("starling_write_buffer_clients")),
        ),
    )


def _links() -> tuple[Panel, ...]:
    return (
        Panel("Canary by worker", "The last round trip.", "s", _each("starling_broker_canary_seconds"), width=12),
        Panel(
            "Canary's age by worker",
            "Time since a worker last received its own message through the broker.",
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
            "Reads of Redis a second: to fill gaps, and for clients that subscribe.",
            "ops",
            (
                Query(f"sum({rate('starling_stream_heals_total')})", "heal"),
                Query(f"sum({rate('starling_stream_join_reads_total')})", "join"),
            ),
        ),
        Panel(
            "Healed publications",
            "Publications a second that Pub/Sub lost and the stream still had; delivered late.",
            "ops",
            by("channel_namespace", rate("starling_stream_healed_total")),
        ),
        Panel(
            "Recoveries from memory",
            "Share of recoveries served from a worker's memory without reading entries from Redis.",
            "percentunit",
            (Query(f"{from_memory} / sum({rate('starling_recoveries_total')})", "from memory"),),
            maximum=1,
        ),
        Panel(
            "Recent publications",
            "Memory of the publications kept for recoveries; 64 MiB a worker at most.",
            "bytes",
            by("pod", of("starling_stream_recent_bytes")),
            width=24,
        ),
    )


def _tracing() -> tuple[Panel, ...]:
    return (
        Panel(
            "Trace spans by result",
            "A second. Failed: the collector did not accept them; dropped: the queue was full, or the worker ended.",
            "ops",
            by("result", rate("starling_trace_spans_total")),
            width=24,
        ),
    )
