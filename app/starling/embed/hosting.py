"""Serves a user's application with Starling under `starling serve`: imports it, and joins the two."""

import importlib
import os
import sys
import threading
import traceback
from collections.abc import MutableMapping
from contextlib import AsyncExitStack
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from starling.embed.service import OFFER, Offer, Starling, without_unasked_parts
from starling.engine.upgrade import UpgradeEndpoint
from starling.main import Application, HostedApplication, build_application, run
from starling.server.service import ApplicationError
from starling.settings import Settings, SettingsError
from starling.web.head_requests import HeadRequests
from starling.web.http_endpoint import RequestPaths
from starling.web.request_id import RequestId

THREAD_AT_IMPORT = (
    "STARLING_PRELOAD_APP: the application starts a thread when it is imported, which a fork loses: start it in the "
    "lifespan, or unset STARLING_PRELOAD_APP"
)
NOT_INCLUDED = (
    "Starling(client_middleware=True): the application does not include the client endpoint: call "
    "realtime.install(app), or app.include_router(realtime.router)"
)


def serve_application(settings: Settings, target: str) -> None:
    """As `starling.main.run`, with the application `target` (`module:name`). Raises SettingsError."""
    settings = without_unasked_parts(settings)

    def host(built: Application) -> HostedApplication:
        served = Hosted(built, settings, target)
        if settings.preload_app:
            served.preload()
        return HostedApplication(served, served.endpoints, served.requests, served.load)

    run(settings, host)


def check_application(settings: Settings, target: str) -> None:
    """Import the application as a worker does, and build the service that it holds. Raises SettingsError."""
    settings = without_unasked_parts(settings)
    Hosted(build_application(settings, CollectorRegistry()), settings, target).load_here()


class Hosted:
    """The ASGI application that the server runs: Starling's own paths first, then the user's application."""

    def __init__(self, built: Application, settings: Settings, target: str) -> None:
        self.endpoints: dict[str, UpgradeEndpoint] = {}
        self.requests = RequestPaths()
        self._built = built
        self._settings = settings
        self._target = target
        self._application: ASGIApp | None = None
        self._served: ASGIApp | None = None

    def preload(self) -> None:
        """Import the application in the master. Raises SettingsError if that fails, or leaves a thread."""
        before = threading.active_count()
        self.load_here()
        if threading.active_count() > before:
            raise SettingsError([THREAD_AT_IMPORT])

    def load_here(self) -> None:
        """As `load`, in a process that is no worker. Raises SettingsError, with the traceback of the user's lines."""
        try:
            self.load()
        except ApplicationError as error:
            raise SettingsError([line for line in (error.trace, str(error)) if line]) from error

    def load(self) -> None:
        """Import the application, once. Raises ApplicationError."""
        if self._application is not None:
            return
        offer = Offer(self._built, self._settings)
        reset = OFFER.set(offer)
        try:
            application = import_application(self._target)
            # An application without a Starling of its own is served next to this one.
            starling = offer.taken or Starling()
            paths = list(getattr(application, "routes", ()))
            starling.check_paths(paths)
            if starling.client_middleware and not starling.own_routes.is_included(paths):
                raise ApplicationError(NOT_INCLUDED)
        except SettingsError as error:
            raise ApplicationError("\n".join(error.problems)) from error
        finally:
            OFFER.reset(reset)
        root_path = getattr(application, "root_path", "")
        self.endpoints.update(starling.upgrades(root_path))
        self.requests.add(starling.requests(root_path))
        own = starling.own_routes
        routes = [
            route
            for route in own.routes
            if not (starling.client_middleware and getattr(route, "path", "") in own.client_paths)
        ]
        behind = own.parts_before(starling.guarded(application, has_routes=hasattr(application, "routes")))
        served = Router(routes, redirect_slashes=False, default=behind)
        self._root_path = root_path
        self._served = RequestId(HeadRequests(served))
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if self._application is None or self._served is None:
            raise RuntimeError("load() was not called")
        if scope["type"] == "lifespan":
            await self._live(self._application, scope, receive, send)
            return
        if self._root_path and not scope.get("root_path"):
            scope = _below(self._root_path, scope)
        await self._served(scope, receive, send)

    async def _live(self, application: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the service around the application's own lifespan, which an ASGI application need not have."""
        answered = False

        async with AsyncExitStack() as stack:

            async def relay(message: MutableMapping[str, Any]) -> None:
                nonlocal answered
                answered = True
                if message["type"].startswith("lifespan.shutdown."):
                    await stack.aclose()
                await send(message)

            await stack.enter_async_context(self._built.running())
            try:
                await application(scope, receive, relay)
            except Exception:
                if answered:
                    raise
            if not answered:
                await send({"type": "lifespan.startup.complete"})
                while (await receive())["type"] != "lifespan.shutdown":
                    pass
                await stack.aclose()
                await send({"type": "lifespan.shutdown.complete"})


def _below(root_path: str, scope: Scope) -> Scope:
    """`scope` as ASGI wants it: its path begins with `root_path`, whether a proxy has removed that or not."""
    path, raw = scope["path"], scope.get("raw_path")
    if path == root_path or path.startswith(f"{root_path}/"):
        return {**scope, "root_path": root_path}
    raw = raw and root_path.encode() + raw
    return {**scope, "root_path": root_path, "path": root_path + path, "raw_path": raw}


def import_application(target: str) -> ASGIApp:
    """The object that `target` (`module:name`) names, from the current directory too. Raises ApplicationError."""
    module_name, _, path = target.partition(":")
    if not module_name or not path:
        raise ApplicationError(f"{target!r} names no application: write module:name, as in my.module:app")
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109 - sys.path holds text
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except SettingsError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ApplicationError(
                f"there is no module {module_name} in {here} or on the import path: write module:name, as in "
                "`starling serve my.module:app`, from the directory that holds it"
            ) from error
        raise ApplicationError(f"{module_name} cannot be imported: {error}", own_lines(error)) from error
    except KeyboardInterrupt:
        raise
    # A module may end by sys.exit(), too.
    except BaseException as error:
        raised = str(error) if isinstance(error, Exception) else f"{type(error).__name__}: {error}"
        raise ApplicationError(f"{module_name} cannot be imported: {raised}", own_lines(error)) from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise ApplicationError(f"{module_name} has no {name}: name the application behind the colon")
        found = getattr(found, name)
    if not callable(found):
        raise ApplicationError(f"{target} is a {type(found).__name__}, no ASGI application")
    application: ASGIApp = found
    return application


def own_lines(error: BaseException) -> str:
    """The traceback of `error` without the lines of the import machinery and of Starling above the user's own."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_foreign(frame.filename)]
    lines = ["Traceback (most recent call last):\n", *traceback.format_list(own)]
    return "".join([*lines, *traceback.format_exception_only(error)]).rstrip()


def _is_foreign(filename: str) -> bool:
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - frames hold text
    return filename.startswith(("<frozen", package, importlib.__file__))
