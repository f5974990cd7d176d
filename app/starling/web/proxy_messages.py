"""The JSON of proxies: what a backend is asked, and what its replies decide.

The fields are those of Centrifugo's HTTP proxy (https://centrifugal.dev/docs/server/proxy), so that backends written
for it work unchanged; `tags_filter` is Starling's own.
"""

import base64
import binascii
from typing import Generic, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from starling.engine.override import ChannelOverride, Override, Switch, plain
from starling.protocol.codes import REASON_BYTES, CommandRefused, Disconnect, Error
from starling.protocol.messages import NO_PAYLOAD
from starling.protocol.portable_json import PORTABLE_JSON, is_json
from starling.protocol.tags_filter import FilterInvalid, ForcedFilterNode, TagsFilter, compile_filter

Result = TypeVar("Result")
NULL = b"null"


class BadReply(ValueError):
    """A backend's reply that decides nothing; the message names the field."""


class ProxyRequest(Struct, omit_defaults=True):
    """The body of a request: who the client is, and what it asks. Each event sets its own fields.

    `data` is what the client sent; `b64data` holds it in its place where it is no JSON.
    """

    client: str
    transport: str
    protocol: str
    encoding: str
    user: str | UnsetType = UNSET
    channel: str | UnsetType = UNSET
    method: str | UnsetType = UNSET
    name: str = ""
    version: str = ""
    data: Raw | UnsetType = UNSET
    b64data: str | UnsetType = UNSET
    meta: Raw | UnsetType = UNSET


def transport_and_protocol(kind: str) -> tuple[str, str]:
    """How requests name the transport of a client, and the format of its messages, whose metrics have the label `kind`.

    A label is a transport, with the format behind it where the transport has two; WebSocket's labels are formats alone.
    """
    if kind in ("json", "protobuf"):
        return "websocket", kind
    transport, is_protobuf, _ = kind.partition("_protobuf")
    return transport, "protobuf" if is_protobuf else "json"


class ReplyError(Struct):
    """A backend refuses: the client gets this error."""

    code: int
    message: str = ""
    temporary: bool = False


class ReplyDisconnect(Struct):
    """A backend ends the connection."""

    code: int
    reason: str = ""


class ProxyReply(Struct, Generic[Result]):
    """A reply holds one of the three."""

    result: Result | None = None
    error: ReplyError | None = None
    disconnect: ReplyDisconnect | None = None


class Payload(Struct, kw_only=True):
    """Data as JSON, or in base64 where it is no JSON."""

    data: Raw = NO_PAYLOAD
    b64data: str = ""

    def payload(self) -> Raw:
        """The data, empty without any. Raises BadReply."""
        return payload(self.data, self.b64data, "b64data")


class Ending(Struct, kw_only=True):
    """Info that others see, and an end in seconds since 1970; 0 and None never end."""

    info: Raw = NO_PAYLOAD
    b64info: str = ""
    expire_at: float | None = None

    def shown(self) -> Raw:
        """The info, empty without any. Raises BadReply, also for what some clients could not read."""
        info = payload(self.info, self.b64info, "b64info")
        if info and not is_json(bytes(info)):
            raise BadReply(f"{'b64info' if self.b64info else 'info'}: it is not {PORTABLE_JSON}")
        return info

    @property
    def end(self) -> float | None:
        """When it ends, in seconds since 1970; None never."""
        return self.expire_at or None


class Terms(Ending, kw_only=True):
    """What a client that is let in gets: `data`, or `b64data`, with the reply."""

    data: Raw = NO_PAYLOAD
    b64data: str = ""

    def payload(self) -> Raw:
        """The data, empty without any. Raises BadReply."""
        return payload(self.data, self.b64data, "b64data")


class SubscribeVerdict(Terms, kw_only=True):
    """The client enters the channel on these terms."""

    override: Override[Switch | bool] | None = None
    tags_filter: ForcedFilterNode | None = None

    def overridden(self) -> ChannelOverride:
        """What it sets of the channel's options."""
        return plain(self.override)

    def filter(self) -> TagsFilter | None:
        """The filter that the client gets, whatever it asks for. Raises BadReply."""
        if self.tags_filter is None:
            return None
        try:
            return compile_filter(self.tags_filter, "tags_filter")
        except FilterInvalid as error:
            raise BadReply(str(error)) from error


class ConnectVerdict(Terms, kw_only=True):
    """The client is `user`, and the server subscribes it to `channels` and `subs`."""

    user: str = ""
    channels: list[str] = []
    subs: dict[str, SubscribeVerdict] = {}
    meta: Raw = NO_PAYLOAD


class RefreshVerdict(Ending, kw_only=True):
    """The connection, or the subscription, goes on, or is `expired`."""

    expired: bool = False


class PublishVerdict(Payload, kw_only=True):
    """The publication is permitted; `data` takes the place of what the client sent."""


class CallVerdict(Payload, kw_only=True):
    """What the method returns."""


class ReplyDecoder(Generic[Result]):
    """Reads the replies of one event."""

    def __init__(self, kind: type[Result]) -> None:
        self._decoder: msgspec.json.Decoder[ProxyReply[Result]] = msgspec.json.Decoder(
            ProxyReply[kind]  # type: ignore[valid-type]
        )

    def decode(self, body: bytes) -> Result:
        """The result in a reply. Raises CommandRefused where the backend refuses, BadReply for what says neither."""
        try:
            reply = self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadReply(str(error)) from error
        if reply.disconnect is not None:
            raise CommandRefused(_disconnect(reply.disconnect))
        if reply.error is not None:
            raise CommandRefused(_error(reply.error))
        if reply.result is None:
            raise BadReply("it holds no result, error or disconnect")
        return reply.result


def _error(reply: ReplyError) -> Error:
    try:
        return Error(reply.code, reply.message, reply.temporary)
    except ValueError as error:
        raise BadReply(f"error.code: {error}") from error


def _disconnect(reply: ReplyDisconnect) -> Disconnect:
    try:
        # As much of the reason as a close frame holds.
        return Disconnect(reply.code, reply.reason.encode()[:REASON_BYTES].decode(errors="ignore"))
    except ValueError as error:
        raise BadReply(f"disconnect.code: {error}") from error


def payload(data: Raw, encoded: str = "", field: str = "") -> Raw:
    """The data of two fields, of which `encoded` is in base64; empty for null and without either. Raises BadReply."""
    if encoded:
        try:
            return Raw(base64.b64decode(encoded, validate=True))
        except binascii.Error as error:
            raise BadReply(f"{field}: {error}") from error
    return NO_PAYLOAD if not data or bytes(data) == NULL else data


def put_data(request: ProxyRequest, data: Raw) -> None:
    """Put what a client sent into a request: as JSON where it is, else in base64. The empty payload stays away."""
    if not data:
        return
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        request.b64data = base64.b64encode(data).decode()
    else:
        request.data = data
