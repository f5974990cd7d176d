"""Options of the wire protocol: pings, the rates and sizes of what one client may send, and the times it has."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from starling.options import Bytes, OptionProblem, Options, PerSecond, Seconds, WholeSeconds
from starling.variables import variable

_LIMITS = "Connections and their limits"


class PingOptions(Options):
    """How connections are found to be dead."""

    section = _LIMITS

    ping_seconds: Annotated[
        WholeSeconds,
        Field(ge=1, le=3600, description="How often a client is pinged; keep it under every proxy's idle timeout."),
    ] = 25
    pong_seconds: Annotated[
        WholeSeconds, Field(ge=1, le=600, description="How long the answer to a ping may take.")
    ] = 8

    def contradictions(self) -> Iterator[OptionProblem]:
        """A client is pinged again only after its answer was due."""
        if self.pong_seconds >= self.ping_seconds:
            yield OptionProblem(
                "pong_seconds",
                f"{variable('pong_seconds')} ({self.pong_seconds}) must be less than "
                f"{variable('ping_seconds')} ({self.ping_seconds})",
            )


class MessageSizeOptions(Options):
    """How large a message may be."""

    section = _LIMITS

    max_message_bytes: Annotated[
        Bytes,
        Field(
            ge=128, le=16 * 2**20, description="Largest message a client may send; a larger one is closed with 1009."
        ),
    ] = 65536


class MessageRateOptions(Options):
    """How much one client may send."""

    section = _LIMITS

    messages_per_second: Annotated[
        PerSecond,
        Field(
            ge=0,
            le=1_000_000,
            description="Messages (on the client endpoint: commands) a client may send a second. 0: no limit.",
        ),
    ] = 5_000.0
    message_burst: Annotated[
        int,
        Field(ge=1, le=10_000_000, description="How many of them a client may send at once; the rate gives them back."),
    ] = 100_000


class RenewalOptions(Options):
    """How connections are renewed by a backend."""

    section = "Proxies"

    proxy_grace_seconds: Annotated[
        Seconds,
        Field(ge=0, le=86400, description="How long a connection goes on past its end while `refresh` gets no answer."),
    ] = 60.0


class SessionOptions(PingOptions, MessageRateOptions, RenewalOptions):
    """What the session of one client may do, and the times it has."""

    section = "Channels"

    max_channels: Annotated[
        int, Field(ge=1, le=100_000, description="Channels one connection may be subscribed to.")
    ] = 128
    connect_seconds: Annotated[
        Seconds, Field(gt=0, le=300, description="Time a real-time client has to send its connect command.")
    ] = 10.0
    expiry_grace_seconds: Annotated[
        Seconds,
        Field(
            ge=0, le=3600, description="Time a client has to renew a token that has expired, before what it gave ends."
        ),
    ] = 25.0


class SessionLimits(SessionOptions):
    """All limits of a session: the settings, and behind them what only tests change.

    `pending` actions and waiting commands make the session busy. `errors_per_minute` counts the errors that were the
    client's own doing; beyond it the client is disconnected with 3509. Beyond `messages_per_second`, after a burst of
    `message_burst`, commands are answered with error 111, and beyond twice the burst the client is disconnected with
    3013. `proxy_grace_seconds` bounds connections and subscriptions alike.
    """

    pending: int = 64
    errors_per_minute: float = 300
