"""Who is rejected with 503 by the running service, how early, and that those inside are served on."""

import asyncio
import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from starling.auth.issue import issue_connection_token
from tests.support.cgroup import MemoryGroup
from tests.support.history_clients import HistoryClient
from tests.support.running import SECRET, Starling, serving
from tests.support.services import RedisServer
from tests.support.waiting import DEADLINE
from tests.system.bystander import bystander

HOOKS = """
import time


async def block(client, data):
    time.sleep(data)


rpc = {"block": block}
"""


async def knock(url: str, opened: list[ClientConnection]) -> tuple[int, int]:
    """Ask for a connection: the status and the time to return."""
    try:
        opened.append(await connect(url, open_timeout=30))
    except InvalidStatus as refusal:
        return refusal.response.status_code, int(refusal.response.headers.get("Retry-After", "0"))
    return 101, 0


async def leave(opened: list[ClientConnection]) -> None:
    await asyncio.gather(*(client.close() for client in opened))
    opened.clear()


def refused(starling: Starling, reason: str) -> float:
    return starling.metrics()[f'starling_connections_refused_total{{reason="{reason}"}}']


async def until(starling: Starling, *, ready: bool, reasons: list[str], seconds: float = DEADLINE) -> None:
    """Wait until the worker reports this."""
    end = time.monotonic() + seconds
    while True:
        _, report = await asyncio.to_thread(starling.get, f"{starling.internal}/readyz")
        (worker,) = report["workers"]
        if (worker["ready"], worker["reasons"]) == (ready, reasons):
            return
        assert time.monotonic() < end, report
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("path", ["/ws", "/ws/7", "/items/plumbus/ws?token=t", "/connection/websocket"])
async def test_of_a_crowd_at_once_as_many_come_in_as_there_are_places(path: str, small: Starling) -> None:
    opened: list[ClientConnection] = []
    found = Counter(
        [status for status, _ in await asyncio.gather(*(knock(small.url + path, opened) for _ in range(30)))]
    )
    assert found == {101: 5, 503: 25}

    await opened.pop().close()
    await until_free(small)
    assert (await knock(small.url + path, opened))[0] == 101
    status, retry_after = await knock(small.url + path, opened)
    assert status == 503
    assert 5 <= retry_after <= 30
    await leave(opened)
    await until_free(small, 5)


async def until_free(small: Starling, places: int = 1) -> None:
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        metrics = await asyncio.to_thread(small.metrics)
        if sum(value for name, value in metrics.items() if name.startswith("starling_connections{")) <= 5 - places:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("nobody left")


@pytest.fixture(scope="module")
def small() -> Iterator[Starling]:
    """One worker with five places."""
    with Starling({"STARLING_DEV": "true", "STARLING_MAX_CONNECTIONS": "5"}) as running:
        yield running


async def test_a_full_worker_looks_at_no_token_and_answers_requests_that_are_no_websocket() -> None:
    async with serving({"STARLING_TOKEN_HMAC_SECRET": SECRET, "STARLING_CONNECTS_PER_SECOND": "0.0001"}) as starling:
        opened: list[ClientConnection] = []
        assert (await knock(f"{starling.url}/ws", opened))[0] == 403
        assert (await knock(f"{starling.url}/ws", opened))[0] == 503
        assert (await asyncio.to_thread(starling.get, f"{starling.http}/livez")) == (200, {"alive": True})
        assert (await asyncio.to_thread(starling.get, f"{starling.http}/readyz"))[0] == 200


async def test_a_storm_is_let_in_at_the_rate_while_those_inside_are_served_on() -> None:
    rate, crowd = 20, 400
    async with serving({"STARLING_DEV": "true", "STARLING_CONNECTS_PER_SECOND": str(rate)}) as starling:
        opened: list[ClientConnection] = []
        async with bystander(starling) as waits:
            began = time.monotonic()
            found = await asyncio.gather(*(knock(f"{starling.url}/ws", opened) for _ in range(crowd)))
            took = time.monotonic() - began

        let_in = [status for status, _ in found].count(101)
        # One of the first second's connects went to the client inside.
        assert rate - 1 <= let_in <= rate * (1 + took)
        times = [retry_after for status, retry_after in found if status == 503]
        assert len(times) == crowd - let_in
        assert len(set(times)) >= 5
        assert min(times) >= 1
        assert max(waits) < 2
        await leave(opened)
        deadline = time.monotonic() + DEADLINE
        while await asyncio.to_thread(refused, starling, "connect_rate") < len(times) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        assert await asyncio.to_thread(refused, starling, "connect_rate") == len(times)
        lines = starling.reported("clients_refused")
        assert 1 <= len(lines) <= 1 + took / 10 + 1
        assert sum(line["connect_rate"] for line in lines) <= len(times)


async def test_a_worker_that_lags_turns_new_clients_away_and_serves_the_others(tmp_path: Path) -> None:
    (tmp_path / "blocking_hooks.py").write_text(HOOKS)
    settings = {
        "STARLING_DEV": "true",
        "STARLING_HOOKS": "blocking_hooks",
        "STARLING_HOOKS_PATH": str(tmp_path),
        "STARLING_MAX_LAG_SECONDS": "0.3",
    }
    async with serving(settings) as starling:
        opened: list[ClientConnection] = []
        stopped = False

        async def block() -> None:
            async with HistoryClient(starling.url) as client:
                while not stopped:
                    await client.call("rpc", {"method": "block", "data": 0.7})

        async with connect(f"{starling.url}/ws") as inside:
            blocking = asyncio.create_task(block())
            await until(starling, ready=False, reasons=["lagging"])
            for path in ("/ws", "/ws/7", "/connection/websocket"):
                status, retry_after = await knock(starling.url + path, opened)
                assert status == 503
                assert 5 <= retry_after <= 30
            await inside.send("late, and answered")
            assert await inside.recv() == "Message text was: late, and answered"
            stopped = True
            await blocking
            await until(starling, ready=True, reasons=[])
            assert (await knock(f"{starling.url}/ws", opened))[0] == 101
            await leave(opened)
        assert await asyncio.to_thread(refused, starling, "lag") == 3
        changes = [line["refuses"] for line in starling.reported("admission_changed", 2)]
        assert changes == [True, False]


async def test_a_pod_near_its_memory_limit_turns_new_clients_away_and_serves_the_others() -> None:
    starling = Starling({"STARLING_DEV": "true", "STARLING_MAX_MEMORY_SHARE": "0.5"}, wait_ready=False)
    with MemoryGroup(f"starling-test-{os.getpid()}-{secrets.token_hex(4)}") as group:
        group.limit(2**30)
        await asyncio.to_thread(starling.__enter__)
        try:
            group.take(starling.process.pid)
            await asyncio.to_thread(starling.until_ready)
            opened: list[ClientConnection] = []
            async with connect(f"{starling.url}/ws") as inside:
                # What of the use is pages of files may go; what is left is healthy over half of the new limit.
                group.limit(int(group.used * 1.05))
                await until(starling, ready=False, reasons=["short_of_memory"])
                status, retry_after = await knock(f"{starling.url}/ws", opened)
                assert status == 503
                assert 5 <= retry_after <= 30
                await inside.send("served on")
                assert await inside.recv() == "Message text was: served on"
                assert 0.5 < (await asyncio.to_thread(starling.metrics))["starling_memory_used_ratio"] <= 1

                group.limit(2**30)
                await until(starling, ready=True, reasons=[])
                assert (await knock(f"{starling.url}/ws", opened))[0] == 101
                await leave(opened)
        finally:
            await asyncio.to_thread(starling.__exit__, None, None, None)


async def enter(starling: Starling, user: str, inside: list[ClientConnection]) -> int:
    """Connect to the client endpoint as `user`: 0 when the client is in, else the code that it was closed with."""
    client = await connect(f"{starling.url}/connection/websocket")
    await client.send(json.dumps({"id": 1, "connect": {"token": issue_connection_token(SECRET, user, 300)}}))
    try:
        assert "connect" in json.loads(await client.recv())
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd is not None else 1006
    inside.append(client)
    return 0


@pytest.mark.parametrize("broker", ["memory", "redis"])
async def test_of_a_users_connections_at_once_exactly_as_many_stay_as_may(
    broker: str, redis_server: RedisServer
) -> None:
    settings = {"STARLING_TOKEN_HMAC_SECRET": SECRET, "STARLING_MAX_CONNECTIONS_PER_USER": "5"}
    if broker == "redis":
        settings |= {"STARLING_BROKER_URL": redis_server.url, "STARLING_WORKERS": "2"}
    async with serving(settings) as starling:
        inside: list[ClientConnection] = []
        found = Counter(await asyncio.gather(*(enter(starling, "ann", inside) for _ in range(20))))
        assert found == {0: 5, 3504: 15}
        assert await enter(starling, "bob", inside) == 0
        await inside.pop().close()

        # One place more than before, and no more.
        await inside.pop().close()
        async with asyncio.timeout(DEADLINE):
            while await enter(starling, "ann", inside) == 3504:
                await asyncio.sleep(0.05)
        assert await enter(starling, "ann", inside) == 3504
        assert len(inside) == 5
        await leave(inside)


async def test_while_redis_is_away_each_worker_counts_the_connections_of_a_user_by_itself(
    redis_server: RedisServer,
) -> None:
    settings = {
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_MAX_CONNECTIONS_PER_USER": "2",
        "STARLING_BROKER_URL": redis_server.url,
        "STARLING_WORKERS": "1",
        "STARLING_BROKER_TIMEOUT_SECONDS": "0.5",
    }
    async with serving(settings) as starling:
        inside: list[ClientConnection] = []
        # Without the list of revocations, which the worker reads over this link, nobody would be let in.
        await asyncio.to_thread(starling.reported, "broker_link_up")
        assert await enter(starling, "ben", inside) == 0
        redis_server.freeze()
        found = [await enter(starling, "ann", inside) for _ in range(4)]
        redis_server.thaw()
        assert found == [0, 0, 3504, 3504]
        await leave(inside)
