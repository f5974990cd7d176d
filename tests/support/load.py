"""A small load on a running Starling, through every endpoint and the server API, so that every number moves."""

import asyncio
import json
import random
import threading
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from tests.support.running import two_workers

TEXT = "A starling is never alone: thousands turn as one."
CHANNELS = """
default:
  history_size: 200
  history_ttl: 60s
  presence: true
  allow_subscribe_for_client: true
  allow_publish_for_client: true
namespaces:
  answers: {stream: text}
"""


def environment(directory: Path, redis_url: str) -> dict[str, str]:
    """The settings of a Starling of two workers for `load`; its channels file is written to `directory`."""
    return two_workers(directory, redis_url, CHANNELS)


@contextmanager
def load(url: str, *, talkers: int = 6, guests: int = 3, pause: float = 0.2) -> Iterator[None]:
    """Inside, `talkers` chat and speak the real-time protocol, and `guests` come and go at the other endpoints.

    `url` is the public port's (ws://host:port) of a Starling in developer mode with CHANNELS; each step takes about
    `pause` seconds. What fails is tried again, for tests make it fail. It runs in a thread of its own.
    """
    visits: list[Callable[[], Awaitable[None]]] = [partial(_backend, url.replace("ws", "http", 1), pause)]
    for number in range(talkers):
        visits.append(partial(_chat, f"{url}/ws/{number}", pause))
        visits.append(partial(_subscribe, f"{url}/connection/websocket", pause))
    visits.append(partial(_write_stream, url.replace("ws", "http", 1), pause))
    for _ in range(guests):
        visits.append(partial(_echo, f"{url}/ws", pause))
        visits.append(partial(_echo, f"{url}/items/plumbus/ws?token=t", pause))
        visits.append(partial(_knock, f"{url}/items/plumbus/ws", pause))
    stop = threading.Event()
    work = threading.Thread(target=asyncio.run, args=(_work(visits, stop),), name="load")
    work.start()
    try:
        yield
    finally:
        stop.set()
        work.join(20)


async def _work(visits: list[Callable[[], Awaitable[None]]], stop: threading.Event) -> None:
    tasks = [asyncio.create_task(_again(visit)) for visit in visits]
    while not stop.is_set():
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in tasks), [task for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _again(visit: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await visit()
        except (OSError, WebSocketException):
            await asyncio.sleep(0.5)


def _about(pause: float) -> float:
    return pause * random.uniform(0.5, 1.5)


async def _chat(url: str, pause: float) -> None:
    """Talk and listen for a while, then leave."""
    async with connect(url, max_queue=None) as room:
        listener = asyncio.create_task(_listen(room))
        try:
            for _ in range(random.randint(20, 60)):
                await room.send(TEXT[: random.randint(5, len(TEXT))])
                await asyncio.sleep(_about(pause))
        finally:
            listener.cancel()


async def _listen(room: ClientConnection) -> None:
    with suppress(WebSocketException):  # the talker notices as well
        async for _ in room:
            pass


async def _echo(url: str, pause: float) -> None:
    """Send a few messages to an endpoint that answers, and leave."""
    async with connect(url) as endpoint:
        for _ in range(random.randint(1, 5)):
            await endpoint.send(TEXT)
            await endpoint.recv()
            await asyncio.sleep(_about(pause))
    await asyncio.sleep(_about(pause))


async def _knock(url: str, pause: float) -> None:
    """Be refused, because the token is missing."""
    try:
        async with connect(url):
            raise AssertionError(f"{url} was opened without a token")
    except WebSocketException:
        await asyncio.sleep(5 * _about(pause))


async def _subscribe(url: str, pause: float) -> None:
    """Publish to a channel with history, leave, return and ask for what was missed, and once ask for nonsense."""
    position: dict[str, Any] = {}
    for _ in range(3):
        async with connect(url, max_queue=None) as client:
            await _ask(client, 1, connect={})
            await _ask(client, 2, rpc={"method": "no such method"})
            answer = await _ask(client, 3, subscribe={"channel": "news", **position})
            found = answer.get("subscribe", {})
            position = {"recover": True, "epoch": found.get("epoch", ""), "offset": found.get("offset", 0)}
            for number in range(4, random.randint(8, 20)):
                await _ask(client, number, position, publish={"channel": "news", "data": {"text": TEXT}})
                await asyncio.sleep(_about(pause))
        await asyncio.sleep(_about(pause))


async def _backend(url: str, pause: float) -> None:
    """Publish, ask, revoke a token, and ask for what there is not, as a backend does."""
    requests: list[tuple[str, dict[str, Any]]] = [
        ("publish", {"channel": "news", "data": {"text": TEXT}}),
        ("info", {}),
        ("revoke_token", {"uid": f"nobody's-{random.randrange(1000)}"}),
        ("publish", {"channel": "no such namespace:x", "data": 1}),
    ]
    for method, body in requests:
        await asyncio.to_thread(_call, f"{url}/api/{method}", body)
        await asyncio.sleep(_about(pause))


async def _write_stream(url: str, pause: float) -> None:
    """Write an answer word by word, as a language model does; some are stopped by their readers."""
    channel = f"answers:{random.randrange(10**9)}"
    await asyncio.to_thread(_call, f"{url}/api/stream_open", {"channel": channel})
    for word in TEXT.split():
        await asyncio.to_thread(_call, f"{url}/api/stream_append", {"channel": channel, "text": f"{word} "})
        await asyncio.sleep(_about(pause))
    end = "stream_cancel" if random.random() < 0.2 else "stream_close"
    await asyncio.to_thread(_call, f"{url}/api/{end}", {"channel": channel})


def _call(url: str, body: dict[str, Any]) -> None:
    headers = {"X-API-Key": "dev", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        error.close()


async def _ask(
    client: ClientConnection, number: int, position: dict[str, Any] | None = None, **request: Any
) -> dict[str, Any]:
    """The reply to a command; pings that come before it are answered, and publications move `position`."""
    await client.send(json.dumps({"id": number, **request}))
    while True:
        for line in str(await client.recv()).splitlines():
            reply: dict[str, Any] = json.loads(line)
            if not reply:
                await client.send("{}")
            elif reply.get("id") == number:
                return reply
            elif position is not None and (offset := reply.get("push", {}).get("pub", {}).get("offset")):
                position["offset"] = offset
