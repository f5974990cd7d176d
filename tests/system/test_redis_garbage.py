"""What another program writes straight into Redis costs a reader that one message, and ends nobody's connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import pytest
from redis.asyncio import Redis

from tests.support.history_clients import HistoryClient
from tests.support.running import Starling, serving
from tests.support.services import RedisServer
from tests.support.waiting import DEADLINE
from tests.system.flow import environment

LIVE = "live"
KEPT = "history:0"
ANSWER = "answers:0"
LONG_ANSWER = "answers:1"
# What JSON clients cannot read, in an envelope that is good: bytes, JSON too deep, a number too long, and a broken end.
UNREADABLE = (b"\xff\xfe", b"[" * 300 + b"]" * 300, b"9" * 5000, b'{"a":', b'"\xed\xa0\x80"')
# What is no envelope.
MALFORMED = (
    b"",
    b"\x00",
    b"x\n",
    b"p",
    b"p - 1\n0 0\n1",
    b"p - -1 0\n0 0\n1",
    b"p - 0 0\n0 99\n1",
    b"j\n{",
    b"l\n[]",
    b"\xff" * 70_000,
)


@pytest.fixture
async def starling(redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Starling]:
    settings = environment(tmp_path, redis_server.url) | {"STARLING_WORKERS": "1"}
    with Path(settings["STARLING_CHANNELS_FILE"]).open("a") as channels:
        channels.write("  answers: {stream: text}\n")
    async with serving(settings) as running:
        yield running


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator["Redis"]:
    client = Redis.from_url(redis_server.url, protocol=2)
    yield client
    await client.aclose()


async def received(client: HistoryClient, channel: str, number: int) -> list[int]:
    """The numbers of a client's ledger, once `number` is the last of them."""
    async with asyncio.timeout(DEADLINE):
        while client.ledgers[channel].numbers[-1:] != [number]:
            await asyncio.sleep(0.02)
    return client.ledgers[channel].numbers


async def test_garbage_on_a_channel_costs_its_readers_that_one_message(starling: Starling, redis: "Redis") -> None:
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(HistoryClient(starling.url)) for _ in range(3)]
        for reader in readers:
            await reader.subscribe(LIVE)
        for number, garbage in enumerate([*MALFORMED, *(b"p - 0 0\n0 0\n" + data for data in UNREADABLE)]):
            assert await redis.publish(f"starling:{LIVE}", garbage) > 0
            await readers[0].publish(LIVE, number)
        last = len(MALFORMED) + len(UNREADABLE) - 1
        for reader in readers:
            assert await received(reader, LIVE, last) == list(range(last + 1))
            assert reader.ledgers[LIVE].data == []
            assert (reader.ledgers[LIVE].reported, reader.ledgers[LIVE].closed) == ([], [])


async def test_unreadable_entries_of_a_history_cost_its_readers_those_entries(
    starling: Starling, redis: "Redis"
) -> None:
    async with AsyncExitStack() as stack:
        writer = await stack.enter_async_context(HistoryClient(starling.url))
        await writer.subscribe(KEPT)
        await writer.publish(KEPT, 1)
        await received(writer, KEPT, 1)
        epoch = writer.epochs[KEPT]
        for offset, data in enumerate(UNREADABLE, start=2):
            await write_entry(redis, KEPT, epoch, offset, b"0 0\n" + data)
        await writer.publish(KEPT, 2)
        assert await received(writer, KEPT, 2) == [1, 2]
        assert (writer.ledgers[KEPT].reported, writer.ledgers[KEPT].closed) == ([], [])

        late = await stack.enter_async_context(HistoryClient(starling.url))
        result = await late.subscribe(KEPT, (0, epoch))
        assert result["recovered"]
        assert await received(late, KEPT, 2) == [1, 2]
        read = await late.call("history", {"channel": KEPT, "limit": 100})
        assert [publication["data"] for publication in read["publications"]] == [1, 2]
        await writer.publish(KEPT, 3)
        assert await received(late, KEPT, 3) == [1, 2, 3]
        assert late.ledgers[KEPT].closed == []
    async with asyncio.timeout(DEADLINE):
        while not starling.metrics()["starling_unreadable_messages_total"]:
            await asyncio.sleep(0.1)
    await asyncio.to_thread(starling.reported, "unreadable_for_json_clients")


async def write_entry(redis: "Redis", channel: str, epoch: str, offset: int, body: bytes) -> None:
    """Write an entry into a stream as another program would, and publish it."""
    await redis.xadd(f"starling:stream:{{{channel}}}", {"p": str(offset - 1), "d": body}, id=f"{offset}-0")
    await redis.hset(f"starling:meta:{{{channel}}}", "o", str(offset))
    await redis.publish(f"starling:{channel}", f"p {epoch} {offset} {offset - 1}\n".encode() + body)


async def test_unreadable_entries_of_an_append_only_stream_cost_its_readers_those_entries(
    starling: Starling, redis: "Redis"
) -> None:
    async with AsyncExitStack() as stack:
        writer = await stack.enter_async_context(HistoryClient(starling.url))
        api = await stack.enter_async_context(
            httpx2.AsyncClient(base_url=starling.http, headers={"X-API-Key": "dev"}, timeout=DEADLINE)
        )
        await writer.publish(ANSWER, {"text": "a"})
        epoch = (await api.post("/api/stream_info", json={"channel": ANSWER})).json()["result"]["epoch"]
        bodies = (*(b'0 19\n{"tags":{"at":"1"}}' + data for data in UNREADABLE), b"no envelope at all", b"")
        for offset, body in enumerate(bodies, start=2):
            await write_entry(redis, ANSWER, epoch, offset, body)
        await writer.publish(ANSWER, {"text": "b"})

        late = await stack.enter_async_context(HistoryClient(starling.url))
        result = await late.subscribe(ANSWER)
        assert [publication["data"] for publication in result["publications"]] == [{"text": "a"}, {"text": "b"}]
        read = await api.get(f"/streams/{ANSWER}", params={"offset": "-1"})
        assert (read.status_code, read.text) == (200, "ab")
        await writer.publish(ANSWER, {"text": "c"})
        async with asyncio.timeout(DEADLINE):
            while late.ledgers[ANSWER].data[-1:] != [{"text": "c"}]:
                await asyncio.sleep(0.02)
        assert (late.ledgers[ANSWER].reported, late.ledgers[ANSWER].closed) == ([], [])

        # What does not fit into the answer follows in pushes.
        part = {"text": "x" * 60_000}
        for _ in range(14):
            await writer.publish(LONG_ANSWER, part)
        epoch = (await api.post("/api/stream_info", json={"channel": LONG_ANSWER})).json()["result"]["epoch"]
        await write_entry(redis, LONG_ANSWER, epoch, 15, bodies[0])
        await writer.publish(LONG_ANSWER, {"text": "the end"})
        begun = await late.subscribe(LONG_ANSWER)
        assert len(begun["publications"]) < 14
        async with asyncio.timeout(DEADLINE):
            while late.ledgers[LONG_ANSWER].data[-1:] != [{"text": "the end"}]:
                await asyncio.sleep(0.02)
        ledger = late.ledgers[LONG_ANSWER]
        assert (len(ledger.data), ledger.reported, ledger.closed) == (15, [], [])
    async with asyncio.timeout(DEADLINE):
        while starling.metrics()["starling_unreadable_messages_total"] <= len(UNREADABLE):
            await asyncio.sleep(0.1)
