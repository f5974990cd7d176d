"""One answer of a language model over killed workers and a killed Redis, and readers that join at random moments."""

import asyncio
import itertools
import json
import os
import random
import signal
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

import starling
from tests.support.nginx import nginx_before
from tests.support.running import Starling, two_workers
from tests.support.services import RedisServer
from tests.support.waiting import until

CHANNEL = "answers:42"
OPTIONS = "stream: text, stream_max_bytes: 4194304, append_window: 100ms, allow_subscribe_for_client: true"
CHANNELS = f"namespaces: {{answers: {{{OPTIONS}}}}}\n"
# Readers of a killed worker reconnect all at once.
UNLIMITED = {"STARLING_CONNECTS_PER_SECOND": "0", "STARLING_WORKER_CONNECTIONS_PER_ADDRESS": "0"}
AWAY = 1.0
# How long a reader stays connected on average.
RELOAD_SECONDS = 30.0


@dataclass
class AnswerReport:
    """The text that was written, in UTF-8, and what each reader has at its end; how the stream ended for it."""

    written: bytearray = field(default_factory=bytearray)
    kills: int = 0
    redis_kills: int = 0
    readers: list["AnswerReader"] = field(default_factory=list)

    @property
    def wrong(self) -> list[str]:
        """Each reader whose text differs to the byte, or that got no end, or a publication that does not fit."""
        return [
            f"reader {number}: {len(reader.content)} of {len(self.written)} bytes, {reader.status}, {reader.misfits}"
            for number, reader in enumerate(self.readers)
            if reader.content != self.written or reader.status != "complete" or reader.misfits
        ]


class AnswerReader:
    """A reader that reconnects with its position, or now and then without it, as a reloaded page."""

    def __init__(self, url: str, dice: random.Random) -> None:
        self.status = "open"
        self.misfits = 0
        """Publications that began elsewhere than where the text ended: something was lost or doubled."""
        self.connections = 0
        self._url = url
        self._dice = dice
        self.content = bytearray()
        """What the reader shows, in UTF-8."""
        self._position: dict[str, Any] = {}

    async def run(self) -> None:
        """Read until the stream is closed; a connection lasts a random time at most."""
        while self.status == "open":
            try:
                address = f"{self._url}/connection/websocket"
                async with connect(address, max_size=None, open_timeout=10, close_timeout=0.5) as connection:
                    self.connections += 1
                    async with asyncio.timeout(self._dice.expovariate(1 / RELOAD_SECONDS)):
                        await self._read(connection)
            except (OSError, WebSocketException, TimeoutError):
                await asyncio.sleep(self._dice.uniform(0.1, 0.6))
            if self._dice.random() < 0.5 and self.status == "open":
                self.content.clear()
                self._position = {}

    async def _read(self, connection: ClientConnection) -> None:
        numbers = itertools.count(1)
        await connection.send(json.dumps({"id": next(numbers), "connect": {}}))
        await self._subscribe(connection, next(numbers))
        async for frame in connection:
            for message in map(json.loads, str(frame).splitlines()):
                push = message.get("push", {})
                if not message:
                    await connection.send("{}")
                elif "error" in message or "unsubscribe" in push:
                    # Temporary, all of them: Redis is away.
                    await asyncio.sleep(self._dice.uniform(0.1, 0.5))
                    await self._subscribe(connection, next(numbers))
                elif "subscribe" in message:
                    self._begin(message["subscribe"])
                elif "pub" in push:
                    self._keep(push["pub"])
            if self.status != "open":
                return

    async def _subscribe(self, connection: ClientConnection, number: int) -> None:
        await connection.send(json.dumps({"id": number, "subscribe": {"channel": CHANNEL, **self._position}}))

    def _begin(self, result: dict[str, Any]) -> None:
        if not self._position:
            self._position = {"recover": True, "epoch": result["epoch"], "offset": 0}
        for publication in result.get("publications", ()):
            self._keep(publication)

    def _keep(self, publication: dict[str, Any]) -> None:
        tags = publication["tags"]
        self.misfits += int(tags["at"]) != len(self.content)
        self.content += publication["data"]["text"].encode()
        self.status = tags.get("status", self.status)
        self._position["offset"] = publication["offset"]


async def answer_over_kills(
    count: int, kills: int, directory: Path, *, pause: float, redis_kills: int = 1, seed: int = 1
) -> AnswerReport:
    """Write an answer while workers of two pods are killed `kills` times, `pause` seconds apart, and Redis between.

    `count` readers join at random moments from the beginning to a moment after the end. They and the writer connect
    through nginx.
    """
    dice = random.Random(seed)
    report = AnswerReport()
    with ExitStack() as stack:
        enter = stack.enter_context
        redis = await asyncio.to_thread(enter, RedisServer(appendonly="yes", appendfsync="always"))
        settings = {**two_workers(directory, redis.url, CHANNELS), **UNLIMITED}
        pods = [await asyncio.to_thread(enter, Starling(settings)) for _ in range(2)]
        port = await asyncio.to_thread(enter, nginx_before([pod.port for pod in pods], directory))
        over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_write(f"http://127.0.0.1:{port}", report, over))
            for _ in range(count):
                report.readers.append(reader := AnswerReader(f"ws://127.0.0.1:{port}", random.Random(dice.random())))
                tasks.create_task(_join(reader, dice.uniform(0, pause * (kills + 3))))
            await until(lambda: bool(report.written), "the writer writes")
            redis_dies_at = {kills * each // (redis_kills + 1) for each in range(1, redis_kills + 1)}
            for number in range(kills):
                await asyncio.sleep(pause)
                if number in redis_dies_at:
                    await asyncio.to_thread(redis.kill)
                    await asyncio.sleep(AWAY)
                    await asyncio.to_thread(redis.start)
                    report.redis_kills += 1
                report.kills += await asyncio.to_thread(_kill, pods[number % 2])
            await asyncio.sleep(pause)
            over.set()
    return report


async def _join(reader: AnswerReader, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await reader.run()


def _kill(pod: Starling) -> int:
    pod.until_ready(1)
    # The worker that lives longest: those that die young are replaced later and later.
    os.kill(min(pod.workers), signal.SIGKILL)
    return 1


async def _write(url: str, report: AnswerReport, over: asyncio.Event) -> None:
    """One producer, from the first kill to the last."""
    async with starling.open_stream(CHANNEL, url=url, key="dev") as answer:
        for number in itertools.count():
            if over.is_set():
                return
            report.written += (token := f"{number} grüßt 😀, ").encode()
            await answer.write(token)
            await asyncio.sleep(0.02)
