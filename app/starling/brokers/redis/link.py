"""The Pub/Sub connection to Redis: redis-py connects and logs in, then hiredis parses what the event loop reads."""

import asyncio
from collections.abc import Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from starling.brokers.link import Link, LinkLost, Receive
from starling.brokers.redis.calls import RedisNames
from starling.brokers.redis.sockets import discard, socket_of
from starling.brokers.supervised import in_words


class RedisLink(Link, asyncio.Protocol):
    """One Pub/Sub connection.

    It takes the socket over from redis-py's connection, whose PubSub would connect again on its own, so that nobody
    would learn that messages were missed, and costs ten times as much a message.
    """

    batch = 1000

    def __init__(self, connection: AbstractConnection, names: RedisNames) -> None:
        self.connection = connection
        self._names = names
        self._channels: dict[bytes, str] = {}
        self._subscribed = 0
        self._due = 0
        self._answered: asyncio.Future[None] | None = None
        self._parser = hiredis.Reader()
        self._socket: asyncio.Transport | None = None
        self._receive: Receive | None = None
        self._lost: asyncio.Future[LinkLost] = asyncio.get_running_loop().create_future()

    def name_of(self, channel: str) -> bytes:
        """What `channel` is called in Redis."""
        return self._names.channel(channel)

    async def open(self) -> None:
        """Connect and log in."""
        try:
            await self.connection.connect()  # type: ignore[no-untyped-call]
            # Nothing is due between the last answer to the login and the first subscription, so no byte is left behind.
            self._socket = socket_of(self.connection)
        except (RedisError, OSError) as error:
            raise LinkLost(in_words(error)) from None
        self._socket.set_protocol(self)

    async def read(self, receive: Receive) -> None:
        """Hand over what comes, until the connection is lost."""
        self._receive = receive
        raise await self._lost

    async def subscribe(self, channels: Sequence[str]) -> None:
        """Return when Redis has acknowledged all of them."""
        names = {self.name_of(channel): channel for channel in channels}
        self._channels.update(names)
        await self._request(b"SUBSCRIBE", list(names))

    async def unsubscribe(self, channels: Sequence[str]) -> None:
        """Return when Redis has acknowledged all of them."""
        names = [self.name_of(channel) for channel in channels]
        for name in names:
            self._channels.pop(name, None)
        await self._request(b"UNSUBSCRIBE", names)

    async def check_count(self) -> None:
        """Subscribe again what is subscribed: the answer says how many subscriptions Redis counts."""
        await self._request(b"SUBSCRIBE", [next(iter(self._channels))])

    async def close(self) -> None:
        """Close the connection."""
        await discard(self.connection)
        if self._socket is not None:
            self._socket.abort()

    # What the socket reports

    def data_received(self, data: bytes) -> None:
        """Hand over the messages in `data`."""
        try:
            self._parser.feed(data)
            self._take_replies()
        except LinkLost as lost:
            self._lose(lost)
        except hiredis.HiredisError as error:
            self._lose(LinkLost(f"what Redis says cannot be parsed: {error}"))

    def _take_replies(self) -> None:
        parser, channels, receive = self._parser, self._channels, self._receive
        while (reply := parser.gets()) is not False:
            if type(reply) is not list:
                raise LinkLost(str(reply) if isinstance(reply, Exception) else "Redis answered what nobody asked")
            kind, name, content = reply
            if kind == b"message":
                if receive is not None and (channel := channels.get(name)):
                    receive(channel, content)
            else:
                self._acknowledge(content)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the reading."""
        self._lose(LinkLost("Connection closed by server." if exc is None else in_words(exc)))

    def _lose(self, lost: LinkLost) -> None:
        if not self._lost.done():
            self._lost.set_result(lost)

    async def _request(self, verb: bytes, names: list[bytes]) -> None:
        if self._socket is None or self._lost.done():
            raise LinkLost("the connection is closed")
        # Answers to a request that was given up are still due, before those to this one.
        self._due += len(names)
        self._answered = asyncio.get_running_loop().create_future()
        self._socket.write(self.pack(verb, names))
        await self._answered
        if self._subscribed != len(self._channels):
            raise LinkLost(f"Redis counts {self._subscribed} subscriptions where {len(self._channels)} are")

    def pack(self, verb: bytes, names: Sequence[bytes]) -> bytes:
        """The request in bytes."""
        return b"".join(self.connection.pack_command(verb, *names))

    def _acknowledge(self, subscribed: Any) -> None:
        if self._due == 0:
            raise LinkLost("Redis changed a subscription that it was not asked to change")
        self._subscribed = subscribed
        self._due -= 1
        self._settle()

    def _settle(self) -> None:
        if self._due == 0 and self._answered is not None and not self._answered.done():
            self._answered.set_result(None)
