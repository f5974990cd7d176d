"""Construction of the whole service from its settings; no part needs a running event loop before the lifespan."""

import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network

import msgspec
import structlog
import yaml
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from prometheus_client import REGISTRY, CollectorRegistry

from starling import __version__
from starling.auth.claims import TokenRules
from starling.auth.jwks import Jwks
from starling.auth.jwt import JwtVerifier
from starling.auth.keys import VerificationKey
from starling.auth.tickets import Tickets
from starling.brokers.broadcast import BroadcastBroker
from starling.brokers.open import open_broker
from starling.client.build import build_dispatcher
from starling.client.client_connection import ClientConnection
from starling.client.hook_function import HooksError
from starling.client.hooks_module import load_hooks
from starling.client.node_commands import NodeCommands
from starling.client.registered_hooks import RegisteredHooks
from starling.engine.admission import AdmissionLimits
from starling.engine.channels import Channels, ChannelsError, parse_channels
from starling.engine.engine import Engine, EngineOptions, build_engine
from starling.engine.hooks import Hooks, NoHooks
from starling.engine.lifecycle import Lifecycle
from starling.engine.memory import MemoryLimit
from starling.engine.occupancy import Occupancy
from starling.engine.top_channels import TopChannels
from starling.engine.upgrade import UpgradeEndpoint
from starling.problems import describe_failure
from starling.protocol.session import SessionLimits
from starling.reload import Configuration, ConfigurationFiles
from starling.server.application import serve
from starling.server.options import Asgi, ServerOptions, Service
from starling.server.peer_address import unmapped_network
from starling.settings import PREFIX, Settings, SettingsError, read_file
from starling.telemetry.logging import configure_logging
from starling.telemetry.metric_files import allocate_metric_files
from starling.telemetry.metrics import Metrics
from starling.telemetry.tracing import NoTracer, Tracer
from starling.variables import DEVELOPER_KEY
from starling.web import api_docs, chat, connection, echo, health, items, pages, refusals, unknown_path
from starling.web.api import PREFIX as API_PREFIX
from starling.web.api import Api, ApiOptions
from starling.web.api_capture import CaptureEndpoint
from starling.web.api_methods import ApiMethods
from starling.web.authority import TokenAuthority
from starling.web.connection import ClientEndpoint
from starling.web.cross_origin import CrossOrigin
from starling.web.dependencies import WebContext
from starling.web.head_requests import HeadRequests
from starling.web.http_endpoint import RequestPaths
from starling.web.http_stream import HttpStreamEndpoint
from starling.web.permission_check import PermissionCheck
from starling.web.proxy_hooks import ProxyHooks, ProxyOptions
from starling.web.request_id import RequestId
from starling.web.revocation import RevocableVerifier
from starling.yaml_file import DuplicateKeyError, describe_syntax, read_yaml

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling")

CONTACT_FILE = "broker-contact"
# How long a peer may take over its part of the closing handshake before its socket is cut.
CLOSE_SECONDS = 3.0
# FastAPI's own spans would be one for each connection, and would hold addresses with their queries.
NO_FASTAPI_TELEMETRY = TelemetryConfig(tracing=False, metrics=False, logs=False, auto_configure=False)


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
    engine = built.engine
    hosted = host(built) if host is not None else None
    service = Service(
        asgi=built.asgi if hosted is None else hosted.asgi,
        readiness=engine.readiness,
        endpoints={connection.PATH: built.client_endpoint} if hosted is None else hosted.endpoints,
        requests=built.requests if hosted is None else None,
        begin=hosted.load if hosted is not None else lambda: None,
        on_refused=engine.metrics.refuse,
        admit=engine.admission.refusal,
        on_waiting=engine.metrics.waiting,
        top_channels=built.top_channels.here,
        drain_rate_store=built.broker.drain_rate,
        reload=ConfigurationFiles(settings, os.environ, validate_configuration).read,
        apply=partial(apply_configuration, built, settings),
    )
    engine.metrics.sources.append(service.drain.report)
    serve(server_options(settings), service)


def server_options(settings: Settings) -> ServerOptions:
    """The options of the server layer from the settings; `runtime_dir` must be set."""
    if settings.runtime_dir is None:
        raise SettingsError([f"{PREFIX}RUNTIME_DIR is not set"])
    return ServerOptions(
        host=settings.listen_host,
        port=settings.port,
        internal_host=settings.internal_host,
        internal_port=settings.internal_port,
        workers=settings.worker_count,
        runtime_dir=settings.runtime_dir,
        trusted_proxies=settings.trusted_proxies,
        keep_alive_seconds=settings.keep_alive_seconds,
        handshake_seconds=settings.handshake_seconds,
        close_seconds=CLOSE_SECONDS,
        unacknowledged_seconds=settings.ping_seconds + settings.pong_seconds + CLOSE_SECONDS,
        acknowledge_seconds=settings.pong_seconds,
        max_message_bytes=settings.max_message_bytes,
        waiting_budget_bytes=int(MemoryLimit().total_bytes * settings.waiting_memory_share / settings.worker_count),
        compression=settings.compression,
        drain_delay_seconds=settings.drain_delay_seconds,
        drain_seconds=settings.drain_time,
        drain_rate=settings.drain_rate,
        top_channels=settings.top_channels,
    )


def validate_configuration(settings: Settings, configuration: Configuration) -> None:
    """Build what a reload changes, to find every mistake in it. Raises SettingsError."""
    problems: list[str] = []
    for build in (
        lambda: build_channels(settings, configuration.channels),
        lambda: _build_keys(settings),
        lambda: _webhook_key(settings),
    ):
        try:
            build()
        except SettingsError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise SettingsError(problems)


def apply_configuration(built: "Application", settings: Settings, encoded: bytes) -> None:
    """Have a worker serve by a configuration that the master has validated; its clients stay connected."""
    configuration = msgspec.json.decode(encoded, type=Configuration)
    settings = configuration.applied_to(settings)
    engine = built.engine
    engine.channels.become(build_channels(settings, configuration.channels))
    engine.metrics.name_namespaces(engine.channels.namespaces)
    if keys := _build_keys(settings):
        built.verifier.replace_keys(keys)
    built.api.replace_keys(build_api_options(settings).keys)
    if settings.webhook_url is not None:
        from starling.web.webhooks import Webhooks

        if isinstance(engine.lifecycle, Webhooks):
            engine.lifecycle.replace_key(_webhook_key(settings))
    for receiver in list(engine.hub.connections):
        if isinstance(receiver, ClientConnection):
            receiver.renew_options(engine.channels)


@dataclass(frozen=True, slots=True)
class HostedApplication:
    """A user's application with the service: what the server needs of it.

    `load` imports the application in the worker, and fills `endpoints`. It raises ApplicationError.
    """

    asgi: Asgi
    endpoints: Mapping[str, UpgradeEndpoint]
    load: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Application:
    """What one process serves, and the parts that its server and tests need besides."""

    asgi: FastAPI
    engine: Engine
    context: WebContext
    client_endpoint: ClientEndpoint
    broker: BroadcastBroker
    top_channels: TopChannels
    verifier: JwtVerifier
    api: Api
    requests: RequestPaths
    methods: ApiMethods
    registered_hooks: RegisteredHooks
    running: Callable[[], AbstractAsyncContextManager[None]]
    """Starts the engine, the fetching of keys and the hooks; stops them at its end."""


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
    broker = _build_broker(settings)
    metrics = Metrics(registry)
    channels = build_channels(settings)
    registered = RegisteredHooks(load_hooks_module(settings) or NoHooks(), seconds=settings.hook_seconds)
    engine = build_engine(
        broker,
        channels,
        metrics,
        engine_options(settings),
        hooks=build_hooks(settings, registered, channels, metrics),
        lifecycle=lifecycle or build_lifecycle(settings, broker.occupancy, metrics),
        tracer=tracer or build_tracer(settings),
        retire=lambda: os.kill(os.getpid(), signal.SIGTERM),
    )
    unrevoked, jwks = build_verifier(settings)
    if jwks is not None:
        metrics.sources.append(jwks.report)
    tickets = Tickets(broker.tickets)
    verifier = RevocableVerifier(unrevoked, engine.revocations, tickets)
    context = build_web_context(settings, engine, verifier)
    top_channels = TopChannels(engine.hub, engine.control)
    methods = ApiMethods(
        engine,
        NodeCommands(engine),
        top_channels,
        PermissionCheck(verifier, engine.channels),
        tickets,
        revocation_seconds=settings.revocation_seconds,
    )
    api = Api(methods, CaptureEndpoint(engine), build_api_options(settings), metrics, engine.tracer)

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if jwks is not None:
                jwks.start()
                stack.push_async_callback(jwks.stop)
            await stack.enter_async_context(engine.hooks.running())
            stack.push_async_callback(engine.stop)
            await engine.start()
            yield

    application = FastAPI(
        title="Starling",
        version=__version__,
        lifespan=lambda _: running(),
        docs_url=None,
        openapi_url="/openapi.json" if settings.serves_api_docs else None,
        redoc_url=None,
        telemetry=NO_FASTAPI_TELEMETRY,
    )
    application.add_middleware(CrossOrigin, context=context)
    application.add_middleware(HeadRequests)
    application.add_middleware(RequestId)
    refusals.install(application, metrics)
    unknown_path.install(application, metrics)
    # First, because routes are tried in their order and this one is asked most.
    application.router.routes[:0] = api.routes
    if settings.pages:
        application.include_router(pages.router)
    application.include_router(health.build_router(engine.readiness))
    client_endpoint = ClientEndpoint(context)
    application.router.routes.append(client_endpoint.route)
    streams = [HttpStreamEndpoint(context, settings.max_message_bytes)]
    application.router.routes += [stream.route for stream in streams]
    requests = RequestPaths({API_PREFIX: api, **{stream.path: stream for stream in streams}})
    for endpoint in (echo, items, chat) if settings.tutorial else ():
        application.include_router(endpoint.build_router(context))
    if settings.serves_api_docs:
        api_docs.install(application, methods, developer=settings.dev, keyed=bool(settings.api_key_list))
    if settings.pages or settings.serves_api_docs:
        application.mount("/static", pages.static_files, name="static")
    return Application(
        application,
        engine,
        context,
        client_endpoint,
        broker,
        top_channels,
        unrevoked,
        api,
        requests,
        methods,
        registered,
        running,
    )


def build_web_context(settings: Settings, engine: Engine, verifier: RevocableVerifier) -> WebContext:
    """Build what the endpoints share."""
    authority = TokenAuthority(
        verifier,
        engine.channels,
        engine.metrics.refusal_log,
        allow_anonymous=settings.allow_anonymous or settings.dev,
    )
    limits = SessionLimits(
        connect_timeout=settings.connect_seconds,
        ping_interval=settings.ping_seconds,
        pong_timeout=settings.pong_seconds,
        expiry_grace=settings.expiry_grace_seconds,
        renewal_grace=settings.proxy_grace_seconds,
        channels=settings.max_channels,
        requests_per_second=settings.messages_per_second,
        request_burst=settings.message_burst,
    )
    return WebContext(
        engine=engine,
        verifier=verifier,
        authority=authority,
        dispatcher=build_dispatcher(engine, authority, limits, developer=settings.dev),
        developer=settings.dev,
        token_in_query=settings.token_in_query,
        allowed_origins=settings.allowed_origins,
        write_limit=settings.write_buffer_bytes,
    )


def engine_options(settings: Settings) -> EngineOptions:
    """The options of the engine among the settings."""
    return EngineOptions(
        ping_interval=settings.ping_seconds,
        pong_timeout=settings.pong_seconds,
        admission=AdmissionLimits(
            connections=settings.max_connections,
            connects_per_second=settings.connects_per_second,
            lag=settings.max_lag_seconds,
            memory=settings.max_memory_share,
        ),
        messages_per_second=settings.messages_per_second,
        message_burst=settings.message_burst,
        broker_grace=settings.ready_requires_broker_seconds,
        contact_file=settings.runtime_dir / CONTACT_FILE if settings.runtime_dir else None,
        recovery_limit=settings.recovery_limit,
        connections_per_user=settings.max_connections_per_user,
        worker_connections_per_user=settings.worker_connections_per_user,
        worker_connections_per_address=settings.worker_connections_per_address,
        failed_connects_per_minute=settings.failed_connects_per_minute,
        new_channels_per_second=0 if settings.dev else settings.new_channels_per_second,
        new_channel_burst=settings.new_channel_burst,
        presence_leave_delay=settings.presence_leave_delay_seconds,
    )


def build_api_options(settings: Settings) -> ApiOptions:
    """Who may use the server API; in developer mode the key `dev` opens it too."""
    return ApiOptions(
        keys=(*settings.api_key_list, DEVELOPER_KEY) if settings.dev else settings.api_key_list,
        networks=tuple(ip_network(network) for network in settings.api_allowed_networks),
        max_body_bytes=settings.api_max_body_bytes,
        proxies=_proxy_networks(settings.trusted_proxies),
    )


def _proxy_networks(proxies: Sequence[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    networks: list[IPv4Network | IPv6Network] = []
    for proxy in proxies:
        if proxy == "*":
            networks += [ip_network("0.0.0.0/0"), ip_network("::/0")]
        with suppress(ValueError):
            networks.append(ip_network(unmapped_network(proxy), strict=False))
    return tuple(networks)


def build_channels(settings: Settings, text: str | None = None) -> Channels:
    """Read the options of channels and namespaces. Raises SettingsError naming every mistake by its path.

    `text` stands in place of what the channels file holds.
    """
    document: object = None
    if settings.channels_file is not None:
        try:
            document = read_yaml(read_file(settings.channels_file) if text is None else text)
        except (OSError, UnicodeDecodeError) as error:
            problem = f"cannot read {settings.channels_file}: {describe_failure(error)}"
            raise SettingsError([f"{PREFIX}CHANNELS_FILE: {problem}"]) from error
        except DuplicateKeyError as error:
            raise SettingsError([f"{settings.channels_file}: {error}"]) from error
        except yaml.YAMLError as error:
            problem = f"{settings.channels_file} is no YAML: {describe_syntax(error)}"
            raise SettingsError([f"{PREFIX}CHANNELS_FILE: {problem}"]) from error
    try:
        channels = parse_channels(
            document,
            developer=settings.dev,
            # PostgreSQL keeps neither history nor presence.
            demo=settings.dev and settings.broker_scheme != "postgresql",
            personal=settings.subscribe_to_personal_channel,
            personal_namespace=settings.personal_channel_namespace,
        )
    except ChannelsError as error:
        where = settings.channels_file or f"{PREFIX}CHANNELS_FILE"
        raise SettingsError([f"{where}: {problem}" for problem in error.problems]) from error
    if problems := _proxies_without_address(settings, channels):
        raise SettingsError(problems)
    if settings.broker_scheme == "postgresql":
        problems = [
            f"{settings.channels_file}: {name or 'default'} uses {what}, which postgresql:// does not keep: "
            "take it out, or use a redis:// broker"
            for name, options in {"": channels.default, **channels.namespaces}.items()
            for what, used in (
                ("history", options.history_size > 0),
                ("stream", options.stream is not None),
                ("presence", options.presence),
            )
            if used
        ]
        if problems:
            raise SettingsError(problems)
    return channels


def _proxies_without_address(settings: Settings, channels: Channels) -> list[str]:
    """Namespaces that ask a proxy which has no address, each with its remedy."""
    urls = settings.proxy_urls
    return [
        f"{settings.channels_file}: {f'namespaces.{name}' if name else 'default'}.{event}_proxy: it is true, but there "
        f"is no address: set {PREFIX}PROXY_{event.upper()}, or write the address in place of true"
        for name, options in {"": channels.default, **channels.namespaces}.items()
        for event in ("subscribe", "sub_refresh", "publish")
        if getattr(options, f"{event}_proxy") is True and event not in urls
    ]


def build_hooks(settings: Settings, inner: Hooks, channels: Channels, metrics: Metrics) -> Hooks:
    """Build what decides beyond the rights: proxies, and behind them `inner`."""
    if not settings.proxy_urls and settings.channels_file is None:
        # No namespace can come to have a proxy.
        return inner
    options = ProxyOptions(
        settings.proxy_urls, settings.proxy_headers, settings.proxy_cookies, settings.proxy_timeout_seconds
    )
    return ProxyHooks(options, inner, channels, metrics)


def load_hooks_module(settings: Settings) -> Hooks | None:
    """Load the application's own functions, if there are any. Raises SettingsError."""
    if settings.hooks is None:
        return None
    try:
        return load_hooks(settings.hooks, settings.hooks_path, seconds=settings.hook_seconds)
    except HooksError as error:
        raise SettingsError([f"{PREFIX}HOOKS: {error}"]) from error


def build_tracer(settings: Settings) -> Tracer:
    """Build what makes spans, if there are to be any. Raises SettingsError."""
    if not settings.tracing:
        return NoTracer()
    try:
        # Memory and time that only tracing is worth, and an extra that need not be installed.
        from starling.telemetry.open_telemetry import OpenTelemetry, environment_problems
    except ModuleNotFoundError as error:
        remedy = (
            "install Starling with its extra (`pip install 'starling-realtime[otel]'`; the image has it), or unset it"
        )
        raise SettingsError([f"{PREFIX}TRACING: no module {error.name}: {remedy}"]) from error
    if problems := environment_problems():
        raise SettingsError(problems)
    return OpenTelemetry()


def build_lifecycle(settings: Settings, occupancy: Occupancy | None, metrics: Metrics) -> Lifecycle | None:
    """Build the webhooks, if a backend is to get them. Raises SettingsError."""
    if settings.webhook_url is None:
        return None
    # The HTTP client takes memory and time to load in every worker.
    from starling.web.webhook_sender import WebhookTarget
    from starling.web.webhooks import Webhooks

    key = _webhook_key(settings)
    receiver = WebhookTarget(settings.webhook_url.get_secret_value(), key, settings.webhook_timeout_seconds)
    return Webhooks(receiver, settings.webhook_events, occupancy, metrics)


def _webhook_key(settings: Settings) -> bytes | None:
    if settings.webhook_url is None or settings.webhook_secret is None:
        return None
    from starling.web.webhook_sender import parse_secret

    try:
        return parse_secret(settings.webhook_secret.get_secret_value())
    except ValueError as error:
        raise SettingsError([f"{PREFIX}WEBHOOK_SECRET: {error}"]) from error


def build_verifier(settings: Settings) -> tuple[JwtVerifier, Jwks | None]:
    """Build the token verifier, with the issuer's keys if they are fetched. Raises SettingsError for an invalid key."""
    jwks = _build_jwks(settings)
    return JwtVerifier(_build_keys(settings), _build_rules(settings), jwks), jwks


def _build_broker(settings: Settings) -> BroadcastBroker:
    try:
        return open_broker(
            settings.broker_url.get_secret_value(),
            prefix=settings.broker_prefix,
            timeout=settings.broker_timeout_seconds,
            ca_file=settings.broker_ca_file,
            cert_file=settings.broker_cert_file,
            key_file=settings.broker_key_file,
            presence_ttl=settings.presence_ttl_seconds,
            read_ttl=settings.position_read_ttl_seconds,
        )
    except ValueError as error:
        # "broker CA file: there is no file x" is about STARLING_BROKER_CA_FILE.
        field, _, words = str(error).partition(": ")
        raise SettingsError([f"{PREFIX}{field.replace(' ', '_').upper()}: {words}"]) from error


def _build_keys(settings: Settings) -> list[VerificationKey]:
    keys: list[VerificationKey] = []
    problems: list[str] = []
    for name in ("token_hmac_secret", "token_hmac_secret_previous"):
        secret = getattr(settings, name)
        if secret is None:
            continue
        try:
            keys.append(VerificationKey.from_secret(secret.get_secret_value(), allow_weak_secret=settings.dev))
        except ValueError as error:
            problems.append(f"{PREFIX}{name.upper()}: {error}")
    if settings.token_public_key is not None:
        try:
            keys += VerificationKey.from_pem(settings.token_public_key)
        except ValueError as error:
            problems.append(f"{PREFIX}TOKEN_PUBLIC_KEY: {error}")
    if problems:
        raise SettingsError(problems)
    if not keys and settings.dev:
        # Nobody needs a token in developer mode, and none that somebody guesses counts.
        keys.append(VerificationKey.from_secret(secrets.token_urlsafe(48)))
    return keys


def _build_rules(settings: Settings) -> TokenRules:
    try:
        return TokenRules(
            audience=settings.token_audience,
            issuer=settings.token_issuer,
            require_expiry=settings.token_require_expiry,
            max_lifetime_seconds=settings.token_max_lifetime_seconds or None,
        )
    except ValueError as error:
        raise SettingsError([f"{PREFIX}TOKEN_AUDIENCE, {PREFIX}TOKEN_ISSUER: {error}"]) from error


def _build_jwks(settings: Settings) -> Jwks | None:
    if settings.token_jwks_url is None:
        return None
    try:
        return Jwks(settings.token_jwks_url)
    except ValueError as error:
        raise SettingsError([f"{PREFIX}TOKEN_JWKS_URL: {error}"]) from error
