"""What one user may cost a worker: connections, failed attempts, names, and answers that it does not read."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from starling.auth.issue import issue_connection_token
from tests.support.running import SECRET, Starling
from tests.support.services import RedisServer

CHANNELS = """
default:
  allow_subscribe_for_client: true
  allow_history_for_client: true
  allow_presence_for_client: true
  allow_publish_for_client: true
  presence: true
  history_size: 300
  history_ttl: 600s
"""
HOOKS = """
import asyncio

tasks = []


async def leave(client):
    raise SystemExit(3)


def interrupt():
    raise KeyboardInterrupt


async def leave_as_task():
    raise SystemExit(4)


async def leave_later(client, data):
    match data:
        case "exit":
            asyncio.get_running_loop().call_soon(exit, 3)
        case "interrupt":
            asyncio.get_running_loop().call_soon(interrupt)
        case "task":
            tasks.append(asyncio.create_task(leave_as_task()))
        case "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(leave_as_task())


rpc = {"leave": leave, "later": leave_later}
"""
NAMES = 20


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A Redis of these tests."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def starling(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starling]:
    """One worker in production mode with small limits."""
    directory = tmp_path_factory.mktemp("costs")
    (directory / "channels.yaml").write_text(CHANNELS)
    (directory / "leaving.py").write_text(HOOKS)
    settings = {
        "STARLING_BROKER_URL": server.url,
        "STARLING_WORKERS": "1",
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_ALLOW_ANONYMOUS": "true",
        "STARLING_CHANNELS_FILE": str(directory / "channels.yaml"),
        "STARLING_HOOKS": "leaving",
        "STARLING_HOOKS_PATH": str(directory),
        "STARLING_WORKER_CONNECTIONS_PER_USER": "3",
        "STARLING_WORKER_CONNECTIONS_PER_ADDRESS": "2",
        "STARLING_NEW_CHANNELS_PER_SECOND": "0.001",
        "STARLING_NEW_CHANNEL_BURST": str(NAMES),
    }
    with Starling(settings) as running:
        yield running


class Client:
    """A client of the client endpoint that sends commands and gets replies by id."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._id = 0

    async def ask(self, **command: Any) -> dict[str, Any]:
        self._id += 1
        await self.socket.send(json.dumps({"id": self._id, **command}))
        while True:
            for line in str(await self.socket.recv()).splitlines():
                reply: dict[str, Any] = json.loads(line)
                if reply.get("id") == self._id:
                    return reply


@pytest.fixture
async def opened() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def client_of(starling: Starling, user: str, opened: AsyncExitStack) -> Client:
    client = Client(await opened.enter_async_context(connect(f"{starling.url}/connection/websocket", max_size=None)))
    token = {"token": issue_connection_token(SECRET, user, 60)} if user else {}
    reply = await client.ask(connect=token)
    assert "connect" in reply, reply
    return client


@pytest.mark.parametrize(("user", "most"), [("alice", 3), ("", 2)])
async def test_a_user_and_an_address_have_as_many_connections_as_they_may(
    starling: Starling, user: str, most: int
) -> None:
    async with AsyncExitStack() as opened:
        for _ in range(most):
            last = await client_of(starling, user, opened)
        with pytest.raises(ConnectionClosed) as closed:
            await client_of(starling, user, opened)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 3504
        await client_of(starling, "another", opened)
        # The place of one that leaves is free, and no refused one has taken it.
        await last.socket.close()
        starling.reported("client_disconnected", code=1000)
        await client_of(starling, user, opened)


async def test_the_tutorial_endpoints_count_for_their_user_too(starling: Starling) -> None:
    token = {"Authorization": f"Bearer {issue_connection_token(SECRET, 'tutor', 60)}"}
    async with AsyncExitStack() as opened:
        await client_of(starling, "tutor", opened)
        for path in ("/ws", "/ws/7"):
            await opened.enter_async_context(connect(starling.url + path, additional_headers=token))
        for path in ("/ws", "/ws/7", "/items/a/ws"):
            with pytest.raises(InvalidStatus) as refused:
                await connect(starling.url + path, additional_headers=token)
            assert refused.value.response.status_code == 429


async def test_a_hook_that_exits_is_an_error_of_its_caller_alone(starling: Starling, opened: AsyncExitStack) -> None:
    client = await client_of(starling, "leaver", opened)
    workers = starling.workers
    assert (await client.ask(rpc={"method": "leave"}))["error"]["code"] == 100
    assert "result" not in await client.ask(ping={})
    assert starling.workers == workers


@pytest.mark.parametrize(
    ("data", "raised"),
    [("exit", "SystemExit: 3"), ("interrupt", "KeyboardInterrupt"), ("task", "SystemExit: 4"), ("group", "")],
)
async def test_an_exit_outside_of_a_hook_ends_nobodys_connection(
    starling: Starling, opened: AsyncExitStack, data: str, raised: str
) -> None:
    client = await client_of(starling, "late leaver", opened)
    workers = starling.workers
    before = len([line for line in starling.lines if line["event"] == "exit_prevented"])
    reply = await client.ask(rpc={"method": "later", "data": data})
    assert reply.get("error", {}).get("code") == (100 if data == "group" else None)
    assert raised in starling.reported("exit_prevented", count=before + 1)[-1]["exception"]
    assert "result" not in await client.ask(ping={})
    assert starling.workers == workers


@pytest.mark.parametrize("way", ["history", "subscribe", "publish"])
async def test_names_that_nobody_used_are_paid_by_the_user_over_all_its_connections(
    starling: Starling, server: RedisServer, opened: AsyncExitStack, way: str
) -> None:
    user = f"namer-{way}"
    first, second = await client_of(starling, user, opened), await client_of(starling, user, opened)

    async def use(client: Client, name: str) -> int:
        command: dict[str, Any] = {"channel": name}
        if way == "publish":
            command["data"] = 1
        return int((await client.ask(**{way: command})).get("error", {"code": 0})["code"])

    known = f"known-{way}"
    assert await use(await client_of(starling, "other", opened), known) == 0
    for number in range(NAMES):
        assert await use(first if number % 2 else second, f"{way}-{number}") == 0
    assert await use(first, f"{way}-one-more") == 111
    assert await use(second, f"{way}-one-more") == 111
    # A channel that the client is in is no new one.
    if way == "subscribe":
        assert "history" in await first.ask(history={"channel": f"{way}-1"})
    async with redis.asyncio.Redis.from_url(server.url) as plain:
        assert not await plain.exists(f"starling:meta:{{{way}-one-more}}")
    # Others have budgets of their own.
    assert await use(await client_of(starling, "third", opened), f"{way}-third") == 0


async def test_history_of_an_empty_channel_and_a_subscription_at_once_have_one_epoch(
    starling: Starling, opened: AsyncExitStack
) -> None:
    client = await client_of(starling, "state", opened)
    position = (await client.ask(history={"channel": "state-of-nothing"}))["history"]
    result = (
        await client.ask(
            subscribe={
                "channel": "state-of-nothing",
                "recoverable": True,
                "recover": True,
                "epoch": position["epoch"],
                "offset": position.get("offset", 0),
            }
        )
    )["subscribe"]
    assert result["recovered"] is True
    assert result["epoch"] == position["epoch"]


async def test_history_is_bounded_in_bytes_and_read_on_from_where_it_ends(
    starling: Starling, opened: AsyncExitStack
) -> None:
    client = await client_of(starling, "reader", opened)
    for number in range(30):
        await client.ask(publish={"channel": "large", "data": {"number": number, "filler": "x" * 60_000}})
    seen: list[int] = []
    since: dict[str, Any] = {"offset": 0, "epoch": ""}
    answers = 0
    while len(seen) < 30:
        history = (await client.ask(history={"channel": "large", "limit": 300, "since": since}))["history"]
        assert len(json.dumps(history)) < 2**20
        seen += [publication["data"]["number"] for publication in history["publications"]]
        since = {"offset": history["publications"][-1]["offset"], "epoch": history["epoch"]}
        answers += 1
    assert seen == list(range(30))
    assert answers == 3


async def test_answers_that_are_not_read_stop_the_reading_and_are_all_there_later(
    starling: Starling, opened: AsyncExitStack
) -> None:
    writer = await client_of(starling, "reader", opened)
    for number in range(12):
        await writer.ask(publish={"channel": "unread", "data": {"number": number, "filler": "x" * 60_000}})
    client = await client_of(starling, "sleeper", opened)
    command = "\n".join(json.dumps({"id": 1000 + n, "history": {"channel": "unread", "limit": 300}}) for n in range(10))
    await client.socket.send(command)
    # Others are served though it reads nothing: 7 MB are asked for, and only a part of it is made.
    for number in range(20):
        assert "subscribe" in await (await client_of(starling, f"by-{number}", opened)).ask(
            subscribe={"channel": "unread"}
        )
    ids: list[int] = []
    while len(ids) < 10:
        ids += [json.loads(line)["id"] for line in str(await client.socket.recv()).splitlines() if "history" in line]
    assert sorted(ids) == [1000 + number for number in range(10)]


async def test_failed_connects_of_an_address_are_limited_and_good_ones_are_not(tmp_path: Path) -> None:
    settings = {
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_FAILED_CONNECTS_PER_MINUTE": "4",
        "STARLING_TRUSTED_PROXIES": "127.0.0.1",
    }
    with Starling(settings) as starling:

        async def attempt(path: str, address: str, token: str) -> int:
            headers = {"X-Forwarded-For": address, "Authorization": f"Bearer {token}"}
            try:
                async with connect(starling.url + path, additional_headers=headers) as socket:
                    if path == "/connection/websocket":
                        await socket.send('{"id":1,"connect":{}}')
                        await socket.recv()
            except InvalidStatus as refused:
                return refused.response.status_code
            except ConnectionClosed as closed:
                return closed.rcvd.code if closed.rcvd else 0
            return 101

        good = issue_connection_token(SECRET, "alice", 60)
        for path in ("/connection/websocket", "/ws"):
            assert [await attempt(path, "192.0.2.1", good) for _ in range(6)] == [101] * 6
        codes = [await attempt(path, "192.0.2.1", "bad") for _ in range(3) for path in ("/connection/websocket", "/ws")]
        assert codes == [3500, 401, 3500, 401, 429, 429]
        assert await attempt("/ws", "192.0.2.1", good) == 429
        assert await attempt("/ws", "192.0.2.2", good) == 101
