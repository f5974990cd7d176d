"""Parsing Redis URLs: one server, a master behind Sentinel, or a cluster."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from starling.options import OptionError

# redis-py would take any of its settings from the URL, also those that this layer depends on.
_TLS_OPTIONS = frozenset({"ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile"})
_SENTINEL_OPTIONS = frozenset({"db", "sentinel_username", "sentinel_password"})
_TRUE = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Topology(Enum):
    """How Redis is run; the value is the default port."""

    SERVER = ("", 6379)
    SENTINEL = ("+sentinel", 26379)
    CLUSTER = ("+cluster", 6379)

    @property
    def suffix(self) -> str:
        """What stands behind `redis` or `rediss` in the URL's scheme."""
        return self.value[0]

    @property
    def port(self) -> int:
        """The port of a host that names none."""
        return self.value[1]


SCHEMES = {
    f"{scheme}{topology.suffix}": (scheme == "rediss", topology)
    for topology in Topology
    for scheme in ("redis", "rediss")
}
EXAMPLES = {
    Topology.SERVER: "//user:password@redis.example:6379/0",
    Topology.SENTINEL: "//user:password@one.example:26379,two.example:26379/SERVICE_NAME?db=0",
    Topology.CLUSTER: "//user:password@one.example:6379,two.example:6379",
}


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where Redis is and who asks it. `hosts` are the server, the sentinels, or some nodes of the cluster.

    `service` is the name that Sentinel knows the master by. `options` go to redis-py's connections as they are. As text
    it is the URL without credentials, for the log.
    """

    topology: Topology
    tls: bool
    hosts: tuple[tuple[str, int], ...]
    database: int = 0
    service: str = ""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        scheme = ("rediss" if self.tls else "redis") + self.topology.suffix
        return f"{scheme}://{hosts}" + (f"/{self.service}" if self.service else "")


def parse_address(url: str) -> RedisAddress:
    """Read a URL of one of SCHEMES. Raises OptionError, naming the remedy, never the password."""
    scheme = url.partition(":")[0]
    tls, topology = SCHEMES[scheme]
    example = f"write it like {scheme}:{EXAMPLES[topology]}"
    try:
        parts = urlsplit(url)
        login, _, addresses = parts.netloc.rpartition("@")
        hosts = tuple(_host(address, topology.port) for address in addresses.split(",") if address) if addresses else ()
    except ValueError:
        raise OptionError("broker_url", f"host or port cannot be read; {example}") from None
    if not hosts or not all(host for host, _ in hosts):
        raise OptionError("broker_url", f"the host is missing; {example}")
    if topology is Topology.SERVER and len(hosts) > 1:
        raise OptionError(
            "broker_url", f"{scheme}:// names one server; for several write {scheme}+sentinel:// or {scheme}+cluster://"
        )
    username, _, password = login.partition(":")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    _check_query(query, topology, tls=tls, scheme=scheme)
    service, database = _path(parts.path, query, topology, example)
    return RedisAddress(
        topology,
        tls,
        hosts,
        database=database,
        service=service,
        username=unquote(username) or None,
        password=unquote(password) or None,
        sentinel_username=query.get("sentinel_username") or None,
        sentinel_password=query.get("sentinel_password") or None,
        options={name: _option(name, value) for name, value in query.items() if name in _TLS_OPTIONS},
    )


def _host(address: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{address}")
    return parts.hostname or "", default_port if parts.port is None else parts.port


def _check_query(query: Mapping[str, str], topology: Topology, *, tls: bool, scheme: str) -> None:
    known = _TLS_OPTIONS | _SENTINEL_OPTIONS if topology is Topology.SENTINEL else _TLS_OPTIONS
    if unknown := query.keys() - known:
        raise OptionError(
            "broker_url", f"unknown option {', '.join(sorted(unknown))}; known are {', '.join(sorted(known))}"
        )
    if query.keys() & _TLS_OPTIONS and not tls:
        raise OptionError("broker_url", f"ssl options need rediss://, here {scheme.replace('redis', 'rediss', 1)}://")


def _path(path: str, query: Mapping[str, str], topology: Topology, example: str) -> tuple[str, int]:
    """The service name and the number of the database."""
    rest = path.removeprefix("/")
    if topology is Topology.SENTINEL:
        if not rest or "/" in rest:
            raise OptionError(
                "broker_url", f"after the hosts stands the name that Sentinel knows the master by; {example}"
            )
        if not re.fullmatch(r"\d{0,4}", query.get("db", "")):
            raise OptionError("broker_url", f"db is the number of a database; {example}")
        return unquote(rest), int(query.get("db") or 0)
    if topology is Topology.CLUSTER:
        if rest not in {"", "0"}:
            raise OptionError("broker_url", f"a cluster has one database only, so no path; {example}")
        return "", 0
    if not re.fullmatch(r"\d{0,4}", rest):
        raise OptionError("broker_url", f"after the host stands a database number; {example}")
    return "", int(rest or 0)


def _option(name: str, value: str) -> str | bool:
    if name != "ssl_check_hostname":
        return value
    if value.lower() not in _TRUE:
        raise OptionError("broker_url", "ssl_check_hostname is true or false")
    return _TRUE[value.lower()]
