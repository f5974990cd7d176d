"""Redis fails over below a service with clients: what is acknowledged is delivered, or its loss is reported."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from redis.crc import key_slot

from tests.support.configured_redis import ConfiguredServer
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_sentinels import SERVICE, SentinelGroup
from tests.support.running import Starling
from tests.support.waiting import DEADLINE
from tests.system.flow import CHANNELS, Flow, environment, flowing, publishes

API_KEY = "a key of these tests alone"
BACK_WITHIN = 5.0


def status_of_publish(starling: Starling) -> int:
    """Publish by the API to a channel that nobody receives; the status of the answer."""
    body = json.dumps({"channel": "history:unheard", "data": 1}).encode()
    headers = {"Content-Type": "application/json", "X-API-Key": API_KEY}
    request = urllib.request.Request(f"{starling.http}/api/publish", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:
            status: int = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
    return status


def holds(flow: Flow) -> None:
    """The promise: no socket closed, and anyone who did not get 2500 lacks nothing, twice nothing, in order."""
    assert flow.closed() == []
    assert flow.problems() == []
    assert set(flow.reported()) <= {2500}
    assert set(flow.refused) <= {100}
    assert all(len(flow.acknowledged[channel]) >= 100 for channel in CHANNELS)


@pytest.mark.parametrize("fault", ["kill", pytest.param("freeze", marks=pytest.mark.long)])
async def test_the_master_that_sentinel_names_is_followed(tmp_path: Path, fault: str) -> None:
    with SentinelGroup() as group:
        settings = environment(tmp_path, group.url) | {"STARLING_API_KEYS": API_KEY}
        with Starling(settings) as starling:
            async with flowing(starling) as flow:
                await publishes(flow, 50)
                former = group.master

                await asyncio.to_thread(getattr(former, fault))
                in_the_gap = await asyncio.to_thread(status_of_publish, starling)
                await asyncio.to_thread(group.until_promoted, former)
                back_after = await flow.until_live()

                assert back_after < BACK_WITHIN
                await publishes(flow, 50)
                if fault == "freeze":
                    await asyncio.to_thread(former.thaw)
                    # It learns that it is a replica now, and gives up what it alone had taken.
                    await asyncio.to_thread(until_replica, group)
                    await publishes(flow, 50)
                await flow.stop()
                assert in_the_gap == 503
                assert 100 in flow.refused
                holds(flow)


def until_replica(group: SentinelGroup) -> None:
    """Wait until every server but the master follows it."""
    end = time.monotonic() + DEADLINE
    for server in group.servers:
        if server is not group.master:
            with server.client() as client:
                while client.execute_command("ROLE")[0] != "slave":
                    assert time.monotonic() < end, "the former master is still one"
                    time.sleep(0.1)


# In the broker: tests/brokers/test_sentinel.py.
@pytest.mark.long
async def test_clients_that_received_from_a_deposed_master_are_notified(tmp_path: Path) -> None:
    with SentinelGroup() as group, Starling(environment(tmp_path, group.url)) as starling:
        async with flowing(starling) as flow:
            await publishes(flow, 50)
            former = group.master
            with former.client() as client:
                # So that no sentinel can inform it that it is deposed, nor end its connections.
                client.acl_setuser("default", enabled=True, commands=["-replicaof", "-slaveof", "-multi"])

            # The workers learn of it within two seconds; until then it acknowledges what the new master never sees.
            with group.sentinels[0].client() as client:
                client.execute_command("SENTINEL", "FAILOVER", SERVICE)
            await asyncio.to_thread(group.until_promoted, former)
            await asyncio.to_thread(until_left, former)
            await publishes(flow, 50)
            await flow.stop()

            holds(flow)
            promoted = group.master
            lost = [name for name in CHANNELS if last_entry(former, name) not in entries(promoted, name)]
            # Not always all 80: a worker that asked at the very moment of the election has received nothing that is
            # lost.
            assert len(flow.reported()) >= len(lost)
            assert lost or not flow.reported()


async def test_slots_of_a_cluster_move_and_nobody_notices(tmp_path: Path) -> None:
    with RedisCluster() as cluster, Starling(environment(tmp_path, cluster.url)) as starling:
        async with flowing(starling) as flow:
            await publishes(flow, 25)
            # The slots of the channels, of what nodes say to each other, and of ten others.
            slots = [key_slot(channel.encode()) for channel in (*CHANNELS, ":control")]
            for slot in [*slots, *range(10), *slots]:
                source = await asyncio.to_thread(cluster.owner_of_slot, slot)
                target = next(node for node in cluster.nodes if node is not source)
                await asyncio.to_thread(cluster.move_slot, slot, source, target)
            await publishes(flow, 50)
            await flow.stop()

            holds(flow)
            assert flow.reported() == []


@pytest.mark.parametrize("fault", [pytest.param("kill", marks=pytest.mark.long), "freeze"])
async def test_a_master_of_a_cluster_is_replaced_by_its_replica(tmp_path: Path, fault: str) -> None:
    with RedisCluster(replicas=True) as cluster, Starling(environment(tmp_path, cluster.url)) as starling:
        async with flowing(starling) as flow:
            await publishes(flow, 50)
            slot = key_slot(CHANNELS[0].encode())
            former = await asyncio.to_thread(cluster.owner_of_slot, slot)
            elsewhere = [name for name in CHANNELS if cluster.owner_of_slot(key_slot(name.encode())) is not former]

            await asyncio.to_thread(getattr(former, fault))
            began = {name: len(flow.acknowledged[name]) for name in elsewhere}
            await asyncio.to_thread(cluster.until_promoted, former)
            served = {name: len(flow.acknowledged[name]) - began[name] for name in elsewhere}
            back_after = await flow.until_live()

            # The other shards served on while this one had no master.
            assert elsewhere
            assert min(served.values()) > 20
            assert back_after < BACK_WITHIN
            await asyncio.to_thread(former.thaw if fault == "freeze" else former.start)
            await publishes(flow, 50)
            await flow.stop()
            assert 100 in flow.refused
            holds(flow)


def until_left(server: ConfiguredServer) -> None:
    """Wait until no worker is connected to `server`."""
    end = time.monotonic() + DEADLINE
    with server.client() as client:
        while any(entry["name"].startswith("starling-") for entry in client.client_list()):
            assert time.monotonic() < end, "the deposed master is not left"
            time.sleep(0.05)


def entries(server: ConfiguredServer, channel: str) -> set[str]:
    """The ids of all that the history of `channel` holds there."""
    with server.client() as client:
        return {name for name, _ in client.xrange(f"starling:stream:{{{channel}}}")}


def last_entry(server: ConfiguredServer, channel: str) -> str:
    """The id of the last publication of `channel` there."""
    return max(entries(server, channel), key=lambda name: int(name.partition("-")[0]))
