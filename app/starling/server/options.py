"""Options of the server layer: where it listens, what a socket may cost, and how it stops."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from starling.engine.options import PeerOptions
from starling.options import (
    DeveloperOptions,
    OptionProblem,
    Options,
    PerSecond,
    Seconds,
    SettingsError,
    Share,
    WholeSeconds,
    problem,
)
from starling.protocol.options import MessageSizeOptions, PingOptions
from starling.server.console.options import ConsoleOptions
from starling.telemetry.options import TopChannelsOptions
from starling.variables import variable

SHORTEST_DRAIN_SECONDS = 20.0
LONGEST_DRAIN_SECONDS = 3600.0
BODY_SECONDS = 10.0
STATUS_DIR = "workers"


def _no_service_link(value: object) -> object:
    if isinstance(value, str) and value.startswith("tcp://"):
        raise ValueError(
            "this is the address that Kubernetes sets for a Service of this name; "
            "set enableServiceLinks: false on the pod"
        )
    return value


Port = Annotated[int, Field(ge=1, le=65535), BeforeValidator(_no_service_link)]


class ListenOptions(DeveloperOptions):
    """Where the service listens, and how many processes do."""

    section = "Ports and processes"

    host: Annotated[
        str | None,
        Field(description="Address the public port listens on. Unset: `0.0.0.0`; in developer mode `127.0.0.1`."),
    ] = None
    port: Annotated[Port, Field(description="Public port: WebSocket endpoints, server API, pages.")] = 8000
    internal_host: Annotated[
        str, Field(description="Address the internal port listens on; anyone who reaches it can read it.")
    ] = "127.0.0.1"
    internal_port: Annotated[
        Port, Field(description="Internal port: metrics and probes of the whole pod; never publish it.")
    ] = 9090
    workers: Annotated[
        int | None,
        Field(ge=1, le=64, description="Worker processes. Unset: 1 on `memory://`, else the CPUs this pod may use."),
    ] = None
    runtime_dir: Annotated[
        Path | None,
        Field(
            description="Directory for the workers' status and metric files, best on tmpfs. Unset: a new temporary one."
        ),
    ] = None

    @property
    def listen_host(self) -> str:
        """The address of the public port: as set, else every address, in developer mode this machine's alone."""
        if self.host is not None:
            return self.host
        return "127.0.0.1" if self.dev else "0.0.0.0"  # noqa: S104 - a server in a container is reached from outside it

    def contradictions(self) -> Iterator[OptionProblem]:
        """The two ports differ."""
        if self.port == self.internal_port:
            yield OptionProblem(
                "internal_port",
                f"{variable('port')} and {variable('internal_port')} are both {self.port}: "
                "give one of them another port",
            )


class SocketOptions(MessageSizeOptions):
    """What one client's socket may cost, and how long it may take."""

    section = "Connections and their limits"

    waiting_memory_share: Annotated[
        Share,
        Field(
            ge=0,
            le=1,
            description="Share of the memory limit that replies may take while they wait for slow clients, in all "
            "workers; beyond it the clients that wait with most are closed as slow. 0: no bound.",
        ),
    ] = 0.2
    compression: Annotated[
        bool,
        Field(
            description="Compress messages of 256 bytes and more for clients that offer it (permessage-deflate): "
            "see docs/compression.md."
        ),
    ] = False
    handshake_seconds: Annotated[
        Seconds, Field(gt=0, le=300, description="Time a new connection has to finish its request's head.")
    ] = 10.0
    keep_alive_seconds: Annotated[
        WholeSeconds,
        Field(
            ge=1,
            le=3600,
            description="How long an idle HTTP connection stays open after a response; keep it over what the load "
            "balancer keeps its own connections: nginx and AWS 60 s, Google Cloud 600 s.",
        ),
    ] = 75


class DrainOptions(Options):
    """How a process stops."""

    section = "Stop"

    drain_delay_seconds: Annotated[
        Seconds,
        Field(ge=0, le=600, description="After SIGTERM: how long the listeners stay, until routers have noticed."),
    ] = 5.0
    drain_seconds: Annotated[
        Seconds | None,
        Field(
            ge=0,
            le=LONGEST_DRAIN_SECONDS,
            description="Duration of the drain, whatever the rate. Unset: 20, or what "
            "`STARLING_MAX_CONNECTIONS` of each worker take at `STARLING_DRAIN_RATE` if that is longer.",
        ),
    ] = None
    drain_rate: Annotated[
        PerSecond,
        Field(
            ge=0,
            le=100_000,
            description="Clients that all pods on one Redis disconnect a second, exceeded only where "
            "`STARLING_DRAIN_SECONDS` would not do. 0: each worker for itself, evenly over that time.",
        ),
    ] = 500.0


class ServerOptions(
    ListenOptions, ConsoleOptions, PeerOptions, SocketOptions, PingOptions, DrainOptions, TopChannelsOptions
):
    """All options of the server layer: the settings, and behind them what only tests change.

    Times are in seconds, sizes in bytes.
    """

    waiting_budget_bytes: int = 0
    """What may wait for all clients of a worker together, shared frames aside; 0: no bound."""
    backlog: int = 4096
    body_seconds: float = BODY_SECONDS
    """From the end of a request's head to the end of its body."""
    close_seconds: float = 3.0
    """How long a peer may take over its part of the closing handshake before its socket is cut."""
    max_head_bytes: int = 16384
    max_header_fields: int = 128
    max_fragments: int = 128
    send_buffer_bytes: int = 65536
    """The kernel's part of what may wait for a slow reader (SO_SNDBUF)."""
    shutdown_seconds: int = 5
    """For what remains after the drain: requests under way, and the application's own end."""
    heartbeat_seconds: int = 30
    """A worker whose event loop stands still this long is replaced."""

    @property
    def worker_count(self) -> int:
        """How many workers run."""
        return self.workers or 1

    @property
    def drain_time(self) -> float:
        """The time in which clients are disconnected, after the delay."""
        return SHORTEST_DRAIN_SECONDS if self.drain_seconds is None else self.drain_seconds

    @property
    def unacknowledged_seconds(self) -> float:
        """How long the kernel keeps trying to deliver (TCP_USER_TIMEOUT): ping interval, pong time, closing time."""
        return self.ping_seconds + self.pong_seconds + self.close_seconds

    @property
    def acknowledge_seconds(self) -> float:
        """The client of a stream is gone when its host has acknowledged nothing for this long after a ping."""
        return self.pong_seconds

    @property
    def directory(self) -> Path:
        """The directory of this service, which no other uses. Raises SettingsError where none is set."""
        if self.runtime_dir is None:
            raise SettingsError([problem("runtime_dir", "it is not set: name a directory that can be written")])
        return self.runtime_dir

    @property
    def metrics_dir(self) -> Path:
        """Where PROMETHEUS_MULTIPROC_DIR must point before prometheus_client is first imported."""
        return self.directory / "metrics"

    @property
    def status_dir(self) -> Path:
        """The directory where each worker keeps its status file."""
        return self.directory / STATUS_DIR
