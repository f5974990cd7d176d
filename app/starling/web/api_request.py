"""What methods of the server API share: the channel that a request names, and the payload in it."""

import base64
import binascii

from msgspec import Raw

from starling.engine.channels import ChannelOptions
from starling.engine.engine import Engine
from starling.protocol import codes
from starling.protocol.codes import CommandRefused, Error
from starling.protocol.json_nulls import NULL
from starling.protocol.messages import NO_PAYLOAD
from starling.protocol.portable_json import PORTABLE_JSON, is_json
from starling.web import api_results as results
from starling.web.api_errors import bad_request, not_available

_NO_NAME = "channel: too long, or with {, } or control characters, or against its namespace's channel_regex"

DONE = results.EmptyResponse()


def why_no_channel(channel: str, refusal: CommandRefused) -> Error:
    """The error of a name that `refusal` is about, with its remedy."""
    if refusal.reason == codes.ERROR_UNKNOWN_CHANNEL:
        remedy = f"unknown channel: {channel!r}: its namespace is not in the channels file"
        return Error(codes.ERROR_UNKNOWN_CHANNEL.code, remedy)
    return bad_request(_NO_NAME)


class RequestChannels:
    """Finds the options of the channel that a request names."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def options(self, channel: str) -> ChannelOptions:
        """Raises CommandRefused for a name that is none, or whose namespace is not configured."""
        try:
            return self._engine.channels.options(channel)
        except CommandRefused as refusal:
            raise CommandRefused(why_no_channel(channel, refusal)) from refusal

    def with_history(self, channel: str) -> ChannelOptions:
        """As `options`; raises CommandRefused where the channel keeps no history."""
        options = self.options(channel)
        if not self._engine.history.keeps(options):
            raise not_available(f"{channel} keeps no history: set history_size and history_ttl in its options")
        return options

    def with_presence(self, channel: str) -> ChannelOptions:
        """As `options`; raises CommandRefused where the channel keeps no presence."""
        options = self.options(channel)
        if not self._engine.presence.keeps(options):
            raise not_available(f"{channel} keeps no presence: set it in the channel's options")
        return options


def shown(data: Raw, b64: str = "", field: str = "data", *, needed: bool = True) -> Raw:
    """As `payload`, of what any client may get to see. Raises CommandRefused."""
    found = payload(data, b64, field, needed=needed)
    if found and not is_json(bytes(found)):
        raise CommandRefused(bad_request(f"{'b64' if b64 else ''}{field}: it is not {PORTABLE_JSON}"))
    return found


def payload(data: Raw, b64: str, field: str = "data", *, needed: bool = True) -> Raw:
    """The JSON in `data`, or what `b64` decodes to. Raises CommandRefused."""
    if b64:
        try:
            return Raw(base64.b64decode(b64, validate=True))
        except (binascii.Error, ValueError) as error:
            raise CommandRefused(bad_request(f"b64{field}: it is no base64")) from error
    if not data and needed:
        raise CommandRefused(bad_request(f"{field}: it is missing"))
    if not needed and data == NULL:
        return NO_PAYLOAD
    # A view would keep the whole request alive, as long as the publication is.
    return data.copy() if data else NO_PAYLOAD
