"""Gaps under real faults: what Redis still has is delivered, and anyone who lost what it no longer has is notified."""

import asyncio
from pathlib import Path

import pytest
import redis.asyncio

from tests.support.running import Starling, serving
from tests.support.services import RedisServer
from tests.support.tcp_proxy import TcpProxy
from tests.system.flow import CHANNELS, CLIENTS, Flow, environment, flowing, publishes

REPORTED_ALL = [2500] * (CLIENTS * len(CHANNELS))


def holds(flow: Flow, reported: list[int]) -> None:
    """The promise: no socket closed, these reported, and nothing lost, doubled or out of order."""
    assert flow.closed() == []
    assert flow.reported() == reported
    assert flow.problems() == []
    assert set(flow.refused) <= {100}
    assert sum(map(len, flow.acknowledged.values())) >= 4 * 100


@pytest.mark.parametrize("fsync", ["always", pytest.param("everysec", marks=pytest.mark.long)])
async def test_redis_killed_with_an_append_only_file_is_not_noticed(tmp_path: Path, fsync: str) -> None:
    with (
        RedisServer(appendonly="yes", appendfsync=fsync) as server,
        Starling(environment(tmp_path, server.url)) as service,
    ):
        async with flowing(service) as flow:
            for _ in range(2):
                await publishes(flow, 40)
                await asyncio.to_thread(server.kill)
                await asyncio.sleep(1)
                await asyncio.to_thread(server.start)
            await publishes(flow, 40)
            await flow.stop()

            holds(flow, reported=[])


async def test_after_a_restart_from_a_snapshot_every_client_whose_messages_are_lost_is_notified(tmp_path: Path) -> None:
    with RedisServer() as server, Starling(environment(tmp_path, server.url)) as service:
        async with flowing(service) as flow:
            await publishes(flow, 50)
            async with redis.asyncio.from_url(server.url) as admin:
                await admin.save()
            await publishes(flow, 50)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await publishes(flow, 50)
            await flow.stop()

            holds(flow, reported=REPORTED_ALL)


async def test_a_restart_from_a_snapshot_that_lacks_nothing_is_not_noticed(tmp_path: Path) -> None:
    with RedisServer() as server, Starling(environment(tmp_path, server.url)) as service:
        async with flowing(service) as flow:
            await publishes(flow, 100)
            await flow.stop()
            async with redis.asyncio.from_url(server.url) as admin:
                await admin.save()
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            # One more may have been stored whose acknowledgement nobody waited for.
            flow.start(after=1 + max(numbers[-1] for numbers in flow.acknowledged.values()))
            await publishes(flow, 20)
            await flow.stop()

            holds(flow, reported=[])


async def test_links_cut_again_and_again_are_not_noticed(redis_server: RedisServer, tmp_path: Path) -> None:
    async with TcpProxy(redis_server.port) as proxy, serving(environment(tmp_path, proxy.url)) as service:
        async with flowing(service) as flow:
            cut = 0
            for _ in range(3):
                await publishes(flow, 25)
                while (listening := sum(b"SUBSCRIBE" in connection.sent for connection in proxy.connections)) < 2:
                    await asyncio.sleep(0.02)
                cut += listening
                proxy.away = True
                proxy.cut()
                await asyncio.sleep(0.3)
                proxy.away = False
            await publishes(flow, 25)
            await flow.stop()

            holds(flow, reported=[])
        metrics = await asyncio.to_thread(service.metrics)
        assert cut >= 6
        assert metrics["starling_broker_reconnects_total"] >= 2
        resets = [count for name, count in metrics.items() if name.startswith("starling_stream_resets_total{")]
        assert resets
        assert sum(resets) == 0
