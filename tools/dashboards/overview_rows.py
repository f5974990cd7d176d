"""The rows of "Starling overview" that stay folded until someone needs them."""

from tools.dashboards.dashboard import Panel, Query
from tools.dashboards.queries import by, of, quantile, rate


def api() -> tuple[Panel, ...]:
    """Requests of backends."""
    return (
        Panel("API requests by method", "A second.", "ops", by("method", rate("starling_api_requests_total"))),
        Panel(
            "API requests by code",
            "A second. 0: success; 100: failed, retry; 101 to 112: invalid request; 4xx: rejected before.",
            "ops",
            by("code", rate("starling_api_requests_total")),
        ),
        Panel(
            "API time by method",
            "From a request's head to its response, at the quantile chosen above.",
            "s",
            (Query(quantile("starling_api_request_seconds", "$quantile", "le, method"), "{{method}}"),),
        ),
    )


def tokens() -> tuple[Panel, ...]:
    """Revocations, and the keys that verify tokens."""
    return (
        Panel(
            "Revocations in force",
            "The largest count of a worker; all workers of all pods should have the same.",
            "short",
            (
                *by("pod", of("starling_revocations_in_force"), "max"),
                Query(f"max by (pod) ({of('starling_revocations_unstored')})", "{{pod}} not stored"),
            ),
        ),
        Panel(
            "Revocations by kind",
            "Applied a minute, once in each worker.",
            "short",
            (Query(f"60 * sum by (kind) ({rate('starling_revocations_total')})", "{{kind}}"),),
        ),
        Panel(
            "Connections revoked",
            "Closed a minute because their token was revoked.",
            "short",
            (Query(f"60 * sum by (pod) ({rate('starling_revoked_connections_total')})", "{{pod}}"),),
        ),
        Panel(
            "Time to revoke",
            "From the request until a worker has applied it, at the quantile chosen above.",
            "s",
            (Query(quantile("starling_revocation_seconds", "$quantile"), "revocation"),),
            width=12,
        ),
        Panel(
            "Age of the issuer's keys",
            "Since the last successful fetch, or the first failed one; 0 where no key set is fetched.",
            "s",
            by("pod", of("starling_jwks_age_seconds"), "max"),
            width=12,
        ),
    )


def broker() -> tuple[Panel, ...]:
    """The links to the broker."""

    def worst(metric: str, function: str = "max") -> tuple[Query, ...]:
        return (Query(f"{function} by (pod) ({of(metric)})", "{{pod}}"),)

    dropped = f"sum by (reason) ({rate('starling_broker_dropped_total')})"
    return (
        Panel(
            "Broker up",
            "1 while every worker of the pod receives its own messages through the broker.",
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
            "Time since a worker last received its own message; grows while the broker is unavailable.",
            "s",
            worst("starling_broker_canary_age_seconds"),
        ),
        Panel(
            "Reconnects",
            "Lost and restored broker links a minute.",
            "short",
            (Query(f"60 * sum by (pod) ({rate('starling_broker_reconnects_total')})", "{{pod}}"),),
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
            "Consecutive failed broker links; 0 while every worker has a link.",
            "short",
            worst("starling_broker_failed_swaps"),
            width=12,
        ),
        Panel(
            "Probes by result",
            "A minute. Received while links keep failing: the worker itself is at fault and is replaced.",
            "short",
            (Query(f"60 * sum by (result) ({rate('starling_broker_probes_total')})", "{{result}}"),),
            width=12,
        ),
    )


def webhooks() -> tuple[Panel, ...]:
    """Webhook events for backends."""
    return (
        Panel(
            "Webhook events by result",
            "A second. Failed: given up after all attempts; dropped: the queue was full, or the worker ended.",
            "ops",
            (Query(f"sum by (result) ({rate('starling_webhook_events_total')})", "{{result}}"),),
            width=12,
        ),
        Panel(
            "Webhook events waiting",
            "Grows while the receiver is unavailable or slow; a worker keeps 10,000 at most.",
            "short",
            (Query(f"sum by (pod) ({of('starling_webhook_queue')})", "{{pod}}"),),
            width=12,
        ),
    )


def proxies() -> tuple[Panel, ...]:
    """Decisions that backends take over HTTP."""
    requests, seconds = rate("starling_proxy_requests_total"), "starling_proxy_request_seconds"
    return (
        Panel(
            "Proxy decisions by result",
            "A second. Neither answered, refused nor cached: the backend gave no decision; skipped: the circuit "
            "breaker was open.",
            "ops",
            (Query(f"sum by (event, result) ({requests})", "{{event}} {{result}}"),),
            width=12,
        ),
        Panel(
            "Proxy time",
            "From a request to a backend to its reply, 99 % of them. Clients wait as long.",
            "s",
            (Query(quantile(seconds, "0.99", "le, event"), "{{event}}"),),
            width=6,
        ),
        Panel(
            "Backends away",
            "Workers times backends whose circuit breaker is open: their new clients get a temporary error. "
            "Unanswered: connections and subscriptions past their end, asked about again, a second.",
            "short",
            (
                Query(f"sum by (pod) ({of('starling_proxy_backends_away')})", "{{pod}}"),
                Query(f"sum by (kind) ({rate('starling_proxy_unanswered_renewals_total')})", "unanswered {{kind}}"),
            ),
            width=6,
        ),
    )


def workers() -> tuple[Panel, ...]:
    """The processes and the resources they use."""
    files = f"{of('starling_worker_open_files')} / {of('starling_worker_open_files_limit')}"
    return (
        Panel(
            "Worker states",
            "Workers that run, that accept new clients, and that drain.",
            "short",
            (
                Query(f"sum({of('starling_workers')})", "running"),
                Query(f"sum({of('starling_worker_ready')})", "ready"),
                Query(f"sum({of('starling_worker_draining')})", "draining"),
            ),
        ),
        Panel(
            "Event loop lag",
            "How late timers ran at worst in 15 seconds, in the worst worker; everything is delayed by as much.",
            "s",
            (Query(f"max by (pod) ({of('starling_event_loop_lag_seconds')})", "{{pod}}"),),
        ),
        Panel(
            "Restarts",
            "Workers a minute that exited unexpectedly and were replaced.",
            "short",
            (Query(f"60 * sum by (pod) ({rate('starling_worker_restarts_total')})", "{{pod}}"),),
        ),
        Panel(
            "Configuration",
            "Version of each pod's configuration, one more after each reload; failed is 1 where a file had a mistake.",
            "short",
            (
                Query(f"max by (pod) ({of('starling_configuration_version')})", "{{pod}} version"),
                Query(f"max by (pod) ({of('starling_configuration_reload_failed')})", "{{pod}} failed"),
            ),
        ),
        Panel(
            "Resident memory",
            "Of all workers of a pod; shared memory is counted more than once.",
            "bytes",
            (Query(f"sum by (pod) ({of('starling_worker_resident_memory_bytes')})", "{{pod}}"),),
        ),
        Panel(
            "Memory of the limit",
            "Share of the pod's memory limit in use; 0 without a limit.",
            "percentunit",
            by("pod", of("starling_memory_used_ratio"), "max"),
            maximum=1,
        ),
        Panel(
            "Clients left to drain",
            "Clients that draining workers still have to disconnect.",
            "short",
            by("pod", of("starling_drain_left")),
        ),
        Panel(
            "Drain closes by reason",
            "A second: at the shared drain rate, faster to meet the deadline, or at a local rate.",
            "ops",
            by("reason", rate("starling_drain_closes_total")),
        ),
        Panel(
            "Pods by version",
            "Pods of each version; two during a rolling update.",
            "short",
            by("version", of("starling_build_info"), "count"),
        ),
        Panel(
            "CPU",
            "CPU cores used by the workers of a pod.",
            "short",
            (Query(f"sum by (pod) ({rate('starling_worker_cpu_seconds_total')})", "{{pod}}"),),
        ),
        Panel(
            "Open files",
            "Share of the files that the worker with the most may open. A connection is one.",
            "percentunit",
            (Query(f"max by (pod) ({files})", "{{pod}}"),),
            maximum=1,
        ),
    )


def append_streams() -> tuple[Panel, ...]:
    """Streams that grow, such as answers of language models."""
    chunks, appends = rate("starling_stream_appended_chunks_total"), rate("starling_stream_appends_total")
    return (
        Panel(
            "Open streams",
            "Append-only streams that are open, in all pods.",
            "short",
            (Query(f"max({of('starling_streams_open')})", "open"),),
        ),
        Panel(
            "Streams opened and ended",
            "A second. Interrupted: the producer was silent; it may go on.",
            "ops",
            (
                Query(f"sum({rate('starling_streams_opened_total')})", "opened"),
                *by("status", rate("starling_streams_ended_total")),
            ),
        ),
        Panel(
            "Bytes appended",
            "Content appended to streams a second.",
            "Bps",
            by("channel_namespace", rate("starling_stream_appended_bytes_total")),
        ),
        Panel(
            "Requests joined in one publication",
            "Appends of one producer that arrived within a window; 1 where producers send one request a window.",
            "short",
            (Query(f"sum({chunks}) / sum({appends})", "requests"),),
            width=24,
        ),
    )
