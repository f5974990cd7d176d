"""An answer of a language model in Chromium: it survives a reload, a second tab shows it, and its stop button ends it.

The page runs the JavaScript of docs/language-model-answers.md. The tabs are at one pod, the producer is at another.
"""

import asyncio
import itertools
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

import starling
from tests.support.running import Starling, two_workers
from tests.support.services import RedisServer

pytestmark = [pytest.mark.processes, pytest.mark.long]

GUIDE = (Path(__file__).parents[2] / "docs" / "language-model-answers.md").read_text()
CHANNEL = "answers:42"
CHANNELS = """
namespaces:
  answers: {stream: text, allow_subscribe_for_client: true, allow_cancel_for_subscriber: true}
"""
PAGE = """
<!doctype html><title>Answer</title>
<pre id="answer"></pre><p id="status"></p><button id="stop">Stop</button>
<script src="/static/vendor-centrifuge.js"></script>
<script type="module">
const stop = document.getElementById("stop")
const client = new Centrifuge(`ws://${location.host}/connection/websocket`)
const subscription = client.newSubscription("%s")
function show(text, status) {
  document.getElementById("answer").textContent = text
  document.getElementById("status").textContent = status
}
%s
subscription.subscribe()
client.connect()
</script>
"""


class Producer:
    """Writes one token after the other to a pod until somebody stops it, in a thread of its own."""

    def __init__(self, address: str) -> None:
        self.written = ""
        self.cancelled = False
        self.abandoned = False
        self._address = address
        self.thread = threading.Thread(target=lambda: asyncio.run(self._write()))

    async def _write(self) -> None:
        try:
            async with starling.open_stream(CHANNEL, url=self._address, key="dev") as answer:
                for number in itertools.count():
                    if self.abandoned:
                        return
                    self.written += (token := f"{number} grüßt 😀 ")
                    await answer.write(token)
                    await asyncio.sleep(0.01)
        except starling.Cancelled:
            self.cancelled = True


@contextmanager
def producing(address: str) -> Iterator[Producer]:
    producer = Producer(address)
    producer.thread.start()
    try:
        yield producer
    finally:
        # Only where the test fails before somebody presses stop.
        producer.abandoned = sys.exc_info()[0] is not None
        producer.thread.join(60)


@pytest.fixture
def pods(redis_server: RedisServer, tmp_path: Path) -> Iterator[list[Starling]]:
    with ExitStack() as stack:
        settings = two_workers(tmp_path, redis_server.url, CHANNELS)
        yield [stack.enter_context(Starling(settings)) for _ in range(2)]


def page_of(context: BrowserContext, pod: Starling) -> Page:
    """A tab with the guide's code on a page that the pod might have served."""
    scripts = re.findall(r"```js\n(.*?)```", GUIDE, re.DOTALL)
    page = context.new_page()
    page.route(
        "**/answer", lambda route: route.fulfill(body=PAGE % (CHANNEL, "\n".join(scripts)), content_type="text/html")
    )
    page.goto(f"{pod.http}/answer")
    return page


def text_of(page: Page) -> str:
    return page.locator("#answer").text_content() or ""


def grows(page: Page) -> str:
    """The text of a page, once it is longer by some words than it was."""
    length = len(text_of(page))
    page.wait_for_function("length => document.getElementById('answer').textContent.length > length + 50", arg=length)
    return text_of(page)


def test_an_answer_survives_a_reload_shows_in_a_second_tab_and_is_stopped_at_another_pod(
    context: BrowserContext, pods: list[Starling]
) -> None:
    # Chromium lets pages that a test makes up reach this machine only then.
    context.grant_permissions(["local-network-access"])
    errors: list[Any] = []
    context.on("weberror", lambda error: errors.append(str(error.error)))
    with producing(pods[1].http) as producer:
        first = page_of(context, pods[0])
        before = grows(first)
        first.reload()
        after = grows(first)
        second = page_of(context, pods[0])
        expect(second.locator("#status")).to_have_text("open")
        longest = grows(second)
        second.locator("#stop").click()
        for page in (first, second):
            expect(page.locator("#status")).to_have_text("cancelled")
    assert producer.cancelled
    assert len(before) < len(after) < len(longest)
    final = text_of(first)
    assert final == text_of(second)
    for text in (before, after, longest, final):
        assert producer.written.startswith(text)
    assert len(final) >= len(longest)
    # Reloaded after its end, the page has the same once more.
    first.reload()
    expect(first.locator("#status")).to_have_text("cancelled")
    assert text_of(first) == final
    assert errors == []
