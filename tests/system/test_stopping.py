"""How the service stops: clients learn why, everything ends in time, and nobody keeps a port."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.running import Starling
from tests.support.services import RedisServer
from tests.support.waiting import DEADLINE


@pytest.fixture
def starling(redis_server: RedisServer) -> Iterator[Starling]:
    """Two workers over a real Redis, which disconnect their clients over two seconds."""
    environment = {
        "STARLING_DEV": "true",
        "STARLING_BROKER_URL": redis_server.url,
        "STARLING_WORKERS": "2",
        "STARLING_DRAIN_SECONDS": "2",
    }
    with Starling(environment) as running:
        yield running


async def close_code(client: ClientConnection) -> int:
    """The code of the close frame; 1006 when the connection was cut without one."""
    try:
        while True:
            await client.recv()
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd is not None else 1006


async def test_sigterm_says_goodbye_with_each_endpoints_own_code_and_exits_with_0(starling: Starling) -> None:
    paths = {"/ws": 1012, "/items/a/ws?token=t": 1012, "/ws/1": 1012, "/connection/websocket": 3001}
    clients = {path: [await connect(f"{starling.url}{path}") for _ in range(8)] for path in paths}
    for client in clients["/connection/websocket"]:
        await client.send('{"id":1,"connect":{}}')
        await client.recv()

    starling.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(DEADLINE):
        codes = {path: [await close_code(client) for client in of_path] for path, of_path in clients.items()}
        code = await asyncio.to_thread(starling.process.wait, DEADLINE)

    assert codes == {path: [expected] * 8 for path, expected in paths.items()}
    assert code == 0
    assert "Traceback" not in starling.output


async def test_while_it_stops_it_is_alive_but_not_ready_and_refuses_new_clients(starling: Starling) -> None:
    clients = [await connect(f"{starling.url}/ws") for _ in range(6)]

    starling.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + DEADLINE
    while starling.get(f"{starling.internal}/readyz")[0] != 503:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)

    assert starling.get(f"{starling.internal}/livez")[0] == 200
    assert [await close_code(client) for client in clients] == [1012] * 6
    assert await asyncio.to_thread(starling.process.wait, DEADLINE) == 0


async def test_when_the_master_is_killed_no_orphan_keeps_the_port(starling: Starling) -> None:
    workers = [psutil.Process(pid) for pid in starling.workers]
    async with connect(f"{starling.url}/ws") as client:
        os.kill(starling.process.pid, signal.SIGKILL)

        code = await asyncio.wait_for(close_code(client), DEADLINE)

    gone, left = psutil.wait_procs(workers, timeout=15)
    assert left == []
    assert len(gone) == 2
    assert code == 1012
    assert starling.get(f"{starling.http}/livez") == (0, {})
    assert starling.get(f"{starling.internal}/livez") == (0, {})


async def test_a_worker_that_is_killed_is_replaced_without_losing_readiness(starling: Starling) -> None:
    victim, other = starling.workers

    os.kill(victim, signal.SIGKILL)
    deadline = time.monotonic() + DEADLINE
    while victim in starling.workers:
        assert starling.get(f"{starling.internal}/readyz")[0] == 200
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    starling.until_ready(2)

    assert other in starling.workers
    assert starling.metrics()["starling_worker_restarts_total"] == 1


# With a limit of seconds: test_a_stuck_event_loop_is_replaced_… in tests/server/test_processes.py.
@pytest.mark.long
async def test_a_worker_that_hangs_is_replaced_while_the_other_serves(redis_server: RedisServer) -> None:
    environment = {"STARLING_DEV": "true", "STARLING_BROKER_URL": redis_server.url, "STARLING_WORKERS": "2"}
    with Starling(environment) as starling:
        hung, other = starling.workers
        os.kill(hung, signal.SIGSTOP)
        try:
            deadline = time.monotonic() + DEADLINE
            while sum(worker["ready"] for worker in starling.get(f"{starling.internal}/readyz")[1]["workers"]) != 1:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.2)
            assert starling.get(f"{starling.internal}/readyz")[0] == 200
            assert starling.get(f"{starling.internal}/livez")[0] == 200
            report = starling.get(f"{starling.internal}/readyz")[1]["workers"]
            assert [worker["pid"] for worker in report if worker["ready"]] == [other]
        finally:
            os.kill(hung, signal.SIGCONT)
