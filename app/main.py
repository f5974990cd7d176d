"""Builds the whole service from its settings; nothing here needs a running event loop before the lifespan begins."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client import REGISTRY, CollectorRegistry

from app import __version__
from app.auth.tokens import TokenVerifier
from app.brokers.open import open_broker
from app.core.node import Node
from app.core.readiness import Readiness
from app.settings import Settings
from app.telemetry.metrics import Metrics
from app.web import chat, echo, health, items, pages, refusals
from app.web.dependencies import Doors

CONTACT_FILE = "broker-contact"


def create_app(settings: Settings, registry: CollectorRegistry = REGISTRY) -> FastAPI:
    """Build the application; `app.state.doors.node` is its engine."""
    doors = build_doors(settings, build_node(settings, registry))

    @asynccontextmanager
    async def lifespan(application: FastAPI) -> AsyncIterator[None]:
        if doors.verifier is not None:
            await doors.verifier.start()
        await doors.node.start()
        yield
        await doors.node.stop()
        if doors.verifier is not None:
            await doors.verifier.stop()

    application = FastAPI(title="Starling", version=__version__, lifespan=lifespan, openapi_url="/openapi.json")
    application.state.doors = doors
    refusals.install(application)
    for door in (pages, health, echo, items, chat):
        application.include_router(door.router)
    application.mount("/static", pages.static_files, name="static")
    return application


def build_node(settings: Settings, registry: CollectorRegistry) -> Node:
    """Build this worker's engine and its link to the others."""
    metrics = Metrics(registry)
    broker = open_broker(
        settings.broker_url.get_secret_value(),
        prefix=settings.broker_prefix,
        timeout=settings.broker_timeout_seconds,
        ca_file=settings.broker_ca_file,
    )
    return Node(
        broker,
        metrics,
        Readiness(),
        ping=settings.ping_seconds,
        pong=settings.pong_seconds,
        capacity=settings.max_connections,
        broker_grace=settings.ready_requires_broker_seconds,
        contact_file=settings.runtime_dir / CONTACT_FILE if settings.runtime_dir else None,
    )


def build_doors(settings: Settings, node: Node) -> Doors:
    """Build what the doors share."""
    return Doors(
        node=node,
        verifier=None if settings.dev else build_verifier(settings),
        token_in_query=settings.token_in_query,
        allowed_origins=settings.allowed_origins,
        write_limit=settings.write_buffer_bytes,
    )


def build_verifier(settings: Settings) -> TokenVerifier:
    """Build what checks tokens, from the keys that are set."""
    raise NotImplementedError
