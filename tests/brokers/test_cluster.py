"""A Redis cluster whose slots move and whose nodes die below brokers that go on."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import structlog
from msgspec import Raw
from redis.crc import key_slot

import starling.brokers.redis
from starling.brokers.redis.rights import acl_rule
from starling.engine.broker import BrokerUnavailable, LinkState, PublishOptions, StreamPosition
from starling.protocol.messages import Publication
from tests.brokers.conftest import Opener
from tests.brokers.party import LIVE, Party
from tests.support.configured_redis import ConfiguredServer
from tests.support.redis_cluster import RedisCluster
from tests.support.services import RedisServer
from tests.support.waiting import StepClock, until

pytestmark = pytest.mark.processes

PUBLISH = Path(starling.brokers.redis.__file__).with_name("publish.lua")
KEPT = PublishOptions(history_size=100, history_ttl=60, history_meta_ttl=3600)
# One for each node.
ROOMS = [
    next(f"room:{number}" for number in range(1000) if key_slot(b"room:%d" % number) * 3 // 16384 == shard)
    for shard in range(3)
]


@pytest.fixture
def cluster() -> Iterator[RedisCluster]:
    """A cluster that the test may harm."""
    with RedisCluster() as made:
        yield made


def shard_channels(node: ConfiguredServer) -> list[str]:
    with node.client() as client:
        return sorted(client.execute_command("PUBSUB", "SHARDCHANNELS"))


async def move(cluster: RedisCluster, channel: str) -> tuple[ConfiguredServer, ConfiguredServer]:
    """Move the slot of `channel`; returns the node that had it and the one that has it."""
    slot = key_slot(channel.encode())
    source = cluster.owner_of_slot(slot)
    target = next(node for node in cluster.nodes if node is not source)
    await asyncio.to_thread(cluster.move_slot, slot, source, target)
    return source, target


async def receive(here: Party, there: Party, channel: str, data: bytes) -> None:
    await there.publish(channel, data)
    await until(lambda: data in here.received(channel), f"{channel} is heard")


async def test_a_channel_follows_its_slot_and_the_gap_is_reported(cluster: RedisCluster, opener: Opener) -> None:
    here, there = await opener(cluster.url), await opener(cluster.url)
    for room in ROOMS:
        await here.broker.subscribe(room)
        await receive(here, there, room, b'"before"')
    reported = len(here.links)

    source, target = await move(cluster, ROOMS[0])
    await until(lambda: here.links[reported:] == [LinkState.DOWN, LinkState.UP], "the gap is reported")

    for room in ROOMS:
        await receive(here, there, room, b'"after"')
    assert f"starling:{{{ROOMS[0]}}}" in shard_channels(target)
    assert f"starling:{{{ROOMS[0]}}}" not in shard_channels(source)
    assert here.broker.stats.failed_swaps == 0


async def test_a_node_whose_canary_went_away_has_another(cluster: RedisCluster, opener: Opener) -> None:
    here = await opener(cluster.url)
    node = cluster.owner(ROOMS[1])
    await here.broker.subscribe(ROOMS[1])
    (canary,) = [name for name in shard_channels(node) if ":canary:" in name]

    await move(cluster, canary.partition("{")[2].rstrip("}"))

    await until(
        lambda: [name != canary for name in shard_channels(node) if ":canary:" in name] == [True], "another is heard"
    )
    await until(lambda: here.up, "the link is up")
    await receive(here, here, ROOMS[1], b'"after"')


def split(node: redis.Redis) -> int:
    """How often this node has refused a command because its keys lie in two nodes."""
    counted: dict[str, dict[str, int]] = node.info("errorstats")
    return counted.get("errorstat_TRYAGAIN", {}).get("count", 0)


async def test_while_a_slot_is_half_moved_publishes_wait_and_each_counts_once(
    cluster: RedisCluster, opener: Opener
) -> None:
    here = await opener(cluster.url)
    room, slot = ROOMS[2], key_slot(ROOMS[2].encode())
    first = await here.broker.publish(room, Publication(Raw(b"0")), KEPT)
    source = cluster.owner_of_slot(slot)
    target = next(node for node in cluster.nodes if node is not source)
    with source.client() as giving, target.client() as taking:
        ids = [client.execute_command("CLUSTER", "MYID") for client in (giving, taking)]
        taking.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        giving.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        # Its position is there, its entries still here.
        giving.execute_command("MIGRATE", "127.0.0.1", target.port, f"starling:meta:{{{room}}}", 0, 5000)
    publishing = [
        asyncio.ensure_future(here.broker.publish(room, Publication(Raw(b"%d" % number)), KEPT))
        for number in range(1, 20)
    ]
    # Keys that are one and new are made where the slot goes.
    once = PublishOptions(idempotency_key="k")
    assert await here.broker.publish(room, Publication(Raw(b"1")), once) == StreamPosition(0, "")
    with source.client() as giving, target.client() as taking:
        await until(
            lambda: split(giving) + split(taking) >= 20, "Redis refuses what lies in two nodes, again and again"
        )
    assert not any(task.done() for task in publishing)

    await asyncio.to_thread(cluster.move_slot, slot, source, target)

    positions = await asyncio.gather(*publishing)
    assert {position.epoch for position in positions} == {first.epoch}
    assert len({position.offset for position in positions}) == 19
    assert here.broker.history is not None
    read = await here.broker.history.read(room, meta_ttl=60)
    assert sorted(bytes(entry.publication.data) for entry in read.entries) == sorted(b"%d" % n for n in range(20))


async def test_without_one_node_the_others_serve_and_it_is_reported(cluster: RedisCluster, opener: Opener) -> None:
    here, there = await opener(cluster.url, timeout=1.0), await opener(cluster.url, timeout=1.0)
    for room in ROOMS:
        await here.broker.subscribe(room)
    lost = cluster.owner(ROOMS[0])

    lost.kill()
    await until(lambda: here.down, "the loss is reported")
    with StepClock() as clock:
        outcomes = await there.broker.publish_all([(room, Publication(Raw(b"1")), LIVE) for room in ROOMS])
        with pytest.raises(BrokerUnavailable):
            await here.broker.subscribe(neighbour(ROOMS[0]))

    assert clock.seconds < 5
    assert isinstance(outcomes[0], BrokerUnavailable)
    assert outcomes[1:] == [StreamPosition(0, "")] * 2
    await until(lambda: here.received(ROOMS[1]) == here.received(ROOMS[2]) == [b"1"], "the others are heard")
    assert not here.broker.stats.up
    await here.broker.subscribe(neighbour(ROOMS[1]))
    await asyncio.to_thread(lost.start)
    await until(lambda: here.up and there.up, "all links are back")
    await receive(here, there, ROOMS[0], b"2")
    await receive(here, there, neighbour(ROOMS[0]), b"3")
    assert here.broker.stats.reconnects == 1


def neighbour(room: str) -> str:
    """Another channel of the same node."""
    shard = key_slot(room.encode()) * 3 // 16384
    return next(f"other:{n}" for n in range(1000) if key_slot(b"other:%d" % n) * 3 // 16384 == shard)


async def test_an_address_of_the_wrong_kind_is_reported_with_the_remedy(
    redis_cluster: RedisCluster, redis_server: RedisServer, opener: Opener
) -> None:
    with structlog.testing.capture_logs() as logs:
        by_itself = await opener(f"redis+cluster://127.0.0.1:{redis_server.port}", up=False)
        await until(lambda: by_itself.down, "it is no cluster")
        await opener(redis_cluster.url.replace("redis+cluster://", "redis://").partition(",")[0])
        await until(lambda: any(line["event"] == "redis_is_a_cluster" for line in logs), "it is a cluster")
    down = next(line for line in logs if line["event"] == "broker_link_down")
    assert "cluster support disabled" in down["reason"]
    assert "write redis://" in down["remedy"]
    assert "redis+cluster://" in next(line for line in logs if line["event"] == "redis_is_a_cluster")["remedy"]


async def test_a_user_who_lacks_the_rights_for_a_cluster_gets_the_rule(
    redis_server: RedisServer, opener: Opener
) -> None:
    url = redis_server.limited_url.replace("redis://", "redis+cluster://").removesuffix("/0")
    with structlog.testing.capture_logs() as logs:
        party = await opener(url, up=False)
        await until(lambda: party.down, "the missing right is reported")
    line = next(line for line in logs if line["event"] == "broker_link_down")
    assert line["remedy"] == f"ACL SETUSER starling {acl_rule('starling', cluster=True)}"


async def test_what_a_backend_publishes_straight_into_the_cluster_is_received(
    redis_cluster: RedisCluster, opener: Opener
) -> None:
    """As docs/publish.md documents."""
    here = await opener(redis_cluster.url)
    await here.broker.subscribe(ROOMS[0])
    with redis.RedisCluster("127.0.0.1", redis_cluster.nodes[0].port) as cluster:
        body = b"1700000000000 0\n1"
        cluster.execute_command("SPUBLISH", f"starling:{{{ROOMS[0]}}}", b"p - 0 0\n" + body)
        keys = [f"starling:meta:{{{ROOMS[0]}}}", f"starling:stream:{{{ROOMS[0]}}}"]
        arguments = [f"starling:{{{ROOMS[0]}}}", body.replace(b"\n1", b"\n2"), 100, 60_000, 60_000, "epoch"]
        assert cluster.eval(PUBLISH.read_text(), 2, *keys, *arguments) == [b"1", b"epoch"]
    await until(lambda: here.received(ROOMS[0]) == [b"1", b"2"], "both are heard")
    assert here.broker.history is not None
    read = await here.broker.history.read(ROOMS[0], meta_ttl=60)
    assert [bytes(entry.publication.data) for entry in read.entries] == [b"2"]
