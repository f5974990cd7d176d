"""Keeps what the subscribe proxy decided for a user and a channel, for the seconds that a namespace names."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

from starling.clocks import steady_clock
from starling.protocol.codes import CommandRefused, Error

MOST_ANSWERS = 10_000

Answer = TypeVar("Answer")
Key = tuple[str, str]


class _Kept(NamedTuple, Generic[Answer]):
    """A result, or an error that is the backend's decision; `until` on the clock of the cache."""

    until: float
    answer: Answer | None
    refusal: Error | None


class ProxyCache(Generic[Answer]):
    """By user and channel. Requests for the same two at the same time are one; of answers the oldest are dropped."""

    def __init__(self, clock: Callable[[], float] = steady_clock) -> None:
        self._clock = clock
        self._kept: OrderedDict[Key, _Kept[Answer]] = OrderedDict()
        self._asking: dict[Key, asyncio.Task[Answer]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    async def get(self, key: Key, seconds: float, ask: Callable[[], Awaitable[Answer]]) -> tuple[Answer, bool]:
        """The answer of `ask`, or one that is `seconds` old at most, and whether it was kept. Raises what `ask` does.

        A refusal is kept too, unless it is temporary or a disconnect; a failure is not.
        """
        kept = self._kept.get(key)
        if kept is not None and self._clock() < kept.until:
            if kept.refusal is not None:
                raise CommandRefused(kept.refusal)
            return kept.answer, True  # type: ignore[return-value] # either of the two is set
        asking = self._asking.get(key)
        if shared := asking is not None:
            task = asking
        else:
            task = self._asking[key] = asyncio.ensure_future(self._ask(key, seconds, ask))
            task.add_done_callback(lambda done: self._asked(key, done))
        # One that leaves must not take the answer from the others.
        return await asyncio.shield(task), shared

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()

    async def _ask(self, key: Key, seconds: float, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        try:
            answer = await ask()
        except CommandRefused as refused:
            if isinstance(refused.reason, Error) and not refused.reason.temporary:
                self._keep(key, _Kept(self._clock() + seconds, None, refused.reason))
            raise
        self._keep(key, _Kept(self._clock() + seconds, answer, None))
        return answer

    def _keep(self, key: Key, kept: _Kept[Answer]) -> None:
        self._kept[key] = kept
        self._kept.move_to_end(key)
        if len(self._kept) > MOST_ANSWERS:
            self._kept.popitem(last=False)

    def _asked(self, key: Key, done: asyncio.Task[Answer]) -> None:
        del self._asking[key]
        if not done.cancelled():
            # Where no request waits any more, its error must not be logged as never retrieved.
            done.exception()
