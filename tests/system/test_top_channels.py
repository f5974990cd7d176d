"""The busiest channels of a pod, over its workers, on the internal port: a list, and few series for Prometheus."""

import asyncio
import json
import re
import time
from collections.abc import Iterator

import pytest
from websockets.asyncio.client import connect

from tests.support.load import environment
from tests.support.running import Starling
from tests.support.services import RedisServer
from tests.support.waiting import DEADLINE

NAMED = 3


@pytest.fixture(scope="module")
def starling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starling]:
    with RedisServer() as redis:
        settings = environment(tmp_path_factory.mktemp("channels"), redis.url)
        with Starling(settings | {"STARLING_TOP_CHANNELS": str(NAMED)}) as starling:
            yield starling


async def listen_and_talk(url: str, channel: str, listeners: int, messages: int, seen: asyncio.Event) -> None:
    """Let this many listen, each by a connection of its own, and one of them speak; they stay until it was `seen`."""
    clients = [await connect(f"{url}/connection/websocket", max_queue=None) for _ in range(listeners)]
    for client in clients:
        await client.send('{"id":1,"connect":{}}\n' + json.dumps({"id": 2, "subscribe": {"channel": channel}}))
    for client in clients:
        while '"id":2' not in str(await client.recv()):
            pass
    for number in range(messages):
        await clients[0].send(json.dumps({"id": 3 + number, "publish": {"channel": channel, "data": "x" * 50}}))
    await seen.wait()
    for client in clients:
        await client.close()


def test_the_busiest_channels_are_reported_over_workers_and_no_more_than_wanted_become_series(
    starling: Starling,
) -> None:
    async def many_channels() -> None:
        seen = asyncio.Event()
        await asyncio.gather(
            listen_and_talk(starling.url, "busy", 12, 40, seen),
            *(listen_and_talk(starling.url, f"quiet{number}", 1, 1, seen) for number in range(8)),
            follow(seen),
        )

    reported: list[dict[str, object]] = []
    series: dict[str, float] = {}

    async def follow(seen: asyncio.Event) -> None:
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            _, body = await asyncio.to_thread(starling.get, f"{starling.internal}/channels/top")
            if len(body.get("channels", ())) >= 9 and body["channels"][0]["subscribers"] == 12:
                reported.extend(body["channels"])
                series.update(await asyncio.to_thread(starling.metrics))
                break
            await asyncio.sleep(0.1)
        seen.set()

    asyncio.run(many_channels())

    assert reported, "nine channels were busy and one of them had twelve subscribers"
    assert reported[0]["channel"] == "busy"
    ranks = [float(str(found["deliveries_per_second"])) for found in reported]
    assert ranks == sorted(ranks, reverse=True)
    named = [name for name in series if name.startswith("starling_top_channel_deliveries_per_second")]
    assert len(named) == NAMED
    assert 'starling_top_channel_deliveries_per_second{channel="busy"}' in named
    per_number = {re.match(r"\w+", name)[0] for name in series if name.startswith("starling_top_channel_")}  # type: ignore[index]
    assert len(per_number) == 5
