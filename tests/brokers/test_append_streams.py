"""Append-only streams: what every broker that keeps them does with openings, appends, closings and silent producers."""

import asyncio
import secrets
from typing import Any

import pytest

from starling.engine.append_store import (
    PRODUCERS_LIMIT,
    Append,
    AppendOutcome,
    AppendResult,
    AppendStore,
    Change,
    Chunk,
    Closing,
    Opening,
    Producer,
    StreamInfo,
    StreamKind,
    StreamStatus,
)
from starling.engine.history import HistoryStore
from tests.brokers.conftest import Opener
from tests.brokers.party import Party
from tests.support.waiting import DEADLINE, until

TEXT = StreamKind.TEXT


@pytest.fixture
async def party(store_url: str, opener: Opener) -> Party:
    return await opener(store_url)


@pytest.fixture
def store(party: Party) -> AppendStore:
    assert party.broker.append_streams is not None
    return party.broker.append_streams


@pytest.fixture
def history(party: Party) -> HistoryStore:
    assert party.broker.history is not None
    return party.broker.history


@pytest.fixture
def channel() -> str:
    return f"answers:{secrets.token_hex(4)}"


def text(content: str) -> Chunk:
    size = len(content.encode())
    return Chunk(b'{"text":"' + content.encode() + b'"}', size, size)


def add(content: str, producer: Producer | None = None, **more: object) -> Append:
    return Append(TEXT, text(content), producer=producer, **more)  # type: ignore[arg-type]


async def info_of(store: AppendStore, channel: str) -> StreamInfo:
    info = await store.info(channel)
    assert info is not None
    return info


async def test_a_stream_is_opened_once_and_opening_it_again_leaves_it_as_it_is(
    store: AppendStore, channel: str
) -> None:
    first = await store.open(channel, Opening(TEXT, ttl=60))
    await store.append(channel, add("one"))
    second = await store.open(channel, Opening(TEXT, ttl=60))

    assert (first.created, second.created) == (True, False)
    assert second.info is not None
    assert (second.info.length, second.info.status, second.info.offset) == (3, StreamStatus.OPEN, 1)
    other = await store.open(channel, Opening(StreamKind.JSON, ttl=60))
    assert other.outcome is AppendOutcome.OTHER_KIND


async def test_an_opening_that_is_repeated_by_its_key_replaces_nobody(store: AppendStore, channel: str) -> None:
    def opening(key: str, epoch: int | None = None) -> Opening:
        return Opening(TEXT, ttl=60, producer="writer", producer_epoch=epoch, key=key)

    async def epoch_of(*given: Any) -> int:
        return (await store.open(channel, opening(*given))).producer_epoch

    assert [await epoch_of("first"), await epoch_of("first")] == [0, 0]
    await store.append(channel, add("one", Producer("writer", 0, 0)))
    # It was delayed, and comes behind what the same process has appended meanwhile.
    assert await epoch_of("first") == 0
    assert (await store.append(channel, add("two", Producer("writer", 0, 1)))).outcome is AppendOutcome.DONE
    assert (await info_of(store, channel)).length == len("onetwo")

    assert [await epoch_of("second"), await epoch_of("second")] == [1, 1]
    assert [await epoch_of(""), await epoch_of("")] == [2, 3]
    assert await epoch_of("second") == 4, "another process has the stream since"
    assert [await epoch_of("second", 9), await epoch_of("second")] == [9, 9]


async def test_chunks_are_published_with_what_lies_before_them_and_none_is_trimmed(
    party: Party, store: AppendStore, history: HistoryStore, channel: str
) -> None:
    await party.broker.subscribe(channel)
    await store.open(channel, Opening(TEXT, ttl=60))
    for word in ("Über", " ", "alles"):
        assert (await store.append(channel, add(word))).outcome is AppendOutcome.DONE
    await until(lambda: len(party.entries) == 3, "the chunks arrive")

    arrived = [entry for _, entry in party.entries]
    kept = (await history.read(channel, meta_ttl=60)).entries
    assert [each.publication.tags for each in arrived] == [{"at": "0"}, {"at": "5"}, {"at": "6"}]
    assert [(each.previous, each.offset, each.epoch) for each in arrived] == [
        (each.previous, each.offset, each.epoch) for each in kept
    ]
    assert [bytes(each.publication.data) for each in kept] == [
        '{"text":"Über"}'.encode(),
        b'{"text":" "}',
        b'{"text":"alles"}',
    ]


async def test_what_is_closed_stays_closed_until_it_is_deleted(
    party: Party, store: AppendStore, history: HistoryStore, channel: str
) -> None:
    await party.broker.subscribe(channel)
    opened = await store.open(channel, Opening(TEXT, ttl=60))
    closing = Closing(StreamStatus.FAILED, 'the model said "no"', b'{"tokens":3}')
    closed = await store.append(channel, add("end", closing=closing))

    assert closed.info is not None
    assert (closed.info.status, closed.info.reason, closed.info.final) == (
        StreamStatus.FAILED,
        'the model said "no"',
        b'{"tokens":3}',
    )
    await until(lambda: bool(party.entries), "the end arrives")
    assert party.entries[0][1].publication.tags == {"at": "0", "status": "failed", "reason": 'the model said "no"'}
    assert (await store.append(channel, add("more"))).outcome is AppendOutcome.CLOSED
    assert (await store.open(channel, Opening(TEXT, ttl=60))).info == closed.info

    assert not await store.delete(channel, "another")
    assert await store.delete(channel, closed.info.epoch)
    assert not await store.delete(channel)
    assert await store.info(channel) is None
    assert (await store.append(channel, add("more"))).outcome is AppendOutcome.NO_STREAM
    again = await store.open(channel, Opening(TEXT, ttl=60))
    assert again.created
    assert again.info is not None
    assert opened.info is not None
    assert again.info.epoch != opened.info.epoch
    assert not await store.delete(channel, opened.info.epoch), "a request that was delayed"
    assert (await history.read(channel, meta_ttl=60)).entries == []


async def test_a_producers_append_counts_once_and_in_order(store: AppendStore, channel: str) -> None:
    await store.open(channel, Opening(TEXT, ttl=60))
    outcomes = [
        await store.append(channel, add(str(sequence), Producer("model", 0, sequence))) for sequence in (0, 1, 1, 0, 3)
    ]

    assert [each.outcome for each in outcomes] == [
        AppendOutcome.DONE,
        AppendOutcome.DONE,
        AppendOutcome.REPEATED,
        AppendOutcome.REPEATED,
        AppendOutcome.GAP,
    ]
    assert outcomes[-1].expected == 2
    joined = await store.append(channel, add("23", Producer("model", 0, 2, last=3)))
    overlapping = await store.append(channel, add("345", Producer("model", 0, 3, last=5)))
    assert (joined.outcome, overlapping.outcome, overlapping.expected) == (AppendOutcome.DONE, AppendOutcome.OVERLAP, 4)
    assert (await info_of(store, channel)).length == 4


async def test_what_is_begun_without_a_task_is_appended_in_order_and_reported(store: AppendStore, channel: str) -> None:
    await store.open(channel, Opening(TEXT, 60))
    reported: list[AppendResult | None] = []
    for sequence in range(300):
        change = add(f"{sequence} ", Producer("m", 0, sequence))
        reported.append(store.begin_append(channel, change, reported.append))
    reported.append(store.begin_append(channel, add("9", Producer("m", 0, 900)), reported.append))
    await until(lambda: len(list(filter(None, reported))) >= 301, "every outcome is reported")

    outcomes = [result.outcome for result in reported if isinstance(result, Change)]
    assert outcomes == [AppendOutcome.DONE] * 300 + [AppendOutcome.GAP]
    assert (await info_of(store, channel)).length == len("".join(f"{number} " for number in range(300)))


async def test_an_older_epoch_of_a_producer_is_refused_and_learns_which_one_counts(
    store: AppendStore, channel: str
) -> None:
    first = await store.open(channel, Opening(TEXT, ttl=60, producer="model"))
    await store.append(channel, add("old", Producer("model", first.producer_epoch, 0)))
    second = await store.open(channel, Opening(TEXT, ttl=60, producer="model"))

    assert (first.producer_epoch, second.producer_epoch) == (0, 1)
    zombie = await store.append(channel, add("late", Producer("model", 0, 1)))
    assert (zombie.outcome, zombie.expected) == (AppendOutcome.ZOMBIE, 1)
    stale = await store.open(channel, Opening(TEXT, ttl=60, producer="model", producer_epoch=0))
    assert (stale.outcome, stale.producer_epoch) == (AppendOutcome.ZOMBIE, 1)
    midway = await store.append(channel, add("far", Producer("model", 2, 5)))
    assert (midway.outcome, midway.expected) == (AppendOutcome.NEW_EPOCH, 0)
    assert (await store.append(channel, add(" new", Producer("model", 1, 0)))).outcome is AppendOutcome.DONE
    assert (await info_of(store, channel)).length == len("old new")


async def test_twenty_retries_at_once_append_once(store: AppendStore, channel: str) -> None:
    await store.open(channel, Opening(TEXT, ttl=60))
    retries = [store.append(channel, add("x", Producer("model", 0, 0))) for _ in range(20)]
    outcomes = [each.outcome for each in await asyncio.gather(*retries)]

    assert sorted(outcomes) == [AppendOutcome.DONE, *[AppendOutcome.REPEATED] * 19]


async def test_a_stream_is_bounded_in_bytes_and_can_still_be_closed(store: AppendStore, channel: str) -> None:
    await store.open(channel, Opening(TEXT, ttl=60))
    assert (await store.append(channel, add("12345678", max_bytes=10))).outcome is AppendOutcome.DONE
    assert (await store.append(channel, add("éé", max_bytes=10))).outcome is AppendOutcome.FULL
    closed = await store.append(channel, Append(TEXT, closing=Closing(StreamStatus.COMPLETE), max_bytes=10))

    assert closed.outcome is AppendOutcome.DONE
    assert (await info_of(store, channel)).size == 8


async def test_another_kind_is_refused_and_cancelling_needs_to_know_none(store: AppendStore, channel: str) -> None:
    await store.open(channel, Opening(StreamKind.JSON, ttl=60))
    assert (await store.append(channel, add("x"))).outcome is AppendOutcome.OTHER_KIND
    cancelled = await store.append(channel, Append(TEXT, closing=Closing(StreamStatus.CANCELLED, "stop")))

    assert cancelled.info is not None
    assert (cancelled.info.kind, cancelled.info.status) == (StreamKind.JSON, StreamStatus.CANCELLED)


async def test_a_silent_producer_leaves_it_interrupted_and_may_go_on(
    party: Party, store: AppendStore, channel: str
) -> None:
    await party.broker.subscribe(channel)
    opened = await store.open(channel, Opening(TEXT, ttl=60, producer="model"))
    alive = await store.interrupt(channel, 30)
    assert alive.outcome is AppendOutcome.ALIVE
    assert 29_000 < alive.expected <= 30_000

    await asyncio.sleep(0.02)
    silent = await store.interrupt(channel, 0.01)
    assert silent.info is not None
    assert (silent.outcome, silent.info.status) == (AppendOutcome.DONE, StreamStatus.INTERRUPTED)
    await until(lambda: bool(party.entries), "the interruption arrives")
    publication = party.entries[0][1].publication
    assert (bytes(publication.data), publication.tags) == (b'{"text":""}', {"at": "0", "status": "interrupted"})

    resumed = await store.append(channel, add("on", Producer("model", opened.producer_epoch, 0)))
    assert resumed.info is not None
    assert (resumed.resumed, resumed.info.status) == (True, StreamStatus.OPEN)


async def test_a_keep_alive_shows_that_the_producer_lives_and_adds_nothing(store: AppendStore, channel: str) -> None:
    await store.open(channel, Opening(TEXT, ttl=60, producer="model"))
    await asyncio.sleep(0.05)
    kept = await store.append(channel, Append(TEXT, producer=Producer("model", 0)))
    assert kept.info is not None
    assert (kept.outcome, kept.info.offset) == (AppendOutcome.DONE, 0)
    assert (await store.interrupt(channel, 0.04)).outcome is AppendOutcome.ALIVE
    assert (await store.append(channel, add("x", Producer("model", 0, 0)))).outcome is AppendOutcome.DONE


async def test_a_stream_that_nobody_watches_is_not_interrupted(store: AppendStore, channel: str) -> None:
    await store.open(channel, Opening(TEXT, ttl=60, watched=False))
    await store.append(channel, add("x", watched=False))
    await store.interrupt(channel, 0.0)
    assert (await info_of(store, channel)).status is StreamStatus.OPEN


async def test_a_mark_of_order_must_rise_byte_by_byte(store: AppendStore, channel: str) -> None:
    await store.open(channel, Opening(TEXT, ttl=60))
    outcomes = [(await store.append(channel, add("x", mark=mark))).outcome for mark in ("09", "10", "9", "10", "91")]

    assert outcomes == [
        AppendOutcome.DONE,
        AppendOutcome.DONE,
        AppendOutcome.DONE,
        AppendOutcome.STALE_MARK,
        AppendOutcome.DONE,
    ]


async def test_a_stream_knows_a_hundred_producers_and_refuses_more(store: AppendStore, channel: str) -> None:
    await store.open(channel, Opening(TEXT, ttl=60))
    for number in range(PRODUCERS_LIMIT):
        assert (await store.append(channel, add("x", Producer(f"p{number}")))).outcome is AppendOutcome.DONE
    assert (await store.append(channel, add("x", Producer("another")))).outcome is AppendOutcome.MANY_PRODUCERS
    assert (await store.append(channel, add("x", Producer("p0", 0, 1)))).outcome is AppendOutcome.DONE


async def test_a_stream_ends_after_its_time_without_use_and_its_use_renews_it(
    store: AppendStore, history: HistoryStore, channel: str
) -> None:
    await store.open(channel, Opening(TEXT, ttl=0.3))
    await store.append(channel, add("x"))
    for _ in range(4):
        await asyncio.sleep(0.1)
        assert len((await history.read(channel, meta_ttl=60)).entries) == 1

    async def gone() -> bool:
        return await store.info(channel) is None

    async with asyncio.timeout(DEADLINE):
        while not await gone():
            await asyncio.sleep(0.05)
    assert (await history.read(channel, meta_ttl=60)).entries == []


async def test_open_streams_are_listed_and_due_when_their_time_is_over(store: AppendStore, channel: str) -> None:
    await store.plan(channel, 0)
    await store.plan(f"{channel}-later", 60)
    assert channel in await store.due(100)
    assert f"{channel}-later" not in await store.due(100)
    assert {channel, f"{channel}-later"} <= set(await store.open_channels(100))

    await store.plan(channel, None)
    await store.plan(f"{channel}-later", None)
    assert channel not in await store.open_channels(100)
