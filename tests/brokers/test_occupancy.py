"""What every occupancy store promises, and this process's part in it over a store that fails."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import pytest
import redis.asyncio

from starling.brokers.memory.occupancy import MemoryOccupancy
from starling.brokers.open import open_broker
from starling.engine.broker import BrokerUnavailable
from starling.engine.occupancy import OccupancyChange, OccupancyStore, OccupiedChannels
from tests.brokers.party import Party
from tests.support.redis_cluster import RedisCluster
from tests.support.services import RedisServer
from tests.support.waiting import DEADLINE, until

TTL = 60.0
MAKE_OLDER = (
    "for _, h in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do redis.call('ZINCRBY', KEYS[1], -ARGV[1], h) end"
)


class Place(Protocol):
    """A store, and a way to let time pass for what it holds."""

    store: OccupancyStore

    async def make_older(self, seconds: float) -> None: ...


class MemoryPlace:
    """Moves the clock on."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.store: OccupancyStore = MemoryOccupancy(TTL, lambda: self.now)

    async def make_older(self, seconds: float) -> None:
        self.now += seconds


class RedisPlace:
    """Moves the deadlines back, because the clock that counts is the server's."""

    def __init__(self, store: OccupancyStore, client: "redis.asyncio.Redis") -> None:
        self.store = store
        self.client = client

    async def make_older(self, seconds: float) -> None:
        await self.client.eval(MAKE_OLDER, 1, "starling:{occupancy}:leases", round(seconds * 1000))


@pytest.fixture
async def redis_place(redis_server: RedisServer) -> AsyncIterator[RedisPlace]:
    """The store of a started broker over a Redis of this test's own."""
    party = Party(open_broker(redis_server.limited_url, timeout=DEADLINE, presence_ttl=TTL))
    await party.broker.start(party)
    await until(lambda: party.up, "the link comes up")
    client = redis.asyncio.Redis.from_url(redis_server.url)
    assert party.broker.occupancy is not None
    yield RedisPlace(party.broker.occupancy, client)
    await client.aclose()
    await party.broker.stop()


@pytest.fixture
async def cluster_place(redis_cluster: RedisCluster) -> AsyncIterator[RedisPlace]:
    """The store of a started broker over a cluster."""
    party = Party(open_broker(redis_cluster.url, timeout=DEADLINE, presence_ttl=TTL))
    await party.broker.start(party)
    await until(lambda: party.up, "the links come up")
    client = redis.asyncio.Redis(port=redis_cluster.owner("starling:{occupancy}:leases").port)
    assert party.broker.occupancy is not None
    yield RedisPlace(party.broker.occupancy, client)
    await client.aclose()
    await party.broker.stop()


@pytest.fixture(params=["memory", *(pytest.param(name, marks=pytest.mark.processes) for name in ("redis", "cluster"))])
def place(request: pytest.FixtureRequest) -> Place:
    """A store of each kind."""
    made: Place = MemoryPlace() if request.param == "memory" else request.getfixturevalue(f"{request.param}_place")
    return made


class Holder:
    """Calls the store as one process does, and counts its calls."""

    def __init__(self, place: Place, name: str) -> None:
        self.store = place.store
        self.name = name
        self.number = 0

    async def call(self, *, enter: Sequence[str] = (), leave: Sequence[str] = ()) -> OccupancyChange:
        self.number += 1
        change = await self.repeat(enter=enter, leave=leave)
        assert change is not None, "the store lost the holder"
        return change

    async def repeat(self, *, enter: Sequence[str] = (), leave: Sequence[str] = ()) -> OccupancyChange | None:
        return await self.store.change(self.name, self.number, enter=enter, leave=leave)


async def test_the_first_holder_occupies_and_the_last_vacates(place: Place) -> None:
    one, other = Holder(place, "one"), Holder(place, "other")

    assert (await one.call(enter=["news:ü", "b"])).occupied == ["news:ü", "b"]
    assert (await other.call(enter=["news:ü"])).occupied == []
    assert (await one.call(leave=["news:ü", "b"])).vacated == ["b"]
    assert (await other.call(leave=["news:ü"])).vacated == ["news:ü"]
    assert (await one.call(enter=["b"])).occupied == ["b"]


async def test_a_call_made_again_counts_once_and_answers_the_same(place: Place) -> None:
    one = Holder(place, "one")

    first = await one.call(enter=["a", "b"])
    assert await one.repeat(enter=["a", "b"]) == first
    last = await one.call(leave=["a"])
    assert await one.repeat(leave=["a"]) == last
    assert last.vacated == ["a"]
    assert (await one.call(leave=["b"])).vacated == ["b"]


async def test_what_a_holder_enters_or_leaves_twice_counts_once(place: Place) -> None:
    one = Holder(place, "one")

    assert [(await one.call(enter=["a"])).occupied for _ in range(2)] == [["a"], []]
    assert [(await one.call(leave=["a"])).vacated for _ in range(2)] == [["a"], []]


async def test_revisions_grow_over_all_holders(place: Place) -> None:
    one, other = Holder(place, "one"), Holder(place, "other")

    changes = [await holder.call(enter=["a"]) for holder in (one, other)]
    changes += [await holder.call(leave=["a"]) for holder in (one, other)]
    revisions = [change.revision for change in changes]
    assert revisions == sorted(set(revisions))


async def test_what_a_silent_holder_held_is_vacated_once_by_the_next_caller(place: Place) -> None:
    crashed, one, other = (Holder(place, name) for name in ("crashed", "one", "other"))
    await crashed.call(enter=["a", "shared"])
    await place.make_older(TTL * 0.6)
    await one.call(enter=["shared"])
    assert (await other.call()).vacated == []

    await place.make_older(TTL * 0.2)
    assert (await one.call()).vacated == ["a"]
    assert (await other.call()).vacated == []
    assert (await one.call(leave=["shared"])).vacated == ["shared"]


async def test_a_holder_that_was_silent_too_long_learns_that_it_is_lost(place: Place) -> None:
    one, other = Holder(place, "one"), Holder(place, "other")
    await one.call(enter=["a"])
    await place.make_older(TTL)
    one.number += 1
    assert await one.repeat() is None
    assert (await other.call()).vacated == ["a"]
    assert await one.repeat() is None


async def test_a_holder_whose_last_calls_the_store_lost_is_reported(place: Place) -> None:
    one = Holder(place, "one")
    await one.call(enter=["a"])
    one.number = 7
    assert await one.repeat() is None


async def test_a_channel_taken_over_from_a_lost_holder_is_not_reported_as_vacated(place: Place) -> None:
    before, after = Holder(place, "before"), Holder(place, "after")
    await before.call(enter=["a"])
    await place.make_older(TTL)

    change = await after.call(enter=["a"])
    assert (change.occupied, change.vacated) == ([], [])
    assert (await after.call(leave=["a"])).vacated == ["a"]


async def test_a_great_holder_is_given_up_in_portions(redis_place: RedisPlace) -> None:
    crashed, one = Holder(redis_place, "crashed"), Holder(redis_place, "one")
    channels = {f"c{number}" for number in range(2500)}
    names = sorted(channels)
    for start in range(0, len(names), 500):
        await crashed.call(enter=names[start : start + 500])
    await redis_place.make_older(TTL)

    vacated: list[str] = []
    while (change := await one.call()).more:
        assert len(change.vacated) <= 1000
        vacated += change.vacated
    assert sorted(vacated) == names
    assert await redis_place.client.hlen("starling:{occupancy}:holders") == 0


async def test_a_store_that_forgot_everything_is_filled_again(redis_place: RedisPlace) -> None:
    reported: list[tuple[str, str]] = []
    here = OccupiedChannels(
        redis_place.store,
        on_occupied=lambda channel, *_: reported.append(("occupied", channel)),
        on_vacated=lambda channel, *_: reported.append(("vacated", channel)),
    )
    running = asyncio.create_task(here.run())
    here.enter("a")
    await until(lambda: reported == [("occupied", "a")], "a is reported")

    await redis_place.client.flushall()
    here.enter("b")
    await until(lambda: len(reported) == 3, "both are reported")
    assert sorted(reported[1:]) == [("occupied", "a"), ("occupied", "b")]
    running.cancel()
    await here.close()
    assert sorted(reported[3:]) == [("vacated", "a"), ("vacated", "b")]


class Unreliable:
    """A memory store that does its work and then fails to answer, as a link that breaks does; a real one cannot be cut
    at that moment on purpose."""

    def __init__(self) -> None:
        self.ttl = TTL
        self.inner = MemoryOccupancy(TTL)
        self.silent = 0

    async def change(
        self, holder: str, number: int, *, enter: Sequence[str] = (), leave: Sequence[str] = ()
    ) -> OccupancyChange | None:
        change = await self.inner.change(holder, number, enter=enter, leave=leave)
        if self.silent:
            self.silent -= 1
            raise BrokerUnavailable("the answer was lost")
        return change


async def test_an_answer_that_was_lost_loses_and_doubles_nothing() -> None:
    store = Unreliable()
    reported: list[str] = []
    here = OccupiedChannels(
        store,
        on_occupied=lambda channel, *_: reported.append(f"+{channel}"),
        on_vacated=lambda channel, *_: reported.append(f"-{channel}"),
    )
    running = asyncio.create_task(here.run())
    store.silent = 1
    here.enter("a")
    await until(lambda: reported == ["+a"], "a is reported after all")
    store.silent = 1
    here.leave("a")
    here.enter("b")
    await until(lambda: len(reported) == 3, "the change is reported after all")
    assert sorted(reported[1:]) == ["+b", "-a"]
    running.cancel()
    await here.close()
    assert reported[3:] == ["-b"]


async def test_only_the_first_and_the_last_client_here_matter() -> None:
    reported: list[str] = []
    here = OccupiedChannels(
        MemoryOccupancy(TTL),
        on_occupied=lambda channel, *_: reported.append(f"+{channel}"),
        on_vacated=lambda channel, *_: reported.append(f"-{channel}"),
    )
    running = asyncio.create_task(here.run())
    here.enter("a")
    here.enter("a")
    await until(lambda: reported, "a is reported")
    here.leave("a")
    here.enter("b")
    await until(lambda: reported == ["+a", "+b"], "b is reported, and a is not vacated")
    here.leave("a")
    await until(lambda: reported == ["+a", "+b", "-a"], "a is vacated")
    running.cancel()
    await here.close()


async def test_by_revision_every_channel_is_occupied_and_vacated_in_turn(place: Place) -> None:
    rng = random.Random(20)
    names = [f"c{number}" for number in range(6)]
    holders = [Holder(place, f"h{number}") for number in range(4)]
    held: dict[str, set[str]] = {holder.name: set() for holder in holders}
    reported: list[tuple[int, str, str]] = []

    def note(change: OccupancyChange) -> None:
        reported.extend((change.revision, "occupied", channel) for channel in change.occupied)
        reported.extend((change.revision, "vacated", channel) for channel in change.vacated)

    for step in range(400):
        holder = rng.choice(holders)
        mine = held[holder.name]
        if rng.random() < 0.05:
            # It crashes, and another comes in its place.
            holders[holders.index(holder)] = successor = Holder(place, f"h{step}-again")
            held[successor.name] = set()
            continue
        enter = [name for name in names if name not in mine and rng.random() < 0.3]
        leave = [name for name in names if name in mine and rng.random() < 0.4]
        note(await holder.call(enter=enter, leave=leave))
        mine.update(enter)
        mine.difference_update(leave)

    # What crashed goes when its time is over; those that live call once in between.
    await place.make_older(TTL * 0.5)
    for holder in holders:
        note(await holder.call())
    await place.make_older(TTL * 0.3)
    for _ in range(60):
        note(await holders[0].call())

    occupied = set().union(*(held[holder.name] for holder in holders))
    for name in names:
        kinds = [kind for _, kind, channel in sorted(reported) if channel == name]
        assert kinds == [("occupied", "vacated")[turn % 2] for turn in range(len(kinds))]
        assert (kinds[-1:] == ["occupied"]) == (name in occupied)


async def test_a_change_names_who_caused_it_last_here() -> None:
    reported: list[tuple[str, str, str]] = []
    here = OccupiedChannels(
        MemoryOccupancy(TTL),
        on_occupied=lambda channel, _, cause: reported.append(("+", channel, cause)),
        on_vacated=lambda channel, _, cause: reported.append(("-", channel, cause)),
    )
    running = asyncio.create_task(here.run())
    here.enter("a", "first")
    here.enter("a", "second")
    here.enter("b")
    await until(lambda: len(reported) == 2, "both are reported")
    here.leave("a", "first")
    here.leave("a", "second")
    await until(lambda: len(reported) == 3, "it is empty")
    assert sorted(reported) == [("+", "a", "first"), ("+", "b", ""), ("-", "a", "second")]
    running.cancel()
    await asyncio.wait((running,))
    await here.close()
    assert reported[3:] == [("-", "b", "")]
