"""Readers of append-only streams that are no clients: what they get, and that they end when their task does."""

import asyncio

import pytest
from msgspec import Raw

from starling.engine.stream_reader import TAKEN_BYTES, WAITING_LIMIT, PublicationFrame, StreamLost, StreamReader
from starling.protocol.messages import Publication


def frame(offset: int) -> PublicationFrame:
    return PublicationFrame(Publication(Raw(b"1"), offset=offset))


@pytest.mark.parametrize("turns", range(6))
async def test_a_reader_that_is_cancelled_just_as_something_comes_ends_all_the_same(turns: int) -> None:
    reader = StreamReader(1)
    reading = asyncio.create_task(reader.next(60))
    for _ in range(4):
        await asyncio.sleep(0)
    reader.send(frame(1))
    for _ in range(turns):
        await asyncio.sleep(0)

    cancelled = reading.cancel()

    await asyncio.wait((reading,))
    assert reading.cancelled() is cancelled


async def test_a_reader_gets_what_came_and_then_nothing_within_its_time() -> None:
    reader = StreamReader(1)
    for offset in (1, 2):
        reader.send(frame(offset))
    assert [each.offset for each in await reader.next(60)] == [1, 2]
    assert reader.position.offset == 2
    assert await reader.next(0.01) == []


async def test_a_reader_that_is_too_far_behind_gets_what_it_had_room_for_and_is_cut_off() -> None:
    reader = StreamReader(1)
    for offset in range(1, WAITING_LIMIT + 10):
        reader.send(frame(offset))
    assert len(await reader.next(60)) == WAITING_LIMIT + 1
    with pytest.raises(StreamLost):
        await reader.next(60)


async def test_a_reader_catches_up_as_fast_as_it_takes_and_not_at_all_once_it_is_lost() -> None:
    reader = StreamReader(1)
    reader.send(frame(1))
    catching_up = asyncio.create_task(reader.catch_up([frame(2)], lambda: False))
    await asyncio.sleep(0)
    assert not catching_up.done()
    assert [each.offset for each in await reader.next(60)] == [1]
    assert await catching_up
    assert [each.offset for each in await reader.next(60)] == [2]
    reader.close(3000)
    assert not await reader.catch_up([frame(3)], lambda: False)
    with pytest.raises(StreamLost):
        await reader.next(60)


async def test_a_reader_gets_much_in_parts_of_a_bounded_size_and_loses_none_of_it() -> None:
    reader = StreamReader(1)
    sizes = [TAKEN_BYTES // 2, TAKEN_BYTES // 2, 1, 3 * TAKEN_BYTES, TAKEN_BYTES, 5]
    for offset, size in enumerate(sizes, 1):
        reader.send(PublicationFrame(Publication(Raw(bytes(size)), offset=offset)))
    reader.lose_state("")
    parts = []
    for _ in range(5):
        parts.append([each.offset for each in await reader.next(60)])
        assert reader.position.offset == parts[-1][-1]
    assert parts == [[1, 2], [3], [4], [5], [6]]
    with pytest.raises(StreamLost):
        await reader.next(60)
