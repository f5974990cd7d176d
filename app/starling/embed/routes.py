"""The routes of a Starling, for the application that includes them, and what of the application clashes with them."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from starling import __version__
from starling.main import Application, page_facts
from starling.settings import Settings, SettingsError
from starling.web import api_docs, chat, client_endpoint, echo, health, items, pages, refusals
from starling.web.build import NO_FASTAPI_TELEMETRY
from starling.web.cross_origin import CrossOrigin
from starling.web.dependencies import WebContext
from starling.web.durable_streams import DurableStreams
from starling.web.http_endpoint import HttpEndpoint

# Where the reference of the server API is, behind the prefix; `/docs` is the application's own.
API_DOCS = "/starling"


class Taken(NamedTuple):
    """A path of Starling's, with a request for it."""

    path: str
    scope: Scope


class OwnRoutes:
    """The routes of one service.

    `routes` are plain ASGI. `parts` need a FastAPI application around them: pages, tutorial endpoints, API docs.
    """

    def __init__(self, built: Application, settings: Settings, prefix: str, api_prefix: str) -> None:
        """`prefix` begins all paths, `api_prefix` (with `prefix`) those of the server API."""
        self._built = built
        self.client_path = prefix + client_endpoint.PATH
        names = sorted({*built.methods.by_name, "batch", "capture"})
        self._methods = [
            Route(f"{api_prefix}/{name}", _NamedMethod(name, built.api), include_in_schema=False) for name in names
        ]
        self._sockets = [
            WebSocketRoute(prefix + path, endpoint.route.endpoint) for path, endpoint in built.upgrades.items()
        ]
        self._client = self._sockets[list(built.upgrades).index(client_endpoint.PATH)]
        self._streams = [
            Route(prefix + stream.route.path, _StreamRoute(stream, built.context, prefix), include_in_schema=False)
            for stream in built.streams.values()
        ]
        self._durable = [
            Route(prefix + each.route.path, _DurableRoute(each, built.context, prefix), include_in_schema=False)
            for each in built.durable_streams
        ]
        self.client_paths = frozenset(
            [*(route.path for route in self._sockets), *(route.path for route in self._streams)]
        )
        """Where clients connect."""
        self._health = [
            Route(prefix + route.path, _health(route), include_in_schema=False)
            for route in health.build_router(built.engine.readiness).routes
            if isinstance(route, Route)
        ]
        self.routes: list[Route | WebSocketRoute] = [
            *self._methods,
            *self._sockets,
            *self._streams,
            *self._durable,
            *self._health,
        ]
        self.parts = APIRouter()
        for part in (echo, items, chat) if settings.tutorial else ():
            self.parts.include_router(part.build_router(built.context), prefix=prefix)
        if settings.pages:
            facts = page_facts(settings, api_prefix.removeprefix(prefix).lstrip("/"), f"{API_DOCS.lstrip('/')}/docs")
            self.parts.include_router(pages.build_router(facts), prefix=prefix)
            self.parts.mount(f"{prefix}/static", pages.static_files, name="static")
        if settings.serves_api_docs:
            self.parts.mount(prefix + API_DOCS, _api_docs(built, settings, api_prefix), name="starling")

    def parts_before(self, behind: ASGIApp) -> ASGIApp:
        """The parts as an application of their own, and `behind` for what they do not take."""
        if not self.parts.routes:
            return behind
        application = self._parts_application()
        application.router.default = behind
        return application

    @cached_property
    def alone(self) -> ASGIApp:
        """The parts as an application of their own."""
        return self._parts_application()

    def _parts_application(self) -> FastAPI:
        application = _plain_application()
        refusals.install(application, self._built.engine.metrics)
        application.include_router(self.parts)
        return application

    def for_every_run(self, current: Callable[[], "OwnRoutes"]) -> list[BaseRoute]:
        """Routes like these, which an application may include once; each request goes to the `current` ones."""
        routes: list[BaseRoute] = []
        for index, route in enumerate(self.routes):
            routes.append(_route_like(route, route.path, _Current(current, index)))
        for part in iter_route_contexts(self.parts.routes):
            path = part.path or ""
            path = f"{path}/{{path:path}}" if isinstance(part.original_route, Mount) else path
            routes.append(_route_like(part.original_route, path, _Current(current, None)))
        return routes

    def check(self, routes: Sequence[BaseRoute], router: APIRouter, *, first: bool) -> None:
        """Raise SettingsError for each of the user's `routes` that takes a path of these, naming both.

        `router` is what the application includes; a route behind it that takes every path takes none of these. `first`:
        all of these come before all of the user's.
        """
        problems: list[str] = []
        before = not first
        for top in routes:
            if getattr(top, "original_router", None) is router:
                before = False
                continue
            for route in iter_route_contexts([top]):
                if _belongs_to(router, route) or (_takes_everything(route) and not before):
                    continue
                problems += [
                    f"{route.path} of your application also matches {taken.path} of Starling: rename yours, "
                    "or move Starling's with Starling(prefix=…) or Starling(api_prefix=…)"
                    for taken in self._taken
                    if route.matches(dict(taken.scope))[0] is Match.FULL
                ]
        if problems:
            raise SettingsError(problems)

    def is_included(self, routes: Sequence[BaseRoute]) -> bool:
        """Whether the client endpoint is among the routes of an application."""
        index = self.routes.index(self._client)
        return any(
            isinstance(route.endpoint, _Current) and route.endpoint.index == index
            for route in iter_route_contexts(routes)
        )

    @property
    def _taken(self) -> Iterator[Taken]:
        for route in (*self._methods, *self._streams, *self._durable, *self._health):
            for method in getattr(route.endpoint, "methods", ("GET",)):
                yield Taken(route.path, _scope(route.path, method))
        for socket in self._sockets:
            yield Taken(socket.path, _scope(socket.path))
        for part in iter_route_contexts(self.parts.routes):
            path = part.path or ""
            if isinstance(part.original_route, Mount):
                yield Taken(path, _scope(f"{path}/docs", "GET"))
            elif isinstance(part.original_route, WebSocketRoute):
                yield Taken(path, _scope(path))
            else:
                yield Taken(path, _scope(path, "GET"))


class _Current:
    """The endpoint of that index among the routes that are current; None: their parts."""

    def __init__(self, current: Callable[[], OwnRoutes], index: int | None) -> None:
        self._current = current
        self.index = index

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        routes = self._current()
        application = routes.alone if self.index is None else routes.routes[self.index].app
        await application(scope, receive, send)


def _route_like(route: BaseRoute, path: str, endpoint: _Current) -> BaseRoute:
    if isinstance(route, WebSocketRoute):
        return WebSocketRoute(path, endpoint)
    return Route(path, endpoint, include_in_schema=False)


def _belongs_to(router: APIRouter, route: RouteContext) -> bool:
    return any(getattr(own, "endpoint", None) is route.endpoint for own in router.routes if route.endpoint)


class _NamedMethod:
    """The server API at the path of one method."""

    methods = ("POST",)

    def __init__(self, name: str, api: ASGIApp) -> None:
        self._name = name
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._api({**scope, "path_params": {"method": self._name}}, receive, send)


class _StreamRoute:
    """An endpoint of streams, which answers pages of other origins too."""

    def __init__(self, endpoint: HttpEndpoint, context: WebContext, prefix: str) -> None:
        self.methods = endpoint.methods
        self._application = CrossOrigin(endpoint, context, prefix)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._application(scope, receive, send)


class _DurableRoute:
    """An endpoint of append-only streams, which answers pages of other origins too."""

    methods = ("GET", "PUT", "POST", "DELETE")

    def __init__(self, endpoint: DurableStreams, context: WebContext, prefix: str) -> None:
        self._application = CrossOrigin(endpoint, context, prefix, endpoint.path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._application(scope, receive, send)


def _api_docs(built: Application, settings: Settings, api_prefix: str) -> FastAPI:
    application = _plain_application(openapi_url="/openapi.json")
    api_docs.install(
        application,
        built.methods,
        developer=settings.dev,
        keyed=bool(settings.api_key_list),
        api_prefix=api_prefix,
    )
    application.mount("/static", pages.static_files, name="static")
    return application


def _plain_application(openapi_url: str | None = None) -> FastAPI:
    return FastAPI(
        title="Starling",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=openapi_url,
        root_path_in_servers=False,
        telemetry=NO_FASTAPI_TELEMETRY,
    )


def _takes_everything(route: RouteContext) -> bool:
    """Whether a route is meant for all paths that nothing else takes, such as a mounted site."""
    return isinstance(route.original_route, Mount) or (route.path or "").endswith(":path}")


def _health(route: Route) -> Any:
    async def answer(request: Any) -> Response:
        found = await route.endpoint()
        return found if isinstance(found, Response) else JSONResponse(found)

    return answer


def _scope(path: str, method: str = "") -> Scope:
    kind: dict[str, Any] = {"type": "http", "method": method} if method else {"type": "websocket"}
    return {**kind, "path": path, "headers": [], "root_path": ""}
