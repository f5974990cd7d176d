"""Makes the broker that a URL asks for."""

import re
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, urlsplit

from app.brokers.broadcast import BroadcastBroker
from app.brokers.memory import MemoryBroker
from app.brokers.postgres import PostgresBackend, PostgresBroker
from app.brokers.redis import RedisBroker
from app.brokers.redis_backend import RedisBackend
from app.core.presence import DEFAULT_TTL

_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,40}")
# redis-py would take any of its settings from the URL, also those that this floor depends on.
_REDIS_OPTIONS = frozenset({"ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile"})
_EXAMPLES = {
    "redis": "redis://localhost:6379/0",
    "rediss": "rediss://user:password@redis.example:6379/0",
    "postgresql": "postgresql://user:password@localhost:5432/database",
}


def open_broker(
    url: str,
    *,
    prefix: str = "starling",
    timeout: float = 2.0,
    ca_file: str | Path | None = None,
    presence_ttl: float = DEFAULT_TTL,
) -> BroadcastBroker:
    """The broker at `url`: `memory://`, `redis://`, `rediss://` or `postgresql://`; it connects when it is started.

    `prefix` begins every name in the server, `timeout` in seconds bounds one call to it, `ca_file` holds the
    certificates that a `rediss://` server is checked against. A client stays in presence for `presence_ttl` seconds
    unless it is refreshed, and a process that long in occupancy. Raises ValueError, naming the mend, never the
    password.
    """
    if not _PREFIX.fullmatch(prefix):
        raise ValueError("broker prefix: 1 to 40 letters, digits, '_', '.' or '-', such as starling")
    if timeout <= 0:
        raise ValueError("broker timeout: a number of seconds above 0")
    if presence_ttl <= 0:
        raise ValueError("presence ttl: a number of seconds above 0")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f"broker URL: host or port cannot be read; write it like {_EXAMPLES['redis']}") from None
    if ca_file is not None and parts.scheme != "rediss":
        raise ValueError("broker CA file: it is for rediss:// only; PostgreSQL takes ?sslrootcert=FILE in the URL")
    if parts.scheme == "memory":
        return MemoryBroker(presence_ttl=presence_ttl)
    if parts.scheme not in _EXAMPLES:
        raise ValueError("broker URL: it must start with memory://, redis://, rediss:// or postgresql://")
    if not parts.hostname:
        raise ValueError(f"broker URL: the host is missing; write it like {_EXAMPLES[parts.scheme]}")
    if parts.scheme == "postgresql":
        address = f"postgresql://{parts.hostname}:{port or 5432}"
        return PostgresBroker(PostgresBackend(url, prefix=prefix, timeout=timeout, address=address))
    _check_redis(parts)
    if ca_file is not None and not Path(ca_file).is_file():
        raise ValueError(f"broker CA file: there is no file {ca_file}")
    address = f"{parts.scheme}://{parts.hostname}:{port or 6379}"
    ca_path = None if ca_file is None else str(ca_file)
    backend = RedisBackend(url, prefix=prefix, timeout=timeout, ca_file=ca_path, address=address)
    return RedisBroker(backend, presence_ttl=presence_ttl)


def _check_redis(parts: SplitResult) -> None:
    if not re.fullmatch(r"/?\d*", parts.path):
        raise ValueError(f"broker URL: after the host stands a database number, as in {_EXAMPLES[parts.scheme]}")
    options = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    if unknown := options - _REDIS_OPTIONS:
        raise ValueError(
            f"broker URL: unknown option {', '.join(sorted(unknown))}; known are {', '.join(sorted(_REDIS_OPTIONS))}"
        )
    if options and parts.scheme != "rediss":
        raise ValueError("broker URL: ssl options need rediss://")
