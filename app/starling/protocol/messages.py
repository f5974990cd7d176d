"""The values that travel between clients and Starling, named as the Centrifuge protocol has them, and their frames.

Fields that are bytes in the protocol's schema are `Raw`: JSON as it came for JSON clients, any bytes for Protobuf
clients, never parsed here. A `Raw` read from a frame is a view that keeps the frame alive; `.copy()` what is kept.
"""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Raw, Struct

from starling.protocol.codes import Error, Unsubscribe

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


class Publication(Struct, omit_defaults=True, gc=False):
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


# --- what the server writes ---


class Frame:
    """One WebSocket message, encoded once and written to any number of sockets (RFC 6455 section 5.2).

    `payload` is UTF-8 when `text` is true. `wire` is the whole unmasked frame, ready for a socket; `compressed` is kept
    by transports whose clients read it so: the same by window bits.
    """

    __slots__ = ("compressed", "payload", "text", "wire")

    def __init__(self, payload: bytes, *, text: bool) -> None:
        self.payload = payload
        self.text = text
        self.wire = wire_of(0x81 if text else 0x82, payload)
        self.compressed: dict[int, bytes] | None = None


class StreamFrame(Frame):
    """A piece of a streamed response, made once and written to any number of clients.

    `wire` is the chunk that carries `payload` in HTTP/1.1 (RFC 9112 section 7.1); a payload is never empty, because an
    empty chunk ends the response.
    """

    __slots__ = ()

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.text = False
        self.wire = b"%x\r\n%b\r\n" % (len(payload), payload)
        self.compressed = None


def wire_of(first: int, payload: bytes) -> bytes:
    """Return an unmasked frame whose first byte is `first`."""
    length = len(payload)
    if length < 126:
        return bytes((first, length)) + payload
    if length < 65536:
        return bytes((first, 126)) + length.to_bytes(2, "big") + payload
    return bytes((first, 127)) + length.to_bytes(8, "big") + payload


class Batch:
    """Frames of one loop tick for the same clients: `wire` is all of them in one piece, joined once.

    `compressed` is the same as a Frame's.
    """

    __slots__ = ("compressed", "frames", "wire")

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.frames = frames
        self.compressed: dict[int, bytes] | None = None
        self.wire = frames[0].wire if len(frames) == 1 else b"".join([frame.wire for frame in frames])
