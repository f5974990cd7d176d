"""What the server layer serves: the application, and the functions that the server calls."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from starling.engine.direct_request import RequestEndpoint
from starling.engine.readiness import Readiness
from starling.engine.small_stores import DrainRateStore
from starling.engine.upgrade import Rejection, UpgradeEndpoint
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


class RejectReason(StrEnum):
    """The argument of `Service.on_refused`; the first six before the upgrade, the others on an open WebSocket."""

    HANDSHAKE_TIMEOUT = "handshake_timeout"
    HEAD_TOO_LARGE = "head_too_large"
    BODY_TIMEOUT = "body_timeout"
    MALFORMED_REQUEST = "malformed_request"
    BAD_UPGRADE = "bad_upgrade"
    DRAINING = "draining"
    PROTOCOL_ERROR = "protocol_error"
    INVALID_UTF8 = "invalid_utf8"
    MESSAGE_TOO_LARGE = "message_too_large"
    CONTROL_FLOOD = "control_flood"


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
