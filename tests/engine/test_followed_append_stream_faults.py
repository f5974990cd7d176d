"""Joining an append-only stream while its store fails, changes below the read, or the subscriber leaves."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from msgspec import Raw

from starling.brokers.memory.history import MemoryHistory
from starling.engine.append_store import StreamKind
from starling.engine.broker import BrokerUnavailable, PublishOptions, StreamEntry, StreamPosition, StreamRead
from starling.engine.followed_append_stream import FollowedAppendStream
from starling.engine.follower import Joined, MemoryBudget
from starling.engine.stream_chunks import content_of, text_chunk
from starling.engine.stream_contract import StreamStats
from starling.protocol.messages import Publication

CHANNEL = "answers:1"
OPTIONS = PublishOptions(history_size=5000, history_ttl=600, history_meta_ttl=600)
# Two of them are more than one answer holds.
LARGE = "x" * 500_000


class Store(MemoryHistory):
    """A history that does `before_read` with the number of the read, and may raise there."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.before_read: Callable[[int], None] = lambda number: None

    async def read(self, channel: str, **request: Any) -> StreamRead:
        self.reads += 1
        self.before_read(self.reads)
        return await super().read(channel, **request)

    def add(self, text: str) -> None:
        self.append_next(CHANNEL, Publication(Raw(text_chunk(text).data)), OPTIONS, self.sweep())


class Live:
    """The live subscribers."""

    def __init__(self) -> None:
        self.entered: list[Subscriber] = []

    def broadcast(self, channel: str, entry: StreamEntry) -> None: ...

    def enter(self, channel: str, subscriber: "Subscriber") -> None:
        self.entered.append(subscriber)

    def unsubscribe_all(self, channel: str) -> None: ...


class Subscriber:
    """Keeps what it gets; leaves at its answer or at its first push, as the test wants it."""

    def __init__(self, leaves_at: str = "") -> None:
        self.text = ""
        self.recovered: bool | None = None
        self.unsubscribed = False
        self.dropped = False
        self._leaves_at = leaves_at

    def reply(self, joined: Joined) -> bool:
        self.recovered = joined.recovered
        self._take(joined.publications)
        return self._leaves_at != "reply"

    async def push(self, publications: Sequence[Publication]) -> bool:
        self._take(publications)
        return self._leaves_at != "push"

    def unsubscribe(self) -> None:
        self.unsubscribed = True

    def _take(self, publications: Sequence[Publication]) -> None:
        self.text += "".join(content_of(each, StreamKind.TEXT).decode() for each in publications)


class Channel:
    """A stream that holds two large chunks, which this process has not in memory."""

    def __init__(self) -> None:
        self.store, self.live, self.stats = Store(), Live(), StreamStats()
        self.store.add(LARGE)
        self.store.add(LARGE)
        self.stream = FollowedAppendStream[Subscriber](
            CHANNEL, self.store, self.live, 600, MemoryBudget(10**9), self.stats
        )

    def at_join_read(self, number: int, act: Callable[[], object]) -> None:
        """Do `act` before the join's read of that number, counted from 1."""
        first = self.store.reads

        def before_read(reads: int) -> None:
            if reads == first + number:
                act()

        self.store.before_read = before_read


@pytest.fixture
async def channel() -> AsyncIterator[Channel]:
    made = Channel()
    await made.stream.start()
    yield made
    made.stream.close()
    await asyncio.sleep(0)


def fail() -> None:
    raise BrokerUnavailable("so the test wants it")


async def test_a_subscriber_gets_the_rest_in_pushes_and_is_live(channel: Channel) -> None:
    subscriber = Subscriber()
    await channel.stream.join(subscriber)

    assert subscriber.text == LARGE * 2
    assert subscriber.recovered
    assert channel.live.entered == [subscriber]


async def test_a_store_that_fails_before_the_answer_refuses_the_subscriber(channel: Channel) -> None:
    subscriber = Subscriber()
    channel.at_join_read(1, fail)
    with pytest.raises(BrokerUnavailable, match="so the test wants it"):
        await channel.stream.join(subscriber)

    assert (subscriber.recovered, subscriber.unsubscribed, channel.live.entered) == (None, False, [])


async def test_a_store_that_fails_after_the_answer_has_the_subscriber_subscribe_again(channel: Channel) -> None:
    subscriber = Subscriber()
    channel.at_join_read(2, fail)
    await channel.stream.join(subscriber)

    assert subscriber.text == LARGE
    assert (subscriber.unsubscribed, channel.live.entered) == (True, [])


async def test_a_channel_that_is_left_during_the_read_refuses_the_subscriber(channel: Channel) -> None:
    subscriber = Subscriber()
    channel.at_join_read(1, channel.stream.close)
    with pytest.raises(BrokerUnavailable):
        await channel.stream.join(subscriber)

    assert subscriber.recovered is None


@pytest.mark.parametrize(("leaves_at", "got"), [("reply", LARGE), ("push", LARGE * 2)])
async def test_a_subscriber_that_leaves_is_not_live(channel: Channel, leaves_at: str, got: str) -> None:
    subscriber = Subscriber(leaves_at)
    await channel.stream.join(subscriber)

    assert (subscriber.text, subscriber.unsubscribed, channel.live.entered) == (got, False, [])


async def test_a_stream_that_begins_anew_between_answer_and_rest_has_the_subscriber_subscribe_again(
    channel: Channel,
) -> None:
    def begin_anew() -> None:
        channel.store.restart(CHANNEL)
        channel.store.add("another")

    subscriber = Subscriber()
    channel.at_join_read(2, begin_anew)
    await channel.stream.join(subscriber)

    assert subscriber.text == LARGE
    assert (subscriber.unsubscribed, channel.live.entered) == (True, [])


async def test_a_position_of_another_stream_begins_at_the_start_and_is_not_recovered(channel: Channel) -> None:
    subscriber = Subscriber()
    await channel.stream.join(subscriber, StreamPosition(1, "another"))

    assert (subscriber.text, subscriber.recovered) == (LARGE * 2, False)
    assert (channel.stats.recovered, channel.stats.unrecovered) == (0, 1)


async def test_where_the_store_lost_the_beginning_the_subscriber_gets_what_is_left(channel: Channel) -> None:
    small = PublishOptions(history_size=1, history_ttl=600, history_meta_ttl=600)
    left = Publication(Raw(text_chunk("left").data))
    entry = channel.store.append_next(CHANNEL, left, small, channel.store.sweep())
    channel.stream.on(entry)

    subscriber = Subscriber()
    await channel.stream.join(subscriber, StreamPosition(1, entry.epoch))

    assert (subscriber.text, subscriber.recovered) == ("left", False)
    assert channel.live.entered == [subscriber]
