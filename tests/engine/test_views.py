"""Views of one channel: filters, patches and channel ids in the local half of a fan-out."""

import asyncio
import json
from typing import Any

import pytest
from centrifuge import fossil
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec import Raw

from starling.engine.hub import Hub
from starling.engine.recovered_patches import RecoveredPatches
from starling.engine.view import Base, View
from starling.protocol import client_pb2
from starling.protocol.codec_json import JsonPushes
from starling.protocol.codec_protobuf import ProtobufPushes
from starling.protocol.messages import ClientInfo, Publication, Push
from starling.protocol.tags_filter import FilterNode, TagsFilter, compile_filter
from tests.support.fake_receivers import FakeReceiver
from tests.support.waiting import DEADLINE

JSON = JsonPushes()
PROTOBUF = ProtobufPushes()
RED = compile_filter(FilterNode(key="color", cmp="eq", val="red"))
LONG = {"title": "a document that is long enough to be worth a patch", "body": "x" * 200}


class JsonReceiver(FakeReceiver):
    """Reads JSON as clients do."""

    encoder = JSON

    @property
    def pushes(self) -> list[dict[str, Any]]:
        return [json.loads(payload)["push"] for payload in self.transport.payloads]


def document(**changes: object) -> Publication:
    return Publication(Raw(json.dumps({**LONG, **changes}).encode()))


def numbered(publication: Publication, offset: int, **tags: str) -> Publication:
    return Publication(publication.data, offset=offset, tags=tags or None)


async def written(hub: Hub) -> None:
    async with asyncio.timeout(DEADLINE):
        while hub.busy:
            await asyncio.sleep(0)


def read_deltas(pushes: list[dict[str, Any]]) -> list[Any]:
    """What an SDK makes of the publications: strings, the first whole, others perhaps patches of the one before."""
    values, previous = [], b""
    for push in pushes:
        data = push["pub"]["data"].encode()
        previous = bytes(fossil.apply_delta(previous, data)) if push["pub"].get("delta") else data
        values.append(json.loads(previous))
    return values


async def test_a_reader_of_patches_gets_the_first_publication_whole_and_then_patches() -> None:
    hub, patched, plain = Hub(), JsonReceiver(), JsonReceiver()
    hub.subscribers.add("room", patched, View(JSON, delta=True))
    hub.subscribers.add("room", plain)

    for number in (1, 2, 3):
        hub.broadcast("room", numbered(document(n=number), number), delta=True)
    await written(hub)

    assert [push["pub"].get("delta", False) for push in patched.pushes] == [False, True, True]
    assert read_deltas(patched.pushes) == [{**LONG, "n": n} for n in (1, 2, 3)]
    assert len(patched.transport.payloads[1]) < len(plain.transport.payloads[1]) / 2
    assert [push["pub"]["data"] for push in plain.pushes] == [{**LONG, "n": n} for n in (1, 2, 3)]


async def test_who_joins_later_gets_its_first_publication_whole_while_others_get_patches() -> None:
    hub, early, late = Hub(), JsonReceiver(), JsonReceiver()
    hub.subscribers.add("room", early, View(JSON, delta=True))
    hub.broadcast("room", numbered(document(n=1), 1), delta=True)
    hub.subscribers.add("room", late, View(JSON, delta=True))
    for number in (2, 3):
        hub.broadcast("room", numbered(document(n=number), number), delta=True)
    await written(hub)

    assert [push["pub"].get("delta", False) for push in early.pushes] == [False, True, True]
    assert [push["pub"].get("delta", False) for push in late.pushes] == [False, True]
    assert read_deltas(late.pushes) == [{**LONG, "n": n} for n in (2, 3)]


@pytest.mark.parametrize(("offset", "patched"), [(7, True), (6, False)])
async def test_who_recovered_the_newest_publication_gets_a_patch_of_it(offset: int, patched: bool) -> None:
    hub, early, late = Hub(), JsonReceiver(), JsonReceiver()
    hub.subscribers.add("room", early, View(JSON, delta=True))
    hub.broadcast("room", numbered(document(n=7), 7), delta=True)
    recovered = bytes(document(n=offset).data)
    hub.subscribers.add("room", late, View(JSON, delta=True), Base(offset, recovered))
    hub.broadcast("room", numbered(document(n=8), 8), delta=True)
    await written(hub)

    assert late.pushes[0]["pub"].get("delta", False) is patched


async def test_a_publication_that_is_not_to_be_patched_goes_whole_and_is_the_next_base() -> None:
    hub, reader = Hub(), JsonReceiver()
    hub.subscribers.add("room", reader, View(JSON, delta=True))
    for number, delta in ((1, True), (2, False), (3, True)):
        hub.broadcast("room", numbered(document(n=number), number), delta=delta)
    await written(hub)

    assert [push["pub"].get("delta", False) for push in reader.pushes] == [False, False, True]
    assert read_deltas(reader.pushes) == [{**LONG, "n": n} for n in (1, 2, 3)]


async def test_protobuf_readers_get_patches_as_bytes() -> None:
    hub, reader = Hub(), JsonReceiver()
    hub.subscribers.add("room", reader, View(PROTOBUF, delta=True))
    for number in (1, 2):
        hub.broadcast("room", numbered(document(n=number), number), delta=True)
    await written(hub)

    replies = []
    for payload in reader.transport.payloads:
        # The length before it takes two bytes for the whole document, one for the patch.
        reply = client_pb2.Reply()
        reply.ParseFromString(payload[2 if payload[0] & 0x80 else 1 :])
        replies.append(reply.push.pub)
    assert replies[0].data == bytes(document(n=1).data)
    assert replies[1].delta
    assert bytes(fossil.apply_delta(replies[0].data, replies[1].data)) == bytes(document(n=2).data)


@pytest.mark.parametrize(
    "unreadable",
    [
        pytest.param(Publication(Raw(b"\xff" * 50), offset=2), id="no text"),
        pytest.param(Publication(Raw(b"a text that is no JSON " * 5), offset=2), id="no JSON"),
        pytest.param(Publication(Raw(b""), offset=2), id="empty"),
        pytest.param(Publication(document(n=2).data, ClientInfo("ann", conn_info=Raw(b"\xff")), 2), id="info"),
    ],
)
async def test_what_no_sdk_reads_is_spared_a_json_reader_whose_next_publication_is_whole(
    unreadable: Publication,
) -> None:
    hub, reader = Hub(), JsonReceiver()
    hub.subscribers.add("room", reader, View(JSON, delta=True))
    hub.broadcast("room", numbered(document(n=1), 1), delta=True)
    hub.broadcast("room", unreadable, delta=True)
    for number in (3, 4):
        hub.broadcast("room", numbered(document(n=number), number), delta=True)
    await written(hub)

    assert [push["pub"]["offset"] for push in reader.pushes] == [1, 3, 4]
    assert [push["pub"].get("delta", False) for push in reader.pushes] == [False, False, True]
    assert hub.unreadable.count == 1
    assert read_deltas(reader.pushes) == [{**LONG, "n": n} for n in (1, 3, 4)]

    recovered, _ = RecoveredPatches().of(
        "room", [numbered(document(n=1), 1), unreadable, numbered(document(n=3), 3), numbered(document(n=4), 4)], JSON
    )
    pushes = [json.loads(JSON.encode_push(Push("room", pub=each)).payload)["push"] for each in recovered]
    assert [push["pub"].get("delta", False) for push in pushes] == [False, True, True]
    assert read_deltas(pushes) == [{**LONG, "n": n} for n in (1, 3, 4)]


async def test_a_filter_lets_only_matching_publications_through_and_is_asked_once_per_publication() -> None:
    asked = []

    def matches(tags: Any) -> bool:
        asked.append(tags)
        return bool(tags.get("color") == "red")

    once = TagsFilter(("counted",), matches)
    hub, readers, plain = Hub(), [JsonReceiver() for _ in range(3)], JsonReceiver()
    for reader in readers:
        hub.subscribers.add("room", reader, View(JSON, once))
    hub.subscribers.add("room", readers[0], View(JSON, once))
    hub.subscribers.add("room", plain)
    for offset, color in enumerate(("red", "blue", "red"), start=1):
        hub.broadcast("room", numbered(document(), offset, color=color))
    hub.broadcast("room", numbered(document(), 4))
    await written(hub)

    assert [[push["pub"]["offset"] for push in reader.pushes] for reader in readers] == [[1, 3]] * 3
    assert [push["pub"]["offset"] for push in plain.pushes] == [1, 2, 3, 4]
    assert len(asked) == 4
    assert readers[0].transport.frames[0] is plain.transport.frames[0], "equal frames are made once"


async def test_patches_behind_a_filter_are_made_against_what_the_reader_got() -> None:
    hub, reader = Hub(), JsonReceiver()
    hub.subscribers.add("room", reader, View(JSON, RED, delta=True))
    for offset, color in enumerate(("blue", "red", "blue", "red", "red"), start=1):
        hub.broadcast("room", numbered(document(n=offset), offset, color=color), delta=True)
    await written(hub)

    assert [push["pub"].get("delta", False) for push in reader.pushes] == [False, True, True]
    assert read_deltas(reader.pushes) == [{**LONG, "n": n} for n in (2, 4, 5)]


async def test_a_reader_with_a_channel_id_gets_it_in_place_of_the_name() -> None:
    hub, short, plain = Hub(), JsonReceiver(), JsonReceiver()
    number = hub.subscribers.ids.of("room")
    hub.subscribers.add("room", short, View(JSON, channel_id=number))
    hub.subscribers.add("room", plain)
    hub.broadcast("room", document())
    await written(hub)

    assert number > 0
    assert (short.pushes[0].get("channel"), short.pushes[0]["id"]) == (None, number)
    assert (plain.pushes[0]["channel"], plain.pushes[0].get("id")) == ("room", None)


def test_a_channel_that_everybody_left_gets_another_id() -> None:
    hub, reader = Hub(), JsonReceiver()
    first, other = hub.subscribers.ids.of("room"), hub.subscribers.ids.of("other")
    assert first == hub.subscribers.ids.of("room")
    hub.subscribers.add("room", reader, View(JSON, channel_id=first))
    hub.subscribers.remove("room", reader)
    assert len({first, other, hub.subscribers.ids.of("room")}) == 3


def test_a_channel_that_nobody_entered_in_the_end_keeps_no_id() -> None:
    hub, reader = Hub(), JsonReceiver()
    first = hub.subscribers.ids.of("room")
    hub.subscribers.remove("room", reader)
    assert hub.subscribers.ids.of("room") != first


@pytest.mark.parametrize("view", [View(JSON, RED), View(JSON, delta=True), View(JSON, channel_id=3)])
async def test_who_left_gets_nothing_more_and_leaves_nothing_behind(view: View) -> None:
    hub, leaving, staying = Hub(), JsonReceiver(), JsonReceiver()
    hub.subscribers.add("room", leaving, view)
    hub.subscribers.add("room", staying, view)
    hub.broadcast("room", numbered(document(), 1, color="red"), delta=True)
    hub.subscribers.remove("room", leaving)
    hub.broadcast("room", numbered(document(), 2, color="red"), delta=True)
    await written(hub)

    assert len(leaving.pushes) == 1, "it gets what was broadcast while it was in"
    assert len(staying.pushes) == 2
    assert hub.subscribers.count("room") == 1
    assert hub.subscribers.remove("room", staying)
    assert hub.subscribers.channels == {}
    assert hub.subscribers._viewed == {}


class AnyComingAndGoing(RuleBasedStateMachine):
    """Readers with and without views come, recover and leave while documents change: each has every one it should."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.hub = Hub()
        self.offset = 0
        self.newest: Base | None = None
        self.readers: list[tuple[JsonReceiver, View | None, list[int], bytes]] = []

    def teardown(self) -> None:
        self.loop.close()

    @rule(filtered=st.booleans(), delta=st.booleans(), recovered=st.booleans())
    def enter(self, filtered: bool, delta: bool, recovered: bool) -> None:
        receiver = JsonReceiver()
        view = View(JSON, RED if filtered else None, delta=delta) if filtered or delta else None
        base = self.newest if recovered and delta and not filtered else None
        self.hub.subscribers.add("room", receiver, view, base)
        self.readers.append((receiver, view, [], base.payload if base else b""))

    @rule(place=st.integers(0, 30))
    def leave(self, place: int) -> None:
        if self.readers:
            self.hub.subscribers.remove("room", self.readers.pop(place % len(self.readers))[0])

    @rule(color=st.sampled_from(["red", "blue"]), delta=st.booleans())
    def publish(self, color: str, delta: bool) -> None:
        self.offset += 1
        publication = numbered(document(n=self.offset), self.offset, color=color)
        self.newest = Base(self.offset, bytes(publication.data))
        for _, view, expected, _ in self.readers:
            if view is None or view.filter is None or color == "red":
                expected.append(self.offset)

        async def broadcast() -> None:
            self.hub.broadcast("room", publication, delta=delta)
            await written(self.hub)

        self.loop.run_until_complete(broadcast())

    @invariant()
    def everybody_has_what_it_should(self) -> None:
        for receiver, view, expected, base in self.readers:
            if view is None or not view.delta:
                values = [push["pub"]["data"]["n"] for push in receiver.pushes]
            else:
                values, previous = [], base
                for push in receiver.pushes:
                    data = push["pub"]["data"].encode()
                    previous = bytes(fossil.apply_delta(previous, data)) if push["pub"].get("delta") else data
                    values.append(json.loads(previous)["n"])
            assert values == expected


TestAnyComingAndGoing = AnyComingAndGoing.TestCase
TestAnyComingAndGoing.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
