"""Lua scripts in Redis: each is sent once, and then called by its digest."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from redis.exceptions import NoScriptError, ResponseError

from starling.brokers.redis.refusal import refused


class Execute(Protocol):
    """Runs one Redis command. Raises BrokerUnavailable, and redis.exceptions.ResponseError when Redis refused."""

    async def __call__(self, *command: bytes | str | int | float, size: int = 0) -> object:
        """`size` is about the command's bytes."""


class Script:
    """A Lua script that is atomic in Redis."""

    def __init__(self, *names: str) -> None:
        """`names` are of files in this directory, which make one script together."""
        self._text = b"\n".join(Path(__file__).with_name(name).read_bytes() for name in names)
        self._digest = hashlib.sha1(self._text, usedforsecurity=False).hexdigest()

    def introduce(self) -> tuple[bytes, bytes, int]:
        """The command that makes Redis know a script that does nothing without keys; the right to run it is enough."""
        return (b"EVAL", self._text, 0)

    def call(self, keys: Sequence[bytes], *arguments: bytes | str | int) -> tuple[bytes | str | int, ...]:
        """The command that runs it; Redis answers NoScriptError where it does not know it yet."""
        return (b"EVALSHA", self._digest, len(keys), *keys, *arguments)

    async def run(
        self, execute: Execute, keys: Sequence[bytes], *arguments: bytes | str | int, size: int = 0
    ) -> object:
        """Run it. Raises BrokerUnavailable, also when Redis refused: its words are in the message."""
        try:
            try:
                return await execute(*self.call(keys, *arguments), size=size)
            except NoScriptError:
                # Redis forgets scripts when it restarts.
                return await execute(b"EVAL", self._text, len(keys), *keys, *arguments, size=size + len(self._text))
        except ResponseError as error:
            raise refused(error) from None
