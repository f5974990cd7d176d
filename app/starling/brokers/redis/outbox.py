"""The send queue of one connection: all waiting messages go out in one batch, in order."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog

from starling.engine.broker import BrokerUnavailable

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.broker")

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Outbox(Generic[Item, Answer]):
    """Collects items of one loop tick and sends them as one batch; the next goes when the answers are in.

    `transmit` takes a batch and returns an answer or an exception for each item. It raises BrokerUnavailable when the
    outcome is unknown, and must leave a connection that cannot mix up answers, also when it is cancelled.
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
    ) -> None:
        """`timeout` in seconds bounds each `send` and each batch; one item alone may be greater than a batch."""
        self._transmit = transmit
        self._timeout = timeout
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._max_batch = max_batch
        self._max_batch_bytes = max_batch_bytes
        self._waiting: deque[tuple[Item, int, asyncio.Future[Answer]]] = deque()
        self._waiting_bytes = 0
        self._filled = asyncio.Event()
        # Every call waits equally long, so the oldest is the first to be given up: one timer is enough.
        self._given_up_at: deque[tuple[float, asyncio.Future[Answer]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send."""
        self._task = asyncio.create_task(self._run(), name="broker-outbox")

    async def stop(self) -> None:
        """End; what still waits fails as not sent."""
        if self._task is None:
            return
        task, self._task = self._task, None
        task.cancel()
        await asyncio.wait((task,))
        if self._timer is not None:
            self._timer.cancel()
        for _, _, answer in self._waiting:
            _fail(answer, "this process closes its broker connections")
        self._waiting.clear()

    async def send(self, item: Item, size: int) -> Answer:
        """Send `item` of `size` bytes after everything that waits; returns its answer. Raises BrokerUnavailable."""
        return await self.post(item, size)

    def post(self, item: Item, size: int) -> asyncio.Future[Answer]:
        """As `send`, without waiting. Raises BrokerUnavailable where there is no room, and so may the future."""
        if self._task is None:
            raise BrokerUnavailable("the broker is not started")
        if len(self._waiting) >= self._max_waiting or self._waiting_bytes + size > self._max_waiting_bytes:
            raise BrokerUnavailable(f"{len(self._waiting)} calls to the broker wait already")
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, size, answer))
        self._waiting_bytes += size
        self._filled.set()
        loop, waiting = asyncio.get_running_loop(), self._given_up_at
        while waiting and waiting[0][1].done():
            waiting.popleft()
        waiting.append((loop.time() + self._timeout, answer))
        if self._timer is None:
            self._timer = loop.call_later(self._timeout, self._give_up)
        return answer

    def _give_up(self) -> None:
        """Fail the calls whose time is over, and set the timer for the oldest of the others."""
        self._timer = None
        loop, waiting = asyncio.get_running_loop(), self._given_up_at
        while waiting and (waiting[0][1].done() or waiting[0][0] <= loop.time()):
            _fail(waiting.popleft()[1], f"the broker did not answer within {self._timeout:g} s")
        if waiting:
            self._timer = loop.call_at(waiting[0][0], self._give_up)

    async def _run(self) -> None:
        while True:
            await self._filled.wait()
            self._filled.clear()
            while batch := self._next_batch():
                await self._send_batch(batch)

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        batch: list[tuple[Item, asyncio.Future[Answer]]] = []
        room = self._max_batch_bytes
        while self._waiting and room > 0 and len(batch) < self._max_batch:
            item, size, answer = self._waiting.popleft()
            self._waiting_bytes -= size
            # The caller that gave up knows that nothing is acknowledged, so the item must not go out late.
            if not answer.done():
                batch.append((item, answer))
                room -= size
        return batch

    async def _send_batch(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        problem = "this process closes its broker connections"
        outcomes: Sequence[Answer | Exception] = ()
        try:
            async with asyncio.timeout(self._timeout):
                outcomes = await self._transmit([item for item, _ in batch])
        except TimeoutError:
            problem = f"the broker did not answer within {self._timeout:g} s"
        except BrokerUnavailable as error:
            problem = str(error)
        except Exception as error:
            log.exception("broker_outbox_failed")
            problem = f"{type(error).__name__} while sending"
        finally:
            for (_, answer), outcome in zip(batch, outcomes, strict=False):
                if answer.done():
                    continue
                if isinstance(outcome, Exception):
                    answer.set_exception(outcome)
                else:
                    answer.set_result(outcome)
            for _, answer in batch[len(outcomes) :]:
                _fail(answer, problem)


def _fail(answer: asyncio.Future[Answer], problem: str) -> None:
    if not answer.done():
        answer.set_exception(BrokerUnavailable(problem))
