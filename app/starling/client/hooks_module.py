"""Hooks that a Python module defines: plain async functions, with Pydantic models for what clients send."""

import importlib
import inspect
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from msgspec import Raw

from starling.client.hook_answers import connect_decision, subscribe_decision
from starling.client.hook_function import HookFunction, HooksError, check_methods
from starling.client.options import HookOptions
from starling.engine.hook_request import Request
from starling.engine.hooks import Client, ConnectDecision, Hooks, NoHooks, SubscribeDecision
from starling.options import SettingsError, problem
from starling.protocol.codes import DISCONNECT_NOT_AVAILABLE, ERROR_METHOD_NOT_FOUND, CommandRefused
from starling.protocol.messages import NO_PAYLOAD
from starling.variables import variable


class Shape(NamedTuple):
    """The arguments that a hook takes, and those that it may take by their names."""

    takes: tuple[str, ...]
    may_take: tuple[str, ...]


HOOKS = {
    "on_connect": Shape(("client",), ("request", "data", "state")),
    "on_subscribe": Shape(("client", "channel"), ("data", "state")),
    "on_publish": Shape(("client", "channel"), ("data", "state")),
    "on_cancel": Shape(("client", "channel"), ("reason", "state")),
    "on_message": Shape(("client",), ("data", "state")),
    "on_unsubscribe": Shape(("client", "channel"), ("state",)),
    "on_disconnect": Shape(("client",), ("code", "reason", "state")),
}
METHOD_SHAPE = Shape(("client",), ("data", "state"))
METHODS = "rpc"
LIFESPAN = "lifespan"


class ModuleHooks(NoHooks):
    """Implements starling.engine.hooks.Hooks with the functions of a module; what it does not define passes."""

    def __init__(self, module: ModuleType, *, seconds: float) -> None:
        """`seconds` bounds each call. Raises HooksError."""
        unknown = [name for name in vars(module) if name.startswith("on_") and name not in HOOKS]
        if unknown:
            raise HooksError(
                f"{', '.join(unknown)}: not a hook; the hooks are {', '.join(HOOKS)} and the mapping {METHODS}"
            )
        self._hooks = {
            name: HookFunction(name, getattr(module, name), seconds, takes=shape.takes, may_take=shape.may_take)
            for name, shape in HOOKS.items()
            if hasattr(module, name)
        }
        self.sees_clients = self.authenticates = "on_connect" in self._hooks
        self.sees_subscriptions = "on_subscribe" in self._hooks
        self.sees_publications = "on_publish" in self._hooks
        self.sees_unsubscribes = "on_unsubscribe" in self._hooks
        self.sees_disconnects = "on_disconnect" in self._hooks
        self._methods = {
            name: HookFunction(
                f"{METHODS} {name}", function, seconds, takes=METHOD_SHAPE.takes, may_take=METHOD_SHAPE.may_take
            )
            for name, function in check_methods(getattr(module, METHODS, {})).items()
        }
        self._lifespan = _lifespan_of(module)
        self._state: Any = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the module's `lifespan`; what it yields is given to the functions that take `state`."""
        if self._lifespan is None:
            yield
            return
        async with self._lifespan() as self._state:
            yield

    async def connect(self, client: Client, request: Request, data: Raw) -> ConnectDecision:
        """Call `on_connect(client[, request][, data])`; an Accept authenticates, anything else goes to the client."""
        hook = self._hooks.get("on_connect")
        if hook is None:
            return ConnectDecision()
        decision: ConnectDecision = await hook.decide(
            connect_decision, client, request=request, data=data, state=self._state
        )
        return decision

    async def subscribe(self, client: Client, channel: str, data: Raw) -> SubscribeDecision | None:
        """Call `on_subscribe(client, channel[, data])`; an Accept grants the channel, None leaves it to the rights."""
        hook = self._hooks.get("on_subscribe")
        if hook is None:
            return None
        decision: SubscribeDecision | None = await hook.decide(
            subscribe_decision, client, channel, data=data, state=self._state
        )
        return decision

    async def publish(self, client: Client, channel: str, data: Raw) -> Raw:
        """Call `on_publish(client, channel[, data])`; None publishes what the client sent, anything else that."""
        hook = self._hooks.get("on_publish")
        answer = await hook.answer(client, channel, data=data, state=self._state) if hook is not None else None
        return data if answer is None else answer

    async def cancel(self, client: Client, channel: str, reason: str) -> None:
        """Call `on_cancel(client, channel[, reason])`; its Refuse lets the stream go on."""
        if (hook := self._hooks.get("on_cancel")) is not None:
            await hook(client, channel, reason=reason, state=self._state)

    async def call(self, client: Client, method: str, data: Raw) -> Raw:
        """Call the function of `rpc[method](client[, data])`."""
        function = self._methods.get(method)
        if function is None:
            raise CommandRefused(ERROR_METHOD_NOT_FOUND)
        return await function.answer(client, data=data, state=self._state) or NO_PAYLOAD

    async def message(self, client: Client, data: Raw) -> None:
        """Call `on_message(client[, data])`; where it is not defined, nobody takes what clients send: 3508."""
        hook = self._hooks.get("on_message")
        if hook is None:
            raise CommandRefused(DISCONNECT_NOT_AVAILABLE)
        await hook(client, data=data, state=self._state)

    async def unsubscribed(self, client: Client, channel: str) -> None:
        """Call `on_unsubscribe(client, channel)`; a fault of it is logged."""
        if (hook := self._hooks.get("on_unsubscribe")) is not None:
            with suppress(CommandRefused):
                await hook(client, channel, state=self._state)

    async def disconnected(self, client: Client, code: int, reason: str) -> None:
        """Call `on_disconnect(client[, code][, reason])`; a fault of it is logged."""
        if (hook := self._hooks.get("on_disconnect")) is not None:
            with suppress(CommandRefused):
                await hook(client, code=code, reason=reason, state=self._state)


def build_module_hooks(options: HookOptions) -> Hooks:
    """Load the user's own functions, if there are any. Raises SettingsError."""
    if options.hooks is None:
        return NoHooks()
    try:
        return load_hooks(options.hooks, options.hooks_path, seconds=options.hook_seconds)
    except HooksError as error:
        raise SettingsError([problem("hooks", str(error))]) from error


def load_hooks(name: str, path: Path | None, *, seconds: float) -> ModuleHooks:
    """Import the module `name`, with `path` put first on the import path. Raises HooksError."""
    if path is not None:
        if not path.is_dir():
            raise HooksError(f"{path} is no directory: name the one that holds your module")
        sys.path.insert(0, str(path))
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        remedy = f"no module {error.name}: put it on the import path with {variable('hooks_path')}"
        raise HooksError(remedy + _own_lines(error)) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise HooksError(f"importing {name} failed: {type(error).__name__}: {error}{_own_lines(error)}") from error
    return ModuleHooks(module, seconds=seconds)


def _lifespan_of(module: ModuleType) -> Callable[[], AbstractAsyncContextManager[Any]] | None:
    """The module's `lifespan`, with or without its decorator; None where there is none. Raises HooksError."""
    lifespan = getattr(module, LIFESPAN, None)
    if lifespan is None:
        return None
    shape = "write it as an async generator function with one yield: `async def lifespan(): … yield pool …`"
    if not callable(lifespan) or inspect.iscoroutinefunction(lifespan):
        raise HooksError(f"{LIFESPAN}: {shape}")
    try:
        inspect.signature(lifespan).bind()
    except TypeError as error:
        raise HooksError(f"{LIFESPAN}: {error}, but it gets no arguments: {shape}") from error
    return asynccontextmanager(lifespan) if inspect.isasyncgenfunction(lifespan) else lifespan


def _own_lines(error: BaseException) -> str:
    """The lines of the user's own modules in the traceback, those of the import system left out."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in (__file__, importlib.__file__) and not frame.filename.startswith("<frozen")
    ]
    return "".join(f"\n  {frame.filename}, line {frame.lineno}: {frame.line}" for frame in frames)
