"""Answers that many clients share: each gets the same bytes as if they were encoded for it alone."""

import pytest
from msgspec import Raw

from starling.protocol.codec import Codec
from starling.protocol.codec_json import JsonCodec
from starling.protocol.codec_protobuf import ProtobufCodec
from starling.protocol.codes import CommandRefused
from starling.protocol.messages import (
    ClientInfo,
    HistoryResult,
    PresenceResult,
    Publication,
    Reply,
    SharedMembers,
    SharedPublications,
)

MEMBERS = {
    "c1": ClientInfo("ann", "c1", Raw(b'{"name": "Ann"}'), Raw(b"[\n1]")),
    "c2": ClientInfo("", "c2"),
    'c"3': ClientInfo("ü", 'c"3', Raw(b"3")),
}
PUBLICATIONS = [Publication(Raw(b'{"a": 1}'), MEMBERS["c1"], 1), Publication(Raw(), None, 2, {"kind": "x"})]


@pytest.mark.parametrize("codec", [JsonCodec(), ProtobufCodec()], ids=["json", "protobuf"])
def test_an_answer_that_is_shared_is_the_one_that_a_client_would_get_alone(codec: Codec) -> None:
    members, publications = SharedMembers(MEMBERS.items()), SharedPublications(PUBLICATIONS)
    for number in (1, 2):
        alone = codec.encode(Reply(number, presence=PresenceResult(dict(MEMBERS))))
        reply = Reply(number, presence=PresenceResult(members))
        assert codec.encode(reply) == alone
        assert reply.presence is not None
        assert reply.presence.presence is members, "the reply is as it was, for captures"

        alone = codec.encode(Reply(number, history=HistoryResult([*PUBLICATIONS], "e", 2)))
        assert codec.encode(Reply(number, history=HistoryResult(publications, "e", 2))) == alone


@pytest.mark.parametrize("codec", [JsonCodec(), ProtobufCodec()], ids=["json", "protobuf"])
def test_nobody_in_a_channel_is_an_answer_too(codec: Codec) -> None:
    empty = Reply(1, presence=PresenceResult(SharedMembers(())))
    assert codec.encode(empty) == codec.encode(Reply(1, presence=PresenceResult({})))


def test_an_info_that_no_json_client_can_read_is_refused_and_left_out_for_each() -> None:
    codec, members = JsonCodec(), SharedMembers({**MEMBERS, "c4": ClientInfo("eve", "c4", Raw(b"}{"))}.items())
    for _ in range(2):
        reply = Reply(1, presence=PresenceResult(members))
        with pytest.raises(CommandRefused):
            codec.encode(reply)
        assert codec.leave_out_unreadable(reply) == 1
        line = codec.encode(reply)
        assert b'"c4":{"user":"eve","client":"c4"}' in line
        assert b'{"name": "Ann"}' in line
