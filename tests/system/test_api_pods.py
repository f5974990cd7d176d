"""The server API over two pods of one Redis: whichever is asked, it answers and steers for both."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from app.auth.issue import issue_connection_token
from tests.running import SECRET, Starling
from tests.services import RedisServer

KEY = "a key of this test's own"
CHANNELS = "default: {allow_subscribe_for_client: true}\n"
DEADLINE = 15.0


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Starling, Starling]]:
    """Two services of one worker each."""
    channels = tmp_path_factory.mktemp("channels") / "channels.yaml"
    channels.write_text(CHANNELS)
    with RedisServer() as redis:
        environment = {
            "STARLING_TOKEN_HMAC_SECRET": SECRET,
            "STARLING_API_KEYS": KEY,
            "STARLING_BROKER_URL": redis.url,
            "STARLING_CHANNELS_FILE": str(channels),
            "STARLING_WORKERS": "1",
        }
        with Starling(environment) as one, Starling(environment) as other:
            yield one, other


def call(starling: Starling, method: str, **body: Any) -> Any:
    answer = httpx2.post(f"{starling.http}/api/{method}", json=body, headers={"X-API-Key": KEY}, timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.json()["result"]


async def enter(starling: Starling, user: str, channel: str) -> ClientConnection:
    """A client in a channel."""
    client = await connect(f"{starling.url}/connection/websocket")
    await client.send(json.dumps({"id": 1, "connect": {"token": issue_connection_token(SECRET, user, 60)}}))
    await client.recv()
    await client.send(json.dumps({"id": 2, "subscribe": {"channel": channel}}))
    assert "subscribe" in json.loads(await client.recv())
    return client


async def test_either_pod_sees_and_steers_the_clients_of_both(pods: tuple[Starling, Starling]) -> None:
    clients = [await enter(pod, "alice", "news") for pod in pods]

    for pod in pods:
        assert len(call(pod, "info")["nodes"]) == 2
        assert call(pod, "channels")["channels"] == {"news": {"num_clients": 2}}
        call(pod, "publish", channel="news", data=pod.port)
        for client in clients:
            assert json.loads(await client.recv())["push"]["pub"]["data"] == pod.port
    call(pods[1], "disconnect", user="alice")

    for client in clients:
        with pytest.raises(ConnectionClosed):
            await client.recv()
        assert client.close_code == 3503


async def test_top_tells_of_both_pods_and_of_the_busiest_channels(pods: tuple[Starling, Starling]) -> None:
    clients = [await enter(pod, "carol", "busy") for pod in pods]
    before = call(pods[0], "top")
    for _ in range(20):
        call(pods[0], "publish", channel="busy", data={"text": "hello"})
    for client in clients:
        for _ in range(20):
            await client.recv()
    await asyncio.sleep(1.2)

    for pod in pods:
        told = call(pod, "top", limit=1)
        assert told["missing"] == []
        assert {node["name"] for node in told["nodes"]} == {node["name"] for node in call(pod, "info")["nodes"]}
        assert [(node["connections"], node["subscriptions"]) for node in told["nodes"]] == [(1, 1), (1, 1)]
        (busiest,) = told["channels"]
        assert (busiest["channel"], busiest["subscribers"]) == ("busy", 2)
        assert busiest["deliveries_per_second"] > 0
        earlier = {node["uid"]: node for node in before["nodes"]}
        assert [node["messages_out"] - earlier[node["uid"]]["messages_out"] for node in told["nodes"]] == [20, 20]
        assert sum(node["publications"] - earlier[node["uid"]]["publications"] for node in told["nodes"]) == 20
    for client in clients:
        await client.close()


async def test_a_pod_that_vanished_stalls_no_answer(pods: tuple[Starling, Starling]) -> None:
    """This comes last: the second pod does not come back."""
    client = await enter(pods[0], "bob", "left")
    pid = pods[1].workers[0]
    await asyncio.to_thread(pods[1].kill)

    began = time.monotonic()
    assert [name.rpartition("_")[2] for name in call(pods[0], "top")["missing"]] == [str(pid)]
    assert time.monotonic() - began < 5

    for _ in range(3):
        began = time.monotonic()
        assert call(pods[0], "channels")["channels"] == {"left": {"num_clients": 1}}
        assert time.monotonic() - began < 5
    assert len(call(pods[0], "info")["nodes"]) == 1
    await client.close()
