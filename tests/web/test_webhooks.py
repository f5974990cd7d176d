"""Webhooks to a real receiver: batches, signatures, tries, and what happens when nobody takes them."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry

from starling.brokers.memory.occupancy import MemoryOccupancy
from starling.telemetry.metrics import Metrics
from starling.web.options import WEBHOOK_EVENTS, parse_secret
from starling.web.webhook_sender import ATTEMPTS, WebhookTarget, sign
from starling.web.webhooks import BATCH_EVENTS, Webhooks
from tests.support.services import free_port
from tests.support.waiting import until
from tests.support.webhook_receiver import WebhookReceiver

SECRET = "a test's own secret of thirty or more bytes"
PAGE = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
Opener = Callable[..., Awaitable[Webhooks]]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
async def opener(metrics: Metrics) -> AsyncIterator[Opener]:
    """`await opener(url)` starts webhooks to `url`; they are stopped whatever the test did, and no task is left."""
    tasks_before = asyncio.all_tasks()
    opened: list[Webhooks] = []

    async def open_webhooks(
        url: str, *, events: tuple[str, ...] = WEBHOOK_EVENTS, timeout: float = 5.0, queue_events: int = 10_000
    ) -> Webhooks:
        receiver = WebhookTarget(url, parse_secret(SECRET), timeout, first_pause=0.01)
        webhooks = Webhooks(receiver, events, MemoryOccupancy(), metrics, queue_events=queue_events)
        webhooks.start("node")
        opened.append(webhooks)
        return webhooks

    yield open_webhooks
    for webhooks in opened:
        await webhooks.stop()
    assert asyncio.all_tasks() - tasks_before - {asyncio.current_task()} == set()


def events(lines: Sequence[MutableMapping[str, Any]], name: str) -> list[MutableMapping[str, Any]]:
    """The log lines of an event."""
    return [line for line in lines if line["event"] == name]


def page_verifier() -> Callable[[Any, bytes, str], list[dict[str, Any]]]:
    """The function that docs/webhooks.md shows."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    verify: Callable[[Any, bytes, str], list[dict[str, Any]]] = names["verify"]
    return verify


async def test_events_arrive_in_order_in_few_requests_over_one_connection(opener: Opener, metrics: Metrics) -> None:
    with WebhookReceiver() as receiver:
        webhooks = await opener(receiver.url, events=("connect",))
        for number in range(250):
            webhooks.connected(f"c{number}", "alice")
        await until(lambda: len(receiver.events) == 250, "all arrive")

    assert [event["client"] for event in receiver.events] == [f"c{number}" for number in range(250)]
    assert [len(request.events) for request in receiver.requests] == [BATCH_EVENTS, BATCH_EVENTS, 50]
    assert len({request.connection for request in receiver.requests}) == 1
    assert receiver.most_at_once == 1
    assert len({event["id"] for event in receiver.events}) == 250
    assert {request.headers["content-type"] for request in receiver.requests} == {"application/json"}
    assert {request.headers["authorization"] for request in receiver.requests} == {"Basic dXNlcjpwYXNzLXdvcmQ="}
    await until(lambda: metrics.webhook_queue == 0, "nothing is on its way")
    assert metrics.webhook_events == {"delivered": 250, "failed": 0, "dropped": 0}


async def test_an_answer_that_does_not_end_is_an_answer(opener: Opener, metrics: Metrics) -> None:
    left = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        with suppress(ConnectionError):
            while True:
                writer.write(bytes(4096))
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.close()
        left.set()

    port = free_port()
    async with await asyncio.start_server(answer, "127.0.0.1", port):
        webhooks = await opener(f"http://127.0.0.1:{port}/", timeout=60)
        webhooks.connected("c1", "alice")
        await until(lambda: metrics.webhook_events["delivered"] == 1, "the event counts as delivered")
        await left.wait()


async def test_each_event_says_what_happened(opener: Opener) -> None:
    with WebhookReceiver() as receiver:
        webhooks = await opener(receiver.url)
        webhooks.connected("c1", "alice")
        webhooks.subscribed("c1", "alice", "news")
        await until(lambda: receiver.reported("occupied"), "the channel is reported")
        webhooks.unsubscribed("c1", "alice", "news")
        webhooks.disconnected("c1", "alice", 3001, "shutdown")
        await until(lambda: len(receiver.events) == 6, "all arrive")

    by_kind = {event.pop("event"): event for event in receiver.events}
    assert set(by_kind) == set(WEBHOOK_EVENTS)
    for event in by_kind.values():
        assert event.pop("id").startswith("node-")
        assert event.pop("time") > 1.7e12
    assert by_kind["vacated"].pop("revision") > by_kind["occupied"].pop("revision")
    assert by_kind == {
        "connect": {"client": "c1", "user": "alice"},
        "subscribe": {"client": "c1", "user": "alice", "channel": "news"},
        "occupied": {"channel": "news"},
        "unsubscribe": {"client": "c1", "user": "alice", "channel": "news"},
        "disconnect": {"client": "c1", "user": "alice", "code": 3001, "reason": "shutdown"},
        "vacated": {"channel": "news"},
    }


async def test_only_the_events_that_are_wanted_are_reported(opener: Opener) -> None:
    with WebhookReceiver() as receiver:
        webhooks = await opener(receiver.url, events=("vacated", "disconnect"))
        webhooks.connected("c1", "alice")
        webhooks.subscribed("c1", "alice", "news")
        webhooks.disconnected("c0", "bob", 1000, "")
        await until(lambda: receiver.events, "what came later has arrived")
        webhooks.unsubscribed("c1", "alice", "news")
        webhooks.disconnected("c1", "alice", 1000, "")
        await until(lambda: len(receiver.events) == 3, "both arrive")

    assert {event["event"] for event in receiver.events} == {"vacated", "disconnect"}


async def test_the_page_s_function_verifies_a_request_and_refuses_what_is_not_ours(opener: Opener) -> None:
    with WebhookReceiver() as receiver:
        (await opener(receiver.url, events=("connect",))).connected("c1", "alice")
        await until(lambda: receiver.requests, "it arrives")
    (request,) = receiver.requests
    verify = page_verifier()

    (event,) = verify(request.headers, request.body, SECRET)
    assert event["client"] == "c1"
    for changes, body, secret in (
        ({}, request.body + b" ", SECRET),
        ({}, request.body, SECRET + "x"),
        ({"webhook-id": "msg_other"}, request.body, SECRET),
        ({"webhook-timestamp": str(int(request.headers["webhook-timestamp"]) + 1)}, request.body, SECRET),
        ({"webhook-signature": "v1,ü"}, request.body, SECRET),
    ):
        with pytest.raises(PermissionError):
            verify(request.headers | changes, body, secret)


def test_the_page_s_function_refuses_an_old_request() -> None:
    body = b'{"events":[]}'
    headers = {"webhook-id": "msg_1", "webhook-timestamp": "1614265330"}
    headers["webhook-signature"] = sign(SECRET.encode(), "msg_1", 1614265330, body)
    with pytest.raises(PermissionError):
        page_verifier()(headers, body, SECRET)


def test_signatures_are_those_of_standard_webhooks() -> None:
    # The specification's own example.
    key = parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_that_only_looks_like_base64_is_refused() -> None:
    with pytest.raises(ValueError, match="base64"):
        parse_secret("whsec_not base64!")


@pytest.mark.parametrize("status", [302, 404, 500, 503])
async def test_a_request_that_is_not_taken_is_sent_again_as_it_was(
    opener: Opener, metrics: Metrics, status: int
) -> None:
    with WebhookReceiver(statuses=(status, status)) as receiver:
        webhooks = await opener(receiver.url, events=("connect",))
        webhooks.connected("c1", "alice")
        await until(lambda: receiver.events, "it arrives in the end")
        webhooks.connected("c2", "alice")
        await until(lambda: len(receiver.events) == 2, "the next one too")

    assert [request.taken for request in receiver.requests] == [False, False, True, True]
    first, second, third, _ = receiver.requests
    assert first.body == second.body == third.body
    assert len({request.headers["webhook-id"] for request in receiver.requests[:3]}) == 1
    assert {request.path for request in receiver.requests} == {"/hooks/path-word?key=query-word"}
    await until(lambda: metrics.webhook_queue == 0, "nothing is on its way")
    assert metrics.webhook_events == {"delivered": 2, "failed": 0, "dropped": 0}


async def test_a_receiver_that_is_away_gets_the_events_when_it_is_back(opener: Opener) -> None:
    receiver = WebhookReceiver()
    webhooks = await opener(receiver.url, events=("connect",))
    with structlog.testing.capture_logs() as lines:
        webhooks.connected("c1", "alice")
        await until(lambda: events(lines, "webhook_not_delivered"), "the first try fails")
    with receiver:
        webhooks.connected("c2", "alice")
        await until(lambda: len(receiver.events) == 2, "both arrive")
    assert [event["client"] for event in receiver.events] == ["c1", "c2"]


async def test_what_nobody_takes_is_given_up_and_counted(opener: Opener, metrics: Metrics) -> None:
    with WebhookReceiver(statuses=(500,) * ATTEMPTS) as receiver:
        webhooks = await opener(receiver.url, events=("connect",))
        webhooks.connected("lost", "alice")
        await until(lambda: metrics.webhook_events["failed"], "it is given up")
        webhooks.connected("c2", "alice")
        await until(lambda: receiver.events, "the next one is delivered")

    assert [event["client"] for event in receiver.events] == ["c2"]
    assert len(receiver.requests) == ATTEMPTS + 1


async def test_a_receiver_that_does_not_answer_is_not_waited_for(opener: Opener, metrics: Metrics) -> None:
    with WebhookReceiver() as receiver:
        receiver.hold()
        webhooks = await opener(receiver.url, events=("connect",), timeout=0.2)
        with structlog.testing.capture_logs() as lines:
            webhooks.connected("c1", "alice")
            await until(lambda: events(lines, "webhook_not_delivered"), "the first try is over")
        assert metrics.webhook_queue == 1
        receiver.release()
        await until(lambda: metrics.webhook_events["delivered"] == 1, "it is sent again")
    # What a receiver took too slowly comes twice: the id shows it.
    assert len({event["id"] for event in receiver.events}) == 1


async def test_a_full_queue_drops_and_counts_what_comes_then(opener: Opener, metrics: Metrics) -> None:
    with WebhookReceiver() as receiver:
        receiver.hold()
        webhooks = await opener(receiver.url, events=("connect",), queue_events=5)
        for number in range(8):
            webhooks.connected(f"c{number}", "alice")
        assert (metrics.webhook_queue, metrics.webhook_events["dropped"]) == (5, 3)
        receiver.release()
        await until(lambda: metrics.webhook_events["delivered"] == 5, "those in the queue arrive")
        webhooks.connected("later", "alice")
        await until(lambda: len(receiver.events) == 6, "there is room again")
    assert [event["client"] for event in receiver.events] == ["c0", "c1", "c2", "c3", "c4", "later"]


async def test_anonymous_clients_of_one_address_lose_their_own_events(opener: Opener, metrics: Metrics) -> None:
    with WebhookReceiver() as receiver:
        receiver.hold()
        webhooks = await opener(receiver.url, events=("connect", "disconnect"), queue_events=20)
        for number in range(50):
            webhooks.connected(f"m{number}", "", "192.0.2.1")
            webhooks.disconnected(f"m{number}", "", 1000, "", "192.0.2.1")
        webhooks.connected("c1", "alice", "192.0.2.1")
        webhooks.connected("c2", "", "192.0.2.2")
        # Without an address each client counts by itself.
        webhooks.connected("c3", "")
        receiver.release()
        await until(lambda: metrics.webhook_events["delivered"] == 20, "what is left arrives")
    assert {"c1", "c2", "c3"} <= {event["client"] for event in receiver.events}


async def test_a_stop_vacates_the_channels_and_delivers_what_is_left(opener: Opener, metrics: Metrics) -> None:
    with WebhookReceiver() as receiver:
        webhooks = await opener(receiver.url, events=("connect", "occupied", "vacated"))
        webhooks.subscribed("c1", "alice", "news")
        await until(lambda: receiver.reported("occupied"), "the channel is reported")
        webhooks.connected("last", "alice")
        await webhooks.stop()
        assert sorted(receiver.reported("connect", "vacated")) == [("connect", ""), ("vacated", "news")]
    assert metrics.webhook_events["dropped"] == 0


async def test_a_stop_does_not_wait_for_a_receiver_that_is_away(opener: Opener, metrics: Metrics) -> None:
    webhooks = await opener(WebhookReceiver().url, events=("connect",))
    webhooks.connected("c1", "alice")
    async with asyncio.timeout(10):
        await webhooks.stop()
    assert metrics.webhook_events["dropped"] + metrics.webhook_events["failed"] == 1
    assert metrics.webhook_queue == 0


async def test_no_log_line_reports_the_secret_or_the_address(opener: Opener) -> None:
    with structlog.testing.capture_logs() as lines, WebhookReceiver(statuses=(500,) * ATTEMPTS) as receiver:
        webhooks = await opener(receiver.url, events=("connect",))
        webhooks.connected("c1", "alice")
        await until(lambda: len(receiver.requests) == ATTEMPTS, "all attempts are made")
        await until(lambda: events(lines, "webhook_given_up"), "it is reported")
    for word in (SECRET, "pass-word", "path-word", "query-word"):
        assert word not in str(lines)


def test_the_page_names_every_event() -> None:
    table = PAGE.partition("## Events")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z]+)`", table, re.MULTILINE)) == set(WEBHOOK_EVENTS)


@pytest.mark.processes
def test_clients_of_what_no_setting_names_are_not_even_loaded() -> None:
    code = "import sys; from starling.main import create_app; from starling.settings import load_settings; "
    code += "create_app(load_settings({'STARLING_DEV': 'true'})); "
    code += "print(*{'asyncpg', 'httpx2', 'redis', 'structlog'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "structlog\n"
