"""Construction of the whole service from its settings; no part needs a running event loop before the lifespan."""

import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import structlog
from fastapi import FastAPI
from prometheus_client import REGISTRY, CollectorRegistry

from starling.auth.build import build_verifier
from starling.auth.explain import explain
from starling.auth.jwt import JwtVerifier
from starling.auth.tickets import Tickets
from starling.brokers.broadcast import BroadcastBroker
from starling.brokers.open import build_broker
from starling.channels_file import build_channels
from starling.client.emulation import EmulatedSessions
from starling.client.hooks_module import build_module_hooks
from starling.client.registered_hooks import RegisteredHooks
from starling.engine.channels import Channels
from starling.engine.engine import Engine, build_engine
from starling.engine.hooks import Hooks
from starling.engine.lifecycle import Lifecycle
from starling.engine.occupancy import OccupancyStore
from starling.engine.options import EngineOptions
from starling.engine.top_channels import TopChannels
from starling.engine.upgrade import UpgradeEndpoint
from starling.reload import ConfigurationFiles, Reload
from starling.server.application import serve
from starling.server.options import STATUS_DIR, ServerOptions
from starling.server.service import Asgi, Service
from starling.server.waiting import waiting_budget
from starling.settings import DECLARATIONS, Settings
from starling.telemetry.build import build_tracer
from starling.telemetry.logging import configure_logging
from starling.telemetry.metric_files import allocate_metric_files
from starling.telemetry.metrics import Metrics
from starling.telemetry.tracing import Tracer
from starling.variables import variable
from starling.web.api import Api
from starling.web.api_methods import ApiMethods
from starling.web.build import Web, WebOptions, build_asgi, build_web
from starling.web.client_endpoint import ClientEndpoint
from starling.web.console import HIDDEN, Console, ShownSetting, shown_value
from starling.web.dependencies import WebContext
from starling.web.durable_streams import DurableStreams
from starling.web.guide import ARCHIVE as GUIDE
from starling.web.http_endpoint import HttpEndpoint, RequestPaths
from starling.web.options import ProxyOptions
from starling.web.pages import PageFacts
from starling.web.proxy_hooks import ProxyHooks

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling")

CONTACT_FILE = "broker-contact"


def run(settings: Settings, host: "Callable[[Application], HostedApplication] | None" = None) -> None:
    """Serve until a signal stops the process; ends by SystemExit with the exit code. Raises SettingsError.

    `host` joins a user's application with the service that was built.
    """
    tracer = build_tracer(settings)
    configure_logging(settings.log_level, settings.log_format, tracer.log_processors)
    for warning in settings.warnings():
        log.warning("settings_may_surprise", warning=warning)
    allocate_metric_files()
    built = build_application(settings, tracer=tracer)
    serve(
        server_options(settings), build_service(settings, os.environ, built, host(built) if host is not None else None)
    )


def build_service(
    settings: Settings,
    environ: Mapping[str, str],
    built: "Application",
    hosted: "HostedApplication | None" = None,
) -> Service:
    """Build what the server layer serves: the service, within a user's application where there is one.

    A reload reads the variables of `environ` and their files again.
    """
    engine = built.engine
    service = Service(
        asgi=built.asgi if hosted is None else hosted.asgi,
        readiness=engine.readiness,
        endpoints=built.upgrades if hosted is None else hosted.endpoints,
        requests=built.requests if hosted is None else hosted.requests,
        begin=hosted.load if hosted is not None else lambda: None,
        on_refused=engine.metrics.refuse,
        admit=engine.admission.refusal,
        on_waiting=engine.metrics.set_waiting,
        top_channels=built.top_channels.here,
        drain_rate_store=built.broker.drain_rate,
        reload=ConfigurationFiles(settings, environ).read,
        apply=Reload(settings, engine, built.verifier, built.api).apply,
    )
    engine.metrics.sources.append(service.drain.report)
    return service


def server_options(settings: Settings) -> ServerOptions:
    """The options of the server layer, with what is derived from other settings where it is unset."""
    return ServerOptions.of(
        settings,
        workers=settings.worker_count,
        drain_seconds=settings.drain_time,
        waiting_budget_bytes=waiting_budget(settings, settings.worker_count),
    )


@dataclass(frozen=True, slots=True)
class HostedApplication:
    """A user's application with the service: what the server needs of it.

    `load` imports the application in the worker, and fills `endpoints` and `requests`. It raises ApplicationError.
    """

    asgi: Asgi
    endpoints: Mapping[str, UpgradeEndpoint]
    requests: RequestPaths
    load: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Application:
    """What one process serves, and the parts that its server and tests need besides."""

    asgi: FastAPI
    engine: Engine
    context: WebContext
    client_endpoint: ClientEndpoint
    upgrades: Mapping[str, ClientEndpoint]
    broker: BroadcastBroker
    top_channels: TopChannels
    verifier: JwtVerifier
    api: Api
    requests: RequestPaths
    streams: Mapping[str, HttpEndpoint]
    """The endpoints of streams, and of the commands for them, by path."""
    durable_streams: Sequence[DurableStreams]
    """The endpoints of append-only streams over HTTP."""
    methods: ApiMethods
    registered_hooks: RegisteredHooks
    running: Callable[[], AbstractAsyncContextManager[None]]
    """Starts the engine, the fetching of keys and the hooks; stops them at its end."""


def page_facts(settings: Settings, api: str = "api", api_docs: str = "docs", *, guide: bool = False) -> PageFacts:
    """What the first page shows; `api` and `api_docs` are the paths of server API and reference, seen from the page.

    `guide` says whether the documentation is served.
    """
    return PageFacts(
        developer=settings.dev,
        # PostgreSQL has no tickets.
        names=settings.dev and settings.broker_scheme != "postgresql",
        tutorial=settings.tutorial,
        max_message_bytes=settings.max_message_bytes,
        api=api,
        api_docs=api_docs if settings.serves_api_docs else None,
        console_port=settings.internal_port if settings.dev else None,
        guide=guide,
    )


def create_app(settings: Settings, registry: CollectorRegistry = REGISTRY, tracer: Tracer | None = None) -> FastAPI:
    """Build the ASGI application alone; see `build_application`."""
    return build_application(settings, registry, tracer).asgi


def build_application(
    settings: Settings,
    registry: CollectorRegistry = REGISTRY,
    tracer: Tracer | None = None,
    lifecycle: Lifecycle | None = None,
) -> Application:
    """Build everything that one process serves. Raises SettingsError for settings that cannot be served.

    `tracer` and `lifecycle` None: as the settings say.
    """
    broker, metrics, channels = build_broker(settings), Metrics(registry), build_channels(settings)
    registered = RegisteredHooks(build_module_hooks(settings), seconds=settings.hook_seconds)
    contact_file = settings.runtime_dir / CONTACT_FILE if settings.runtime_dir else None
    engine = build_engine(
        broker,
        channels,
        metrics,
        EngineOptions.of(settings, contact_file=contact_file),
        hooks=build_hooks(settings, registered, channels, metrics),
        lifecycle=lifecycle or build_lifecycle(settings, broker.occupancy, metrics),
        tracer=tracer or build_tracer(settings),
        retire=lambda: os.kill(os.getpid(), signal.SIGTERM),
    )
    verifier, jwks = build_verifier(settings)
    if jwks is not None:
        metrics.sources.append(jwks.report)
    options = WebOptions.of(settings)
    sessions = EmulatedSessions(engine, alone=settings.broker_scheme == "memory")
    web = build_web(options, engine, verifier, Tickets(broker.tickets), sessions)

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if jwks is not None:
                jwks.start()
                stack.push_async_callback(jwks.stop)
            await stack.enter_async_context(engine.hooks.running())
            stack.push_async_callback(engine.stop)
            await engine.start()
            if settings.serves_console and settings.runtime_dir is not None:
                console = build_console(settings, engine, web)
                await stack.enter_async_context(console.running(settings.runtime_dir / STATUS_DIR))
            yield

    return Application(
        build_asgi(options, web, engine, running, page_facts(settings, guide=settings.dev and GUIDE.is_file())),
        engine,
        web.context,
        web.client_endpoint,
        web.upgrades,
        broker,
        web.top_channels,
        verifier,
        web.api,
        web.requests,
        {stream.path: stream for stream in web.streams},
        web.durable_streams,
        web.methods,
        registered,
        running,
    )


def build_console(settings: Settings, engine: Engine, web: Web) -> Console:
    """Build what the console of the internal port asks of this worker."""
    return Console(
        engine,
        web.methods,
        web.captures,
        settings=shown_settings(settings),
        warnings=lambda: [*settings.warnings(), *engine.channels.surprises()],
        explain_token=partial(explain, verifier=web.context.verifier),
    )


def shown_settings(settings: Settings) -> list[ShownSetting]:
    """Every setting with its effective value, but for secrets."""
    return [
        ShownSetting(
            variable(each.name),
            each.section,
            HIDDEN if each.secret and getattr(settings, each.name) else shown_value(getattr(settings, each.name)),
            each.field.description or "",
            given=each.name in settings.model_fields_set,
        )
        for each in DECLARATIONS.values()
    ]


def build_hooks(settings: Settings, inner: Hooks, channels: Channels, metrics: Metrics) -> Hooks:
    """Build what decides beyond the rights: proxies, and behind them `inner`."""
    if not settings.proxy_urls and settings.channels_file is None:
        # No namespace can come to have a proxy.
        return inner
    return ProxyHooks(ProxyOptions.of(settings), inner, channels, metrics)


def build_lifecycle(settings: Settings, occupancy: OccupancyStore | None, metrics: Metrics) -> Lifecycle | None:
    """Build the webhooks, if a backend is to get them. Raises SettingsError."""
    if settings.webhook_url is None:
        return None
    # The HTTP client takes memory and time to load in every worker.
    from starling.web.webhooks import build_webhooks

    return build_webhooks(settings, occupancy, metrics)
