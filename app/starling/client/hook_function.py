"""One function of a hooks module: its signature, checked before it is ever called, and a bounded call of it."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, get_type_hints

import structlog
from msgspec import Raw
from pydantic import TypeAdapter, ValidationError

from starling.client.hook_answers import as_json
from starling.engine.hooks import Refuse
from starling.engine.tasks import ends_this_task
from starling.protocol.codes import (
    DISCONNECT_CODES,
    ERROR_BAD_REQUEST,
    ERROR_INTERNAL,
    REASON_BYTES,
    CommandRefused,
    Disconnect,
    Error,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.hooks")


class HooksError(Exception):
    """A module that cannot be used as hooks; the message names the remedy."""


class HookFunction:
    """A function with the arguments it takes, and how long it may run, in seconds."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Awaitable[Any]],
        seconds: float,
        *,
        takes: Sequence[str],
        may_take: Sequence[str] = (),
    ) -> None:
        """`takes` are given in their order, `may_take` by name where the function has them. Raises HooksError."""
        if not inspect.iscoroutinefunction(function):
            raise HooksError(f"{name} is not a coroutine function: write it as `async def`")
        self.name = name
        self._function = function
        self._seconds = seconds
        parameters = inspect.signature(function).parameters
        self._named = tuple(wanted for wanted in may_take if wanted in parameters)
        _check_signature(name, function, takes, may_take, self._named)
        self._takes_bytes = False
        self._data: TypeAdapter[Any] | None = None
        if "data" in self._named:
            try:
                kind = get_type_hints(function).get("data", Any)
                self._takes_bytes = kind is bytes
                self._data = TypeAdapter(kind)
            except Exception as error:
                raise HooksError(f"{name}: the annotation of data cannot be used: {error}") from error

    async def __call__(self, *taken: Any, data: Raw | None = None, **offered: Any) -> Any:
        """Call it. Raises CommandRefused for every failure."""
        if self._data is not None:
            offered["data"] = self._read(data or Raw())
        return await self._guarded(*taken, **{name: offered[name] for name in self._named})

    async def decide(self, meaning: Callable[[Any], Any], *taken: Any, data: Raw | None = None, **offered: Any) -> Any:
        """Call it; returns the meaning of its result. What `meaning` raises counts as a fault of the function."""
        result = await self(*taken, data=data, **offered)
        try:
            return meaning(result)
        except BaseException as error:
            raise self._failed(error) from error

    async def answer(self, *taken: Any, data: Raw | None = None, **offered: Any) -> Raw | None:
        """Call it; returns its result as JSON, or its bytes as they are, and None for None. Raises CommandRefused."""
        found = await self.decide(
            lambda result: None if result is None else as_json(result), *taken, data=data, **offered
        )
        return found if isinstance(found, Raw) else None

    async def _guarded(self, *taken: Any, **named: Any) -> Any:
        try:
            async with asyncio.timeout(self._seconds):
                return await self._function(*taken, **named)
        except Refuse as refuse:
            raise CommandRefused(_reason(refuse)) from refuse
        except TimeoutError as late:
            log.warning("hook_too_slow", hook=self.name, seconds=self._seconds)
            raise CommandRefused(ERROR_INTERNAL) from late
        except BaseException as error:
            raise self._failed(error) from error

    def _failed(self, error: BaseException) -> CommandRefused:
        """Log a fault of the function; returns what its client gets. What ends this task is raised again.

        An exit, such as of a library that the hook calls, is no fault of the client's connection. Cancellation of
        something that the hook waits for, and groups with an exit in them, are no `Exception` either.
        """
        if ends_this_task(error):
            raise error
        log.error("hook_failed", hook=self.name, exc_info=error)
        return CommandRefused(ERROR_INTERNAL)

    def _read(self, data: Raw) -> Any:
        if self._takes_bytes:
            return bytes(data)
        try:
            return self._data.validate_json(bytes(data) or b"null") if self._data else None
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(["data", *(str(part) for part in problem["loc"])])
            raise CommandRefused(Error(ERROR_BAD_REQUEST.code, f"bad request: {where}: {problem['msg']}")) from error
        # A validator is the user's code too.
        except BaseException as error:
            raise self._failed(error) from error


def _check_signature(
    name: str, function: Callable[..., Any], takes: Sequence[str], may_take: Sequence[str], named: Sequence[str]
) -> None:
    """Raise HooksError for a function that could not be called."""
    signature = inspect.signature(function)
    try:
        signature.bind(*takes, **dict.fromkeys(named))
    except TypeError as error:
        shape = ", ".join(takes) + "".join(f"[, {optional}]" for optional in may_take)
        raise HooksError(f"{name}{signature}: {error}: write it as `async def …({shape})`") from error


def _reason(refuse: Refuse) -> Error | Disconnect:
    if refuse.code in DISCONNECT_CODES:
        # As much of the message as a close frame holds.
        return Disconnect(refuse.code, refuse.message.encode()[:REASON_BYTES].decode(errors="ignore"))
    return Error(refuse.code, refuse.message)


def check_methods(methods: object) -> Mapping[str, Callable[..., Awaitable[Any]]]:
    """The mapping `rpc` of a module. Raises HooksError."""
    if not isinstance(methods, Mapping):
        raise HooksError("rpc must be a mapping of method names to functions")
    return {str(name): function for name, function in methods.items()}
