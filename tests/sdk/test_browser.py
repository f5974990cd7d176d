"""The SDK's bundles for browsers, in a real browser, on a page that another server than Starling serves.

Playwright keeps an event loop in this thread while the browser lives, so these are plain functions.
"""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.browser.conftest import ARGUMENTS
from tests.sdk.javascript_sdk import FOLDER, require_sdk
from tests.sdk.tokens import connection_token
from tests.support.nginx import nginx_before
from tests.support.running import SECRET, Starling
from tests.support.services import RedisServer

BUNDLES = {"json": "centrifuge.js", "protobuf": "centrifuge.protobuf.js"}

# `client` connects and notes all that happens; payloads are JSON in both wire formats.
SCRIPT = """
const write = (value) => window.protobuf ? new TextEncoder().encode(JSON.stringify(value)) : value;
const read = (value) => value instanceof Uint8Array ? JSON.parse(new TextDecoder().decode(value)) : value;
window.events = [];
window.start = (url, token, channel, options = {}) => {
  const client = window.client = new Centrifuge(
    url, {getToken: async () => token, maxReconnectDelay: 500, ...options});
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


@contextmanager
def serving_files(folder: Path) -> Iterator[str]:
    """The address of a web server with the files of a folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """A web server with the SDK's bundles, as an application's own would have them."""
    with serving_files(require_sdk() / "dist") as address:
        yield address


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


# --- where a proxy lets no WebSocket through ---


@pytest.fixture(scope="module")
def blocked(channels_file: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of nginx before two pods of two workers each, which refuses upgrades and sticks to no pod."""
    with RedisServer() as redis, ExitStack() as stack:
        settings = {
            "STARLING_TOKEN_HMAC_SECRET": SECRET,
            "STARLING_CHANNELS_FILE": channels_file,
            "STARLING_ALLOWED_ORIGINS": "http://127.0.0.1:*",
            "STARLING_BROKER_URL": redis.url,
            "STARLING_WORKERS": "2",
        }
        pods = [stack.enter_context(Starling(settings)) for _ in range(2)]
        refused = "location = /connection/websocket { return 403; }"
        ports = [pod.port for pod in pods]
        port = stack.enter_context(nginx_before(ports, tmp_path_factory.mktemp("nginx"), before=refused))
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("wire_format", "transport"), [("json", "http_stream"), ("protobuf", "http_stream"), ("json", "sse")]
)
def test_a_page_behind_a_proxy_without_websocket_goes_on_by_itself(
    open_page: OpenPage, blocked: str, room: str, wire_format: str, transport: str
) -> None:
    page = open_page(wire_format)
    endpoints = [{"transport": each, "endpoint": f"{blocked}/connection/{each}"} for each in ("websocket", transport)]
    endpoints[0]["endpoint"] = endpoints[0]["endpoint"].replace("http", "ws", 1)
    options = {"emulationEndpoint": f"{blocked}/emulation"}
    page.evaluate("([...given]) => start(...given)", [endpoints, connection_token("ann"), f"recovery:{room}", options])
    wait_for(page, "subscribed")
    assert page.evaluate("client._transport.subName()") == transport
    # Each command is a request of its own, which nginx gives to either pod.
    for number in range(6):
        page.evaluate("(number) => publish(number)", number)
    wait_for(page, "publication", 5)
    assert publications(page) == list(range(6))


# --- the page about plain JavaScript and TypeScript ---

JAVASCRIPT_PAGE = (FOLDER.parents[1] / "docs" / "javascript.md").read_text()


@pytest.fixture(scope="module")
def developer() -> Iterator[Starling]:
    with Starling() as running:
        yield running


def program(language: str, service: Starling) -> str:
    (code,) = re.findall(rf"```{language}\n(.*?)```", JAVASCRIPT_PAGE, re.DOTALL)
    assert "ws://localhost:8000" in code
    return str(code).replace("ws://localhost:8000", service.url)


def open_alone(browser: Browser | BrowserContext, address: str) -> tuple[Page, list[str]]:
    """The page in a tab of its own, and what it complains of."""
    page = browser.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    page.goto(address)
    return page, complaints


@pytest.mark.long
def test_the_chat_in_plain_javascript_works_as_printed(chromium: Browser, developer: Starling, tmp_path: Path) -> None:
    shutil.copy(require_sdk() / "dist" / "centrifuge.js", tmp_path)
    (tmp_path / "index.html").write_text(program("html", developer))
    with serving_files(tmp_path) as address:
        (alice, of_alice), (bob, of_bob) = open_alone(chromium, address), open_alone(chromium, address)
        for page, text in ((alice, "hello"), (bob, "<b>שלום</b>")):
            expect(page.get_by_text("2 online")).to_be_visible()
            page.get_by_label("Message").fill(text)
            page.get_by_role("button", name="Send").click()
            expect(page.get_by_label("Message")).to_have_value("")
        alice.reload()
        for page in (alice, bob):
            expect(page.get_by_role("listitem")).to_have_text(["hello", "<b>שלום</b>"])
        assert [line for line in [*of_alice, *of_bob] if "404" not in line] == []


def test_the_program_in_typescript_is_bundled_and_receives_what_it_sends(
    chromium: Browser, developer: Starling, tmp_path: Path
) -> None:
    (tmp_path / "node_modules").symlink_to(FOLDER / "node_modules")
    (tmp_path / "chat.ts").write_text(program("ts", developer))
    (tmp_path / "index.html").write_text('<!doctype html><ul id="messages"></ul><script src="chat.js"></script>')
    esbuild = FOLDER / "node_modules" / ".bin" / "esbuild"
    options = ("--bundle", "--outfile=chat.js", "--log-level=error")
    subprocess.run([esbuild, "chat.ts", *options], cwd=tmp_path, check=True, timeout=60)
    with serving_files(tmp_path) as address:
        page, complaints = open_alone(chromium, address)
        expect(page.get_by_role("listitem")).to_have_text(["hello from TypeScript"])
        assert [line for line in complaints if "404" not in line] == []
