"""One read at a time, shared by all that wait for it: thousands of concurrent requests cost two reads."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from starling.engine.broker import BrokerUnavailable

Request = TypeVar("Request")
Found = TypeVar("Found")


class SharedRead(Generic[Request, Found]):
    """Collects requests while a read is under way; the next read serves all of them.

    No request gets the result of a read that began before it. A task exists only while a request waits.
    """

    __slots__ = ("_closed", "_read", "_task", "_waiting")

    def __init__(self, read: Callable[[list[Request]], Awaitable[Found]]) -> None:
        self._read = read
        self._waiting: list[tuple[Request, asyncio.Future[Found]]] = []
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def get(self, request: Request) -> Found:
        """Wait for a read that serves `request`; raises what the read raises, and BrokerUnavailable once closed."""
        if self._closed:
            raise _left()
        found: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, found))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._serve())
        return await found

    def close(self) -> None:
        """End the read under way; waiting requests get BrokerUnavailable."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        self._refuse(self._waiting, _left())
        self._waiting = []

    async def _serve(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                try:
                    result = await self._read([request for request, _ in waiting])
                except asyncio.CancelledError:
                    self._refuse(waiting, _left())
                    raise
                except Exception as error:  # noqa: BLE001  # every waiting request gets the error
                    self._refuse(waiting, error)
                else:
                    for _, found in waiting:
                        if not found.done():
                            found.set_result(result)
        finally:
            self._task = None

    @staticmethod
    def _refuse(waiting: list[tuple[Request, "asyncio.Future[Found]"]], error: Exception) -> None:
        for _, found in waiting:
            if not found.done():
                found.set_exception(error)


def _left() -> BrokerUnavailable:
    return BrokerUnavailable("the channel was left meanwhile")
