"""The decorators of a Starling, which register functions of the application as hooks."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from starling.client.hook_function import HooksError
from starling.client.registered_hooks import RegisteredHooks
from starling.engine.channels import Channels
from starling.protocol.codes import CommandRefused

Hook = TypeVar("Hook", bound=Callable[..., Awaitable[Any]])


class HookDecorators:
    """Each registers an `async` function, whose arguments and results are those of a hooks module (docs/hooks.md).

    `target` is a namespace, or the name of a channel; without it a function takes all channels. Of several functions,
    that of the channel counts, then that of its namespace. Raises HooksError for a function that could not be called,
    for a second one for the same event and target, and for a namespace that does not exist.
    """

    _registered: RegisteredHooks
    _channels: Channels

    def on_connect(self, function: Hook) -> Hook:
        """`on_connect(client[, request][, data][, state])` authenticates, refuses or adds to a client that connects."""
        return self._register("on_connect", function)

    def on_message(self, function: Hook) -> Hook:
        """`on_message(client[, data][, state])` takes what a client sends without waiting for a reply."""
        return self._register("on_message", function)

    def on_disconnect(self, function: Hook) -> Hook:
        """`on_disconnect(client[, code][, reason][, state])` is called when a client is gone."""
        return self._register("on_disconnect", function)

    @overload
    def on_subscribe(self, target: Hook) -> Hook: ...

    @overload
    def on_subscribe(self, target: str = "") -> Callable[[Hook], Hook]: ...

    def on_subscribe(self, target: Any = "") -> Any:
        """`on_subscribe(client, channel[, data][, state])` grants or refuses a subscription."""
        return self._in_target("on_subscribe", target)

    @overload
    def on_publish(self, target: Hook) -> Hook: ...

    @overload
    def on_publish(self, target: str = "") -> Callable[[Hook], Hook]: ...

    def on_publish(self, target: Any = "") -> Any:
        """`on_publish(client, channel[, data][, state])` may replace or refuse what a client publishes."""
        return self._in_target("on_publish", target)

    @overload
    def on_cancel(self, target: Hook) -> Hook: ...

    @overload
    def on_cancel(self, target: str = "") -> Callable[[Hook], Hook]: ...

    def on_cancel(self, target: Any = "") -> Any:
        """`on_cancel(client, channel[, reason][, state])` may refuse that a client cancels an append-only stream."""
        return self._in_target("on_cancel", target)

    @overload
    def on_unsubscribe(self, target: Hook) -> Hook: ...

    @overload
    def on_unsubscribe(self, target: str = "") -> Callable[[Hook], Hook]: ...

    def on_unsubscribe(self, target: Any = "") -> Any:
        """`on_unsubscribe(client, channel[, state])` is called when a client has left a channel."""
        return self._in_target("on_unsubscribe", target)

    @overload
    def rpc(self, name: Hook) -> Hook: ...

    @overload
    def rpc(self, name: str) -> Callable[[Hook], Hook]: ...

    def rpc(self, name: Any) -> Any:
        """`function(client[, data][, state])` answers the calls of `name`, or of the function's own name."""
        if callable(name):
            return self.rpc(name.__name__)(name)

        def register(function: Hook) -> Hook:
            self._registered.add_method(name, function)
            return function

        return register

    def _in_target(self, name: str, target: Any) -> Any:
        if callable(target):
            return self._register(name, target)
        if ":" in target:
            try:
                self._channels.options(target)
            except CommandRefused as refused:
                problem = f'{name}("{target}"): {refused.args[1]}: write a namespace or a channel'
                raise HooksError(problem) from refused
        return lambda function: self._register(name, function, target)

    def _register(self, name: str, function: Hook, target: str = "") -> Hook:
        if not callable(function):
            raise HooksError(f"{name} takes no target: write @realtime.{name} above the function")
        self._registered.add(name, function, target)
        return function
