"""Presence in Redis: the clients, deadlines and users of each channel, changed and read by scripts that are atomic."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import compress, count, islice
from operator import ne
from typing import TypeVar, cast

import structlog
from msgspec import Raw

from starling.brokers.redis.calls import Execute, RedisNames, Script, new_epoch
from starling.brokers.redis.known_replies import KnownReplies
from starling.engine.broker import BrokerUnavailable
from starling.engine.presence import DEFAULT_TTL, PresenceCounts, TooManyPresent
from starling.protocol.messages import ClientInfo
from starling.protocol.shared_values import SharedMembers

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.broker")

# At most this many clients in one script call and, beyond the first, this many bytes; a call is about one channel.
_CALL_CLIENTS = 500
_CALL_BYTES = 65_536
# Calls under way at once; the next portion goes when these are answered.
_CALLS = 200
# What a member takes in memory beyond the bytes of its entry, about.
_MEMBER_BYTES = 256
Item = TypeVar("Item")

_STRANGE = "a presence script answered in another form than it should"


@dataclass(slots=True)
class _PresenceCall:
    """Clients of one channel, the arguments of a script for them, and the flags it answered for each.

    `new` is about the client itself, `flags` is about its user.
    """

    channel: str
    infos: list[ClientInfo] = field(default_factory=list)
    arguments: list[bytes] = field(default_factory=list)
    size: int = 0
    flags: list[bool] = field(default_factory=list)
    new: list[bool] = field(default_factory=list)

    def take(self, answer: object) -> None:
        """Read the flags. Raises BrokerUnavailable for an answer that is none."""
        if not isinstance(answer, list) or len(answer) != len(self.infos):
            raise BrokerUnavailable(_STRANGE)
        self.flags = [flag % 2 == 1 for flag in answer]
        self.new = [flag >= 2 for flag in answer]


@dataclass(slots=True)
class _KnownMembers:
    """The members in a reply. As long as Redis has them under this version they have not changed."""

    version: bytes
    members: SharedMembers


class RedisPresence:
    """Implements starling.engine.presence.PresenceStore."""

    def __init__(self, writing: Execute, reading: Execute, names: RedisNames, ttl: float = DEFAULT_TTL) -> None:
        """`ttl` in seconds. Reads are great and go their own way, so that publications do not wait behind them."""
        self.ttl = ttl
        self._lives = max(1, round(ttl * 1000))
        self._writing = writing
        self._reading = reading
        self._names = names
        self._known: KnownReplies[_KnownMembers] = KnownReplies()
        self._keep = Script("presence_room.lua", "presence_sweep.lua", "presence_keep.lua")
        self._enter = Script("presence_room.lua", "presence_sweep.lua", "presence_enter.lua", "presence_keep.lua")
        self._remove = Script("presence_sweep.lua", "presence_remove.lua")
        self._end = Script("presence_sweep.lua", "presence_end.lua")
        self._get = Script("presence_sweep.lua", "presence_get.lua")
        self._stats = Script("presence_sweep.lua", "presence_stats.lua")

    async def add(self, channel: str, info: ClientInfo) -> bool:
        """Add a client; True when its user was not in the channel before. Raises BrokerUnavailable."""
        call = next(_calls({channel: [info]}, _encode_entry))
        call.take(await self._keep_alive(call))
        return call.flags[0]

    async def enter(self, channel: str, info: ClientInfo, most: int) -> bool:
        """Add a client where fewer than `most` others are; False where there are as many. Raises BrokerUnavailable."""
        call = next(_calls({channel: [info]}, _encode_entry))
        keys = self._keys(channel)
        found = await self._enter.run(self._writing, keys, self._lives, *call.arguments, most, size=call.size)
        match found:
            case [int(flag)]:
                return flag >= 0
        raise BrokerUnavailable(_STRANGE)

    async def refresh(self, entries: Mapping[str, Collection[ClientInfo]]) -> None:
        """Keep the clients of many channels alive; an entry that is gone is made again. Raises BrokerUnavailable."""
        await self._in_portions(self._keep_alive, _calls(entries, _encode_entry))

    async def remove(self, entries: Mapping[str, Collection[ClientInfo]]) -> dict[str, set[str]]:
        """Take clients out; returns for each channel which of their users are gone. Raises BrokerUnavailable."""
        gone: dict[str, set[str]] = {channel: set() for channel in entries}
        for call in await self._in_portions(self._take_out, _calls(entries, _encode_user)):
            gone[call.channel].update(info.user for info, flag in zip(call.infos, call.flags, strict=True) if flag)
        return gone

    async def put(self, channel: str, info: ClientInfo, seconds: float) -> bool:
        """Show a client for `seconds`; True when it was not in the channel before. Raises BrokerUnavailable."""
        call = next(_calls({channel: [info]}, _encode_entry))
        lives = max(1, round(seconds * 1000))
        call.take(await self._keep.run(self._writing, self._keys(channel), lives, *call.arguments, size=call.size))
        return call.new[0]

    async def end(self, channel: str, info: ClientInfo, left: float | None) -> ClientInfo | None:
        """Take a client out that has `left` seconds at most; returns it as it was shown. Raises BrokerUnavailable."""
        left_ms = -1 if left is None else round(left * 1000)
        found = await self._end.run(self._writing, self._keys(channel), info.client, left_ms)
        return _decode_entry(info.client, found) if isinstance(found, bytes) else None

    async def get(self, channel: str, most: int | None = None, max_bytes: int | None = None) -> SharedMembers:
        """The clients in a channel, by client id. Raises TooManyPresent beyond `most` clients or `max_bytes`.

        Raises BrokerUnavailable.
        """
        key = (channel, most, max_bytes)
        last = self._known.last(key)
        version, count = (b"", 0) if last is None else (last[1].version, len(last[1].members))
        limits = (-1 if limit is None else limit for limit in (most, max_bytes))
        answer = await self._get.run(self._reading, self._keys(channel), *limits, version, count, new_epoch())
        match answer:
            case None:
                raise TooManyPresent
            case bytes() if last is not None:
                self._known.find(key, last[0])
                return last[1].members
            case [bytes(version), list(found)]:
                return self._members(key, channel, version, found)
        raise BrokerUnavailable(_STRANGE)

    def _members(self, key: Hashable, channel: str, version: bytes, found: list[object]) -> SharedMembers:
        """The members in a reply, which are remembered with their version."""
        known = self._known.find(key, found)
        if known is not None:
            known.version = version
            return known.members
        members = self._decoded(key, channel, found)
        # What is malformed is reported each time.
        if 2 * len(members) == len(found):
            size = members.size + _MEMBER_BYTES * len(members)
            self._known.keep(key, found, _KnownMembers(version, members), size)
        return members

    def _decoded(self, key: Hashable, channel: str, found: list[object]) -> SharedMembers:
        """The members in a reply, of which only those are decoded that the last reply did not have."""
        last = self._known.last(key)
        if last is None:
            return SharedMembers(_decode_all(channel, _pairs(found)))
        reply, members = cast("list[bytes]", last[0]), last[1].members
        old, now = _differing(cast("list[object]", reply), found)
        before, entries = dict(_pairs(cast("list[bytes]", old))), dict(_pairs(now))
        new = [entry for entry in entries.items() if before.get(cast("bytes", entry[0])) != entry[1]]
        gone = [name.decode() for name, entry in before.items() if entries.get(name) != entry]
        return members.changed(gone, dict(_decode_all(channel, new)))

    async def stats(self, channel: str) -> PresenceCounts:
        """How many are in a channel. Raises BrokerUnavailable."""
        found = await self._stats.run(self._reading, self._keys(channel))
        match found:
            case [int(clients), int(users)]:
                return PresenceCounts(clients, users)
        raise BrokerUnavailable(_STRANGE)

    async def _keep_alive(self, call: _PresenceCall) -> object:
        keys = self._keys(call.channel)
        return await self._keep.run(self._writing, keys, self._lives, *call.arguments, size=call.size)

    async def _take_out(self, call: _PresenceCall) -> object:
        return await self._remove.run(self._writing, self._keys(call.channel), *call.arguments, size=call.size)

    async def _in_portions(
        self, run: Callable[[_PresenceCall], Awaitable[object]], calls: Iterable[_PresenceCall]
    ) -> list[_PresenceCall]:
        """Run every call and keep what it answered. A call of one channel is under way in its turn."""
        done: list[_PresenceCall] = []
        left = iter(calls)
        while portion := list(islice(left, _CALLS)):
            answers = await asyncio.gather(*(run(call) for call in portion), return_exceptions=True)
            for call, answer in zip(portion, answers, strict=True):
                if isinstance(answer, BaseException):
                    raise answer
                call.take(answer)
            done += portion
        return done

    def _keys(self, channel: str) -> list[bytes]:
        return self._names.keys(channel, "presence", "presence-deadlines", "presence-users", "presence-version")


def _calls(
    entries: Mapping[str, Collection[ClientInfo]], encode: Callable[[ClientInfo], bytes]
) -> Iterator[_PresenceCall]:
    for channel, infos in entries.items():
        call = _PresenceCall(channel)
        for info in infos:
            client, rest = info.client.encode(), encode(info)
            size = len(client) + len(rest)
            if call.infos and (len(call.infos) == _CALL_CLIENTS or call.size + size > _CALL_BYTES):
                yield call
                call = _PresenceCall(channel)
            call.infos.append(info)
            call.arguments += (client, rest)
            call.size += size
        if call.infos:
            yield call


def _encode_user(info: ClientInfo) -> bytes:
    return info.user.encode()


def _encode_entry(info: ClientInfo) -> bytes:
    user = _encode_user(info)
    return b"%d %d\n%b%b%b" % (len(user), len(info.conn_info), user, info.conn_info, info.chan_info)


def _decode_entry(client: str, entry: bytes) -> ClientInfo:
    head, rest = entry.split(b"\n", 1)
    user_length, conn_length = (int(length) for length in head.split(b" "))
    end = user_length + conn_length
    return ClientInfo(rest[:user_length].decode(), client, Raw(rest[user_length:end]), Raw(rest[end:]))


def _differing(before: list[object], now: list[object]) -> tuple[list[object], list[object]]:
    """What two lists of pairs have between the pairs that they both begin and end with."""
    shorter = min(len(before), len(now))
    head = next(compress(count(), map(ne, before, now)), shorter) // 2 * 2
    tail = next(compress(count(), map(ne, reversed(before), reversed(now))), shorter) // 2 * 2
    tail = min(tail, shorter - head)
    return before[head : len(before) - tail], now[head : len(now) - tail]


def _pairs(items: list[Item]) -> Iterator[tuple[Item, Item]]:
    return zip(items[::2], items[1::2], strict=True)


def _decode_all(channel: str, entries: Iterable[tuple[object, object]]) -> Iterator[tuple[str, ClientInfo]]:
    malformed = 0
    for name, entry in entries:
        try:
            client = _text(name).decode()
            yield client, _decode_entry(client, _text(entry))
        except ValueError:
            malformed += 1
    if malformed:
        log.warning(
            "presence_malformed",
            channel=channel,
            entries=malformed,
            remedy="something other than this service writes under its prefix: give it another prefix",
        )


def _text(reply: object) -> bytes:
    if not isinstance(reply, bytes):
        raise ValueError(_STRANGE)  # noqa: TRY004 - the type of a reply is what Redis said, no mistake of a caller
    return reply
