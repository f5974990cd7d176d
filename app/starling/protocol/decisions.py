"""What a session decides. The connection carries decisions out in their order.

`Write`, `Ping` and `Close` are complete once they are executed. Every other decision is an action: it may take time,
and the connection reports its one outcome to the session, through the method that the action names or `refused`.
"""

from typing import ClassVar

from msgspec import Raw, Struct

from starling.protocol.codes import Disconnect, Unsubscribe
from starling.protocol.commands import (
    ConnectRequest,
    HistoryRequest,
    PresenceRequest,
    PresenceStatsRequest,
    PublishRequest,
    RefreshRequest,
    RPCRequest,
    SendRequest,
    SubRefreshRequest,
    SubscribeRequest,
)
from starling.protocol.messages import Reply


class Subscription(Struct, eq=False):
    """One channel of one client.

    (`epoch`, `offset`) is the position that was sent to the client when it subscribed; deliveries may advance it.
    `chan_info` is what others see of the client in this channel. `expires_at` is on the session's clock, with grace;
    `renew_at`, on the same clock, is when a backend is asked whether it goes on.
    """

    channel: str
    server_side: bool
    chan_info: Raw
    epoch: str = ""
    offset: int = 0
    recoverable: bool = False
    positioned: bool = False
    expires_at: float = float("inf")
    renew_at: float = float("inf")


class Write(Struct, frozen=True):
    """Send this reply or push."""

    reply: Reply


class Ping(Struct, frozen=True):
    """Send the empty reply."""


class Close(Struct, frozen=True):
    """Close the connection; the session is over."""

    disconnect: Disconnect


class Action(Struct, frozen=True, eq=False):
    """Something to carry out for the command `id`; 0 where nobody waits for an answer."""

    id: int

    @property
    def channel(self) -> str | None:
        """The channel whose later commands wait for this action's outcome."""
        return None


class Authenticate(Action, frozen=True, eq=False):
    """Find out who the client is and subscribe it to its channels. Then `connected`."""

    request: ConnectRequest


class ServerTerms(Struct, frozen=True):
    """What the server gives in a channel on its own; the layer above declares what that holds."""


class Subscribe(Action, frozen=True, eq=False):
    """Ask for permission, unless `server_side`, and enter the channel. Then `subscribed`.

    `terms` are what the server gives in the channel on its own.
    """

    request: SubscribeRequest
    server_side: bool = False
    terms: ServerTerms | None = None

    @property
    def channel(self) -> str:
        """The channel to enter."""
        return self.request.channel


class EndSubscription(Action, frozen=True, eq=False):
    """Leave the channel: before anything else happens the client must get no more of it. Then `ended`.

    `reason` is None where the client asked for it or the connection ends.
    """

    subscription: Subscription
    reason: Unsubscribe | None = None

    @property
    def channel(self) -> str:
        """The channel to leave."""
        return self.subscription.channel


class Query(Action, frozen=True, eq=False):
    """What has a result and changes nothing in the session. Then `answered`."""

    reply_field: ClassVar[str]


class Call(Query, frozen=True, eq=False):
    """Call the application's method."""

    reply_field = "rpc"
    request: RPCRequest


class ChannelQuery(Query, frozen=True, eq=False):
    """A query about a channel; `subscription` is None where the client is not in it."""

    request: PublishRequest | PresenceRequest | PresenceStatsRequest | HistoryRequest
    subscription: Subscription | None

    @property
    def channel(self) -> str:
        """The channel it is about."""
        return self.request.channel


class Publish(ChannelQuery, frozen=True, eq=False):
    """Publish to the channel."""

    reply_field = "publish"
    request: PublishRequest


class Presence(ChannelQuery, frozen=True, eq=False):
    """Read who is in the channel."""

    reply_field = "presence"
    request: PresenceRequest


class PresenceStats(ChannelQuery, frozen=True, eq=False):
    """Count who is in the channel."""

    reply_field = "presence_stats"
    request: PresenceStatsRequest


class History(ChannelQuery, frozen=True, eq=False):
    """Read the channel's stream."""

    reply_field = "history"
    request: HistoryRequest


class Deliver(Action, frozen=True, eq=False):
    """Give the application what the client sent; no answer is expected. Then `delivered`."""

    request: SendRequest


class Refresh(Action, frozen=True, eq=False):
    """Check the new connection token. Then `refreshed`."""

    request: RefreshRequest


class SubRefresh(Action, frozen=True, eq=False):
    """Check the new token of the subscription. Then `sub_refreshed`."""

    request: SubRefreshRequest
    subscription: Subscription

    @property
    def channel(self) -> str:
        """The channel it is about."""
        return self.request.channel


class RenewConnection(Action, frozen=True, eq=False):
    """Ask the backend whether the connection goes on. Then `renewed`."""


class RenewSubscription(Action, frozen=True, eq=False):
    """Ask the backend whether the subscription goes on. Then `renewed`."""

    subscription: Subscription


Decision = Write | Ping | Close | Action
