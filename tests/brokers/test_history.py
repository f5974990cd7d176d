"""What every broker that keeps history promises, whatever holds it."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from msgspec import Raw

from starling.brokers.memory.broker import MemoryBackend, MemoryBroker
from starling.brokers.memory.history import MemoryHistory
from starling.brokers.open import open_broker
from starling.engine.broker import (
    BrokerUnavailable,
    PublishOptions,
    PublishOutcome,
    StreamEntry,
    StreamPosition,
    StreamRead,
)
from starling.engine.history import HistoryStore
from starling.protocol.messages import ClientInfo, Publication
from starling.telemetry.tracing import TraceContext
from tests.brokers.conftest import Opener
from tests.brokers.party import Party
from tests.support.waiting import until

KEPT = PublishOptions(history_size=100, history_ttl=60, history_meta_ttl=3600)
CHANNEL = "news:ü"
TRACE = TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "vendor=1")


class Place:
    """A broker that keeps history, and short words for its use."""

    def __init__(self, party: Party) -> None:
        self.party = party
        self.broker = party.broker
        assert self.broker.history is not None
        self.history: HistoryStore = self.broker.history

    async def publish(self, *data: bytes, options: PublishOptions = KEPT) -> list[StreamPosition]:
        return [await self.broker.publish(CHANNEL, Publication(Raw(item)), options) for item in data]

    async def read(self, **query: Any) -> StreamRead:
        return await self.history.read(CHANNEL, meta_ttl=3600, **query)


@pytest.fixture
async def place(store_url: str, opener: Opener) -> Place:
    return Place(await opener(store_url))


def data(read: StreamRead) -> list[bytes]:
    return [bytes(entry.publication.data) for entry in read.entries]


def links(entries: list[StreamEntry]) -> list[tuple[int, int]]:
    return [(entry.previous, entry.offset) for entry in entries]


# Publishing


async def test_what_is_begun_first_is_kept_first(place: Place) -> None:
    await place.broker.subscribe(CHANNEL)
    reported: list[PublishOutcome | None] = []
    for number in range(300):
        reported.append(place.broker.begin_publish(CHANNEL, Publication(Raw(b"%d" % number)), KEPT, reported.append))
    await until(lambda: len([outcome for outcome in reported if outcome]) >= 300, "all outcomes are reported")
    await until(lambda: len(place.party.received(CHANNEL)) >= 300, "all messages arrive")

    positions = [outcome for outcome in reported if isinstance(outcome, StreamPosition)]
    assert sorted(position.offset for position in positions) == list(range(1, 301))
    assert place.party.received(CHANNEL) == [b"%d" % number for number in range(300)]


async def test_positions_count_up_within_one_epoch(place: Place) -> None:
    positions = await place.publish(b"1", b"2", b"3")
    assert [position.offset for position in positions] == [1, 2, 3]
    assert len({position.epoch for position in positions}) == 1
    assert positions[0].epoch


async def test_a_trace_is_reported_and_not_kept(place: Place) -> None:
    await place.broker.subscribe(CHANNEL)
    traced = replace(KEPT, trace=TRACE)
    await place.broker.publish(CHANNEL, Publication(Raw(b"1"), tags={"k": "v"}), traced)
    await place.broker.publish_all([(CHANNEL, Publication(Raw(b"2")), traced)])
    await until(lambda: len(place.party.entries) == 2, "both are heard")
    received = [entry for _, entry in place.party.entries]
    assert [entry.trace for entry in received] == [TRACE, TRACE]
    assert (await place.read()).entries == [
        StreamEntry(entry.publication, entry.previous, entry.epoch) for entry in received
    ]


async def test_what_is_received_is_what_is_read(place: Place) -> None:
    await place.broker.subscribe(CHANNEL)
    info = ClientInfo(user="u", client="c", conn_info=Raw(b'{"name":"U"}'))
    publication = Publication(Raw(b'{"a":[1,2]}'), info=info, tags={"kind": "ü"})
    position = await place.broker.publish(CHANNEL, publication, KEPT)
    await until(lambda: place.party.entries, "the publication is heard")
    received = place.party.entries[0][1]
    read = (await place.read()).entries[0]
    assert received == read
    assert json.loads(bytes(read.publication.data)) == {"a": [1, 2]}
    assert read.publication.info == info
    assert read.publication.tags == {"kind": "ü"}
    assert read.publication.time > 1_700_000_000_000
    assert (read.previous, read.offset, read.epoch) == (0, 1, position.epoch)
    assert publication.offset == 0


async def test_any_bytes_are_kept_as_they_are(place: Place) -> None:
    items = [b"", bytes(range(256)), b"1 0\n", b"x" * 65_536]
    await place.publish(*items)
    assert data(await place.read()) == items


async def test_each_entry_names_the_one_before_it(place: Place) -> None:
    await place.publish(b"1", b"2", b"3")
    assert links((await place.read()).entries) == [(0, 1), (1, 2), (2, 3)]


async def test_only_as_many_are_kept_as_asked_for(place: Place) -> None:
    await place.publish(*[b"%d" % number for number in range(1, 11)], options=PublishOptions(3, 60, 3600))
    read = await place.read()
    assert data(read) == [b"8", b"9", b"10"]
    assert read.top.offset == 10


async def test_a_publication_that_is_not_to_be_kept_moves_no_position(place: Place) -> None:
    await place.broker.subscribe(CHANNEL)
    await place.publish(b"1")
    assert await place.publish(b"2", options=PublishOptions()) == [StreamPosition(0, "")]
    await until(lambda: len(place.party.entries) == 2, "both are heard")
    assert place.party.entries[1][1].epoch == ""
    read = await place.read()
    assert read.top.offset == 1
    assert data(read) == [b"1"]


async def test_channels_have_streams_of_their_own(place: Place) -> None:
    await place.publish(b"1", b"2")
    other = await place.broker.publish("other", Publication(Raw(b"3")), KEPT)
    assert other.offset == 1
    assert (await place.read()).top.offset == 2


async def test_publications_of_many_at_once_form_one_chain(place: Place) -> None:
    await place.broker.subscribe(CHANNEL)
    await asyncio.gather(*(place.publish(b"%d" % number) for number in range(100)))
    read = await place.read()
    assert links(read.entries) == [(number, number + 1) for number in range(100)]
    await until(lambda: len(place.party.entries) == 100, "all are heard")
    assert [entry for _, entry in place.party.entries] == read.entries


# Idempotency


async def test_a_repeated_publish_reaches_nobody_and_gets_the_first_position(place: Place) -> None:
    await place.broker.subscribe(CHANNEL)
    once = PublishOptions(100, 60, 3600, idempotency_key="k")
    first = await place.publish(b"1", options=once)
    await place.publish(b"2")
    assert await place.publish(b"1", options=once) == first
    await place.publish(b"3")
    await until(lambda: len(place.party.entries) >= 3, "the last is heard")
    assert place.party.received(CHANNEL) == [b"1", b"2", b"3"]
    assert data(await place.read()) == [b"1", b"2", b"3"]


async def test_a_key_belongs_to_its_channel(place: Place) -> None:
    once = PublishOptions(100, 60, 3600, idempotency_key="k")
    await place.publish(b"1", options=once)
    await place.broker.publish("other", Publication(Raw(b"2")), once)
    assert (await place.history.read("other", meta_ttl=60)).top.offset == 1


async def test_without_history_a_repeated_publish_reaches_nobody_either(place: Place) -> None:
    await place.broker.subscribe(CHANNEL)
    once = PublishOptions(idempotency_key="k")
    assert await place.publish(b"1", b"1", b"1", options=once) == [StreamPosition(0, "")] * 3
    await place.publish(b"2")
    await until(lambda: len(place.party.entries) >= 2, "the last is heard")
    assert place.party.received(CHANNEL) == [b"1", b"2"]


async def test_a_key_that_was_used_with_history_is_known_without_it_and_the_other_way_round(place: Place) -> None:
    with_history = PublishOptions(100, 60, 3600, idempotency_key="a")
    without = PublishOptions(idempotency_key="a")
    first = await place.publish(b"1", options=with_history)
    assert await place.publish(b"1", options=without) == first
    assert await place.publish(b"2", options=PublishOptions(idempotency_key="b")) == [StreamPosition(0, "")]
    assert await place.publish(b"2", options=PublishOptions(100, 60, 3600, "b")) == [StreamPosition(0, "")]
    assert data(await place.read()) == [b"1"]


# Reading


async def test_a_channel_that_was_never_published_to_has_a_lasting_position(place: Place) -> None:
    top = (await place.read(limit=0)).top
    assert top.offset == 0
    assert top.epoch
    assert (await place.read()).top == top
    assert await place.publish(b"1") == [StreamPosition(1, top.epoch)]


@pytest.mark.parametrize(
    ("query", "expected", "more"),
    [
        pytest.param({}, [1, 2, 3, 4, 5], False, id="all"),
        pytest.param({"limit": 0}, [], False, id="the position only"),
        pytest.param({"after": 3}, [4, 5], False, id="after"),
        pytest.param({"after": 5}, [], False, id="after the top"),
        pytest.param({"after": 2**52}, [], False, id="after what never was"),
        pytest.param({"before": 3}, [1, 2], False, id="before"),
        pytest.param({"before": 1}, [], False, id="before the first"),
        pytest.param({"before": 0}, [], False, id="before all"),
        pytest.param({"after": 1, "before": 5}, [2, 3, 4], False, id="between"),
        pytest.param({"after": 4, "before": 2}, [], False, id="between in the wrong order"),
        pytest.param({"limit": 2}, [1, 2], True, id="the oldest two"),
        pytest.param({"limit": 2, "newest": True}, [4, 5], True, id="the newest two"),
        pytest.param({"after": 2, "limit": 2}, [3, 4], True, id="the oldest two after"),
        pytest.param({"before": 4, "limit": 2, "newest": True}, [2, 3], True, id="the newest two before"),
        pytest.param({"after": 1, "limit": 2, "newest": True}, [4, 5], True, id="the newest two after"),
        pytest.param({"limit": 9}, [1, 2, 3, 4, 5], False, id="fewer than the limit"),
        pytest.param({"max_bytes": 24}, [1, 2], True, id="bytes, from the oldest"),
        pytest.param({"max_bytes": 24, "newest": True}, [4, 5], True, id="bytes, from the newest"),
        pytest.param({"max_bytes": 1}, [1], True, id="at least one however great"),
    ],
)
async def test_a_read_takes_the_part_asked_for(
    place: Place, query: dict[str, Any], expected: list[int], more: bool
) -> None:
    await place.publish(*[b'"%08d"' % number for number in range(1, 6)])
    if "max_bytes" in query and place.broker.history.__class__ is not MemoryHistory:
        # Redis counts what it stores: the time and what else stands in front of the data.
        query = query | {"max_bytes": query["max_bytes"] * 3}
    read = await place.read(**query)
    assert [entry.offset for entry in read.entries] == expected
    assert read.more is more
    assert read.top.offset == 5


async def test_a_read_reports_how_far_down_the_stream_still_holds_entries(place: Place) -> None:
    assert (await place.read(limit=0)).bottom == 0
    small = PublishOptions(3, 60, 3600)
    await place.publish(b"1", b"2", options=small)
    assert (await place.read(limit=0)).bottom == 0
    await place.publish(b"3", b"4", b"5", options=small)
    assert (await place.read(limit=0)).bottom == 2
    assert (await place.read(after=4)).bottom == 2
    await place.history.remove(CHANNEL)
    assert (await place.read()).bottom == 5


async def test_a_long_read_is_whole_from_either_end(place: Place) -> None:
    await place.publish(*[b"%d" % number for number in range(1, 321)], options=PublishOptions(1000, 60, 3600))
    expected = [b"%d" % number for number in range(1, 321)]
    assert data(await place.read()) == expected
    assert data(await place.read(newest=True)) == expected
    assert data(await place.read(after=20, limit=200)) == expected[20:220]
    assert data(await place.read(limit=200, newest=True)) == expected[-200:]


async def test_a_read_repeated_finds_what_changed_since(place: Place) -> None:
    texts = [b'"%d %b"' % (number, b"x" * 1000) for number in range(10)]
    await place.publish(*texts[:8])
    first = await place.read(limit=5)
    assert (data(first), first.more, first.top.offset) == (texts[:5], True, 8)
    second, third = await place.read(limit=5), await place.read(limit=5)
    assert third == second == first
    # The Redis brokers remember what they make of each entry from the second read on.
    assert all(one is other for one, other in zip(third.entries, second.entries, strict=True))
    newest = await place.read(limit=5, newest=True)
    assert data(newest) == texts[3:8]
    await place.publish(texts[8])
    changed = await place.read(limit=5)
    assert (data(changed), changed.top.offset) == (texts[:5], 9)
    assert data(await place.read(limit=5, newest=True)) == texts[4:9]
    await place.history.remove(CHANNEL)
    assert data(await place.read(limit=5)) == []
    await place.publish(texts[9])
    assert data(await place.read(limit=5)) == [texts[9]]


async def test_many_positions_are_read_at_once(place: Place) -> None:
    channels = [f"news:{number}" for number in range(600)]
    await asyncio.gather(*(place.broker.publish(channel, Publication(Raw(b"1")), KEPT) for channel in channels[::2]))
    positions = await place.history.positions(dict.fromkeys(channels, 60.0))
    assert [positions[channel].offset for channel in channels] == [1, 0] * 300
    assert len({position.epoch for position in positions.values()}) == 600


async def test_removing_keeps_the_position(place: Place) -> None:
    top = (await place.publish(b"1", b"2"))[-1]
    await place.history.remove(CHANNEL)
    read = await place.read()
    assert read.entries == []
    assert read.top == top
    await place.publish(b"3")
    assert links((await place.read()).entries) == [(2, 3)]


async def test_removing_what_never_was_is_no_error(place: Place) -> None:
    await place.history.remove("nowhere")


# Time; Redis counts its own in test_history_redis


class Clock:
    """Time that the test moves on."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def append(history: MemoryHistory, options: PublishOptions) -> StreamEntry:
    return history.append_next(CHANNEL, Publication(Raw(b"1")), options, history.sweep())


async def test_in_memory_entries_end_after_the_last_publication_and_the_position_stays() -> None:
    clock = Clock()
    history = MemoryHistory(clock)
    append(history, KEPT)
    clock.now += 50
    second = append(history, KEPT)
    clock.now += 59
    assert len((await history.read(CHANNEL, meta_ttl=3600)).entries) == 2
    clock.now += 2
    read = await history.read(CHANNEL, meta_ttl=3600)
    assert read.entries == []
    assert read.top == StreamPosition(2, second.epoch)
    assert links([append(history, KEPT)]) == [(2, 3)]


async def test_in_memory_a_position_nobody_asked_for_ends_and_its_epoch_with_it() -> None:
    clock = Clock()
    history = MemoryHistory(clock)
    first = append(history, KEPT)
    clock.now += 3599
    assert (await history.positions({CHANNEL: 3600}))[CHANNEL] == StreamPosition(1, first.epoch)
    clock.now += 3599
    assert (await history.read(CHANNEL, meta_ttl=3600)).top == StreamPosition(1, first.epoch)
    clock.now += 3601
    top = (await history.read(CHANNEL, meta_ttl=3600)).top
    assert top.offset == 0
    assert top.epoch != first.epoch


async def test_in_memory_zero_is_for_ever() -> None:
    clock = Clock()
    history = MemoryHistory(clock)
    first = append(history, PublishOptions(history_size=1))
    clock.now += 10**9
    read = await history.read(CHANNEL, meta_ttl=0)
    assert read.entries == [first]


async def test_in_memory_a_key_is_forgotten_after_five_minutes() -> None:
    clock = Clock()
    history = MemoryHistory(clock)
    history.remember(CHANNEL, "k", StreamPosition(1, "e"))
    clock.now += 299
    assert history.repeated(CHANNEL, "k") == StreamPosition(1, "e")
    clock.now += 2
    assert history.repeated(CHANNEL, "k") is None


async def test_in_memory_what_is_over_takes_no_memory_though_nobody_asks_for_it() -> None:
    clock = Clock()
    history = MemoryHistory(clock)
    options = PublishOptions(10, 60, 120)
    for number in range(100):
        history.append_next(f"news:{number}", Publication(Raw(b"1")), options, history.sweep())
    clock.now += 61
    append(history, KEPT)
    assert sum(len(stream.entries) for stream in history._streams.values()) == 1
    clock.now += 60
    append(history, KEPT)
    assert set(history._streams) == {CHANNEL}


async def test_in_memory_a_publication_that_cannot_be_reported_is_not_kept() -> None:
    broker = open_broker("memory://")
    assert isinstance(broker, MemoryBroker)
    broker._backend = broker._memory = MemoryBackend(max_events=5)
    party = Party(broker)
    # Never started to report, so that the queue stays full.
    await broker._backend.connect()
    await broker.subscribe(CHANNEL)
    refused = 0
    for number in range(10):
        try:
            await broker.publish(CHANNEL, Publication(Raw(b"%d" % number)), KEPT)
        except BrokerUnavailable:
            refused += 1
    assert 0 < refused < 10
    assert broker.history is not None
    assert (await broker.history.read(CHANNEL, meta_ttl=60)).top.offset == 10 - refused
    assert party.entries == []


def versioned(version: int, epoch: str = "") -> PublishOptions:
    return replace(KEPT, version=version, version_epoch=epoch)


@pytest.mark.parametrize("options", [KEPT, replace(KEPT, history_size=1)], ids=["history", "cache"])
async def test_a_version_that_is_not_above_the_last_is_dropped(place: Place, options: PublishOptions) -> None:
    await place.party.broker.subscribe(CHANNEL)
    sent = [(b"5", 5), (b"4", 4), (b"5 again", 5), (b"6", 6), (b"1", 1)]
    found = [
        (await place.publish(item, options=replace(options, version=version, version_epoch="e")))[0]
        for item, version in sent
    ]
    assert [position.offset for position in found] == [1, 1, 1, 2, 2]
    assert {position.epoch for position in found} == {found[0].epoch}
    assert data(await place.read()) == [b"5", b"6"][-options.history_size :]
    [last] = await place.publish(b"end")
    await until(lambda: len(place.party.received(CHANNEL)) == 3)
    assert place.party.received(CHANNEL) == [b"5", b"6", b"end"], "what is dropped reaches nobody"
    assert last.offset == 3


async def test_versions_of_another_epoch_begin_anew_and_unversioned_ones_pass(place: Place) -> None:
    await place.publish(b"a9", options=versioned(9, "a"))
    await place.publish(b"none")
    await place.publish(b"a9 again", options=versioned(9, "a"))
    await place.publish(b"b1", options=versioned(1, "b"))
    await place.publish(b"a1", options=versioned(1, "a"))
    await place.publish(b"1", options=versioned(1))
    assert data(await place.read()) == [b"a9", b"none", b"b1", b"a1", b"1"]


async def test_versions_are_exact_beyond_what_a_float_holds(place: Place) -> None:
    await place.publish(b"first", options=versioned(2**62))
    await place.publish(b"older", options=versioned(2**62 - 1))
    await place.publish(b"shorter", options=versioned(99))
    await place.publish(b"newer", options=versioned(2**62 + 1))
    assert data(await place.read()) == [b"first", b"newer"]
