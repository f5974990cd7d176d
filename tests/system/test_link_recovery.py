"""Within seconds of Redis's return everything flows again: no socket is closed, and no history channel has a hole."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import redis.asyncio

from tests.support.running import Starling, serving
from tests.support.services import RedisServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import DEADLINE
from tests.system.flow import CHANNELS, CLIENTS, environment, flowing, publishes

BACK_WITHIN = 5.0

Fault = Callable[[RedisServer, Starling], Awaitable[None]]


async def frozen(redis_server: RedisServer, starling: Starling) -> None:
    """Redis stands still for 5 s, longer than a canary may take, while its kernel keeps every connection."""
    await asyncio.to_thread(redis_server.freeze)
    await asyncio.sleep(5)
    await asyncio.to_thread(redis_server.thaw)


async def restarted_empty(redis_server: RedisServer, starling: Starling) -> None:
    """Redis dies without saving anything, and returns with nothing after a second."""
    await asyncio.to_thread(redis_server.kill)
    await asyncio.sleep(1)
    await asyncio.to_thread(redis_server.start)


async def listeners_killed(redis_server: RedisServer, starling: Starling) -> None:
    """Redis ends every Pub/Sub connection as soon as there is one, ten times."""
    async with redis.asyncio.from_url(redis_server.url) as admin:
        killed = 0
        async with asyncio.timeout(DEADLINE):
            while killed < 10:
                killed += int(await admin.client_kill_filter(_type="pubsub"))
                await asyncio.sleep(0.2)


async def overrun(redis_server: RedisServer, starling: Starling) -> None:
    """A worker stands still until Redis has given up on its listener, for more waits there than it keeps."""
    frozen = starling.workers[0]
    os.kill(frozen, signal.SIGSTOP)
    try:
        async with redis.asyncio.from_url(redis_server.url) as admin:
            name = "starling-subscriber-"
            async with asyncio.timeout(DEADLINE):
                while any(
                    client["name"].startswith(name) and client["name"].endswith(f"-{frozen}")
                    for client in await admin.client_list()
                ):
                    await admin.publish("starling:history:0", b"x" * 60_000)
                    await asyncio.sleep(0.002)
    finally:
        os.kill(frozen, signal.SIGCONT)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(frozen, marks=pytest.mark.long),
        pytest.param(listeners_killed, marks=pytest.mark.long),
        overrun,
        restarted_empty,
    ],
)
async def test_after_a_fault_everything_flows_and_no_history_has_a_hole(
    redis_server: RedisServer, tmp_path: Path, fault: Fault
) -> None:
    with Starling(environment(tmp_path, redis_server.url)) as starling:
        async with redis.asyncio.from_url(redis_server.url) as admin:
            await admin.config_set("client-output-buffer-limit", "pubsub 1mb 1mb 1")
        async with flowing(starling) as flow:
            await publishes(flow, 50)

            await fault(redis_server, starling)

            seconds = await flow.until_live()
            await publishes(flow, 50)
            await flow.stop()

            assert seconds < BACK_WITHIN
            assert flow.closed() == []
            assert set(flow.refused) <= {100}
            assert flow.reported() == ([2500] * CLIENTS * len(CHANNELS) if fault is restarted_empty else [])
            assert flow.problems() == []
        await asyncio.to_thread(starling.reported, "broker_link_down")


async def test_a_worker_that_no_link_works_for_is_replaced_and_the_other_is_not(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    async with TcpProxy(redis_server.port) as proxy, serving(environment(tmp_path, proxy.url)) as starling:
        unresponsive, other = await asyncio.to_thread(lambda: starling.workers)
        # What stands between lets this worker listen no more; its probe listens elsewhere.
        proxy.refuse = lambda said: b"-%d\r" % unresponsive in said and b":canary:" in said and b"SUBSCRIBE" in said
        proxy.cut()

        async with asyncio.timeout(60):
            while unresponsive in await asyncio.to_thread(lambda: starling.workers):
                await asyncio.sleep(0.2)
        await asyncio.to_thread(starling.until_ready, 2)

        # It may be found unresponsive again before it goes.
        events = dict.fromkeys(line["event"] for line in starling.lines if line.get("pid") == unresponsive)
        workers = await asyncio.to_thread(lambda: starling.workers)
        assert [event for event in events if event in {"worker_unresponsive", "worker_retires", "drain_started"}] == [
            "worker_unresponsive",
            "worker_retires",
            "drain_started",
        ]
        assert other in workers
        assert len(workers) == 2
        assert "worker_unresponsive" not in [line["event"] for line in starling.lines if line.get("pid") == other]
