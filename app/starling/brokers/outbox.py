"""The send queue of one connection: all waiting messages go out in one batch, in order."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from functools import partial
from typing import Generic, Protocol, TypeVar

import structlog

from starling.engine.broker import BrokerUnavailable

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.broker")

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Item_contra = TypeVar("Item_contra", contravariant=True)
Answer_co = TypeVar("Answer_co", covariant=True)

_CLOSING = "this process closes its broker connections"


class PendingCall(Generic[Item, Answer]):
    """One item and who gets its answer; `due` is when it is given up, on the loop's clock."""

    __slots__ = ("_context", "_done", "due", "is_over", "item", "size")

    def __init__(self, item: Item, size: int, due: float, done: Callable[[Answer | Exception], None]) -> None:
        self.item = item
        self.size = size
        self.due = due
        self.is_over = False
        self._done = done
        self._context = copy_context()

    def end(self, outcome: Answer | Exception) -> None:
        """Report the outcome, unless one was reported or nobody waits for it any more."""
        if self.is_over:
            return
        self.is_over = True
        try:
            self._context.run(self._done, outcome)
        except Exception:
            log.exception("broker_answer_failed")


class SendsAtOnce(Protocol[Item_contra, Answer_co]):
    """A connection whose batches need no task while it is open."""

    def begin(
        self, batch: Sequence[Item_contra], done: Callable[[Sequence[Answer_co] | BrokerUnavailable], None]
    ) -> bool:
        """Send `batch`; `done` gets an answer for each item, or why there is none, once and always later.

        False, and nothing is sent, where `transmit` must do it: the connection is not open.
        """

    def abandon(self) -> None:
        """Drop the batch that was begun: `done` is not called any more, and the connection is of no more use."""


class Outbox(Generic[Item, Answer]):
    """Collects items of one loop tick and sends them as one batch; the next goes when the answers are in.

    `transmit` takes a batch and returns an answer or an exception for each item. It raises BrokerUnavailable when the
    outcome is unknown, and must leave a connection that cannot mix up answers, also when it is cancelled.

    With `at_once`, an item goes out as it comes while the last batch had one item: a tick of the loop would bring it
    no company. Where many come together, batches stay as large as they are without it.
    """

    def __init__(
        self,
        transmit: Callable[[list[Item]], Awaitable[Sequence[Answer | Exception]]],
        *,
        timeout: float,
        max_waiting: int = 20_000,
        max_waiting_bytes: int = 64 * 1024 * 1024,
        max_batch: int = 256,
        max_batch_bytes: int = 1024 * 1024,
        at_once: SendsAtOnce[Item, Answer] | None = None,
    ) -> None:
        """`timeout` in seconds bounds each `send` and each batch; one item alone may be greater than a batch."""
        self._transmit = transmit
        self._at_once = at_once
        self._timeout = timeout
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._max_batch = max_batch
        self._max_batch_bytes = max_batch_bytes
        self._waiting: deque[PendingCall[Item, Answer]] = deque()
        self._waiting_bytes = 0
        self._under_way: list[PendingCall[Item, Answer]] = []
        # When the batch is given up that was begun at once, on the loop's clock; None where `transmit` sends it.
        self._batch_due: float | None = None
        self._last_was_single = True
        self._flushing = False
        self._handed_over = asyncio.Event()
        # Every call waits equally long, so the oldest is the first to be given up: one timer is enough.
        self._by_due: deque[PendingCall[Item, Answer]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send."""
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run(), name="broker-outbox")

    async def stop(self) -> None:
        """End; what still waits fails as not sent."""
        if self._task is None:
            return
        task, self._task = self._task, None
        task.cancel()
        await asyncio.wait((task,))
        if self._timer is not None:
            self._timer.cancel()
        if self._batch_due is not None and self._at_once is not None:
            self._at_once.abandon()
        for call in (*self._under_way, *self._waiting):
            call.end(BrokerUnavailable(_CLOSING))
        self._under_way = []
        self._waiting.clear()

    async def send(self, item: Item, size: int) -> Answer:
        """Send `item` of `size` bytes after everything that waits; returns its answer. Raises BrokerUnavailable."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        call = self.post(item, size, partial(_settle, answer))
        try:
            return await answer
        finally:
            call.is_over = True

    def post(self, item: Item, size: int, done: Callable[[Answer | Exception], None]) -> "PendingCall[Item, Answer]":
        """As `send`, without waiting: `done` gets the answer or the exception later, in the context of this call.

        Raises BrokerUnavailable where there is no room.
        """
        if self._loop is None or self._task is None:
            raise BrokerUnavailable("the broker is not started")
        if len(self._waiting) >= self._max_waiting or self._waiting_bytes + size > self._max_waiting_bytes:
            raise BrokerUnavailable(f"{len(self._waiting)} calls to the broker wait already")
        call: PendingCall[Item, Answer] = PendingCall(item, size, self._loop.time() + self._timeout, done)
        by_due = self._by_due
        while by_due and by_due[0].is_over:
            by_due.popleft()
        by_due.append(call)
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout, self._give_up)
        if self._last_was_single and not self._under_way and not self._waiting and self._at_once is not None:
            self._send([call])
            return call
        self._waiting.append(call)
        self._waiting_bytes += size
        if not self._under_way and not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        return call

    def _give_up(self) -> None:
        """Fail the calls whose time is over, and a batch; set the timer for the oldest of the others."""
        self._timer = None
        loop, by_due = asyncio.get_running_loop(), self._by_due
        while by_due and (by_due[0].is_over or by_due[0].due <= loop.time()):
            by_due.popleft().end(self._no_answer())
        if self._at_once is not None and self._batch_due is not None and self._batch_due <= loop.time():
            self._at_once.abandon()
            self._on_answers(self._no_answer())
        dues = [by_due[0].due] if by_due else []
        if self._batch_due is not None:
            dues.append(self._batch_due)
        self._set_timer(min(dues, default=None))

    def _set_timer(self, due: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if due is None or self._loop is None else self._loop.call_at(due, self._give_up)

    def _no_answer(self) -> BrokerUnavailable:
        return BrokerUnavailable(f"the broker did not answer within {self._timeout:g} s")

    def _flush(self) -> None:
        """Send the next batch, unless one is under way."""
        self._flushing = False
        if self._waiting and not self._under_way and self._task is not None and (batch := self._next_batch()):
            self._send(batch)

    def _send(self, batch: list[PendingCall[Item, Answer]]) -> None:
        loop = asyncio.get_running_loop()
        self._under_way = batch
        self._last_was_single = len(batch) == 1
        self._batch_due = loop.time() + self._timeout
        try:
            begun = self._at_once is not None and self._at_once.begin([call.item for call in batch], self._on_answers)
        except Exception as error:
            log.exception("broker_outbox_failed")
            self._batch_due = None
            loop.call_soon(self._on_answers, BrokerUnavailable(f"{type(error).__name__} while sending"))
            return
        if not begun:
            self._batch_due = None
            self._handed_over.set()

    def _on_answers(self, answers: Sequence[Answer] | BrokerUnavailable) -> None:
        """End the calls of the batch that was begun at once, and send the next one."""
        self._batch_due = None
        if isinstance(answers, BrokerUnavailable):
            for call in self._under_way:
                call.end(BrokerUnavailable(str(answers)))
        else:
            for call, answer in zip(self._under_way, answers, strict=True):
                call.end(answer)
        # Only now: what the calls' ends have posted goes out together.
        self._under_way = []
        self._flush()

    async def _run(self) -> None:
        while True:
            await self._handed_over.wait()
            self._handed_over.clear()
            await self._send_batch(self._under_way)
            self._under_way = []
            self._flush()

    def _next_batch(self) -> list[PendingCall[Item, Answer]]:
        batch: list[PendingCall[Item, Answer]] = []
        room = self._max_batch_bytes
        while self._waiting and room > 0 and len(batch) < self._max_batch:
            call = self._waiting.popleft()
            self._waiting_bytes -= call.size
            # The caller that gave up knows that nothing is acknowledged, so the item must not go out late.
            if not call.is_over:
                batch.append(call)
                room -= call.size
        return batch

    async def _send_batch(self, batch: list[PendingCall[Item, Answer]]) -> None:
        problem = _CLOSING
        outcomes: Sequence[Answer | Exception] = ()
        try:
            async with asyncio.timeout(self._timeout):
                outcomes = await self._transmit([call.item for call in batch])
        except TimeoutError:
            problem = str(self._no_answer())
        except BrokerUnavailable as error:
            problem = str(error)
        except Exception as error:
            log.exception("broker_outbox_failed")
            problem = f"{type(error).__name__} while sending"
        finally:
            for call, outcome in zip(batch, outcomes, strict=False):
                call.end(outcome)
            for call in batch[len(outcomes) :]:
                call.end(BrokerUnavailable(problem))


def _settle(answer: asyncio.Future[Answer], outcome: Answer | Exception) -> None:
    if answer.done():
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
