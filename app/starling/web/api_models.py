"""Requests of the server API's methods, but for publishing, tokens and streams; /docs is generated from them."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from starling.engine.capture import CAPTURE_SECONDS
from starling.engine.override import Override, Switch
from starling.engine.rights import Verb
from starling.protocol.tags_filter import ForcedFilterNode

# One request may not keep the event loop from everyone else.
BATCH_COMMANDS = 1_000
HISTORY_LIMIT = 10_000
TOP_LIMIT = 100
ASKER_LENGTH = 255
REASON_LENGTH = 255
CHANNELS_PAGE = 10_000
CONNECTIONS_PAGE = 1_000

Name = Annotated[str, Meta(description="Name of the channel.", min_length=1, examples=["news:sport"])]
User = Annotated[
    str, Meta(description="Id of the user; empty for anonymous clients, with `client` or `session`.", examples=["42"])
]
Client = Annotated[str, Meta(description="Only the connection of this id.")]
Session = Annotated[str, Meta(description="Only connections of this session.")]
Seconds = Annotated[float, Meta(ge=0, le=253402300799, description="Seconds since 1970.")]
Binary = Annotated[str, Meta(description="Base64 of data for clients that speak Protobuf, in place of the JSON.")]


class Position(Struct):
    """A position in a channel's history."""

    offset: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    epoch: str = ""


class Overrides(Override[Switch | bool], frozen=True):
    """Options of the channel for this subscription alone."""


class SubscribeBody(Struct):
    """Subscribe a user's connections to a channel, on every node."""

    user: User
    channel: Name
    client: Client = ""
    session: Session = ""
    info: Annotated[Raw, Meta(description="JSON that others in the channel see.")] = msgspec.field(default_factory=Raw)
    b64info: Binary = ""
    data: Annotated[Raw, Meta(description="JSON that the client gets with the subscription.")] = msgspec.field(
        default_factory=Raw
    )
    b64data: Binary = ""
    recover_since: Annotated[Position | None, Meta(description="Deliver what was published since then first.")] = None
    expire_at: Annotated[
        Seconds | None,
        Meta(description="The subscription's end, in seconds since 1970; then the connection ends too, with 3006."),
    ] = None
    override: Overrides | None = None
    server_tags_filter: Annotated[
        ForcedFilterNode | None,
        Meta(description="Only publications whose tags match are sent; the client can narrow it and never widen it."),
    ] = None


class UnsubscribeBody(Struct):
    """Unsubscribe a user's connections from a channel, on every node."""

    user: User
    channel: Name
    client: Client = ""
    session: Session = ""
    code: Annotated[
        int,
        Meta(
            ge=2000,
            le=2999,
            description="2000 to 2499: for good. 2500 to 2999: the client subscribes again; 2502, state invalidated: "
            "with a new token and new state of your backend (`getToken`, `getState`). A subscription that the server "
            "made then ends with its connection, which the client opens again.",
        ),
    ] = 2000
    reason: Annotated[
        str, Meta(max_length=REASON_LENGTH, description="The words for the client; empty: those of the code.")
    ] = ""


class DisconnectReason(Struct):
    """How a connection ends: with codes 3000-3499 and 4000-4499 the client reconnects, with the others it does not.

    3014 (state invalidated): it reconnects and subscribes with new tokens and new state of your backend.
    """

    code: Annotated[int, Meta(ge=3000, le=4999)] = 3503
    reason: Annotated[str, Meta(max_length=123)] = "force disconnect"


class DisconnectBody(Struct):
    """Close a user's connections, on every node."""

    user: User
    client: Client = ""
    session: Session = ""
    whitelist: Annotated[list[str], Meta(description="Ids of connections that stay.")] = msgspec.field(
        default_factory=list
    )
    disconnect: Annotated[DisconnectReason | None, Meta(description="Left out: 3503, force disconnect.")] = None


class RefreshBody(Struct):
    """Give a user's connections another end."""

    user: User
    client: Client = ""
    session: Session = ""
    expired: Annotated[bool, Meta(description="End now, with 3005; the client may reconnect with a new token.")] = False
    expire_at: Annotated[Seconds | None, Meta(description="The new end, in seconds since 1970. Left out: never.")] = (
        None
    )


class PresenceBody(Struct):
    """Ask who is in a channel."""

    channel: Name


class PresenceStatsBody(Struct):
    """Ask how many are in a channel."""

    channel: Name


class HistoryBody(Struct):
    """Read what a channel keeps."""

    channel: Name
    limit: Annotated[
        int,
        Meta(
            ge=-(2**31),
            le=2**31 - 1,
            description=f"How many publications; 0 asks for the position alone, -1 for all there are (up to "
            f"{HISTORY_LIMIT}: go on from the last one with `since`).",
        ),
    ] = 0
    since: Annotated[
        Position | None, Meta(description="Only what follows this position (with `reverse`: precedes).")
    ] = None
    reverse: Annotated[bool, Meta(description="The newest first.")] = False


class HistoryRemoveBody(Struct):
    """Delete what a channel keeps; its position stays."""

    channel: Name


class ChannelsBody(Struct):
    """Ask which channels have subscribers, over all nodes."""

    pattern: Annotated[
        str,
        Meta(
            max_length=255,
            description="`*` stands for any text, `?` for one character, `[ab]` for one of these. Empty: all.",
            examples=["news:*"],
        ),
    ] = ""
    limit: Annotated[
        int,
        Meta(ge=0, le=CHANNELS_PAGE, description="Channels in one answer, in the order of their names. 0: all."),
    ] = 0
    cursor: Annotated[
        str,
        Meta(max_length=8192, description="Where the page begins: the `cursor` of the answer before. Empty: first."),
    ] = ""


class ConnectionsBody(Struct):
    """Ask who is connected, over all nodes, in the order of connection ids."""

    user: Annotated[
        str | UnsetType, Meta(description="Only connections of this user; empty: those without a user. Left out: all.")
    ] = UNSET
    limit: Annotated[int, Meta(ge=1, le=CONNECTIONS_PAGE, description="Connections in one answer.")] = 100
    cursor: Annotated[
        str,
        Meta(max_length=64, description="Where the page begins: the `cursor` of the answer before. Empty: first."),
    ] = ""


class CanBody(Struct):
    """Ask whether a user may do something in a channel, and which rule decides."""

    user: Annotated[str, Meta(description="Id of the user; empty for an anonymous client.", examples=["42"])]
    verb: Annotated[Verb, Meta(description="What the client would do.")]
    channel: Name
    token: Annotated[str, Meta(description="A token that the client presents.")] = ""
    subscribed: Annotated[bool, Meta(description="Whether the client is in the channel already.")] = False


class InfoBody(Struct):
    """Ask which nodes there are."""


class TopBody(Struct):
    """Ask what every node does, and which channels are the busiest over all of them."""

    limit: Annotated[int, Meta(ge=0, le=TOP_LIMIT, description="How many channels.")] = 10


class CaptureBody(Struct):
    """Watch the frames of a user's connections, or those about a channel, on every node, for a bounded time.

    Tokens and headers are never shown, payloads on request only. Each capture is logged with all of this.
    """

    user: Annotated[str, Meta(max_length=255, description="Id of the user; or name a channel.")] = ""
    channel: Annotated[str, Meta(description="Name of the channel; or name a user.")] = ""
    seconds: Annotated[float, Meta(gt=0, le=CAPTURE_SECONDS, description="How long.")] = 30.0
    payload: Annotated[bool, Meta(description="Show the beginning of the data too.")] = False
    by: Annotated[str, Meta(max_length=ASKER_LENGTH, description="Who asks, for the log.")] = ""


class PresenceSetBody(Struct):
    """Show a user in a channel's presence without a connection, as the client `agent:USER`; once more renews it."""

    channel: Name
    user: Annotated[str, Meta(min_length=1, max_length=255, description="Id of the user, such as a bot's.")]
    info: Annotated[Raw, Meta(description="JSON that others see of it, as `conn_info`.")] = msgspec.field(
        default_factory=Raw
    )
    ttl: Annotated[
        float, Meta(ge=1, le=86400, description="Seconds that it is shown, unless it is set again before.")
    ] = 60


class PresenceUnsetBody(Struct):
    """Take a user out of a channel's presence that `presence_set` has shown there."""

    channel: Name
    user: Annotated[str, Meta(min_length=1, max_length=255, description="Id of the user.")]
