"""The replies of Redis to the commands of one open connection, parsed by hiredis as the event loop reads them."""

import asyncio
from collections.abc import Sequence

import hiredis
from redis.asyncio.connection import AbstractConnection, DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from starling.brokers.redis.sockets import socket_of

Reply = bytes | int | str | list["Reply"] | None
Command = tuple[bytes | str | int | float, ...]


class RedisReplies(asyncio.Protocol):
    """Sends commands over the socket that redis-py's connection has opened, and returns their replies in order.

    redis-py's own reader costs ten times as much a reply.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        """`connection` is open, and nothing is due on it. Raises redis.exceptions.RedisError if it was lost since."""
        self._parser = hiredis.Reader(protocolError=InvalidResponse, replyError=DefaultParser.parse_error)
        self._due = 0
        self._replies: list[Reply | ResponseError] = []
        self._answered: asyncio.Future[list[Reply | ResponseError]] | None = None
        self.lost: Exception | None = None
        self._socket = socket_of(connection)
        self._socket.set_protocol(self)

    async def run(self, commands: Sequence[Command]) -> list[Reply | ResponseError]:
        """Send commands, and return a reply to each. One call at a time.

        Raises redis.exceptions.RedisError or OSError where the connection is lost; it is then of no more use.
        """
        if self.lost is not None:
            raise self.lost
        self._due, self._replies = len(commands), []
        self._answered = asyncio.get_running_loop().create_future()
        # In C, where redis-py's own packing costs more than all the rest of a publish.
        self._socket.write(b"".join([hiredis.pack_command(command) for command in commands]))  # type: ignore[arg-type]
        return await self._answered

    def abort(self) -> None:
        """End the connection at once."""
        self._socket.abort()

    # What the socket reports

    def data_received(self, data: bytes) -> None:
        """Take replies."""
        try:
            self._parser.feed(data)
            while (reply := self._parser.gets()) is not False:
                self._take(reply)
        except RedisError as problem:
            self._lose(problem)
            self._socket.abort()

    def _take(self, reply: object) -> None:
        if isinstance(reply, RedisError) and not isinstance(reply, ResponseError):
            raise reply
        if self._due == 0:
            raise InvalidResponse("Redis answered what nobody asked")
        self._replies.append(reply)  # type: ignore[arg-type]  # hiredis makes nothing else
        self._due -= 1
        if self._due == 0 and self._answered is not None and not self._answered.done():
            self._answered.set_result(self._replies)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what waits for replies."""
        self._lose(exc or RedisConnectionError("Connection closed by server."))

    def _lose(self, problem: Exception) -> None:
        if self.lost is None:
            self.lost = problem
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(problem)
