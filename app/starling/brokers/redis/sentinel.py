"""Finding the Redis master through Sentinel: for each new connection, and at intervals while one is open."""

import asyncio
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from starling.brokers.link import LinkLost
from starling.brokers.redis.calls import RedisNames
from starling.brokers.redis.link import RedisLink
from starling.brokers.supervised import in_words

# A sentinel that answers later than this is passed over. Seconds.
_PATIENCE = 1.0


class Sentinels(Sentinel):
    """redis-py's Sentinel, which asks all at once and believes the one that knows the latest election.

    redis-py asks one after the other and believes the first: one that is frozen costs its whole time at each question,
    and one that was cut off with the old master still names it.
    """

    def __init__(self, hosts: list[tuple[str, int]], **options: Any) -> None:
        """`options` are those of a connection to a sentinel."""
        options |= {"socket_timeout": _PATIENCE, "socket_connect_timeout": _PATIENCE}
        super().__init__(hosts, sentinel_kwargs=options | {"retry": Retry(NoBackoff(), 0)})  # type: ignore[no-untyped-call]

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """The master's host and port. Raises MasterNotFoundError, which says why."""
        questions = {asyncio.create_task(_ask(sentinel, service_name)) for sentinel in self.sentinels}
        states: list[dict[str, Any]] = []
        problems: set[str] = set()
        waiting = questions
        try:
            # The word of more than half is enough: the others need not be waited for.
            while waiting and len(states) * 2 <= len(questions):
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for question in done:
                    answer = question.result()
                    if isinstance(answer, str):
                        problems.add(answer)
                    else:
                        states.append(answer)
        finally:
            for question in waiting:
                question.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        if not states:
            raise MasterNotFoundError(f"no sentinel names a master {service_name!r}: {', '.join(sorted(problems))}")
        latest = max(states, key=lambda state: (state["config-epoch"], not state["is_sdown"]))
        if not self.check_master_state(latest, service_name):
            raise MasterNotFoundError(f"the sentinels hold the master {service_name!r} for down")
        return latest["ip"], latest["port"]


async def _ask(sentinel: "Redis", service: str) -> dict[str, Any] | str:
    """The state of the master, or why there is none."""
    try:
        masters = await sentinel.sentinel_masters()
    except (RedisError, OSError) as error:
        return in_words(error)
    # redis-py's type has a list too, which it gives in RESP3 only.
    return masters.get(service, "it is not among those they watch")  # type: ignore[union-attr]


class SentinelPool(SentinelConnectionPool):
    """Makes connections that find the master by themselves, and remembers which one was named last."""

    def __init__(self, service: str, sentinels: Sentinels, **options: Any) -> None:
        """`options` are those of a connection to the master."""
        super().__init__(service, sentinels, **options)  # type: ignore[no-untyped-call]
        self.sentinels = sentinels

    def is_outdated(self, connection: AbstractConnection) -> bool:
        """Whether `connection` leads to another server than the one that was named last."""
        return self.master_address not in (None, _address_of(connection))


class SentinelLink(RedisLink):
    """A Pub/Sub connection to the master, which is left when the sentinels name another."""

    def __init__(self, connection: AbstractConnection, pool: SentinelPool, names: RedisNames) -> None:
        super().__init__(connection, names)
        self._pool = pool

    async def check_count(self) -> None:
        """Compare the master too: one that was deposed may go on serving those who are connected to it."""
        await super().check_count()
        try:
            host, port = await self._pool.get_master_address()  # type: ignore[no-untyped-call]
        except (RedisError, OSError):
            # Without a word of the sentinels the link is as good as it was.
            return
        if self._pool.is_outdated(self.connection):
            raise LinkLost(f"the master is now {host}:{port}")


def _address_of(connection: AbstractConnection) -> tuple[str, int]:
    return connection.host, connection.port  # type: ignore[attr-defined]
