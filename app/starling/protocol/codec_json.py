"""JSON, one message a line: for browsers, and for clients that ask for no other format.

Payloads pass through as they came. What JSON clients cannot read is kept out of a channel where it is published (see
starling.engine.publisher); `encode` refuses what is in a channel all the same.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any, TypeVar, cast, get_args, get_type_hints

from msgspec import DecodeError, MsgspecError, Raw, Struct, json

from starling.protocol.codec import COMMANDS_PER_FRAME
from starling.protocol.codes import (
    DISCONNECT_BAD_REQUEST,
    DISCONNECT_INAPPROPRIATE_PROTOCOL,
    CommandRefused,
    Disconnect,
)
from starling.protocol.commands import Command, ConnectRequest, unset_nulls
from starling.protocol.json_nulls import NULL, without_nulls
from starling.protocol.messages import NO_PAYLOAD, ClientInfo, Frame, Publication, Push, Reply, SubscribeResult
from starling.protocol.portable_json import NESTING_LIMIT, is_json, nests_too_deep, replace_half_pairs, utf8
from starling.protocol.shared_values import SharedMembers, SharedPublications

Message = TypeVar("Message")

_decode_connect_request = json.Decoder(ConnectRequest).decode
_decode_command = json.Decoder(Command).decode
_encode = json.Encoder().encode


class JsonCodec:
    """Text frames of JSON objects, separated by newlines."""

    name = "json"
    subprotocol = "centrifuge-json"
    text = True

    def decode(self, frame: str | bytes, limit: int = COMMANDS_PER_FRAME) -> list[Command] | Disconnect:
        """See Codec. Blank lines are skipped; half a UTF-16 pair in an escape becomes U+FFFD."""
        try:
            content = frame.encode() if isinstance(frame, str) else utf8(frame)
            if content.count(b"\n") > limit:
                return DISCONNECT_BAD_REQUEST
            lines = [line for line in content.split(b"\n") if line and not line.isspace()]
            commands = [*map(_command, lines)]
            if nests_too_deep(content) and _is_any_too_deep(commands, lines):
                return DISCONNECT_BAD_REQUEST
        except (MsgspecError, UnicodeError, RecursionError):
            return DISCONNECT_BAD_REQUEST
        if not 0 < len(commands) <= limit:
            return DISCONNECT_BAD_REQUEST
        return commands

    def encode(self, reply: Reply) -> bytes:
        """See Codec."""
        _check_payloads(reply)
        shared = _shared_in(reply)
        line = _encode_shared(reply, shared) if shared else _encode(reply)
        # In valid JSON a raw newline is only space between tokens, and the message must stay one line.
        return line.replace(b"\n", b" ") if b"\n" in line else line

    def leave_out_unreadable(self, reply: Reply) -> int:
        """See Codec."""
        count = 0
        for result in (reply.history, *_subscriptions(reply)):
            if result is not None and result.publications:
                readable = [publication for publication in result.publications if _is_readable(publication)]
                count += len(result.publications) - len(readable)
                result.publications = readable
        if reply.presence is not None:
            members = reply.presence.presence
            unreadable = {client: info for client, info in members.items() if not _is_readable(info)}
            bare = {client: ClientInfo(info.user, info.client) for client, info in unreadable.items()}
            reply.presence.presence = {**members, **bare}
            count += len(unreadable)
        return count

    def join(self, replies: Iterable[bytes]) -> bytes:
        """See Codec."""
        return b"\n".join(replies)


JSON = JsonCodec()


class JsonPushes:
    """Encodes pushes as text frames of JSON."""

    carries_channel_ids = True

    def encode_push(self, push: Push) -> Frame:
        """One push as a text frame."""
        return Frame(JSON.encode(Reply(push=push)), text=True)

    def encode_replies(self, replies: list[bytes]) -> Frame:
        """Encoded replies to one client as one text frame."""
        return Frame(JSON.join(replies), text=True)

    def delta_payload(self, publication: Publication, patch: bytes | None) -> Raw:
        """A JSON string of the payload's text or its patch; an SDK reads JSON out of that text, and ends without."""
        if not publication.data:
            raise CommandRefused(DISCONNECT_INAPPROPRIATE_PROTOCOL)
        _check_payloads(publication)
        return Raw(_encode((bytes(publication.data) if patch is None else patch).decode()))


def _subscriptions(reply: Reply) -> Collection[SubscribeResult]:
    """The results of subscriptions that a reply holds."""
    if reply.subscribe is not None:
        return (reply.subscribe,)
    return reply.connect.subs.values() if reply.connect is not None else ()


def _encode_publications(publications: SharedPublications) -> Raw:
    """The JSON of shared publications. Raises CommandRefused as `JsonCodec.encode` does."""
    known: Raw | None = publications.encoded.get(JsonCodec.name)
    if known is None:
        pieces = publications.pieces_of(JsonCodec.name, _publication_pieces)
        if pieces is None:
            _check_publications(publications)
            known = Raw(_encode([*publications]))
        else:
            known = Raw(b"[%b]" % b",".join(pieces))
        publications.encoded[JsonCodec.name] = known
    return known


def _publication_pieces(publications: Collection[Publication]) -> Iterable[bytes]:
    _check_publications(publications)
    return map(_encode, publications)


def _encode_members(members: SharedMembers) -> Raw:
    """The JSON of shared members. Raises CommandRefused as `JsonCodec.encode` does."""
    known: Raw | None = members.encoded.get(JsonCodec.name)
    if known is None:
        pieces = members.pieces_of(JsonCodec.name, _member_pieces)
        if pieces is None:
            _check_members(members.values())
            known = Raw(_encode({**members}))
        else:
            known = Raw(b"{%b}" % b",".join(pieces))
        members.encoded[JsonCodec.name] = known
    return known


def _member_pieces(members: Mapping[str, ClientInfo]) -> Iterable[bytes]:
    _check_members(members.values())
    return (_encode({client: info})[1:-1] for client, info in members.items())


def _shared_in(reply: Reply) -> list[tuple[Struct, str, SharedPublications | SharedMembers]]:
    """What a reply shares with others: the result, the name of its field, and the value."""
    results = (*_subscriptions(reply), *(() if reply.history is None else (reply.history,)))
    shared: list[tuple[Struct, str, SharedPublications | SharedMembers]] = [
        (result, "publications", result.publications)
        for result in results
        if isinstance(result.publications, SharedPublications)
    ]
    if reply.presence is not None and isinstance(reply.presence.presence, SharedMembers):
        shared.append((reply.presence, "presence", reply.presence.presence))
    return shared


def _encode_shared(reply: Reply, shared: list[tuple[Struct, str, SharedPublications | SharedMembers]]) -> bytes:
    """As `_encode`, with the JSON of what is shared as it is."""
    try:
        for result, name, value in shared:
            encode = _encode_members if isinstance(value, SharedMembers) else _encode_publications
            setattr(result, name, encode(cast("Any", value)))
        return _encode(reply)
    finally:
        for result, name, value in shared:
            setattr(result, name, value)


def _is_any_too_deep(commands: Iterable[Command], lines: Iterable[bytes]) -> bool:
    """Whether a command is nested too deep, apart from publications, whose data is checked for its channel."""
    return any(command.publish is None and nests_too_deep(line) for command, line in zip(commands, lines, strict=True))


def _never(message: object) -> bool:
    return False


def read_json(
    content: bytes,
    decode: Callable[[bytes], Message],
    kind: type[Struct],
    may_be_deep: Callable[[Message], bool] = _never,
) -> Message:
    """Decode JSON whose payloads stay raw, in UTF-8 and nested at most NESTING_LIMIT deep.

    `decode` makes a `kind` of it. A field that is `null` is not set; half a UTF-16 pair in an escape becomes U+FFFD.
    A message that `may_be_deep` has payloads whose own depth is checked later, with an error of its own.
    Raises MsgspecError or UnicodeError.
    """
    deep = nests_too_deep(utf8(content))
    try:
        message = _decode_json(content, decode, kind)
    except RecursionError:
        raise _too_deep() from None
    if deep and not may_be_deep(message):
        raise _too_deep()
    return message


def _decode_json(content: bytes, decode: Callable[[bytes], Message], kind: type[Struct]) -> Message:
    try:
        return decode(content)
    except DecodeError:
        readable = _readable(content, kind)
        if readable == content:
            raise
        return decode(readable)


def _too_deep() -> DecodeError:
    return DecodeError(f"JSON is nested over {NESTING_LIMIT} levels deep")


def read_connect_request(content: bytes) -> ConnectRequest:
    """Read the request that a client which only reads connects by; nothing at all is one without fields.

    Raises MsgspecError or UnicodeError.
    """
    request = read_json(content or b"{}", _decode_connect_request, ConnectRequest)
    if NULL in content:
        unset_nulls(Command(connect=request))
    return request


def _command(line: bytes) -> Command:
    try:
        command = _decode_command(line)
    except MsgspecError:
        readable = _readable(line, Command)
        if readable == line:
            raise
        command = _decode_command(readable)
    if NULL in line:
        unset_nulls(command)
    return command


def _readable(text: bytes, kind: type[Struct]) -> bytes:
    """Bring what the decoder refused, but the protocol allows, into a form that it takes."""
    text = replace_half_pairs(text)
    return without_nulls(text, kind) if NULL in text else text


def _classes_in(annotation: Any) -> Iterator[type]:
    arguments = get_args(annotation)
    if not arguments:
        yield annotation
    for argument in arguments:
        yield from _classes_in(argument)


def _find_payloads(message: type[Struct], found: dict[type[Struct], tuple[str, ...]]) -> bool:
    """Note in `found` which fields of `message`, and of those inside it, hold or contain payloads."""
    names = []
    for name, annotation in get_type_hints(message).items():
        classes = list(_classes_in(annotation))
        inner = [_find_payloads(each, found) for each in classes if issubclass(each, Struct)]
        if Raw in classes or any(inner):
            names.append(name)
    found[message] = tuple(names)
    return bool(names)


_PAYLOADS: dict[type[Struct], tuple[str, ...]] = {}
_find_payloads(Reply, _PAYLOADS)


def _values_of(names: tuple[str, ...]) -> Callable[[Struct], tuple[Any, ...]]:
    """What returns the values of these fields at once: most are empty, and so most of the time is their reading."""
    if len(names) == 1:
        return lambda message: (getattr(message, names[0]),)
    return attrgetter(*names) if names else lambda message: ()


_VALUES = {kind: _values_of(names) for kind, names in _PAYLOADS.items()}


def _is_readable(message: Publication | ClientInfo) -> bool:
    try:
        _check_payloads(message)
    except CommandRefused:
        return False
    return True


def _check_payloads(message: Struct) -> None:
    """Raise CommandRefused for a payload that is no JSON; make an empty one the default, which is left out."""
    kind = type(message)
    for name, value in zip(_PAYLOADS[kind], _VALUES[kind](message), strict=True):
        if value is None or value is NO_PAYLOAD:
            continue
        if isinstance(value, Raw):
            if not value:
                setattr(message, name, NO_PAYLOAD)
            elif not is_json(bytes(value)):
                raise CommandRefused(DISCONNECT_INAPPROPRIATE_PROTOCOL)
        elif isinstance(value, Struct):
            _check_payloads(value)
        elif type(value) is SharedPublications:
            _encode_publications(value)
        elif type(value) is SharedMembers:
            _encode_members(value)
        elif not value:
            continue
        elif isinstance(value, dict):
            _check_members(value.values())
        else:
            _check_publications(value)


def _check_members(members: Collection[Struct]) -> None:
    """As `_check_payloads` for the values of a mapping, of which an answer may have thousands."""
    infos = [each for each in members if type(each) is ClientInfo]
    payloads = [info.conn_info for info in infos if info.conn_info]
    payloads += [info.chan_info for info in infos if info.chan_info]
    _check_all(payloads)
    if len(infos) != len(members):
        for member in members:
            _check_payloads(member)


def _check_publications(publications: Collection[Publication]) -> None:
    """As `_check_payloads` for a list."""
    for publication in publications:
        if not publication.data:
            publication.data = NO_PAYLOAD
    _check_all([publication.data for publication in publications if publication.data])
    _check_members([publication.info for publication in publications if publication.info is not None])


def _check_all(payloads: Iterable[Raw]) -> None:
    for payload in payloads:
        if not is_json(bytes(payload)):
            raise CommandRefused(DISCONNECT_INAPPROPRIATE_PROTOCOL)
