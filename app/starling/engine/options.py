"""Options of the engine: admission, channels, recovery, presence, revocation, and the broker link."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from starling.options import CommaSeparated, DeveloperOptions, OptionProblem, Options, PerSecond, Seconds, Share
from starling.protocol.options import MessageRateOptions, PingOptions
from starling.variables import variable


class AdmissionOptions(Options):
    """Limits beyond which a worker accepts no new clients; 0: no limit."""

    section = "Connections and their limits"

    max_connections: Annotated[
        int,
        Field(
            ge=0, description="Connections a worker holds; more are refused with 503. 0: bounded by open files only."
        ),
    ] = 0
    worker_connections_per_user: Annotated[
        int,
        Field(
            ge=0,
            le=1_000_000,
            description="Connections of one user in one worker; the next is closed with 3504, on a tutorial endpoint "
            "answered with 429. 0: any number.",
        ),
    ] = 100
    worker_connections_per_address: Annotated[
        int,
        Field(
            ge=0,
            le=1_000_000,
            description="Connections without a user from one address (of IPv6: one /64) in one worker; needs "
            "STARLING_TRUSTED_PROXIES behind a proxy, whose address all clients have otherwise. 0: any number.",
        ),
    ] = 0
    failed_connects_per_minute: Annotated[
        int,
        Field(
            ge=0,
            le=1_000_000,
            description="Connects with a bad, an expired or no token that one address (of IPv6: one /64) may try "
            "in a worker; then 429. Needs STARLING_TRUSTED_PROXIES behind a proxy. 0: any number.",
        ),
    ] = 0
    connects_per_second: Annotated[
        PerSecond,
        Field(
            ge=0,
            le=100_000,
            description="New connections a worker takes in a second, as many at once; more get 503. 0: any number.",
        ),
    ] = 0.0
    max_lag_seconds: Annotated[
        Seconds,
        Field(
            ge=0,
            le=60,
            description="Delay of a worker's event loop beyond which it refuses new connections with 503. 0: never.",
        ),
    ] = 1.0
    max_memory_share: Annotated[
        Share,
        Field(
            ge=0,
            le=1,
            description="Share of the pod's memory limit beyond which new connections are refused with 503. 0: never.",
        ),
    ] = 0.9


class PeerOptions(Options):
    """Whose word about a client's address counts."""

    section = "Tokens, and who may connect"

    trusted_proxies: Annotated[
        CommaSeparated,
        Field(description="Addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed."),
    ] = ("127.0.0.1", "::1")


class RevocationOptions(Options):
    """How long revocations are kept."""

    section = "Tokens, and who may connect"

    revocation_seconds: Annotated[
        Seconds,
        Field(
            ge=60,
            description="How long a revocation without an end of its own is kept: longer than any token lives.",
        ),
    ] = 30 * 86400.0


class LinkOptions(Options):
    """What a worker does while its broker link is down."""

    section = "Broker"

    ready_requires_broker_seconds: Annotated[
        Seconds,
        Field(ge=0, description="Unready a worker whose broker has been away this long. 0: never, which is safer."),
    ] = 0.0


class HistoryStoreOptions(Options):
    """How long the store keeps positions."""

    section = "Broker"

    position_read_ttl_seconds: Annotated[
        Seconds,
        Field(
            ge=1,
            le=366 * 86400,
            description="How long the position of a channel without a publication is kept after it was read. A client "
            "that is away longer gets `recovered: false`.",
        ),
    ] = 3600.0


class ChannelsFileOptions(Options):
    """Where the options of channels are, and which channels users have by themselves."""

    section = "Channels"

    channels_file: Annotated[
        Path | None,
        Field(description="YAML or JSON file with the options of channels and namespaces: see docs/channels.md."),
    ] = None
    subscribe_to_personal_channel: Annotated[
        bool,
        Field(description="Subscribe every user's connections to the channel `#USER`, which is that user's alone."),
    ] = False
    personal_channel_namespace: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9_.-]{0,64}$",
            description="Namespace of personal channels, which are then called `NAMESPACE:#USER`. Unset: the default "
            "namespace.",
        ),
    ] = ""

    def contradictions(self) -> Iterator[OptionProblem]:
        """A namespace of personal channels needs personal channels."""
        if self.personal_channel_namespace and not self.subscribe_to_personal_channel:
            yield OptionProblem(
                "personal_channel_namespace",
                f"{variable('personal_channel_namespace')} is set, but there are no personal channels: set "
                f"{variable('subscribe_to_personal_channel')}=true, or unset it",
            )


class FirstUseOptions(DeveloperOptions):
    """How many new channels a user may cause."""

    section = "Channels"

    new_channels_per_second: Annotated[
        PerSecond,
        Field(
            ge=0,
            le=100_000,
            description="Channels with history that a user may be the first to use, in a worker and in the long run. "
            "0: any number.",
        ),
    ] = 10.0
    new_channel_burst: Annotated[
        int, Field(ge=1, le=1_000_000, description="How many of them a user may be the first to use at once.")
    ] = 1000

    @property
    def first_use_rate(self) -> float:
        """New channels of a user in a second; 0: any number, as in developer mode."""
        return 0.0 if self.dev else self.new_channels_per_second


class RecoveryOptions(Options):
    """How much a client may recover."""

    section = "Channels"

    recovery_limit: Annotated[
        int,
        Field(
            ge=1, le=100_000, description="Publications a client gets at most on its return, or by one history call."
        ),
    ] = 300


class PresenceOptions(Options):
    """How long clients stay in presence."""

    section = "Channels"

    presence_ttl_seconds: Annotated[
        Seconds, Field(ge=3, le=86400, description="How long who was in a channel is still shown after a crash.")
    ] = 60.0
    presence_leave_delay_seconds: Annotated[
        Seconds,
        Field(ge=0, le=60, description="How long a leave waits for the user to reconnect, as after a page reload."),
    ] = 0.0


class EngineOptions(
    AdmissionOptions,
    LinkOptions,
    FirstUseOptions,
    RecoveryOptions,
    PresenceOptions,
    PingOptions,
    MessageRateOptions,
):
    """All options of an engine.

    Clients of tutorial endpoints are pinged, and bounded in what they send, by these; sessions of the client endpoint
    have options of their own.
    """

    contact_file: Path | None = None
    """Made at the first contact of any worker with the broker; without it no worker is ready before its own contact."""
