"""Patches of what was recovered: made once, a few in each answer, and exact whichever publications are between."""

import json
import random
from itertools import pairwise

import pytest
from centrifuge import fossil
from msgspec import Raw

from starling.engine.recovered_patches import RecoveredPatches
from starling.engine.view import ViewEncoder
from starling.protocol.codec_json import JsonPushes
from starling.protocol.codec_protobuf import ProtobufPushes
from starling.protocol.messages import Publication

JSON, PROTOBUF = JsonPushes(), ProtobufPushes()
CHANCE = random.Random(15)


def documents(number: int, first: int = 1) -> list[Publication]:
    text = "x" * 500
    return [
        Publication(Raw(json.dumps({"n": n, "body": text}).encode()), offset=n) for n in range(first, first + number)
    ]


def read(made: list[Publication], encoder: ViewEncoder) -> list[bytes]:
    """What a client makes of them."""
    whole: list[bytes] = []
    for each in made:
        data = json.loads(bytes(each.data)).encode() if encoder is JSON else bytes(each.data)
        whole.append(bytes(fossil.apply_delta(whole[-1], data)) if each.delta else data)
    return whole


@pytest.mark.parametrize("encoder", [JSON, PROTOBUF], ids=["json", "protobuf"])
def test_every_reader_can_read_its_patches_whichever_publications_it_gets(encoder: ViewEncoder) -> None:
    patches, stream = RecoveredPatches(max_bytes=30_000), documents(40)
    for _ in range(200):
        wanted = [each for each in stream[CHANCE.randrange(40) :] if CHANCE.random() < 0.8]
        made, base = patches.of("room", wanted, encoder)
        assert read(made, encoder) == [bytes(each.data) for each in wanted]
        assert (base is None) == (not wanted)
        if base is not None:
            assert (base.offset, base.payload) == (wanted[-1].offset, bytes(wanted[-1].data))
        assert patches.size <= 30_000


def test_what_others_recovered_is_not_made_again() -> None:
    patches, stream = RecoveredPatches(), documents(10)
    first, _ = patches.of("room", stream, JSON)
    again, _ = patches.of("room", stream, JSON)
    assert all(one is other for one, other in zip(first, again, strict=True))
    later, _ = patches.of("room", stream[5:], JSON)
    assert not later[0].delta
    assert all(one is other for one, other in zip(first[6:], later[1:], strict=True))


def test_another_stream_format_or_channel_has_patches_of_its_own() -> None:
    patches, stream, other = RecoveredPatches(), documents(3), documents(3)
    for publications, channel, encoder in (
        (stream, "room", JSON),
        (other, "room", JSON),
        (stream, "room", PROTOBUF),
        (stream, "hall", JSON),
    ):
        made, _ = patches.of(channel, publications, encoder)
        assert read(made, encoder) == [bytes(each.data) for each in publications]
    changed = [stream[0], Publication(Raw(b'"another"'), offset=2), stream[2]]
    assert read(patches.of("room", changed, JSON)[0], JSON) == [bytes(each.data) for each in changed]


def test_an_answer_has_few_new_patches_and_those_of_the_answers_before() -> None:
    patches, stream = RecoveredPatches(made_bytes=5 * 500), documents(20)
    before = 0
    for _ in range(10):
        made, _ = patches.of("room", stream, JSON)
        assert read(made, JSON) == [bytes(each.data) for each in stream]
        number = sum(each.delta for each in made)
        assert number == before == 19 or before < number <= before + 5
        before = number
    assert before == 19
    assert all(one.offset + 1 == other.offset for one, other in pairwise(made))
