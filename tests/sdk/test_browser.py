"""The SDK's bundles for browsers, in a real browser, on a page that another server than Starling serves.

Playwright keeps an event loop in this thread while the browser lives, so these are plain functions.
"""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.conftest import ARGUMENTS
from tests.sdk.javascript_sdk import require_sdk
from tests.sdk.tokens import connection_token
from tests.support.running import SECRET, Starling

BUNDLES = {"json": "centrifuge.js", "protobuf": "centrifuge.protobuf.js"}

# `client` connects and notes all that happens; payloads are JSON in both wire formats.
SCRIPT = """
const write = (value) => window.protobuf ? new TextEncoder().encode(JSON.stringify(value)) : value;
const read = (value) => value instanceof Uint8Array ? JSON.parse(new TextDecoder().decode(value)) : value;
window.events = [];
window.start = (url, token, channel) => {
  const client = window.client = new Centrifuge(url, {getToken: async () => token, maxReconnectDelay: 500});
  for (const name of ["connecting", "connected", "disconnected"]) {
    client.on(name, (context) => events.push([name, context.code ?? null]));
  }
  client.on("error", (context) => events.push(["error", context.error.code]));
  const subscription = window.subscription = client.newSubscription(channel);
  subscription.on("subscribed", (context) => events.push([context.recovered ? "recovered" : "subscribed", null]));
  subscription.on("publication", (context) => events.push(["publication", read(context.data)]));
  subscription.subscribe();
  client.connect();
};
window.publish = (data) => subscription.publish(write(data));
"""

OpenPage = Callable[[str], Page]


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, without a line for each."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """A web server with the SDK's bundles, as an application's own would have them."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(require_sdk() / "dist"))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def welcoming(channels_file: str, site: str) -> Iterator[Starling]:
    """A service that lets the pages of `site` connect."""
    settings = {
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_CHANNELS_FILE": channels_file,
        "STARLING_ALLOWED_ORIGINS": "http://127.0.0.1:*",
    }
    with Starling(settings) as running:
        yield running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    binary = shutil.which("chromium")
    if binary is None:
        pytest.skip("chromium is not installed; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Browser, site: str) -> Iterator[OpenPage]:
    """Opens a page of the site with the bundle of a wire format."""
    context = chromium.new_context()

    def open_page(wire_format: str) -> Page:
        page = context.new_page()
        page.goto(f"{site}/")
        page.add_script_tag(url=f"/{BUNDLES[wire_format]}")
        page.evaluate(f"window.protobuf = {str(wire_format == 'protobuf').lower()}")
        page.add_script_tag(content=SCRIPT)
        return page

    yield open_page
    context.close()


def start(page: Page, service: Starling, token: str, channel: str) -> None:
    """Connect and subscribe."""
    page.evaluate(
        "([url, token, channel]) => start(url, token, channel)",
        [f"{service.url}/connection/websocket", token, channel],
    )


def wait_for(page: Page, event: str, value: Any = None) -> None:
    """Wait until the page has noted that event."""
    page.wait_for_function(
        "(wanted) => events.some((event) => JSON.stringify(event) === JSON.stringify(wanted))",
        arg=[event, value],
        timeout=20_000,
    )


def publications(page: Page) -> list[Any]:
    """What the page has received."""
    return [data for name, data in page.evaluate("events") if name == "publication"]


@pytest.mark.parametrize("wire_format", BUNDLES)
def test_a_page_connects_publishes_and_recovers(
    open_page: OpenPage, welcoming: Starling, room: str, wire_format: str
) -> None:
    reader, writer = open_page(wire_format), open_page("json")
    for page, name in ((reader, "reader"), (writer, "writer")):
        start(page, welcoming, connection_token(name), f"recovery:{room}")
        wait_for(page, "subscribed")
    reader.evaluate("publish({text: 'Grüße 🦜'})")
    wait_for(writer, "publication", {"text": "Grüße 🦜"})

    reader.evaluate("window.dispatchEvent(new Event('offline'))")
    for number in range(3):
        writer.evaluate("(number) => publish(number)", number)
    reader.evaluate("window.dispatchEvent(new Event('online'))")
    wait_for(reader, "recovered")
    wait_for(reader, "publication", 2)
    assert publications(reader) == [{"text": "Grüße 🦜"}, 0, 1, 2]


def test_a_final_code_stops_the_page(open_page: OpenPage, welcoming: Starling, room: str) -> None:
    page = open_page("json")
    start(page, welcoming, "no token at all", f"open:{room}")
    wait_for(page, "disconnected", 3500)


def test_a_page_of_a_foreign_origin_is_not_let_in(open_page: OpenPage, service: Starling, room: str) -> None:
    page = open_page("json")
    start(page, service, connection_token(), f"open:{room}")
    # A browser shows a page no more of a refused upgrade than that the transport closed.
    wait_for(page, "error", 2)
    assert not any(name == "connected" for name, _ in page.evaluate("events"))
