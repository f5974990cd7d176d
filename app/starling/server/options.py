"""The options of the server layer: how to serve, and what."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starling.engine.direct_request import RequestEndpoint
from starling.engine.drain_rate import DrainRateStore
from starling.engine.readiness import Readiness
from starling.engine.rejection import Rejection
from starling.engine.upgrade import UpgradeEndpoint
from starling.server.drain_rate import DrainStats
from starling.telemetry.top_channels import ChannelTraffic

Asgi = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[MutableMapping[str, Any]]],
        Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]

BODY_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How to serve. Times are in seconds, sizes in bytes."""

    host: str
    port: int
    internal_host: str
    internal_port: int
    workers: int
    runtime_dir: Path
    """For the workers' status files and, in `metrics`, Prometheus's; best on tmpfs, this pod's alone."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks whose X-Forwarded-For and X-Forwarded-Proto are believed."""
    backlog: int = 4096

    keep_alive_seconds: int = 75
    """How long an idle HTTP connection stays open after a response; longer than the proxy in front keeps its own."""
    handshake_seconds: float = 10.0
    """From the connection, or the end of the response before, to the end of the request's head."""
    body_seconds: float = BODY_SECONDS
    """From the end of a request's head to the end of its body."""
    close_seconds: float = 3.0
    """How long a peer may take over its part of the closing handshake before its socket is cut."""
    unacknowledged_seconds: float = 36.0
    """How long the kernel keeps trying to deliver (TCP_USER_TIMEOUT): ping interval, pong time and close_seconds."""
    acknowledge_seconds: float = 8.0
    """The client of a stream is gone when its host has acknowledged nothing for so long after a ping."""
    max_head_bytes: int = 16384
    max_header_fields: int = 128
    max_message_bytes: int = 65536
    max_fragments: int = 128
    compression: bool = False
    """Whether to meet clients that offer permessage-deflate."""
    waiting_budget_bytes: int = 0
    """What may wait for all clients of a worker together, shared frames aside; 0: no bound."""
    send_buffer_bytes: int = 65536
    """The kernel's part of what may wait for a slow reader (SO_SNDBUF)."""

    drain_delay_seconds: float = 5.0
    """From SIGTERM to the closing of the listeners, for routers to notice."""
    drain_seconds: float = 20.0
    """The time in which clients are then disconnected."""
    drain_rate: float = 0.0
    """Disconnects a second of all processes with one `Service.drain_rate_store`; 0: each process for itself."""
    shutdown_seconds: int = 5
    """For what then remains: requests under way, and the application's own end."""
    heartbeat_seconds: int = 30
    """A worker whose event loop stands still this long is replaced."""

    top_channels: int = 10
    """How many of the busiest channels /metrics names."""

    @property
    def metrics_dir(self) -> Path:
        """Where PROMETHEUS_MULTIPROC_DIR must point before prometheus_client is first imported."""
        return self.runtime_dir / "metrics"

    @property
    def status_dir(self) -> Path:
        """The directory where each worker keeps its status file."""
        return self.runtime_dir / "workers"


class ReloadError(Exception):
    """What was read again cannot be used; `problems` names each with its remedy."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ApplicationError(Exception):
    """A user's application that cannot be served; the message has the remedy, `trace` the user's own lines."""

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


def _nothing_to_reload() -> bytes:
    raise ReloadError(["this service has nothing that is read again"])


@dataclass(frozen=True, slots=True)
class Service:
    """What to serve, built before the workers are forked: nothing in it may hold a loop, a thread or a connection."""

    asgi: Asgi
    readiness: Readiness
    endpoints: Mapping[str, UpgradeEndpoint] = field(default_factory=dict)
    """Endpoints by path whose upgrades the server answers by itself, without `asgi`."""
    requests: RequestEndpoint | None = None
    """What answers the requests that it accepts without `asgi`."""
    on_refused: Callable[..., None] = lambda reason, **seen: None
    """Called in the worker with the RejectReason of a client that is cut before the application receives it."""
    drain_rate_store: DrainRateStore | None = None
    """Where the processes that drain take turns; None: each for itself."""
    drain: DrainStats = field(default_factory=DrainStats)
    """The progress of the worker's drain, updated by the worker."""
    on_waiting: Callable[[int, int], None] = lambda clients, size: None
    """Called in the worker about once a second with the number of clients for which bytes wait, and of those bytes."""
    top_channels: Callable[[int], list[ChannelTraffic]] = lambda limit: []
    """Called in the worker: returns its busiest channels, at most the given number."""
    reload: Callable[[], bytes] = _nothing_to_reload
    """Called in the master at SIGHUP: reads and validates what came from files. Raises ReloadError."""
    apply: Callable[[bytes], None] = lambda configuration: None
    """Called in each worker with what `reload` returned, before it serves or while it does."""
    begin: Callable[[], None] = lambda: None
    """Called in each worker after the fork, before it serves. Raises ApplicationError."""
    admit: Callable[[], Rejection | None] = lambda: None
    """Called in the worker once for each WebSocket, before any work is done for it: None, or why it is rejected."""
