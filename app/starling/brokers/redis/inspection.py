"""The inspection of a Redis server when the link is up for the first time, and its log events."""

import re

import structlog
from redis.exceptions import ResponseError

from starling.brokers.redis.calls import Execute
from starling.brokers.redis.rights import missing_rights
from starling.engine.broker import BrokerUnavailable

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.broker")

_OLDEST = (7, 0)


async def inspect_server(execute: Execute, prefix: str, *, cluster: bool, rights_remedy: str) -> None:
    """Warn of rights that are missing, of a server that is too old, or that evicts what it should keep.

    Raises BrokerUnavailable.
    """
    if missing := await missing_rights(execute, prefix, cluster=cluster):
        log.error("redis_rights_missing", commands=missing, remedy=rights_remedy)
    try:
        version = _field(await execute("INFO", "server"), "redis_version")
        in_cluster = _field(await execute("INFO", "cluster"), "cluster_enabled")
        policy = _field(await execute("INFO", "memory"), "maxmemory_policy")
    except ResponseError as error:
        raise BrokerUnavailable(f"Redis refused to return its version and settings: {error}") from None
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < _OLDEST:
        log.warning("redis_too_old", version=version, remedy="run Redis 7.0 or newer")
    if in_cluster == "1" and not cluster:
        log.error("redis_is_a_cluster", remedy="write redis+cluster:// (or rediss+cluster://) in the broker URL")
    if policy != "noeviction":
        log.warning(
            "redis_may_evict",
            maxmemory_policy=policy,
            remedy="set maxmemory-policy noeviction: under any other policy Redis may delete history and presence",
        )


def _field(info: object, name: str) -> str:
    text = info.decode() if isinstance(info, bytes) else ""
    found = re.search(rf"^{name}:(.*?)\r?$", text, re.MULTILINE)
    return found.group(1) if found else ""
