"""Calls to Redis over one connection: names and scripts, batches of commands, and replies that are matched by order."""

import asyncio
import hashlib
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple, Protocol

import hiredis
from redis.asyncio.connection import AbstractConnection, DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, NoScriptError, ReadOnlyError, RedisError, ResponseError

from starling.brokers.envelope import stored_name
from starling.brokers.outbox import Outbox
from starling.brokers.redis.refusal import refused
from starling.brokers.redis.sockets import discard, socket_of
from starling.brokers.supervised import in_words
from starling.engine.broker import BrokerUnavailable
from starling.engine.channels import NAME_LENGTH

Reply = bytes | int | str | list["Reply"] | None
Command = tuple[bytes | str | int | float, ...]
Replied = Callable[["list[Reply | ResponseError] | Exception"], None]
"""Gets a reply to each command, or why there is none."""


class StreamKeys(NamedTuple):
    """What a channel and its history are called in Redis."""

    channel: bytes
    meta: bytes
    stream: bytes


class RedisNames:
    """What channels and their keys are called in Redis. In a cluster all names of a channel have one slot."""

    def __init__(self, prefix: str, *, cluster: bool = False) -> None:
        """`prefix` begins every name."""
        self.prefix = prefix
        self._publish = b"SPUBLISH" if cluster else b"PUBLISH"
        self._channel = f"{prefix}:{{%s}}" if cluster else f"{prefix}:%s"
        # Most publications go to few channels. Names of users' own channels may be longer, and are made each time.
        self._known_stream_keys = lru_cache(maxsize=4096)(self._stream_keys)

    def channel(self, channel: str) -> bytes:
        """The Pub/Sub channel. Raises UnicodeError for a name that is not UTF-8, before anything is sent with it."""
        return (self._channel % stored_name(channel)).encode()

    def keys(self, channel: str, *kinds: str) -> list[bytes]:
        """The key of each kind."""
        name = stored_name(channel)
        return [f"{self.prefix}:{kind}:{{{name}}}".encode() for kind in kinds]

    def stream_keys(self, channel: str) -> StreamKeys:
        """The Pub/Sub channel, and the keys of its stream. Raises UnicodeError as `channel` does."""
        return (self._known_stream_keys if len(channel) <= NAME_LENGTH else self._stream_keys)(channel)

    def _stream_keys(self, channel: str) -> StreamKeys:
        return StreamKeys(self.channel(channel), *self.keys(channel, "meta", "stream"))

    def publish(self, channel: str, message: bytes) -> Command:
        """The command that sends `message` to every process."""
        return (self._publish, self.stream_keys(channel).channel, message)


class Execute(Protocol):
    """Runs one Redis command. Raises BrokerUnavailable, and redis.exceptions.ResponseError when Redis refused."""

    async def __call__(self, *command: bytes | str | int | float, size: int = 0) -> object:
        """`size` is about the command's bytes."""


class Script:
    """A Lua script, atomic in Redis. It is sent once, and then called by its digest."""

    def __init__(self, *names: str) -> None:
        """`names` are of files in this directory, which make one script together."""
        self._text = b"\n".join(Path(__file__).with_name(name).read_bytes() for name in names)
        self._digest = hashlib.sha1(self._text, usedforsecurity=False).hexdigest()

    def introduce(self) -> Command:
        """The command that makes Redis know a script that does nothing without keys; the right to run it is enough."""
        return (b"EVAL", self._text, 0)

    def call(self, keys: Sequence[bytes], *arguments: bytes | str | int) -> Command:
        """The command that runs it; Redis answers NoScriptError where it does not know it yet."""
        return (b"EVALSHA", self._digest, len(keys), *keys, *arguments)

    def first_call(self, keys: Sequence[bytes], *arguments: bytes | str | int) -> Command:
        """The command that runs it where Redis does not know it, and will from then on."""
        return (b"EVAL", self._text, len(keys), *keys, *arguments)

    async def run(
        self, execute: Execute, keys: Sequence[bytes], *arguments: bytes | str | int, size: int = 0
    ) -> object:
        """Run it. Raises BrokerUnavailable, also when Redis refused: its words are in the message."""
        try:
            try:
                return await execute(*self.call(keys, *arguments), size=size)
            except NoScriptError:
                # Redis forgets scripts when it restarts.
                return await execute(*self.first_call(keys, *arguments), size=size + len(self._text))
        except ResponseError as error:
            raise refused(error) from None


PUBLISH = Script("publish.lua")
PUBLISH_ONCE = Script("publish_once.lua")
PUBLISH_MANY = Script("publish.lua", "publish_once.lua", "publish_many.lua")


def new_epoch() -> str:
    """A name for the life of a stream: a text that no other life has."""
    return os.urandom(6).hex()


@lru_cache(maxsize=1024)
def milliseconds(seconds: float) -> int:
    """A time as Redis takes it."""
    return max(0, round(seconds * 1000))


class RedisReplies(asyncio.Protocol):
    """Sends commands over the socket that redis-py's connection has opened, and returns their replies in order.

    redis-py's own reader costs ten times as much a reply.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        """`connection` is open, and nothing is due on it. Raises redis.exceptions.RedisError if it was lost since."""
        self._parser = hiredis.Reader(protocolError=InvalidResponse, replyError=DefaultParser.parse_error)
        self._due = 0
        self._replies: list[Reply | ResponseError] = []
        self._done: Replied | None = None
        self.lost: Exception | None = None
        self._socket = socket_of(connection)
        self._socket.set_protocol(self)

    async def run(self, commands: Sequence[Command]) -> list[Reply | ResponseError]:
        """Send commands, and return a reply to each. One call at a time.

        Raises redis.exceptions.RedisError or OSError where the connection is lost; it is then of no more use.
        """
        if self.lost is not None:
            raise self.lost
        answered: asyncio.Future[list[Reply | ResponseError]] = asyncio.get_running_loop().create_future()

        def done(found: list[Reply | ResponseError] | Exception) -> None:
            if answered.done():
                return
            if isinstance(found, Exception):
                answered.set_exception(found)
            else:
                answered.set_result(found)

        self.begin(commands, done)
        return await answered

    def begin(self, commands: Sequence[Command], done: "Replied") -> None:
        """As `run`, without waiting: `done` gets the replies where they are read, or why there are none."""
        # In C, where redis-py's own packing costs more than all the rest of a publish.
        if len(commands) == 1:
            packed = hiredis.pack_command(commands[0])  # type: ignore[arg-type]
        else:
            packed = b"".join([hiredis.pack_command(command) for command in commands])  # type: ignore[arg-type]
        self._due, self._replies, self._done = len(commands), [], done
        self._socket.write(packed)

    def abort(self) -> None:
        """End the connection at once; nobody gets replies any more."""
        self._done = None
        self.lost = self.lost or RedisConnectionError("the connection was given up")
        self._socket.abort()

    # What the socket reports

    def data_received(self, data: bytes) -> None:
        """Take replies."""
        try:
            self._parser.feed(data)
            while (reply := self._parser.gets()) is not False:
                if isinstance(reply, RedisError) and not isinstance(reply, ResponseError):
                    raise reply
                if self._due == 0:
                    raise InvalidResponse("Redis answered what nobody asked")
                self._replies.append(reply)
                self._due -= 1
        except RedisError as problem:
            self._lose(problem)
            self._socket.abort()
        else:
            if self._due == 0:
                self._report(self._replies)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what waits for replies."""
        self._lose(exc or RedisConnectionError("Connection closed by server."))

    def _lose(self, problem: Exception) -> None:
        if self.lost is None:
            self.lost = problem
        self._report(problem)

    def _report(self, found: list[Reply | ResponseError] | Exception) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(found)


class RedisCalls:
    """One connection for commands; it is opened by the first of them and again after a loss."""

    def __init__(
        self,
        connection: AbstractConnection,
        *,
        timeout: float,
        max_batch: int = 256,
        is_outdated: Callable[[AbstractConnection], bool] | None = None,
        first: Sequence[Command] = (),
    ) -> None:
        """`timeout` in seconds bounds each call; `max_batch` commands at most are under way at once.

        A connection that `is_outdated` leads to the wrong server by now, and is opened anew before the next batch.
        `first` are commands that every new connection begins with, whatever Redis answers.
        """
        self._connection = connection
        self._replies: RedisReplies | None = None
        self._is_outdated = is_outdated
        self._renew = False
        self._first = first
        self._outbox: Outbox[Sequence[Command], list[Reply | ResponseError]] = Outbox(
            self._transmit, timeout=timeout, max_batch=max_batch, at_once=self
        )

    def start(self) -> None:
        """Begin to send."""
        self._outbox.start()

    async def stop(self) -> None:
        """End sending, and close the connection."""
        try:
            await self._outbox.stop()
        finally:
            await self._discard()

    def renew(self) -> None:
        """Open the connection anew before the next batch."""
        self._renew = True

    async def execute(self, *command: bytes | str | int | float, size: int = 0) -> Reply:
        """Run a command after all that wait; `size` is about its bytes.

        Raises BrokerUnavailable when the outcome is unknown, and redis.exceptions.ResponseError when Redis refused.
        Nothing is retried: a command whose outcome is unknown may have done its work.
        """
        (reply,) = await self._outbox.send((command,), size)
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    def post(self, command: Command, size: int, done: Replied) -> None:
        """Run a command after all that wait; `done` gets its one reply, or why there is none, later.

        Raises BrokerUnavailable.
        """
        self._outbox.post((command,), size, done)

    def post_all(self, commands: Sequence[Command], size: int, done: Replied) -> None:
        """As `post`, for commands that are sent together: `done` gets a reply to each."""
        self._outbox.post(commands, size, done)

    async def execute_all(self, commands: Sequence[Command], size: int = 0) -> list[Reply | ResponseError]:
        """Run commands as one, each with a reply of its own; otherwise as `execute`."""
        return await self._outbox.send(commands, size)

    async def _transmit(self, batch: list[Sequence[Command]]) -> list[list[Reply | ResponseError]]:
        try:
            replies, first = self._replies, 0
            if replies is None or replies.lost is not None or self._is_outdated_now():
                replies, first = await self._open(), len(self._first)
            commands = [command for part in (self._first[:first], *batch) for command in part]
            found = await replies.run(commands)
        except (RedisError, OSError) as error:
            await self._discard()
            raise BrokerUnavailable(in_words(error)) from None
        except BaseException:
            # A batch that was cut short leaves replies behind, and the next batch must not read them as its own.
            await self._discard()
            raise
        return self._divide(batch, found[first:])

    def begin(
        self,
        batch: Sequence[Sequence[Command]],
        done: Callable[[Sequence[list[Reply | ResponseError]] | BrokerUnavailable], None],
    ) -> bool:
        """As starling.brokers.outbox.SendsAtOnce."""
        replies = self._replies
        if replies is None or replies.lost is not None or self._renew:
            return False
        if self._is_outdated is not None and self._is_outdated(self._connection):
            return False

        def replied(found: list[Reply | ResponseError] | Exception) -> None:
            if isinstance(found, Exception):
                done(BrokerUnavailable(in_words(found)))
            else:
                done(self._divide(batch, found))

        replies.begin(batch[0] if len(batch) == 1 else [*chain.from_iterable(batch)], replied)
        return True

    def abandon(self) -> None:
        """As starling.brokers.outbox.SendsAtOnce; the next batch opens the connection anew."""
        if self._replies is not None:
            self._replies.abort()

    def _divide(
        self, batch: Sequence[Sequence[Command]], found: list[Reply | ResponseError]
    ) -> list[list[Reply | ResponseError]]:
        """The replies to each item of the batch."""
        if ReadOnlyError in map(type, found):
            # A replica now: the address may lead to the master when it is asked again.
            self.renew()
        if len(batch) == 1:
            return [found]
        rest = iter(found)
        return [list(islice(rest, len(part))) for part in batch]

    async def _open(self) -> RedisReplies:
        await self._discard()
        # Not left to the sending, which would not ask Sentinel where to.
        await self._connection.connect()  # type: ignore[no-untyped-call]
        self._replies = RedisReplies(self._connection)
        return self._replies

    async def _discard(self) -> None:
        replies, self._replies = self._replies, None
        if replies is not None:
            replies.abort()
        await discard(self._connection)

    def _is_outdated_now(self) -> bool:
        wanted, self._renew = self._renew, False
        return wanted or (self._is_outdated is not None and self._is_outdated(self._connection))
