"""Reading append-only streams over HTTP while they grow, and what ends a response that waits."""

import asyncio
import time
from typing import Any

import pytest
from starlette.types import Message

from starling.engine.append_store import StreamKind
from starling.engine.engine import Engine
from starling.engine.receiver import TokenFacts
from starling.engine.revocation import Revocation
from starling.engine.stream_chunks import text_chunk
from starling.protocol.codes import CommandRefused
from starling.web.durable_reading import StreamReading, StreamRequest
from starling.web.durable_request import Reader
from tests.support.engines import memory_engine, started
from tests.support.waiting import DEADLINE, until

CHANNEL = "answers:1"
TOKEN = TokenFacts("alice", "t1", "s1", issued_at=1.0)


class Answered:
    """What a client of one response gets."""

    def __init__(self) -> None:
        self.body = b""
        self.ended = False

    async def send(self, message: Message) -> None:
        self.body += message.get("body", b"")
        self.ended |= message["type"] == "http.response.body" and not message.get("more_body", False)

    @staticmethod
    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError


def request_of(engine: Engine, live: str) -> StreamRequest:
    scope: dict[str, Any] = {
        "headers": [],
        "query_string": f"offset=-1&live={live}".encode(),
        "scheme": "http",
        "path": f"/streams/{CHANNEL}",
    }
    request = StreamRequest(scope, CHANNEL, engine.channels.options(CHANNEL))
    request.reader = Reader("alice", "192.0.2.1", TOKEN)
    return request


async def append(engine: Engine, text: str) -> None:
    await engine.append_streams.append(CHANNEL, engine.channels.options(CHANNEL), text_chunk(text), StreamKind.TEXT)


async def revoke_by(engine: Engine, kind: Any, name: str) -> None:
    later = time.time() + 60
    await engine.revocations.revoke(Revocation(kind, name, later, later))
    await until(lambda: not engine.revocations.still_valid(TOKEN), "the token is revoked")


@pytest.mark.parametrize(("kind", "name"), [("token", "t1"), ("session", "s1"), ("user", "alice")])
async def test_nothing_is_sent_of_a_stream_once_the_readers_token_is_revoked(kind: str, name: str) -> None:
    async with started(memory_engine({"namespaces": {"answers": {"stream": "text"}}})) as engine:
        await engine.append_streams.open(CHANNEL, engine.channels.options(CHANNEL), StreamKind.TEXT)
        await append(engine, "before")
        answered, reading = Answered(), StreamReading(engine, DEADLINE)
        task = asyncio.ensure_future(reading.stream(request_of(engine, "sse"), answered.receive, answered.send))
        await until(lambda: b"before" in answered.body, "the reader has what is there")
        await revoke_by(engine, kind, name)
        await append(engine, "secret")
        async with asyncio.timeout(DEADLINE):
            await task
        assert answered.ended
        assert b"secret" not in answered.body


async def test_a_long_poll_is_refused_once_its_token_is_revoked() -> None:
    async with started(memory_engine({"namespaces": {"answers": {"stream": "text"}}})) as engine:
        await engine.append_streams.open(CHANNEL, engine.channels.options(CHANNEL), StreamKind.TEXT)
        reading = StreamReading(engine, DEADLINE)
        task = asyncio.ensure_future(reading.read(request_of(engine, "long-poll")))
        await until(lambda: reading.waiting, "the request waits")
        await revoke_by(engine, "token", "t1")
        await append(engine, "secret")
        with pytest.raises(CommandRefused, match="invalid token"):
            async with asyncio.timeout(DEADLINE):
                await task
