"""Opening a broker, or its link alone, by URL.

The clients of Redis and PostgreSQL are imported where a URL asks for them: they are a tenth of a start without them.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starling.brokers.broadcast import BroadcastBroker, LinkBackend
from starling.brokers.memory.broker import MemoryBackend, MemoryBroker
from starling.brokers.options import WRONG_SCHEME, BrokerOptions
from starling.brokers.redis.address import SCHEMES, Topology, parse_address
from starling.options import OptionError, SettingsError

if TYPE_CHECKING:
    from starling.brokers.postgres import PostgresBackend
    from starling.brokers.redis.backend import RedisBackend
    from starling.brokers.redis.cluster_backend import ClusterBackend

_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_DEFAULTS = BrokerOptions()
_CERT, _KEY = "broker_cert_file", "broker_key_file"
_POSTGRES = "postgresql://user:password@localhost:5432/database"
# What the client of Redis calls the settings of files.
_CLIENT_OPTIONS = {"broker_ca_file": "ssl_ca_certs", _CERT: "ssl_certfile", _KEY: "ssl_keyfile"}
# The files of settings, by the setting's name.
_Files = Mapping[str, str | Path | None]


def build_broker(options: BrokerOptions) -> BroadcastBroker:
    """The broker of a service, which connects when it is started. Raises SettingsError."""
    try:
        return open_broker(
            options.broker_url.get_secret_value(),
            prefix=options.broker_prefix,
            timeout=options.broker_timeout_seconds,
            ca_file=options.broker_ca_file,
            cert_file=options.broker_cert_file,
            key_file=options.broker_key_file,
            presence_ttl=options.presence_ttl_seconds,
            read_ttl=options.position_read_ttl_seconds,
        )
    except OptionError as error:
        raise SettingsError([error.problem]) from error


def open_broker(
    url: str,
    *,
    prefix: str = _DEFAULTS.broker_prefix,
    timeout: float = _DEFAULTS.broker_timeout_seconds,
    ca_file: str | Path | None = None,
    cert_file: str | Path | None = None,
    key_file: str | Path | None = None,
    presence_ttl: float = _DEFAULTS.presence_ttl_seconds,
    read_ttl: float = _DEFAULTS.position_read_ttl_seconds,
) -> BroadcastBroker:
    """The broker at `url`, which connects when it is started.

    A client stays in presence for `presence_ttl` seconds unless it is refreshed, and a process that long in occupancy.
    The position of a channel without a publication is kept for `read_ttl` seconds after it was read. The other
    arguments are those of `open_backend`. Raises OptionError as it does.
    """
    if presence_ttl <= 0:
        raise OptionError("presence_ttl_seconds", "it is a number of seconds above 0")
    if read_ttl <= 0:
        raise OptionError("position_read_ttl_seconds", "it is a number of seconds above 0")
    files = {"broker_ca_file": ca_file, _CERT: cert_file, _KEY: key_file}
    scheme = _check(url, prefix, timeout, files)
    if scheme == "memory":
        return MemoryBroker(presence_ttl=presence_ttl, read_ttl=read_ttl)
    if scheme in SCHEMES:
        from starling.brokers.redis.broker import RedisBroker

        return RedisBroker(_open_redis(url, prefix, timeout, files), presence_ttl=presence_ttl, read_ttl=read_ttl)
    from starling.brokers.postgres import PostgresBroker

    return PostgresBroker(_open_postgres(url, prefix, timeout))


def open_backend(
    url: str,
    *,
    prefix: str,
    timeout: float,
    ca_file: str | Path | None = None,
    cert_file: str | Path | None = None,
    key_file: str | Path | None = None,
) -> LinkBackend:
    """The link to the server at `url`, which connects when it is started.

    `memory://`, `postgresql://`, or a scheme of starling.brokers.redis.address. `prefix` begins every name in the
    server, `timeout` in seconds bounds one call to it. For `rediss` schemes `ca_file` holds the certificates that
    servers are checked against, `cert_file` and `key_file` are this client's own. Raises OptionError,
    naming the remedy, never the password.
    """
    files = {"broker_ca_file": ca_file, _CERT: cert_file, _KEY: key_file}
    scheme = _check(url, prefix, timeout, files)
    if scheme == "memory":
        return MemoryBackend()
    return _open_redis(url, prefix, timeout, files) if scheme in SCHEMES else _open_postgres(url, prefix, timeout)


def _check(url: str, prefix: str, timeout: float, files: _Files) -> str:
    """Return the scheme of `url`, one that there is a broker for. Raises OptionError."""
    if not _PREFIX.fullmatch(prefix):
        raise OptionError("broker_prefix", "1 to 40 letters, digits, '_', '.' or '-', such as starling")
    if timeout <= 0:
        raise OptionError("broker_timeout_seconds", "it is a number of seconds above 0")
    scheme = url.partition(":")[0] if ":" in url else ""
    _check_files(files, wanted=scheme.startswith("rediss"))
    if scheme not in {"memory", "postgresql", *SCHEMES}:
        raise OptionError("broker_url", WRONG_SCHEME)
    return scheme


def _open_redis(url: str, prefix: str, timeout: float, files: _Files) -> "RedisBackend | ClusterBackend":
    from starling.brokers.redis.backend import RedisBackend
    from starling.brokers.redis.cluster_backend import ClusterBackend

    address = parse_address(url)
    options = {_CLIENT_OPTIONS[name]: str(path) for name, path in files.items() if path is not None}
    address = replace(address, options={**address.options, **options})
    kind = ClusterBackend if address.topology is Topology.CLUSTER else RedisBackend
    return kind(address, prefix=prefix, timeout=timeout)


def _open_postgres(url: str, prefix: str, timeout: float) -> "PostgresBackend":
    from starling.brokers.postgres import PostgresBackend

    try:
        parts = urlsplit(url)
        location = f"postgresql://{parts.hostname}:{parts.port or 5432}"
    except ValueError:
        raise OptionError("broker_url", f"host or port cannot be read; write it like {_POSTGRES}") from None
    if not parts.hostname:
        raise OptionError("broker_url", f"the host is missing; write it like {_POSTGRES}")
    return PostgresBackend(url, prefix=prefix, timeout=timeout, address=location)


def _check_files(files: _Files, *, wanted: bool) -> None:
    for name, path in files.items():
        if path is None:
            continue
        if not wanted:
            raise OptionError(name, "it is for rediss:// only; PostgreSQL takes ?sslrootcert=FILE in the URL")
        if not Path(path).is_file():
            raise OptionError(name, f"there is no file {path}")
    for name, other in ((_CERT, _KEY), (_KEY, _CERT)):
        if files[name] is None and files[other] is not None:
            raise OptionError(name, f"it is missing and {other} is set; a client certificate needs both")
