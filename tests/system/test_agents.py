"""`presence_set`: an agent without a connection, as clients of another pod see it come and go."""

import json
from typing import Any

import httpx2
from websockets.asyncio.client import ClientConnection, connect

from tests.support.running import Starling
from tests.support.services import RedisServer

KEY = "a key of this test's own"
ROOM = "demo:room"


def call(starling: Starling, method: str, **body: Any) -> dict[str, Any]:
    answer = httpx2.post(f"{starling.http}/api/{method}", json=body, headers={"X-API-Key": KEY}, timeout=10)
    found: dict[str, Any] = answer.json()
    return found


async def pushes(client: ClientConnection, count: int) -> list[dict[str, Any]]:
    """The next pushes of the room about agents."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        for line in str(await client.recv()).splitlines():
            push = json.loads(line).get("push", {})
            found += [{kind: push[kind]["info"]} for kind in ("join", "leave") if kind in push]
        found = [one for one in found if next(iter(one.values()))["client"].startswith("agent:")]
    return found


async def test_an_agent_comes_is_renewed_and_goes_before_the_eyes_of_another_pods_client() -> None:
    with RedisServer() as redis:
        environment = {
            "STARLING_DEV": "true",
            "STARLING_API_KEYS": KEY,
            "STARLING_BROKER_URL": redis.url,
            "STARLING_WORKERS": "1",
        }
        with Starling(environment) as one, Starling(environment) as other:
            async with connect(f"{other.url}/connection/websocket", proxy=None) as client:
                for command in ({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": ROOM}}):
                    await client.send(json.dumps(command))
                    await client.recv()
                agent = {"channel": ROOM, "user": "bot"}
                assert call(one, "presence_set", **agent, info={"state": "writing"}, ttl=60) == {"result": {}}
                assert call(other, "presence_set", **agent, info={"state": "done"}, ttl=60) == {"result": {}}
                here = call(one, "presence", channel=ROOM)["result"]["presence"]
                stats = call(other, "presence_stats", channel=ROOM)["result"]
                assert call(one, "presence_unset", **agent) == {"result": {}}
                assert call(one, "presence_set", channel=ROOM, user="short", ttl=1) == {"result": {}}

                shown = {"user": "bot", "client": "agent:bot"}
                short = {"user": "short", "client": "agent:short"}
                assert await pushes(client, 4) == [
                    {"join": {**shown, "conn_info": {"state": "writing"}}},
                    {"leave": {**shown, "conn_info": {"state": "done"}}},
                    {"join": short},
                    {"leave": short},
                ]

            assert here["agent:bot"] == {**shown, "conn_info": {"state": "done"}}
            assert (len(here), stats) == (2, {"num_clients": 2, "num_users": 2})
            for body, field in (
                ({"channel": ROOM}, "user"),
                ({"channel": ROOM, "user": ""}, "user"),
                ({"channel": ROOM, "user": "bot", "ttl": 0}, "ttl"),
                ({"channel": "nowhere:1", "user": "bot"}, "channel"),
            ):
                assert field in call(one, "presence_set", **body)["error"]["message"]
