"""History in Redis: a stream and a position for each channel, read by scripts that are atomic."""

import asyncio
from collections.abc import Mapping
from itertools import islice

import structlog
from redis.exceptions import ResponseError

from starling.brokers.envelope import MalformedEnvelope, decode_body
from starling.brokers.redis.calls import Execute, RedisNames, Script, milliseconds, new_epoch
from starling.brokers.redis.known_entries import KnownEntries, KnownEntry, Row
from starling.brokers.redis.known_reads import KnownRead, ReadKey
from starling.brokers.redis.known_replies import KnownReplies
from starling.brokers.redis.refusal import refused
from starling.engine.broker import BrokerUnavailable, StreamEntry, StreamPosition, StreamRead
from starling.engine.history import DEFAULT_READ_TTL

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.broker")

# From this many entries on, a read is remembered for the next one also where the channel is followed.
_MANY = 16
# Positions asked for at once; the next portion goes when these are answered.
_POSITIONS = 250


class RedisHistory:
    """Implements starling.engine.history.HistoryStore."""

    in_process = False

    def __init__(
        self,
        reading: Execute,
        names: RedisNames,
        *,
        read_ttl: float = DEFAULT_READ_TTL,
        querying: Execute | None = None,
    ) -> None:
        """Reads are large and use a connection of their own, so that publications and canaries do not wait for them.

        A position without a publication is kept for `read_ttl` seconds. Reads that do not follow a channel use
        `querying` (None: `reading`), so that they delay none that do.
        """
        self._reading = reading
        self._querying = querying or reading
        self._names = names
        self._read_ttl = read_ttl
        self._read = Script("read.lua")
        self._known = KnownEntries()
        self._reads: KnownReplies[KnownRead] = KnownReplies()

    async def read(
        self,
        channel: str,
        *,
        meta_ttl: float,
        after: int = 0,
        before: int | None = None,
        limit: int | None = None,
        max_bytes: int | None = None,
        newest: bool = False,
        followed: bool = False,
    ) -> StreamRead:
        """Read the position and the entries with `after` < offset < `before` in one step. Raises BrokerUnavailable."""
        epoch = new_epoch()
        key = ReadKey(channel, after, before, limit, max_bytes, newest)
        execute = self._reading if followed else self._querying
        keys = self._names.keys(channel, "meta", "stream")
        arguments = (
            milliseconds(meta_ttl),
            epoch,
            after,
            "" if before is None else max(0, before),
            -1 if limit is None else limit,
            -1 if max_bytes is None else max_bytes,
            "newest" if newest else "oldest",
            max(1, milliseconds(min(meta_ttl or self._read_ttl, self._read_ttl))),
            int(followed),
        )
        if (last := self._reads.last(key)) is not None:
            state, known = last
            edge = known.read.top.offset if known.reaches_top(key) else ""
            found = await self._read.run(execute, keys, *arguments, str(state), edge)
            if (read := self._known_read(key, known, found)) is not None:
                return read
            if not _is_whole(found):
                found = await self._read.run(execute, keys, *arguments)
        else:
            found = await self._read.run(execute, keys, *arguments)
        match found:
            case [bytes(stored_epoch), bytes(offset), bytes(bottom), int(cut), list(rows)]:
                top = StreamPosition(int(offset), stored_epoch.decode())
                if newest:
                    rows.reverse()
                created = top.epoch == epoch
                # A few entries of a channel that is followed are not read again.
                few = followed and len(rows) < _MANY
                if few or not self._known.is_worth_keeping(channel):
                    entries = [entry for row in rows if (entry := _entry(channel, top.epoch, row)) is not None]
                    if not few:
                        self._known.note_read(channel, entries)
                    return StreamRead(top, int(bottom), entries, bool(cut), created)
                made = self._known_entries(channel, top.epoch, int(bottom), rows)
                whole = KnownRead(top, int(bottom), made, more=bool(cut), created=created)
                # What is malformed is reported each time.
                if len(made) == len(rows):
                    self._reads.keep(key, whole.state, whole, whole.size)
                return whole.read
        raise BrokerUnavailable("the read script answered in another form than it should")

    def _known_read(self, key: ReadKey, known: KnownRead, found: object) -> StreamRead | None:
        """The answer to a read that was answered before, where the script leaves out what is known; else None."""
        match found:
            case [_, _, _, -1, _]:
                self._reads.find(key, known.state)
                return known.read
            case [bytes(epoch), bytes(offset), bytes(bottom), -2, list(rows)] if known.leads_to(epoch.decode(), rows):
                top = StreamPosition(int(offset), epoch.decode())
                newer = self._known_entries(key.channel, top.epoch, int(bottom), rows)
                if len(newer) < len(rows):
                    return None
                whole = known.followed_by(key, top, int(bottom), newer)
                if whole is not None:
                    self._reads.keep(key, whole.state, whole, whole.size)
                    return whole.read
        return None

    def _known_entries(self, channel: str, epoch: str, bottom: int, rows: list[Row]) -> list[KnownEntry]:
        """The entries in rows, of which only those are decoded that were not read lately."""
        found = self._known.find(channel, epoch, rows)
        known: list[KnownEntry] = []
        new: list[KnownEntry] = []
        for row, before in zip(rows, found, strict=True):
            if before is not None:
                known.append(before)
            # What is malformed is never known, and so reported each time.
            elif (entry := _entry(channel, epoch, row)) is not None:
                known.append(made := KnownEntry(row, entry))
                new.append(made)
        if new:
            self._known.keep(channel, epoch, bottom, new)
        return known

    async def positions(self, channels: Mapping[str, float]) -> dict[str, StreamPosition]:
        """Read the tops of many channels, each with its `meta_ttl`. Raises BrokerUnavailable."""
        found: dict[str, StreamPosition] = {}
        left = iter(channels.items())
        while portion := list(islice(left, _POSITIONS)):
            reads = (self.read(channel, meta_ttl=meta_ttl, limit=0, followed=True) for channel, meta_ttl in portion)
            for (channel, _), read in zip(portion, await asyncio.gather(*reads), strict=True):
                found[channel] = read.top
        return found

    async def remove(self, channel: str) -> None:
        """Delete a channel's entries; its position stays. Raises BrokerUnavailable."""
        try:
            await self._reading(b"UNLINK", *self._names.keys(channel, "stream"))
        except ResponseError as error:
            raise refused(error) from None


def _is_whole(found: object) -> bool:
    """Whether an answer of the script leaves out nothing."""
    return not isinstance(found, list) or found[3] >= 0


def _entry(channel: str, epoch: str, row: Row) -> StreamEntry | None:
    """The entry in a row; None, and a line in the log, for what something else wrote."""
    # Without match, which takes twice as long: this is done for each entry that is read.
    try:
        name, fields = row
        first, previous, second, body = fields
        if first != b"p" or second != b"d":
            raise MalformedEnvelope("fields other than p and d")
        return StreamEntry(decode_body(body, int(name.split(b"-")[0])), int(previous), epoch)
    except ValueError as error:
        # Left out, it breaks the chain of entries, so a client that needed it is informed that it is missing.
        log.warning("history_entry_malformed", channel=channel, problem=str(error))
        return None
