"""Appends within a window: joined where they follow each other, apart where they do not, and each with its answer."""

import asyncio
from typing import Any

import pytest

from starling.engine.append_refusals import StreamProblem, StreamRefused
from starling.engine.append_store import Append, AppendOutcome, Change, Producer, StreamKind
from starling.engine.append_window import AppendWindows
from starling.engine.stream_chunks import content_chunk, text_chunk
from starling.protocol.codes import CommandRefused

CHANNEL = "answers:1"
SECONDS = 0.005


class Store:
    """Keeps what it is asked to append; refuses the requests that join more than one, if it has a reason."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.asked: list[tuple[bytes, int, tuple[int, int | None] | None]] = []
        self._refusal = refusal

    async def apply(self, channel: str, change: Append, count: int) -> Change:
        assert channel == CHANNEL
        assert change.chunk is not None
        producer = change.producer
        sequences = None if producer is None else (producer.sequence, producer.last)
        self.asked.append((change.chunk.data, count, sequences))
        if self._refusal is not None and count > 1:
            raise self._refusal
        return Change(AppendOutcome.DONE)


def text(content: str, producer: Producer | None = None, **others: Any) -> Append:
    return Append(StreamKind.TEXT, text_chunk(content), producer=producer, **others)


async def append(store: Store, *changes: Append) -> list[Change | BaseException]:
    windows = AppendWindows(store.apply)
    return await asyncio.gather(
        *(windows.append(CHANNEL, change, SECONDS) for change in changes), return_exceptions=True
    )


async def test_what_follows_in_a_window_is_one_append() -> None:
    store = Store()
    answers = await append(store, *(text(str(number), Producer("p", 1, number)) for number in range(3)))

    assert store.asked == [(b'{"text":"012"}', 3, (0, 2))]
    assert answers == [Change(AppendOutcome.DONE)] * 3


async def test_without_a_producer_what_comes_together_is_joined_too() -> None:
    store = Store()
    await append(store, text("a"), text("b"))

    assert store.asked == [(b'{"text":"ab"}', 2, None)]


@pytest.mark.parametrize(
    "second",
    [
        text("b", Producer("p", 1, 5)),
        text("b", Producer("p", 2, 1)),
        text("b", Producer("p", 1, 1), mark="m"),
        Append(StreamKind.BYTES, content_chunk(StreamKind.BYTES, b"b"), producer=Producer("p", 1, 1)),
    ],
    ids=["sequence", "epoch", "mark", "kind"],
)
async def test_what_does_not_follow_is_an_append_of_its_own_after_it(second: Append) -> None:
    store = Store()
    await append(store, text("a", Producer("p", 1, 0)), second)

    assert [count for _, count, _ in store.asked] == [1, 1]
    assert store.asked[0][0] == b'{"text":"a"}'


@pytest.mark.parametrize("outcome", [AppendOutcome.OVERLAP, AppendOutcome.FULL, AppendOutcome.GAP])
async def test_what_is_refused_together_and_may_do_alone_is_sent_one_by_one(outcome: AppendOutcome) -> None:
    store = Store(CommandRefused(StreamRefused(113, "refused", stream=StreamProblem(outcome))))
    answers = await append(store, text("a"), text("b"))

    assert [(data, count) for data, count, _ in store.asked] == [
        (b'{"text":"ab"}', 2),
        (b'{"text":"a"}', 1),
        (b'{"text":"b"}', 1),
    ]
    assert answers == [Change(AppendOutcome.DONE)] * 2


@pytest.mark.parametrize(
    "refusal",
    [OSError("away"), CommandRefused(StreamRefused(113, "closed", stream=StreamProblem(AppendOutcome.CLOSED)))],
    ids=["store", "stream"],
)
async def test_any_other_failure_is_that_of_all_who_wait(refusal: Exception) -> None:
    store = Store(refusal)

    assert await append(store, text("a"), text("b")) == [refusal, refusal]
    assert len(store.asked) == 1


async def test_one_who_is_gone_does_not_keep_the_others_from_their_answer() -> None:
    store = Store()
    windows = AppendWindows(store.apply)
    gone, waiting = (asyncio.create_task(windows.append(CHANNEL, text(each), SECONDS)) for each in "ab")
    await asyncio.sleep(0)
    gone.cancel()

    assert await waiting == Change(AppendOutcome.DONE)
    assert store.asked == [(b'{"text":"ab"}', 2, None)]
