"""Protobuf frames in, commands out; replies in, Protobuf frames out."""

import re
from pathlib import Path

import msgspec
import pytest
from msgspec import Raw

from starling.protocol import client_pb2
from starling.protocol.codec import COMMANDS_PER_FRAME
from starling.protocol.codec_protobuf import STRUCTS, ProtobufCodec
from starling.protocol.codes import DISCONNECT_BAD_REQUEST
from starling.protocol.commands import Command, PublishRequest
from starling.protocol.messages import Publication, Push, Reply
from tests.protocol.vectors import COMMANDS, REPLIES, CommandVector, ReplyVector

codec = ProtobufCodec()

SCHEMA = Path(client_pb2.__file__).with_name("client.proto")


def decode(frame: bytes) -> list[Command]:
    commands = codec.decode(frame)
    assert isinstance(commands, list), f"refused: {commands}"
    return commands


@pytest.mark.parametrize("vector", COMMANDS, ids=lambda vector: vector.name)
def test_a_frame_of_an_sdk_is_the_command_it_says(vector: CommandVector) -> None:
    assert decode(bytes.fromhex(vector.protobuf)) == [vector.command]


@pytest.mark.parametrize("vector", REPLIES, ids=lambda vector: vector.name)
def test_a_reply_is_the_frame_that_sdks_make_of_it(vector: ReplyVector) -> None:
    assert codec.encode(vector.reply).hex() == vector.protobuf


def test_a_frame_carries_several_commands_in_their_order() -> None:
    frame = bytes.fromhex("".join(vector.protobuf for vector in COMMANDS))

    assert decode(frame) == [vector.command for vector in COMMANDS]


def test_replies_of_one_tick_are_one_frame() -> None:
    replies = [codec.encode(vector.reply) for vector in REPLIES]

    assert codec.join(replies).hex() == "".join(vector.protobuf for vector in REPLIES)


def test_payloads_are_any_bytes_both_ways() -> None:
    data = bytes(range(256))
    [command] = decode(b"\x8d\x02\x08\x04:\x88\x02\n\x03bin\x12\x80\x02" + data)

    assert command == Command(4, publish=PublishRequest("bin", Raw(data)))
    assert codec.encode(Reply(push=Push("bin", pub=Publication(Raw(data))))).endswith(b"\x80\x02" + data)


def test_fields_this_schema_does_not_know_are_ignored() -> None:
    # Fields 2 (varint) and 100 (bytes) next to `ping`.
    assert decode(bytes.fromhex("0b" + "0808" + "1005" + "5a00" + "a20602beef")) == [COMMANDS[7].command]


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "{}",
        b"",
        b"{}",
        b"\x80",
        b"\xff" * 12,
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x05\x08\x01",
        b"\x02\xff\xff",
        b"\x04\x08\x08\x5a\x05",
        b"\x00\x80",
        bytes.fromhex("06080832020aff"),
        bytes.fromhex("0808083204" + "0a02" + "c328"),
    ],
    ids=lambda frame: repr(frame[:30]),
)
def test_what_is_no_command_ends_the_connection_with_3501(frame: str | bytes) -> None:
    assert codec.decode(frame) == DISCONNECT_BAD_REQUEST


def test_a_frame_has_a_bound_of_commands() -> None:
    assert len(decode(bytes(COMMANDS_PER_FRAME))) == COMMANDS_PER_FRAME
    assert codec.decode(bytes(COMMANDS_PER_FRAME + 1)) == DISCONNECT_BAD_REQUEST
    assert len(codec.decode(bytes(1300), 1300)) == 1300  # type: ignore[arg-type]  # a list
    assert codec.decode(bytes(1301), 1300) == DISCONNECT_BAD_REQUEST


def schema_as_written() -> dict[str, dict[str, int]]:
    """The messages of client.proto with the numbers of their fields."""
    text = re.sub(r"//.*", "", SCHEMA.read_text())
    return {
        name: {field: int(number) for field, number in re.findall(r"(\w+) = (\d+);", body)}
        for name, body in re.findall(r"message (\w+) \{(.*?)\}", text, re.DOTALL)
    }


def test_the_generated_module_is_of_the_schema_next_to_it() -> None:
    generated = {
        name: {field.name: field.number for field in message.fields}
        for name, message in client_pb2.DESCRIPTOR.message_types_by_name.items()
    }

    assert generated == schema_as_written()


# The body of an emulated request carries frames, and is no message of a frame.
@pytest.mark.parametrize("name", sorted(schema_as_written().keys() - {"EmulationRequest"}))
def test_the_schema_has_the_fields_of_the_messages_and_no_others(name: str) -> None:
    struct = STRUCTS[name]

    assert {field.name for field in msgspec.structs.fields(struct)} == set(schema_as_written()[name])
