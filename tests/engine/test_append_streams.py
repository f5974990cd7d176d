"""Append-only streams as a worker changes them: where there are none, and while the broker is away."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog

from starling.brokers.memory.broker import MemoryBroker
from starling.engine.append_store import AppendOutcome, Change, Closing, StreamKind, StreamStatus
from starling.engine.broker import BrokerUnavailable
from starling.engine.channels_document import parse_channels
from starling.engine.engine import Engine
from starling.engine.stream_chunks import text_chunk
from starling.protocol.codes import CommandRefused
from tests.support.engines import memory_engine, started
from tests.support.local_server import LocalServer

CHANNELS = {
    "namespaces": {
        "answers": {"stream": "text"},
        "unwatched": {"stream": "text", "producer_timeout": "0s"},
        "plain": {},
    }
}


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
async def engine(broker: MemoryBroker) -> AsyncIterator[Engine]:
    async with started(memory_engine(CHANNELS, broker=broker)) as engine:
        yield engine


async def opened(engine: Engine, channel: str) -> None:
    await engine.append_streams.open(channel, engine.channels.options(channel))


def begin(engine: Engine, channel: str) -> list[Change | Exception]:
    done: list[Change | Exception] = []
    options = engine.channels.options(channel)
    engine.append_streams.begin(channel, options, text_chunk("x"), StreamKind.TEXT, None, done.append)
    return done


async def test_a_channel_of_a_namespace_without_streams_is_refused_with_the_remedy(engine: Engine) -> None:
    plain = engine.channels.options("plain:1")
    with pytest.raises(CommandRefused, match="set stream in its namespace's options"):
        await engine.append_streams.append("plain:1", plain, text_chunk("x"), StreamKind.TEXT)
    with pytest.raises(CommandRefused, match="set stream in its namespace's options"):
        engine.append_streams.kind_of(plain, None)
    with pytest.raises(CommandRefused, match="streams of this namespace hold text"):
        engine.append_streams.kind_of(engine.channels.options("answers:1"), StreamKind.JSON)


async def test_a_broker_that_keeps_no_streams_refuses_them_and_lists_none() -> None:
    async with started(memory_engine(CHANNELS, broker=LocalServer().broker())) as engine:
        with pytest.raises(CommandRefused, match="this broker keeps no append-only streams: use redis://"):
            await opened(engine, "answers:1")
        assert await engine.append_streams.open_channels(10) == []
        await engine.append_streams.sweep()
        await engine.append_streams.count_open()


async def test_what_is_begun_ends_with_the_change_or_with_why_there_is_none(
    broker: MemoryBroker, engine: Engine
) -> None:
    await opened(engine, "answers:1")
    (change,) = begin(engine, "answers:1")
    assert isinstance(change, Change)
    assert change.outcome is AppendOutcome.DONE
    options = engine.channels.options("answers:1")
    await engine.append_streams.close("answers:1", options, Closing(StreamStatus.COMPLETE))
    (refusal,) = begin(engine, "answers:1")
    assert isinstance(refusal, CommandRefused)
    (refusal,) = begin(engine, "answers:2")
    assert isinstance(refusal, CommandRefused)
    await opened(engine, "answers:3")
    broker.lose()
    (failure,) = begin(engine, "answers:3")
    assert isinstance(failure, BrokerUnavailable)


async def test_streams_are_looked_at_again_when_the_broker_is_back(broker: MemoryBroker, engine: Engine) -> None:
    await opened(engine, "answers:1")
    with structlog.testing.capture_logs() as logs:
        broker.lose()
        await engine.append_streams.sweep()
        await engine.append_streams.count_open()
        broker.restore()
        await engine.append_streams.sweep()
        await engine.append_streams.count_open()
    assert {line["event"] for line in logs} <= {"streams_not_looked_at", "streams_not_counted"}
    assert await engine.append_streams.open_channels(10) == ["answers:1"]


async def test_a_stream_whose_namespace_is_gone_or_watches_no_producer_is_looked_at_no_more_or_seldom(
    engine: Engine, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = broker.append_streams
    planned: list[tuple[str, float | None]] = []
    for channel in ("answers:1", "unwatched:1", "unwatched:2"):
        await opened(engine, channel)
    await store.delete("unwatched:2")

    async def due(limit: int) -> list[str]:
        return ["answers:1", "unwatched:1", "unwatched:2"]

    async def plan(channel: str, seconds: float | None) -> None:
        planned.append((channel, seconds))

    monkeypatch.setattr(store, "due", due)
    monkeypatch.setattr(store, "plan", plan)
    fewer: dict[str, Any] = {"namespaces": {name: CHANNELS["namespaces"][name] for name in ("unwatched", "plain")}}
    engine.channels.replace_with(parse_channels(fewer, developer=False))
    await engine.append_streams.sweep()
    assert dict(planned)["answers:1"] is None
    assert dict(planned)["unwatched:1"] is not None
    assert dict(planned)["unwatched:2"] is None
