"""`Starling`: the service as an object that a user's application holds."""

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from prometheus_client import CollectorRegistry, make_asgi_app
from pydantic import SecretStr
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from starling.brokers.broadcast import BroadcastBroker
from starling.client.registered_hooks import RegisteredHooks
from starling.embed.decorators import HookDecorators
from starling.embed.dependencies import User, optional_user_of, requirement, user_of
from starling.embed.guard import WebSocketGuard
from starling.embed.listening import ChannelListener, forwarding, listening, values
from starling.embed.methods import ServerMethods
from starling.embed.routes import OwnRoutes
from starling.embed.runs import BuiltService, ServiceRuns
from starling.embed.signals import called_at_signals
from starling.embed.stream_writing import StreamWriting
from starling.engine.channels import Channels
from starling.engine.direct_request import RequestEndpoint
from starling.engine.rights import Verb
from starling.engine.upgrade import Accepted, Denied, Upgrade, UpgradeEndpoint
from starling.main import Application, build_application
from starling.settings import DECLARATIONS, PREFIX, Settings, SettingsError, load_settings
from starling.web.api_methods import ApiMethods
from starling.web.permission_check import Permission, PermissionCheck

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.embed")

_OPTIONAL_PARTS = ("pages", "tutorial", "api_docs")
STATE_KEY = "starling"


class Offer:
    """The service that a server has built, for the first Starling that the imported application makes."""

    def __init__(self, application: Application, settings: Settings) -> None:
        self.application = application
        self.settings = settings
        self.taken: Starling | None = None


OFFER: ContextVar[Offer | None] = ContextVar("starling_offer", default=None)


class StarlingRouter(APIRouter):
    """The routes of a Starling, by which its dependencies find it in the application that includes them."""

    def __init__(self, starling: "Starling") -> None:
        super().__init__()
        self.starling = starling


class Starling(StreamWriting, ServerMethods, HookDecorators):
    """One service. Its settings are those of the environment, with `options` (names as in Settings) above them.

    `prefix` begins all paths of Starling, `api_prefix` those of the server API behind it. `client_middleware` lets the
    client endpoint pass the application's middleware; otherwise `starling serve` answers its upgrades directly.
    Under `starling serve` the settings are the server's; an option that contradicts them raises SettingsError, as does
    every setting that cannot be used.
    """

    def __init__(
        self,
        *,
        prefix: str = "",
        api_prefix: str = "/api",
        client_middleware: bool = False,
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        for name, value in (("prefix", prefix), ("api_prefix", api_prefix)):
            if value and (not value.startswith("/") or value.endswith("/")):
                raise SettingsError([f"Starling({name}={value!r}): begin it with / and end it without one"])
        self.prefix = prefix
        self.api_prefix = prefix + api_prefix
        self.client_middleware = client_middleware
        offer = OFFER.get()
        if offer is not None and offer.taken is None:
            offer.taken = self
            _check_against_server(options, offer.settings)
            self.settings = offer.settings
            first = offer.application
            self.hosted = True
        else:
            self.settings = without_unasked_parts(
                _settings(os.environ if environment is None else environment, options)
            )
            first = build_application(self.settings, CollectorRegistry())
            self.hosted = False
        self._runs = ServiceRuns(
            self._with_routes(first),
            lambda: self._with_routes(build_application(self.settings, CollectorRegistry())),
        )
        self.client_path = self.own_routes.client_path
        self.router = StarlingRouter(self)
        self.router.routes += self.own_routes.for_every_run(lambda: self.own_routes)
        self.CurrentUser = Annotated[User, Depends(self._current_user)]
        self.OptionalUser = Annotated[User | None, Depends(self._optional_user)]

    def _with_routes(self, built: Application) -> BuiltService:
        return BuiltService(built, OwnRoutes(built, self.settings, self.prefix, self.api_prefix))

    @property
    def own_routes(self) -> OwnRoutes:
        """The routes of the service that runs now."""
        return self._runs.current.routes

    @property
    def _built(self) -> Application:
        return self._runs.current.built

    @property
    def _methods(self) -> ApiMethods:  # type: ignore[override]  # read only
        return self._built.methods

    @property
    def _registered(self) -> RegisteredHooks:  # type: ignore[override]  # read only
        return self._built.registered_hooks

    @property
    def _channels(self) -> Channels:  # type: ignore[override]  # read only
        return self._built.engine.channels

    # Your application

    def install(self, application: FastAPI) -> None:
        """Include the routes in `application`, and run the service in its lifespan, around the one that is there."""
        application.include_router(self.router)
        inner = application.router.lifespan_context

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
            async with self.lifespan(app) as own, inner(app) as state:
                yield {**own, **(state or {})}

        application.router.lifespan_context = lifespan

    @asynccontextmanager
    async def lifespan(self, application: FastAPI) -> AsyncIterator[dict[str, Any]]:
        """Run the service while the application runs: `FastAPI(lifespan=realtime.lifespan)`.

        Raises SettingsError for a path that both use.
        """
        self.check_paths(application.router.routes)
        known = getattr(application.state, "starlings", ())
        application.state.starlings = (*(each for each in known if each is not self), self)
        if self.hosted:
            self._registered.state = application.state
            yield {STATE_KEY: self}
            return
        router = application.router
        unguarded = router.middleware_stack
        if self.settings.broker_scheme == "memory" and _processes() > 1:
            log.warning(
                "memory_broker_with_workers",
                remedy="memory:// joins nothing beyond one process: set STARLING_BROKER_URL=redis://HOST:6379, "
                "or run one worker",
            )
        try:
            async with self.running():
                # Starlette declares it as a method; behind it are the routes, and mounted applications too.
                router.middleware_stack = self.guarded(unguarded)  # type: ignore[assignment]
                self._registered.state = application.state
                with called_at_signals(self._built.context.asgi_streams.shutdown):
                    yield {STATE_KEY: self}
        finally:
            router.middleware_stack = unguarded

    @asynccontextmanager
    async def join(self, channel: str, websocket: WebSocket) -> AsyncIterator[None]:
        """Send what is published in `channel` to an accepted WebSocket of a route, until the end of the block.

        Text is sent as it is, other data as JSON. A client that reads too slowly is closed with 1013. Raises
        MethodFailed for a channel that there cannot be.
        """
        async with self._listener(channel) as listener, forwarding(listener, websocket):
            yield

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator[AsyncIterator[Any]]:
        """The data of what is published in `channel` from now on: `async with realtime.listen("a") as messages:`.

        Raises MethodFailed as `join`; the iterator raises ListenerTooSlow where too much waits for it.
        """
        async with self._listener(channel) as listener:
            yield values(listener)

    def _listener(self, channel: str) -> AbstractAsyncContextManager[ChannelListener]:
        return listening(self._built.engine, channel, self.settings.write_buffer_bytes)

    @property
    def metrics_app(self) -> ASGIApp:
        """An ASGI application with this process's metrics; mount it on a port that is not public."""

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            metrics = self._built.engine.metrics
            metrics.flush()
            await make_asgi_app(metrics.registry)(scope, receive, send)

        return serve

    # For the server, and for tests

    def running(self) -> AbstractAsyncContextManager[None]:
        """Run the service alone, without an application."""
        return self._runs.run()

    @property
    def broker(self) -> BroadcastBroker:
        """The broker of this service."""
        return self._built.broker

    def open_client(self, upgrade: Upgrade) -> Accepted | Denied:
        """The answer of the client endpoint to a handshake."""
        return self._built.client_endpoint(upgrade)

    def guarded(self, application: ASGIApp, *, has_routes: bool = True) -> ASGIApp:
        """`application`, whose WebSocket routes get admission, the check of the origin and metrics.

        Without `has_routes` a WebSocket that it raises for is one that it has not.
        """
        own = tuple(self.prefix + path for path in self._built.upgrades)
        return WebSocketGuard(application, self._built.context, lambda path: path.endswith(own), has_routes=has_routes)

    def upgrades(self, root_path: str = "") -> dict[str, UpgradeEndpoint]:
        """The endpoints whose upgrades the server answers directly, by path."""
        if self.client_middleware:
            return {}
        upgrades = self._built.upgrades.items()
        return {before + self.prefix + path: endpoint for before in ("", root_path) for path, endpoint in upgrades}

    def requests(self, root_path: str = "") -> dict[str, RequestEndpoint]:
        """The endpoints whose requests the server answers directly, by path."""
        if self.client_middleware:
            return {}
        streams = self._built.streams.items()
        return {before + self.prefix + path: stream for before in ("", root_path) for path, stream in streams}

    def check_paths(self, routes: Sequence[BaseRoute]) -> None:
        """Raise SettingsError for each of the user's `routes` that takes a path of Starling's, and name both."""
        self.own_routes.check(routes, self.router, first=self.hosted)

    # Who asks

    async def user_of(self, connection: HTTPConnection) -> User | None:
        """The user of the request's token; None where there is none. Raises HTTPException for one that is refused."""
        return await optional_user_of(self._built.context, connection)

    async def require_user(self, connection: HTTPConnection) -> User:
        """The user of the request's token. Raises HTTPException, or for a WebSocket WebSocketException, without one."""
        return await user_of(self._built.context, connection)

    def permission_of(self, user: User, verb: str, channel: str) -> Permission:
        """Whether the user of a request may do `verb` in a channel. Raises CommandRefused for one that cannot be."""
        check = PermissionCheck(self._built.context.verifier, self._channels)
        return check.decide_by(user.id, user.credentials, Verb(verb), channel)

    def require(self, verb: str, channel: str) -> Callable[[HTTPConnection], Awaitable[User]]:
        """As `starling.require`, of this Starling."""
        return requirement(lambda _: self, verb, channel)

    async def _current_user(self, connection: HTTPConnection) -> User:
        return await self.require_user(connection)

    async def _optional_user(self, connection: HTTPConnection) -> User | None:
        return await self.user_of(connection)


def _settings(environment: Mapping[str, str], options: Mapping[str, Any]) -> Settings:
    if unknown := sorted(options.keys() - set(DECLARATIONS)):
        raise SettingsError([f"Starling({unknown[0]}=…) is no option: `starling settings` lists them all"])
    given = {f"{PREFIX}{name}".upper(): _as_text(value) for name, value in options.items() if value is not None}
    kept = {name: value for name, value in environment.items() if name.removesuffix("_FILE") not in given}
    return load_settings({**kept, **given})


def _as_text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


def _check_against_server(options: Mapping[str, Any], settings: Settings) -> None:
    problems = [
        f"Starling({name}=…) contradicts the server, which runs with other settings: set {PREFIX}{name.upper()} "
        "in the environment, and leave the option out"
        for name, value in options.items()
        if name in DECLARATIONS and _as_text(value) != _as_text(_shown(getattr(settings, name)))
    ]
    problems += [f"Starling({name}=…) is no option" for name in options if name not in DECLARATIONS]
    if problems:
        raise SettingsError(problems)


def _shown(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def without_unasked_parts(settings: Settings) -> Settings:
    """`settings` with pages, tutorial endpoints and API docs off, each unless it was asked for by name."""
    unasked = {name: False for name in _OPTIONAL_PARTS if name not in settings.model_fields_set}
    return settings.model_copy(update=unasked)


def _processes() -> int:
    """How many workers this process's server runs, as far as its environment and its command line say so."""
    given = [os.environ.get("WEB_CONCURRENCY", "")]
    for option, value in pairwise([*sys.argv, ""]):
        name, _, joined = option.partition("=")
        if name in {"--workers", "-w"}:
            given.append(joined or value)
    return max((int(number) for number in given if number.isdecimal()), default=1)
