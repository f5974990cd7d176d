"""The socket below a connection of redis-py: its transport, which others take over, and its end."""

import asyncio

import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.broker")


def socket_of(connection: AbstractConnection) -> asyncio.Transport:
    """The transport below an open connection, which redis-py has no public name for.

    Raises redis.exceptions.ConnectionError where it is closed.
    """
    writer = connection._writer
    if writer is None:
        raise RedisConnectionError("the connection is closed")
    return writer.transport  # type: ignore[return-value]  # StreamWriter promises less than it has


async def discard(connection: AbstractConnection) -> None:
    """Close at once; a frozen server is not waited for."""
    try:
        await connection.disconnect(nowait=True)
    except (RedisError, OSError):
        log.debug("redis_connection_discarded", exc_info=True)
