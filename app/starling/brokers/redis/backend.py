"""The link to Redis: Pub/Sub over one connection, what is sent in order over another, reads over two more."""

from collections.abc import Sequence

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ResponseError

from starling.brokers.broadcast import MAX_EVENTS
from starling.brokers.link import LinkLost
from starling.brokers.redis.address import RedisAddress
from starling.brokers.redis.calls import PUBLISH, PUBLISH_MANY, PUBLISH_ONCE, Command, RedisCalls, RedisNames
from starling.brokers.redis.connections import client_name, make_pool
from starling.brokers.redis.inspection import inspect_server
from starling.brokers.redis.link import RedisLink
from starling.brokers.redis.refusal import refused
from starling.brokers.redis.rights import acl_rule
from starling.brokers.redis.sentinel import SentinelLink, SentinelPool
from starling.brokers.supervised import SupervisedBackend
from starling.engine.broker import BrokerUnavailable

CALLS_AT_ONCE = 256
READS_AT_ONCE = 16
QUERIES_AT_ONCE = 4


class RedisBackend(SupervisedBackend):
    """Channels of one Redis server, or of the master that Sentinel names, under one prefix."""

    def __init__(self, address: RedisAddress, *, prefix: str, timeout: float, max_events: int = MAX_EVENTS) -> None:
        """`timeout` in seconds bounds one call, `max_events` the events that may wait."""
        super().__init__(str(address), timeout=timeout, max_events=max_events)
        self.names = RedisNames(prefix)
        self._pool: ConnectionPool = make_pool(address, timeout=timeout)
        self._rights_remedy = f"ACL SETUSER {address.username or 'default'} {acl_rule(prefix)}"
        # Known from the start, so that no publication is sent twice and falls behind the one after it.
        scripts = [script.introduce() for script in (PUBLISH, PUBLISH_ONCE, PUBLISH_MANY)]
        self.calls = self._make_calls("publisher", first=scripts)
        # Answers of reads are great: they go their own way, few at once, so that no canary waits behind them.
        self.reads = self._make_calls("reader", max_batch=READS_AT_ONCE)
        # What clients and backends ask goes another way than what subscribing needs, and so never delays that.
        self.queries = self._make_calls("query", max_batch=QUERIES_AT_ONCE)

    def make_link(self) -> RedisLink:
        """A Pub/Sub connection that is not open yet."""
        connection = self._make_connection("subscriber")
        if isinstance(self._pool, SentinelPool):
            return SentinelLink(connection, self._pool, self.names)
        return RedisLink(connection, self.names)

    async def publish(self, channel: str, message: bytes) -> None:
        """Send to every process, after all that was published here before. Raises BrokerUnavailable."""
        await self._publish(self.calls, channel, message)

    async def publish_apart(self, channel: str, message: bytes) -> None:
        """Send over a connection that is opened for it. Raises BrokerUnavailable."""
        calls = self._make_calls("probe")
        calls.start()
        try:
            await self._publish(calls, channel, message)
        finally:
            await calls.stop()

    async def _publish(self, calls: RedisCalls, channel: str, message: bytes) -> None:
        try:
            await calls.execute(*self.names.publish(channel, message), size=len(message))
        except ResponseError as error:
            raise refused(error) from None

    async def open_publishing(self) -> None:
        """Begin to send."""
        self.calls.start()
        self.reads.start()
        self.queries.start()

    async def close_publishing(self) -> None:
        """End sending."""
        await self.calls.stop()
        await self.reads.stop()
        await self.queries.stop()
        if isinstance(self._pool, SentinelPool):
            await self._pool.sentinels.aclose()

    async def first_up(self) -> None:
        """Log what is wrong with the server, or with the rights of its user."""
        await inspect_server(self.calls.execute, self.names.prefix, cluster=False, rights_remedy=self._rights_remedy)

    async def check_server(self) -> None:
        """Leave a server that became a replica: it takes a PUBLISH all the same, but its master does not get it."""
        try:
            replication = await self.calls.execute("INFO", "replication")
        except (BrokerUnavailable, ResponseError):
            # The canary knows better whether the server serves.
            return
        if isinstance(replication, bytes) and b"role:slave" in replication:
            self.calls.renew()
            self.reads.renew()
            self.queries.renew()
            raise LinkLost("the server is a replica, its master is elsewhere")

    def remedy(self, reason: str) -> str:
        """The rule for the user, where Redis says that something is not allowed."""
        return self._rights_remedy if "permission" in reason else ""

    def _make_calls(self, purpose: str, *, max_batch: int = CALLS_AT_ONCE, first: Sequence[Command] = ()) -> RedisCalls:
        return RedisCalls(
            self._make_connection(purpose),
            timeout=self.timeout,
            max_batch=max_batch,
            is_outdated=self._pool.is_outdated if isinstance(self._pool, SentinelPool) else None,
            first=first,
        )

    def _make_connection(self, purpose: str) -> AbstractConnection:
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        connection.client_name = client_name(purpose)
        return connection
