"""Redis with little memory: what a reader leaves there, and what Redis does and says when it is full."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import structlog
from msgspec import Raw
from redis.asyncio import Redis

from starling.auth.tickets import Tickets
from starling.auth.tokens import RefusalReason, TokenRefused
from starling.brokers.memory.history import MemoryHistory
from starling.engine.broker import BrokerRefused, BrokerUnavailable, PublishOptions
from starling.engine.broker_refusals import LOG_SECONDS, BrokerRefusals
from starling.engine.revocation import Revocation
from starling.protocol.messages import ClientInfo, Publication
from tests.brokers.conftest import Opener
from tests.brokers.party import Party
from tests.support.services import RedisServer

KEPT = PublishOptions(history_size=100, history_ttl=60, history_meta_ttl=7200)
HOUR = 3_600_000
META = "starling:meta:{news:a}"


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator["Redis"]:
    """A client of the same Redis, for looking past the broker."""
    client = Redis.from_url(redis_server.url, protocol=2)
    yield client
    await client.aclose()


@pytest.fixture
async def party(redis_server: RedisServer, opener: Opener) -> Party:
    return await opener(redis_server.url)


async def fill(redis: "Redis") -> None:
    await redis.config_set("maxmemory-policy", "noeviction")
    await redis.config_set("maxmemory", "1")


async def read(party: Party, channel: str = "news:a", **request: Any) -> Any:
    assert party.broker.history is not None
    return await party.broker.history.read(channel, meta_ttl=7200, **request)


# What a reader leaves


async def test_a_position_that_was_only_read_lives_an_hour_and_has_one_epoch(party: Party, redis: "Redis") -> None:
    first, second = await read(party), await read(party, limit=0)
    assert first.top == second.top
    assert (first.created, second.created) == (True, False)
    assert HOUR - 5_000 < await redis.pttl(META) <= HOUR


@pytest.mark.parametrize("followed", [False, True])
async def test_only_a_reader_that_follows_the_channel_renews_the_position(
    party: Party, redis: "Redis", followed: bool
) -> None:
    await read(party)
    await redis.pexpire(META, 5_000)
    await read(party, followed=followed)
    assert (await redis.pttl(META) > 5_000) is followed
    assert party.broker.history is not None
    await party.broker.history.positions({"news:a": 7200.0})
    assert await redis.pttl(META) > 5_000


async def test_the_first_publication_gives_a_position_its_whole_life(party: Party, redis: "Redis") -> None:
    top = (await read(party)).top
    position = await party.broker.publish("news:a", Publication(Raw(b"1")), KEPT)
    assert position.epoch == top.epoch
    assert await redis.pttl(META) > HOUR
    await redis.pexpire(META, 5_000)
    await read(party)
    assert await redis.pttl(META) > HOUR


async def test_a_meta_ttl_shorter_than_an_hour_bounds_the_position_too(party: Party, redis: "Redis") -> None:
    assert party.broker.history is not None
    await party.broker.history.read("news:a", meta_ttl=60)
    assert await redis.pttl(META) <= 60_000


async def test_in_memory_a_position_that_was_only_read_ends_after_its_hour_too() -> None:
    now = 0.0
    history = MemoryHistory(lambda: now, read_ttl=3600)
    epoch = (await history.read("a", meta_ttl=7200)).top.epoch
    now = 3599.0
    assert (await history.read("a", meta_ttl=7200)).top.epoch == epoch
    now = 3601.0
    later = await history.read("a", meta_ttl=7200)
    assert later.top.epoch != epoch
    assert later.created
    now = 7000.0
    await history.read("a", meta_ttl=7200, followed=True)
    now = 10_000.0
    assert not (await history.read("a", meta_ttl=7200)).created


# A full Redis

Write = Callable[[Party], Awaitable[object]]


async def _presence(party: Party) -> object:
    assert party.broker.presence is not None
    return await party.broker.presence.add("news:gone", ClientInfo("u", "c2"))


async def _enter(party: Party) -> object:
    broker: Any = party.broker
    return await broker.presence.enter("news:gone", ClientInfo("u", "c2"), 5)


async def _occupancy(party: Party) -> object:
    assert party.broker.occupancy is not None
    return await party.broker.occupancy.change("holder", 2, enter=["b"], leave=["a"])


async def _revoke(party: Party) -> object:
    assert party.broker.revocations is not None
    return await party.broker.revocations.add([Revocation("token", "t2", time.time() + 60)])


async def _publish(party: Party, channel: str, options: PublishOptions) -> object:
    return await party.broker.publish(channel, Publication(Raw(b"1")), options)


WRITES: dict[str, Write] = {
    "read a new channel": lambda party: read(party, "news:new"),
    "read a channel whose entries outlived its position": lambda party: read(party, "news:orphan"),
    "publish in a new channel": lambda party: _publish(party, "news:new", KEPT),
    "publish over entries that outlived their position": lambda party: _publish(party, "news:orphan", KEPT),
    "publish in a known channel": lambda party: _publish(party, "news:a", KEPT),
    "publish once": lambda party: _publish(party, "news:a", PublishOptions(idempotency_key="k")),
    "presence, with clients whose time is over": _presence,
    "presence with a limit": _enter,
    "occupancy": _occupancy,
    "revoke, with revocations that are over": _revoke,
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
async def test_a_full_redis_is_not_written_to_and_says_so(party: Party, redis: "Redis", write: Write) -> None:
    # What each script would remove first, which would exempt the rest of it from the limit.
    broker: Any = party.broker
    await _publish(party, "news:a", KEPT)
    await _publish(party, "news:orphan", KEPT)
    await redis.delete("starling:meta:{news:orphan}")
    await broker.presence.add("news:gone", ClientInfo("u", "c1"))
    await redis.zadd("starling:presence-deadlines:{news:gone}", {"c1": 1})
    await broker.occupancy.change("holder", 1, enter=["a"])
    await broker.revocations.add([Revocation("token", "t1", time.time() + 60)])
    await redis.zadd("starling:{revoked}:ends", {b'["token","t1","",0.0]': 1})
    await fill(redis)
    before = {key: await redis.dump(key) for key in await redis.keys()}

    with pytest.raises(BrokerRefused, match="Redis refused: OOM "):
        await write(party)

    assert {key: await redis.dump(key) for key in await redis.keys()} == before


async def lose_replicas(redis: "Redis") -> None:
    await redis.config_set("min-replicas-to-write", "1")


@pytest.mark.parametrize("refuse", [fill, lose_replicas])
async def test_a_redis_that_refuses_writes_lets_existing_channels_be_read(
    party: Party, redis: "Redis", refuse: Callable[["Redis"], Awaitable[None]]
) -> None:
    await _publish(party, "news:a", KEPT)
    presence = party.broker.presence
    assert presence is not None
    await presence.add("news:a", ClientInfo("u", "c1"))
    await refuse(redis)
    assert await presence.get("news:a") == {"c1": ClientInfo("u", "c1")}
    assert [bytes(entry.publication.data) for entry in (await read(party)).entries] == [b"1"]
    assert party.broker.history is not None
    assert (await party.broker.history.positions({"news:a": 7200.0}))["news:a"].offset == 1


async def test_missing_replicas_are_reported_in_the_words_of_redis(party: Party, redis: "Redis") -> None:
    await redis.config_set("min-replicas-to-write", "1")
    options: list[PublishOptions] = [KEPT, PublishOptions(idempotency_key="k")]
    for each in options:
        with pytest.raises(BrokerRefused, match="NOREPLICAS Not enough good replicas"):
            await _publish(party, "news:a", each)
    outcomes: list[object] = list(
        await party.broker.publish_all([("news:a", Publication(Raw(b"1")), each) for each in options])
    )
    begun: asyncio.Queue[object] = asyncio.Queue()
    party.broker.begin_publish("news:a", Publication(Raw(b"1")), KEPT, begun.put_nowait)
    outcomes.append(await begun.get())
    for outcome in outcomes:
        assert isinstance(outcome, BrokerRefused)
        assert "NOREPLICAS Not enough good replicas" in str(outcome)


def test_many_refused_publications_make_one_line_with_their_number() -> None:
    now = 100.0
    refusals = BrokerRefusals(lambda: now)
    with structlog.testing.capture_logs() as logs:
        for number in range(50):
            refusals.report(f"news:{number}", BrokerRefused("Redis refused: OOM full"))
        now += LOG_SECONDS
        refusals.report("news:last", BrokerRefused("Redis refused: OOM full"))
    assert [(line["event"], line["channel"], line["reason"], line["refused"]) for line in logs] == [
        ("publication_refused", "news:0", "Redis refused: OOM full", 1),
        ("publication_refused", "news:last", "Redis refused: OOM full", 50),
    ]


async def test_a_full_redis_lets_a_new_process_take_tickets_that_were_there_before(
    party: Party, opener: Opener, redis: "Redis", redis_server: RedisServer
) -> None:
    first = Tickets(party.broker.tickets)
    spent, kept = [await first.issue("alice", [], b"", seconds=30, expires_at=None) for _ in range(2)]
    right = (await first.take(spent.ticket)).resume
    await fill(redis)
    later = Tickets((await opener(redis_server.url)).broker.tickets)
    assert (await later.take(right)).user == "alice"
    assert (await later.take(kept.ticket)).user == "alice"
    with pytest.raises(TokenRefused) as refused:
        await later.take(kept.ticket)
    assert refused.value.reason is RefusalReason.TICKET_SPENT


def test_each_refused_call_is_reported_once_and_calls_hide_no_publications() -> None:
    refusals = BrokerRefusals(lambda: 100.0)
    with structlog.testing.capture_logs() as logs:
        for call in ("subscribe", "history"):
            refusals.report_call(call, BrokerRefused("Redis refused: OOM full"), "news:a")
        published = BrokerRefused("Redis refused: OOM full")
        refusals.report("news:b", published)
        refusals.report_call("publish", published, "news:b")
        refusals.report_call("history", BrokerUnavailable(), "news:c")
    assert [(line["event"], line.get("call"), line["channel"]) for line in logs] == [
        ("call_refused", "subscribe", "news:a"),
        ("publication_refused", None, "news:b"),
    ]
