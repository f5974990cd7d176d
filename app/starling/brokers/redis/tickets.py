"""Tickets in Redis: a key each, which spending removes in the same step that reads it."""

import secrets

from redis.exceptions import ResponseError

from starling.brokers.redis.calls import Execute, Script
from starling.brokers.redis.refusal import refused
from starling.engine.broker import BrokerUnavailable


class RedisTickets:
    """Implements starling.engine.small_stores.TicketStore."""

    def __init__(self, execute: Execute, prefix: str) -> None:
        self._execute = execute
        self._prefix = prefix
        self._script = Script("ticket_spend.lua")

    async def keep(self, digest: str, content: bytes, seconds: float) -> None:
        """Keep what a ticket grants for so long. Raises BrokerUnavailable."""
        await self._call(b"SET", self._name(digest), content, b"PX", max(1, round(seconds * 1000)))

    async def spend(self, digest: str) -> bytes | None:
        """Return what a ticket grants and forget it; None where there is none. Raises BrokerUnavailable."""
        found = await self._script.run(self._execute, [self._name(digest)])
        return found if isinstance(found, bytes) else None

    async def signing_key(self) -> bytes:
        """The secret that all processes sign with. Raises BrokerUnavailable."""
        name = f"{self._prefix}:{{tickets}}:key".encode()
        found = await self._call(b"GET", name)
        if found is None:
            # Only now: a Redis whose memory is full would refuse it, also where the key is there.
            await self._call(b"SET", name, secrets.token_bytes(32), b"NX")
            found = await self._call(b"GET", name)
        if not isinstance(found, bytes):
            raise BrokerUnavailable("Redis forgot the key that tickets are signed with: try again")
        return found

    def _name(self, digest: str) -> bytes:
        return f"{self._prefix}:{{ticket:{digest}}}".encode()

    async def _call(self, *command: bytes | str | int) -> object:
        try:
            return await self._execute(*command)
        except ResponseError as error:
            raise refused(error) from None
