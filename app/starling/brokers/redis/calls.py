"""Calls to Redis over one connection: waiting commands are sent in one batch, and replies are matched by order."""

from collections.abc import Callable, Sequence
from itertools import islice

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

from starling.brokers.redis.outbox import Outbox
from starling.brokers.redis.replies import Command, RedisReplies, Reply
from starling.brokers.redis.sockets import discard
from starling.brokers.supervised import in_words
from starling.engine.broker import BrokerUnavailable


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

    def post(
        self, command: Command, size: int, done: Callable[[list[Reply | ResponseError] | Exception], None]
    ) -> None:
        """Run a command after all that wait; `done` gets its one reply, or why there is none, later.

        Raises BrokerUnavailable.
        """
        self._outbox.post((command,), size, done)

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
        if any(isinstance(reply, ReadOnlyError) for reply in found):
            # A replica now: the address may lead to the master when it is asked again.
            self.renew()
        rest = iter(found[first:])
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
