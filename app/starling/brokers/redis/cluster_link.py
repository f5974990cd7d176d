"""The Pub/Sub connection to one node of a Redis cluster, for the channels whose slots it has."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot

from starling.brokers.link import LinkLost
from starling.brokers.redis.calls import RedisNames
from starling.brokers.redis.link import RedisLink


@dataclass(slots=True)
class _Command:
    """A command about channels of one slot, and those whose answer is due."""

    verb: bytes
    slot: int
    due: set[bytes]


class ShardLink(RedisLink):
    """A RedisLink of sharded Pub/Sub. Channel `c` is `<prefix>:{c}` on the wire.

    When a slot moves to another node, the node that had it ends the subscriptions of its channels, or refuses them
    with MOVED. In both cases the link calls `moved` with the channels and drops them.
    """

    def __init__(self, connection: AbstractConnection, names: RedisNames, moved: Callable[[list[str]], None]) -> None:
        super().__init__(connection, names)
        self._moved = moved
        # The commands that are not answered in full.
        self._commands: list[_Command] = []

    async def subscribe(self, channels: Sequence[str]) -> None:
        """Return when Redis has acknowledged or refused all of them."""
        names = {self.name_of(channel): channel for channel in channels}
        self._channels.update(names)
        await self._request(b"SSUBSCRIBE", list(names))

    async def unsubscribe(self, channels: Sequence[str]) -> None:
        """Return when Redis has acknowledged all of them."""
        names = [name for channel in channels if self._channels.pop(name := self.name_of(channel), None)]
        if names:
            await self._request(b"SUNSUBSCRIBE", names)

    async def check_count(self) -> None:
        """Subscribe again what is subscribed: the answer says how many subscriptions Redis counts."""
        await self._request(b"SSUBSCRIBE", [next(iter(self._channels))])

    def pack(self, verb: bytes, names: Sequence[bytes]) -> bytes:
        """The request in bytes: one command for each slot, because Redis takes no two in one."""
        packed: list[bytes] = []
        for slot, group in groupby(sorted(names, key=key_slot), key=key_slot):
            command = list(group)
            self._commands.append(_Command(verb, slot, set(command)))
            packed += self.connection.pack_command(verb, *command)
        return b"".join(packed)

    def _take_replies(self) -> None:
        channels, receive = self._channels, self._receive
        for reply in self._replies():
            if type(reply) is not list:
                self._refuse(reply)
                continue
            kind, name, content = reply
            if kind == b"smessage":
                if receive is not None and (channel := channels.get(name)):
                    receive(channel, content)
            elif self._tick_off(kind, name):
                self._acknowledge(content)
            elif kind == b"sunsubscribe":
                self._subscribed = content
                self._give_up([name])
            else:
                raise LinkLost("Redis changed a subscription that it was not asked to change")

    def _replies(self) -> Iterator[object]:
        while (reply := self._parser.gets()) is not False:
            yield reply

    def _tick_off(self, kind: bytes, name: bytes) -> bool:
        """Whether this was asked for."""
        for command in self._commands:
            if command.verb == kind.upper() and name in command.due:
                command.due.discard(name)
                if not command.due:
                    self._commands.remove(command)
                return True
        return False

    def _refuse(self, reply: object) -> None:
        """Redis did not run a command, because its slot is elsewhere."""
        words = str(reply).split() if isinstance(reply, hiredis.ReplyError) else []
        if len(words) != 3 or words[0] != "MOVED":
            raise LinkLost(str(reply) if isinstance(reply, Exception) else "Redis answered what nobody asked")
        # None, where the slot was gone before the command came, and what was requested had happened by itself.
        command = next((command for command in self._commands if command.slot == int(words[1])), None)
        if command is not None:
            self._commands.remove(command)
            self._due -= len(command.due)
            if command.verb == b"SSUBSCRIBE":
                self._give_up(list(command.due))
            self._settle()

    def _give_up(self, names: list[bytes]) -> None:
        channels = [channel for name in names if (channel := self._channels.pop(name, None))]
        if channels:
            self._moved(channels)
