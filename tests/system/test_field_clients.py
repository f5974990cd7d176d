"""What clients and backends of the field do that others refuse, on running workers over Redis."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.running import Starling, two_workers
from tests.support.services import RedisServer

CHANNELS = "namespaces: {kept: {history_size: 10, history_ttl: 60s}, short: {history_size: 2, history_ttl: 60s}}"


@pytest.fixture(scope="module")
def starling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starling]:
    with RedisServer() as redis:
        settings = two_workers(tmp_path_factory.mktemp("starling"), redis.url, CHANNELS)
        settings |= {"STARLING_MAX_CHANNELS": "1200", "STARLING_MAX_MESSAGE_BYTES": "1048576"}
        with Starling(settings) as running:
            yield running


def api(starling: Starling, method: str, body: Any) -> Any:
    answer = httpx2.post(f"{starling.http}/api/{method}", json=body, headers={"X-API-Key": "dev"})
    return answer.json()["result"]


async def replies(client: ClientConnection, *commands: dict[str, Any]) -> dict[int, Any]:
    """Send the commands in one frame; return the reply to each by its id."""
    await client.send("\n".join(map(json.dumps, commands)))
    found: dict[int, Any] = {}
    while len(found) < len(commands):
        for line in str(await client.recv()).split("\n"):
            reply = json.loads(line)
            if "id" in reply:
                found[reply["id"]] = reply
    return found


async def test_a_reconnect_subscribes_to_all_channels_that_are_allowed_in_one_frame(starling: Starling) -> None:
    async with connect(f"{starling.url}/connection/websocket", max_size=None) as client:
        subscribes = [{"id": 2 + number, "subscribe": {"channel": f"room{number}"}} for number in range(1200)]
        answers = await replies(client, {"id": 1, "connect": {}}, *subscribes)
    assert [answer for answer in answers.values() if "error" in answer] == []


async def test_recovery_with_offset_0_and_no_epoch_is_from_the_start(starling: Starling) -> None:
    for number in range(3):
        api(starling, "publish", {"channel": "kept:start", "data": number})
        api(starling, "publish", {"channel": "short:start", "data": number})
    from_start = {"recover": True, "recoverable": True, "offset": 0, "epoch": ""}
    async with connect(f"{starling.url}/connection/websocket") as client:
        answers = await replies(
            client,
            {"id": 1, "connect": {}},
            {"id": 2, "subscribe": {"channel": "kept:start", **from_start}},
            {"id": 3, "subscribe": {"channel": "short:start", **from_start}},
            {"id": 4, "subscribe": {"channel": "kept:empty", **from_start}},
            {"id": 5, "subscribe": {"channel": "plain", **from_start}},
        )
    whole, cut, empty, plain = (answers[number]["subscribe"] for number in (2, 3, 4, 5))
    assert [publication["data"] for publication in whole["publications"]] == [0, 1, 2]
    assert (whole["was_recovering"], whole["recovered"]) == (True, True)
    assert (cut["was_recovering"], cut.get("recovered", False), cut.get("publications")) == (True, False, None)
    assert (empty["was_recovering"], empty["recovered"]) == (True, True)
    assert (plain["was_recovering"], plain.get("recovered", False)) == (True, False)


async def test_a_backend_that_disconnects_with_3000_ends_the_connection_without_a_code(starling: Starling) -> None:
    async with connect(f"{starling.url}/connection/websocket") as client:
        answers = await replies(client, {"id": 1, "connect": {}})
        body = {"user": "", "client": answers[1]["connect"]["client"], "disconnect": {"code": 3000, "reason": "gone"}}
        await asyncio.to_thread(api, starling, "disconnect", body)
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
    assert closed.value.rcvd is None, "no close frame came"


@pytest.mark.parametrize("method", ["publish", "history", "presence", "info", "channels", "top", "batch"])
async def test_a_backend_that_ends_its_side_of_the_connection_is_answered(starling: Starling, method: str) -> None:
    body = json.dumps({"channel": "kept:half", "data": 1, "commands": [{"publish": {"channel": "a", "data": 1}}]})
    reader, writer = await asyncio.open_connection("127.0.0.1", starling.port)
    head = f"POST /api/{method} HTTP/1.1\r\nHost: x\r\nX-API-Key: dev\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write((head + body).encode())
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 ")
