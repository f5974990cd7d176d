"""Appends of one producer that arrive within a window, joined to one in this worker."""

import asyncio
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from starling.engine.append_store import Append, AppendOutcome, Change
from starling.engine.stream_chunks import join_chunks

# (channel, change, how many were joined) -> what became of it
Apply = Callable[[str, Append, int], Awaitable[Change]]


class _Window:
    """What waits for the end of one window."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Append, asyncio.Future[Change]]] = []


class AppendWindows:
    """Collects the appends of each producer of each stream; the last of a window has them all sent as one.

    Windows of one producer are sent one after the other, so that their order stays.
    """

    def __init__(self, apply: Apply) -> None:
        self._apply = apply
        self._open: dict[tuple[str, str], _Window] = {}
        self._sending: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def append(self, channel: str, change: Append, seconds: float) -> Change:
        """Append with what else arrives within `seconds`; raises what `apply` raises."""
        key = (channel, "" if change.producer is None else change.producer.id)
        loop = asyncio.get_running_loop()
        window = self._open.get(key)
        if window is not None and not _fits(window.waiting[-1][0], change):
            self._close(key)
            window = None
        if window is None:
            window = self._open[key] = _Window()
            loop.call_later(seconds, self._close_window, key, window)
        done: asyncio.Future[Change] = loop.create_future()
        window.waiting.append((change, done))
        return await done

    def _close_window(self, key: tuple[str, str], window: _Window) -> None:
        if self._open.get(key) is window:
            self._close(key)

    def _close(self, key: tuple[str, str]) -> None:
        window, before = self._open.pop(key), self._sending.get(key)
        task = asyncio.get_running_loop().create_task(self._send(key, window, before))
        self._sending[key] = task

    async def _send(self, key: tuple[str, str], window: _Window, before: asyncio.Task[None] | None) -> None:
        try:
            if before is not None:
                await asyncio.wait((before,))
            await self._send_together(key[0], window.waiting)
        finally:
            if self._sending.get(key) is asyncio.current_task():
                del self._sending[key]

    async def _send_together(self, channel: str, waiting: list[tuple[Append, asyncio.Future[Change]]]) -> None:
        changes = [change for change, _ in waiting]
        try:
            change = await self._apply(channel, _joined(changes), len(changes))
        except Exception as failure:  # noqa: BLE001 - every one that waits gets it
            if len(waiting) > 1 and _differs_alone(failure):
                await self._send_apart(channel, waiting)
                return
            for _, done in waiting:
                if not done.done():
                    done.set_exception(failure)
            return
        for _, done in waiting:
            if not done.done():
                done.set_result(change)

    async def _send_apart(self, channel: str, waiting: list[tuple[Append, asyncio.Future[Change]]]) -> None:
        """Send one by one what was refused together: some of it may be done already, or fit alone."""
        for each in waiting:
            await self._send_together(channel, [each])


def _fits(last: Append, change: Append) -> bool:
    """Whether a change follows the one before so that they can be joined."""
    if last.kind is not change.kind or change.mark or last.mark or last.watched != change.watched:
        return False
    if last.producer is None or change.producer is None:
        return last.producer is change.producer
    return change.producer.epoch == last.producer.epoch and change.producer.sequence == last.producer.sequence + 1


def _joined(changes: list[Append]) -> Append:
    first, last = changes[0], changes[-1]
    chunks = [change.chunk for change in changes if change.chunk is not None]
    producer = first.producer
    if producer is not None and last.producer is not None and last is not first:
        producer = replace(producer, last=last.producer.sequence)
    return replace(first, chunk=join_chunks(chunks, first.kind), producer=producer)


def _differs_alone(failure: Exception) -> bool:
    """Whether changes that failed together may fare better alone."""
    problem = getattr(getattr(failure, "reason", None), "stream", None)
    return problem is not None and problem.reason in (AppendOutcome.OVERLAP, AppendOutcome.FULL, AppendOutcome.GAP)
