"""Tracing with OpenTelemetry: its SDK makes the spans and sends them over OTLP. Only span_export imports it too."""

import asyncio
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from urllib.parse import urlsplit

import structlog
from opentelemetry import context as contexts
from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, format_span_id, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.typing import EventDict

from starling import __version__
from starling.telemetry.span_export import SpanExport, SpanStats
from starling.telemetry.tracing import LogProcessor, Publishing, SocketWrite, TraceContext

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.tracing")

SYSTEM = "starling"
# The time for sending the remaining spans when the process ends, less than a worker has for its shutdown. Seconds.
FLUSH_SECONDS = 2.0
# Longer texts name no trace: a traceparent has 55 characters today, and of a tracestate 512 are to be passed on
# (https://www.w3.org/TR/trace-context/ section 3.3.1.5).
LONGEST_HEADER = 512


def environment_problems() -> list[str]:
    """The `OTEL_…` variables with a value that is not supported, each with its remedy."""
    problems = []
    exporter = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if exporter not in {"otlp", "none"}:
        problems.append(f"OTEL_TRACES_EXPORTER is {exporter!r}, and Starling exports over OTLP: unset it")
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = os.environ.get(name) or "http/protobuf"
        if protocol != "http/protobuf":
            problems.append(
                f"{name} is {protocol!r}, and Starling speaks http/protobuf: unset it, and give the collector's port "
                "for HTTP, which is usually 4318"
            )
    for name in ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        endpoint = os.environ.get(name)
        if endpoint and not _is_web_address(endpoint):
            problems.append(f"{name} is no address of a web server: write it like http://collector:4318")
    return problems or [f"an OTEL_… variable cannot be used: {warning}" for warning in dict.fromkeys(_sdk_warnings())]


class _WarningCollector(logging.Handler):
    """Collects the messages of warnings and errors."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _sdk_warnings() -> list[str]:
    """What the SDK warns of: it logs an unusable variable, and takes a default, such as to sample everything."""
    logger, collector = logging.getLogger("opentelemetry"), _WarningCollector()
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(collector)
    try:
        TracerProvider(resource=_resource(""), shutdown_on_exit=False)
        BatchSpanProcessor(OTLPSpanExporter()).shutdown()  # type: ignore[no-untyped-call]
    except (ValueError, OSError) as error:
        collector.messages.append(str(error))
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagated
    return collector.messages


def _is_web_address(endpoint: str) -> bool:
    try:
        parts = urlsplit(endpoint)
        return parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        return False


class OpenTelemetry:
    """Implements starling.telemetry.tracing.Tracer."""

    on = True

    def __init__(self, exporter: SpanExporter | None = None) -> None:
        """`exporter` None: over OTLP, as the environment says."""
        self.log_processors: Sequence[LogProcessor] = (add_trace_ids,)
        self._exporter = exporter
        self._propagator = TraceContextTextMapPropagator()
        self._processor: SpanExport | None = None
        self._stats = SpanStats()
        self._tracer: Tracer = api.NoOpTracer()

    @property
    def spans(self) -> Mapping[str, int]:
        """How many were exported, failed or dropped."""
        return self._stats.results

    def start(self, node: str) -> None:
        """Begin to send spans, after the fork: the SDK sends from a thread, and a fork leaves threads behind."""
        exporter = self._exporter
        if exporter is None and os.environ.get("OTEL_TRACES_EXPORTER") != "none":
            exporter = OTLPSpanExporter()
        provider = TracerProvider(resource=_resource(node), shutdown_on_exit=False)
        if exporter is not None:
            self._processor = SpanExport(exporter, self._stats)
            provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("starling", __version__)
        # So that spans of a hook's own join the trace.
        api.set_tracer_provider(provider)

    async def stop(self) -> None:
        """Send the remaining spans, for FLUSH_SECONDS at most."""
        processor, self._processor = self._processor, None
        self._tracer = api.NoOpTracer()
        if processor is None:
            return
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def flush() -> None:
            processor.shutdown()
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(done.set)

        # No thread of a pool: a process waits for those, and a collector that does not answer would keep it.
        threading.Thread(target=flush, name="last-spans", daemon=True).start()
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await done.wait()
        except TimeoutError:
            log.warning("spans_not_sent", reason="the collector did not take them before the stop")
        self._stats.give_up()

    # Where a trace comes from

    @contextmanager
    def received(self, traceparent: str, tracestate: str) -> Iterator[None]:
        """Let what happens within continue a trace."""
        context = self._continue(traceparent, tracestate)
        if context is None:
            yield
            return
        token = contexts.attach(context)
        try:
            yield
        finally:
            contexts.detach(token)

    def command(self, method: str, connection_id: str) -> AbstractContextManager[object]:
        """Let what happens within be a client's command."""
        return self._tracer.start_as_current_span(
            f"command {method}", kind=SpanKind.SERVER, attributes={"starling.connection_id": connection_id}
        )

    def _continue(self, traceparent: str, tracestate: str) -> Context | None:
        if not traceparent or len(traceparent) > LONGEST_HEADER:
            return None
        carrier = {"traceparent": traceparent}
        if tracestate and len(tracestate) <= LONGEST_HEADER:
            carrier["tracestate"] = tracestate
        context = self._propagator.extract(carrier, Context())
        return context if api.get_current_span(context).get_span_context().is_valid else None

    # What becomes of a publication

    @contextmanager
    def publish(self, channel: str, namespace: str, *, size: int, channels: int) -> Iterator[Publishing]:
        """Note that something is published."""
        attributes: dict[str, str | int] = {
            "messaging.system": SYSTEM,
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
            "messaging.message.body.size": size,
        }
        if channel:
            attributes |= {"messaging.destination.name": namespace, "starling.channel": channel}
        else:
            attributes["messaging.batch.message_count"] = channels
        with self._tracer.start_as_current_span(
            "publish",
            kind=SpanKind.PRODUCER,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            publishing = _Publishing(span, self._carried(span))
            try:
                yield publishing
            except Exception as error:
                publishing.fail(type(error).__name__, channels)
                raise
            if publishing.trace is not None:
                log.debug("publication_traced", channel=channel, channels=channels)

    def _carried(self, span: Span) -> TraceContext | None:
        if not span.is_recording() or not span.get_span_context().trace_flags.sampled:
            return None
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, api.set_span_in_context(span, Context()))
        return TraceContext(carrier["traceparent"], carrier.get("tracestate", ""))

    def fan_out(self, channel: str, namespace: str, *, offset: int, trace: TraceContext) -> "_Delivery | None":
        """Note that a publication goes out to this process's subscribers."""
        context = self._continue(trace.traceparent, trace.tracestate)
        if context is None:
            return None
        attributes: dict[str, str | int] = {
            "messaging.system": SYSTEM,
            "messaging.operation.name": "fan-out",
            "messaging.operation.type": "process",
            "messaging.destination.name": namespace,
            "starling.channel": channel,
        }
        if offset:
            attributes["starling.offset"] = offset
        span = self._tracer.start_span("fan-out", context, SpanKind.CONSUMER, attributes)
        return _Delivery(self._tracer, span, channel) if span.is_recording() else None


class _Publishing:
    def __init__(self, span: Span, trace: TraceContext | None) -> None:
        self.trace = trace
        self._span = span

    def fail(self, error: str, channels: int) -> None:
        self._span.set_status(StatusCode.ERROR, f"{channels} not stored")
        self._span.set_attribute("error.type", error)


class _Delivery:
    def __init__(self, tracer: Tracer, span: Span, channel: str) -> None:
        self._tracer = tracer
        self._span = span
        self._channel = channel
        self._connections = 0

    def owe(self, connections: int) -> None:
        self._connections += connections

    def end(self) -> None:
        self._span.set_attribute("starling.receivers", self._connections)
        self._span.end()
        log.debug(
            "delivery_traced", channel=self._channel, receivers=self._connections, **_ids(self._span.get_span_context())
        )

    def write(self, *, connections: int, frames: int, size: int) -> SocketWrite:
        attributes = {
            "starling.write.connections": connections,
            "starling.write.frames": frames,
            "starling.write.bytes": size * connections,
        }
        return self._tracer.start_span(
            "socket write", api.set_span_in_context(self._span, Context()), attributes=attributes
        )


def add_trace_ids(_: object, __: str, event: EventDict) -> EventDict:
    """Add the ids of the current trace, if there is one, to a log line."""
    current = api.get_current_span().get_span_context()
    return {**event, **_ids(current)} if current.is_valid else event


def _ids(context: api.SpanContext) -> dict[str, str]:
    return {"trace_id": format_trace_id(context.trace_id), "span_id": format_span_id(context.span_id)}


def _resource(node: str) -> Resource:
    """What the spans are of; the environment may say otherwise."""
    own: dict[str, str | int] = {
        "service.name": SYSTEM,
        "service.version": __version__,
        "service.instance.id": node,
        "process.pid": os.getpid(),
    }
    return Resource.create().merge(Resource(own)).merge(OTELResourceDetector().detect())
