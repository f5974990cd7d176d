"""Revocations in Redis: one hash for all, each until its tokens have expired."""

from collections.abc import Collection
from itertools import islice

import msgspec
import structlog
from redis.exceptions import ResponseError

from starling.brokers.redis.calls import Execute, Script
from starling.brokers.redis.refusal import refused
from starling.clocks import wall_milliseconds
from starling.engine.revocation import Revocation, StoredRevocations

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.broker")

# Kept by one call of the script; Lua's unpack and Redis's patience both end somewhere.
_PORTION = 500
_VERSION = b""


class RedisRevocations:
    """Implements starling.engine.revocation.RevocationStore."""

    def __init__(self, writing: Execute, reading: Execute, prefix: str) -> None:
        self._writing = writing
        self._reading = reading
        self._keys = [f"{prefix}:{{revoked}}:{part}".encode() for part in ("entries", "ends")]
        self._script = Script("revoke.lua")
        self._decode = msgspec.json.Decoder(Revocation).decode

    async def add(self, revocations: Collection[Revocation]) -> int:
        """Keep them; returns the version. Raises BrokerUnavailable."""
        version = 0
        left = iter(revocations)
        while portion := list(islice(left, _PORTION)):
            arguments: list[bytes | str | int] = [wall_milliseconds()]
            for revocation in portion:
                content = msgspec.json.encode(revocation)
                arguments += [_name(revocation), content, int(revocation.expires_at * 1000)]
            found = await self._script.run(self._writing, self._keys, *arguments)
            version = int(found) if isinstance(found, bytes | int) else 0
        return version

    async def version(self) -> int:
        """How many were ever added. Raises BrokerUnavailable."""
        try:
            found = await self._reading(b"HGET", self._keys[0], _VERSION)
        except ResponseError as error:
            raise refused(error) from None
        return int(found) if isinstance(found, bytes) else 0

    async def load(self) -> StoredRevocations:
        """All that are kept; those whose time is over may be among them. Raises BrokerUnavailable."""
        try:
            found = await self._reading(b"HGETALL", self._keys[0])
        except ResponseError as error:
            raise refused(error) from None
        version, revocations = 0, []
        flat = found if isinstance(found, list) else []
        for name, content in zip(flat[::2], flat[1::2], strict=True):
            if name == _VERSION:
                version = int(content)
                continue
            try:
                revocations.append(self._decode(content))
            except msgspec.MsgspecError as error:
                log.warning("revocation_malformed", problem=str(error))
        return StoredRevocations(version, revocations)

    async def writable(self) -> bool:
        """Whether Redis takes an addition now. Raises BrokerUnavailable."""
        try:
            # It changes nothing, and is denied where memory or replicas are missing.
            await self._writing(b"ZADD", self._keys[1], "XX", 0, "")
        except ResponseError:
            return False
        return True


def _name(revocation: Revocation) -> str:
    return msgspec.json.encode((revocation.kind, revocation.id, revocation.channel, revocation.issued_before)).decode()
