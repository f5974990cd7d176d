"""Reading history through a filter: only matches are returned and counted, and the read has a bound."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import Raw

from starling.engine import history as module
from starling.engine.engine import Engine
from starling.protocol.codes import CommandRefused, Error
from starling.protocol.commands import HistoryRequest
from starling.protocol.messages import Publication, StreamPosition
from tests.support.engines import memory_engine, started

CHANNEL = "news"
CHANNELS = {"default": {"history_size": 1000, "history_ttl": "60s"}}


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engine]:
    """One whose filtered reads take pages of 3, and look at 30 publications; every fifth of 60 is red."""
    monkeypatch.setattr(module, "SCAN_PAGE", 3)
    monkeypatch.setattr(module, "SCAN_LIMIT", 30)
    async with started(memory_engine(CHANNELS)) as running:
        options = running.channels.options(CHANNEL).publish_options()
        for number in range(1, 61):
            tags = {"color": "red" if number % 5 == 0 else "blue", "last": "yes" if number > 50 else "no"}
            await running.publisher.publish(CHANNEL, Publication(Raw(b"%d" % number), tags=tags), options)
        yield running


async def read(engine: Engine, key: str, val: str, *, max_bytes: int = 10_000, **request: Any) -> list[int]:
    options = engine.channels.options(CHANNEL)
    wanted = HistoryRequest(CHANNEL, **request)
    result = await engine.history.read(
        CHANNEL, options, wanted, 100, max_bytes, matches=lambda tags: tags.get(key) == val
    )
    assert result.offset == 60
    assert [int(bytes(each.data)) for each in result.publications] == [each.offset for each in result.publications]
    return [each.offset for each in result.publications]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"limit": 3}, [5, 10, 15]),
        ({"limit": 1, "since": StreamPosition(5, "")}, [10]),
        ({"limit": 2, "since": StreamPosition(11, "")}, [15, 20]),
        ({"limit": 2, "reverse": True}, [60, 55]),
        ({"limit": 2, "reverse": True, "since": StreamPosition(55, "")}, [50, 45]),
        ({"limit": 5, "reverse": True, "since": StreamPosition(6, "")}, [5]),
        ({"limit": 5, "since": StreamPosition(55, "")}, [60]),
        ({"limit": 5, "since": StreamPosition(60, "")}, []),
        ({"limit": 0}, []),
    ],
)
async def test_the_limit_counts_what_matches(engine: Engine, request_: dict[str, Any], expected: list[int]) -> None:
    assert await read(engine, "color", "red", **request_) == expected


async def test_a_read_stops_at_its_bound_and_goes_on_from_the_last_match(engine: Engine) -> None:
    first = await read(engine, "color", "red", limit=-1)
    assert first == [5, 10, 15, 20, 25, 30]
    assert await read(engine, "color", "red", limit=-1, since=StreamPosition(30, "")) == [35, 40, 45, 50, 55, 60]


async def test_a_read_that_finds_nothing_within_its_bound_is_106_and_not_an_end(engine: Engine) -> None:
    with pytest.raises(CommandRefused) as refused:
        await read(engine, "last", "yes", limit=1)
    assert isinstance(refused.value.reason, Error)
    assert refused.value.reason.code == 106
    assert await read(engine, "last", "yes", limit=1, since=StreamPosition(21, "")) == [51]
    # The end of the stream is one.
    assert await read(engine, "last", "never", limit=1, since=StreamPosition(31, "")) == []


async def test_an_answer_is_bounded_in_bytes_beyond_its_first_publication(engine: Engine) -> None:
    assert await read(engine, "color", "red", limit=-1, max_bytes=5) == [5, 10, 15]


async def test_what_follows_a_lost_position_is_112_with_a_filter_too(engine: Engine) -> None:
    for since in (StreamPosition(5, "gone"), StreamPosition(99, "")):
        with pytest.raises(CommandRefused) as refused:
            await read(engine, "color", "red", limit=5, since=since)
        assert refused.value.reason.code == 112
