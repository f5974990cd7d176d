"""Hooks that a Python module defines: plain async functions, with Pydantic models for what clients send."""

import asyncio
import importlib
import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import structlog
from msgspec import Raw
from pydantic import TypeAdapter, ValidationError

from starling.engine.hooks import Refuse
from starling.protocol.codes import (
    DISCONNECT_CODES,
    DISCONNECT_NOT_AVAILABLE,
    ERROR_BAD_REQUEST,
    ERROR_INTERNAL,
    ERROR_METHOD_NOT_FOUND,
    REASON_BYTES,
    CommandRefused,
    Disconnect,
    Error,
)
from starling.protocol.messages import NO_PAYLOAD, ClientInfo

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.hooks")

HOOKS = ("on_connect", "on_subscribe", "on_publish", "on_message")
METHODS = "rpc"

_ANYTHING = TypeAdapter(Any)


class HooksError(Exception):
    """A module that cannot be used as hooks; the message names the mend."""


class Function:
    """One of the module's functions, with what its parameter `data` takes and how long it may run, in seconds."""

    def __init__(self, name: str, function: Callable[..., Awaitable[Any]], seconds: float) -> None:
        if not inspect.iscoroutinefunction(function):
            raise HooksError(f"{name} is not a coroutine function: write it as `async def`")
        self.name = name
        self._function = function
        self._seconds = seconds
        self._takes_bytes = False
        self._data: TypeAdapter[Any] | None = None
        if "data" in inspect.signature(function).parameters:
            kind = get_type_hints(function).get("data", Any)
            self._takes_bytes = kind is bytes
            self._data = TypeAdapter(kind)

    async def __call__(self, data: Raw, *arguments: Any) -> Any:
        """Call it; `data` is given where the function takes it. Raises CommandRefused, whatever goes wrong."""
        if self._data is not None:
            arguments = (*arguments, self._read(data))
        try:
            async with asyncio.timeout(self._seconds):
                return await self._function(*arguments)
        except Refuse as refuse:
            raise CommandRefused(_told(refuse)) from refuse
        except TimeoutError as late:
            log.warning("hook_too_slow", hook=self.name, seconds=self._seconds)
            raise CommandRefused(ERROR_INTERNAL) from late
        # An exit, such as of a library that the hook calls, would end this worker, and with code 3 the whole pod.
        except (Exception, SystemExit) as error:
            log.exception("hook_failed", hook=self.name)
            raise CommandRefused(ERROR_INTERNAL) from error

    async def answer(self, data: Raw, *arguments: Any) -> Raw | None:
        """Call it; returns its result as JSON, or its bytes as they are, and None for None. Raises CommandRefused."""
        result = await self(data, *arguments)
        if result is None:
            return None
        try:
            return Raw(result if isinstance(result, bytes) else _ANYTHING.dump_json(result))
        # An exit, such as of a library that the hook calls, would end this worker, and with code 3 the whole pod.
        except (Exception, SystemExit) as error:
            log.exception("hook_failed", hook=self.name)
            raise CommandRefused(ERROR_INTERNAL) from error

    def _read(self, data: Raw) -> Any:
        if self._takes_bytes:
            return bytes(data)
        try:
            return self._data.validate_json(bytes(data) or b"null") if self._data else None
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(["data", *(str(part) for part in problem["loc"])])
            raise CommandRefused(Error(ERROR_BAD_REQUEST.code, f"bad request: {where}: {problem['msg']}")) from error


class ModuleHooks:
    """Implements starling.engine.hooks.Hooks with the functions of a module; what it does not define passes."""

    def __init__(self, module: ModuleType, *, seconds: float) -> None:
        """`seconds` bounds each call. Raises HooksError."""
        unknown = [name for name in vars(module) if name.startswith("on_") and name not in HOOKS]
        if unknown:
            raise HooksError(
                f"{', '.join(unknown)}: not a hook; the hooks are {', '.join(HOOKS)} and the mapping {METHODS}"
            )
        self._hooks = {name: Function(name, getattr(module, name), seconds) for name in HOOKS if hasattr(module, name)}
        self.sees_clients = "on_connect" in self._hooks
        self.sees_subscriptions = "on_subscribe" in self._hooks
        self.sees_publications = "on_publish" in self._hooks
        methods = getattr(module, METHODS, {})
        if not isinstance(methods, Mapping):
            raise HooksError(f"{METHODS} must be a mapping of method names to functions")
        self._methods = {
            str(name): Function(f"{METHODS} {name}", function, seconds) for name, function in methods.items()
        }

    async def connect(self, client: ClientInfo, data: Raw) -> Raw:
        """Call `on_connect(client[, data])`; what it returns goes to the client."""
        hook = self._hooks.get("on_connect")
        answer = await hook.answer(data, client) if hook is not None else None
        return answer or NO_PAYLOAD

    async def subscribe(self, client: ClientInfo, channel: str, data: Raw) -> None:
        """Call `on_subscribe(client, channel[, data])`."""
        if hook := self._hooks.get("on_subscribe"):
            await hook(data, client, channel)

    async def publish(self, client: ClientInfo, channel: str, data: Raw) -> Raw:
        """Call `on_publish(client, channel[, data])`; None publishes what the client sent, anything else that."""
        hook = self._hooks.get("on_publish")
        answer = await hook.answer(data, client, channel) if hook is not None else None
        return data if answer is None else answer

    async def call(self, client: ClientInfo, method: str, data: Raw) -> Raw:
        """Call the function of `rpc[method](client[, data])`."""
        function = self._methods.get(method)
        if function is None:
            raise CommandRefused(ERROR_METHOD_NOT_FOUND)
        return await function.answer(data, client) or NO_PAYLOAD

    async def message(self, client: ClientInfo, data: Raw) -> None:
        """Call `on_message(client[, data])`; where it is not defined, nobody takes what clients send: 3508."""
        hook = self._hooks.get("on_message")
        if hook is None:
            raise CommandRefused(DISCONNECT_NOT_AVAILABLE)
        await hook(data, client)


def load_hooks(name: str, path: Path | None, *, seconds: float) -> ModuleHooks:
    """Import the module `name`, with `path` put first on the import path. Raises HooksError."""
    if path is not None:
        if not path.is_dir():
            raise HooksError(f"{path} is no directory: name the one that holds your module")
        sys.path.insert(0, str(path))
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise HooksError(f"no module {error.name}: put it on the import path with STARLING_HOOKS_PATH") from error
    except (Exception, SystemExit) as error:
        raise HooksError(f"importing {name} failed: {type(error).__name__}: {error}") from error
    return ModuleHooks(module, seconds=seconds)


def _told(refuse: Refuse) -> Error | Disconnect:
    if refuse.code in DISCONNECT_CODES:
        # As much of the message as a close frame holds.
        return Disconnect(refuse.code, refuse.message.encode()[:REASON_BYTES].decode(errors="ignore"))
    return Error(refuse.code, refuse.message)
