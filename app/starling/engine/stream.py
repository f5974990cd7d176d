"""A history channel in this process: follows its publications, reads missed ones, and adds subscribers."""

import asyncio
import random
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic

import structlog

from starling.engine.broker import BrokerUnavailable, StreamEntry, StreamPosition
from starling.engine.follower import Follower, Found, Joined, Mark, MemoryBudget, Recent, Step
from starling.engine.history import HistoryStore
from starling.engine.shared_read import SharedRead
from starling.engine.stream_contract import Live, S, StreamOptions, StreamStats
from starling.protocol.messages import Publication
from starling.protocol.tags_filter import Matches

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.stream")

# Limits of one read of a gap: its entries go to all subscribers without a pause.
HEAL_ENTRIES = 64
HEAL_BYTES = 1024 * 1024
RETRY_FIRST = 0.1
RETRY_LONGEST = 5.0
JOIN_ATTEMPTS = 8
JOIN_HEAL_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """Where a joining subscriber left off, None for a new one; whether it wants the latest publication only; whether
    the read must bring entries even if memory seems to have them."""

    since: StreamPosition | None
    latest: bool
    entries: bool


class Stream(Generic[S]):
    """One history channel of this process, from the first subscriber to the last.

    The owner subscribes at the broker, then awaits `start`, passes every entry to `on`, and ends it with `close`.
    """

    def __init__(
        self,
        channel: str,
        history: HistoryStore,
        live: Live[S],
        options: StreamOptions,
        budget: MemoryBudget,
        stats: StreamStats,
    ) -> None:
        self.channel = channel
        self.options = options
        self._history = history
        self._live = live
        self._stats = stats
        limit = min(options.history_size, options.recovery_limit)
        self._follower = Follower(Recent(limit, options.recovery_bytes, budget))
        self._started = False
        # What `start` read, for the join that follows it.
        self._start_read: Found | None = None
        self.created = False
        """Whether the channel had no position before this process asked."""
        self._joining: dict[S, int] = {}
        self._joins = 0
        self._healing: asyncio.Task[None] | None = None
        self._gap_since = 0.0
        self._reads: SharedRead[ReadRequest, Found] = SharedRead(self._read_newest)
        self._urged = asyncio.Event()
        self._closed = False

    # Life

    async def start(self, *, join_follows: bool = False) -> None:
        """Read the position to follow from; the broker must have acknowledged the subscription before.

        `join_follows`: the caller begins a `join` before anything else runs, which then needs no read of its own.
        Raises BrokerUnavailable, and then this stream must not be used.
        """
        self._follower.reading()
        read = await self._history.read(self.channel, meta_ttl=self.options.history_meta_ttl, limit=0, followed=True)
        self._started = True
        self.created = read.created
        if not self._follower.healed(read).done:
            self._start_healing()
        elif join_follows and read.top == self._follower.position:
            self._start_read = Found(read, self._follower.mark(), after=None, latest=False)

    def close(self) -> None:
        """End what is under way; nothing is delivered any more. Joins under way raise BrokerUnavailable."""
        self._closed = True
        if self._healing is not None:
            self._healing.cancel()
        self._reads.close()
        self._joining.clear()
        self._follower.recent.restart(0)

    @property
    def position(self) -> StreamPosition:
        """Where this process stands in the stream."""
        return self._follower.position

    @property
    def following(self) -> bool:
        """False while a gap is being filled."""
        return not self._follower.healing

    @property
    def idle(self) -> bool:
        """True when no subscriber is joining; the live ones are the hub's to know."""
        return not self._joins and not self._joining

    # Following

    def on(self, entry: StreamEntry) -> None:
        """Take a publication that the broker delivered."""
        if self._closed:
            return
        if not entry.epoch:
            # Published past the history: it has no position in the stream.
            self._live.broadcast(self.channel, entry)
            return
        step = self._follower.on(entry)
        if step is Step.DELIVER:
            self._deliver(entry)
        elif step is Step.HEAL:
            self._start_healing()

    def heal(self) -> None:
        """Read after the position: something may have been missed, or the link that failed a read is back."""
        if not self._closed:
            self._follower.doubt()
            if self._started:
                self._start_healing()
            self._urged.set()

    def recalls(self, since: StreamPosition) -> bool:
        """Whether memory has all that followed `since`, as far as is known here: no read of the store is needed."""
        follower = self._follower
        return self.following and since.epoch == follower.epoch and follower.recent.after(since.offset) is not None

    def mark(self) -> Mark:
        """Note the position before the store's is asked for; see `check_positions`."""
        return self._follower.mark()

    def caught_up(self, top: StreamPosition, mark: Mark) -> bool:
        """Whether nothing is missing here, given the store's `top` that was asked for after `mark`."""
        return not self._joining and self._follower.caught_up(top, mark)

    # Joining

    async def join(
        self,
        subscriber: S,
        since: StreamPosition | None = None,
        *,
        latest: bool = False,
        matches: Matches | None = None,
    ) -> None:
        """Answer `subscriber` through its `reply` and make it live, with nothing lost or doubled between the two.
        `since` is where a returning client left off, None for a new one. `latest` is cache mode: the newest publication
        or, with `matches`, the newest whose tags match. Raises BrokerUnavailable; then there was no answer. Cancelling
        is safe.
        """
        self._joins += 1
        try:
            if latest and matches is not None:
                joined = await self._latest_match(since, matches)
            else:
                joined = await self._answer(since, latest=latest)
        finally:
            self._joins -= 1
        if self._closed:
            raise BrokerUnavailable("the channel was left meanwhile")
        if since is not None:
            self._stats.recovered += joined.recovered
            self._stats.unrecovered += not joined.recovered
        if not subscriber.reply(joined):
            return
        if joined.position == self._follower.position:
            self._live.enter(self.channel, subscriber)
        else:
            self._joining[subscriber] = joined.position.offset

    def position_now(self) -> StreamPosition | None:
        """Where a new subscriber can stand at once; None where it must `join`, because something is under way.

        It gets all that this process delivers from now on. What others published before and this process has yet to
        receive comes after its answer, so it misses nothing.
        """
        if self._closed or not self._started or not self.following or not self.idle:
            return None
        return self._follower.position

    def leave(self, subscriber: S) -> None:
        """Forget a subscriber that was answered and is not live yet; the live ones leave the hub."""
        self._joining.pop(subscriber, None)

    async def _answer(self, since: StreamPosition | None, *, latest: bool) -> Joined:
        follower = self._follower
        found: Found | None
        for attempt in range(JOIN_ATTEMPTS):
            # The position first, if memory has the rest; what memory lacks after all is read at the next attempt.
            found, self._start_read = self._start_read, None
            if found is None:
                request = ReadRequest(since, latest, entries=attempt > 0)
                found = await (self._read_newest([request]) if self._history.in_process else self._reads.get(request))
            if found.mark.resets != follower.resets:
                continue
            if follower.contradicted(found.read.top, found.mark):
                await self._healed()
            elif joined := follower.recall(since, found.read, latest=latest):
                self._stats.from_memory += since is not None
                return joined
            elif joined := follower.judge(since, found, latest=latest, limit=self.options.recovery_limit):
                return joined
        return Joined(follower.position, [], recovered=False)

    async def _latest_match(self, since: StreamPosition | None, matches: Matches) -> Joined:
        """The answer in cache mode with a filter. What is read counts for the position at which it was read only."""
        match: Publication | None = None
        read_at: StreamPosition | None = None
        for _ in range(JOIN_ATTEMPTS):
            joined = await self._answer(since, latest=True)
            newest = joined.publications[0] if joined.publications else None
            if newest is None or matches(newest.tags or {}):
                return joined
            if joined.position == read_at:
                return Joined(joined.position, [] if match is None else [match], recovered=True)
            read = await self._history.read(
                self.channel,
                meta_ttl=self.options.history_meta_ttl,
                limit=self.options.recovery_limit,
                max_bytes=self.options.recovery_bytes,
                newest=True,
            )
            read_at = read.top
            found = [each.publication for each in read.entries if matches(each.publication.tags or {})]
            match = found[-1] if found else None
        return Joined(self._follower.position, [], recovered=False)

    async def _read_newest(self, requests: list[ReadRequest]) -> Found:
        """Read as far back as any of `requests` needs, and keep what leads up to the entries in memory."""
        recent, mark = self._follower.recent, self._follower.mark()
        latest = any(each.latest and each.entries for each in requests)
        returning = [
            each.since.offset
            for each in requests
            if each.since and each.since.epoch == mark.epoch and not each.latest
            if each.entries or not (each.since.offset < recent.bottom or recent.knows(each.since.offset))
        ]
        limit = self.options.recovery_limit + 1 if returning else int(latest)
        after = min(returning) if returning and not latest else 0
        self._stats.join_reads += 1
        read = await self._history.read(
            self.channel,
            meta_ttl=self.options.history_meta_ttl,
            after=after,
            limit=limit,
            max_bytes=self.options.recovery_bytes,
            newest=True,
            followed=True,
        )
        if mark.resets == self._follower.resets and not self._follower.contradicted(read.top, mark):
            recent.keep(read)
        return Found(read, mark, after if returning else None, latest=limit > 0)

    # Healing

    def _start_healing(self) -> None:
        if self._healing is None:
            self._gap_since = time.monotonic()
            self._healing = asyncio.get_running_loop().create_task(self._heal())

    async def _healed(self) -> None:
        """Wait until the gap is filled, or the subscribers are unsubscribed for it."""
        self.heal()
        if self._healing is not None:
            await asyncio.wait((self._healing,), timeout=JOIN_HEAL_TIMEOUT)
        if self._follower.healing:
            raise BrokerUnavailable("the channel's history cannot be read at the moment")

    async def _heal(self) -> None:
        delay = RETRY_FIRST
        try:
            while not self._closed:
                try:
                    if await self._heal_once():
                        return
                    delay = RETRY_FIRST
                except BrokerUnavailable as error:
                    log.debug("stream_heal_postponed", channel=self.channel, reason=str(error))
                except Exception:
                    log.exception("stream_heal_failed", channel=self.channel)
                else:
                    continue
                await self._pause(delay)
                delay = min(delay * 2, RETRY_LONGEST)
        finally:
            self._healing = None

    async def _heal_once(self) -> bool:
        """Read after the position and deliver; True when the process follows again."""
        follower = self._follower
        joining = dict(self._joining)
        follower.reading()
        self._urged.clear()
        self._stats.heals += 1
        read = await self._history.read(
            self.channel,
            meta_ttl=self.options.history_meta_ttl,
            after=follower.last,
            limit=HEAL_ENTRIES,
            max_bytes=HEAL_BYTES,
            followed=True,
        )
        healed = follower.healed(read)
        if healed.lost:
            self._lose()
        if healed.deliver:
            self._stats.healed += len(healed.deliver)
            # Since the gap was noticed: on this clock it is not known when they would have come.
            self._stats.healed_delays += [time.monotonic() - self._gap_since] * len(healed.deliver)
        for entry in healed.deliver:
            self._deliver(entry)
        for subscriber, offset in joining.items():
            # It was answered before this read, so the store once was further than it is now.
            if offset > read.top.offset and self._joining.get(subscriber) == offset:
                self._drop(subscriber)
        return not follower.healing

    async def _pause(self, longest: float) -> None:
        """Wait a while before another try, shorter when the link is found meanwhile."""
        with suppress(TimeoutError):
            async with asyncio.timeout(longest * random.uniform(0.5, 1.0)):  # noqa: S311  # no secret
                await self._urged.wait()

    def _lose(self) -> None:
        self._stats.resets += 1
        log.info("stream_reset", channel=self.channel, epoch=self._follower.epoch, offset=self._follower.last)
        self._live.unsubscribe_all(self.channel)
        for subscriber in tuple(self._joining):
            self._drop(subscriber)

    def _drop(self, subscriber: S) -> None:
        if self._joining.pop(subscriber, None) is not None:
            subscriber.unsubscribe()

    def _deliver(self, entry: StreamEntry) -> None:
        try:
            self._live.broadcast(self.channel, entry)
        except Exception:
            # It is not known which subscribers got it, and the position has moved on: unsubscribe them all.
            log.exception("stream_delivery_failed", channel=self.channel, offset=entry.offset)
            self._lose()
        if self._joining:
            self._advance_joining(entry.offset)

    def _advance_joining(self, offset: int) -> None:
        """Make subscribers at `offset` live; one whose position was passed over has seen another stream."""
        for subscriber, position in tuple(self._joining.items()):
            if position == offset:
                del self._joining[subscriber]
                self._live.enter(self.channel, subscriber)
            elif position < offset:
                self._drop(subscriber)


async def check_positions(history: HistoryStore, streams: Collection[Stream[S]], *, in_flight: float = 1.0) -> int:
    """Compare the position of `streams` with the store's, heal those that differ, and return how many did.

    What the broker has still on its way gets `in_flight` seconds to arrive before it counts as missed. This finds a
    dropped last message, which breaks no chain, and keeps the positions of live channels alive. After a link was lost
    and found it takes the place of healing every channel. Raises BrokerUnavailable.
    """
    for stream in streams:
        if not stream.following:
            stream.heal()
    marks = [(stream, stream.mark()) for stream in streams if stream.following]
    tops = await history.positions({stream.channel: stream.options.history_meta_ttl for stream, _ in marks})
    doubtful = [(stream, mark) for stream, mark in marks if not stream.caught_up(tops[stream.channel], mark)]
    if doubtful and in_flight:
        await asyncio.sleep(in_flight)
    missed = [stream for stream, mark in doubtful if not stream.caught_up(tops[stream.channel], mark)]
    for stream in missed:
        stream.heal()
    return len(missed)
