"""Opens WebSocket doors straight away: what FastAPI finds out anew for each client is laid out once.

Its router, exit stacks and dependency solver were two fifths of a connect. Doors stay what they are, declared with
FastAPI's dependencies; `dependency_overrides` and middleware count as ever.

Of FastAPI's routes this module uses `dependant`; tests/web/test_direct.py shows that the short way asks the same
functions for the same.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from inspect import iscoroutinefunction
from typing import Any, NamedTuple

from fastapi import APIRouter, FastAPI, WebSocket
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import request_params_to_args
from fastapi.exceptions import WebSocketRequestValidationError
from fastapi.routing import APIWebSocketRoute
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

_WEBSOCKET = 0
_DOOR = "starling.door"


class EndpointCall(NamedTuple):
    """One call on the way through a door: `arguments` name earlier results by their place, the first the WebSocket."""

    call: Callable[..., Awaitable[Any]]
    arguments: tuple[tuple[str, int], ...]


class Door(NamedTuple):
    """A way laid out: `steps`, and what the last of them, the endpoint, wants of the path besides."""

    route: APIWebSocketRoute
    steps: Sequence[EndpointCall]


def lay_out(route: APIWebSocketRoute) -> Door | None:
    """Return what FastAPI would call, in its order; None where more is asked for than coroutines and the path."""
    steps: list[EndpointCall] = []
    places: dict[Callable[..., Any], int] = {}
    try:
        _add(replace(route.dependant, path_params=[]), steps, places)
    except LookupError:
        return None
    return Door(route, steps)


def _add(dependant: Dependant, steps: list[EndpointCall], places: dict[Callable[..., Any], int]) -> int:
    call = dependant.call
    if call is None or not _is_plain(dependant):
        raise LookupError(dependant.name)
    if call in places:
        return places[call]
    arguments = [
        (name, _WEBSOCKET)
        for name in (dependant.websocket_param_name, dependant.http_connection_param_name)
        if name is not None
    ]
    for dependency in dependant.dependencies:
        place = _add(dependency, steps, places)
        if dependency.name is not None:
            arguments.append((dependency.name, place))
    steps.append(EndpointCall(call, tuple(arguments)))
    places[call] = len(steps)
    return places[call]


def _is_plain(dependant: Dependant) -> bool:
    more = (
        dependant.path_params,
        dependant.query_params,
        dependant.header_params,
        dependant.cookie_params,
        dependant.body_params,
        dependant.request_param_name,
        dependant.response_param_name,
        dependant.background_tasks_param_name,
        dependant.security_scopes_param_name,
        dependant.own_oauth_scopes,
        dependant.concurrency,
    )
    return iscoroutinefunction(dependant.call) and dependant.use_cache and not any(more)


class DirectEndpoints:
    """ASGI: `application` with short ways through those doors of `routers` that can be laid out."""

    def __init__(self, application: FastAPI, routers: Sequence[APIRouter]) -> None:
        self._application = application
        routes = [route for router in routers for route in router.routes if isinstance(route, APIWebSocketRoute)]
        web_context = [door for route in routes if (door := lay_out(route)) is not None]
        self._fixed = {door.route.path: door for door in web_context if not door.route.param_convertors}
        self._patterns = [door for door in web_context if door.route.param_convertors]
        self._stack: ASGIApp | None = None

    @property
    def paths(self) -> frozenset[str]:
        """The doors with a short way."""
        return frozenset(door.route.path for door in (*self._fixed.values(), *self._patterns))

    def _find(self, path: str) -> tuple[Door, dict[str, Any]] | None:
        fixed = self._fixed.get(path)
        if fixed is not None:
            return fixed, {}
        for door in self._patterns:
            if (match := door.route.path_regex.match(path)) is not None:
                convertors = door.route.param_convertors
                return door, {name: convertors[name].convert(text) for name, text in match.groupdict().items()}
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Open a door, or let the application answer."""
        application = self._application
        if (
            scope["type"] != "websocket"
            or scope.get("root_path")
            or application.dependency_overrides
            or (found := self._find(scope["path"])) is None
        ):
            await application(scope, receive, send)
            return
        scope["app"] = application
        scope[_DOOR], scope["path_params"] = found
        if self._stack is None:
            # The application's own is built as late, too: until then middleware may be added.
            self._stack = self._open
            for cls, args, kwargs in reversed(application.user_middleware):
                self._stack = cls(self._stack, *args, **kwargs)
        await self._stack(scope, receive, send)

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            door: Door = scope[_DOOR]
            values: list[Any] = [WebSocket(scope, receive, send)]
            for call, arguments in door.steps[:-1]:
                values.append(await call(**{name: values[place] for name, place in arguments}))
            endpoint, arguments = door.steps[-1]
            of_path: dict[str, Any] = {}
            if scope["path_params"]:
                of_path, errors = request_params_to_args(door.route.dependant.path_params, scope["path_params"])
                if errors:
                    raise WebSocketRequestValidationError(errors)  # noqa: TRY301 - handled as FastAPI's own is
            await endpoint(**{name: values[place] for name, place in arguments}, **of_path)
        except Exception as error:  # noqa: BLE001 - raised again where the application's handlers see it
            await self._refuse(error, scope, receive, send)

    async def _refuse(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        async def fail(_scope: Scope, _receive: Receive, _send: Send) -> None:
            raise error

        handlers = {key: handler for key, handler in self._application.exception_handlers.items() if key != 500}
        handlers.pop(Exception, None)
        await ExceptionMiddleware(fail, handlers)(scope, receive, send)
