"""Construction of redis-py connections from a Redis address."""

import os
import re
import socket
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, ConnectionPool, SSLConnection

from starling.brokers.redis.address import RedisAddress, Topology
from starling.brokers.redis.sentinel import SentinelPool, Sentinels


def make_pool(address: RedisAddress, *, timeout: float) -> ConnectionPool:
    """A pool to make connections with, none of which it keeps; `timeout` in seconds bounds the connecting."""
    common = _common(address, timeout)
    if address.topology is Topology.SENTINEL:
        own = {"username": address.sentinel_username, "password": address.sentinel_password, "ssl": address.tls}
        sentinels = Sentinels(list(address.hosts), **common | own)
        return SentinelPool(address.service, sentinels, ssl=address.tls, **common | _login(address))
    host, port = address.hosts[0]
    return ConnectionPool(_kind(address), host=host, port=port, **common | _login(address))


def make_connection(address: RedisAddress, host: str, port: int, purpose: str, *, timeout: float) -> AbstractConnection:
    """A connection to one server among those that `address` leads to; not open yet."""
    options = _common(address, timeout) | _login(address)
    connection: AbstractConnection = _kind(address)(host=host, port=port, **options)
    connection.client_name = client_name(purpose)
    return connection


def client_name(purpose: str) -> str:
    """What a connection is called in Redis' list of clients."""
    host = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())
    return f"starling-{purpose}-{host}-{os.getpid()}"


def _common(address: RedisAddress, timeout: float) -> dict[str, Any]:
    return {
        # RESP2, because redis-py writes every RESP3 push, payload and all, to a log of its own.
        "protocol": 2,
        "driver_info": None,
        "socket_timeout": None,
        "socket_connect_timeout": timeout,
        **address.options,
    }


def _login(address: RedisAddress) -> dict[str, Any]:
    return {"db": address.database, "username": address.username, "password": address.password}


def _kind(address: RedisAddress) -> Any:
    return SSLConnection if address.tls else Connection
