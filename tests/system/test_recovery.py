"""Two hundred clients lose their workers again and again, and every one ends with every message, once and in order."""

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from starling.auth.issue import issue_connection_token
from tests.support.running import SECRET, Starling
from tests.support.services import RedisServer
from tests.support.waiting import until

CLIENTS = 200
CHANNELS = 20
MESSAGES = 5000
KILLS = 4


@pytest.fixture
def starling(redis_server: RedisServer, tmp_path: Path) -> Iterator[Starling]:
    """Two workers over a real Redis, where what was published can be recovered."""
    channels = tmp_path / "channels.yaml"
    channels.write_text(
        "default: {history_size: 1000, history_ttl: 5m, force_recovery: true,"
        " allow_subscribe_for_client: true, allow_publish_for_client: true}\n"
    )
    environment = {
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_CHANNELS_FILE": str(channels),
        "STARLING_BROKER_URL": redis_server.url,
        "STARLING_WORKERS": "2",
    }
    with Starling(environment) as running:
        yield running


class Talk:
    """A conversation with the service, made again whenever it is lost, as the SDKs do it."""

    def __init__(self, starling: Starling, user: str) -> None:
        self.connections = 0
        self._url = f"{starling.url}/connection/websocket"
        self._token = issue_connection_token(SECRET, user, 600)

    async def run(self) -> None:
        """Connect, and connect again, until cancelled."""
        for attempt in itertools.count():
            try:
                async with connect(self._url, max_queue=None, open_timeout=5, close_timeout=1) as socket:
                    await socket.send(json.dumps({"id": 1, "connect": {"token": self._token}}))
                    await self.begin(socket)
                    async for frame in socket:
                        for line in str(frame).splitlines():
                            await self._take(socket, json.loads(line))
            except (OSError, WebSocketException, TimeoutError):
                # Gone or not there at all: return like everybody else, a little later.
                pass
            await asyncio.sleep(random.uniform(0.05, 0.3) * min(1 + attempt, 4))

    async def _take(self, socket: ClientConnection, reply: dict[str, Any]) -> None:
        if not reply:
            await socket.send("{}")
        elif "connect" in reply:
            self.connections += 1
        else:
            await self.take(socket, reply)

    async def begin(self, socket: ClientConnection) -> None:
        """Send what comes after the connect command."""

    async def take(self, socket: ClientConnection, reply: dict[str, Any]) -> None:
        """Take a reply or a push."""


class Reader(Talk):
    """Subscribes to one channel from where it stood, and notes all it gets."""

    def __init__(self, starling: Starling, number: int) -> None:
        super().__init__(starling, f"reader-{number}")
        self.channel = f"stream-{number % CHANNELS}"
        self.received: list[int] = []
        self.answers: list[dict[str, Any]] = []
        self._position: dict[str, Any] = {}

    async def begin(self, socket: ClientConnection) -> None:
        request = {"channel": self.channel, **({"recover": True, **self._position} if self._position else {})}
        await socket.send(json.dumps({"id": 2, "subscribe": request}))

    async def take(self, socket: ClientConnection, reply: dict[str, Any]) -> None:
        assert "error" not in reply or reply["error"].get("temporary"), reply
        if "error" in reply:
            await asyncio.sleep(0.1)
            await self.begin(socket)
        elif "subscribe" in reply:
            result = reply["subscribe"]
            self.answers.append(result)
            self._position = {"epoch": result["epoch"], "offset": result.get("offset", 0)}
            for publication in result.get("publications", []):
                self._note(publication)
        elif "pub" in reply["push"]:
            self._note(reply["push"]["pub"])

    def _note(self, publication: dict[str, Any]) -> None:
        self.received.append(publication["data"])
        self._position["offset"] = publication["offset"]


class Writer(Talk):
    """Publishes to one channel, each message until it is acknowledged or received; a lost answer is no lost message."""

    def __init__(self, starling: Starling, number: int) -> None:
        super().__init__(starling, f"writer-{number}")
        self.channel = f"stream-{number}"
        self.acknowledged: list[int] = []
        self.waiting = asyncio.Event()
        self._current: int | None = None
        self._answered = asyncio.Event()
        self._socket: ClientConnection | None = None
        self._received = Reader(starling, number)

    async def begin(self, socket: ClientConnection) -> None:
        # What was published without an answer is found in the channel itself.
        await self._received.begin(socket)

    async def take(self, socket: ClientConnection, reply: dict[str, Any]) -> None:
        if reply.get("id", 0) > 2:
            if reply["id"] - 3 == self._current:
                if "error" in reply:
                    await asyncio.sleep(0.1)
                    await self._send()
                else:
                    self._answered.set()
            return
        await self._received.take(socket, reply)
        if "subscribe" in reply:
            self._socket = socket
            if self._current is not None:
                if self._current in self._received.received:
                    self._answered.set()
                else:
                    await self._send()

    async def _send(self) -> None:
        assert self._socket is not None
        assert self._current is not None
        command = {"id": self._current + 3, "publish": {"channel": self.channel, "data": self._current}}
        await self._socket.send(json.dumps(command))

    async def publish(self, message: int) -> None:
        """Publish, once the one before is known to be stored."""
        self._answered.clear()
        self._current = message
        if self._socket is not None:
            # What fails is sent again on the next connection.
            with contextlib.suppress(WebSocketException):
                await self._send()
        await self._answered.wait()
        self.acknowledged.append(message)
        self._current = None


async def kill_in_turn(starling: Starling, progress: Any) -> list[int]:
    """SIGKILL one worker after another, each at its share of the messages and when its successor is there."""
    killed: list[int] = []
    for kill in range(1, KILLS + 1):
        share = kill * MESSAGES / (KILLS + 1)
        what = f"{share:g} messages are published"
        await until(lambda share=share: progress() >= share, what, deadline=60)  # type: ignore[misc]
        await asyncio.to_thread(starling.until_ready)
        victim = next(pid for pid in starling.workers if pid not in killed)
        os.kill(victim, signal.SIGKILL)
        killed.append(victim)
    return killed


@pytest.mark.timeout(180)
async def test_every_client_ends_with_every_message_once_and_in_order_though_workers_are_killed(
    starling: Starling,
) -> None:
    readers = [Reader(starling, number) for number in range(CLIENTS)]
    writers = [Writer(starling, number) for number in range(CHANNELS)]
    talks = [asyncio.create_task(talk.run()) for talk in (*readers, *writers)]
    try:
        await until(lambda: all(reader.answers for reader in readers), "all are in their channels", deadline=60)

        async def write(writer: Writer) -> None:
            for message in range(MESSAGES // CHANNELS):
                await writer.publish(message)

        writing = [asyncio.create_task(write(writer)) for writer in writers]
        killed = await kill_in_turn(starling, lambda: sum(len(writer.acknowledged) for writer in writers))
        await asyncio.wait_for(asyncio.gather(*writing), 90)

        # Whatever comes twice comes before the last.
        last = MESSAGES // CHANNELS
        await asyncio.gather(*(writer.publish(last) for writer in writers))
        expected = list(range(last + 1))
        await until(
            lambda: all(last in reader.received for reader in readers), "all have the last that was sent", deadline=60
        )
        for talk in talks:
            assert not talk.done(), talk
    finally:
        for talk in talks:
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)

    wrong = {number: reader.received for number, reader in enumerate(readers) if reader.received != expected}
    assert wrong == {}
    assert len(killed) == KILLS
    returns: dict[str, int] = defaultdict(int)
    for reader in readers:
        for answer in reader.answers[1:]:
            assert answer["was_recovering"] is True
            returns["recovered" if answer.get("recovered") else "not"] += 1
    assert returns["not"] == 0
    # Each kill takes about half of the clients with it.
    assert returns["recovered"] >= CLIENTS
