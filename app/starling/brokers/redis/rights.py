"""The Redis permissions that Starling needs, and those that the present user lacks."""

from redis.exceptions import NoPermissionError

from starling.brokers.redis.calls import Execute, Script
from starling.engine.broker import BrokerUnavailable

_KEYS = (
    *("del", "get", "hdel", "hexists", "hget", "hgetall", "hincrby", "hlen", "hmget", "hset", "persist", "pexpire"),
    *("pttl", "sadd", "set", "spop", "srem", "unlink", "xadd", "xrange", "xrevrange", "zadd", "zrangebyscore", "zrem"),
    "zscore",
)
_PLAIN = ("client|setname", "info", "select", "time")
_SCRIPTS = ("eval", "evalsha")
_CHANNELS = ("publish", "subscribe", "unsubscribe")

_CHECK = Script("rights.lua")

# By what is given to the command when it is checked.
_RIGHTS = {
    **dict.fromkeys(_CHANNELS, "channel"),
    **dict.fromkeys(_SCRIPTS, "script"),
    **dict.fromkeys(_PLAIN, "nothing"),
    **dict.fromkeys(_KEYS, "key"),
}


# What a cluster needs in addition.
_CLUSTER = {
    **dict.fromkeys(("spublish", "ssubscribe", "sunsubscribe"), "channel"),
    **dict.fromkeys(("asking", "cluster|slots"), "nothing"),
}


def acl_rule(prefix: str, *, cluster: bool = False) -> str:
    """The rule that gives a user all that is needed, for `ACL SETUSER` behind the user's name and password."""
    commands = " ".join(f"+{name}" for name in _rights(cluster))
    return f"resetkeys ~{prefix}:* resetchannels &{prefix}:* -@all {commands}"


async def missing_rights(execute: Execute, prefix: str, *, cluster: bool = False) -> list[str]:
    """The commands that this user may not run on this service's keys and channels. Raises BrokerUnavailable."""
    words = [word for name, given in _rights(cluster).items() for word in (name, given)]
    try:
        found = await _CHECK.run(execute, [], f"{prefix}:rights", f"{prefix}::rights", *words)
    except BrokerUnavailable as refusal:
        if isinstance(refusal.__context__, NoPermissionError):
            return list(_SCRIPTS)
        raise
    return [name.decode() for name in found if isinstance(name, bytes)] if isinstance(found, list) else []


def _rights(cluster: bool) -> dict[str, str]:
    return _RIGHTS | _CLUSTER if cluster else _RIGHTS
