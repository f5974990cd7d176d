"""Reading append-only streams over HTTP while they grow, and what ends a response that waits."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import pytest
from starlette.datastructures import QueryParams
from starlette.types import Message

from starling.engine.append_store import Closing, StreamKind, StreamStatus
from starling.engine.engine import Engine
from starling.engine.hooks import Client
from starling.engine.readiness import Unready
from starling.engine.receiver import TokenFacts
from starling.engine.revocation import Revocation
from starling.engine.stream_chunks import bytes_chunk, json_chunk, text_chunk
from starling.protocol.codes import CommandRefused
from starling.web import durable_reading
from starling.web.durable_reading import StreamReading, StreamRequest
from starling.web.durable_request import Reader, RequestRefused
from tests.support.engines import memory_engine, started
from tests.support.waiting import DEADLINE, until

CHANNEL = "answers:1"
TOKEN = TokenFacts("alice", "t1", "s1", issued_at=1.0)


class Answered:
    """What a client of one response gets."""

    def __init__(self) -> None:
        self.body = b""
        self.ended = False
        self._left = asyncio.Event()

    async def send(self, message: Message) -> None:
        self.body += message.get("body", b"")
        self.ended |= message["type"] == "http.response.body" and not message.get("more_body", False)

    async def receive(self) -> Message:
        await self._left.wait()
        return {"type": "http.disconnect"}

    def leave(self) -> None:
        self._left.set()

    @property
    def controls(self) -> list[dict[str, Any]]:
        """The content of the control events."""
        _, *rest = self.body.split(b"event: control\ndata:")
        return [json.loads(each.partition(b"\n")[0]) for each in rest]


def request_of(engine: Engine, live: str = "", *, offset: str = "-1", tag: str = "") -> StreamRequest:
    scope: dict[str, Any] = {
        "headers": [(b"if-none-match", tag.encode())] if tag else [],
        "query_string": f"offset={offset}{live and '&live='}{live}".encode(),
        "scheme": "http",
        "path": f"/streams/{CHANNEL}",
    }
    request = StreamRequest(scope, CHANNEL, engine.channels.options(CHANNEL))
    request.reader = Reader(Client("alice"), "192.0.2.1", TOKEN)
    return request


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    """One with an open stream of text that is empty."""
    async with started(memory_engine({"namespaces": {"answers": {"stream": "text"}}})) as engine:
        await engine.append_streams.open(CHANNEL, engine.channels.options(CHANNEL), StreamKind.TEXT)
        yield engine


def begin_events(engine: Engine, reading: StreamReading, answered: Answered) -> asyncio.Future[None]:
    return asyncio.ensure_future(reading.stream(request_of(engine, "sse"), answered.receive, answered.send))


async def ends(task: asyncio.Future[Any]) -> None:
    async with asyncio.timeout(DEADLINE):
        await task


async def append(engine: Engine, text: str) -> None:
    await engine.append_streams.append(CHANNEL, engine.channels.options(CHANNEL), text_chunk(text), StreamKind.TEXT)


async def revoke_by(engine: Engine, kind: Any, name: str) -> None:
    later = time.time() + 60
    await engine.revocations.revoke(Revocation(kind, name, later, later))
    await until(lambda: not engine.revocations.still_valid(TOKEN), "the token is revoked")


@pytest.mark.parametrize(("kind", "name"), [("token", "t1"), ("session", "s1"), ("user", "alice")])
async def test_nothing_is_sent_of_a_stream_once_the_readers_token_is_revoked(
    engine: Engine, kind: str, name: str
) -> None:
    await append(engine, "before")
    answered, reading = Answered(), StreamReading(engine, DEADLINE)
    task = begin_events(engine, reading, answered)
    await until(lambda: b"before" in answered.body, "the reader has what is there")
    await revoke_by(engine, kind, name)
    await append(engine, "secret")
    await ends(task)
    assert answered.ended
    assert b"secret" not in answered.body


async def test_a_long_poll_is_refused_once_its_token_is_revoked(engine: Engine) -> None:
    reading = StreamReading(engine, DEADLINE)
    task = asyncio.ensure_future(reading.read(request_of(engine, "long-poll")))
    await until(lambda: reading.waiting, "the request waits")
    await revoke_by(engine, "token", "t1")
    await append(engine, "secret")
    with pytest.raises(CommandRefused, match="invalid token"):
        await ends(task)


async def test_a_reader_of_events_gets_each_append_with_its_offset_until_the_stream_is_closed(engine: Engine) -> None:
    answered, reading = Answered(), StreamReading(engine, DEADLINE)
    task = begin_events(engine, reading, answered)
    await until(lambda: answered.controls, "an empty stream is reported at once")
    assert b"event: data" not in answered.body
    await append(engine, " one\r\ntwo")
    await until(lambda: len(answered.controls) == 2, "what is appended comes")
    assert b"event: data\ndata:  one\ndata:two\n\n" in answered.body
    await engine.append_streams.close(CHANNEL, engine.channels.options(CHANNEL), Closing(StreamStatus.COMPLETE))
    await ends(task)
    assert answered.ended
    assert [each.get("streamClosed", False) for each in answered.controls] == [False, False, True]
    offsets = [each["streamNextOffset"] for each in answered.controls]
    assert offsets == sorted(set(offsets))


@pytest.mark.parametrize("end", ["client", "drain", "deletion", "time"])
async def test_events_end_when_their_client_the_worker_the_stream_or_their_time_does(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    if end == "time":
        monkeypatch.setattr(durable_reading, "SSE_SECONDS", 0.1)
    answered, reading = Answered(), StreamReading(engine, DEADLINE)
    await append(engine, "there")
    task = begin_events(engine, reading, answered)
    await until(lambda: b"there" in answered.body, "the reader has what is there")
    match end:
        case "client":
            answered.leave()
        case "drain":
            engine.readiness.hold(Unready.DRAINING)
        case "deletion":
            await engine.append_streams.delete(CHANNEL, engine.channels.options(CHANNEL))
    await ends(task)
    assert reading.waiting == 0
    # A client that has left gets no end.
    assert answered.ended is (end != "client")
    assert len(answered.controls) == 1


@pytest.mark.parametrize("end", ["time", "drain", "deletion", "close"])
async def test_a_long_poll_without_an_append_ends_with_204_and_says_where_the_stream_is(
    engine: Engine, end: str
) -> None:
    reading = StreamReading(engine, 0.05 if end == "time" else DEADLINE)
    task = asyncio.ensure_future(reading.read(request_of(engine, "long-poll")))
    await until(lambda: reading.waiting or task.done(), "the request waits")
    match end:
        case "drain":
            engine.readiness.hold(Unready.DRAINING)
        case "close":
            await engine.append_streams.close(CHANNEL, engine.channels.options(CHANNEL), Closing(StreamStatus.COMPLETE))
        case "deletion":
            await engine.append_streams.delete(CHANNEL, engine.channels.options(CHANNEL))
    if end == "deletion":
        with pytest.raises(RequestRefused, match="there is no stream"):
            await ends(task)
        return
    await ends(task)
    headers = dict(task.result().headers)
    assert (task.result().status, headers.get("Stream-Up-To-Date")) == (HTTPStatus.NO_CONTENT, "true")
    assert headers.get("Stream-Closed") == ("true" if end == "close" else None)


async def test_a_long_poll_returns_what_is_appended_while_it_waits(engine: Engine) -> None:
    reading = StreamReading(engine, DEADLINE)
    task = asyncio.ensure_future(reading.read(request_of(engine, "long-poll")))
    await until(lambda: reading.waiting, "the request waits")
    await append(engine, "news")
    await ends(task)
    assert (task.result().status, task.result().body) == (HTTPStatus.OK, b"news")


async def test_what_a_cache_has_is_not_sent_again_until_the_stream_grows_or_closes(engine: Engine) -> None:
    reading = StreamReading(engine, DEADLINE)
    await append(engine, "one")
    tags: list[str] = []
    for change in ("none", "append", "close"):
        match change:
            case "append":
                await append(engine, "two")
            case "close":
                await engine.append_streams.close(
                    CHANNEL, engine.channels.options(CHANNEL), Closing(StreamStatus.COMPLETE)
                )
        stale = await reading.read(request_of(engine, tag=tags[-1] if tags else '"other"'))
        assert stale.status is HTTPStatus.OK
        tags.append(dict(stale.headers)["ETag"])
        cached = await reading.read(request_of(engine, tag=f'"other", {tags[-1]}'))
        assert (cached.status, cached.body) == (HTTPStatus.NOT_MODIFIED, b"")
    assert len(set(tags)) == 3


async def test_a_reader_that_begins_now_is_not_given_what_is_there_and_no_cache_keeps_it(engine: Engine) -> None:
    await append(engine, "before")
    response = await StreamReading(engine, DEADLINE).read(request_of(engine, offset="now"))
    headers = dict(response.headers)
    assert (response.body, headers["Cache-Control"], "ETag" in headers) == (b"", "no-store", False)


@pytest.mark.parametrize(
    ("live", "offset", "words"),
    [
        ("polling", "-1", "long-poll or sse"),
        ("long-poll", "", "offset"),
        ("", "7", "offset: -1, now, or what Stream-Next-Offset said"),
        ("long-poll", "00000000000000000000_another", "of a stream that was deleted"),
    ],
)
async def test_what_cannot_be_read_is_refused_with_what_to_send_instead(
    engine: Engine, live: str, offset: str, words: str
) -> None:
    request = request_of(engine, live, offset=offset)
    if not offset:
        request.query = QueryParams("live=long-poll")
    with pytest.raises(RequestRefused, match=words):
        await StreamReading(engine, DEADLINE).read(request)


async def test_events_without_an_offset_are_refused(engine: Engine) -> None:
    request, answered = request_of(engine, "sse"), Answered()
    request.query = QueryParams("live=sse")
    with pytest.raises(RequestRefused, match="needed to read live"):
        await StreamReading(engine, DEADLINE).stream(request, answered.receive, answered.send)


async def test_bytes_come_in_events_as_base64_and_json_as_one_list() -> None:
    async with started(memory_engine({"namespaces": {"answers": {"stream": "any"}}})) as engine:
        for kind, chunks, data in (
            (StreamKind.BYTES, [bytes_chunk(b"\x00\xff"), bytes_chunk(b"x")], base64.b64encode(b"\x00\xffx")),
            (StreamKind.JSON, [json_chunk([b"1"]), json_chunk([b'"a"'])], b'[1,"a"]'),
        ):
            options = engine.channels.options(CHANNEL)
            await engine.append_streams.open(CHANNEL, options, kind)
            for chunk in chunks:
                await engine.append_streams.append(CHANNEL, options, chunk, kind)
            await engine.append_streams.close(CHANNEL, options, Closing(StreamStatus.COMPLETE))
            answered = Answered()
            await ends(begin_events(engine, StreamReading(engine, DEADLINE), answered))
            assert b"event: data\ndata:%b\n\n" % data in answered.body
            await engine.append_streams.delete(CHANNEL, options)
