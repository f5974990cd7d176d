"""JSON frames in, commands out; replies in, JSON frames out."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from starling.protocol.codec import COMMANDS_PER_FRAME, commands_per_frame
from starling.protocol.codec_json import JsonCodec
from starling.protocol.codes import DISCONNECT_BAD_REQUEST, DISCONNECT_INAPPROPRIATE_PROTOCOL, CommandRefused
from starling.protocol.commands import Command
from starling.protocol.messages import (
    ClientInfo,
    ConnectResult,
    HistoryResult,
    Join,
    Message,
    PresenceResult,
    Publication,
    Push,
    Reply,
    RPCResult,
    SubscribeResult,
)
from starling.protocol.portable_json import NESTING_LIMIT, NUMBER_LIMIT, is_json
from tests.protocol.vectors import COMMANDS, REPLIES, CommandVector, ReplyVector

codec = JsonCodec()


def decode(frame: str | bytes) -> list[Command]:
    commands = codec.decode(frame)
    assert isinstance(commands, list), f"refused: {commands}"
    return commands


def publish_of(line: str) -> bytes:
    [command] = decode(line)
    assert command.publish is not None
    return bytes(command.publish.data)


@pytest.mark.parametrize("vector", COMMANDS, ids=lambda vector: vector.name)
def test_a_line_is_the_command_it_says(vector: CommandVector) -> None:
    assert decode(vector.json) == [vector.command]


@pytest.mark.parametrize("vector", REPLIES, ids=lambda vector: vector.name)
def test_a_reply_is_the_line_that_sdks_read(vector: ReplyVector) -> None:
    line = codec.encode(vector.reply)

    assert json.loads(line) == json.loads(vector.json)
    assert b"\n" not in line


def test_a_frame_carries_several_commands_in_their_order() -> None:
    frame = "\n".join(vector.json for vector in COMMANDS)

    assert decode(frame) == [vector.command for vector in COMMANDS]


@pytest.mark.parametrize(
    "frame",
    [
        '{"id":8,"ping":{}}\n',
        '\n{"id":8,"ping":{}}',
        '{"id":8,"ping":{}}\r\n\r\n',
        '  { "id" : 8 , "ping" : { } }  ',
        b'{"id":8,"ping":{}}',
        '{"id":8,"ping":{},"unheard":{"of":[1,null]}}',
        '{"id":8,"ping":{"unheard":"of"}}',
        '{"id":8,"ping":{},"connect":null}',
    ],
)
def test_space_binary_frames_and_unknown_fields_are_no_obstacle(frame: str | bytes) -> None:
    assert decode(frame) == [COMMANDS[7].command]


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "\n",
        " \r\n\t",
        b"",
        "nonsense",
        "null",
        "[]",
        "1",
        '"connect"',
        '{"id":1,"ping":{}}{"id":2,"ping":{}}',
        '{"id":1,"ping":{}',
        '{"id":1,"ping":{},}',
        '{"id":1,"connect":[]}',
        '{"id":1,"connect":{"token":5}}',
        '{"id":1,"connect":{"subs":{"news":5}}}',
        '{"id":1,"connect":{"headers":{"a":null}}}',
        '{"id":1,"connect":{"subs":{"news":null}}}',
        '{"id":1,"publish":{"channel":"c","data":NaN}}',
        '{"id":1,"publish":{"channel":"c","data":01}}',
        '{"id":1,"publish":{"channel":"c","data":}}',
        '{"id":-1,"ping":{}}',
        '{"id":4294967296,"ping":{}}',
        '{"id":1.5,"ping":{}}',
        '{"id":"1","ping":{}}',
        '{"id":true,"ping":{}}',
        '{"id":' + "9" * 5000 + ',"ping":{}}',
        '{"id":1,"subscribe":{"channel":"c","offset":-1}}',
        '{"id":1,"subscribe":{"channel":"c","offset":9223372036854775808}}',
        '{"id":1,"history":{"channel":"c","limit":2147483648}}',
        '{"id":1,"publish":{"channel":"a\nb","data":1}}',
        b'{"id":1,"publish":{"channel":"c","data":"\xff"}}',
        b'{"id":1,"publish":{"channel":"\xc3\x28","data":1}}',
        b'\xef\xbb\xbf{"id":1,"ping":{}}',
        '{"id":1,"publish":{"channel":"c","data":"\ud800"}}',
        '{"id":1,"publish":{"channel":"c","data":' + "[" * 100_000,
        '{"id":1,"publish":{"channel":"c","data":' + '{"a":' * 100_000,
        '{"id":1,"ping":{}}\nnonsense',
    ],
    ids=lambda frame: repr(frame[:60]),
)
def test_what_is_no_command_ends_the_connection_with_3501(frame: str | bytes) -> None:
    assert codec.decode(frame) == DISCONNECT_BAD_REQUEST


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (
            '{"id":1,"connect":{"token":null,"name":null,"version":null,"headers":null,"subs":null}}',
            '{"id":1,"connect":{}}',
        ),
        ('{"id":1,"connect":{"data":null}}', '{"id":1,"connect":{}}'),
        (
            '{"id":1,"connect":{"subs":{"a":{"offset":null,"epoch":null,"data":null,"tf":null}}}}',
            '{"id":1,"connect":{"subs":{"a":{}}}}',
        ),
        (
            '{"id":2,"subscribe":{"channel":"a","token":null,"recover":null,"epoch":null,"offset":null,"data":null}}',
            '{"id":2,"subscribe":{"channel":"a"}}',
        ),
        (
            '{"id":2,"subscribe":{"channel":"a","positioned":null,"recoverable":null,"join_leave":null,"delta":null}}',
            '{"id":2,"subscribe":{"channel":"a"}}',
        ),
        (
            '{"id":2,"subscribe":{"channel":"a","tf":null,"flag":null,"type":null}}',
            '{"id":2,"subscribe":{"channel":"a"}}',
        ),
        (
            '{"id":2,"history":{"channel":"a","limit":null,"since":null,"reverse":null}}',
            '{"id":2,"history":{"channel":"a"}}',
        ),
        (
            '{"id":2,"history":{"channel":"a","since":{"offset":7,"epoch":null}}}',
            '{"id":2,"history":{"channel":"a","since":{"offset":7}}}',
        ),
        ('{"id":2,"rpc":{"method":null,"data":null}}', '{"id":2,"rpc":{"data":null}}'),
        ('{"id":null,"send":{"data":null}}', '{"send":{"data":null}}'),
        ('{"id":2,"publish":{"channel":null,"data":null}}', '{"id":2,"publish":{"data":null}}'),
        ('{"id":2,"presence":{"channel":"a"},"publish":null,"rpc":null}', '{"id":2,"presence":{"channel":"a"}}'),
        ('{"id": 2, "refresh": {"token": null , "unknown": null}}', '{"id":2,"refresh":{}}'),
    ],
)
def test_null_is_a_field_that_is_not_set_but_for_the_users_own_data(sent: str, meant: str) -> None:
    assert decode(sent) == decode(meant)


def test_null_that_a_client_publishes_is_a_value() -> None:
    assert publish_of('{"id":4,"publish":{"channel":"c","data":null}}') == b"null"
    assert publish_of('{"id":4,"publish":{"channel":"c","data":null,"type":null}}') == b"null"


def test_of_a_key_given_twice_the_last_counts() -> None:
    assert decode('{"id":1,"id":8,"ping":{}}') == [COMMANDS[7].command]


@pytest.mark.parametrize(
    "data",
    ["null", "0", '""', "[]", '{"a" : 1,  "b":[ ]}', "-0.0e+1", "1e999", '"\\u00e9 \\ud83d\\ude00"', '"é 😀"', '"[{["'],
)
def test_data_passes_through_to_the_letter(data: str) -> None:
    assert publish_of(f'{{"id":4,"publish":{{"channel":"c","data":{data}}}}}') == data.encode()


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (r'"cut in an emoji \ud83d"', r'"cut in an emoji \ufffd"'),
        (r'"\ude00\ud83d\ud83d\ude00"', r'"\ufffd\ufffd\ud83d\ude00"'),
        (r'"\\ud83d \ud83D"', r'"\\ud83d \ufffd"'),
    ],
)
def test_half_an_emoji_as_browsers_escape_it_becomes_the_replacement_character(sent: str, kept: str) -> None:
    assert publish_of(f'{{"id":4,"publish":{{"channel":"c","data":{sent}}}}}') == kept.encode()


def test_a_frame_has_a_bound_of_commands() -> None:
    assert len(decode("\n".join(["{}"] * COMMANDS_PER_FRAME))) == COMMANDS_PER_FRAME
    assert codec.decode("\n".join(["{}"] * (COMMANDS_PER_FRAME + 1))) == DISCONNECT_BAD_REQUEST


@pytest.mark.parametrize(("channels", "commands"), [(1, 1000), (900, 1000), (1200, 1300), (100_000, 100_100)])
def test_a_frame_holds_the_subscriptions_of_all_channels_that_are_allowed(channels: int, commands: int) -> None:
    limit = commands_per_frame(channels)
    assert limit == commands
    whole = codec.decode("\n".join(["{}"] * commands), limit)
    assert isinstance(whole, list)
    assert len(whole) == commands
    assert codec.decode("\n".join(["{}"] * (commands + 1)), limit) == DISCONNECT_BAD_REQUEST
    assert codec.decode("{}" + "\n" * 60_000) == DISCONNECT_BAD_REQUEST


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_nesting_has_a_bound_that_brackets_in_strings_and_siblings_do_not_reach() -> None:
    def frame(data: str, command: str = "publish") -> str:
        return f'{{"id":4,"{command}":{{"channel":"c","data":{data}}}}}'

    assert publish_of(frame(nested(NESTING_LIMIT - 2)))
    assert publish_of(frame('"' + r"\"[" * 1000 + '"'))
    assert publish_of(frame("[" + ",".join([nested(10)] * 200) + "]"))
    assert publish_of(frame(r'["\\","' + "[" * 300 + '"]'))
    for command in ("rpc", "send", "subscribe"):
        assert isinstance(codec.decode(frame(nested(NESTING_LIMIT - 2), command)), list)
        deep = frame(nested(NESTING_LIMIT - 1), command)
        assert codec.decode(deep) == DISCONNECT_BAD_REQUEST
        assert codec.decode("\n".join([frame("1"), deep])) == DISCONNECT_BAD_REQUEST
    # The data of publications is checked for its channel, which answers with an error.
    assert publish_of(frame(nested(NESTING_LIMIT * 2)))
    assert codec.decode(frame(nested(100_000))) == DISCONNECT_BAD_REQUEST


def test_replies_of_one_tick_are_one_frame_of_lines() -> None:
    replies = [codec.encode(vector.reply) for vector in REPLIES]

    lines = codec.join(replies).split(b"\n")

    assert [json.loads(line) for line in lines] == [json.loads(vector.json) for vector in REPLIES]


def test_pretty_printed_data_stays_on_one_line() -> None:
    reply = Reply(push=Push("news", pub=Publication(Raw(b'{\n  "a": "b\\n",\r\n  "c": [\n]\n}'))))

    line = codec.encode(reply)

    assert b"\n" not in line
    assert json.loads(line)["push"]["pub"]["data"] == {"a": "b\n", "c": []}


@pytest.mark.parametrize(
    "data",
    [
        b"\xde\xad\xbe\xef",
        b'"\xff"',
        b"nonsense",
        b'1},"id":5,"rpc":{',
        b"NaN",
        b"1 2",
        nested(NESTING_LIMIT + 1).encode(),
    ],
)
@pytest.mark.parametrize(
    "place",
    [
        lambda raw: Reply(push=Push("news", pub=Publication(raw))),
        lambda raw: Reply(push=Push("news", pub=Publication(Raw(b"1"), ClientInfo("42", "c1", raw)))),
        lambda raw: Reply(push=Push("news", join=Join(ClientInfo("42", "c1", chan_info=raw)))),
        lambda raw: Reply(push=Push(message=Message(raw))),
        lambda raw: Reply(1, connect=ConnectResult(data=raw)),
        lambda raw: Reply(1, connect=ConnectResult(subs={"news": SubscribeResult(data=raw)})),
        lambda raw: Reply(1, subscribe=SubscribeResult(publications=[Publication(Raw(b"1")), Publication(raw)])),
        lambda raw: Reply(1, presence=PresenceResult({"c1": ClientInfo("42", "c1", raw)})),
        lambda raw: Reply(1, history=HistoryResult([Publication(raw)])),
        lambda raw: Reply(1, rpc=RPCResult(raw)),
    ],
    ids=["pub", "info", "join", "message", "connect", "subs", "publications", "presence", "history", "rpc"],
)
def test_binary_data_cannot_reach_a_json_client_and_ends_its_connection_with_3506(place: object, data: bytes) -> None:
    assert callable(place)

    with pytest.raises(CommandRefused) as refusal:
        codec.encode(place(Raw(data)))

    assert refusal.value.reason == DISCONNECT_INAPPROPRIATE_PROTOCOL


def test_empty_payloads_are_left_out_however_they_were_made() -> None:
    empty = Raw(b"")
    reply = Reply(
        push=Push("news", pub=Publication(empty, ClientInfo("42", "c1", empty, empty))),
        rpc=RPCResult(empty),
        connect=ConnectResult(data=empty),
    )

    assert json.loads(codec.encode(reply)) == {
        "push": {"channel": "news", "pub": {"info": {"user": "42", "client": "c1"}}},
        "rpc": {},
        "connect": {},
    }


@pytest.mark.parametrize(
    ("data", "valid"),
    [
        (b"0", True),
        (b' {"a":[1,2.5e3,null,true,"\\u00e9"]}\n', True),
        ("é".encode(), False),
        ('"é"'.encode(), True),
        (b'"\\ud83d"', False),
        (b'"\\ud83d\\ude00"', True),
        (b'["\\\\ud83d"]', True),
        (b'{"\\udc00":1}', False),
        (b'"\\ud83d" x', False),
        (b"", False),
        (b"\x00", False),
        (b'"\xc3"', False),
        (b"[1,]", False),
        (b"+1", False),
        (b"NaN", False),
        (b"-Infinity", False),
        (b"\xef\xbb\xbf1", False),
        ('"é"'.encode("utf-16"), False),
        (b"1" * NUMBER_LIMIT, True),
        (b"1" * (NUMBER_LIMIT + 1), False),
        (b"[0,-" + b"1" * NUMBER_LIMIT + b"]", False),
        (b'{"a":0.' + b"3" * NUMBER_LIMIT + b"}", False),
        (b"1e" + b"0" * NUMBER_LIMIT, False),
        (b"1e400", True),
        (b'["' + b"1" * 5000 + b'"]', True),
        (b'["\\"' + b"1" * 5000 + b'",' + b"1" * 5000 + b"]", False),
        (b"[" + b",".join([b"123456789"] * 5000) + b"]", True),
        (nested(NESTING_LIMIT).encode(), True),
        (nested(NESTING_LIMIT + 1).encode(), False),
        (b"[" * 1_000_000, False),
        (b"[" + b",".join([b"{}"] * 1000) + b"]", True),
    ],
    ids=lambda value: repr(value[:30]) if isinstance(value, bytes) else None,
)
def test_is_json_is_what_every_sdk_can_read(data: bytes, valid: bool) -> None:
    assert is_json(data) is valid


@given(
    before=st.integers(0, 2500),
    digits=st.integers(NUMBER_LIMIT - 3, NUMBER_LIMIT + 3),
    in_string=st.booleans(),
    tail=st.sampled_from([b"", b",1", b',"a"', b',"\\\\"']),
)
def test_the_length_of_a_number_counts_wherever_it_stands(
    before: int, digits: int, in_string: bool, tail: bytes
) -> None:
    number = b"7" * digits
    value = b'"%b"' % number if in_string else number
    data = b'["%b",%b%b]' % (b"x" * before, value, tail)

    assert is_json(data) is (in_string or digits <= NUMBER_LIMIT)


@given(
    depth=st.integers(NESTING_LIMIT - 3, NESTING_LIMIT + 3),
    objects=st.integers(0, 2**300),
    before=st.sampled_from(["", '"]]}}[[{{",', r'"\\","[",', r'"\"]",', "[{},[]],", '{"[":"}"},']),
    leaf=st.sampled_from(["1", '""', '"[[["', r'"\\"', '"' + "x" * 5000 + '"']),
)
def test_depth_is_counted_to_the_level_whatever_the_strings_hold(
    depth: int, objects: int, before: str, leaf: str
) -> None:
    text = leaf
    for level in range(depth):
        # The shortest form of either kind, and neighbours of the innermost one that are not on the way down.
        first = before if level == 0 else ""
        text = f'{{"":{text}}}' if objects >> level & 1 and not first else f"[{first}{text}]"
    # A neighbour adds two levels at most, next to the innermost value.
    deepest = depth + (before in ("[{},[]],",)) * 2 + (before == '{"[":"}"},')

    assert is_json(text.encode()) is (deepest <= NESTING_LIMIT)
