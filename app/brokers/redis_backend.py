"""The link to Redis: Pub/Sub over one connection, everything that is sent in order over another, reads over a third."""

import os
import re
import socket
from collections.abc import Sequence

import structlog
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ResponseError

from app.brokers.link import MAX_EVENTS
from app.brokers.redis_calls import Command, RedisCalls, Reply
from app.brokers.redis_link import RedisLink
from app.brokers.supervised import SupervisedBackend
from app.core.broker import BrokerUnavailable

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.broker")

READS_AT_ONCE = 16

_OLDEST = (7, 0)


class RedisBackend(SupervisedBackend):
    """Channels of one Redis server, under one prefix."""

    def __init__(
        self,
        url: str,
        *,
        prefix: str,
        timeout: float,
        address: str,
        ca_file: str | None = None,
        max_events: int = MAX_EVENTS,
    ) -> None:
        """`url` is checked by app.brokers.open; `ca_file` holds the certificates that a rediss server is checked by."""
        super().__init__(address, timeout=timeout, max_events=max_events)
        self.prefix = prefix
        options = {"ssl_ca_certs": ca_file} if ca_file else {}
        # RESP2, because redis-py writes every RESP3 push, payload and all, to a log of its own.
        self._connections = ConnectionPool.from_url(
            url, protocol=2, socket_timeout=None, socket_connect_timeout=timeout, driver_info=None, **options
        )
        self._calls = RedisCalls(self._make_connection("publisher"), timeout=timeout)
        # Answers of reads are great: they go their own way, few at once, so that no canary waits behind them.
        self.reads = RedisCalls(self._make_connection("reader"), timeout=timeout, max_batch=READS_AT_ONCE)

    def make_link(self) -> RedisLink:
        """A Pub/Sub connection that is not open yet."""
        return RedisLink(self._make_connection("subscriber"), self.prefix)

    async def publish(self, channel: str, message: bytes) -> None:
        """Send to every process, after all that was published here before. Raises BrokerUnavailable."""
        try:
            await self.execute(b"PUBLISH", f"{self.prefix}:{channel}".encode(), message, size=len(message))
        except ResponseError as error:
            raise BrokerUnavailable(f"Redis refused the publish: {error}") from None

    async def publish_apart(self, channel: str, message: bytes) -> None:
        """Send over a connection that is opened for it. Raises BrokerUnavailable."""
        calls = RedisCalls(self._make_connection("probe"), timeout=self.timeout)
        calls.start()
        try:
            await calls.execute(b"PUBLISH", f"{self.prefix}:{channel}".encode(), message)
        except ResponseError as error:
            raise BrokerUnavailable(f"Redis refused the publish: {error}") from None
        finally:
            await calls.stop()

    async def execute(self, *command: bytes | str | int | float, size: int = 0) -> Reply:
        """Run a command after all that wait; `size` is about its bytes.

        Raises BrokerUnavailable when the outcome is unknown, and redis.exceptions.ResponseError when Redis refused.
        Nothing is retried: a command whose outcome is unknown may have done its work.
        """
        return await self._calls.execute(*command, size=size)

    async def execute_all(self, commands: Sequence[Command], size: int = 0) -> list[Reply | ResponseError]:
        """Run commands with one round trip, each with a reply of its own; otherwise as `execute`."""
        return await self._calls.execute_all(commands, size)

    async def open_publishing(self) -> None:
        """Begin to send."""
        self._calls.start()
        self.reads.start()

    async def close_publishing(self) -> None:
        """End sending."""
        await self._calls.stop()
        await self.reads.stop()

    async def first_up(self) -> None:
        """Warn of a server that is too old, or that evicts what it should keep."""
        try:
            version = _field(await self.execute("INFO", "server"), "redis_version")
            policy = _field(await self.execute("INFO", "memory"), "maxmemory_policy")
        except ResponseError as error:
            raise BrokerUnavailable(f"Redis refused to tell its version and settings: {error}") from None
        numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
        if numbers < _OLDEST:
            log.warning("redis_too_old", version=version, mend="run Redis 7.0 or newer")
        if policy != "noeviction":
            log.warning(
                "redis_may_evict",
                maxmemory_policy=policy,
                mend="set maxmemory-policy noeviction: under any other policy Redis may delete history and presence",
            )

    def _make_connection(self, purpose: str) -> AbstractConnection:
        connection: AbstractConnection = self._connections.make_connection()  # type: ignore[no-untyped-call]
        host = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())
        connection.client_name = f"starling-{purpose}-{host}-{os.getpid()}"
        return connection


def _field(info: Reply, name: str) -> str:
    text = info.decode() if isinstance(info, bytes) else ""
    found = re.search(rf"^{name}:(.*?)\r?$", text, re.MULTILINE)
    return found.group(1) if found else ""
