"""Publishing while Redis is away: answered in time, acknowledged only when stored, and never twice by a retry."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.support.history_clients import HistoryClient, Refused
from tests.support.running import Starling, serving
from tests.support.services import RedisServer
from tests.support.waiting import DEADLINE, StepClock
from tests.system.flow import environment

API_KEY = "a key of these tests alone"
CHANNEL = "history:0"
# The broker's time of 2 s, and what a loaded machine takes.
ANSWER_WITHIN = 5.0
PUBLISHERS = 10


def publish(starling: Starling, number: int, key: str = "") -> tuple[int, dict[str, Any]]:
    """Publish by the API; returns the status and the body."""
    return call(starling, "publish", {"channel": CHANNEL, "data": number, "idempotency_key": key})


def call(starling: Starling, method: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Ask the API; returns the status and the body."""
    headers = {"Content-Type": "application/json", "X-API-Key": API_KEY}
    request = urllib.request.Request(f"{starling.http}/api/{method}", json.dumps(asked).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize("fault", [pytest.param("kill", marks=pytest.mark.long), "freeze"])
async def test_while_redis_is_away_both_endpoints_refuse_in_time(
    redis_server: RedisServer, tmp_path: Path, fault: str
) -> None:
    settings = environment(tmp_path, redis_server.url) | {"STARLING_API_KEYS": API_KEY}
    with Starling(settings) as starling:
        async with HistoryClient(starling.url) as client:
            await client.subscribe(CHANNEL)
            await client.publish(CHANNEL, 1)
            await asyncio.to_thread(getattr(redis_server, fault))

            with StepClock() as by_protocol, pytest.raises(Refused) as refused:
                await client.publish(CHANNEL, 2)
            with StepClock() as by_api:
                status, body = await asyncio.to_thread(publish, starling, 3)

            assert refused.value.code == 100
            assert by_protocol.seconds < ANSWER_WITHIN
            assert status == 503, body
            assert body["error"]["code"] == 100
            assert by_api.seconds < ANSWER_WITHIN
            await asyncio.to_thread(redis_server.thaw)


async def test_a_full_redis_refuses_over_the_api_with_503_and_its_own_words(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    settings = environment(tmp_path, redis_server.url) | {"STARLING_API_KEYS": API_KEY}
    async with serving(settings) as starling, Redis.from_url(redis_server.url, protocol=2) as redis:
        assert (await asyncio.to_thread(publish, starling, 1))[0] == 200
        await redis.config_set("maxmemory-policy", "noeviction")
        await redis.config_set("maxmemory", "1")
        status, body = await asyncio.to_thread(publish, starling, 2)
        assert (status, body["error"]["code"]) == (503, 100)
        assert "OOM command not allowed when used memory > 'maxmemory'" in body["error"]["message"]
        # What is there is read, and room ends it.
        status, body = await asyncio.to_thread(call, starling, "history", {"channel": CHANNEL, "limit": 10})
        assert (status, [each["data"] for each in body["result"]["publications"]]) == (200, [1])
        await redis.config_set("maxmemory", "0")
        assert (await asyncio.to_thread(publish, starling, 3))[0] == 200


async def test_retries_with_an_idempotency_key_over_outages_publish_once(tmp_path: Path) -> None:
    with RedisServer(appendonly="yes", appendfsync="always") as server:
        settings = environment(tmp_path, server.url) | {"STARLING_API_KEYS": API_KEY}
        with Starling(settings) as starling:
            async with HistoryClient(starling.url) as client:
                await client.subscribe(CHANNEL)
                acknowledged: list[int] = []
                tries = 0
                done = False

                async def publish_all(first: int) -> None:
                    nonlocal tries
                    number = first
                    while not done:
                        tries += 1
                        status, body = await asyncio.to_thread(publish, starling, number, f"key {number}")
                        if status == 200:
                            assert body["result"]["offset"] > 0
                            acknowledged.append(number)
                            number += PUBLISHERS

                publishing = [asyncio.create_task(publish_all(first)) for first in range(PUBLISHERS)]
                for fault in (server.freeze, server.kill):
                    await asyncio.sleep(0.5)
                    await asyncio.to_thread(fault)
                    await asyncio.sleep(2.5)
                    if server.running:
                        await asyncio.to_thread(server.thaw)
                    else:
                        await asyncio.to_thread(server.start)
                await asyncio.sleep(1)
                done = True
                await asyncio.gather(*publishing)
                ledger = client.ledgers[CHANNEL]
                end = time.monotonic() + DEADLINE
                while set(ledger.numbers) < set(acknowledged) and time.monotonic() < end:
                    await asyncio.sleep(0.05)

                assert tries > len(acknowledged) > 100
                assert ledger.reported == []
                assert ledger.offsets == sorted(set(ledger.offsets))
                assert len(ledger.numbers) == len(set(ledger.numbers))
                assert set(acknowledged) <= set(ledger.numbers)
                assert len(set(ledger.numbers) - set(acknowledged)) <= PUBLISHERS


@pytest.mark.parametrize("fault", ["kill", pytest.param("freeze", marks=pytest.mark.long)])
async def test_publications_that_may_wait_are_stored_once_when_redis_is_back(tmp_path: Path, fault: str) -> None:
    with RedisServer(appendonly="yes", appendfsync="always") as server:
        settings = environment(tmp_path, server.url) | {"STARLING_API_KEYS": API_KEY}
        with Starling(settings) as starling:
            async with HistoryClient(starling.url) as client:
                await client.subscribe(CHANNEL)
                await client.subscribe("history:1")
                await asyncio.to_thread(getattr(server, fault))

                one = {"channel": CHANNEL, "data": 1, "wait_seconds": 20}
                both = {"channels": [CHANNEL, "history:1"], "data": 2, "wait_seconds": 20}
                asked = [
                    asyncio.create_task(asyncio.to_thread(call, starling, "publish", one)),
                    asyncio.create_task(asyncio.to_thread(call, starling, "broadcast", both)),
                ]
                # Longer than the broker's own time, after which it would be refused.
                await asyncio.sleep(4)
                assert not any(task.done() for task in asked)
                await asyncio.to_thread(server.thaw if fault == "freeze" else server.start)
                (status, published), (status_of_both, broadcast) = await asyncio.gather(*asked)

                assert (status, status_of_both) == (200, 200)
                assert published["result"]["epoch"] == broadcast["result"]["responses"][0]["result"]["epoch"]
                end = time.monotonic() + DEADLINE
                while time.monotonic() < end and len(client.ledgers[CHANNEL].numbers) < 2:
                    await asyncio.sleep(0.05)
                await asyncio.sleep(1)
                assert sorted(client.ledgers[CHANNEL].numbers) == [1, 2]
                assert client.ledgers["history:1"].numbers == [2]


async def test_a_publication_waits_no_longer_than_it_may(redis_server: RedisServer, tmp_path: Path) -> None:
    settings = environment(tmp_path, redis_server.url) | {"STARLING_API_KEYS": API_KEY}
    with Starling(settings) as starling:
        redis_server.kill()
        began = time.monotonic()
        asked = {"channel": CHANNEL, "data": 1, "wait_seconds": 2.5}
        status, body = await asyncio.to_thread(call, starling, "publish", asked)

        assert (status, body["error"]["code"]) == (503, 100)
        assert time.monotonic() - began >= 2.5
