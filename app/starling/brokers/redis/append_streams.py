"""Append-only streams in Redis: their state stands in the hash of the channel's position."""

import secrets
import time
from collections.abc import Callable, Sequence

from redis.exceptions import NoScriptError, ResponseError

from starling.brokers.append_tags import further_members, status_tags
from starling.brokers.redis.calls import Command, Execute, RedisNames, Script, milliseconds
from starling.brokers.redis.cluster_calls import Answer, Done
from starling.brokers.redis.refusal import refused
from starling.engine.append_store import (
    Append,
    AppendOutcome,
    AppendResult,
    Change,
    Closing,
    Opened,
    Opening,
    StreamInfo,
    StreamKind,
    StreamStatus,
)
from starling.engine.broker import BrokerUnavailable
from starling.engine.history import DEFAULT_READ_TTL

# Runs a command of the size given, in bytes; the function gets its reply later. Raises BrokerUnavailable.
Post = Callable[[Command, int, Done], None]

_FIELDS = ("k", "s", "o", "e", "a", "n", "w", "f", "t", "c", "x")


class RedisAppendStreams:
    """Implements starling.engine.append_store.AppendStore."""

    def __init__(
        self,
        publishing: Execute,
        post: Post,
        querying: Execute,
        names: RedisNames,
        *,
        read_ttl: float = DEFAULT_READ_TTL,
    ) -> None:
        """`post` runs a command without a task. A position without a publication is kept for `read_ttl` seconds."""
        self._publishing = publishing
        self._post = post
        self._querying = querying
        self._names = names
        self._read_ttl = read_ttl
        self._open = Script("stream_open.lua")
        self._append = Script("stream_append.lua")
        self._delete = Script("stream_delete.lua")
        # One key, so that one command finds the streams of all slots.
        self._index = f"{names.prefix}:{{streams}}:open".encode()

    async def open(self, channel: str, opening: Opening) -> Opened:
        """Open a stream. Raises BrokerUnavailable."""
        answer = await self._open.run(
            self._publishing,
            self._keys(channel),
            opening.kind.value,
            milliseconds(opening.ttl),
            secrets.token_urlsafe(6),
            opening.producer,
            "" if opening.producer_epoch is None else opening.producer_epoch,
            int(opening.watched),
            opening.media_type,
            milliseconds(opening.expires_at) if opening.expires_at else "",
            opening.key,
        )
        outcome, epoch, created, info = _read(answer)
        return Opened(outcome, info, created=created, producer_epoch=epoch)

    async def append(self, channel: str, change: Append) -> Change:
        """Add a chunk, close, or both. Raises BrokerUnavailable."""
        return _read_change(
            await self._append.run(
                self._publishing, self._keys(channel), *self._arguments(channel, change), size=_size(change)
            )
        )

    def begin_append(self, channel: str, change: Append, done: Callable[[AppendResult], None]) -> AppendResult | None:
        """As `append`; `done` is called when Redis has answered."""
        keys, arguments, size = self._keys(channel), self._arguments(channel, change), _size(change)

        def answered(replies: Sequence[Answer] | Exception) -> None:
            if not isinstance(replies, Exception) and isinstance(replies[0], NoScriptError):
                # Redis forgets scripts when it restarts.
                try:
                    self._post(self._append.first_call(keys, *arguments), size, last_answered)
                except BrokerUnavailable as unavailable:
                    done(unavailable)
            else:
                last_answered(replies)

        def last_answered(replies: Sequence[Answer] | Exception) -> None:
            done(_result(replies))

        try:
            self._post(self._append.call(keys, *arguments), size, answered)
        except BrokerUnavailable as unavailable:
            return unavailable
        return None

    def _arguments(self, channel: str, change: Append) -> tuple[bytes | str | int, ...]:
        chunk, closing, producer = change.chunk, change.closing, change.producer
        first: int | str = ""
        if producer is not None and (chunk is not None or closing is not None):
            first = producer.sequence
        last = first if producer is None or first == "" or producer.last is None else producer.last
        return (
            self._names.channel(channel),
            *((b"", 0, 0) if chunk is None else (chunk.data, chunk.units, chunk.size)),
            change.max_bytes,
            "" if chunk is None else change.kind.value,
            *(("", "") if producer is None else (producer.id, producer.epoch)),
            first,
            last,
            int(change.watched),
            # Most appends end here.
            *(_closing_arguments(closing) if closing is not None or change.mark else ()),
            *((change.mark,) if change.mark else ()),
        )

    async def interrupt(self, channel: str, silent: float) -> Change:
        """Leave the stream interrupted where its producer was silent. Raises BrokerUnavailable."""
        interrupted = Append(StreamKind.TEXT, closing=Closing(StreamStatus.INTERRUPTED), watched=False)
        arguments = (*self._arguments(channel, interrupted), "", milliseconds(silent))
        return _read_change(await self._append.run(self._publishing, self._keys(channel), *arguments))

    async def info(self, channel: str) -> StreamInfo | None:
        """The stream, None where there is none. Raises BrokerUnavailable."""
        found = await self._call(self._querying, b"HMGET", self._keys(channel)[0], *_FIELDS)
        if not isinstance(found, list) or len(found) != len(_FIELDS):
            raise _malformed()
        return _info([field or b"" for field in found])

    async def delete(self, channel: str, epoch: str = "") -> bool:
        """Remove a stream. Raises BrokerUnavailable."""
        deleted = await self._delete.run(
            self._publishing,
            self._keys(channel),
            self._names.channel(channel),
            secrets.token_urlsafe(6),
            milliseconds(self._read_ttl),
            epoch,
        )
        return deleted == 1

    async def due(self, limit: int) -> Sequence[str]:
        """Channels whose time is over, the oldest first. Raises BrokerUnavailable."""
        return await self._listed(f"{time.time():.3f}", limit)

    async def plan(self, channel: str, seconds: float | None) -> None:
        """List a stream as open, or no more. Raises BrokerUnavailable."""
        if seconds is None:
            await self._call(self._publishing, b"ZREM", self._index, channel)
        else:
            await self._call(self._publishing, b"ZADD", self._index, f"{time.time() + seconds:.3f}", channel)

    async def open_channels(self, limit: int) -> Sequence[str]:
        """Channels of open streams. Raises BrokerUnavailable."""
        return await self._listed("+inf", limit)

    async def _listed(self, until: str, limit: int) -> list[str]:
        command = (b"ZRANGEBYSCORE", self._index, "-inf", until, "LIMIT", 0, limit)
        found = await self._call(self._querying, *command)
        if not isinstance(found, list):
            raise _malformed()
        return [name.decode() for name in found if isinstance(name, bytes)]

    def _keys(self, channel: str) -> list[bytes]:
        return self._names.keys(channel, "meta", "stream")

    @staticmethod
    async def _call(execute: Execute, *command: bytes | str | int) -> object:
        try:
            return await execute(*command)
        except ResponseError as error:
            raise refused(error) from None


def _result(replies: Sequence[Answer] | Exception) -> AppendResult:
    if isinstance(replies, Exception):
        return replies if isinstance(replies, BrokerUnavailable) else BrokerUnavailable(str(replies))
    match replies[0]:
        case BrokerUnavailable() as unavailable:
            return unavailable
        case ResponseError() as error:
            return refused(error)
        case reply:
            try:
                return _read_change(reply)
            except BrokerUnavailable as unavailable:
                return unavailable


def _read_change(reply: object) -> Change:
    """What the script that appends answered. Raises BrokerUnavailable for anything else."""
    outcome, expected, resumed, info = _read(reply)
    return Change(outcome, info, expected, resumed)


def _size(change: Append) -> int:
    return 0 if change.chunk is None else len(change.chunk.data)


def _closing_arguments(closing: Closing | None) -> tuple[bytes | str, ...]:
    if closing is None:
        return ("", "", "", "")
    tags = further_members(status_tags(closing.status, closing.reason))
    return (closing.status.value, closing.reason, closing.final, tags)


def _read(answer: object) -> tuple[AppendOutcome, int, bool, StreamInfo | None]:
    match answer:
        case [bytes(outcome), bytes(number), int(flag), *fields] if len(fields) == len(_FIELDS):
            texts = [field for field in fields if isinstance(field, bytes)]
            if len(texts) == len(_FIELDS):
                return AppendOutcome(outcome.decode()), int(number), bool(flag), _info(texts)
    raise _malformed()


def _info(fields: Sequence[bytes]) -> StreamInfo | None:
    kind, status, offset, epoch, length, size, reason, final, ttl, media_type, ends = fields
    if not kind:
        return None
    return StreamInfo(
        StreamKind(kind.decode()),
        StreamStatus(status.decode()),
        int(offset),
        epoch.decode(),
        int(length),
        int(size),
        reason.decode(),
        final,
        int(ttl) / 1000,
        media_type.decode(),
        int(ends or 0) / 1000,
    )


def _malformed() -> BrokerUnavailable:
    return BrokerUnavailable("a script of streams answered in another form than it should")
