"""Answers that many clients share: each gets the same bytes as if they were encoded for it alone."""

import io
import json
from collections.abc import Collection
from typing import Any

import pytest
from google.protobuf import proto
from msgspec import Raw

from starling.protocol import client_pb2
from starling.protocol.codec import Codec
from starling.protocol.codec_json import JsonCodec
from starling.protocol.codec_protobuf import ProtobufCodec
from starling.protocol.codes import CommandRefused
from starling.protocol.messages import (
    ClientInfo,
    ConnectResult,
    HistoryResult,
    PresenceResult,
    Publication,
    Reply,
    SubscribeResult,
)
from starling.protocol.shared_values import SharedMembers, SharedPublications

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
        reply = Reply(number, presence=PresenceResult(members))
        codec.encode(reply)
        assert answer(codec, members) == answer(codec, dict(MEMBERS))
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


@pytest.mark.parametrize("codec", [JsonCodec(), ProtobufCodec()], ids=["json", "protobuf"])
def test_members_that_changed_are_in_the_next_answer_as_they_are_then(codec: Codec) -> None:
    members = SharedMembers(MEMBERS.items())
    codec.encode(Reply(1, presence=PresenceResult(members)))
    ann, dan = ClientInfo("ann", "c1", Raw(b'"changed"')), ClientInfo("dan", "c4", Raw(), Raw(b'{"a":\n1}'))
    changes: list[tuple[list[str], dict[str, ClientInfo]]] = [
        (["c1"], {"c1": ann}),
        ([], {"c4": dan}),
        (["c2", 'c"3'], {}),
        (["c1"], MEMBERS | {"c1": ann}),
        (["c1", "c2", 'c"3', "c4"], {}),
        ([], {"c4": dan}),
    ]
    for gone, now in changes:
        before, answer_before = {**members}, answer(codec, members)
        after = members.changed(gone, now)
        expected = {client: info for client, info in before.items() if client not in gone} | now
        assert after == expected
        assert after.size == SharedMembers(expected.items()).size
        assert answer(codec, after) == answer(codec, expected)
        assert answer(codec, members) == answer_before
        members = after


def answer(codec: Codec, members: dict[str, ClientInfo]) -> object:
    """The answer as a client reads it: members have no order, and Protobuf writes them in any."""
    encoded = codec.encode(Reply(1, presence=PresenceResult(members)))
    if codec.text:
        return json.loads(encoded)
    return proto.parse_length_prefixed(client_pb2.Reply, io.BytesIO(encoded))


@pytest.mark.parametrize("codec", [JsonCodec(), ProtobufCodec()], ids=["json", "protobuf"])
def test_publications_of_overlapping_answers_are_encoded_once(codec: Codec) -> None:
    pieces: list[dict[str, Any]] = [{}, {}]
    alone = codec.encode(Reply(1, history=HistoryResult([*PUBLICATIONS], "e", 2)))
    newest = codec.encode(Reply(1, history=HistoryResult(PUBLICATIONS[1:], "e", 2)))
    assert codec.encode(Reply(1, history=HistoryResult(SharedPublications(PUBLICATIONS, pieces), "e", 2))) == alone
    for first in (0, 1):
        shared = SharedPublications(PUBLICATIONS[first:], pieces[first:])
        made = shared.pieces_of(codec.name, unexpected)
        assert made is not None
        assert len(made) == len(shared)
        assert codec.encode(Reply(1, history=HistoryResult(shared, "e", 2))) == (newest if first else alone)


EVERY_FIELD = Publication(Raw(b"x"), MEMBERS["c1"], 7, {"kind": "x"}, 1_764_400_000_000, delta=True)


def test_the_publication_with_every_field_has_every_field() -> None:
    assert all(getattr(EVERY_FIELD, field) for field in Publication.__struct_fields__)


@pytest.mark.parametrize(
    "publication",
    [
        Publication(),
        EVERY_FIELD,
        Publication(Raw(b"x" * 127), None, 127, {"a": ""}, 1_764_400_000_000),
        Publication(Raw(b"x" * 128), MEMBERS["c1"], 128, {"": "b", "\u00fc" * 70: "c" * 200}),
        Publication(Raw(b"\0\xff" * 20_000), MEMBERS["c2"], 2**53 - 1, None, 2**53 - 1, delta=True),
    ],
)
def test_a_publication_of_any_size_is_the_same_message_alone_and_shared(publication: Publication) -> None:
    codec = ProtobufCodec()
    for shared in (SharedPublications([publication] * 2), SharedPublications([publication], [{}])):
        for reply in (
            Reply(2**32 - 1, history=HistoryResult(shared, "e", 300)),
            Reply(300, subscribe=SubscribeResult(publications=shared, recoverable=True, offset=2**53 - 1)),
            Reply(1, connect=ConnectResult("c", "1", subs={"news": SubscribeResult(publications=shared)})),
        ):
            found = proto.parse_length_prefixed(client_pb2.Reply, io.BytesIO(codec.encode(reply)))
            result = reply.history or reply.subscribe or reply.connect.subs["news"]  # type: ignore[union-attr]
            result.publications = [*shared]
            assert found == proto.parse_length_prefixed(client_pb2.Reply, io.BytesIO(codec.encode(reply)))


def unexpected(publications: Collection[Publication]) -> list[object]:
    raise AssertionError(f"{len(publications)} publications are encoded again")
