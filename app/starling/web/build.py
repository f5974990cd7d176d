"""Construction of the web layer from its options: the endpoints, the server API, and the ASGI application."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig

from starling import __version__
from starling.auth.tickets import Tickets
from starling.auth.tokens import TokenVerifier
from starling.client.build import build_dispatcher
from starling.client.emulation import EmulatedSessions
from starling.client.event_frames import EventStreams
from starling.client.node_commands import NodeCommands
from starling.client.options import UserLimitOptions
from starling.engine.capture import Captures
from starling.engine.engine import Engine
from starling.engine.options import RevocationOptions
from starling.engine.top_channels import TopChannels
from starling.protocol.options import MessageSizeOptions, SessionLimits, SessionOptions
from starling.web import api_docs, chat, echo, guide, health, items, pages, refusals, unknown_path
from starling.web.api import PREFIX as API_PREFIX
from starling.web.api import Api
from starling.web.api_capture import CaptureEndpoint
from starling.web.api_guard import ApiGuard
from starling.web.api_methods import ApiMethods
from starling.web.authority import RevocableVerifier, TokenAuthority
from starling.web.client_endpoint import ClientEndpoint
from starling.web.cross_origin import CrossOrigin
from starling.web.dependencies import WebContext
from starling.web.durable_access import StreamAccess
from starling.web.durable_streams import OPEN_PATH, DurableStreams
from starling.web.emulation import EmulationEndpoint
from starling.web.head_requests import HeadRequests
from starling.web.http_endpoint import HttpEndpoint, RequestPaths
from starling.web.http_stream import HttpStreamEndpoint
from starling.web.one_way import OneWayEventsEndpoint, OneWayHttpStreamEndpoint, OneWayWebSocketEndpoint
from starling.web.options import (
    ApiOptions,
    ContextOptions,
    DurableStreamOptions,
    EndpointOptions,
    EventStreamOptions,
    PageOptions,
    WriteOptions,
)
from starling.web.permission_check import PermissionCheck
from starling.web.request_id import RequestId
from starling.web.sse import ChannelEventsEndpoint, EventsEndpoint
from starling.web.two_way_sse import SseEndpoint

# FastAPI's own spans would be one for each connection, and would hold addresses with their queries.
NO_FASTAPI_TELEMETRY = TelemetryConfig(tracing=False, metrics=False, logs=False, auto_configure=False)


class WebOptions(
    EndpointOptions,
    ApiOptions,
    PageOptions,
    WriteOptions,
    EventStreamOptions,
    DurableStreamOptions,
    SessionOptions,
    MessageSizeOptions,
    UserLimitOptions,
    RevocationOptions,
):
    """All options of the web layer, with those of the sessions that it opens."""


@dataclass(frozen=True, slots=True)
class Web:
    """The web layer of one process."""

    context: WebContext
    client_endpoint: ClientEndpoint
    top_channels: TopChannels
    methods: ApiMethods
    captures: Captures
    api: Api
    upgrades: Mapping[str, ClientEndpoint]
    """The WebSocket endpoints of the service itself, by path."""
    streams: tuple[HttpEndpoint, ...]
    durable_streams: tuple[DurableStreams, ...]
    requests: RequestPaths
    """What the server answers without the ASGI application."""


def build_web(
    options: WebOptions, engine: Engine, unrevoked: TokenVerifier, tickets: Tickets, sessions: EmulatedSessions
) -> Web:
    """Build what answers requests; `unrevoked` verifies tokens without regard to revocations."""
    verifier = RevocableVerifier(unrevoked, engine.revocations, tickets)
    context = _build_context(options, engine, verifier)
    top_channels = TopChannels(engine.hub, engine.control)
    methods = ApiMethods(
        engine,
        NodeCommands(engine),
        top_channels,
        PermissionCheck(verifier, engine.channels),
        tickets,
        revocation_seconds=options.revocation_seconds,
    )
    captures = Captures(engine)
    guard = ApiGuard(options, context.allows_origin)
    api = Api(methods, CaptureEndpoint(engine, captures), options, engine.metrics, engine.tracer, guard)
    streams = _build_streams(options, context, sessions) if options.http_transports else ()
    engine.readiness.observe(lambda: context.asgi_streams.shutdown() if engine.readiness.draining else None)
    requests = RequestPaths({API_PREFIX: api, **{stream.path: stream for stream in streams}})
    client_endpoint = ClientEndpoint(context)
    upgrades = {endpoint.path: endpoint for endpoint in (client_endpoint, OneWayWebSocketEndpoint(context))}
    durable = _build_durable_streams(options, context, api)
    return Web(context, client_endpoint, top_channels, methods, captures, api, upgrades, streams, durable, requests)


def _build_durable_streams(options: WebOptions, context: WebContext, api: Api) -> tuple[DurableStreams, ...]:
    """Build the endpoints of append-only streams over HTTP that the options ask for."""
    access = StreamAccess(context, api.guard.has_key)
    endpoints = []
    if options.streams_path:
        endpoints.append(DurableStreams(context, access, options.streams_path))
    if options.streams_open_namespace:
        endpoints.append(DurableStreams(context, access, OPEN_PATH, namespace=options.streams_open_namespace))
    return tuple(endpoints)


def _build_streams(options: WebOptions, context: WebContext, sessions: EmulatedSessions) -> tuple[HttpEndpoint, ...]:
    """Build the endpoints whose responses have no end, and what belongs to them."""
    limit = options.max_message_bytes
    events = EventStreams(
        context.engine.subscriptions.epoch_of, options.sse_recoverable_channels, options.write_buffer_bytes
    )
    return (
        *(kind(context, sessions, limit) for kind in (HttpStreamEndpoint, SseEndpoint, EmulationEndpoint)),
        OneWayEventsEndpoint(context, limit),
        OneWayHttpStreamEndpoint(context, limit),
        EventsEndpoint(context, limit, events),
        ChannelEventsEndpoint(context, limit, events),
    )


def _build_context(options: WebOptions, engine: Engine, verifier: RevocableVerifier) -> WebContext:
    authority = TokenAuthority(
        verifier,
        engine.channels,
        engine.metrics.refusal_log,
        allow_anonymous=options.allow_anonymous or options.dev,
    )
    return WebContext(
        engine=engine,
        verifier=verifier,
        authority=authority,
        dispatcher=build_dispatcher(
            engine,
            authority,
            SessionLimits.of(options),
            connections_per_user=options.max_connections_per_user,
            developer=options.dev,
        ),
        options=ContextOptions.of(options),
    )


def build_asgi(
    options: WebOptions,
    web: Web,
    engine: Engine,
    running: Callable[[], AbstractAsyncContextManager[None]],
    facts: pages.PageFacts,
) -> FastAPI:
    """Build the ASGI application of all routes; its lifespan is `running`, and its page shows `facts`."""
    application = FastAPI(
        title="Starling",
        version=__version__,
        lifespan=lambda _: running(),
        docs_url=None,
        openapi_url="/openapi.json" if options.serves_api_docs else None,
        redoc_url=None,
        telemetry=NO_FASTAPI_TELEMETRY,
    )
    application.add_middleware(CrossOrigin, context=web.context, streams_path=options.streams_path)
    application.add_middleware(HeadRequests)
    application.add_middleware(RequestId)
    refusals.install(application, engine.metrics)
    unknown_path.install(application, engine.metrics, developer=options.dev)
    # First, because routes are tried in their order and this one is asked most.
    application.router.routes[:0] = web.api.routes
    if options.pages:
        application.include_router(pages.build_router(facts))
    application.include_router(health.build_router(engine.readiness))
    application.router.routes += [endpoint.route for endpoint in web.upgrades.values()]
    application.router.routes += [stream.route for stream in web.streams]
    application.router.routes += [endpoint.route for endpoint in web.durable_streams]
    for endpoint in (echo, items, chat) if options.tutorial else ():
        application.include_router(endpoint.build_router(web.context))
    if options.serves_api_docs:
        api_docs.install(application, web.methods, developer=options.dev, keyed=bool(options.api_key_list))
    if facts.guide:
        application.include_router(guide.build_router(guide.ARCHIVE))
    if options.pages or options.serves_api_docs:
        application.mount("/static", pages.static_files, name="static")
    return application
