"""Any frame gives commands or 3501 and never an exception; any message survives both formats."""

import base64
import json
from collections.abc import Callable
from io import BytesIO
from typing import Any

import msgspec
import pytest
from google.protobuf import json_format, proto
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Raw, Struct

from starling.protocol import client_pb2
from starling.protocol.codec import COMMANDS_PER_FRAME, Codec
from starling.protocol.codec_json import JsonCodec
from starling.protocol.codec_protobuf import ProtobufCodec
from starling.protocol.codes import (
    DISCONNECT_BAD_REQUEST,
    DISCONNECT_INAPPROPRIATE_PROTOCOL,
    CommandRefused,
    Disconnect,
)
from starling.protocol.commands import Command
from starling.protocol.messages import Publication, Push, Reply
from starling.protocol.portable_json import is_json
from tests.protocol.vectors import COMMANDS

TEXT = JsonCodec()
BINARY = ProtobufCodec()

# --- messages as plain values; what is empty is left out, as on the wire ---

payloads = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=6,
)
names = st.text(min_size=1, max_size=12)
true = st.just(value=True)
uint32 = st.integers(1, 2**32 - 1)
uint64 = st.integers(1, 2**63 - 1)
string_maps = st.dictionaries(st.text(max_size=5), st.text(max_size=5), min_size=1, max_size=2)


def some_of(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


def maps_of(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(names, values, min_size=1, max_size=2)


subscribe = some_of(
    channel=names,
    token=names,
    recover=true,
    epoch=names,
    offset=uint64,
    data=payloads,
    positioned=true,
    recoverable=true,
    join_leave=true,
    delta=names,
    flag=uint64,
)
position = some_of(offset=uint64, epoch=names)
requests = st.one_of(
    st.fixed_dictionaries(
        {
            "connect": some_of(
                token=names, data=payloads, name=names, version=names, subs=maps_of(subscribe), headers=string_maps
            )
        }
    ),
    st.fixed_dictionaries({"subscribe": subscribe}),
    st.fixed_dictionaries({"unsubscribe": some_of(channel=names)}),
    st.fixed_dictionaries({"publish": some_of(channel=names, data=payloads)}),
    st.fixed_dictionaries({"presence": some_of(channel=names)}),
    st.fixed_dictionaries({"presence_stats": some_of(channel=names)}),
    st.fixed_dictionaries(
        {
            "history": some_of(
                channel=names, limit=st.integers(-(2**31), 2**31 - 1).filter(bool), since=position, reverse=true
            )
        }
    ),
    st.fixed_dictionaries({"ping": st.just({})}),
    st.fixed_dictionaries({"send": some_of(data=payloads)}),
    st.fixed_dictionaries({"rpc": some_of(data=payloads, method=names)}),
    st.fixed_dictionaries({"refresh": some_of(token=names)}),
    st.fixed_dictionaries({"sub_refresh": some_of(channel=names, token=names)}),
    st.just({}),
)
commands = st.builds(lambda head, request: head | request, some_of(id=uint32), requests)

client_info = some_of(user=names, client=names, conn_info=payloads, chan_info=payloads)
publication = some_of(data=payloads, info=client_info, offset=uint64, tags=string_maps, time=uint64)
expiry = {"expires": true, "ttl": uint32}
subscribed = some_of(
    **expiry,
    recoverable=true,
    epoch=names,
    publications=st.lists(publication, min_size=1, max_size=2),
    recovered=true,
    offset=uint64,
    positioned=true,
    data=payloads,
    was_recovering=true,
    delta=true,
)
connected = some_of(
    **expiry,
    client=names,
    version=names,
    data=payloads,
    subs=maps_of(subscribed),
    ping=uint32,
    pong=true,
    session=names,
    node=names,
    time=uint64,
)
pushes = st.builds(
    lambda channel, push: {"push": channel | push},
    some_of(channel=names),
    st.one_of(
        st.fixed_dictionaries({"pub": publication}),
        st.fixed_dictionaries({"join": st.fixed_dictionaries({"info": client_info})}),
        st.fixed_dictionaries({"leave": st.fixed_dictionaries({"info": client_info})}),
        st.fixed_dictionaries(
            {"unsubscribe": st.fixed_dictionaries({"code": st.integers(2000, 2999), "reason": names})}
        ),
        st.fixed_dictionaries(
            {"subscribe": some_of(recoverable=true, epoch=names, offset=uint64, positioned=true, data=payloads)}
        ),
        st.fixed_dictionaries({"message": some_of(data=payloads)}),
        st.fixed_dictionaries({"connect": connected}),
        st.fixed_dictionaries({"refresh": some_of(**expiry)}),
    ),
)
results = st.one_of(
    st.fixed_dictionaries({"connect": connected}),
    st.fixed_dictionaries({"subscribe": subscribed}),
    st.fixed_dictionaries({"unsubscribe": st.just({})}),
    st.fixed_dictionaries({"publish": st.just({})}),
    st.fixed_dictionaries({"presence": st.fixed_dictionaries({"presence": maps_of(client_info)})}),
    st.fixed_dictionaries({"presence_stats": st.fixed_dictionaries({"num_clients": uint32, "num_users": uint32})}),
    st.fixed_dictionaries(
        {
            "history": st.fixed_dictionaries(
                {"publications": st.lists(publication, min_size=1, max_size=2), "epoch": names, "offset": uint64}
            )
        }
    ),
    st.fixed_dictionaries({"ping": st.just({})}),
    st.fixed_dictionaries({"rpc": some_of(data=payloads)}),
    st.fixed_dictionaries({"refresh": some_of(**expiry, client=names, version=names)}),
    st.fixed_dictionaries({"sub_refresh": some_of(**expiry)}),
    st.fixed_dictionaries(
        {
            "error": st.fixed_dictionaries(
                {"code": st.integers(100, 2**32 - 1), "message": names}, optional={"temporary": true}
            )
        }
    ),
)
replies = pushes | st.builds(lambda head, result: head | result, st.fixed_dictionaries({"id": uint32}), results)


def plain(value: Any) -> Any:
    """What a message says, without what is left out on the wire."""
    if isinstance(value, Raw):
        return json.loads(bytes(value))
    if isinstance(value, Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        return {name: plain(field) for name, field in fields.items() if isinstance(field, Struct) or field}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def convert(message: Any, value: Any, leaf: Callable[[FieldDescriptor, Any], Any]) -> Any:
    """A plain message with every field that is no message itself put through `leaf`."""

    def field_value(field: FieldDescriptor, item: Any) -> Any:
        if field.message_type is None:
            return leaf(field, item)
        if field.message_type.GetOptions().map_entry:
            of = field.message_type.fields_by_name["value"]
            return {key: field_value(of, each) for key, each in item.items()}
        if isinstance(item, list):
            return [convert(field.message_type, each, leaf) for each in item]
        return convert(field.message_type, item, leaf)

    return {name: field_value(message.fields_by_name[name], item) for name, item in value.items()}


def to_protobuf_json(field: FieldDescriptor, value: Any) -> Any:
    """Protobuf's own JSON has bytes in base64."""
    return base64.b64encode(json.dumps(value).encode()).decode() if field.type == FieldDescriptor.TYPE_BYTES else value


def from_protobuf_json(field: FieldDescriptor, value: Any) -> Any:
    """Protobuf's own JSON has bytes in base64 and 64-bit integers in strings."""
    if field.type == FieldDescriptor.TYPE_BYTES:
        return json.loads(base64.b64decode(value))
    return int(value) if field.cpp_type != FieldDescriptor.CPPTYPE_STRING and isinstance(value, str) else value


def decode(codec: Codec, frame: str | bytes) -> list[Command]:
    decoded = codec.decode(frame)
    assert isinstance(decoded, list)
    return decoded


# --- any frame ---

mutilated = st.builds(
    lambda line, at, junk: line[:at] + junk + line[at + 1 :],
    st.sampled_from([vector.json for vector in COMMANDS]),
    st.integers(0, 150),
    st.text(max_size=3) | st.sampled_from(['"', "{", "}", "[", "]", ",", ":", "\\", "\\u", "\n", "null", "1e9999"]),
)
mutilated_bytes = st.builds(
    lambda frame, at, junk: frame[:at] + junk + frame[at + 1 :],
    st.sampled_from([bytes.fromhex(vector.protobuf) for vector in COMMANDS]),
    st.integers(0, 60),
    st.binary(max_size=3),
)
anything = st.text() | st.binary() | mutilated | mutilated_bytes | st.lists(mutilated, max_size=3).map("\n".join)


@settings(deadline=None)
@given(anything)
@example("[" * 100_000)
@example('{"a":' * 100_000)
@example('{"id":' + "9" * 100_000 + "}")
@example("\ud800")
@example(b"\xff" * 100)
@example(b"\x80" * 100)
@example(b"\x0b" * 10_000)
def test_any_frame_is_commands_or_3501(frame: str | bytes) -> None:
    for codec in (TEXT, BINARY):
        decoded = codec.decode(frame)

        if isinstance(decoded, Disconnect):
            assert decoded == DISCONNECT_BAD_REQUEST
        else:
            assert 0 < len(decoded) <= COMMANDS_PER_FRAME
            assert all(isinstance(command, Command) for command in decoded)


@settings(deadline=None)
@given(st.text() | mutilated)
def test_what_json_takes_is_what_json_is(line: str) -> None:
    """Against the standard library, whose only quirks are NaN and leniency about control characters."""
    if isinstance(TEXT.decode(line), list):
        for each in line.split("\n"):
            assert not each.strip() or isinstance(json.loads(each), dict)


@settings(deadline=None)
@given(commands, st.booleans())
def test_a_command_means_the_same_in_both_formats(command: dict[str, Any], escaped: bool) -> None:
    line = json.dumps(command, ensure_ascii=escaped)
    message = convert(client_pb2.Command.DESCRIPTOR, command, to_protobuf_json)
    frame = BytesIO()
    proto.serialize_length_prefixed(json_format.ParseDict(message, client_pb2.Command()), frame)

    meant = without_null_data(command)
    assert [plain(each) for each in decode(TEXT, line)] == [meant]
    assert [plain(each) for each in decode(BINARY, frame.getvalue())] == [meant]


def without_null_data(command: dict[str, Any]) -> dict[str, Any]:
    """The command as it is meant: on connect and subscribe, data that is `null` is data that is not set."""

    def unset(request: dict[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in request.items() if name != "data" or value is not None}
        if "subs" in kept:
            kept["subs"] = {channel: unset(sub) for channel, sub in kept["subs"].items()}
        return kept

    return {name: unset(value) if name in {"connect", "subscribe"} else value for name, value in command.items()}


@settings(deadline=None)
@given(replies)
def test_a_reply_means_the_same_in_both_formats(reply: dict[str, Any]) -> None:
    value = msgspec.json.decode(json.dumps(reply), type=Reply)

    line, frame = TEXT.encode(value), BINARY.encode(value)
    parsed = proto.parse_length_prefixed(client_pb2.Reply, BytesIO(frame))
    message = json_format.MessageToDict(parsed, preserving_proto_field_name=True)

    assert json.loads(line) == reply
    assert convert(client_pb2.Reply.DESCRIPTOR, message, from_protobuf_json) == reply


@settings(deadline=None)
@given(st.lists(replies, min_size=1, max_size=4))
def test_joined_replies_come_apart_again(several: list[dict[str, Any]]) -> None:
    values = [msgspec.json.decode(json.dumps(reply), type=Reply) for reply in several]

    lines = TEXT.join(TEXT.encode(value) for value in values).split(b"\n")
    assert [json.loads(line) for line in lines] == several

    frames = BytesIO(BINARY.join(BINARY.encode(value) for value in values))
    for reply in several:
        parsed = proto.parse_length_prefixed(client_pb2.Reply, frames)
        message = json_format.MessageToDict(parsed, preserving_proto_field_name=True)
        assert convert(client_pb2.Reply.DESCRIPTOR, message, from_protobuf_json) == reply
    assert frames.read() == b""


@settings(deadline=None)
@given(st.binary() | st.text().map(str.encode) | payloads.map(lambda value: json.dumps(value, indent=1).encode()))
@example(b'"\xed\xa0\x80"')
def test_data_reaches_a_json_client_as_it_is_or_not_at_all(data: bytes) -> None:
    reply = Reply(push=Push("news", pub=Publication(Raw(data))))

    if data and not is_json(data):
        with pytest.raises(CommandRefused) as refusal:
            TEXT.encode(reply)
        assert refusal.value.reason == DISCONNECT_INAPPROPRIATE_PROTOCOL
    else:
        line = TEXT.encode(reply)
        assert b"\n" not in line
        assert json.loads(line)["push"]["pub"] == ({"data": json.loads(data)} if data else {})
