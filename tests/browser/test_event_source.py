"""The program of docs/sse.md in a browser, with its own EventSource, which reconnects by itself."""

import json
import os
import re
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext

from tests.support.running import Starling, two_workers
from tests.support.services import RedisServer

pytestmark = pytest.mark.processes

PAGE = (Path(__file__).parents[2] / "docs" / "sse.md").read_text()
PROGRAM = re.search(r"```js\n(.*?)```", PAGE, re.DOTALL)
CHANNELS = "namespaces: {demo: {history_size: 100, history_ttl: 10m, force_recovery: true}}\n"


@pytest.fixture
def starling(tmp_path: Path) -> Iterator[Starling]:
    with RedisServer() as redis, Starling(two_workers(tmp_path, redis.url, CHANNELS)) as running:
        yield running


def publish(starling: Starling, data: object) -> None:
    body = json.dumps({"channel": "demo:news", "data": data, "idempotency_key": str(data)}).encode()
    request = urllib.request.Request(f"{starling.http}/api/publish", body, {"X-API-Key": "dev"})
    for attempt in range(5):
        try:
            urllib.request.urlopen(request, timeout=10).close()
        except OSError:
            # It reached the worker that was killed.
            assert attempt < 4
        else:
            return


def test_the_pages_program_shows_everything_once_over_the_end_of_its_worker(
    starling: Starling, context: BrowserContext
) -> None:
    assert PROGRAM is not None
    tab = context.new_page()
    tab.goto(starling.http)
    tab.evaluate(
        "() => { window.shown = []; window.show = (data) => window.shown.push(data); window.resets = 0; "
        "window.reload = () => { window.resets += 1; }; "
        f"{PROGRAM[1]} window.news = news; }}"
    )
    tab.wait_for_function("() => window.news.readyState === EventSource.OPEN")
    publish(starling, 1)
    tab.wait_for_function("() => window.shown.length === 1")
    (line,) = starling.reported("client_connected", transport="event_stream")
    os.kill(line["pid"], signal.SIGKILL)
    publish(starling, 2)
    publish(starling, 3)
    tab.wait_for_function("() => window.shown.length === 3")
    publish(starling, 4)
    tab.wait_for_function("() => window.shown.length === 4")

    assert tab.evaluate("() => [window.shown, window.resets]") == [[1, 2, 3, 4], 0]
