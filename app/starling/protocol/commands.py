"""Commands of clients in the wire protocol: one struct for each request, and the command that carries one."""

from msgspec import Raw, Struct

from starling.protocol.messages import (
    NO_PAYLOAD,
    NULL_PAYLOAD,
    Int32,
    Offset,
    StreamPosition,
    Uint32,
)
from starling.protocol.tags_filter import FilterNode


class SubscribeRequest(Struct, omit_defaults=True):
    """Enter a channel; with `recover`, from (`epoch`, `offset`) on.

    `flag` is a set of bits; with FLAG_REJECT_UNRECOVERED the client wants error 112 in place of `recovered: false`.
    With FLAG_CHANNEL_ID pushes of the channel may name it by a number. `tf` is a filter by tags, `delta` the kind of
    patches that the client can apply. `type` is the kind of subscription, 0 for a stream; others (maps, shared polls)
    are refused.
    """

    channel: str = ""
    token: str = ""
    data: Raw = NO_PAYLOAD
    recover: bool = False
    epoch: str = ""
    offset: Offset = 0
    positioned: bool = False
    recoverable: bool = False
    join_leave: bool = False
    delta: str = ""
    tf: FilterNode | None = None
    flag: Offset = 0
    type: Int32 = 0


class ConnectRequest(Struct, omit_defaults=True):
    """Who the client says it is, and where it stood in the channels the server subscribed it to."""

    token: str = ""
    data: Raw = NO_PAYLOAD
    name: str = ""
    version: str = ""
    subs: dict[str, SubscribeRequest] = {}
    headers: dict[str, str] = {}


class UnsubscribeRequest(Struct, omit_defaults=True):
    """Leave a channel."""

    channel: str = ""


class PublishRequest(Struct, omit_defaults=True):
    """Send `data` to a channel. `type` is its kind, 0 for a stream; others are refused."""

    channel: str = ""
    data: Raw = NO_PAYLOAD
    type: Int32 = 0


class PresenceRequest(Struct, omit_defaults=True):
    """Ask who is in a channel."""

    channel: str = ""


class PresenceStatsRequest(Struct, omit_defaults=True):
    """Ask how many are in a channel."""

    channel: str = ""


class HistoryRequest(Struct, omit_defaults=True):
    """Read a channel's stream. `limit` 0 asks for the position only, a negative one for all there is."""

    channel: str = ""
    limit: Int32 = 0
    since: StreamPosition | None = None
    reverse: bool = False


class RPCRequest(Struct, omit_defaults=True):
    """Call `method` of the application."""

    data: Raw = NO_PAYLOAD
    method: str = ""


class SendRequest(Struct, omit_defaults=True):
    """Send the application a message, without a reply."""

    data: Raw = NO_PAYLOAD


class RefreshRequest(Struct, omit_defaults=True):
    """Bring a new connection token."""

    token: str = ""


class SubRefreshRequest(Struct, omit_defaults=True):
    """Bring a new token for one subscription."""

    channel: str = ""
    token: str = ""


class PingRequest(Struct, omit_defaults=True):
    """Ask for a sign of life; the answer is as empty."""


Request = (
    ConnectRequest
    | SubscribeRequest
    | UnsubscribeRequest
    | PublishRequest
    | PresenceRequest
    | PresenceStatsRequest
    | HistoryRequest
    | PingRequest
    | SendRequest
    | RPCRequest
    | RefreshRequest
    | SubRefreshRequest
)


class Command(Struct, omit_defaults=True):
    """What a client asks: an `id` of its choice and one request. Without either it is a pong."""

    id: Uint32 = 0
    connect: ConnectRequest | None = None
    subscribe: SubscribeRequest | None = None
    unsubscribe: UnsubscribeRequest | None = None
    publish: PublishRequest | None = None
    presence: PresenceRequest | None = None
    presence_stats: PresenceStatsRequest | None = None
    history: HistoryRequest | None = None
    ping: PingRequest | None = None
    send: SendRequest | None = None
    rpc: RPCRequest | None = None
    refresh: RefreshRequest | None = None
    sub_refresh: SubRefreshRequest | None = None

    def requests(self) -> list[Request]:
        """The requests it carries; a legal command has one, a pong none."""
        return [
            request
            for request in (
                self.connect,
                self.subscribe,
                self.unsubscribe,
                self.publish,
                self.presence,
                self.presence_stats,
                self.history,
                self.ping,
                self.send,
                self.rpc,
                self.refresh,
                self.sub_refresh,
            )
            if request is not None
        ]


def unset_nulls(command: Command) -> None:
    """Unset payloads that are `null` in JSON, except those of publish, rpc and send: these are the user's own."""
    subscribes = [] if command.subscribe is None else [command.subscribe]
    if (connect := command.connect) is not None:
        subscribes += connect.subs.values()
        if connect.data == NULL_PAYLOAD:
            connect.data = NO_PAYLOAD
    for subscribe in subscribes:
        if subscribe.data == NULL_PAYLOAD:
            subscribe.data = NO_PAYLOAD


ChannelRequest = (
    SubscribeRequest
    | UnsubscribeRequest
    | PublishRequest
    | PresenceRequest
    | PresenceStatsRequest
    | HistoryRequest
    | SubRefreshRequest
)
# Fields that a request must have, and not empty.
REQUIRED_FIELDS: dict[type[Struct], tuple[str, ...]] = {
    SubscribeRequest: ("channel",),
    UnsubscribeRequest: ("channel",),
    PublishRequest: ("channel", "data"),
    PresenceRequest: ("channel",),
    PresenceStatsRequest: ("channel",),
    HistoryRequest: ("channel",),
    RefreshRequest: ("token",),
    SubRefreshRequest: ("channel", "token"),
}
