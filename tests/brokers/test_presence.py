"""What every presence store promises, and what is particular to Redis."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Protocol

import msgspec
import pytest
import redis.asyncio
import structlog
from msgspec import Raw

from starling.brokers.memory.presence import MemoryPresence
from starling.brokers.open import open_broker
from starling.engine.broker import BrokerUnavailable
from starling.engine.presence import PresenceCounts, PresenceStore, TooManyPresent
from starling.protocol.codec_json import JsonCodec
from starling.protocol.messages import ClientInfo, PresenceResult, Reply
from tests.brokers.party import Party
from tests.support.redis_cluster import RedisCluster
from tests.support.services import RedisServer
from tests.support.waiting import DEADLINE, until

TTL = 60.0
CHANNEL = "news:ü"
Opener = Callable[..., Awaitable[PresenceStore]]

MAKE_OLDER = """
local deadlines = redis.call('KEYS', '*presence-deadlines*')
for _, key in ipairs(deadlines) do
  for _, client in ipairs(redis.call('ZRANGE', key, 0, -1)) do
    redis.call('ZINCRBY', key, -ARGV[1], client)
  end
end
"""


def someone(client: str, user: str = "", conn_info: bytes = b"", chan_info: bytes = b"") -> ClientInfo:
    return ClientInfo(user, client, Raw(conn_info), Raw(chan_info))


class Clock:
    """Time that the test moves on."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Place(Protocol):
    """A store, and a way to let time pass for what it holds."""

    presence: PresenceStore

    async def make_older(self, seconds: float) -> None: ...


class MemoryPlace:
    """Moves the clock on."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.presence: PresenceStore = MemoryPresence(TTL, self.clock)

    async def make_older(self, seconds: float) -> None:
        self.clock.now += seconds


class RedisPlace:
    """Moves the deadlines back, because the clock that counts is the server's."""

    def __init__(self, presence: PresenceStore, client: "redis.asyncio.Redis") -> None:
        self.presence = presence
        self.client = client

    async def make_older(self, seconds: float) -> None:
        await self.client.eval(MAKE_OLDER, 0, round(seconds * 1000))


@pytest.fixture
async def open_presence(redis_server: RedisServer) -> AsyncIterator[Opener]:
    """`await open_presence()` makes a store of this test's Redis, as another process would have."""
    async with AsyncExitStack() as stack:

        async def opened(*, ttl: float = TTL, timeout: float = DEADLINE, prefix: str = "starling") -> PresenceStore:
            party = Party(
                open_broker(
                    redis_server.limited_url if prefix == "starling" else redis_server.url,
                    timeout=timeout,
                    prefix=prefix,
                    presence_ttl=ttl,
                )
            )
            await party.broker.start(party)
            stack.push_async_callback(party.broker.stop)
            await until(lambda: party.up, "the link comes up")
            assert party.broker.presence is not None
            return party.broker.presence

        yield opened


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator["redis.asyncio.Redis"]:
    async with redis.asyncio.from_url(redis_server.url) as client:
        yield client


@pytest.fixture
async def redis_place(open_presence: Opener, client: "redis.asyncio.Redis") -> RedisPlace:
    return RedisPlace(await open_presence(), client)


class ClusterPlace:
    """Moves the deadlines back on every node."""

    def __init__(self, presence: PresenceStore, cluster: RedisCluster) -> None:
        self.presence = presence
        self.cluster = cluster

    async def make_older(self, seconds: float) -> None:
        for node in self.cluster.masters():
            with node.client() as client:
                for key in client.keys("*presence-deadlines*"):
                    for name in client.zrange(key, 0, -1):
                        client.zincrby(key, -round(seconds * 1000), name)


@pytest.fixture
async def cluster_place(redis_cluster: RedisCluster) -> AsyncIterator[ClusterPlace]:
    party = Party(open_broker(redis_cluster.url, timeout=DEADLINE, presence_ttl=TTL))
    await party.broker.start(party)
    await until(lambda: party.up, "the links come up")
    assert party.broker.presence is not None
    yield ClusterPlace(party.broker.presence, redis_cluster)
    await party.broker.stop()


@pytest.fixture(params=["memory", *(pytest.param(name, marks=pytest.mark.processes) for name in ("redis", "cluster"))])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "memory":
        return MemoryPlace()
    made: Place = request.getfixturevalue(f"{request.param}_place")
    return made


@pytest.fixture
def presence(place: Place) -> PresenceStore:
    return place.presence


async def calls(client: "redis.asyncio.Redis", command: str) -> int:
    """How often Redis ran a command since CONFIG RESETSTAT."""
    stats = await client.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {}).get("calls", 0))


# Coming and going


async def test_a_client_is_there_from_its_adding_to_its_removal(presence: PresenceStore) -> None:
    ann = someone("c1", "ann", b'{"name":"Ann"}', b"[1]")
    await presence.add(CHANNEL, ann)
    assert await presence.get(CHANNEL) == {"c1": ann}
    assert await presence.stats(CHANNEL) == PresenceCounts(1, 1)
    await presence.remove({CHANNEL: [ann]})
    assert await presence.get(CHANNEL) == {}
    assert await presence.stats(CHANNEL) == PresenceCounts(0, 0)


async def test_users_are_counted_once_however_many_clients_they_have(presence: PresenceStore) -> None:
    for info in (someone("c1", "ann"), someone("c2", "ann"), someone("c3", "bob"), someone("c4"), someone("c5")):
        await presence.add(CHANNEL, info)
    assert await presence.stats(CHANNEL) == PresenceCounts(5, 3)
    assert set(await presence.get(CHANNEL)) == {"c1", "c2", "c3", "c4", "c5"}


async def test_more_than_is_wanted_in_number_or_bytes_is_refused_instead_of_given_in_part(
    presence: PresenceStore,
) -> None:
    for number in range(3):
        await presence.add(CHANNEL, someone(f"c{number}", "ann", b'"%s"' % (b"x" * 1000)))
    for most, max_bytes in ((2, None), (None, 2000), (2, 100_000), (3, 2000)):
        with pytest.raises(TooManyPresent):
            await presence.get(CHANNEL, most, max_bytes)
    assert set(await presence.get(CHANNEL, 3, 100_000)) == {"c0", "c1", "c2"}


async def test_where_a_limited_number_may_enter_the_last_place_is_given_and_none_beyond_it(
    presence: PresenceStore,
) -> None:
    entered = [await presence.enter(CHANNEL, someone(f"c{number}", "ann"), 3) for number in range(5)]
    assert entered == [True, True, True, False, False]
    assert set(await presence.get(CHANNEL)) == {"c0", "c1", "c2"}
    # Who is inside may say so again, and who leaves makes room.
    assert await presence.enter(CHANNEL, someone("c1", "ann"), 3) is True
    await presence.remove({CHANNEL: [someone("c1", "ann")]})
    assert await presence.enter(CHANNEL, someone("c3", "ann"), 3) is True
    assert await presence.enter(CHANNEL, someone("c4", "ann"), 3) is False
    assert await presence.stats(CHANNEL) == PresenceCounts(3, 1)


async def test_of_many_who_enter_at_once_exactly_as_many_get_in_as_may(presence: PresenceStore) -> None:
    crowd = [presence.enter(CHANNEL, someone(f"c{number}", "ann"), 10) for number in range(50)]
    assert sum(await asyncio.gather(*crowd)) == 10
    assert await presence.stats(CHANNEL) == PresenceCounts(10, 1)


async def test_who_crashed_takes_no_place_after_the_ttl(place: Place) -> None:
    assert await place.presence.enter(CHANNEL, someone("c1", "ann"), 1) is True
    await place.make_older(TTL - 1)
    assert await place.presence.enter(CHANNEL, someone("c2", "ann"), 1) is False
    await place.make_older(2)
    assert await place.presence.enter(CHANNEL, someone("c2", "ann"), 1) is True


async def test_adding_reports_whether_the_user_is_new(presence: PresenceStore) -> None:
    assert await presence.add(CHANNEL, someone("c1", "ann")) is True
    assert await presence.add(CHANNEL, someone("c1", "ann")) is False
    assert await presence.add(CHANNEL, someone("c2", "ann")) is False
    assert await presence.add(CHANNEL, someone("c3", "bob")) is True
    assert await presence.add("elsewhere", someone("c1", "ann")) is True


async def test_removing_reports_which_users_are_gone(presence: PresenceStore) -> None:
    for info in (someone("c1", "ann"), someone("c2", "ann"), someone("c3", "bob")):
        await presence.add(CHANNEL, info)
    await presence.add("other", someone("c2", "ann"))
    assert await presence.remove({CHANNEL: [someone("c1", "ann"), someone("c3", "bob")]}) == {CHANNEL: {"bob"}}
    assert await presence.remove({CHANNEL: [someone("c2", "ann")], "other": []}) == {CHANNEL: {"ann"}, "other": set()}
    assert await presence.stats("other") == PresenceCounts(1, 1)


async def test_a_user_whose_last_clients_go_together_is_gone(presence: PresenceStore) -> None:
    clients = [someone(f"c{number}", "ann") for number in range(1200)]
    await presence.refresh({CHANNEL: clients})
    assert await presence.remove({CHANNEL: clients}) == {CHANNEL: {"ann"}}
    assert await presence.stats(CHANNEL) == PresenceCounts(0, 0)


async def test_removing_again_gives_the_same_answer_and_harms_nothing(presence: PresenceStore) -> None:
    await presence.add(CHANNEL, someone("c1", "ann"))
    await presence.add(CHANNEL, someone("c2", "bob"))
    for _ in range(3):
        assert await presence.remove({CHANNEL: [someone("c1", "ann")]}) == {CHANNEL: {"ann"}}
    assert await presence.remove({CHANNEL: [someone("c9", "bob")]}) == {CHANNEL: set()}
    assert await presence.remove({"nowhere": [someone("c1", "ann")]}) == {"nowhere": {"ann"}}
    assert await presence.remove({}) == {}
    assert await presence.stats(CHANNEL) == PresenceCounts(1, 1)


async def test_a_client_added_again_is_shown_as_it_is_now(presence: PresenceStore) -> None:
    await presence.add(CHANNEL, someone("c1", "ann", b"1"))
    assert await presence.add(CHANNEL, someone("c1", "ann", b"2")) is False
    assert await presence.get(CHANNEL) == {"c1": someone("c1", "ann", b"2")}
    assert await presence.stats(CHANNEL) == PresenceCounts(1, 1)
    assert await presence.add(CHANNEL, someone("c1", "bob")) is True
    assert await presence.get(CHANNEL) == {"c1": someone("c1", "bob")}
    assert await presence.stats(CHANNEL) == PresenceCounts(1, 1)
    assert await presence.remove({CHANNEL: [someone("c1", "bob")]}) == {CHANNEL: {"bob"}}
    assert await presence.stats(CHANNEL) == PresenceCounts(0, 0)


async def test_nobody_is_where_nobody_came(presence: PresenceStore) -> None:
    assert await presence.get("nowhere") == {}
    assert await presence.stats("nowhere") == PresenceCounts(0, 0)
    await presence.refresh({})
    await presence.refresh({"nowhere": []})
    assert await presence.get("nowhere") == {}


# Names and contents


@pytest.mark.parametrize(
    "info",
    [
        pytest.param(someone("c", "u", bytes(range(256)), bytes(reversed(range(256)))), id="every byte"),
        pytest.param(someone("c", "u", b"\n", b"3 2\n"), id="what entries begin with"),
        pytest.param(someone("c", "3 2\nann", b"{}"), id="a user like the beginning of an entry"),
        pytest.param(someone("c", "", b"", b"{}"), id="only a chan_info"),
        pytest.param(someone("c", "ü\x00☃\U0001f600", b'"\xc3\xbc"'), id="a user beyond ASCII"),
        pytest.param(someone("-inf (0 \x00☃", "%s {} *", b"{}"), id="a client of signs"),
        pytest.param(someone("c", "u" * 10_000, b"x" * 200_000, b"y" * 200_000), id="great ones"),
    ],
)
async def test_what_is_known_of_a_client_returns_exactly(presence: PresenceStore, info: ClientInfo) -> None:
    await presence.add(CHANNEL, someone("other", "other"))
    await presence.add(CHANNEL, info)
    await presence.refresh({CHANNEL: [info]})
    found = (await presence.get(CHANNEL))[info.client]
    assert (found.user, found.client) == (info.user, info.client)
    assert bytes(found.conn_info) == bytes(info.conn_info)
    assert bytes(found.chan_info) == bytes(info.chan_info)
    assert await presence.stats(CHANNEL) == PresenceCounts(2, 2)
    assert await presence.remove({CHANNEL: [info]}) == {CHANNEL: {info.user}}
    assert await presence.stats(CHANNEL) == PresenceCounts(1, 1)


async def test_channels_of_hostile_names_stay_apart(presence: PresenceStore) -> None:
    names = ["a", "a:b", ":", "*", "a*", "[a]", "presence", "-deadlines", "a\r\nSET x y", "☃", " ", "$a#b,c", "x" * 255]
    for number, name in enumerate(names):
        await presence.add(name, someone(f"c{number}", f"u{number}"))
    for number, name in enumerate(names):
        assert await presence.get(name) == {f"c{number}": someone(f"c{number}", f"u{number}")}


# Time


async def test_who_is_not_refreshed_goes_when_the_time_is_over(place: Place) -> None:
    presence = place.presence
    await presence.add(CHANNEL, someone("c1", "ann"))
    await presence.add(CHANNEL, someone("c2", "ann"))
    await place.make_older(TTL - 1)
    assert await presence.stats(CHANNEL) == PresenceCounts(2, 1)
    await place.make_older(2)
    assert await presence.stats(CHANNEL) == PresenceCounts(0, 0)
    assert await presence.get(CHANNEL) == {}
    assert await presence.add(CHANNEL, someone("c3", "ann")) is True


@pytest.mark.parametrize("first", ["get", "stats", "add", "refresh", "remove"])
async def test_whatever_is_asked_first_does_not_count_who_is_over(place: Place, first: str) -> None:
    presence = place.presence
    await presence.add(CHANNEL, someone("old1", "ann"))
    await presence.add(CHANNEL, someone("old2", "bob"))
    await place.make_older(TTL + 1)
    new = someone("new", "ann")
    if first == "get":
        assert await presence.get(CHANNEL) == {}
    elif first == "stats":
        assert await presence.stats(CHANNEL) == PresenceCounts(0, 0)
    elif first == "add":
        assert await presence.add(CHANNEL, new) is True
    elif first == "refresh":
        await presence.refresh({CHANNEL: [new]})
    else:
        assert await presence.remove({CHANNEL: [new]}) == {CHANNEL: {"ann"}}
    await presence.add(CHANNEL, new)
    assert await presence.get(CHANNEL) == {"new": new}
    assert await presence.stats(CHANNEL) == PresenceCounts(1, 1)


async def test_a_refresh_keeps_alive_those_it_names_and_no_other(place: Place) -> None:
    presence = place.presence
    kept, left = someone("c1", "ann", b"1"), someone("c2", "ann", b"2")
    await presence.add(CHANNEL, kept)
    await presence.add(CHANNEL, left)
    for _ in range(3):
        await place.make_older(TTL * 0.75)
        await presence.refresh({CHANNEL: [kept]})
    assert await presence.get(CHANNEL) == {"c1": kept}
    assert await presence.stats(CHANNEL) == PresenceCounts(1, 1)


async def test_a_refresh_makes_again_who_is_gone(place: Place) -> None:
    presence = place.presence
    both = [someone("c1", "ann", b"1"), someone("c2", "bob", b"2")]
    await presence.add(CHANNEL, both[0])
    await place.make_older(TTL + 1)
    assert await presence.get(CHANNEL) == {}
    await presence.refresh({CHANNEL: both})
    assert await presence.get(CHANNEL) == {"c1": both[0], "c2": both[1]}
    assert await presence.stats(CHANNEL) == PresenceCounts(2, 2)


async def test_many_who_are_over_go_all_at_once(place: Place) -> None:
    presence = place.presence
    await presence.refresh({CHANNEL: [someone(f"c{number}", f"u{number % 700}") for number in range(2500)]})
    assert await presence.stats(CHANNEL) == PresenceCounts(2500, 700)
    await place.make_older(TTL / 2)
    await presence.add(CHANNEL, someone("late", "u3"))
    await place.make_older(TTL / 2 + 1)
    assert await presence.stats(CHANNEL) == PresenceCounts(1, 1)


async def test_in_memory_who_is_over_takes_no_memory_though_nobody_asks() -> None:
    clock = Clock()
    presence = MemoryPresence(TTL, clock)
    await presence.refresh({f"room:{number}": [someone("c", "u")] for number in range(100)})
    clock.now += TTL + 1
    await presence.add("another", someone("c", "u"))
    assert set(presence._channels) == {"another"}
    assert set(presence._deadlines) == {("another", "c")}


# Opening


def test_a_broker_has_the_presence_its_server_can_keep() -> None:
    for url in ("memory://", "redis://127.0.0.1:1"):
        presence = open_broker(url, presence_ttl=12.5).presence
        assert presence is not None
        assert presence.ttl == 12.5
    assert open_broker("postgresql://u:p@127.0.0.1:1/d").presence is None
    with pytest.raises(ValueError, match="presence_ttl_seconds: it is a number of seconds above 0"):
        open_broker("memory://", presence_ttl=0)


# Redis


async def test_two_stores_on_one_redis_see_each_other(open_presence: Opener) -> None:
    here, there = await open_presence(), await open_presence()
    assert await here.add(CHANNEL, someone("c1", "ann")) is True
    assert await there.add(CHANNEL, someone("c2", "ann")) is False
    assert set(await here.get(CHANNEL)) == set(await there.get(CHANNEL)) == {"c1", "c2"}
    assert await here.remove({CHANNEL: [someone("c1", "ann")]}) == {CHANNEL: set()}
    assert await there.stats(CHANNEL) == PresenceCounts(1, 1)
    assert await there.remove({CHANNEL: [someone("c2", "ann")]}) == {CHANNEL: {"ann"}}


async def test_prefixes_keep_services_apart(open_presence: Opener) -> None:
    here, there = await open_presence(prefix="one"), await open_presence(prefix="two")
    await here.add(CHANNEL, someone("c1", "ann"))
    assert await there.get(CHANNEL) == {}


async def test_all_keys_of_a_channel_share_a_slot_and_go_with_the_last_client(
    open_presence: Opener, client: "redis.asyncio.Redis"
) -> None:
    presence = await open_presence(prefix="acme")
    await presence.add("room", someone("c1", "ann"))
    assert sorted(await client.keys("*")) == [
        b"acme:presence-deadlines:{room}",
        b"acme:presence-users:{room}",
        b"acme:presence:{room}",
    ]
    await presence.remove({"room": [someone("c1", "ann")]})
    assert await client.keys("*") == []


async def test_by_the_servers_own_clock_everything_goes_though_nobody_asks(
    open_presence: Opener, client: "redis.asyncio.Redis"
) -> None:
    presence = await open_presence(ttl=0.3)
    await presence.add(CHANNEL, someone("c1", "ann"))
    await presence.refresh({"other": [someone("c1", "ann"), someone("c2", "bob")]})
    end = asyncio.get_running_loop().time() + 20
    while await client.dbsize():
        assert asyncio.get_running_loop().time() < end, "the keys stay"
        await asyncio.sleep(0.05)
    assert await presence.stats("other") == PresenceCounts(0, 0)


async def test_by_the_servers_own_clock_who_is_over_goes_from_among_the_others(open_presence: Opener) -> None:
    brief, lasting = await open_presence(ttl=0.3), await open_presence()
    await lasting.add(CHANNEL, someone("c1", "ann"))
    await brief.add(CHANNEL, someone("c2", "bob"))
    end = asyncio.get_running_loop().time() + 20
    while await lasting.stats(CHANNEL) != PresenceCounts(1, 1):
        assert asyncio.get_running_loop().time() < end, "the brief one stays"
        await asyncio.sleep(0.05)
    assert set(await lasting.get(CHANNEL)) == {"c1"}


async def test_a_shorter_ttl_elsewhere_does_not_shorten_the_life_of_the_keys(
    open_presence: Opener, client: "redis.asyncio.Redis"
) -> None:
    lasting, brief = await open_presence(ttl=1000), await open_presence(ttl=10)
    await lasting.add("room", someone("c1", "ann"))
    await brief.add("room", someone("c2", "bob"))
    lives = [await client.pttl(key) for key in await client.keys("*")]
    assert len(lives) == 3
    assert all(900_000 < life <= 1_000_000 for life in lives)


async def test_after_everything_was_flushed_each_call_works_at_once(
    open_presence: Opener, client: "redis.asyncio.Redis"
) -> None:
    presence = await open_presence()
    ann, bob = someone("c1", "ann", b"1"), someone("c2", "bob", b"2")

    async def flush() -> None:
        await client.flushall()
        await client.script_flush()

    await presence.add(CHANNEL, ann)
    await flush()
    await presence.refresh({CHANNEL: [ann, bob]})
    assert await presence.get(CHANNEL) == {"c1": ann, "c2": bob}
    await client.script_flush()
    assert await presence.stats(CHANNEL) == PresenceCounts(2, 2)
    await client.script_flush()
    assert await presence.remove({CHANNEL: [ann]}) == {CHANNEL: {"ann"}}
    await client.script_flush()
    assert await presence.add(CHANNEL, someone("c3", "bob")) is False


async def test_scripts_are_sent_once_and_then_named(open_presence: Opener, client: "redis.asyncio.Redis") -> None:
    presence = await open_presence()
    await presence.add(CHANNEL, someone("c0"))
    await client.config_resetstat()
    for number in range(10):
        await presence.add(CHANNEL, someone(f"c{number}"))
    assert await calls(client, "eval") == 0
    assert await calls(client, "evalsha") == 10


async def test_ten_thousand_in_one_channel_are_refreshed_in_few_calls(
    open_presence: Opener, client: "redis.asyncio.Redis"
) -> None:
    presence = await open_presence()
    clients = [someone(f"client-{number:05}", f"user-{number % 4000}", b'{"n":1}') for number in range(10_000)]
    await presence.refresh({CHANNEL: clients})
    await client.config_resetstat()
    await presence.refresh({CHANNEL: clients})
    assert await calls(client, "evalsha") <= 40
    assert await presence.stats(CHANNEL) == PresenceCounts(10_000, 4000)
    assert await presence.get(CHANNEL) == {info.client: info for info in clients}
    gone = await presence.remove({CHANNEL: clients[:8000]})
    assert gone == {CHANNEL: {f"user-{number}" for number in range(2000, 4000)}}
    assert await presence.stats(CHANNEL) == PresenceCounts(2000, 2000)


async def test_ten_thousand_channels_are_refreshed_with_one_call_each(
    open_presence: Opener, client: "redis.asyncio.Redis"
) -> None:
    presence = await open_presence()
    entries = {f"personal:{number}": [someone(f"c{number}", f"u{number}")] for number in range(10_000)}
    await presence.refresh(entries)
    await client.config_resetstat()
    await presence.refresh(entries)
    assert await calls(client, "evalsha") == 10_000
    assert await presence.stats("personal:9999") == PresenceCounts(1, 1)
    gone = await presence.remove(entries)
    assert gone == {f"personal:{number}": {f"u{number}"} for number in range(10_000)}
    assert await client.dbsize() == 0


async def test_great_entries_are_refreshed_a_few_at_a_time(
    open_presence: Opener, client: "redis.asyncio.Redis"
) -> None:
    presence = await open_presence()
    clients = [someone(f"c{number}", "u", b"x" * 30_000) for number in range(100)]
    await presence.refresh({CHANNEL: clients})
    await client.config_resetstat()
    await presence.refresh({CHANNEL: clients})
    assert 40 <= await calls(client, "evalsha") <= 60
    assert len(await presence.get(CHANNEL)) == 100


async def test_what_a_stranger_wrote_is_left_out_and_reported(
    open_presence: Opener, client: "redis.asyncio.Redis"
) -> None:
    presence = await open_presence()
    await presence.add("room", someone("c1", "ann"))
    for name in (b"x1", b"\xff\xfe", b"x3"):
        await client.hset("starling:presence:{room}", name, b"a stranger's")
        await client.zadd("starling:presence-deadlines:{room}", {name: 10**15})
    with structlog.testing.capture_logs() as logs:
        assert await presence.get("room") == {"c1": someone("c1", "ann")}
    (line,) = [line for line in logs if line["event"] == "presence_malformed"]
    assert (line["channel"], line["entries"]) == ("room", 3)
    assert "stranger's" not in str(line)
    assert await presence.remove({"room": [someone("x1"), someone("c1", "ann")]}) == {"room": {"", "ann"}}
    assert await client.hget("starling:presence-users:{room}", b"") is None


async def test_a_key_of_another_kind_is_an_error_in_words(open_presence: Opener, client: "redis.asyncio.Redis") -> None:
    presence = await open_presence()
    await client.set("starling:presence:{room}", "a stranger's")
    with pytest.raises(BrokerUnavailable, match=r"Redis refused: .*WRONGTYPE"):
        await presence.add("room", someone("c1", "ann"))
    with pytest.raises(BrokerUnavailable, match=r"Redis refused: .*WRONGTYPE"):
        await presence.refresh({"other": [someone("c1")], "room": [someone("c1")]})


ASKED: dict[str, Callable[[PresenceStore], Awaitable[object]]] = {
    "add": lambda presence: presence.add(CHANNEL, someone("c1", "ann")),
    "refresh": lambda presence: presence.refresh({f"room:{number}": [someone(f"c{number}")] for number in range(1000)}),
    "remove": lambda presence: presence.remove({CHANNEL: [someone("c1", "ann")]}),
    "get": lambda presence: presence.get(CHANNEL),
    "stats": lambda presence: presence.stats(CHANNEL),
}


async def test_while_redis_stands_still_every_call_ends_in_time_and_afterwards_works(
    redis_server: RedisServer, open_presence: Opener
) -> None:
    presence = await open_presence(timeout=0.3)
    await presence.add(CHANNEL, someone("c1", "ann"))
    redis_server.freeze()
    for ask in ASKED.values():
        async with asyncio.timeout(DEADLINE):
            with pytest.raises(BrokerUnavailable):
                await ask(presence)
    redis_server.thaw()
    end = asyncio.get_running_loop().time() + 20
    for ask in ASKED.values():
        while True:
            assert asyncio.get_running_loop().time() < end, "the calls fail still"
            try:
                await ask(presence)
                break
            except BrokerUnavailable:
                await asyncio.sleep(0.05)


async def test_while_redis_is_away_every_call_ends_in_time(redis_server: RedisServer, open_presence: Opener) -> None:
    presence = await open_presence(timeout=0.3)
    redis_server.kill()
    for ask in ASKED.values():
        async with asyncio.timeout(DEADLINE):
            with pytest.raises(BrokerUnavailable):
                await ask(presence)


async def test_a_client_put_for_a_time_of_its_own_outlives_and_underlives_the_others(place: Place) -> None:
    await place.presence.add(CHANNEL, someone("common", "a"))
    assert await place.presence.put(CHANNEL, someone("long", "b"), 10 * TTL)
    assert await place.presence.put(CHANNEL, someone("short", "c"), TTL / 10)
    assert not await place.presence.put(CHANNEL, someone("long", "b"), 10 * TTL)

    await place.make_older(TTL / 5)
    assert set(await place.presence.get(CHANNEL)) == {"common", "long"}
    await place.make_older(TTL)
    assert set(await place.presence.get(CHANNEL)) == {"long"}
    await place.make_older(10 * TTL)
    assert await place.presence.stats(CHANNEL) == PresenceCounts(0, 0)


async def test_a_client_is_ended_once_and_only_where_its_time_is_nearly_over(place: Place) -> None:
    shown = someone("agent", "a", b"1", b"2")
    await place.presence.put(CHANNEL, shown, TTL)

    assert await place.presence.end(CHANNEL, someone("agent", "a"), TTL / 2) is None
    await place.make_older(TTL * 0.75)
    assert await place.presence.end(CHANNEL, someone("agent", "a"), TTL / 2) == shown
    assert await place.presence.end(CHANNEL, someone("agent", "a"), None) is None
    assert await place.presence.stats(CHANNEL) == PresenceCounts(0, 0)


async def test_members_that_did_not_change_are_read_once_and_a_change_is_seen_at_once(open_presence: Opener) -> None:
    presence = await open_presence()
    everyone = [someone(f"c{number}", f"u{number}", b'"' + b"x" * 100 + b'"') for number in range(100)]
    await presence.refresh({CHANNEL: everyone})
    members = await presence.get(CHANNEL)
    assert members == {info.client: info for info in everyone}
    assert await presence.get(CHANNEL) is members
    await presence.add(CHANNEL, changed := someone("c7", "u7", b'"' + b"y" * 100 + b'"'))
    assert (await presence.get(CHANNEL))["c7"] == changed
    await presence.remove({CHANNEL: [changed]})
    assert set(await presence.get(CHANNEL)) == {info.client for info in everyone} - {"c7"}
    assert members["c7"] == everyone[7]


async def test_members_that_come_go_and_change_are_read_as_they_are(open_presence: Opener) -> None:
    presence, randomness = await open_presence(), random.Random(15)
    everyone: dict[str, ClientInfo] = {}
    for step in range(60):
        now = {
            client: someone(client, f"u{randomness.randrange(20)}", b'"%d"' % step, randomness.choice([b"", b"1"]))
            for client in (f"c{randomness.randrange(300)}" for _ in range(randomness.choice([0, 1, 1, 2, 40])))
        }
        gone = randomness.sample(sorted(everyone), min(len(everyone), randomness.choice([0, 0, 1, 1, 2, 30])))
        await presence.remove({CHANNEL: [everyone.pop(client) for client in gone]})
        await presence.refresh({CHANNEL: now.values()})
        everyone |= now
        members = await presence.get(CHANNEL)
        assert members == everyone
        reply = json.loads(JsonCodec().encode(Reply(1, presence=PresenceResult(members))))["presence"]["presence"]
        assert reply == json.loads(msgspec.json.encode(everyone))
    assert len(everyone) > 50


async def test_what_a_process_without_versions_adds_and_takes_out_is_seen_at_once(
    open_presence: Opener, client: "redis.asyncio.Redis"
) -> None:
    presence = await open_presence()
    everyone = [someone(f"c{number}", "u", b'"' + b"x" * 100 + b'"') for number in range(30)]
    await presence.refresh({"room": everyone})
    assert len(await presence.get("room")) == 30
    entry: Any = await client.hget("starling:presence:{room}", "c7")
    for name in ("c30", "c31"):
        await client.hset("starling:presence:{room}", name, entry)
    assert len(await presence.get("room")) == 32
    await client.hdel("starling:presence:{room}", "c30")
    assert set(await presence.get("room")) == {info.client for info in everyone} | {"c31"}


async def test_a_version_of_members_ends_with_each_change_and_never_returns(
    open_presence: Opener, client: "redis.asyncio.Redis"
) -> None:
    here, there = await open_presence(), await open_presence()
    everyone = [someone(f"c{number}", "u", b'"' + b"x" * 100 + b'"') for number in range(30)]
    await here.refresh({"room": everyone})
    seen: set[object] = set()
    other = someone("c7", "u", b'"other"')
    changes: list[Callable[[], Awaitable[object]]] = [
        lambda: there.add("room", other),
        lambda: there.remove({"room": [other]}),
        lambda: there.refresh({"room": [other]}),
        lambda: there.put("room", someone("c8", "u", b'"put"'), 60),
        lambda: there.end("room", everyone[8], None),
        lambda: there.enter("room", everyone[8], 100),
        lambda: client.zadd("starling:presence-deadlines:{room}", {"c9": 1}),
        lambda: client.delete("starling:presence:{room}"),
        lambda: there.refresh({"room": everyone}),
    ]
    for change in changes:
        members = await here.get("room")
        seen.add(await client.get("starling:presence-version:{room}"))
        await there.refresh({"room": members.values()})
        assert await here.get("room") is members or not members
        await change()
        # Other limits, so that nothing is known of it.
        assert await here.get("room") == await here.get("room", most=1000 + len(seen))
    # What deletes the key does not end the version, which is of no use without members.
    assert len(seen) == len(changes) - 1


async def test_an_entry_that_becomes_malformed_is_shown_no_more(
    open_presence: Opener, client: "redis.asyncio.Redis"
) -> None:
    presence = await open_presence()
    everyone = [someone(f"c{number}", "u", b'"' + b"x" * 100 + b'"') for number in range(30)]
    await presence.refresh({"room": everyone})
    assert len(await presence.get("room")) == 30
    await client.hset("starling:presence:{room}", "c7", b"a stranger's")
    # It ends by itself after five seconds.
    assert 0 < await client.pttl("starling:presence-version:{room}") <= 5000
    await client.delete("starling:presence-version:{room}")
    for _ in range(2):
        with structlog.testing.capture_logs() as logs:
            assert set(await presence.get("room")) == {info.client for info in everyone} - {"c7"}
        assert [line["event"] for line in logs] == ["presence_malformed"]
    await presence.refresh({"room": everyone})
    assert (await presence.get("room"))["c7"] == everyone[7]
