"""Append-only streams in an engine on memory: every reader, joining at any moment, gets one text, and all of it."""

import asyncio
import random
from collections.abc import AsyncIterator

import msgspec
import pytest
from msgspec import Raw

from starling.engine.append_refusals import StreamRefused
from starling.engine.append_store import AppendOutcome, Change, Producer, StreamKind, StreamStatus
from starling.engine.broker import StreamPosition
from starling.engine.engine import Engine
from starling.engine.stream_chunks import (
    JOIN_BYTES,
    ChunkInvalid,
    bytes_chunk,
    content_of,
    joined,
    json_chunk,
    text_chunk,
)
from starling.engine.stream_reader import StreamLost
from starling.protocol.codes import CommandRefused
from starling.protocol.messages import Publication
from tests.support.engines import memory_engine, started
from tests.support.waiting import DEADLINE, until

CHANNELS = {
    "namespaces": {
        "answers": {"stream": "text", "append_window": "10ms", "stream_max_bytes": 8 * 2**20},
        "silent": {"stream": "text", "producer_timeout": "100ms"},
    }
}
CHANNEL = "answers:1"


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with started(memory_engine(CHANNELS)) as engine:
        yield engine


async def append(engine: Engine, text: str, channel: str = CHANNEL) -> StreamPosition:
    options = engine.channels.options(channel)
    change = await engine.append_streams.append(channel, options, text_chunk(text), StreamKind.TEXT)
    assert change.info is not None
    return StreamPosition(change.info.offset, change.info.epoch)


async def open_stream(engine: Engine, channel: str = CHANNEL) -> None:
    await engine.append_streams.open(channel, engine.channels.options(channel))


async def read_to_the_end(
    engine: Engine, since: StreamPosition | None = None, *, stop_after: int | None = None
) -> tuple[str, StreamPosition, list[Publication]]:
    """The text that one reader gets until the stream is closed, or until `stop_after` publications."""
    found: list[Publication] = []
    async with engine.stream_readers.open(CHANNEL, engine.channels.options(CHANNEL), since) as reader:
        while stop_after is None or len(found) < stop_after:
            found += await reader.next(5)
            if found and (found[-1].tags or {}).get("status"):
                break
        position = StreamPosition(found[-1].offset, reader.position.epoch)
    return "".join(content_of(each, StreamKind.TEXT).decode() for each in found), position, found


async def test_readers_who_join_and_return_at_random_moments_all_get_one_text(engine: Engine) -> None:
    words = [f"{number}ü😀\n" for number in range(400)]
    choose = random.Random(21)
    await open_stream(engine)

    async def write() -> None:
        for word in words:
            await append(engine, word)
            await asyncio.sleep(0)
        options = engine.channels.options(CHANNEL)
        await engine.append_streams.cancel(CHANNEL, options)

    async def read(seed: random.Random) -> str:
        for _ in range(seed.randrange(40)):
            await asyncio.sleep(0)
        text, since, _ = await read_to_the_end(engine, stop_after=seed.randrange(1, 5))
        for _ in range(seed.randrange(20)):
            await asyncio.sleep(0)
        rest, _, found = await read_to_the_end(engine, since)
        assert [each.tags for each in found][-1] == {"at": str(len("".join(words).encode())), "status": "cancelled"}
        return text + rest

    writing = asyncio.create_task(write())
    texts = await asyncio.gather(*(read(random.Random(choose.random())) for _ in range(100)))
    await writing

    assert set(texts) == {"".join(words)}


async def test_what_does_not_fit_the_answer_follows_before_the_reader_is_live(engine: Engine) -> None:
    await open_stream(engine)
    part = "0123456789abcdef" * 4000
    for _ in range(40):
        await append(engine, part)
    async with engine.stream_readers.open(CHANNEL, engine.channels.options(CHANNEL)) as reader:
        await append(engine, "the end")
        found: list[Publication] = []
        while not found or not content_of(found[-1], StreamKind.TEXT).endswith(b"the end"):
            found += await reader.next(5)

    assert "".join(content_of(each, StreamKind.TEXT).decode() for each in found) == part * 40 + "the end"
    assert [int((each.tags or {})["at"]) for each in found] == [
        sum(len(content_of(earlier, StreamKind.TEXT)) for earlier in found[:index]) for index in range(len(found))
    ]


async def test_a_position_within_a_join_gets_one_that_begins_behind_it(engine: Engine) -> None:
    await open_stream(engine)
    positions = [await append(engine, letter) for letter in "abcdef"]
    for index, position in enumerate(positions[:-1]):
        async with engine.stream_readers.open(CHANNEL, engine.channels.options(CHANNEL), position) as reader:
            (publication,) = await reader.next(5)
        assert content_of(publication, StreamKind.TEXT).decode() == "abcdef"[index + 1 :]
        assert publication.tags == {"at": str(index + 1)}
        assert publication.offset == positions[-1].offset


@pytest.mark.parametrize(
    "since", [StreamPosition(0, ""), StreamPosition(2, "another"), StreamPosition(99, ""), StreamPosition(0, "another")]
)
async def test_a_position_of_no_stream_or_of_another_begins_at_the_start(engine: Engine, since: StreamPosition) -> None:
    await open_stream(engine)
    for letter in "abc":
        await append(engine, letter)
    async with engine.stream_readers.open(CHANNEL, engine.channels.options(CHANNEL), since) as reader:
        (publication,) = await reader.next(5)
        assert content_of(publication, StreamKind.TEXT) == b"abc"
        assert reader.recovered == (since == StreamPosition(0, ""))


async def test_a_stream_that_is_deleted_is_lost_to_its_readers(engine: Engine) -> None:
    options = engine.channels.options(CHANNEL)
    await open_stream(engine)
    await append(engine, "old")
    async with engine.stream_readers.open(CHANNEL, options) as reader:
        assert [content_of(each, StreamKind.TEXT) for each in await reader.next(5)] == [b"old"]
        await engine.append_streams.delete(CHANNEL, options)
        with pytest.raises(StreamLost):
            await reader.next(5)


async def until_status(engine: Engine, channel: str, wanted: StreamStatus) -> None:
    """Wait until the stream is so."""
    async with asyncio.timeout(DEADLINE):
        while True:
            info = await engine.append_streams.info(channel, engine.channels.options(channel))
            if info is not None and info.status is wanted:
                return
            await asyncio.sleep(0.005)


async def test_a_silent_producer_is_found_without_any_further_request(engine: Engine) -> None:
    channel = "silent:1"
    await open_stream(engine, channel)
    await until_status(engine, channel, StreamStatus.INTERRUPTED)
    await append(engine, "on", channel)
    await until_status(engine, channel, StreamStatus.OPEN)


async def test_a_gap_is_waited_for_as_long_as_a_window(engine: Engine) -> None:
    options = engine.channels.options(CHANNEL)
    await open_stream(engine)

    async def add(sequence: int) -> AppendOutcome:
        chunk = text_chunk(str(sequence))
        producer = Producer("m", 0, sequence)
        streams = engine.append_streams
        return (await streams.append(CHANNEL, options, chunk, StreamKind.TEXT, producer=producer)).outcome

    assert set(await asyncio.gather(add(1), add(0))) == {AppendOutcome.DONE}
    with pytest.raises(CommandRefused) as refused:
        await add(5)
    assert isinstance(refused.value.reason, StreamRefused)
    assert refused.value.reason.stream is not None
    assert refused.value.reason.stream.expected == 2


# --- joins ---


def publications(*payloads: bytes) -> list[Publication]:
    return [Publication(Raw(data), offset=index + 1, tags={"at": "0"}) for index, data in enumerate(payloads)]


async def test_an_append_without_a_task_waits_for_a_gap_too_and_takes_up_an_interrupted_stream(engine: Engine) -> None:
    outcomes: list[Change | Exception] = []

    def begin(channel: str, sequence: int) -> None:
        producer = Producer("m", 0, sequence)
        options = engine.channels.options(channel)
        engine.append_streams.begin(channel, options, text_chunk("a"), StreamKind.TEXT, producer, outcomes.append)

    await open_stream(engine)
    begin(CHANNEL, 1)
    begin(CHANNEL, 0)
    begin(CHANNEL, 9)
    await until(lambda: len(outcomes) == 3, "each has its outcome")
    assert [isinstance(outcome, Change) for outcome in outcomes] == [True, True, False]
    assert isinstance(outcomes[2], CommandRefused)

    silent = "silent:2"
    await open_stream(engine, silent)
    for sequence in range(2):
        await asyncio.sleep(0.11)
        await engine.append_streams.sweep()
        await until_status(engine, silent, StreamStatus.INTERRUPTED)
        begin(silent, sequence)
        # It is found silent a second time only where it is listed as open again.
        await until_status(engine, silent, StreamStatus.OPEN)


def test_joins_hold_what_their_parts_held() -> None:
    texts = ['a"\\\n', "\x00", "ü😀", ""]
    (text,) = joined(publications(*(text_chunk(each).data for each in texts)))
    (items,) = joined(publications(json_chunk([b"1", b'{"a":\n[2]}']).data, json_chunk([b"[3]"]).data))
    (content,) = joined(publications(bytes_chunk(b"\x00").data, bytes_chunk(b"\xff\xfe").data))

    assert msgspec.json.decode(text.data) == {"text": "".join(texts)}
    assert msgspec.json.decode(items.data) == {"json": [1, {"a": [2]}, [3]]}
    assert content_of(content, StreamKind.BYTES) == b"\x00\xff\xfe"
    assert (text.offset, text.tags) == (4, {"at": "0"})


DEEP = b'{"json":[%b]}' % (b"[" * 256 + b"]" * 256)
# What another program may write into a stream, and nobody can append.
NO_CHUNKS = (
    b"",
    b"\xff",
    b"5",
    b'{"other":1}',
    b'{"json":[1',
    b'{"text":"\xff"}',
    rb'{"text":"\ud800"}',
    DEEP,
    b'{"bytes":"!!"}',
)


@pytest.mark.parametrize("foreign", NO_CHUNKS, ids=lambda data: repr(data[:12]))
@pytest.mark.parametrize(
    ("kind", "chunk", "whole"),
    [
        (StreamKind.TEXT, b'{"text":"a"}', b'{"text":"aa"}'),
        (StreamKind.JSON, b'{"json":[1]}', b'{"json":[1,1]}'),
        (StreamKind.BYTES, b'{"bytes":"YQ=="}', b'{"bytes":"YWE="}'),
    ],
)
def test_what_another_program_wrote_into_a_stream_is_joined_with_nothing(
    kind: StreamKind, chunk: bytes, whole: bytes, foreign: bytes
) -> None:
    written = publications(chunk, chunk, foreign, chunk, chunk)

    found = joined(written)

    assert [(bytes(each.data), each.offset) for each in found] == [(whole, 2), (foreign, 3), (whole, 5)]
    with pytest.raises(ChunkInvalid):
        content_of(written[2], kind)


def test_chunks_of_another_kind_are_joined_with_their_own_alone() -> None:
    text, items = b'{"text":"a"}', b'{"json":[1]}'

    found = joined(publications(text, items, items, text))

    assert [bytes(each.data) for each in found] == [text, b'{"json":[1,1]}', text]
    with pytest.raises(ChunkInvalid):
        content_of(found[1], StreamKind.TEXT)


def test_joins_are_bounded_and_a_change_of_status_stands_alone() -> None:
    parts = publications(*(text_chunk("x" * 1000).data for _ in range(200)))
    ending = Publication(Raw(b'{"text":""}'), offset=201, tags={"at": "200000", "status": "complete"})
    found = joined([*parts, ending])

    assert all(len(each.data) <= JOIN_BYTES for each in found)
    assert len(found) == 5
    assert found[-1] is ending


def test_half_of_a_surrogate_pair_is_no_text() -> None:
    with pytest.raises(ChunkInvalid):
        text_chunk("\ud83d")


async def test_windows_keep_the_order_of_a_producer(engine: Engine) -> None:
    options = engine.channels.options(CHANNEL)
    await open_stream(engine)

    async def add(sequence: int) -> None:
        producer = Producer("m", 0, sequence)
        chunk = text_chunk(f"{sequence} ")
        await engine.append_streams.append(CHANNEL, options, chunk, StreamKind.TEXT, producer=producer, window=True)

    for start in range(0, 60, 20):
        await asyncio.gather(*(add(sequence) for sequence in range(start, start + 20)))
    history = engine.channels.options(CHANNEL)
    assert history.keeps_history
    async with engine.stream_readers.open(CHANNEL, options) as reader:
        found = await reader.next(5)
    assert "".join(content_of(each, StreamKind.TEXT).decode() for each in found) == "".join(
        f"{number} " for number in range(60)
    )
    await until(lambda: not engine.hub.subscribers.channels, "the reader leaves")
