"""The package broadcaster over Starling's links: its own class, and a chat of two processes over a lost link. 6 s."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from broadcaster import Broadcast
from websockets.asyncio.client import ClientConnection, connect

from starling.broadcast import backend_for
from starling.engine.broker import BrokerUnavailable
from tests.brokers.test_broadcaster import received_by_everybody
from tests.support.services import PostgresServer, RedisServer
from tests.support.waiting import DEADLINE

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


async def test_broadcast_runs_over_redis(redis_server: RedisServer) -> None:
    async with (
        Broadcast(backend=backend_for(redis_server.url)) as first,
        Broadcast(backend=backend_for(redis_server.url)) as second,
    ):
        await received_by_everybody(first, second)


async def test_broadcast_runs_over_postgresql(postgres_server: PostgresServer) -> None:
    async with (
        Broadcast(backend=backend_for(postgres_server.url)) as first,
        Broadcast(backend=backend_for(postgres_server.url)) as second,
    ):
        await received_by_everybody(first, second)


async def test_prefixes_divide_the_channels_of_one_server(redis_server: RedisServer) -> None:
    async with (
        Broadcast(backend=backend_for(redis_server.url, prefix="one")) as first,
        Broadcast(backend=backend_for(redis_server.url, prefix="two")) as second,
        first.subscribe("news") as news,
    ):
        await second.publish("news", "for the other prefix")
        await first.publish("news", "for this one")
        async with asyncio.timeout(DEADLINE):
            assert (await news.get()).message == "for this one"


async def test_a_subscriber_gets_messages_again_after_redis_was_away_without_doing_anything(
    redis_server: RedisServer,
) -> None:
    async with (
        Broadcast(backend=backend_for(redis_server.url, timeout=0.5)) as room,
        room.subscribe("news") as news,
    ):
        redis_server.stop()
        with pytest.raises(BrokerUnavailable):
            await room.publish("news", "nobody can carry this")
        redis_server.start()
        async with asyncio.timeout(DEADLINE):
            while True:
                with suppress(BrokerUnavailable):
                    await room.publish("news", "back")
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        assert (await news.get()).message == "back"
                        break


@contextmanager
def chat_process(redis: RedisServer, log: Path) -> Iterator[str]:
    """The example under uvicorn, on a port that it draws itself; yields the address of its chat."""
    environment = {**os.environ, "BROADCAST_URL": redis.url}
    command = [sys.executable, "-m", "uvicorn", "broadcaster_chat:app", "--port", "0"]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=EXAMPLES, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            for _ in range(600):
                if found := re.search(r"running on http://([\d.:]+) ", log.read_text()):
                    break
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.05)
            assert found, log.read_text()
            yield f"ws://{found[1]}/chat"
        finally:
            process.kill()
            process.wait(DEADLINE)


async def until_received(sender: ClientConnection, receiver: ClientConnection, text: str) -> None:
    """Send until it arrives: a subscription may be a moment behind its handshake, and a lost link behind its return."""
    while True:
        await sender.send(text)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                while await receiver.recv() != text:
                    pass
                return


async def test_the_chat_of_two_processes_goes_on_after_redis_was_restarted(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        first, second = (stack.enter_context(chat_process(redis_server, tmp_path / name)) for name in ("a", "b"))
        async with asyncio.timeout(60), connect(first) as ann, connect(second) as bob:
            await until_received(ann, bob, "hello")
            redis_server.restart()
            await until_received(ann, bob, "hello again")
