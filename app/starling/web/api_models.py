"""The requests and answers of the server API, from which /docs is generated."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from starling.client.connection_list import ConnectionSummary
from starling.engine.append_store import StreamKind, StreamStatus
from starling.engine.append_streams import StreamProblem
from starling.engine.capture import CAPTURE_SECONDS
from starling.engine.control import NodeInfo
from starling.engine.node_stats import NodeStats
from starling.engine.override import Override, Switch
from starling.engine.rights import Verb
from starling.protocol.tags_filter import ForcedFilterNode
from starling.telemetry.top_channels import ChannelTraffic

# One request may not keep the event loop from everyone else.
BROADCAST_CHANNELS = 10_000
BATCH_COMMANDS = 1_000
HISTORY_LIMIT = 10_000
IDEMPOTENCY_KEY_LENGTH = 255
TOP_LIMIT = 100
ASKER_LENGTH = 255
REASON_LENGTH = 255
CHANNELS_PAGE = 10_000
CONNECTIONS_PAGE = 1_000
WAIT_SECONDS = 60
STREAM_WAIT = 60
STREAM_LIST = 1_000

Name = Annotated[str, Meta(description="Name of the channel.", min_length=1, examples=["news:sport"])]
User = Annotated[
    str, Meta(description="Id of the user; empty for anonymous clients, with `client` or `session`.", examples=["42"])
]
Client = Annotated[str, Meta(description="Only the connection of this id.")]
Session = Annotated[str, Meta(description="Only connections of this session.")]
Seconds = Annotated[float, Meta(ge=0, le=253402300799, description="Seconds since 1970.")]
Data = Annotated[Raw, Meta(description="Any JSON; it passes to the subscribers as it is.", examples=[{"text": "Hi"}])]
Binary = Annotated[str, Meta(description="Base64 of data for clients that speak Protobuf, in place of the JSON.")]
Tags = Annotated[dict[str, str], Meta(description="Texts that travel with the publication.")]
IdempotencyKey = Annotated[
    str,
    Meta(
        max_length=IDEMPOTENCY_KEY_LENGTH,
        description="A second publication into a channel with the same key within 5 minutes is not sent; its answer is "
        "the first one's. Give each publication one of its own, and a retry is harmless.",
    ),
]
WaitSeconds = Annotated[
    float,
    Meta(
        ge=0,
        le=WAIT_SECONDS,
        description="How long this may wait for a broker that is away, instead of being refused. The answer comes once "
        "it is stored; until then it is held by this process alone.",
    ),
]
TraceParent = Annotated[
    str,
    Meta(
        description="The trace that this publication belongs to, as in the header of the same name (W3C Trace "
        "Context), which it goes before. What is malformed, and all of it where tracing is off, is ignored.",
        examples=["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
    ),
]
TraceState = Annotated[str, Meta(description="What goes with `traceparent`, as in the header of the same name.")]
SkipHistory = Annotated[bool, Meta(description="Only to those who are there now, even where history is kept.")]
Version = Annotated[
    int,
    Meta(
        ge=0,
        le=2**63 - 1,
        description="In channels with history: the version of what the publication shows. One that is not above the "
        "last one of the same `version_epoch` is dropped, and the answer is the position of the newest. 0: none.",
    ),
]
VersionEpoch = Annotated[
    str,
    Meta(max_length=255, description="What `version` belongs to; versions of another epoch begin anew."),
]
Delta = Annotated[
    bool,
    Meta(
        description="Send it as a patch of the publication before to subscribers that asked for patches, also where "
        "the namespace has no `delta_publish`. The channel needs `allowed_delta_types`."
    ),
]
ExpireAt = Annotated[
    float,
    Meta(
        ge=0,
        le=253402300799,
        description="When to forget it, in seconds since 1970: when the last of these tokens has expired. Left out: "
        "after STARLING_REVOCATION_SECONDS.",
    ),
]


TICKET_SECONDS = 60
TicketSeconds = Annotated[
    float, Meta(gt=0, le=TICKET_SECONDS, description="In how many seconds it must be spent, 60 at most.")
]
SessionEnd = Annotated[
    float,
    Meta(
        ge=0,
        le=253402300799,
        description="When the session ends, in seconds since 1970. Left out: it does not end by itself, and may be "
        "resumed for a day.",
    ),
]


# --- what is asked ---


class PublishBody(Struct):
    """Send `data` to everyone in a channel."""

    channel: Name
    data: Data = msgspec.field(default_factory=Raw)
    b64data: Binary = ""
    skip_history: SkipHistory = False
    tags: Tags | None = None
    idempotency_key: IdempotencyKey = ""
    version: Version = 0
    version_epoch: VersionEpoch = ""
    delta: Delta = False
    wait_seconds: WaitSeconds = 0
    traceparent: TraceParent = ""
    tracestate: TraceState = ""


class BroadcastBody(Struct):
    """Send the same `data` to many channels."""

    channels: Annotated[
        list[str], Meta(min_length=1, max_length=BROADCAST_CHANNELS, description="Names of the channels.")
    ]
    data: Data = msgspec.field(default_factory=Raw)
    b64data: Binary = ""
    skip_history: SkipHistory = False
    tags: Tags | None = None
    idempotency_key: IdempotencyKey = ""
    version: Version = 0
    version_epoch: VersionEpoch = ""
    delta: Delta = False
    wait_seconds: WaitSeconds = 0
    traceparent: TraceParent = ""
    tracestate: TraceState = ""


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


class RevokeTokenBody(Struct):
    """Refuse one token from now on, and end its connections with 3500."""

    uid: Annotated[str, Meta(min_length=1, max_length=255, description="The token's `jti`.")]
    expire_at: ExpireAt | None = None


class RevokeSessionBody(Struct):
    """Refuse the tokens of one session (claim `sid`) from now on, and end its connections with 3500.

    Where tokens name no session, each connection is a session of its own, whose id is in the connect result; then the
    connection ends, and its token is refused from now on if it has a `jti`.
    """

    session: Annotated[str, Meta(min_length=1, max_length=255, description="The session's id.")]
    expire_at: ExpireAt | None = None


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


class TicketBody(Struct):
    """Make a ticket: a secret that opens one session of a user, once, on any pod."""

    user: Annotated[str, Meta(max_length=255, description="Id of the user; empty: an anonymous client.")]
    channels: Annotated[
        list[str], Meta(max_length=100, description="Channels that the client is subscribed to when it connects.")
    ] = msgspec.field(default_factory=list)
    info: Annotated[Raw, Meta(description="JSON that others see of the client.")] = msgspec.field(default_factory=Raw)
    ttl: TicketSeconds = 30
    expire_at: SessionEnd | None = None


class InvalidateUserTokensBody(Struct):
    """Refuse a user's tokens issued before a moment, and end the connections that came with one, with 3500."""

    user: Annotated[str, Meta(min_length=1, max_length=255, description="Id of the user.")]
    issued_before: Annotated[
        Seconds | None,
        Meta(
            description="Tokens whose `iat` is earlier, or that have none, are refused; in seconds since 1970. Left "
            "out: the current second, so that a token which you issue right afterwards passes."
        ),
    ] = None
    channel: Annotated[str, Meta(description="Only subscription tokens, of this channel.")] = ""
    expire_at: ExpireAt | None = None


Producer = Annotated[
    str,
    Meta(
        max_length=255,
        description="Who writes, by a name of your choice. With it `producer_epoch` and `sequence` count: an append "
        "that is sent again is not done twice, and a process that was replaced is refused.",
    ),
]
ProducerEpoch = Annotated[
    int,
    Meta(ge=0, le=2**53 - 1, description="Which process of this producer writes; a higher one replaces lower ones."),
]
Sequence = Annotated[int, Meta(ge=0, le=2**53 - 1, description="Counts the appends of this epoch, from 0.")]
StreamText = Annotated[str, Meta(description="The chunk, in a stream of text.", examples=["Hello"])]
StreamJson = Annotated[
    Raw, Meta(description="The chunk, in a stream of JSON: an array of items.", examples=[[{"a": 1}]])
]
StreamBytes = Annotated[str, Meta(description="The chunk, in a stream of bytes: base64.")]
StreamReason = Annotated[str, Meta(max_length=1024, description="Why, for readers and producers.")]
StreamTtl = Annotated[float, Meta(gt=0, le=315360000, description="Seconds that it is kept after its last use.")]


class StreamOpenBody(Struct):
    """Open an append-only stream; one that is open already is found as it is. Its namespace has the option `stream`."""

    channel: Name
    type: Annotated[
        StreamKind | None, Meta(description="`text`, `json` or `bytes`; left out: what the namespace says.")
    ] = None
    ttl: Annotated[StreamTtl | None, Meta(description="Left out: stream_ttl of the namespace.")] = None
    producer: Producer = ""
    producer_epoch: Annotated[
        ProducerEpoch | None,
        Meta(description="Left out: the next one, so that all processes of this producer before are replaced."),
    ] = None


class StreamAppendBody(Struct):
    """Add a chunk to the end of a stream: `text`, `json` or `b64data`. Without one it says that the producer lives."""

    channel: Name
    text: StreamText = ""
    json: StreamJson = msgspec.field(default_factory=Raw)
    b64data: StreamBytes = ""
    producer: Producer = ""
    producer_epoch: ProducerEpoch = 0
    sequence: Sequence = 0
    window: Annotated[
        bool,
        Meta(
            description="Join it with what this producer sends within append_window; the answer comes when it is kept."
        ),
    ] = False


class StreamCloseBody(Struct):
    """Close a stream for good, with a last chunk or without."""

    channel: Name
    status: Annotated[Literal["complete", "failed", "cancelled"], Meta(description="How it ended.")] = "complete"
    reason: StreamReason = ""
    final: Annotated[Raw, Meta(description="JSON that belongs to the end, such as counted tokens.")] = msgspec.field(
        default_factory=Raw
    )
    text: StreamText = ""
    json: StreamJson = msgspec.field(default_factory=Raw)
    b64data: StreamBytes = ""
    producer: Producer = ""
    producer_epoch: ProducerEpoch = 0
    sequence: Sequence = 0


class StreamCancelBody(Struct):
    """Close a stream as cancelled: its producer is notified, wherever it runs."""

    channel: Name
    reason: StreamReason = ""


class StreamInfoBody(Struct):
    """Ask how a stream is; with `wait` not before it is closed, or the seconds are over."""

    channel: Name
    wait: Annotated[float, Meta(ge=0, le=STREAM_WAIT, description="Seconds to wait for its end.")] = 0
    producer: Producer = ""
    producer_epoch: ProducerEpoch = 0


class StreamDeleteBody(Struct):
    """Delete a stream; another one may then be opened in its channel."""

    channel: Name


class StreamListBody(Struct):
    """Ask which streams are open."""

    limit: Annotated[int, Meta(ge=1, le=STREAM_LIST, description="Streams in the answer.")] = 100


class BatchCommand(Struct, omit_defaults=True):
    """One command: exactly one of the methods, with its request."""

    publish: PublishBody | None = None
    broadcast: BroadcastBody | None = None
    subscribe: SubscribeBody | None = None
    unsubscribe: UnsubscribeBody | None = None
    disconnect: DisconnectBody | None = None
    refresh: RefreshBody | None = None
    presence: PresenceBody | None = None
    presence_stats: PresenceStatsBody | None = None
    history: HistoryBody | None = None
    history_remove: HistoryRemoveBody | None = None
    connections: ConnectionsBody | None = None
    channels: ChannelsBody | None = None
    can: CanBody | None = None
    info: InfoBody | None = None
    top: TopBody | None = None
    revoke_token: RevokeTokenBody | None = None
    revoke_session: RevokeSessionBody | None = None
    invalidate_user_tokens: InvalidateUserTokensBody | None = None
    ticket: TicketBody | None = None
    presence_set: PresenceSetBody | None = None
    presence_unset: PresenceUnsetBody | None = None
    stream_open: StreamOpenBody | None = None
    stream_append: StreamAppendBody | None = None
    stream_close: StreamCloseBody | None = None
    stream_cancel: StreamCancelBody | None = None
    stream_info: StreamInfoBody | None = None
    stream_delete: StreamDeleteBody | None = None
    stream_list: StreamListBody | None = None


class BatchBody(Struct):
    """Do several things with one request: one after the other, or with `parallel` all at once."""

    commands: Annotated[list[BatchCommand], Meta(max_length=BATCH_COMMANDS)]
    parallel: bool = False


class BatchFrame(Struct):
    """A BatchBody whose commands are still to be read, so that a malformed one fails alone."""

    commands: Annotated[list[Raw], Meta(max_length=BATCH_COMMANDS)]
    parallel: bool = False


class EnvelopeCommand(Struct):
    """One line of a request to `/api`: a method by its name, with its request. The reply has the same `id`, if any."""

    method: str
    params: Raw = msgspec.field(default_factory=Raw)
    id: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0


# --- what is answered ---


class ApiError(Struct, omit_defaults=True):
    """Why it was not done; `stream` for programs where a stream did not take it."""

    code: Annotated[int, Meta(examples=[107])]
    message: Annotated[str, Meta(examples=["bad request: channel: it is missing"])]
    stream: StreamProblem | None = None


class PublishResponse(Struct, omit_defaults=True):
    """The publication's position in the channel's history; empty where it has none."""

    offset: int = 0
    epoch: str = ""


class PublishAnswer(Struct, omit_defaults=True):
    """What became of one channel of a broadcast."""

    error: ApiError | None = None
    result: PublishResponse | None = None


class BroadcastResponse(Struct):
    """What became of each channel, in the order of the request."""

    responses: list[PublishAnswer]


class EmptyResponse(Struct):
    """It was done."""


class PresentClient(Struct):
    """A connection. `conn_info` and `chan_info` are what its tokens say for others to see."""

    user: str
    client: str
    conn_info: Raw | UnsetType = UNSET
    chan_info: Raw | UnsetType = UNSET


class PresenceResponse(Struct):
    """Who is in the channel, by client id."""

    presence: dict[str, PresentClient]


class PresenceStatsResponse(Struct):
    """How many connections are in the channel, and how many users they are of."""

    num_clients: int
    num_users: int


class HistoryPublication(Struct, omit_defaults=True):
    """A publication; `time` in milliseconds since 1970. Data that is no JSON is null here and stands in `b64data`."""

    data: Raw
    offset: int = 0
    time: int = 0
    info: PresentClient | None = None
    tags: dict[str, str] | None = None
    b64data: str = ""


class HistoryResponse(Struct):
    """The publications asked for, and the position of the channel's newest one."""

    publications: list[HistoryPublication]
    offset: int
    epoch: str


class ChannelCount(Struct):
    """How many connections are in a channel."""

    num_clients: int


class ChannelsResponse(Struct, omit_defaults=True):
    """The channels with subscribers, by name; without `limit` over 100,000 on one node are refused with 106.

    `cursor` is there where more channels follow: send it to get the next page.
    """

    channels: dict[str, ChannelCount]
    cursor: str = ""


class ConnectionsResponse(Struct, omit_defaults=True):
    """The connections of one page, and the names of nodes that did not answer in time.

    `cursor` is there where more connections follow: send it to get the next page.
    """

    connections: list[ConnectionSummary]
    missing: list[str] = []
    cursor: str = ""


class CanResponse(Struct):
    """Whether the user may, the rule that decides, the namespace of its options, and a sentence for people.

    `rule` is an option such as `allow_publish_for_client`, or `no_rule`, `subscription_token`, `connection_token`,
    `refused_token`, `token_channel`, `personal_channel`, `user_limited_channel`.
    """

    allowed: bool
    rule: str
    namespace: str
    sentence: str


class InfoResponse(Struct):
    """Every node: each worker of each pod is one."""

    nodes: list[NodeInfo]


class TopResponse(Struct):
    """Every node that answered, the busiest channels first, and the names of nodes that did not answer in time.

    Rates of channels are those of about the last ten seconds.
    """

    nodes: list[NodeStats]
    channels: list[ChannelTraffic]
    missing: list[str]


class TicketResponse(Struct):
    """The ticket, for the client alone, and the id of its session, to revoke it by. Log neither."""

    ticket: str
    session: str


class AppendStreamResponse(Struct, omit_defaults=True):
    """A stream: its type, `status` (open, complete, failed, cancelled, interrupted) and the position of its end.

    `length` is what it holds in UTF-8 bytes, items or bytes, by its type, `size` in bytes. `created`: it was opened by
    this request. `repeated`: the request was done before. `producer_epoch` is the one to write with;
    `append_window` and `producer_timeout` are those of the namespace, in seconds.
    """

    type: StreamKind
    status: StreamStatus
    offset: Annotated[int, Meta(ge=0)]
    epoch: str
    length: int
    size: int
    reason: str = ""
    final: Raw | UnsetType = UNSET
    created: bool = False
    repeated: bool = False
    producer_epoch: int | UnsetType = UNSET
    append_window: float = 0
    producer_timeout: float = 0


class StreamDeleteResponse(Struct):
    """Whether there was a stream."""

    deleted: bool


class ListedStream(Struct, omit_defaults=True):
    """An open stream, by its channel."""

    channel: str
    type: StreamKind
    status: StreamStatus
    length: int
    size: int


class StreamListResponse(Struct):
    """Streams that are open, over all nodes."""

    streams: list[ListedStream]


class RevocationResponse(Struct, omit_defaults=True):
    """It is refused from now on, on every worker. `stored` false: the broker did not store it; the workers keep it.

    They offer it again until it is stored, and send it to each worker that starts. Only if all end before is it lost.
    """

    stored: bool = True


class InvalidateUserTokensResponse(Struct, omit_defaults=True):
    """Tokens issued before this moment are refused, in seconds since 1970. `stored` as of the other revocations."""

    issued_before: float
    stored: bool = True
