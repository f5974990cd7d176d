"""Hooks that an application registers one by one, each for all channels or for one namespace or channel."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from msgspec import Raw

from starling.client.hook_answers import connect_decision, subscribe_decision
from starling.client.hook_function import HookFunction, HooksError
from starling.client.hooks_module import HOOKS, METHOD_SHAPE
from starling.engine.channels import TOKEN_MARK
from starling.engine.hook_request import Request
from starling.engine.hooks import Client, ConnectDecision, Hooks, RefreshDecision, SubscribeDecision
from starling.protocol.codes import ERROR_METHOD_NOT_FOUND, ERROR_NOT_AVAILABLE, CommandRefused
from starling.protocol.messages import NO_PAYLOAD

HookCallable = Callable[..., Awaitable[Any]]

# The key of a function that takes every channel.
_EVERYWHERE = ""


class RegisteredHooks:
    """Implements starling.engine.hooks.Hooks; what has no function here is left to `inner`."""

    def __init__(self, inner: Hooks, *, seconds: float) -> None:
        """`seconds` bounds each call."""
        self._inner = inner
        self._seconds = seconds
        self._functions: dict[str, dict[str, HookFunction]] = {name: {} for name in HOOKS}
        self._methods: dict[str, HookFunction] = {}
        self.state: Any = None
        """What functions that take `state` get: the state of the application."""

    def add(self, name: str, function: HookCallable, target: str = _EVERYWHERE) -> None:
        """Register `function` for the event `name`, in `target` (a namespace or a channel) alone if it is given.

        Raises HooksError for a second one and for a function that could not be called.
        """
        shape = HOOKS[name]
        known = self._functions[name]
        shown = f'{name}("{target}")' if target else name
        if target in known:
            raise HooksError(f"{shown} is registered twice: join the two functions")
        known[target] = HookFunction(shown, function, self._seconds, takes=shape.takes, may_take=shape.may_take)

    def add_method(self, name: str, function: HookCallable) -> None:
        """Register what clients call by `name`. Raises as `add`."""
        shown = f'rpc("{name}")'
        if name in self._methods:
            raise HooksError(f"{shown} is registered twice: give one another name")
        self._methods[name] = HookFunction(
            shown, function, self._seconds, takes=METHOD_SHAPE.takes, may_take=METHOD_SHAPE.may_take
        )

    def take_over(self, other: "RegisteredHooks") -> None:
        """Have the functions of `other`, those that are registered later too."""
        self._functions, self._methods, self.state = other._functions, other._methods, other.state

    # What the engine asks about hooks

    @property
    def sees_clients(self) -> bool:
        """Whether `connect` is called for clients with a token."""
        return bool(self._functions["on_connect"]) or self._inner.sees_clients

    @property
    def authenticates(self) -> bool:
        """Whether `connect` is called for clients without a token."""
        return bool(self._functions["on_connect"]) or self._inner.authenticates

    @property
    def sees_subscriptions(self) -> bool:
        """Whether `subscribe` does anything."""
        return bool(self._functions["on_subscribe"]) or self._inner.sees_subscriptions

    @property
    def sees_publications(self) -> bool:
        """Whether `publish` does anything."""
        return bool(self._functions["on_publish"]) or self._inner.sees_publications

    @property
    def sees_unsubscribes(self) -> bool:
        """Whether `unsubscribed` does anything."""
        return bool(self._functions["on_unsubscribe"]) or self._inner.sees_unsubscribes

    @property
    def sees_disconnects(self) -> bool:
        """Whether `disconnected` does anything."""
        return bool(self._functions["on_disconnect"]) or self._inner.sees_disconnects

    @property
    def keeps_headers(self) -> frozenset[str]:
        """Header fields that all methods see."""
        return self._inner.keeps_headers

    @property
    def keeps_client_headers(self) -> frozenset[str]:
        """As `keeps_headers`, of those that clients write."""
        return self._inner.keeps_client_headers

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the inner hooks; the application's own lifespan holds what registered functions need."""
        async with self._inner.running():
            yield

    # Decisions

    async def connect(self, client: Client, request: Request, data: Raw) -> ConnectDecision:
        """Call `on_connect(client[, request][, data])`."""
        hook = self._functions["on_connect"].get(_EVERYWHERE)
        if hook is None:
            return await self._inner.connect(client, request, data)
        decision: ConnectDecision = await hook.decide(
            connect_decision, client, request=request, data=data, state=self.state
        )
        return decision

    async def refresh(self, client: Client) -> RefreshDecision | None:
        """Leave it to the inner hooks."""
        return await self._inner.refresh(client)

    async def subscribe(self, client: Client, channel: str, data: Raw) -> SubscribeDecision | None:
        """Call `on_subscribe(client, channel[, data])`."""
        hook = self._of_channel("on_subscribe", channel)
        if hook is None:
            return await self._inner.subscribe(client, channel, data)
        decision: SubscribeDecision | None = await hook.decide(
            subscribe_decision, client, channel, data=data, state=self.state
        )
        return decision

    async def sub_refresh(self, client: Client, channel: str) -> RefreshDecision | None:
        """Leave it to the inner hooks."""
        return await self._inner.sub_refresh(client, channel)

    async def publish(self, client: Client, channel: str, data: Raw) -> Raw:
        """Call `on_publish(client, channel[, data])`; None publishes what the client sent."""
        hook = self._of_channel("on_publish", channel)
        if hook is None:
            return await self._inner.publish(client, channel, data)
        answer = await hook.answer(client, channel, data=data, state=self.state)
        return data if answer is None else answer

    async def call(self, client: Client, method: str, data: Raw) -> Raw:
        """Call the function that is registered for `method`."""
        function = self._methods.get(method)
        if function is None:
            return await self._call_inner(client, method, data)
        return await function.answer(client, data=data, state=self.state) or NO_PAYLOAD

    async def _call_inner(self, client: Client, method: str, data: Raw) -> Raw:
        try:
            return await self._inner.call(client, method, data)
        except CommandRefused as refused:
            if self._methods and refused.reason is ERROR_NOT_AVAILABLE:
                # It is one that is unknown among others.
                raise CommandRefused(ERROR_METHOD_NOT_FOUND) from refused
            raise

    async def cancel(self, client: Client, channel: str, reason: str) -> None:
        """Call `on_cancel(client, channel[, reason])`; its Refuse lets the stream go on."""
        hook = self._of_channel("on_cancel", channel)
        if hook is None:
            await self._inner.cancel(client, channel, reason)
        else:
            await hook(client, channel, reason=reason, state=self.state)

    async def message(self, client: Client, data: Raw) -> None:
        """Call `on_message(client[, data])`."""
        hook = self._functions["on_message"].get(_EVERYWHERE)
        if hook is None:
            await self._inner.message(client, data)
        else:
            await hook(client, data=data, state=self.state)

    async def unsubscribed(self, client: Client, channel: str) -> None:
        """Call `on_unsubscribe(client, channel)`; a fault of it is logged."""
        hook = self._of_channel("on_unsubscribe", channel)
        if hook is None:
            await self._inner.unsubscribed(client, channel)
            return
        with suppress(CommandRefused):
            await hook(client, channel, state=self.state)

    async def disconnected(self, client: Client, code: int, reason: str) -> None:
        """Call `on_disconnect(client[, code][, reason])`; a fault of it is logged."""
        hook = self._functions["on_disconnect"].get(_EVERYWHERE)
        if hook is None:
            await self._inner.disconnected(client, code, reason)
            return
        with suppress(CommandRefused):
            await hook(client, code=code, reason=reason, state=self.state)

    def _of_channel(self, name: str, channel: str) -> HookFunction | None:
        """The function for this very channel, else that of its namespace, else that of all channels."""
        known = self._functions[name]
        namespace, separator, _ = channel.removeprefix(TOKEN_MARK).partition(":")
        of_namespace = known.get(namespace) if separator and namespace else None
        return known.get(channel) or of_namespace or known.get(_EVERYWHERE)
