"""A collector of OpenTelemetry in the test's own process: takes spans over OTLP/HTTP and keeps them."""

import gzip
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtobufSpan

from tests.support.waiting import DEADLINE


@dataclass(frozen=True)
class Span:
    """One span as it came; ids in hexadecimal, times in seconds, `parent` empty for the root."""

    name: str
    trace_id: str
    span_id: str
    parent: str
    kind: str
    failed: bool
    state: str
    begin: float
    end: float
    attributes: dict[str, Any]
    resource: dict[str, Any]

    @property
    def process(self) -> int:
        """Id of the process that made it."""
        pid: int = self.resource["process.pid"]
        return pid


class Collector:
    """Listens on a free loopback port. `silent`: takes requests and never answers, as one that hangs."""

    def __init__(self, *, silent: bool = False) -> None:
        self.spans: list[Span] = []
        self.bodies: list[bytes] = []
        self._over = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if silent:
                    collector._over.wait(60)
                    return
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                if self.path == "/v1/traces":
                    collector.take(body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """For OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def take(self, body: bytes) -> None:
        """Keep what an export request holds."""
        self.bodies.append(body)
        for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _plain(sent.resource.attributes)
            self.spans += [_span(span, resource) for scope in sent.scope_spans for span in scope.spans]

    def of(self, trace_id: str, name: str = "") -> list[Span]:
        """The spans of a trace, with this name if one is given."""
        return [span for span in self.spans if span.trace_id == trace_id and name in {"", span.name}]

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Wait until `holds()`."""
        deadline = time.monotonic() + DEADLINE
        while not holds():
            assert time.monotonic() < deadline, f"{what}; there are {[(one.name, one.trace_id) for one in self.spans]}"
            time.sleep(0.02)


def _plain(attributes: Any) -> dict[str, Any]:
    pairs: list[KeyValue] = list(attributes)
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}


def _span(span: ProtobufSpan, resource: dict[str, Any]) -> Span:
    return Span(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        kind=ProtobufSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        failed=span.status.code == 2,
        state=span.trace_state,
        begin=span.start_time_unix_nano / 1e9,
        end=span.end_time_unix_nano / 1e9,
        attributes=_plain(span.attributes),
        resource=resource,
    )
