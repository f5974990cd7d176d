"""The values that travel between clients and Starling, named as the Centrifuge client protocol names them.

Fields that are bytes in the protocol's schema are `Raw`: JSON as it came for JSON clients, any bytes for Protobuf
clients, never parsed here. A `Raw` read from a frame is a view that keeps the frame alive; `.copy()` what is kept.
"""

from typing import Annotated

from msgspec import Meta, Raw, Struct

from starling.protocol.codes import Error, Unsubscribe
from starling.protocol.tags_filter import FilterNode

Uint32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
# uint64 in the schema; msgspec bounds end at int64, and no stream comes near it.
Offset = Annotated[int, Meta(ge=0, le=2**63 - 1)]

NO_PAYLOAD = Raw()
NULL_PAYLOAD = Raw(b"null")

# Bits of SubscribeRequest.flag.
FLAG_CHANNEL_ID = 1
FLAG_REJECT_UNRECOVERED = 2


# --- what both directions speak of ---


class ClientInfo(Struct, omit_defaults=True):
    """Who a client is, as others may know it. `conn_info` and `chan_info` are raw JSON from the tokens."""

    user: str = ""
    client: str = ""
    conn_info: Raw = NO_PAYLOAD
    chan_info: Raw = NO_PAYLOAD

    def __post_init__(self) -> None:
        # An encoder leaves a default out by identity, and an empty Raw it writes is no JSON.
        if not self.conn_info:
            self.conn_info = NO_PAYLOAD
        if not self.chan_info:
            self.chan_info = NO_PAYLOAD


class Publication(Struct, omit_defaults=True):
    """One message of a channel.

    `data` is the original payload and is never parsed. `offset` is its number in the channel's stream, 0 where the
    channel has no history. `time` is when it was published, by the clock of the process that did so, in milliseconds
    since 1970. With `delta` the payload is a patch of the publication that the reader got before it.
    """

    data: Raw = NO_PAYLOAD
    info: ClientInfo | None = None
    offset: int = 0
    tags: dict[str, str] | None = None
    time: int = 0
    delta: bool = False


class StreamPosition(Struct, omit_defaults=True):
    """A position in a channel's stream, as `history` requests it."""

    offset: Offset = 0
    epoch: str = ""


# --- client to server ---


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


# --- server to client: the result of a command ---


class SubscribeResult(Struct, omit_defaults=True):
    """The client is in the channel, and what it missed since the position it named. `ttl` in seconds."""

    expires: bool = False
    ttl: int = 0
    recoverable: bool = False
    epoch: str = ""
    publications: list[Publication] = []
    recovered: bool = False
    offset: int = 0
    positioned: bool = False
    data: Raw = NO_PAYLOAD
    was_recovering: bool = False
    delta: bool = False
    id: int = 0


class ConnectResult(Struct, omit_defaults=True):
    """The connection stands. `ttl` and `ping` in seconds; `subs` are the channels the server subscribed it to.

    `resume`, an addition to the public protocol, is what connects again in the place of a ticket that is spent.
    """

    client: str = ""
    version: str = ""
    expires: bool = False
    ttl: int = 0
    data: Raw = NO_PAYLOAD
    subs: dict[str, SubscribeResult] = {}
    ping: int = 0
    pong: bool = False
    session: str = ""
    node: str = ""
    time: int = 0
    resume: str = ""


class UnsubscribeResult(Struct, omit_defaults=True):
    """The client is not in the channel any more."""


class PublishResult(Struct, omit_defaults=True):
    """The broker has stored the publication."""


class PresenceResult(Struct):
    """Who is in a channel, by client id. Written even when empty: SDKs read the field without asking."""

    presence: dict[str, ClientInfo] = {}


class PresenceStatsResult(Struct):
    """How many are in a channel. Zeros are written: SDKs read both fields without asking."""

    num_clients: int = 0
    num_users: int = 0


class HistoryResult(Struct):
    """A part of a channel's stream and the position of its top."""

    publications: list[Publication] = []
    epoch: str = ""
    offset: int = 0


class PingResult(Struct, omit_defaults=True):
    """A sign of life."""


class RPCResult(Struct, omit_defaults=True):
    """What the application's method returned."""

    data: Raw = NO_PAYLOAD


class RefreshResult(Struct, omit_defaults=True):
    """How long the connection may last now; `ttl` in seconds."""

    client: str = ""
    version: str = ""
    expires: bool = False
    ttl: int = 0


class SubRefreshResult(Struct, omit_defaults=True):
    """How long the subscription may last now; `ttl` in seconds."""

    expires: bool = False
    ttl: int = 0


# --- server to client: pushes ---


class Join(Struct, omit_defaults=True):
    """A client entered the channel."""

    info: ClientInfo


class Leave(Struct, omit_defaults=True):
    """A client left the channel."""

    info: ClientInfo


class SubscribePush(Struct, omit_defaults=True):
    """The server subscribed the client to the channel."""

    recoverable: bool = False
    epoch: str = ""
    offset: int = 0
    positioned: bool = False
    data: Raw = NO_PAYLOAD


class Message(Struct, omit_defaults=True):
    """Data for this client alone, outside any channel."""

    data: Raw = NO_PAYLOAD


class ConnectPush(Struct, omit_defaults=True):
    """What ConnectResult says, to a client that cannot ask. WebSocket clients never get it."""

    client: str = ""
    version: str = ""
    data: Raw = NO_PAYLOAD
    subs: dict[str, SubscribeResult] = {}
    expires: bool = False
    ttl: int = 0
    ping: int = 0
    pong: bool = False
    session: str = ""
    node: str = ""
    time: int = 0


class DisconnectPush(Struct):
    """Why the connection ends, for transports without close codes. WebSocket clients read the close frame."""

    code: Uint32
    reason: str
    reconnect: bool = False


class RefreshPush(Struct, omit_defaults=True):
    """The server gave the connection another end; `ttl` in seconds."""

    expires: bool = False
    ttl: int = 0


class Push(Struct, omit_defaults=True):
    """One of the kinds, for a channel or, without one, for the connection.

    `id` names the channel in place of `channel`, where the client agreed to that: see SubscribeResult.
    """

    channel: str = ""
    pub: Publication | None = None
    join: Join | None = None
    leave: Leave | None = None
    unsubscribe: Unsubscribe | None = None
    message: Message | None = None
    subscribe: SubscribePush | None = None
    connect: ConnectPush | None = None
    disconnect: DisconnectPush | None = None
    refresh: RefreshPush | None = None
    id: int = 0


class Reply(Struct, omit_defaults=True):
    """The answer to the command of the same `id`: an error or the result under the request's name.

    Without an id it is a push, and without anything a ping.
    """

    id: Uint32 = 0
    error: Error | None = None
    push: Push | None = None
    connect: ConnectResult | None = None
    subscribe: SubscribeResult | None = None
    unsubscribe: UnsubscribeResult | None = None
    publish: PublishResult | None = None
    presence: PresenceResult | None = None
    presence_stats: PresenceStatsResult | None = None
    history: HistoryResult | None = None
    ping: PingResult | None = None
    rpc: RPCResult | None = None
    refresh: RefreshResult | None = None
    sub_refresh: SubRefreshResult | None = None
