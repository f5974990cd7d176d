"""A channel's stream at work over the memory history: following, healing, joining."""

import asyncio
import copy
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from msgspec import Raw

from starling.brokers.memory.history import MemoryHistory
from starling.engine.broker import BrokerUnavailable, PublishOptions, StreamEntry, StreamPosition, StreamRead
from starling.engine.follower import Joined, MemoryBudget
from starling.engine.stream import HEAL_ENTRIES, RETRY_FIRST, Stream, check_positions
from starling.engine.stream_contract import StreamOptions, StreamStats
from starling.protocol.messages import Publication
from tests.support.waiting import DEADLINE

CHANNEL = "news"
OPTIONS = PublishOptions(history_size=1000, history_ttl=600, history_meta_ttl=600)


class Store:
    """The memory history behind an endpoint: reads are counted, held back and refused as the test wants it."""

    in_process = False

    def __init__(self) -> None:
        self.history = MemoryHistory()
        self.reads = 0
        self.entry_reads = 0
        self.refusing = False
        self._open = asyncio.Event()
        self._open.set()
        self._held = asyncio.Event()

    def publish(self, *payloads: int, options: PublishOptions = OPTIONS) -> list[StreamEntry]:
        entries = []
        for payload in payloads:
            publication = Publication(Raw(b"%d" % payload))
            entry = self.history.append_next(CHANNEL, publication, options, self.history.sweep())
            entries.append(entry)
        return entries

    def hold(self) -> None:
        """Hold the answers of reads back from now on, though not the reads themselves."""
        self._open.clear()
        self._held.clear()

    async def held(self) -> None:
        """Wait until an answer is held back."""
        async with asyncio.timeout(DEADLINE):
            await self._held.wait()

    def release(self) -> None:
        self._open.set()

    def go_back(self, snapshot: MemoryHistory) -> None:
        self.history = snapshot

    def snapshot(self) -> MemoryHistory:
        return copy.deepcopy(self.history)

    async def top(self) -> StreamPosition:
        return (await self.history.positions({CHANNEL: 600}))[CHANNEL]

    async def read(self, channel: str, **request: Any) -> StreamRead:
        self.reads += 1
        self.entry_reads += request.get("limit") != 0
        if self.refusing:
            raise BrokerUnavailable("so the test wants it")
        read = await self.history.read(channel, **request)
        self._held.set()
        await self._open.wait()
        return read

    async def positions(self, channels: Mapping[str, float]) -> dict[str, StreamPosition]:
        positions = await self.history.positions(channels)
        self._held.set()
        await self._open.wait()
        return positions

    async def remove(self, channel: str) -> None:
        await self.history.remove(channel)


class Hub:
    """The live subscribers of the channel."""

    def __init__(self) -> None:
        self.live: list[Subscriber] = []
        self.failing = False

    def broadcast(self, channel: str, entry: StreamEntry) -> None:
        if self.failing:
            raise RuntimeError("so the test wants it")
        for subscriber in self.live:
            subscriber.got.append(int(bytes(entry.publication.data)))

    def enter(self, channel: str, subscriber: "Subscriber") -> None:
        self.live.append(subscriber)

    def unsubscribe_all(self, channel: str) -> None:
        reported, self.live = self.live, []
        for subscriber in reported:
            subscriber.unsubscribe()


class Subscriber:
    """What one subscriber was answered and sent."""

    def __init__(self, *, gone: bool = False) -> None:
        self.gone = gone
        self.joined: Joined | None = None
        self.got: list[int] = []
        self.reported = 0

    @property
    def recovered(self) -> bool:
        assert self.joined is not None
        return self.joined.recovered

    def reply(self, joined: Joined) -> bool:
        assert self.joined is None
        self.joined = joined
        self.got += [int(bytes(publication.data)) for publication in joined.publications]
        return not self.gone

    def unsubscribe(self) -> None:
        self.reported += 1


class Channel:
    """A stream over a store, with its hub."""

    def __init__(self, store: Store, hub: Hub, stream: Stream[Subscriber], stats: StreamStats) -> None:
        self.store = store
        self.hub = hub
        self.stream = stream
        self.stats = stats

    async def join(self, since: StreamPosition | None = None, *, latest: bool = False) -> Subscriber:
        subscriber = Subscriber()
        await self.stream.join(subscriber, since, latest=latest)
        return subscriber

    def publish(self, *payloads: int) -> None:
        """Publish, and receive it over the broker at once."""
        for entry in self.store.publish(*payloads):
            self.stream.on(entry)

    def lose_memory(self) -> None:
        self.stream._follower.recent.restart(self.stream.position.offset)

    async def healed(self) -> None:
        async with asyncio.timeout(DEADLINE):
            while not self.stream.following:
                await asyncio.sleep(0.001)


def make_channel(store: Store, **options: int) -> Channel:
    hub, stats = Hub(), StreamStats()
    stream_options = StreamOptions(**{"history_size": 1000, "history_meta_ttl": 600, "recovery_limit": 300} | options)
    stream = Stream(CHANNEL, store, hub, stream_options, MemoryBudget(10**9), stats)
    return Channel(store, hub, stream, stats)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def channel(store: Store) -> AsyncIterator[Channel]:
    """A channel whose stream has begun before anything was published."""
    made = make_channel(store)
    await made.stream.start()
    yield made
    made.stream.close()
    await asyncio.sleep(0)


# Joining


async def test_the_join_that_follows_the_start_needs_no_read_of_its_own_where_nothing_was_missed(store: Store) -> None:
    store.publish(1, 2)
    since = await store.top()
    made = make_channel(store)
    await made.stream.start(join_follows=True)
    first = await made.join(since)
    assert (store.reads, first.recovered, first.got) == (1, True, [])
    made.publish(3)
    second = await made.join(since)
    assert (store.reads, second.got) == (2, [3])
    assert first.got == [3]


async def test_the_join_that_follows_the_start_reads_what_was_missed(store: Store) -> None:
    since = await store.top()
    store.publish(1, 2)
    made = make_channel(store)
    await made.stream.start(join_follows=True)
    first = await made.join(since)
    assert (first.recovered, first.got) == (True, [1, 2])


async def test_what_came_while_the_start_was_read_is_not_missed_by_the_join_that_follows(store: Store) -> None:
    since = await store.top()
    made = make_channel(store)
    store.hold()
    starting = asyncio.ensure_future(made.stream.start(join_follows=True))
    await store.held()
    made.publish(1)
    store.release()
    await starting
    first = await made.join(since)
    assert (first.recovered, first.got) == (True, [1])
    made.publish(2)
    assert first.got == [1, 2]


async def test_a_new_subscriber_gets_everything_after_its_answer(channel: Channel) -> None:
    channel.publish(1)
    subscriber = await channel.join()
    channel.publish(2, 3)
    assert subscriber.joined == Joined(at(channel, 1), [], recovered=False)
    assert subscriber.got == [2, 3]
    assert channel.store.entry_reads == 0


async def test_a_new_subscriber_stands_at_once_where_nothing_is_under_way(store: Store) -> None:
    channel = make_channel(store)
    assert channel.stream.position_now() is None, "it has not begun"
    await channel.stream.start()
    channel.publish(1, 2)
    assert channel.stream.position_now() == at(channel, 2)
    store.hold()
    channel.stream.heal()
    assert channel.stream.position_now() is None, "something may be missing"
    store.release()
    await channel.healed()
    assert channel.stream.position_now() == at(channel, 2)
    store.hold()
    joining = asyncio.ensure_future(channel.join())
    await store.held()
    assert channel.stream.position_now() is None, "another joins"
    store.release()
    await joining
    channel.stream.close()
    assert channel.stream.position_now() is None


def at(channel: Channel, offset: int) -> StreamPosition:
    return StreamPosition(offset, channel.stream.position.epoch)


async def test_a_returning_subscriber_gets_what_it_missed_and_then_what_comes(channel: Channel) -> None:
    channel.publish(1, 2, 3)
    subscriber = await channel.join(at(channel, 1))
    channel.publish(4)
    assert subscriber.recovered
    assert subscriber.got == [2, 3, 4]


async def test_a_thousand_returning_subscribers_cost_two_reads(store: Store) -> None:
    store.publish(*range(1, 201))
    channel = make_channel(store)
    await channel.stream.start()
    before = store.reads
    since = [at(channel, 100 + number % 100) for number in range(1000)]
    subscribers = [Subscriber() for _ in since]
    await asyncio.gather(*map(channel.stream.join, subscribers, since))
    assert store.reads - before <= 2
    for subscriber, position in zip(subscribers, since, strict=True):
        assert subscriber.recovered
        assert subscriber.got == list(range(position.offset + 1, 201))
    channel.stream.close()


async def test_ten_thousand_returning_to_fifty_channels_cost_one_read_of_entries_a_channel(store: Store) -> None:
    store.publish(*range(1, 201))
    channels = [make_channel(store) for _ in range(50)]
    for channel in channels:
        await channel.stream.start()
    returning = [(channels[number % 50], at(channels[number % 50], 100 + number % 100)) for number in range(10_000)]
    subscribers = [Subscriber() for _ in returning]

    joins = zip(subscribers, returning, strict=True)
    await asyncio.gather(*(channel.stream.join(subscriber, since) for subscriber, (channel, since) in joins))

    assert store.entry_reads == 50
    for subscriber, (_, position) in zip(subscribers, returning, strict=True):
        assert subscriber.got == list(range(position.offset + 1, 201))
    for channel in channels:
        channel.stream.close()


async def test_a_thousand_who_come_one_after_another_cost_one_read_of_entries(store: Store) -> None:
    store.publish(*range(1, 201))
    channel = make_channel(store)
    await channel.stream.start()
    for number in range(1000):
        assert (await channel.join(at(channel, 100 + number % 100))).recovered
    assert store.entry_reads == 1
    channel.stream.close()


async def test_a_thousand_who_return_too_late_cost_one_read_of_entries_too(store: Store) -> None:
    trimming = PublishOptions(history_size=10, history_ttl=600, history_meta_ttl=600)
    store.publish(*range(1, 201), options=trimming)
    channel = make_channel(store)
    await channel.stream.start()
    for number in range(1000):
        subscriber = await channel.join(at(channel, 50 + number % 100))
        assert not subscriber.recovered
        assert subscriber.got == []
    assert store.entry_reads == 1
    channel.stream.close()


async def test_who_missed_more_than_the_limit_gets_none_of_it(store: Store) -> None:
    store.publish(*range(1, 12))
    channel = make_channel(store, recovery_limit=10)
    await channel.stream.start()
    assert (await channel.join(at(channel, 1))).got == list(range(2, 12))
    subscriber = await channel.join(at(channel, 0))
    assert not subscriber.recovered
    assert subscriber.got == []
    assert subscriber.joined == Joined(at(channel, 11), [], recovered=False)
    channel.stream.close()


async def test_what_is_acknowledged_before_the_return_is_in_the_answer_though_the_broker_lags(channel: Channel) -> None:
    channel.publish(1)
    late = channel.store.publish(2)
    new, back, latest = await channel.join(), await channel.join(at(channel, 0)), await channel.join(latest=True)
    assert new.joined == Joined(at(channel, 2), [], recovered=False)
    assert back.got == [1, 2]
    assert latest.got == [2]
    channel.stream.on(late[0])
    channel.publish(3)
    assert (new.got, back.got, latest.got) == ([3], [1, 2, 3], [2, 3])


async def test_memory_reaches_no_further_back_than_the_store(store: Store) -> None:
    channel = make_channel(store, history_size=3)
    await channel.stream.start()
    for entry in store.publish(1, 2, 3, 4, 5, options=PublishOptions(3, 600, 600)):
        channel.stream.on(entry)
    assert (await channel.join(at(channel, 2))).got == [3, 4, 5]
    assert not (await channel.join(at(channel, 1))).recovered
    channel.stream.close()


async def test_who_missed_more_bytes_than_the_limit_gets_none_of_it(store: Store) -> None:
    store.publish(*[10**9] * 10)
    channel = make_channel(store, recovery_bytes=95)
    await channel.stream.start()
    assert (await channel.join(at(channel, 1))).recovered
    assert not (await channel.join(at(channel, 0))).recovered
    channel.stream.close()


async def test_a_subscriber_that_joins_amid_publishing_gets_each_publication_once(channel: Channel) -> None:
    since = at(channel, 0)
    channel.publish(1, 2)
    channel.lose_memory()
    channel.store.hold()
    subscriber = Subscriber()
    joining = asyncio.ensure_future(channel.stream.join(subscriber, since))
    await channel.store.held()
    channel.publish(3, 4)
    channel.store.release()
    await joining
    channel.publish(5)
    assert subscriber.got == [1, 2, 3, 4, 5]


async def test_a_subscriber_ahead_of_the_process_is_live_once_the_process_is_there(channel: Channel) -> None:
    channel.publish(1)
    late = channel.store.publish(2, 3)
    subscriber = await channel.join(at(channel, 3))
    assert subscriber.recovered
    assert channel.hub.live == []
    assert not channel.stream.idle
    for entry in late:
        channel.stream.on(entry)
    channel.publish(4)
    assert subscriber.got == [4]
    assert channel.stream.idle


async def test_a_subscriber_ahead_that_leaves_is_not_made_live(channel: Channel) -> None:
    late = channel.store.publish(1)
    subscriber = await channel.join(at(channel, 1))
    channel.stream.leave(subscriber)
    channel.stream.on(late[0])
    assert channel.hub.live == []


async def test_a_subscriber_that_is_gone_when_answered_is_not_made_live(channel: Channel) -> None:
    await channel.stream.join(Subscriber(gone=True))
    assert channel.hub.live == []
    assert channel.stream.idle


async def test_a_subscriber_that_gives_up_leaves_the_others_their_answer(channel: Channel) -> None:
    channel.publish(1)
    channel.lose_memory()
    channel.store.hold()
    one, other = Subscriber(), Subscriber()
    since = at(channel, 0)
    leaving = asyncio.ensure_future(channel.stream.join(one, since))
    staying = asyncio.ensure_future(channel.stream.join(other, since))
    await channel.store.held()
    leaving.cancel()
    channel.store.release()
    await staying
    assert other.got == [1]
    assert one.joined is None
    assert channel.stream.idle


async def test_a_subscriber_is_refused_while_the_store_is_away(channel: Channel) -> None:
    channel.publish(1)
    channel.lose_memory()
    channel.store.refusing = True
    with pytest.raises(BrokerUnavailable):
        await channel.join(at(channel, 0))
    assert channel.stream.idle


async def test_cache_mode_answers_with_the_latest_publication(channel: Channel) -> None:
    assert (await channel.join(latest=True)).got == []
    channel.publish(1, 2)
    subscriber = await channel.join(latest=True)
    channel.publish(3)
    assert subscriber.got == [2, 3]


async def test_cache_mode_reads_what_was_published_before_the_stream_began(store: Store) -> None:
    store.publish(1, 2)
    channel = make_channel(store)
    await channel.stream.start()
    assert (await channel.join(latest=True)).got == [2]
    assert (await channel.join(latest=True)).got == [2]
    assert store.entry_reads == 1
    channel.stream.close()


async def test_a_returning_subscriber_after_a_rollback_is_not_given_what_the_store_lost(channel: Channel) -> None:
    channel.publish(1, 2)
    snapshot = channel.store.snapshot()
    channel.publish(3)
    live = await channel.join()
    channel.store.go_back(snapshot)
    subscriber = await channel.join(at(channel, 1))
    assert subscriber.recovered
    assert subscriber.got == [2]
    assert live.reported == 1
    assert channel.stream.position == at(channel, 2)


async def test_a_read_from_before_a_rollback_answers_nobody(channel: Channel) -> None:
    channel.publish(1, 2)
    snapshot = channel.store.snapshot()
    channel.publish(3)
    channel.lose_memory()
    channel.store.hold()
    subscriber = Subscriber()
    joining = asyncio.ensure_future(channel.stream.join(subscriber, at(channel, 1)))
    await channel.store.held()
    channel.store.go_back(snapshot)
    channel.stream.heal()
    channel.store.release()
    await joining
    await channel.healed()
    assert subscriber.got == [2]
    assert subscriber.reported == 0


# Following and healing


async def test_a_dropped_publication_is_read_and_nobody_notices(channel: Channel) -> None:
    subscriber = await channel.join()
    channel.publish(1)
    channel.store.publish(2, 3)
    channel.publish(4)
    await channel.healed()
    channel.publish(5)
    assert subscriber.got == [1, 2, 3, 4, 5]
    assert subscriber.reported == 0
    assert channel.stats.resets == 0


async def test_what_is_reported_while_a_gap_is_filled_follows_without_another_read(channel: Channel) -> None:
    subscriber = await channel.join()
    channel.store.publish(1)
    channel.publish(2)
    channel.store.hold()
    await channel.store.held()
    reads = channel.store.reads
    channel.publish(3, 4)
    channel.store.release()
    await channel.healed()
    assert subscriber.got == [1, 2, 3, 4]
    assert channel.store.reads == reads


async def test_a_long_gap_is_filled_in_several_reads(channel: Channel) -> None:
    subscriber = await channel.join()
    count = 3 * HEAL_ENTRIES + 1
    channel.store.publish(*range(1, count))
    channel.publish(count)
    await channel.healed()
    assert subscriber.got == list(range(1, count + 1))
    assert channel.stats.heals == 4


async def test_a_gap_that_the_store_cannot_fill_is_reported_to_live_and_joining_subscribers(channel: Channel) -> None:
    live = await channel.join()
    options = PublishOptions(history_size=2, history_ttl=600, history_meta_ttl=600)
    channel.store.publish(1, options=options)
    joining = await channel.join(at(channel, 1))
    channel.stream.on(channel.store.publish(2, 3, 4, 5, options=options)[-1])
    await channel.healed()
    assert (live.reported, joining.reported) == (1, 1)
    assert live.got == []
    assert channel.hub.live == []
    assert channel.stream.idle
    assert channel.stream.position == at(channel, 5)
    assert channel.stats.resets == 1


async def test_after_a_rollback_the_next_publication_reports_everybody(channel: Channel) -> None:
    channel.publish(1)
    snapshot = channel.store.snapshot()
    subscriber = await channel.join()
    channel.publish(2, 3)
    channel.store.go_back(snapshot)
    entry = channel.store.publish(9)[0]
    jumped = StreamEntry(Publication(entry.publication.data, offset=2**50), entry.previous, entry.epoch)
    channel.stream.on(jumped)
    await channel.healed()
    assert subscriber.got == [2, 3]
    assert subscriber.reported == 1


async def test_a_new_epoch_reports_everybody(channel: Channel) -> None:
    channel.publish(1)
    subscriber = await channel.join()
    channel.store.go_back(MemoryHistory())
    channel.publish(2)
    await channel.healed()
    assert subscriber.got == []
    assert subscriber.reported == 1
    assert channel.stream.position == await channel.store.top()


async def test_a_subscriber_ahead_of_a_store_that_fell_back_is_reported_by_the_check(channel: Channel) -> None:
    snapshot = channel.store.snapshot()
    channel.store.publish(1)
    subscriber = await channel.join(at(channel, 1))
    channel.store.go_back(snapshot)
    await check_positions(channel.store, [channel.stream], in_flight=0)
    await channel.healed()
    assert subscriber.reported == 1
    assert channel.stream.idle


async def test_a_gap_is_filled_when_the_store_is_back(channel: Channel) -> None:
    subscriber = await channel.join()
    channel.store.publish(1)
    channel.store.refusing = True
    channel.publish(2)
    await asyncio.sleep(0.05)
    channel.publish(3)
    assert subscriber.got == []
    assert not channel.stream.following
    channel.store.refusing = False
    channel.stream.heal()
    await channel.healed()
    assert subscriber.got == [1, 2, 3]


async def test_a_store_that_is_away_is_asked_now_and_then_though_the_link_returned_once(channel: Channel) -> None:
    await channel.join()
    channel.store.publish(1)
    channel.store.refusing = True
    channel.publish(2)
    await asyncio.sleep(0)
    channel.stream.heal()
    before = channel.store.reads
    await asyncio.sleep(3 * RETRY_FIRST)
    assert 0 < channel.store.reads - before < 10


async def test_who_could_not_be_handed_a_publication_is_reported(channel: Channel) -> None:
    subscriber = await channel.join()
    channel.hub.failing = True
    channel.publish(1)
    assert subscriber.reported == 1
    channel.hub.failing = False
    again = await channel.join(at(channel, 0))
    assert again.got == [1]


async def test_a_publication_past_the_history_is_handed_on_and_moves_nothing(channel: Channel) -> None:
    subscriber = await channel.join()
    channel.stream.on(StreamEntry(Publication(Raw(b"7")), 0, ""))
    channel.publish(1)
    assert subscriber.got == [7, 1]
    assert channel.stats.heals == 0


async def test_a_removed_history_is_not_given_out_of_memory(channel: Channel) -> None:
    channel.publish(1, 2)
    await channel.store.remove(CHANNEL)
    assert not (await channel.join(at(channel, 1))).recovered
    assert (await channel.join(at(channel, 2))).recovered
    latest = await channel.join(latest=True)
    assert not latest.recovered
    assert latest.got == []


# Beginning and end


async def test_what_is_published_while_the_stream_begins_is_delivered_once(store: Store) -> None:
    channel = make_channel(store)
    store.publish(1)
    store.hold()
    starting = asyncio.ensure_future(channel.stream.start())
    await store.held()
    channel.publish(2)
    store.release()
    await starting
    assert channel.stream.position == at(channel, 2)
    subscriber = await channel.join()
    channel.publish(3)
    assert subscriber.got == [3]
    channel.stream.close()


async def test_a_link_lost_while_the_stream_begins_is_made_good(store: Store) -> None:
    channel = make_channel(store)
    store.hold()
    starting = asyncio.ensure_future(channel.stream.start())
    await store.held()
    store.publish(1)
    channel.stream.heal()
    store.release()
    await starting
    await channel.healed()
    assert channel.stream.position == at(channel, 1)
    channel.stream.close()


async def test_a_stream_cannot_begin_while_the_store_is_away(store: Store) -> None:
    store.refusing = True
    with pytest.raises(BrokerUnavailable):
        await make_channel(store).stream.start()


async def test_closing_refuses_who_joins_and_delivers_nothing_more(channel: Channel) -> None:
    live = await channel.join()
    channel.publish(1)
    channel.lose_memory()
    channel.store.hold()
    joining = asyncio.ensure_future(channel.join(at(channel, 0)))
    await channel.store.held()
    channel.stream.close()
    with pytest.raises(BrokerUnavailable):
        await joining
    with pytest.raises(BrokerUnavailable):
        await channel.join()
    with pytest.raises(BrokerUnavailable):
        await channel.join(at(channel, 0))
    channel.publish(2)
    assert live.got == [1]
    channel.store.release()


# The position check


async def test_the_check_finds_a_dropped_last_publication(channel: Channel) -> None:
    subscriber = await channel.join()
    channel.store.publish(1)
    assert await check_positions(channel.store, [channel.stream], in_flight=0) == 1
    await channel.healed()
    assert subscriber.got == [1]
    assert await check_positions(channel.store, [channel.stream], in_flight=0) == 0


async def test_the_check_waits_for_what_is_on_its_way(channel: Channel) -> None:
    subscriber = await channel.join()
    late = channel.store.publish(1)
    reads = channel.store.reads
    checking = asyncio.ensure_future(check_positions(channel.store, [channel.stream], in_flight=0.05))
    await asyncio.sleep(0.01)
    channel.stream.on(late[0])
    assert await checking == 0
    assert subscriber.got == [1]
    assert channel.store.reads == reads


async def test_the_check_is_not_misled_by_what_came_after_it_asked(channel: Channel) -> None:
    channel.publish(1)
    channel.store.hold()
    checking = asyncio.ensure_future(check_positions(channel.store, [channel.stream], in_flight=0))
    await channel.store.held()
    channel.publish(2)
    channel.store.release()
    assert await checking == 0
