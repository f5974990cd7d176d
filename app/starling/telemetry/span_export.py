"""The export of spans to the collector, and the count of their results."""

import os
import threading
from collections import Counter
from collections.abc import Mapping, Sequence

import structlog
from opentelemetry.sdk.environment_variables import OTEL_BSP_MAX_QUEUE_SIZE
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from starling.telemetry.tracing import NO_SPANS

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.tracing")

# The default of https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/.
QUEUE_SIZE = 2048


class SpanStats:
    """Counts spans that wait, and the others by result; called by the event loop, hooks' threads and the SDK's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._results: Counter[str] = Counter(NO_SPANS)
        self._waiting = 0
        self._leaving = 0
        self._full = False
        self._over = False

    @property
    def results(self) -> Mapping[str, int]:
        """Spans that were `exported`, `failed` or `dropped`."""
        with self._lock:
            return dict(self._results)

    def take(self, room: int) -> bool:
        """Note a span; False where it is dropped, since `room` of them wait."""
        with self._lock:
            if not self._over and self._waiting < room:
                self._waiting += 1
                return True
            self._results["dropped"] += 1
            warned, self._full = self._full or self._over, True
        if not warned:
            log.warning("span_queue_full", waiting=room)
        return False

    def leave(self, spans: int) -> None:
        """Count `spans` as sent to the collector, result unknown."""
        with self._lock:
            self._waiting -= spans
            self._leaving += spans
            self._full = False

    def arrive(self, spans: int, result: str) -> None:
        """Count the `result` of `spans` that were sent."""
        with self._lock:
            if not self._over:
                self._leaving -= spans
                self._results[result] += spans

    def give_up(self) -> None:
        """Count all that have not arrived as dropped: the process ends."""
        with self._lock:
            self._results["dropped"] += self._waiting + self._leaving
            self._over = True


class SpanExport(SpanProcessor):
    """The SDK's batches, which never get more spans than their queue holds: what they drop they do not count."""

    def __init__(self, exporter: SpanExporter, stats: SpanStats) -> None:
        self._stats = stats
        self._room = int(os.environ.get(OTEL_BSP_MAX_QUEUE_SIZE) or QUEUE_SIZE)
        self._batches = BatchSpanProcessor(_CountedExporter(exporter, stats), max_queue_size=self._room)

    def on_end(self, span: ReadableSpan) -> None:
        """Send a span, if it is of a sampled trace."""
        context = span.get_span_context()
        if context is not None and context.trace_flags.sampled and self._stats.take(self._room):
            self._batches.on_end(span)

    def shutdown(self) -> None:
        """Send what is left."""
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Send what waits now."""
        return self._batches.force_flush(timeout_millis)


class _CountedExporter(SpanExporter):
    def __init__(self, exporter: SpanExporter, stats: SpanStats) -> None:
        self._exporter = exporter
        self._stats = stats

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        self._stats.leave(len(spans))
        try:
            result = self._exporter.export(spans)
        finally:
            self._stats.arrive(len(spans), "exported" if result is SpanExportResult.SUCCESS else "failed")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)
