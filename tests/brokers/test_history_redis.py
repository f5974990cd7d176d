"""What is particular to history in Redis: keys and their times, restarts, promotion, and strangers."""

import asyncio
import hashlib
import itertools
import random
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from msgspec import Raw
from redis.asyncio import Redis
from redis.crc import key_slot

import starling.brokers.redis
from starling.brokers.open import open_broker
from starling.engine.append_store import Append, AppendOutcome, AppendResult, Change, Opening, StreamInfo, StreamKind
from starling.engine.broker import (
    BrokerUnavailable,
    LinkState,
    PublishOptions,
    PublishOutcome,
    StreamEntry,
    StreamPosition,
)
from starling.engine.follower import Joined, MemoryBudget
from starling.engine.history import missed
from starling.engine.stream import Stream, check_positions
from starling.engine.stream_chunks import text_chunk
from starling.engine.stream_contract import StreamOptions, StreamStats
from starling.protocol.messages import Publication
from starling.telemetry.tracing import TraceContext
from tests.brokers.conftest import Opener
from tests.brokers.party import Party
from tests.support.services import RedisServer
from tests.support.waiting import DEADLINE, until

KEPT = PublishOptions(history_size=100, history_ttl=60, history_meta_ttl=3600)
CHANNEL = "news:a"
META, STREAM = "starling:meta:{news:a}", "starling:stream:{news:a}"
# Where offsets go on after a restart: 2^20 a second since 1970, so far past every count.
AFTER_RESTART = 1_700_000_000 * 2**20


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator["Redis"]:
    """A client of the same Redis, for looking past the broker."""
    client = Redis.from_url(redis_server.url, protocol=2)
    yield client
    await client.aclose()


async def publish(party: Party, *data: bytes, options: PublishOptions = KEPT) -> list[StreamPosition]:
    return [await party.broker.publish(CHANNEL, Publication(Raw(item)), options) for item in data]


async def read(party: Party, **request: Any) -> Any:
    assert party.broker.history is not None
    return await party.broker.history.read(CHANNEL, meta_ttl=3600, **request)


async def read_known(party: Party) -> Any:
    """What a second read returns, which is remembered: one read does not show that there are others."""
    await read(party)
    return await read(party)


def data(found: Any) -> list[bytes]:
    return [bytes(entry.publication.data) for entry in found.entries]


# Keys and their times


async def test_the_keys_of_a_channel_share_a_slot(redis_server: RedisServer, opener: Opener, redis: "Redis") -> None:
    await publish(await opener(redis_server.url), b"1", options=PublishOptions(1, 60, 60, "key"))
    keys = await redis.keys()
    assert set(keys) == {META.encode(), STREAM.encode(), b"starling:idem:{news:a}:key"}
    assert len({key_slot(key) for key in keys if isinstance(key, bytes)}) == 1


async def test_of_a_trace_nothing_is_stored(redis_server: RedisServer, opener: Opener, redis: "Redis") -> None:
    trace = TraceContext("00-" + "1" * 32 + "-" + "2" * 16 + "-01")
    await publish(await opener(redis_server.url), b"1", options=PublishOptions(10, 60, 60, trace=trace))
    stored: Any = await redis.xrange(STREAM)
    assert [fields[b"d"].partition(b" ")[2] for _, fields in stored] == [b"0\n1"]


async def test_each_publication_renews_the_times_of_entries_and_position(
    redis_server: RedisServer, opener: Opener, redis: "Redis"
) -> None:
    here = await opener(redis_server.url)
    await publish(here, b"1")
    await redis.pexpire(STREAM, 5_000)
    await redis.pexpire(META, 5_000)
    await publish(here, b"2", options=PublishOptions(100, 60, 3600, "key"))
    assert 50_000 < await redis.pttl(STREAM) <= 60_000
    assert 3_590_000 < await redis.pttl(META) <= 3_600_000
    assert 290_000 < await redis.pttl("starling:idem:{news:a}:key") <= 300_000


async def test_reading_keeps_the_position_alive_and_lets_the_entries_end(
    redis_server: RedisServer, opener: Opener, redis: "Redis"
) -> None:
    here = await opener(redis_server.url)
    await publish(here, b"1")
    await redis.pexpire(META, 5_000)
    await redis.pexpire(STREAM, 5_000)
    assert here.broker.history is not None
    await here.broker.history.positions({CHANNEL: 3600.0})
    assert await redis.pttl(META) > 3_590_000
    assert await redis.pttl(STREAM) <= 5_000


async def test_zero_is_for_ever(redis_server: RedisServer, opener: Opener, redis: "Redis") -> None:
    here = await opener(redis_server.url)
    await publish(here, b"1")
    await publish(here, b"2", options=PublishOptions(history_size=10))
    assert await redis.pttl(STREAM) == -1
    assert await redis.pttl(META) == -1


async def test_entries_end_and_the_position_stays(redis_server: RedisServer, opener: Opener) -> None:
    here = await opener(redis_server.url)
    top = (await publish(here, b"1", b"2", options=PublishOptions(10, 0.05, 60)))[-1]
    async with asyncio.timeout(DEADLINE):
        while (found := await read(here)).entries:
            await asyncio.sleep(0.02)
    assert found.top == top
    assert missed(found, 2) == []
    assert missed(found, 1) is None
    await publish(here, b"3")
    assert [(entry.previous, entry.offset) for entry in (await read(here)).entries] == [(2, 3)]


@pytest.mark.parametrize("first", ["read", "publish"])
async def test_entries_that_outlive_their_position_are_of_no_epoch_and_go(
    redis_server: RedisServer, opener: Opener, redis: "Redis", first: str
) -> None:
    here = await opener(redis_server.url)
    old = (await publish(here, b"1", b"2"))[-1]
    await redis.delete(META)
    if first == "read":
        found = await read(here)
        assert found.entries == []
        assert found.top.offset == 0
        assert found.top.epoch != old.epoch
    assert (await publish(here, b"3"))[0].offset == 1
    found = await read(here)
    assert data(found) == [b"3"]
    assert found.top.epoch != old.epoch


async def test_offsets_of_sixteen_digits_are_kept_exactly(
    redis_server: RedisServer, opener: Opener, redis: "Redis"
) -> None:
    here = await opener(redis_server.url)
    await publish(here, b"1")
    await redis.hset(META, "o", str(2**51 + 1))
    assert (await publish(here, b"2"))[0].offset == 2**51 + 2
    entry = (await read(here)).entries[-1]
    assert (entry.previous, entry.offset) == (2**51 + 1, 2**51 + 2)
    assert data(await read(here, after=2**51 + 1)) == [b"2"]
    assert data(await read(here, before=2**51 + 2)) == [b"1"]


# Scripts


async def test_scripts_that_redis_forgot_are_sent_again(
    redis_server: RedisServer, opener: Opener, redis: "Redis"
) -> None:
    here = await opener(redis_server.url)
    once = PublishOptions(idempotency_key="k")
    for number in range(1, 4):
        await redis.script_flush()
        assert (await publish(here, b"%d" % number))[0].offset == number
        await redis.script_flush()
        assert (await read(here, limit=0)).top.offset == number
        await redis.script_flush()
        await publish(here, b"x", options=once)
    assert data(await read(here)) == [b"1", b"2", b"3"]


async def test_what_redis_refuses_is_reported_in_its_words_and_changes_nothing(
    redis_server: RedisServer, opener: Opener, redis: "Redis"
) -> None:
    here = await opener(redis_server.url)
    await publish(here, b"1")
    await redis.rename(STREAM, "elsewhere")
    await redis.set(STREAM, "a text")
    with pytest.raises(BrokerUnavailable, match="WRONGTYPE"):
        await publish(here, b"2")
    with pytest.raises(BrokerUnavailable, match="WRONGTYPE"):
        await read(here)
    await redis.rename("elsewhere", STREAM)
    assert (await read(here)).top.offset == 1
    assert (await publish(here, b"3"))[0].offset == 2


async def test_a_user_who_may_not_ask_for_the_replication_id_keeps_no_history(
    redis_server: RedisServer, opener: Opener, redis: "Redis"
) -> None:
    await redis.acl_setuser(
        "app", enabled=True, passwords=["+secret"], keys="*", channels="*", categories=["+@all"], commands=["-info"]
    )
    here = await opener(redis_server.url.replace("redis://", "redis://app:secret@"))
    with pytest.raises(BrokerUnavailable, match="Redis refused"):
        await publish(here, b"1")
    assert await redis.keys() == []


async def test_publications_that_redis_has_forgotten_the_script_of_are_published_all_the_same(
    redis_server: RedisServer, opener: Opener, redis: "Redis"
) -> None:
    here = await opener(redis_server.url)
    await here.broker.subscribe(CHANNEL)
    await redis.script_flush()
    reported: list[PublishOutcome | None] = []
    for number in range(100):
        reported.append(here.broker.begin_publish(CHANNEL, Publication(Raw(b"%d" % number)), KEPT, reported.append))
    await until(lambda: len(here.entries) >= 100, "all are heard")

    assert here.received(CHANNEL) == [b"%d" % number for number in range(100)]
    await until(lambda: len([outcome for outcome in reported if outcome]) >= 100, "all outcomes are reported")
    assert {type(outcome) for outcome in reported} - {type(None)} == {StreamPosition}


async def test_appends_that_redis_has_forgotten_the_script_of_are_stored_all_the_same(
    redis_server: RedisServer, opener: Opener, redis: "Redis"
) -> None:
    streams = (await opener(redis_server.url)).broker.append_streams
    assert streams is not None
    await streams.open(CHANNEL, Opening(StreamKind.TEXT, 60))
    await redis.script_flush()
    reported: list[AppendResult | None] = []
    for number in range(100):
        change = Append(StreamKind.TEXT, text_chunk(f"{number} "))
        reported.append(streams.begin_append(CHANNEL, change, reported.append))
    await until(lambda: len(list(filter(None, reported))) >= 100, "all outcomes are reported")

    assert {result.outcome for result in reported if isinstance(result, Change)} == {AppendOutcome.DONE}
    info = await streams.info(CHANNEL)
    assert info is not None
    assert info.length == len("".join(f"{number} " for number in range(100)))


async def test_a_new_connection_to_redis_knows_the_scripts_before_the_first_publication(
    redis_server: RedisServer, opener: Opener, redis: "Redis"
) -> None:
    await redis.script_flush()
    await opener(redis_server.limited_url)

    names = ("publish.lua", "publish_once.lua")
    digests = [
        hashlib.sha1(Path(starling.brokers.redis.__file__).with_name(name).read_bytes()).hexdigest() for name in names
    ]
    assert await redis.script_exists(*digests) == [True, True]


@pytest.mark.processes
async def test_a_backend_publishes_with_eval_alone(redis_server: RedisServer, opener: Opener) -> None:
    here = await opener(redis_server.url)
    await here.broker.subscribe(CHANNEL)
    script = Path(starling.brokers.redis.__file__).with_name("publish.lua")
    answers = []
    for key in ("order-1", "order-1", "order-2"):
        keys = [META, STREAM, f"starling:idem:{{news:a}}:{key}"]
        arguments = [f"starling:{CHANNEL}", '1700000000000 0\n{"order":1}', "100", "60000", "3600000", "randomtext"]
        command = ["redis-cli", "-p", str(redis_server.port), "--eval", str(script), *keys, ",", *arguments]
        answers.append(subprocess.run(command, capture_output=True, check=True, timeout=10).stdout.split())
    assert answers == [[b"1", b"randomtext"], [b"1", b"randomtext"], [b"2", b"randomtext"]]
    await until(lambda: len(here.entries) >= 2, "both are heard")
    found = await read(here)
    assert [entry for _, entry in here.entries] == found.entries
    assert data(found) == [b'{"order":1}'] * 2
    assert found.entries[0].publication.time == 1_700_000_000_000


async def test_an_entry_by_a_stranger_is_left_out_and_leaves_a_gap_that_is_noticed(
    redis_server: RedisServer, opener: Opener, redis: "Redis"
) -> None:
    here = await opener(redis_server.url)
    await publish(here, b"1", b"2")
    await redis.xadd(STREAM, {"p": "2", "d": "no body"}, id="3-0")
    await redis.xadd(STREAM, {"x": "y"}, id="4-0")
    await redis.hset(META, "o", "4")
    await publish(here, b"5")
    with structlog.testing.capture_logs() as logs:
        found = await read(here)
    assert [line["event"] for line in logs] == ["history_entry_malformed"] * 2
    assert [entry.offset for entry in found.entries] == [1, 2, 5]
    assert missed(found, 2) is None
    assert missed(found, 4) == found.entries[-1:]
    await redis.xtrim(STREAM, maxlen=3, approximate=False)
    assert (await read(here)).bottom == 2
    await redis.xtrim(STREAM, maxlen=2, approximate=False)
    assert (await read(here)).bottom == 4


# Restarts and promotion


class Subscriber:
    """A subscriber of the stream under test."""

    def __init__(self) -> None:
        self.joined: Joined | None = None
        self.got: list[bytes] = []
        self.reported = 0

    def reply(self, joined: Joined) -> bool:
        self.joined = joined
        self.got += [bytes(publication.data) for publication in joined.publications]
        return True

    def unsubscribe(self) -> None:
        self.reported += 1


class Process(Party):
    """A broker with the stream of one channel, wired as the node does it."""

    def __init__(self, url: str) -> None:
        super().__init__(open_broker(url, timeout=DEADLINE))
        assert self.broker.history is not None
        self.history = self.broker.history
        self.live: set[Subscriber] = set()
        self.checks: set[asyncio.Task[int]] = set()
        self.stream: Stream[Subscriber] = Stream(
            CHANNEL, self.history, self, StreamOptions(100, 3600, 300), MemoryBudget(10**6), StreamStats()
        )

    async def __aenter__(self) -> "Process":
        await self.broker.start(self)
        await until(lambda: self.up, "the link comes up")
        await self.broker.subscribe(CHANNEL)
        await self.stream.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.stream.close()
        await asyncio.gather(*self.checks, return_exceptions=True)
        await self.broker.stop()

    def on_publication(self, channel: str, entry: StreamEntry, received_at: float) -> None:
        self.stream.on(entry)

    def on_link(self, state: LinkState) -> None:
        super().on_link(state)
        if state is LinkState.UP and len(self.links) > 2:
            self.checks.add(asyncio.ensure_future(check_positions(self.history, [self.stream], in_flight=0)))

    def broadcast(self, channel: str, entry: StreamEntry) -> None:
        for subscriber in self.live:
            subscriber.got.append(bytes(entry.publication.data))

    def enter(self, channel: str, subscriber: Subscriber) -> None:
        self.live.add(subscriber)

    def unsubscribe_all(self, channel: str) -> None:
        reported, self.live = self.live, set()
        for subscriber in reported:
            subscriber.unsubscribe()

    async def join(self, since: StreamPosition | None = None) -> Subscriber:
        subscriber = Subscriber()
        await self.stream.join(subscriber, since)
        return subscriber

    async def link_returns(self) -> None:
        seen = len(self.links)
        await until(lambda: LinkState.UP in self.links[seen:], "the link comes back")
        await asyncio.gather(*self.checks)
        await until(lambda: self.stream.following, "the stream follows again")


async def test_after_a_restart_from_a_snapshot_no_offset_is_used_again_and_everybody_is_notified(
    redis_server: RedisServer, redis: "Redis"
) -> None:
    async with Process(redis_server.url) as here:
        kept = (await publish(here, b"1", b"2", b"3"))[-1]
        await redis.save()
        subscriber = await here.join()
        lost = (await publish(here, b"4", b"5"))[-1]
        await until(lambda: subscriber.got == [b"4", b"5"], "the lost ones were delivered")
        redis_server.kill()
        await until(lambda: here.down, "the link is lost")
        redis_server.start()
        await here.link_returns()
        assert subscriber.reported == 1
        assert here.stream.position == kept

        after = (await publish(here, b"6"))[0]
        assert after.epoch == kept.epoch
        assert after.offset > AFTER_RESTART
        entry = (await read(here)).entries[-1]
        assert (entry.previous, entry.offset) == (3, after.offset)
        assert (await publish(here, b"7"))[0].offset == after.offset + 1

        of_the_lost = await here.join(lost)
        assert of_the_lost.got == []
        assert of_the_lost.joined is not None
        assert not of_the_lost.joined.recovered
        of_the_kept = await here.join(kept)
        assert of_the_kept.got == [b"6", b"7"]


async def test_two_restarts_from_one_snapshot_in_a_row_use_no_offset_twice(
    redis_server: RedisServer, opener: Opener, redis: "Redis"
) -> None:
    here = await opener(redis_server.url)
    await publish(here, b"1")
    await redis.save()
    seen: list[StreamPosition] = []
    for _ in range(3):
        redis_server.kill()
        redis_server.start()
        for attempt in itertools.count():
            try:
                seen += await publish(here, b"x")
                break
            except BrokerUnavailable:
                assert attempt < 100
                await asyncio.sleep(0.02)
        seen += await publish(here, b"y", b"z")
    assert len({position.offset for position in seen}) == len(seen)
    assert len({position.epoch for position in seen}) == 1


async def test_after_a_restart_from_a_snapshot_an_append_uses_no_offset_twice(
    redis_server: RedisServer, opener: Opener, redis: "Redis"
) -> None:
    streams = (await opener(redis_server.url)).broker.append_streams
    assert streams is not None

    async def append(text: str) -> StreamInfo:
        change = await streams.append(CHANNEL, Append(StreamKind.TEXT, text_chunk(text)))
        assert change.info is not None
        return change.info

    await streams.open(CHANNEL, Opening(StreamKind.TEXT, 60))
    await append("kept")
    await redis.save()
    assert (await append("lost")).offset == 2
    redis_server.kill()
    redis_server.start()
    for attempt in itertools.count():
        try:
            after = await append("after")
            break
        except BrokerUnavailable:
            assert attempt < 100
            await asyncio.sleep(0.02)
    assert after.offset > AFTER_RESTART
    assert after.length == len("keptafter")
    assert (await append("next")).offset == after.offset + 1


@pytest.fixture
def durable_redis() -> Iterator[RedisServer]:
    with RedisServer(appendonly="yes", appendfsync="always") as server:
        yield server


@pytest.mark.processes
async def test_after_a_restart_that_lost_nothing_clients_notice_nothing(durable_redis: RedisServer) -> None:
    async with Process(durable_redis.url) as here:
        subscriber = await here.join()
        before = (await publish(here, b"1", b"2"))[-1]
        durable_redis.kill()
        await until(lambda: here.down, "the link is lost")
        durable_redis.start()
        await here.link_returns()
        after = (await publish(here, b"3", b"4"))[0]
        await until(lambda: len(subscriber.got) == 4, "all are delivered")
        assert subscriber.got == [b"1", b"2", b"3", b"4"]
        assert subscriber.reported == 0
        assert after.offset > AFTER_RESTART
        back = await here.join(StreamPosition(1, before.epoch))
        assert back.got == [b"2", b"3", b"4"]


async def test_what_was_published_while_the_link_was_lost_is_delivered_when_it_is_back(
    redis_server: RedisServer, opener: Opener, redis: "Redis"
) -> None:
    there = await opener(redis_server.url)
    async with Process(redis_server.url) as here:
        subscriber = await here.join()
        await publish(there, b"1")
        await until(lambda: subscriber.got == [b"1"], "the link works")
        for client in await redis.client_list(_type="pubsub"):
            await redis.client_kill_filter(_id=client["id"])
        await publish(there, b"2", b"3")
        await until(lambda: subscriber.got == [b"1", b"2", b"3"], "what was missed is delivered")
        assert subscriber.reported == 0


@pytest.mark.processes
async def test_a_promoted_replica_uses_no_offset_again(redis_server: RedisServer, opener: Opener) -> None:
    with RedisServer() as replica:
        client = Redis.from_url(replica.url, protocol=2)
        try:
            await client.replicaof("127.0.0.1", str(redis_server.port))
            async with asyncio.timeout(DEADLINE):
                while (await client.info("replication"))["master_link_status"] != "up":
                    await asyncio.sleep(0.05)
            first = await opener(redis_server.url)
            kept = (await publish(first, b"1", b"2"))[-1]
            async with asyncio.timeout(DEADLINE):
                while await client.hget(META, "o") != b"2":
                    await asyncio.sleep(0.02)
            await client.replicaof("NO", "ONE")
            second = await opener(replica.url)
            after = (await publish(second, b"3"))[0]
            lost = (await publish(first, b"lost"))[0]
        finally:
            await client.aclose()
    assert after.epoch == kept.epoch
    assert lost.offset == 3
    assert after.offset > AFTER_RESTART


async def test_reads_that_overlap_are_what_each_would_be_alone(
    redis_server: RedisServer, opener: Opener, redis: "Redis"
) -> None:
    here, randomness = await opener(redis_server.url), random.Random(15)
    first = await publish(here, *[b"%d" % number for number in range(30)])
    before = (await read_known(here)).entries
    for number in range(30):
        await publish(here, b"x" * randomness.randrange(2000))
        query = {
            "after": randomness.choice([0, 0, 20, 40]),
            "limit": randomness.choice([None, 0, 1, 7, 40]),
            "newest": randomness.random() < 0.5,
            "max_bytes": randomness.choice([None, 3000]),
        }
        # What is before an offset that nothing has is another read of the same.
        alone, again = await read(here, before=10**12 + number, **query), await read(here, **query)
        assert again == alone
        assert again.pieces is not None
        assert len(again.pieces) == len(again.entries)
    assert all(one is other for one, other in zip(before, (await read(here, limit=30)).entries, strict=True))

    await redis.delete(META, STREAM)
    (second,) = await publish(here, b"another")
    assert second.epoch != first[0].epoch
    assert data(await read(here)) == [b"another"]


async def test_what_did_not_change_is_read_once_and_each_change_is_seen_at_once(
    redis_server: RedisServer, opener: Opener, redis: "Redis"
) -> None:
    here, there = await opener(redis_server.url), await opener(redis_server.url)
    assert there.broker.history is not None
    many = [b'"%d %b"' % (number, b"x" * 500) for number in range(20)]
    await publish(there, *many)
    await read(here)
    changes: list[Callable[[], Awaitable[object]]] = [
        lambda: publish(there, b'"one more"'),
        lambda: publish(there, b'"one more"', options=PublishOptions(history_size=15, history_ttl=60)),
        lambda: redis.xtrim(STREAM, maxlen=12, approximate=False),
        lambda: redis.delete(STREAM),
        lambda: publish(there, *many),
        lambda: there.broker.history.remove(CHANNEL),  # type: ignore[union-attr]
        lambda: publish(there, *many),
        lambda: redis.delete(META),
        lambda: publish(there, *many),
        lambda: redis.delete(META, STREAM),
        lambda: publish(there, *many),
    ]
    queries: list[dict[str, Any]] = [{}, {"limit": 7}, {"limit": 7, "newest": True}, {"after": 15, "max_bytes": 1500}]
    number = 10**12
    for change in changes:
        for query in queries:
            for followed in (False, True):
                found = await read(here, followed=followed, **query)
                assert (await read(here, followed=followed, **query) is found) == (len(found.entries) > 1)
        await change()
        # A channel without a position gets one by the first read.
        await read(there, limit=0)
        for query in queries:
            number += 1
            assert await read(here, **query) == await read(here, before=number, **query)


async def test_what_follows_a_known_read_completes_it_as_a_whole_read_would(
    redis_server: RedisServer, opener: Opener, redis: "Redis"
) -> None:
    here, randomness = await opener(redis_server.url), random.Random(15)
    queries: list[dict[str, Any]] = [
        {"limit": limit, "newest": newest, "max_bytes": max_bytes}
        for limit in (None, 3, 10)
        for newest in (False, True)
        for max_bytes in (None, 6000)
    ]
    number = 10**12
    for step in range(60):
        for _ in range(randomness.choice([0, 1, 1, 2, 5, 20])):
            size = randomness.choice([5, 10, 10, 12])
            await publish(here, b"%d" % step * randomness.randrange(500), options=PublishOptions(size, 60, 60))
        if randomness.random() < 0.05:
            await redis.delete(STREAM)
        for query in queries:
            number += 1
            assert await read(here, **query) == await read(here, before=number, **query)


async def test_what_was_lost_behind_a_known_read_is_not_taken_for_the_next(
    redis_server: RedisServer, opener: Opener, redis: "Redis"
) -> None:
    here = await opener(redis_server.url)
    many = [b'"%d %b"' % (number, b"x" * 500) for number in range(8)]
    await publish(here, *many)
    await read_known(here)
    # As a promoted replica has it that had not received the last three.
    await redis.xtrim(STREAM, maxlen=0)
    for number in range(1, 6):
        body = b"1700000000000 0\n" + many[number - 1]
        await redis.xadd("aside", {"p": str(number - 1), "d": body}, id=f"{number}-0")
    await redis.rename("aside", STREAM)
    await redis.hset(META, mapping={"o": "5", "r": "another"})
    await publish(here, b'"after"')
    found = await read(here)
    assert data(found) == [*many[:5], b'"after"']
    assert found.entries[-1].previous == 5


async def test_a_stranger_between_known_entries_changes_no_order_and_is_reported_each_time(
    redis_server: RedisServer, opener: Opener, redis: "Redis"
) -> None:
    here = await opener(redis_server.url)
    await publish(here, b"1", b"2")
    await read_known(here)
    await redis.xadd(STREAM, {"x": "y"}, id="3-0")
    await redis.hset(META, "o", "3")
    await publish(here, b"4", b"5")
    for _ in range(2):
        with structlog.testing.capture_logs() as logs:
            assert [entry.offset for entry in (await read(here)).entries] == [1, 2, 4, 5]
        assert [line["event"] for line in logs] == ["history_entry_malformed"]
