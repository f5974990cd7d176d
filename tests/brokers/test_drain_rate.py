"""Every store of a shared rate gives turns one after the other, whichever worker asks."""

import asyncio
import time
from itertools import pairwise

import pytest
import redis as redis_client

from starling.brokers.memory.drain_rate import MemoryDrainRate
from starling.engine.broker import BrokerUnavailable
from starling.engine.small_stores import DrainRateStore
from tests.brokers.conftest import Opener
from tests.support.services import RedisServer

# Seconds; the stores count in thousandths.
ROUNDED = 0.001


@pytest.fixture
async def stores(store_url: str, opener: Opener) -> list[DrainRateStore]:
    """The same rate as four processes see it."""
    if store_url == "memory://":
        return [MemoryDrainRate()] * 4
    brokers = [(await opener(store_url)).broker for _ in range(4)]
    return [broker.drain_rate for broker in brokers if broker.drain_rate is not None]


async def test_the_first_turn_begins_at_once(stores: list[DrainRateStore]) -> None:
    assert await stores[0].reserve(10, 100.0) == 0.0


async def test_turns_follow_each_other_without_a_gap_whichever_worker_asks(stores: list[DrainRateStore]) -> None:
    started = time.monotonic()
    waits = [await store.reserve(10, 1.0) for store in stores]
    late = time.monotonic() - started + ROUNDED
    for place, wait in enumerate(waits):
        assert 10.0 * place - late <= wait <= 10.0 * place


async def test_questions_at_the_same_time_get_turns_of_their_own(stores: list[DrainRateStore]) -> None:
    started = time.monotonic()
    waits = sorted(await asyncio.gather(*(store.reserve(10, 2.0) for store in stores for _ in range(25))))
    late = time.monotonic() - started

    assert len(waits) == 100
    for before, after in pairwise(waits):
        assert 5.0 - late <= after - before <= 5.0 + late


async def test_turns_may_be_of_different_lengths(stores: list[DrainRateStore]) -> None:
    started = time.monotonic()
    await stores[0].reserve(30, 2.0)
    second, third = await stores[1].reserve(5, 0.5), await stores[2].reserve(1, 100_000.0)
    late = time.monotonic() - started + ROUNDED
    assert 15.0 - late <= second <= 15.0
    assert 25.0 - late <= third <= 25.0


async def test_time_without_a_question_saves_nothing_up(stores: list[DrainRateStore]) -> None:
    await stores[0].reserve(10, 1000.0)
    await asyncio.sleep(0.1)
    started = time.monotonic()
    assert await stores[1].reserve(10, 1.0) == 0.0
    third = await stores[2].reserve(10, 1.0)
    assert third >= 10.0 - ROUNDED - (time.monotonic() - started)


async def test_only_one_prefix_shares(opener: Opener, redis_server: RedisServer) -> None:
    ours = (await opener(redis_server.url, prefix="ours")).broker.drain_rate
    theirs = (await opener(redis_server.url, prefix="theirs")).broker.drain_rate
    assert ours is not None
    assert theirs is not None
    await ours.reserve(10, 1.0)
    assert await theirs.reserve(10, 1.0) == 0.0


async def test_redis_keeps_one_key_and_only_while_turns_are_taken(opener: Opener, redis_server: RedisServer) -> None:
    drain_rate = (await opener(redis_server.url)).broker.drain_rate
    assert drain_rate is not None
    with redis_client.Redis.from_url(redis_server.url) as plain:
        await drain_rate.reserve(10, 1.0)
        assert plain.keys("*drain*") == [b"starling:{drain}:next_turn"]
        assert 9000 < plain.pttl("starling:{drain}:next_turn") <= 10_001
        plain.delete("starling:{drain}:next_turn")
        await drain_rate.reserve(10, 1000.0)
        await asyncio.sleep(0.1)
        assert plain.keys("*drain*") == []


async def test_a_redis_that_is_away_is_reported_in_bounded_time(opener: Opener, redis_server: RedisServer) -> None:
    drain_rate = (await opener(redis_server.url, timeout=0.3)).broker.drain_rate
    assert drain_rate is not None
    redis_server.freeze()
    with pytest.raises(BrokerUnavailable):
        await drain_rate.reserve(10, 100.0)


async def test_postgresql_shares_no_rate(opener: Opener, postgres_server: RedisServer) -> None:
    assert (await opener(postgres_server.url)).broker.drain_rate is None
