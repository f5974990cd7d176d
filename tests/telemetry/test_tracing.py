"""Tracing in one process on memory: which trace a publication continues, and what is noted of its way."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from fastapi.testclient import TestClient
from msgspec import Raw
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import format_span_id, format_trace_id
from prometheus_client import CollectorRegistry

from starling.engine.broker import BrokerUnavailable, PublishOptions, PublishOutcome, StreamPosition
from starling.engine.broker_refusals import BrokerRefusals
from starling.engine.fanout import Fanout
from starling.engine.publisher import Publisher
from starling.main import create_app
from starling.protocol.messages import Frame, Publication
from starling.settings import SettingsError, load_settings
from starling.telemetry import open_telemetry
from starling.telemetry.metrics import Metrics
from starling.telemetry.open_telemetry import LONGEST_HEADER, OpenTelemetry
from starling.telemetry.tracing import TraceContext
from tests.engine.test_fanout import Listener, group_of, until_written
from tests.support.waiting import until

ONE, TWO = "1" * 32, "2" * 32


def parent(trace_id: str, flags: str = "01") -> str:
    return f"00-{trace_id}-{'a' * 16}-{flags}"


def of_trace(span: ReadableSpan) -> tuple[str, str]:
    """The trace and the parent of a span."""
    context = span.get_span_context()
    assert context is not None
    return format_trace_id(context.trace_id), format_span_id(span.parent.span_id) if span.parent else ""


def spans_of(use: Callable[[TestClient], None], *, tracing: bool = True) -> list[ReadableSpan]:
    """What `use` of the running application leaves in the exporter."""
    exporter = InMemorySpanExporter()
    settings = load_settings({"STARLING_DEV": "true"})
    traced = OpenTelemetry(exporter) if tracing else None
    with TestClient(create_app(settings, CollectorRegistry(), traced), headers={"X-API-Key": "dev"}) as client:
        use(client)
    return list(exporter.get_finished_spans())


def test_the_header_the_field_and_neither() -> None:
    def use(client: TestClient) -> None:
        header = {"traceparent": parent(ONE)}
        client.post("/api/publish", json={"channel": "a", "data": 1}, headers=header)
        client.post("/api/publish", json={"channel": "b", "data": 1, "traceparent": parent(TWO)}, headers=header)
        client.post("/api/publish", json={"channel": "c", "data": 1})

    header, field, neither = spans_of(use)
    assert of_trace(header) == (ONE, "a" * 16)
    assert of_trace(field) == (TWO, "a" * 16)
    assert of_trace(neither)[1] == ""
    assert of_trace(neither)[0] not in {ONE, TWO}


@pytest.mark.parametrize("parallel", [False, True])
def test_each_command_of_a_batch_has_its_own_trace_or_the_requests(parallel: bool) -> None:
    def use(client: TestClient) -> None:
        commands = [
            {"publish": {"channel": "a", "data": 1, "traceparent": parent(TWO)}},
            {"publish": {"channel": "b", "data": 1}},
            {"broadcast": {"channels": ["c", "d"], "data": 1}},
        ]
        client.post(
            "/api/batch", json={"commands": commands, "parallel": parallel}, headers={"traceparent": parent(ONE)}
        )

    by_place = {(span.attributes or {}).get("starling.channel", "many"): span for span in spans_of(use)}
    assert {place: of_trace(span)[0] for place, span in by_place.items()} == {"a": TWO, "b": ONE, "many": ONE}
    assert (by_place["many"].attributes or {})["messaging.batch.message_count"] == 2


@pytest.mark.parametrize(
    "malformed",
    [
        "nonsense",
        parent(ONE)[:-1],
        parent("0" * 32),
        parent("G" * 32),
        "ff" + parent(ONE)[2:],
        parent(ONE) + "-more",
        "01" + parent(ONE)[2:] + "-" + "x" * LONGEST_HEADER,
        "\u00e9" * 55,
    ],
)
def test_a_malformed_trace_is_no_trace_and_no_error(malformed: str) -> None:
    def use(client: TestClient) -> None:
        body = {"channel": "a", "data": 1, "traceparent": malformed}
        assert client.post("/api/publish", json=body).json() == {"result": {}}
        headers = {b"traceparent": malformed.encode("latin-1"), b"X-API-Key": b"dev"}
        assert client.post("/api/publish", json={"channel": "a", "data": 1}, headers=headers).json() == {"result": {}}

    spans = spans_of(use)
    assert [of_trace(span)[1] for span in spans] == ["", ""]
    assert ONE not in {of_trace(span)[0] for span in spans}


def test_a_field_that_is_malformed_leaves_the_headers_trace() -> None:
    def use(client: TestClient) -> None:
        body = {"channel": "a", "data": 1, "traceparent": "nonsense"}
        client.post("/api/publish", json=body, headers={"traceparent": parent(ONE)})

    (span,) = spans_of(use)
    assert of_trace(span)[0] == ONE


def test_off_all_of_it_is_ignored() -> None:
    def use(client: TestClient) -> None:
        body = {"channel": "a", "data": 1, "traceparent": parent(TWO), "tracestate": "vendor=1"}
        answer = client.post("/api/publish", json=body, headers={"traceparent": parent(ONE)})
        assert answer.json() == {"result": {}}

    assert spans_of(use, tracing=False) == []


class Broker:
    """Takes nothing or, of many at once, all but the first: a real one fails as a whole."""

    def __init__(self) -> None:
        self.traces: list[TraceContext | None] = []

    async def publish(self, channel: str, publication: Publication, options: PublishOptions) -> StreamPosition:
        self.traces.append(options.trace)
        raise BrokerUnavailable("so the test wants it")

    async def publish_all(self, requests: Any) -> list[PublishOutcome]:
        self.traces += [options.trace for _, _, options in requests]
        return [BrokerUnavailable("so the test wants it"), *[StreamPosition(0, "")] * (len(requests) - 1)]


async def test_what_the_broker_did_not_take_is_a_failed_span() -> None:
    exporter = InMemorySpanExporter()
    tracing = OpenTelemetry(exporter)
    broker = Broker()
    publisher = Publisher(broker, Metrics(CollectorRegistry()), tracing, BrokerRefusals())  # type: ignore[arg-type]
    tracing.start("a node")
    with pytest.raises(BrokerUnavailable):
        await publisher.publish("kept:a", Publication(Raw(b"1")), PublishOptions())
    outcomes = await publisher.publish_all([(name, Publication(Raw(b"1")), PublishOptions()) for name in "ab"])
    await tracing.stop()

    assert [type(outcome) for outcome in outcomes] == [BrokerUnavailable, StreamPosition]
    one, many = exporter.get_finished_spans()
    for span in (one, many):
        assert not span.status.is_ok
        assert (span.attributes or {})["error.type"] == "BrokerUnavailable"
    assert many.status.description == "1 not stored"
    assert [trace and trace.traceparent.split("-")[1] for trace in broker.traces] == [
        of_trace(one)[0],
        of_trace(many)[0],
        of_trace(many)[0],
    ]


async def test_a_joined_write_is_noted_in_each_trace_once_and_says_what_was_joined() -> None:
    exporter = InMemorySpanExporter()
    tracing = OpenTelemetry(exporter)
    tracing.start("a node")
    fanout, group = Fanout(), group_of([Listener() for _ in range(3)])
    frames = [Frame(b"12345", text=True) for _ in range(3)]
    for frame, trace_id in zip(frames, (ONE, None, TWO), strict=True):
        fanout.add(group, frame)
        if trace_id is not None:
            delivery = tracing.fan_out("room", "", offset=0, trace=TraceContext(parent(trace_id)))
            assert delivery is not None
            group.trace(delivery)
            delivery.end()
    await until_written(fanout)
    fanout.add(group, frames[0])
    await until_written(fanout)
    await asyncio.sleep(0)
    await tracing.stop()

    writes = [span for span in exporter.get_finished_spans() if span.name == "socket write"]
    assert sorted(of_trace(span)[0] for span in writes) == [ONE, TWO]
    for write in writes:
        assert dict(write.attributes or {}) == {
            "starling.write.connections": 3,
            "starling.write.frames": 3,
            "starling.write.bytes": 3 * 3 * len(frames[0].wire),
        }


async def test_what_carries_no_trace_that_can_be_read_is_delivered_without_a_span() -> None:
    tracing = OpenTelemetry(InMemorySpanExporter())
    tracing.start("a node")
    for trace in (TraceContext("nonsense"), TraceContext(parent(ONE, flags="00"))):
        assert tracing.fan_out("room", "", offset=0, trace=trace) is None
    await tracing.stop()


class Collecting(SpanExporter):
    """Takes spans only when it is let, with the answers that it is given, one a batch; then it raises."""

    def __init__(self, *answers: SpanExportResult) -> None:
        self.answers = list(answers)
        self.asked = threading.Semaphore(0)
        self.let = threading.Semaphore(0)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.asked.release()
        assert self.let.acquire(timeout=20)
        return self.answers.pop(0)


@pytest.fixture
def batches_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many may wait."""
    for name in ("OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"):
        monkeypatch.setenv(name, "4")


def deliver(tracing: OpenTelemetry, times: int) -> None:
    """Make this many spans."""
    for _ in range(times):
        delivery = tracing.fan_out("room", "", offset=0, trace=TraceContext(parent(ONE)))
        assert delivery is not None
        delivery.end()


@pytest.mark.usefixtures("batches_of_four")
async def test_every_span_is_counted_once_by_what_became_of_it() -> None:
    collecting = Collecting(SpanExportResult.SUCCESS, SpanExportResult.FAILURE)
    tracing = OpenTelemetry(collecting)
    tracing.start("a node")
    for batch in range(3):
        deliver(tracing, 4)
        assert await asyncio.to_thread(collecting.asked.acquire, timeout=20)
        if batch == 0:
            # Four are on their way and four wait.
            deliver(tracing, 4 + 5)
            assert tracing.spans == {"exported": 0, "failed": 0, "dropped": 5}
            collecting.let.release()
            assert await asyncio.to_thread(collecting.asked.acquire, timeout=20)
        collecting.let.release()
    await tracing.stop()

    # Of the four batches one was taken, one refused, and the exporter raised at the rest.
    assert tracing.spans == {"exported": 4, "failed": 12, "dropped": 5}


@pytest.mark.usefixtures("batches_of_four")
async def test_spans_that_a_hanging_collector_did_not_take_before_the_end_were_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(open_telemetry, "FLUSH_SECONDS", 0.2)
    collecting = Collecting(SpanExportResult.SUCCESS)
    tracing = OpenTelemetry(collecting)
    tracing.start("a node")
    deliver(tracing, 4)
    assert await asyncio.to_thread(collecting.asked.acquire, timeout=20)
    deliver(tracing, 2)
    await tracing.stop()
    assert tracing.spans == {"exported": 0, "failed": 0, "dropped": 6}

    collecting.let.release(2)
    await until(lambda: "last-spans" not in {thread.name for thread in threading.enumerate()}, "the exporter has ended")
    assert tracing.spans == {"exported": 0, "failed": 0, "dropped": 6}, "what was reported is not reported again"


def test_a_worker_reports_what_became_of_its_spans_up_to_the_last() -> None:
    registry = CollectorRegistry()
    application = create_app(load_settings({"STARLING_DEV": "true"}), registry, OpenTelemetry(InMemorySpanExporter()))
    with TestClient(application, headers={"X-API-Key": "dev"}) as client:
        client.post("/api/publish", json={"channel": "a", "data": 1})

    reported = {
        result: registry.get_sample_value("starling_trace_spans_total", {"result": result})
        for result in ("exported", "failed", "dropped")
    }
    assert reported == {"exported": 1, "failed": 0, "dropped": 0}


def test_what_the_environment_asks_for_in_vain_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {
        "OTEL_TRACES_EXPORTER": ("zipkin", "over OTLP"),
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": ("http/json", "http/protobuf"),
        "OTEL_EXPORTER_OTLP_PROTOCOL": ("grpc", "http/protobuf"),
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ("http://[collector", "http://collector:4318"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": ("collector:4318", "http://collector:4318"),
    }
    for name, (value, _) in asked.items():
        monkeypatch.setenv(name, value)
    settings = load_settings({"STARLING_DEV": "true", "STARLING_TRACING": "true"})
    with pytest.raises(SettingsError) as refused:
        create_app(settings, CollectorRegistry())
    problems = refused.value.problems
    assert [problem.split()[0] for problem in problems] == list(asked)
    assert all(remedy in problem for problem, (_, remedy) in zip(problems, asked.values(), strict=True))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("OTEL_TRACES_SAMPLER", "bogus", "recognize sampler bogus"),
        ("OTEL_TRACES_SAMPLER_ARG", "all", "TRACES_SAMPLER_ARG"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "bogus", "compression type: bogus"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "abc", "timeout value 'abc'"),
        ("OTEL_BSP_SCHEDULE_DELAY", "0", "schedule_delay_millis must be positive"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "10", "less than or equal to max_queue_size"),
        ("OTEL_RESOURCE_ATTRIBUTES", "x", "attribute pair x"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "abc", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT must be"),
    ],
)
def test_what_the_sdk_would_pass_over_is_reported_before_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        create_app(load_settings({"STARLING_DEV": "true", "STARLING_TRACING": "true"}), CollectorRegistry())
    assert [words in problem for problem in refused.value.problems] == [True]


def test_good_variables_pass_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    good = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20abc",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.01",
        "OTEL_RESOURCE_ATTRIBUTES": "k8s.pod.name=starling-0",
        "OTEL_BSP_SCHEDULE_DELAY": "1000",
    }
    for name, value in good.items():
        monkeypatch.setenv(name, value)
    create_app(load_settings({"STARLING_DEV": "true", "STARLING_TRACING": "true"}), CollectorRegistry())
