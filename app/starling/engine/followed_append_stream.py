"""An append-only stream as this process follows it: subscribers get all of it, joined, before they are live."""

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from starling.engine.broker import BrokerUnavailable, StreamEntry, StreamPosition, StreamRead
from starling.engine.follower import Joined, Mark, MemoryBudget
from starling.engine.history import HistoryStore
from starling.engine.shared_read import SharedRead
from starling.engine.stream import JOIN_ATTEMPTS, Stream
from starling.engine.stream_chunks import joined
from starling.engine.stream_contract import Joining, Live, StreamOptions, StreamStats
from starling.protocol.messages import Publication
from starling.protocol.tags_filter import Matches

# Entries that a process keeps of one stream, so that readers who return cost no read.
RECENT_ENTRIES = 5_000


class CatchingUp(Joining, Protocol):
    """What an append-only stream needs of a subscriber beyond what every stream does."""

    dropped: bool
    """Whether it left after it was answered."""

    async def push(self, publications: Sequence[Publication]) -> bool:
        """Write publications to this subscriber alone, once it has taken those before; False when it has gone."""


R = TypeVar("R", bound=CatchingUp)


class Page(Struct, frozen=True):
    """A read after `after`, begun at `mark`; its entries are left out where memory has them."""

    read: StreamRead
    mark: Mark
    after: int
    entries: bool


class _PageRequest(Struct, frozen=True):
    """The offset that a subscriber has; whether the read must bring entries even if memory seems to have them."""

    after: int
    entries: bool


class FollowedAppendStream(Stream[R]):
    """A Stream whose subscribers get everything: `recovery_bytes` with their answer, and the rest in pushes."""

    def __init__(
        self,
        channel: str,
        history: HistoryStore,
        live: Live[R],
        meta_ttl: float,
        budget: MemoryBudget,
        stats: StreamStats,
    ) -> None:
        options = StreamOptions(RECENT_ENTRIES, meta_ttl, RECENT_ENTRIES)
        super().__init__(channel, history, live, options, budget, stats)
        self._pages: SharedRead[_PageRequest, Page] = SharedRead(self._read_page)

    def close(self) -> None:
        """See Stream."""
        super().close()
        self._pages.close()

    async def join(
        self,
        subscriber: R,
        since: StreamPosition | None = None,
        *,
        latest: bool = False,
        matches: Matches | None = None,
    ) -> None:
        """Answer `subscriber` with what follows `since` (None: the start), push it the rest, and make it live.

        A position that is not of this stream begins at the start too, and is not recovered. Raises BrokerUnavailable;
        then there was no answer. Cancelling is safe.
        """
        self._joins += 1
        try:
            await _CatchUp(self, subscriber, since).run()
        finally:
            self._joins -= 1

    async def page(self, after: int, *, entries: bool) -> Page:
        """Read what follows an offset, together with all who ask at this moment."""
        return await self._pages.get(_PageRequest(after, entries))

    def usable(self, page: Page) -> bool:
        """Whether a page is of the stream that this process follows."""
        return page.mark.resets == self._follower.resets and not self._follower.contradicted(page.read.top, page.mark)

    def entries_of(self, page: Page, after: int) -> list[StreamEntry] | None:
        """The entries that follow `after`, from a page or from memory; None where they are not known from either."""
        read, follower = page.read, self._follower
        if page.entries:
            return None if page.after > after else [entry for entry in read.entries if entry.offset > after]
        if read.top.offset > follower.last or read.bottom > after:
            return None
        return follower.recent.after(after)

    def count_answer(self, since: StreamPosition | None, *, recovered: bool, from_memory: bool) -> None:
        """Count an answer."""
        if since is not None:
            self._stats.recovered += recovered
            self._stats.unrecovered += not recovered
            self._stats.from_memory += recovered and from_memory

    async def settle(self) -> None:
        """Wait until the process follows what the store shows. Raises BrokerUnavailable."""
        await self._healed()

    def enter(self, subscriber: R, offset: int) -> bool:
        """Make a subscriber live that has seen all up to `offset`; False where this process is further."""
        last = self._follower.last
        if offset == last:
            self._live.enter(self.channel, subscriber)
        elif offset > last:
            self._joining[subscriber] = offset
        return offset >= last

    @property
    def closed(self) -> bool:
        """Whether this process has left the channel."""
        return self._closed

    async def _read_page(self, requests: list[_PageRequest]) -> Page:
        follower = self._follower
        after, mark = min(request.after for request in requests), follower.mark()
        entries = any(request.entries for request in requests) or follower.recent.after(after) is None
        self._stats.join_reads += 1
        read = await self._history.read(
            self.channel,
            meta_ttl=self.options.history_meta_ttl,
            after=after if entries else 0,
            limit=None if entries else 0,
            max_bytes=self.options.recovery_bytes,
            followed=True,
        )
        return Page(read, mark, after, entries)


class _CatchUp(Generic[R]):
    """One subscriber on its way into one stream: where it stands, and whether it is answered."""

    def __init__(self, stream: FollowedAppendStream[R], subscriber: R, since: StreamPosition | None) -> None:
        self._stream = stream
        self._subscriber = subscriber
        self._since = since
        self._offset = 0 if since is None else since.offset
        self._epoch = "" if since is None else since.epoch
        self._recovered = True
        self._answered = False

    async def run(self) -> None:
        """See FollowedAppendStream.join."""
        try:
            await self._read_on()
        except BrokerUnavailable:
            if not self._answered:
                raise
            self._lose()

    async def _read_on(self) -> None:
        stream, misses = self._stream, 0
        while misses < JOIN_ATTEMPTS:
            page = await stream.page(self._offset, entries=misses > 0)
            if stream.closed:
                raise BrokerUnavailable("the channel was left meanwhile")
            if not stream.usable(page):
                await stream.settle()
                misses += 1
                continue
            if page.read.top.epoch != self._epoch:
                if self._answered:
                    self._lose()
                    return
                self._begin(page.read.top.epoch)
            found = stream.entries_of(page, self._offset)
            if found is None:
                misses += 1
            elif not self._follows(found, page.read):
                if self._answered:
                    self._lose()
                    return
                if not self._offset:
                    # Something took entries out of the store: the subscriber gets what is left.
                    self._offset = found[0].previous if found else page.read.top.offset
                    self._recovered = False
                else:
                    self._begin(self._epoch, recovered=False)
            elif await self._hand_over(found, from_memory=not page.entries):
                return
            else:
                misses = 0
        raise BrokerUnavailable("the stream cannot be read at the moment")

    def _begin(self, epoch: str, *, recovered: bool | None = None) -> None:
        """Go to the start of the stream of `epoch`, which the subscriber's position may not be of."""
        self._recovered = (self._since is None or not self._epoch) if recovered is None else recovered
        self._epoch, self._offset = epoch, 0

    def _follows(self, found: list[StreamEntry], read: StreamRead) -> bool:
        """Whether entries follow the subscriber's offset without a hole."""
        if found:
            return found[0].previous == self._offset
        return read.more or read.top.offset <= self._offset <= self._stream.position.offset

    async def _hand_over(self, found: list[StreamEntry], *, from_memory: bool) -> bool:
        """Give the subscriber the entries; True once it is live, or gone."""
        publications = joined(entry.publication for entry in found)
        self._offset = found[-1].offset if found else self._offset
        if not self._answered:
            self._stream.count_answer(self._since, recovered=self._recovered, from_memory=from_memory)
            self._answered = True
            position = StreamPosition(self._offset, self._epoch)
            if not self._subscriber.reply(Joined(position, publications, self._recovered)):
                return True
        elif publications and not await self._subscriber.push(publications):
            return True
        return self._subscriber.dropped or self._stream.enter(self._subscriber, self._offset)

    def _lose(self) -> None:
        """The subscriber subscribes again, from what it got last."""
        if not self._subscriber.dropped:
            self._subscriber.unsubscribe()
