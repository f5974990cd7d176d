"""Calls to Redis over one connection: waiting commands are sent in one batch, and replies are matched by order."""

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import suppress

import hiredis
import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

from starling.brokers.redis.outbox import Outbox
from starling.brokers.supervised import in_words
from starling.engine.broker import BrokerUnavailable

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.broker")

Reply = bytes | int | str | list["Reply"] | None
Command = tuple[bytes | str | int | float, ...]


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
        self._is_outdated = is_outdated
        self._renew = False
        self._first = first
        self._outbox: Outbox[Sequence[Command], list[Reply | ResponseError]] = Outbox(
            self._transmit, timeout=timeout, max_batch=max_batch
        )

    def start(self) -> None:
        """Begin to send."""
        self._outbox.start()

    async def stop(self) -> None:
        """End sending, and give the connection back."""
        try:
            await self._outbox.stop()
        finally:
            await discard(self._connection)

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

    def post(self, command: Command, size: int) -> asyncio.Future[list[Reply | ResponseError]]:
        """Run a command after all that wait, without waiting for its one reply. Raises BrokerUnavailable."""
        return self._outbox.post((command,), size)

    async def execute_all(self, commands: Sequence[Command], size: int = 0) -> list[Reply | ResponseError]:
        """Run commands as one, each with a reply of its own; otherwise as `execute`."""
        return await self._outbox.send(commands, size)

    async def _transmit(self, batch: list[Sequence[Command]]) -> list[list[Reply | ResponseError]]:
        connection = self._connection
        replies: list[list[Reply | ResponseError]] = []
        demoted = False
        try:
            # Between batches nothing is due: bytes, or an end, mean that this connection cannot be used any more.
            if connection.is_connected and await self._is_over(connection):
                await discard(connection)
            first: Sequence[Command] = ()
            if not connection.is_connected:
                # Not left to the sending, which would not ask Sentinel where to.
                await connection.connect()  # type: ignore[no-untyped-call]
                first = self._first
            # In C, where redis-py's own packing costs more than all the rest of a publish.
            packed = b"".join([hiredis.pack_command(command) for commands in (first, *batch) for command in commands])  # type: ignore[arg-type]
            await connection.send_packed_command(packed, check_health=False)
            for _ in first:
                with suppress(ResponseError):
                    await connection.read_response(timeout=math.inf)
            for commands in batch:
                answers: list[Reply | ResponseError] = []
                for _ in commands:
                    try:
                        answers.append(await connection.read_response(timeout=math.inf))
                    except ResponseError as error:
                        answers.append(error)
                        demoted = demoted or isinstance(error, ReadOnlyError)
                replies.append(answers)
            if demoted:
                # A replica now: the address may lead to the master when it is asked again.
                self.renew()
        except (RedisError, OSError) as error:
            await discard(connection)
            raise BrokerUnavailable(in_words(error)) from None
        except BaseException:
            # A batch that was cut short leaves replies behind, and the next batch must not read them as its own. Today
            # redis-py closes a connection whose read was cut short; this does not rely on it.
            await discard(connection)
            raise
        return replies

    async def _is_over(self, connection: AbstractConnection) -> bool:
        wanted, self._renew = self._renew, False
        outdated = self._is_outdated is not None and self._is_outdated(connection)
        return wanted or outdated or await connection.can_read()


async def discard(connection: AbstractConnection) -> None:
    """Close at once; a frozen server is not waited for."""
    try:
        await connection.disconnect(nowait=True)
    except (RedisError, OSError):
        log.debug("redis_connection_discarded", exc_info=True)
