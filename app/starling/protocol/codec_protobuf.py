"""Protobuf, each message preceded by its length: for the SDKs of Swift, Dart and Java, which speak only this.

Payloads are any bytes. What clients of both formats share in one channel has to be JSON (codec_json says why).
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf import proto
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage
from msgspec import Raw, Struct

from starling.protocol import client_pb2, commands, messages
from starling.protocol.codec import COMMANDS_PER_FRAME
from starling.protocol.codes import DISCONNECT_BAD_REQUEST, Disconnect
from starling.protocol.commands import Command, unset_nulls
from starling.protocol.messages import ClientInfo, Frame, Publication, Push, Reply
from starling.protocol.shared_values import SharedMembers, SharedPublications

S = TypeVar("S", bound=Struct)

STRUCTS: dict[str, type[Struct]] = {
    name: kind
    for module in (messages, commands)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, Struct)
}
"""The struct of each message of the schema, by its name there."""

# The results with a field whose value other replies may have too, by their names in a reply; and their numbers there.
_SHARING = {"subscribe": "publications", "history": "publications", "presence": "presence"}
_NUMBERS = {name: client_pb2.Reply.DESCRIPTOR.fields_by_name[name].number for name in _SHARING}
_FIELDS = {
    kind.DESCRIPTOR.name: {name: field.number for name, field in kind.DESCRIPTOR.fields_by_name.items()}
    for kind in (client_pb2.SubscribeResult, client_pb2.HistoryResult, client_pb2.PresenceResult)
}
"""The numbers of their fields, by the names of these results."""


class ProtobufCodec:
    """Binary frames of messages, each with its length as a varint before it."""

    name = "protobuf"
    subprotocol = "centrifuge-protobuf"
    text = False

    def decode(self, frame: str | bytes, limit: int = COMMANDS_PER_FRAME) -> list[Command] | Disconnect:
        """See Codec. A text frame is no Protobuf."""
        if isinstance(frame, str):
            return DISCONNECT_BAD_REQUEST
        commands: list[Command] = []
        content = io.BytesIO(frame)
        try:
            while content.tell() < len(frame):
                if len(commands) == limit:
                    return DISCONNECT_BAD_REQUEST
                command = _struct(Command, proto.parse_length_prefixed(client_pb2.Command, content))
                unset_nulls(command)
                commands.append(command)
        # The library raises the last two for a length beyond the frame.
        except (DecodeError, ValueError, OverflowError):
            return DISCONNECT_BAD_REQUEST
        return commands or DISCONNECT_BAD_REQUEST

    def encode(self, reply: Reply) -> bytes:
        """See Codec. Every payload is fine here."""
        if (encoded := _encode_shared(reply)) is not None:
            return encoded
        message = client_pb2.Reply()
        _fill(message, reply)
        output = io.BytesIO()
        proto.serialize_length_prefixed(message, output)
        return output.getvalue()

    def leave_out_unreadable(self, reply: Reply) -> int:
        """See Codec. Nothing: bytes carry everything."""
        return 0

    def join(self, replies: Iterable[bytes]) -> bytes:
        """See Codec."""
        return b"".join(replies)


PROTOBUF = ProtobufCodec()


class ProtobufPushes:
    """Encodes pushes as binary frames of Protobuf.

    The JavaScript SDK (5.8) compares the 64-bit numbers of Protobuf by identity, so it never finds a channel by its id.
    """

    carries_channel_ids = False

    def encode_push(self, push: Push) -> Frame:
        """One push as a binary frame."""
        return Frame(PROTOBUF.encode(Reply(push=push)), text=False)

    def encode_replies(self, replies: list[bytes]) -> Frame:
        """Encoded replies to one client as one binary frame."""
        return Frame(PROTOBUF.join(replies), text=False)

    def delta_payload(self, publication: Publication, patch: bytes | None) -> Raw:
        """The bytes as they are."""
        return publication.data if patch is None else Raw(patch)


def _struct(cls: type[S], message: ProtobufMessage) -> S:
    return cls(**{field.name: _value(value) for field, value in message.ListFields()})


def _value(value: Any) -> Any:
    if isinstance(value, bytes):
        return Raw(value)
    if isinstance(value, ProtobufMessage):
        return _struct(STRUCTS[value.DESCRIPTOR.name], value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(map(_value, value))
    if isinstance(value, Mapping):
        return {key: _value(item) for key, item in value.items()}
    return value


def _fill(message: Any, struct: Struct) -> None:
    for name in struct.__struct_fields__:
        _fill_field(message, name, getattr(struct, name))


def _fill_field(message: Any, name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, Struct):
        child = getattr(message, name)
        child.SetInParent()
        _fill(child, value)
    elif not value:
        return
    elif isinstance(value, Raw):
        setattr(message, name, bytes(value))
    elif type(value) in (SharedPublications, SharedMembers):
        message.MergeFromString(_shared_bytes(value, type(message), name))
    elif isinstance(value, list):
        for item in value:
            _fill(getattr(message, name).add(), item)
    elif isinstance(value, dict):
        _fill_map(getattr(message, name), value)
    else:
        setattr(message, name, value)


def _encode_shared(reply: Reply) -> bytes | None:
    """A reply whose result shares a value with others, which is copied as bytes; None for any other reply."""
    for name, field in _SHARING.items():
        result = getattr(reply, name)
        if result is not None:
            value = getattr(result, field)
            if not isinstance(value, SharedPublications | SharedMembers):
                return None
            content = _encode_result(result, field, value)
            start = client_pb2.Reply(id=reply.id).SerializeToString()
            body = b"%b%b%b" % (start, _varint(_NUMBERS[name] << 3 | 2), _varint(len(content)))
            return b"%b%b%b" % (_varint(len(body) + len(content)), body, content)
    return None


def _encode_result(result: Struct, field: str, value: SharedPublications | SharedMembers) -> bytes:
    """A result: its fields in the order of their numbers, as the library writes them; the shared value as it is."""
    kind: type[ProtobufMessage] = getattr(client_pb2, type(result).__name__)
    numbers = _FIELDS[kind.__name__]
    before, after = kind(), kind()
    for name in result.__struct_fields__:
        if name != field:
            _fill_field(before if numbers[name] < numbers[field] else after, name, getattr(result, name))
    return b"".join((before.SerializeToString(), _shared_bytes(value, kind, field), after.SerializeToString()))


def _shared_bytes(value: SharedPublications | SharedMembers, kind: type[ProtobufMessage], field: str) -> bytes:
    """The field of a message of a `kind` with a value that others share."""
    name = f"{ProtobufCodec.name} {kind.DESCRIPTOR.name}"
    known: bytes | None = value.encoded.get(name)
    if known is None:
        known = _encode_members(value) if isinstance(value, SharedMembers) else _encode_publications(value, kind, field)
        value.encoded[name] = known
    return known


def _encode_publications(publications: SharedPublications, kind: type[ProtobufMessage], field: str) -> bytes:
    pieces = publications.pieces_of(ProtobufCodec.name, _publication_pieces)
    tag = _varint(_FIELDS[kind.DESCRIPTOR.name][field] << 3 | 2)
    return b"".join([part for piece in pieces or _publication_pieces(publications) for part in (tag, piece)])


def _publication_pieces(publications: Iterable[Publication]) -> Iterable[bytes]:
    return map(_publication_piece, publications)


def _publication_piece(publication: Publication) -> bytes:
    """A message with its length before it, as the library encodes it: bytes are all that is kept and copied of it."""
    parts: list[bytes] = []
    data = publication.data
    if data:
        parts += (_PUBLICATION["data"], _varint(len(data)), bytes(data))
    if publication.info is not None:
        info = client_pb2.ClientInfo()
        _fill(info, publication.info)
        parts += (_PUBLICATION["info"], _varint(info.ByteSize()), info.SerializeToString())
    if publication.offset:
        parts += (_PUBLICATION["offset"], _varint(publication.offset))
    for key, text in (publication.tags or {}).items():
        name, content = key.encode(), text.encode()
        # A map is a field for each of its items, with the key as 1 and the value as 2.
        item = b"\x0a%b%b\x12%b%b" % (_varint(len(name)), name, _varint(len(content)), content)
        parts += (_PUBLICATION["tags"], _varint(len(item)), item)
    if publication.delta:
        parts += (_PUBLICATION["delta"], b"\1")
    if publication.time:
        parts += (_PUBLICATION["time"], _varint(publication.time))
    message = b"".join(parts)
    return _varint(len(message)) + message


def _varint(number: int) -> bytes:
    if number < 0x80:
        return _SHORT[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_SHORT = [bytes([number]) for number in range(0x80)]
# How each field begins: its number, and whether a length or a number follows (Protobuf encoding, "Message Structure").
_PUBLICATION = {
    name: _varint(field.number << 3 | (0 if name in ("offset", "delta", "time") else 2))
    for name, field in client_pb2.Publication.DESCRIPTOR.fields_by_name.items()
}


def _encode_members(members: SharedMembers) -> bytes:
    pieces = members.pieces_of(ProtobufCodec.name, _member_pieces)
    if pieces is not None:
        # Messages that follow each other are one, with the members of all.
        return b"".join(pieces)
    whole = client_pb2.PresenceResult()
    _fill_map(whole.presence, members)
    return whole.SerializeToString()


def _member_pieces(members: Mapping[str, ClientInfo]) -> Iterable[bytes]:
    for client, info in members.items():
        result = client_pb2.PresenceResult()
        _fill(result.presence[client], info)
        yield result.SerializeToString()


def _fill_map(target: Any, value: dict[str, Any]) -> None:
    for key, item in value.items():
        if isinstance(item, Struct):
            _fill(target[key], item)
        else:
            target[key] = item
