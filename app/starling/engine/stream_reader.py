"""Readers of append-only streams in this process that are no clients: HTTP responses, and requests that wait."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count

from starling.engine.broker import StreamPosition
from starling.engine.channels import ChannelOptions
from starling.engine.follower import Joined
from starling.engine.receiver import TokenFacts
from starling.engine.subscriptions import Subscriber, Subscriptions
from starling.engine.transport import Transport
from starling.protocol.messages import Batch, Frame, Publication, Push
from starling.telemetry.metrics import TransportStats

# Of publications that wait for a reader; beyond it the reader is cut off, and reads again from where it is.
WAITING_LIMIT = 1_000
# Of publications that a reader gets at once, which it may join into one response.
TAKEN_BYTES = 2**20


class StreamLost(Exception):
    """The stream was deleted, or publications are not available any more: read again from the last position."""


class PublicationFrame(Frame):
    """A publication on its way to readers, which is not encoded."""

    __slots__ = ("publication",)

    def __init__(self, publication: Publication) -> None:
        super().__init__(b"", text=True)
        self.publication = publication


class PublicationEncoder:
    """Leaves publications as they are; joins and leaves are empty frames."""

    def encode_push(self, push: Push) -> Frame:
        """See PushEncoder."""
        return Frame(b"", text=True) if push.pub is None else PublicationFrame(push.pub)


PUBLICATIONS = PublicationEncoder()


class StreamReader:
    """Implements starling.engine.receiver.Receiver and starling.engine.transport.Transport, and keeps what comes."""

    encoder = PUBLICATIONS
    user = ""
    slot = -1
    replies_wait = False

    def __init__(self, number: int) -> None:
        self.id = f"reader-{number}"
        self.sent = 0
        self.stats = TransportStats(slow_code=0)
        self.transport: Transport = self
        self.position = StreamPosition(0, "")
        """The position after what `next` returned last."""
        self.recovered = True
        """Whether the position that it began with was of this stream."""
        self.answered = asyncio.Event()
        """Set once it stands in the stream."""
        self._waiting: list[Publication] = []
        self._changed = asyncio.Event()
        self._taken = asyncio.Event()
        self._lost = False

    async def next(self, seconds: float | None = None) -> list[Publication]:
        """Return what came since the last call, or the first part of much, waiting `seconds` at most (None: for ever).

        An empty list: nothing came. Raises StreamLost.
        """
        if not self._waiting and not self._lost:
            try:
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
            except TimeoutError:
                return []
        found = self._take()
        self._taken.set()
        if not self._waiting:
            self._changed.clear()
        if found:
            self.position = StreamPosition(found[-1].offset, self.position.epoch)
        elif self._lost:
            raise StreamLost
        if self._lost:
            self._changed.set()
        return found

    def _take(self) -> list[Publication]:
        """The first of those that wait, up to TAKEN_BYTES of data after the first."""
        size = 0
        for number, publication in enumerate(self._waiting):
            size += len(publication.data)
            if number and size > TAKEN_BYTES:
                found, self._waiting = self._waiting[:number], self._waiting[number:]
                return found
        found, self._waiting = self._waiting, []
        return found

    # What the engine calls

    def answer(self, _subscriber: Subscriber, joined: Joined) -> bool:
        """Take what was there when this reader joined."""
        self.recovered = joined.recovered
        self.answered.set()
        self._waiting += joined.publications
        self.position = StreamPosition(0, joined.position.epoch)
        if joined.publications:
            self._changed.set()
        else:
            self.position = joined.position
        return True

    def send(self, frame: Frame) -> None:
        """Keep a publication for `next`."""
        if isinstance(frame, PublicationFrame) and not self._lost:
            self._waiting.append(frame.publication)
            self._lost = len(self._waiting) > WAITING_LIMIT
            self._changed.set()

    async def catch_up(self, frames: Sequence[Frame], left: Callable[[], bool]) -> bool:
        """Keep publications, as fast as they are taken."""
        while self._waiting and not self._lost:
            self._taken.clear()
            await self._taken.wait()
        for frame in () if left() else frames:
            self.send(frame)
        return not self._lost and not left()

    def lose_state(self, channel: str) -> None:
        """Have `next` raise StreamLost once it has returned what came before."""
        self._lost = True
        self._changed.set()
        self._taken.set()

    def tick(self, now: float) -> float:
        """Nothing is ever due."""
        return now + 3600

    def drop_revoked(self, refuses: Callable[[TokenFacts], bool]) -> TokenFacts | None:
        """Depend on no token."""
        return None

    def send_frame(self, frame: Frame) -> None:
        """See Transport."""
        self.send(frame)

    def send_batch(self, batch: Batch) -> None:
        """See Transport."""
        for frame in batch.frames:
            self.send(frame)

    queue_batch = send_batch

    def ping(self) -> None:
        """See Transport."""

    def pause_reading(self) -> None:
        """See Transport."""

    def resume_reading(self) -> None:
        """See Transport."""

    def takes_replies(self) -> bool:
        """See Transport."""
        return False

    def close(self, code: int, reason: str = "") -> None:
        """See Transport."""
        self.lose_state("")


class StreamReaders:
    """Opens readers of this process's streams."""

    def __init__(self, subscriptions: Subscriptions) -> None:
        self._subscriptions = subscriptions
        self._numbers = count(1)

    @asynccontextmanager
    async def open(
        self, channel: str, options: ChannelOptions, since: StreamPosition | None = None
    ) -> AsyncIterator[StreamReader]:
        """A reader of what follows `since` (None: the start), until the context ends. Raises BrokerUnavailable."""
        reader = StreamReader(next(self._numbers))
        subscriber = Subscriber(reader, channel, reader.answer)
        # It goes on after the answer where much has to be caught up.
        entering = asyncio.create_task(self._subscriptions.join(subscriber, options, since, latest=False))
        answer = asyncio.create_task(reader.answered.wait())
        try:
            await asyncio.wait((entering, answer), return_when=asyncio.FIRST_COMPLETED)
            if not reader.answered.is_set():
                await entering
            yield reader
        finally:
            self._subscriptions.drop(subscriber)
            reader.lose_state(channel)
            for task in (entering, answer):
                task.cancel()
            await asyncio.wait((entering, answer))
            await self._subscriptions.leave(reader, channel)

    async def until_status(self, channel: str, options: ChannelOptions, since: StreamPosition, seconds: float) -> None:
        """Return when the stream changes its status after `since`, at the latest after `seconds`, or is deleted."""
        end = time.monotonic() + seconds
        async with self.open(channel, options, since) as reader:
            try:
                while (left := end - time.monotonic()) > 0 and reader.recovered:
                    if any("status" in (each.tags or {}) for each in await reader.next(left)):
                        return
            except StreamLost:
                return
