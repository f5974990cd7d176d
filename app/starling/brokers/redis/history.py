"""History in Redis: a stream and a position for each channel, written and read by scripts that are atomic."""

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from itertools import islice

import structlog
from redis.exceptions import ResponseError

from starling.brokers.channel_names import stored_name
from starling.brokers.envelope import MalformedEnvelope, decode_body
from starling.brokers.redis.known_replies import KnownReplies
from starling.brokers.redis.refusal import refused
from starling.brokers.redis.replies import Command
from starling.brokers.redis.script import Execute, Script
from starling.engine.broker import BrokerUnavailable, PublishOptions, StreamEntry, StreamPosition, StreamRead
from starling.engine.history import DEFAULT_READ_TTL

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.broker")

# Positions asked for at once; the next portion goes when these are answered.
_POSITIONS = 250

PUBLISHING_SCRIPTS = (Script("publish.lua"), Script("publish_once.lua"))


class RedisHistory:
    """Implements starling.engine.history.History, and the publishing that belongs to it."""

    def __init__(
        self,
        publishing: Execute,
        reading: Execute,
        prefix: str,
        wire_name: Callable[[str], str],
        *,
        read_ttl: float = DEFAULT_READ_TTL,
        querying: Execute | None = None,
    ) -> None:
        """Reads are large and use a connection of their own, so that publications and canaries do not wait for them.

        `wire_name` returns the name of a channel in Redis. A position without a publication is kept for `read_ttl`
        seconds. Reads that do not follow a channel use `querying` (None: `reading`), so that they delay none that do.
        """
        self._publishing = publishing
        self._reading = reading
        self._querying = querying or reading
        self._prefix = prefix
        self._wire_name = wire_name
        self._read_ttl = read_ttl
        self._publish, self._publish_once = PUBLISHING_SCRIPTS
        self._read = Script("read.lua")
        self._known: KnownReplies[StreamRead] = KnownReplies()

    async def publish(
        self, channel: str, body: bytes, options: PublishOptions, live: bytes | None = None
    ) -> StreamPosition:
        """Keep `body` and send it, or `live` in its place, to every process, in one atomic step.

        Raises BrokerUnavailable.
        """
        keys, arguments = self._publishing_of(channel, body, options, new_epoch(), live)
        return read_position(await self._publish.run(self._publishing, keys, *arguments, size=len(body)))

    def publish_command(
        self, channel: str, body: bytes, options: PublishOptions, epoch: str, live: bytes | None = None
    ) -> Command:
        """The command that does what `publish` does; `read_position` reads its reply.

        `epoch` names the channel's stream if it is new: a text that was not used for it before.
        """
        keys, arguments = self._publishing_of(channel, body, options, epoch, live)
        return self._publish.call(keys, *arguments)

    def _publishing_of(
        self, channel: str, body: bytes, options: PublishOptions, epoch: str, live: bytes | None
    ) -> tuple[list[bytes], tuple[bytes | str | int, ...]]:
        keys = self._keys(channel)
        if options.idempotency_key:
            keys.append(self._idempotency(channel, options.idempotency_key))
        return keys, (
            self._wire_name(channel),
            body,
            options.history_size,
            _milliseconds(options.history_ttl),
            _milliseconds(options.history_meta_ttl),
            epoch,
            options.version,
            options.version_epoch,
            *(() if live is None or live is body else (live,)),
        )

    async def publish_once(self, channel: str, message: bytes, idempotency_key: str) -> StreamPosition:
        """Send `message`, which nothing keeps, unless its key was seen within 5 minutes. Raises BrokerUnavailable."""
        key = self._idempotency(channel, idempotency_key)
        return read_position(
            await self._publish_once.run(self._publishing, [key], self._wire_name(channel), message, size=len(message))
        )

    def publish_once_command(self, channel: str, message: bytes, idempotency_key: str) -> Command:
        """The command that does what `publish_once` does; `read_position` reads its reply."""
        return self._publish_once.call([self._idempotency(channel, idempotency_key)], self._wire_name(channel), message)

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
        found = await self._read.run(
            self._reading if followed else self._querying,
            self._keys(channel),
            _milliseconds(meta_ttl),
            epoch,
            after,
            "" if before is None else max(0, before),
            -1 if limit is None else limit,
            -1 if max_bytes is None else max_bytes,
            "newest" if newest else "oldest",
            max(1, _milliseconds(min(meta_ttl or self._read_ttl, self._read_ttl))),
            int(followed),
        )
        # Who follows a channel reads each entry once.
        known = None if followed else self._known.find((channel, newest), found)
        if known is not None:
            return known
        match found:
            case [bytes(stored_epoch), bytes(offset), bytes(bottom), int(cut), list(rows)]:
                top = StreamPosition(int(offset), stored_epoch.decode())
                entries = list(_entries(channel, top.epoch, reversed(rows) if newest else rows))
                read = StreamRead(top, int(bottom), entries, more=bool(cut), created=top.epoch == epoch)
                # What is malformed is reported each time, and only the first read has made the position.
                if not followed and not read.created and len(entries) == len(rows):
                    size = sum(len(entry.publication.data) for entry in entries)
                    self._known.keep((channel, newest), found, read, size)
                return read
        raise BrokerUnavailable("the read script answered in another form than it should")

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
        _, stream = self._keys(channel)
        try:
            await self._reading(b"UNLINK", stream)
        except ResponseError as error:
            raise refused(error) from None

    def _keys(self, channel: str) -> list[bytes]:
        name = stored_name(channel)
        return [f"{self._prefix}:meta:{{{name}}}".encode(), f"{self._prefix}:stream:{{{name}}}".encode()]

    def _idempotency(self, channel: str, key: str) -> bytes:
        return f"{self._prefix}:idem:{{{stored_name(channel)}}}:{key}".encode()


def read_position(found: object) -> StreamPosition:
    """What a publish script answered. Raises BrokerUnavailable for anything else."""
    if isinstance(found, list) and len(found) == 2:
        offset, epoch = found
        if isinstance(offset, bytes) and isinstance(epoch, bytes):
            return StreamPosition(int(offset), epoch.decode())
    raise BrokerUnavailable("a publish script answered in another form than it should")


def _entries(channel: str, epoch: str, rows: Iterable[object]) -> Iterable[StreamEntry]:
    for row in rows:
        try:
            match row:
                case [bytes(name), [b"p", bytes(previous), b"d", bytes(body)]]:
                    yield StreamEntry(decode_body(body, int(name.split(b"-")[0])), int(previous), epoch)
                case _:
                    raise MalformedEnvelope("fields other than p and d")
        except ValueError as error:
            # Left out, it breaks the chain of entries, so a client that needed it is informed that it is missing.
            log.warning("history_entry_malformed", channel=channel, problem=str(error))


@lru_cache(maxsize=1024)
def _milliseconds(seconds: float) -> int:
    return max(0, round(seconds * 1000))


def new_epoch() -> str:
    """A name for the life of a stream: a text that no other life has."""
    return os.urandom(6).hex()
