"""Makes redis-py's connections as a Redis address asks for them."""

from typing import Any

from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection

from app.brokers.redis_address import RedisAddress, Topology
from app.brokers.redis_sentinel import SentinelPool, Sentinels


def make_pool(address: RedisAddress, *, timeout: float) -> ConnectionPool:
    """A pool to make connections with, none of which it keeps; `timeout` in seconds bounds the connecting."""
    common = {
        # RESP2, because redis-py writes every RESP3 push, payload and all, to a log of its own.
        "protocol": 2,
        "driver_info": None,
        "socket_timeout": None,
        "socket_connect_timeout": timeout,
        **address.options,
    }
    login = {"db": address.database, "username": address.username, "password": address.password}
    if address.topology is Topology.SENTINEL:
        own = {"username": address.sentinel_username, "password": address.sentinel_password, "ssl": address.tls}
        sentinels = Sentinels(list(address.hosts), **common | own)
        return SentinelPool(address.service, sentinels, ssl=address.tls, **common | login)
    host, port = address.hosts[0]
    kind: Any = SSLConnection if address.tls else Connection
    return ConnectionPool(kind, host=host, port=port, **common | login)
