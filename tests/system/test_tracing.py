"""One message, one trace: two workers over a real Redis, and a collector in this process."""

import asyncio
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry import trace
from websockets.asyncio.client import ClientConnection, connect

from tests.support.collector import Collector
from tests.support.running import Starling
from tests.support.services import RedisServer

PAGE = (Path(__file__).parents[2] / "docs" / "tracing.md").read_text()
KEY = {"X-API-Key": "dev"}
PAYLOAD = "what-was-said-is-in-no-span"
CHANNELS = "default: {}\nnamespaces:\n  kept: {history_size: 10, history_ttl: 60s}\n  plain: {}\n"
# Publishes what it got through the server API, with the trace that it finds itself in.
HOOKS = """
import os

import httpx2
import structlog
from opentelemetry import propagate, trace

log = structlog.get_logger("hooks")


async def on_publish(client, channel):
    with trace.get_tracer("hooks").start_as_current_span("a hook's own"):
        log.info("hook_was_here")


async def tell(client, data: str):
    headers = {"X-API-Key": "dev"}
    propagate.inject(headers)
    async with httpx2.AsyncClient() as http:
        url = f"http://127.0.0.1:{os.environ['STARLING_PORT']}/api/publish"
        await http.post(url, json={"channel": "plain:traced", "data": data}, headers=headers)


rpc = {"tell": tell}
"""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def starling(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starling]:
    directory = tmp_path_factory.mktemp("tracing")
    (directory / "channels.yaml").write_text(CHANNELS)
    (directory / "tracing_hooks.py").write_text(HOOKS)
    with RedisServer() as redis:
        environment = {
            "STARLING_DEV": "true",
            "STARLING_BROKER_URL": redis.url,
            "STARLING_WORKERS": "2",
            "STARLING_CHANNELS_FILE": str(directory / "channels.yaml"),
            "STARLING_HOOKS": "tracing_hooks",
            "STARLING_HOOKS_PATH": str(directory),
            "STARLING_LOG_LEVEL": "debug",
            "STARLING_TRACING": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        }
        with Starling(environment) as running:
            yield running


async def ask(client: ClientConnection, number: int, **command: Any) -> dict[str, Any]:
    await client.send(json.dumps({"id": number, **command}))
    while True:
        for line in str(await client.recv()).splitlines():
            reply: dict[str, Any] = json.loads(line)
            if reply.get("id") == number:
                return reply


async def next_push(client: ClientConnection) -> Any:
    while True:
        for line in str(await client.recv()).splitlines():
            if "push" in (reported := json.loads(line)):
                return reported["push"]["pub"]["data"]


async def enter_both_workers(stack: AsyncExitStack, starling: Starling, channel: str) -> list[ClientConnection]:
    """Connect subscribers until each worker has two; which worker takes a connection is the kernel's choice."""
    clients: dict[str, list[ClientConnection]] = {}
    for _ in range(100):
        client = await stack.enter_async_context(connect(f"{starling.url}/connection/websocket"))
        node = (await ask(client, 1, connect={}))["connect"]["node"]
        if len(clients.setdefault(node, [])) < 2:
            clients[node].append(client)
            await ask(client, 2, subscribe={"channel": channel})
        if len(clients) == 2 and all(len(two) == 2 for two in clients.values()):
            return [client for two in clients.values() for client in two]
    raise AssertionError("all connections went to one worker")


async def post(starling: Starling, method: str, body: Any, **headers: str) -> Any:
    async with httpx2.AsyncClient() as http:
        answer = await http.post(f"{starling.http}/api/{method}", json=body, headers={**KEY, **headers})
    assert answer.status_code == 200
    return answer.json()


def a_trace(flags: str = "01") -> tuple[str, str, str]:
    """Trace id, span id and traceparent of a caller's own."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return trace_id, span_id, f"00-{trace_id}-{span_id}-{flags}"


def reported_of(starling: Starling, trace_id: str) -> set[tuple[str, int, str]]:
    """Event, process and span of the log lines of a trace."""
    lines = [line for line in starling.lines if line.get("trace_id") == trace_id]
    return {(line["event"], line["pid"], line["span_id"]) for line in lines}


@pytest.mark.parametrize("namespace", ["kept", "plain"])
async def test_one_publication_is_one_trace_over_both_workers_and_their_logs(
    starling: Starling, collector: Collector, namespace: str
) -> None:
    trace_id, caller, traceparent = a_trace()
    channel = f"{namespace}:room"
    async with AsyncExitStack() as stack:
        clients = await enter_both_workers(stack, starling, channel)
        body = {"channel": channel, "data": PAYLOAD}
        await post(starling, "publish", body, traceparent=traceparent, tracestate="vendor=1")
        assert [await next_push(client) for client in clients] == [PAYLOAD] * 4

    await asyncio.to_thread(collector.until, lambda: len(collector.of(trace_id)) == 5, "five spans")
    (publish,) = collector.of(trace_id, "publish")
    assert (publish.kind, publish.parent, publish.state) == ("PRODUCER", caller, "vendor=1")
    assert publish.attributes == {
        "messaging.system": "starling",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": namespace,
        "messaging.message.body.size": len(PAYLOAD) + 2,
        "starling.channel": channel,
    }
    assert publish.process in starling.workers
    assert publish.resource["service.name"] == "starling"
    assert publish.resource["deployment.environment.name"] == "test"

    fan_outs = collector.of(trace_id, "fan-out")
    assert sorted(one.process for one in fan_outs) == starling.workers
    for fan_out in fan_outs:
        assert (fan_out.kind, fan_out.parent) == ("CONSUMER", publish.span_id)
        assert fan_out.attributes["starling.receivers"] == 2
        assert fan_out.attributes["starling.channel"] == channel
        (write,) = [one for one in collector.of(trace_id, "socket write") if one.parent == fan_out.span_id]
        assert write.process == fan_out.process
        assert write.attributes["starling.write.connections"] == 2
        assert write.attributes["starling.write.frames"] == 1
        assert write.attributes["starling.write.bytes"] > 2 * len(PAYLOAD)
        assert publish.begin <= fan_out.begin <= write.begin <= write.end

    assert not any(PAYLOAD.encode() in body for body in collector.bodies)
    await asyncio.to_thread(collector.until, lambda: len(reported_of(starling, trace_id)) >= 3, "three log lines")
    assert reported_of(starling, trace_id) == {
        ("publication_traced", publish.process, publish.span_id),
        *(("delivery_traced", one.process, one.span_id) for one in fan_outs),
    }


async def test_a_clients_own_publication_begins_a_trace_and_its_hook_is_in_it(
    starling: Starling, collector: Collector
) -> None:
    channel = f"plain:{secrets.token_hex(4)}"
    async with AsyncExitStack() as stack:
        clients = await enter_both_workers(stack, starling, channel)
        await clients[0].send(json.dumps({"id": 3, "publish": {"channel": channel, "data": PAYLOAD}}))
        await next_push(clients[-1])

    def here() -> list[str]:
        return [one.trace_id for one in collector.spans if one.attributes.get("starling.channel") == channel]

    await asyncio.to_thread(collector.until, lambda: len(here()) == 3, "publish and two fan-outs")
    (trace_id,) = set(here())
    await asyncio.to_thread(collector.until, lambda: len(collector.of(trace_id)) == 7, "seven spans")
    (command,) = collector.of(trace_id, "command publish")
    (hook,) = collector.of(trace_id, "a hook's own")
    (publish,) = collector.of(trace_id, "publish")
    assert (command.kind, command.parent) == ("SERVER", "")
    assert hook.parent == publish.parent == command.span_id
    (line,) = await asyncio.to_thread(starling.reported, "hook_was_here", trace_id=trace_id)
    assert (line["span_id"], line["pid"]) == (hook.span_id, command.process)


async def test_what_a_hook_publishes_over_the_api_continues_its_trace(starling: Starling, collector: Collector) -> None:
    async with AsyncExitStack() as stack:
        clients = await enter_both_workers(stack, starling, "plain:traced")
        await ask(clients[0], 3, rpc={"method": "tell", "data": "hello"})
        await next_push(clients[-1])

    def reported() -> list[str]:
        return [one.trace_id for one in collector.spans if one.attributes.get("starling.channel") == "plain:traced"]

    await asyncio.to_thread(collector.until, lambda: len(reported()) == 3, "publish and two fan-outs")
    (trace_id,) = set(reported())
    await asyncio.to_thread(collector.until, lambda: collector.of(trace_id, "command rpc"), "the call")
    (command,), (publish,) = collector.of(trace_id, "command rpc"), collector.of(trace_id, "publish")
    assert publish.parent == command.span_id


async def test_a_trace_that_is_not_sampled_makes_no_spans_and_a_malformed_one_no_error(
    starling: Starling, collector: Collector
) -> None:
    unsampled, _, traceparent = a_trace(flags="00")
    channel = f"plain:{secrets.token_hex(4)}"
    async with AsyncExitStack() as stack:
        clients = await enter_both_workers(stack, starling, channel)
        assert "result" in await post(starling, "publish", {"channel": channel, "data": 1}, traceparent=traceparent)
        assert "result" in await post(starling, "publish", {"channel": channel, "data": 2}, traceparent="00-nonsense")
        for client in clients:
            assert [await next_push(client) for _ in range(2)] == [1, 2]

    def here() -> list[Any]:
        return [one for one in collector.spans if one.attributes.get("starling.channel") == channel]

    await asyncio.to_thread(collector.until, lambda: len(here()) == 3, "the second publication's trace")
    (publish,) = [one for one in here() if one.name == "publish"]
    assert publish.parent == ""
    assert collector.of(unsampled) == []


async def test_the_metrics_count_the_spans_that_the_collector_took(starling: Starling, collector: Collector) -> None:
    _, _, traceparent = a_trace()
    await post(starling, "publish", {"channel": "plain:counted", "data": 1}, traceparent=traceparent)

    def counted() -> list[float]:
        metrics = starling.metrics()
        return [
            metrics[f'starling_trace_spans_total{{result="{result}"}}'] for result in ("exported", "failed", "dropped")
        ]

    def here() -> list[str]:
        return [one.name for one in collector.spans if one.attributes.get("starling.channel") == "plain:counted"]

    await asyncio.to_thread(collector.until, here, "the publication's span")
    await asyncio.to_thread(collector.until, lambda: counted() == [len(collector.spans), 0, 0], "as many are counted")


def example(language: str) -> str:
    """The page's example in a language."""
    (code,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(code)


async def test_the_pages_examples_send_their_trace_along(starling: Starling, collector: Collector) -> None:
    shell = example("bash").replace("http://localhost:8000", starling.http)
    done = await asyncio.to_thread(subprocess.run, ["bash", "-c", shell], capture_output=True, text=True)
    assert done.stdout == '{"result":{}}', done.stderr
    await asyncio.to_thread(collector.until, lambda: collector.of("4bf92f3577b34da6a3ce929d0e0e4736"), "the shell's")

    trace_id, span_id, _ = a_trace()
    caller = trace.SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(caller)):
        code = example("python").replace("http://localhost:8000", starling.http)
        await asyncio.to_thread(exec, compile(code, "docs/tracing.md", "exec", dont_inherit=True), {})
    await asyncio.to_thread(collector.until, lambda: collector.of(trace_id), "the Python example's")
    (publish,) = collector.of(trace_id)
    assert publish.parent == span_id


def a_worker(collector: Collector) -> Starling:
    """One that would not send its spans for an hour."""
    return Starling(
        {
            "STARLING_DEV": "true",
            "STARLING_TRACING": "true",
            "OTEL_SERVICE_NAME": "chat-of-birds",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "3600000",
        }
    )


async def test_what_is_not_sent_yet_is_sent_before_the_worker_ends() -> None:
    trace_id, _, traceparent = a_trace()
    with Collector() as collector, a_worker(collector) as starling:
        await post(starling, "publish", {"channel": "room", "data": 1}, traceparent=traceparent)
        async with connect(f"{starling.url}/connection/websocket") as client:
            await ask(client, 1, connect={})
            assert "publish" in await ask(client, 2, publish={"channel": "room", "data": 2})
        assert collector.spans == []
        assert await asyncio.to_thread(starling.stop) == 0
        (publish,) = collector.of(trace_id)
        assert publish.resource["service.name"] == "chat-of-birds"
        assert sorted(span.name for span in collector.spans) == ["command publish", "publish", "publish"]


async def test_a_collector_that_hangs_delays_the_end_by_seconds_at_most() -> None:
    with Collector(silent=True) as collector, a_worker(collector) as starling:
        await post(starling, "publish", {"channel": "room", "data": 1})
        assert await asyncio.to_thread(starling.stop) == 0
        assert "spans_not_sent" in [line["event"] for line in starling.lines]


def test_off_nothing_that_makes_or_sends_spans_is_loaded() -> None:
    """FastAPI imports OpenTelemetry's interface by itself, and redis-py the SDK's metrics where it finds them."""
    code = (
        "import sys; from starling.main import create_app; from starling.settings import load_settings; "
        "create_app(load_settings({'STARLING_DEV': 'true'})); "
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk.trace', 'opentelemetry.exporter', "
        "'opentelemetry.proto', 'starling.telemetry.open_telemetry', 'requests'))])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_without_the_extra_the_check_says_what_to_install() -> None:
    """As if a module were not installed: uninstalling it would end other tests."""
    code = "import sys; from starling.cli.entry import main; sys.argv = ['starling', 'check']; "
    code += "sys.modules['opentelemetry.sdk.resources'] = None; main()"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STARLING_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**inherited, "STARLING_DEV": "true", "STARLING_TRACING": "true"},
    )
    assert done.returncode != 0
    assert "STARLING_TRACING: no module opentelemetry.sdk" in done.stderr
    assert "pip install 'starling-realtime[otel]'" in done.stderr
