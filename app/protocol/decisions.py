"""What a session decides. The connection carries decisions out in their order.

`Write`, `Ping` and `Close` are done once they are carried out. Every other decision is an action: it may take time, and
the connection tells its one outcome back to the session, through the method that the action names or `refused`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from msgspec import Raw

from app.protocol.codes import Disconnect, Unsubscribe
from app.protocol.messages import (
    ConnectRequest,
    HistoryRequest,
    PresenceRequest,
    PresenceStatsRequest,
    PublishRequest,
    RefreshRequest,
    Reply,
    RPCRequest,
    SendRequest,
    SubRefreshRequest,
    SubscribeRequest,
)


@dataclass(eq=False, slots=True)
class Subscription:
    """One channel of one client.

    (`epoch`, `offset`) is the position the client was told on entering; whoever delivers to it may move it on.
    `chan_info` is what others see of the client in this channel. `expires_at` is on the session's clock, with grace.
    """

    channel: str
    server_side: bool
    chan_info: Raw
    epoch: str = ""
    offset: int = 0
    recoverable: bool = False
    positioned: bool = False
    expires_at: float = float("inf")


@dataclass(frozen=True, slots=True)
class Write:
    """Send this reply or push."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Ping:
    """Send the empty reply."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection; the session is over."""

    disconnect: Disconnect


@dataclass(frozen=True, eq=False, slots=True)
class Action:
    """Something to carry out for the command `id`; 0 where nobody waits for an answer."""

    id: int

    @property
    def channel(self) -> str | None:
        """The channel whose later commands wait for this action's outcome."""
        return None


@dataclass(frozen=True, eq=False, slots=True)
class Authenticate(Action):
    """Find out who the client is and subscribe it to its channels. Then `connected`."""

    request: ConnectRequest


@dataclass(frozen=True, eq=False, slots=True)
class Subscribe(Action):
    """Ask for permission, unless `server_side`, and enter the channel. Then `subscribed`.

    `terms` are what the server gives in the channel on its own, opaque here.
    """

    request: SubscribeRequest
    server_side: bool = False
    terms: Any = None

    @property
    def channel(self) -> str:
        """The channel to enter."""
        return self.request.channel


@dataclass(frozen=True, eq=False, slots=True)
class EndSubscription(Action):
    """Leave the channel: before anything else happens the client must get no more of it. Then `ended`.

    `reason` is None where the client asked for it or the connection ends.
    """

    subscription: Subscription
    reason: Unsubscribe | None = None

    @property
    def channel(self) -> str:
        """The channel to leave."""
        return self.subscription.channel


@dataclass(frozen=True, eq=False, slots=True)
class Query(Action):
    """What has a result and changes nothing in the session. Then `answered`."""

    reply_field: ClassVar[str]


@dataclass(frozen=True, eq=False, slots=True)
class Call(Query):
    """Call the application's method."""

    reply_field = "rpc"
    request: RPCRequest


@dataclass(frozen=True, eq=False, slots=True)
class ChannelQuery(Query):
    """A query about a channel; `subscription` is None where the client is not in it."""

    request: PublishRequest | PresenceRequest | PresenceStatsRequest | HistoryRequest
    subscription: Subscription | None

    @property
    def channel(self) -> str:
        """The channel it is about."""
        return self.request.channel


@dataclass(frozen=True, eq=False, slots=True)
class Publish(ChannelQuery):
    """Publish to the channel."""

    reply_field = "publish"
    request: PublishRequest


@dataclass(frozen=True, eq=False, slots=True)
class Presence(ChannelQuery):
    """Read who is in the channel."""

    reply_field = "presence"
    request: PresenceRequest


@dataclass(frozen=True, eq=False, slots=True)
class PresenceStats(ChannelQuery):
    """Count who is in the channel."""

    reply_field = "presence_stats"
    request: PresenceStatsRequest


@dataclass(frozen=True, eq=False, slots=True)
class History(ChannelQuery):
    """Read the channel's stream."""

    reply_field = "history"
    request: HistoryRequest


@dataclass(frozen=True, eq=False, slots=True)
class Deliver(Action):
    """Give the application what the client sent; no answer is expected. Then `delivered`."""

    request: SendRequest


@dataclass(frozen=True, eq=False, slots=True)
class Refresh(Action):
    """Check the new connection token. Then `refreshed`."""

    request: RefreshRequest


@dataclass(frozen=True, eq=False, slots=True)
class SubRefresh(Action):
    """Check the new token of the subscription. Then `sub_refreshed`."""

    request: SubRefreshRequest
    subscription: Subscription

    @property
    def channel(self) -> str:
        """The channel it is about."""
        return self.request.channel


Decision = Write | Ping | Close | Action
