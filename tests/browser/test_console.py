"""The console in Chromium: every view against two pods over Redis, without a violation that axe finds.

`PICTURES=docs/pictures/console` keeps a picture of each view, as docs/console.md shows them.
"""

import json
import math
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import BrowserContext, Dialog, Page, expect
from websockets.sync.client import connect

from starling.auth.issue import issue_connection_token
from tests.browser.axe import violations
from tests.support.running import SECRET, Starling
from tests.support.services import RedisServer

PASSWORD = secrets.token_urlsafe(16)
READ_PASSWORD = secrets.token_urlsafe(16)
KEY = secrets.token_urlsafe(16)
CHANNELS = """
namespaces:
  chat: {history_size: 100, history_ttl: 1h, presence: true, allow_subscribe_for_client: true}
  news: {allow_subscribe_for_client: true}
"""


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Starling, Starling]]:
    """Two services of one worker each, with a user in each."""
    channels: Path = tmp_path_factory.mktemp("channels") / "channels.yaml"
    channels.write_text(CHANNELS)
    with RedisServer() as redis:
        environment = {
            "STARLING_TOKEN_HMAC_SECRET": SECRET,
            "STARLING_API_KEYS": KEY,
            "STARLING_BROKER_URL": redis.url,
            "STARLING_CHANNELS_FILE": str(channels),
            "STARLING_WORKERS": "1",
            # The clients of this test do not answer pings.
            "STARLING_PING_SECONDS": "3600",
            "STARLING_CONSOLE_PASSWORD": PASSWORD,
            "STARLING_CONSOLE_READ_PASSWORD": READ_PASSWORD,
        }
        with Starling(environment) as one, Starling(environment) as two, ExitStack() as stack:
            for pod, user, channel in (
                (one, "ann", "chat:lobby"),
                (two, "ben", "chat:lobby"),
                (two, "ben", "news:today"),
            ):
                stack.enter_context(entered(pod, user, channel))
            for number in range(30):
                publish(one, "chat:lobby", {"text": f"message {number}"})
            yield one, two


@contextmanager
def entered(pod: Starling, user: str, channel: str) -> Iterator[None]:
    """A client in a channel."""
    with connect(f"{pod.url}/connection/websocket", ping_interval=None) as client:
        token = issue_connection_token(SECRET, user, 600)
        client.send(json.dumps({"id": 1, "connect": {"token": token}}))
        client.send(json.dumps({"id": 2, "subscribe": {"channel": channel}}))
        while '"id":2' not in str(client.recv(10)):
            pass
        yield


def publish(pod: Starling, channel: str, data: object) -> None:
    body = {"channel": channel, "data": data}
    httpx2.post(f"{pod.http}/api/publish", json=body, headers={"X-API-Key": KEY}, timeout=10).raise_for_status()


@pytest.fixture
def console(context: BrowserContext, pods: tuple[Starling, Starling]) -> Iterator[Page]:
    page = context.new_page()
    page.set_viewport_size({"width": 1100, "height": 800})
    page.emulate_media(reduced_motion="reduce")
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    log_in(page, pods[0], PASSWORD)
    yield page
    page.close()
    assert errors == []


def log_in(page: Page, pod: Starling, password: str) -> None:
    page.goto(f"{pod.internal}/console")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


def show(page: Page, view: str) -> None:
    page.get_by_role("link", name=view, exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(view)


def check(page: Page, picture: str | None = None) -> None:
    """No violation in light and dark; a picture of this name, where they are wanted."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = violations(page)
        assert found == [], (page.url, scheme, found)
    page.emulate_media(color_scheme="light")
    if picture and (directory := os.environ.get("PICTURES")):
        page.screenshot(path=Path(directory) / f"{picture}.png")


def test_the_overview_shows_both_pods(console: Page) -> None:
    expect(console.get_by_role("heading", level=1)).to_have_text("Overview")
    expect(console.get_by_role("region", name="Nodes").locator("tbody tr")).to_have_count(2)
    expect(console.locator(".chart canvas")).to_be_visible()
    check(console)


def test_a_channel_shows_who_is_there_what_it_keeps_and_what_passes(
    console: Page, pods: tuple[Starling, Starling]
) -> None:
    show(console, "Channels")
    console.get_by_label("Name begins with").fill("chat:")
    console.get_by_role("button", name="Search").click()
    expect(console.get_by_role("region", name="Channels").locator("tbody tr")).to_have_count(1)
    check(console, "channels")
    console.get_by_role("link", name="chat:lobby").click()
    expect(console.get_by_role("region", name="Presence").locator("tbody tr")).to_have_count(2)
    history = console.get_by_role("region", name="History").locator("tbody tr")
    expect(history.first).to_contain_text("message 29")
    console.get_by_role("button", name="Older").click()
    expect(history.first).to_contain_text("message 9")
    console.get_by_role("button", name="Newest").click()
    console.get_by_label("Data, as JSON").fill('{"text": "from the console"}')
    console.get_by_role("button", name="Publish").click()
    expect(console.get_by_role("status").filter(has_text="Published.")).to_be_visible()
    expect(history.first).to_contain_text("from the console")
    expect(console.locator("ol.lines li").first).to_contain_text("from the console")
    expect(
        console.get_by_role("region", name="Options").get_by_role("row", name=re.compile("history_size"))
    ).to_contain_text("channels file, chat")
    check(console, "channel")


def test_data_that_is_no_json_is_refused_in_words(console: Page) -> None:
    console.goto(console.url.split("#")[0] + "#channels/news%3Atoday")
    console.get_by_label("Data, as JSON").fill("{")
    console.get_by_role("button", name="Publish").click()
    expect(console.get_by_role("status").filter(has_text="JSON")).to_be_visible()


def test_a_user_is_found_and_disconnected(console: Page, pods: tuple[Starling, Starling]) -> None:
    with entered(pods[1], "carl", "news:today"):
        show(console, "Users and connections")
        console.get_by_label("User id").fill("carl")
        console.get_by_role("button", name="Search").click()
        rows = console.get_by_role("region", name="Connections").locator("tbody tr")
        expect(rows).to_have_count(1)
        expect(rows.first).to_contain_text("news:today")
        console.get_by_role("textbox", name="Channel").fill("news:today")
        console.get_by_role("combobox", name="Verb").select_option("publish")
        console.get_by_role("button", name="Ask").click()
        expect(console.get_by_role("status").filter(has_text="No by")).to_be_visible()
        check(console, "connections")
        console.once("dialog", Dialog.accept)
        console.get_by_role("button", name="Disconnect carl").click()
        expect(console.get_by_text("There is no such connection.")).to_be_visible()


def test_frames_are_filtered_and_paused(console: Page, pods: tuple[Starling, Starling]) -> None:
    show(console, "Live")
    console.get_by_role("textbox", name="Name").fill("news:today")
    console.get_by_label("with data").check()
    console.get_by_role("button", name="Watch").click()
    lines = console.locator("ol.lines li")
    # The first ones may come before every pod watches.
    for number in range(100):
        publish(pods[1], "news:today", {"number": number})
        console.wait_for_timeout(100)
        if lines.count():
            break
    expect(lines.first).to_be_visible()
    console.get_by_label("Show lines with").fill("nowhere in them")
    expect(lines).to_have_count(0)
    console.get_by_label("Show lines with").fill("")
    console.get_by_role("button", name="Pause").click()
    expect(console.get_by_role("button", name="Go on")).to_be_visible()
    check(console, "live")


def test_a_token_is_explained(console: Page) -> None:
    show(console, "Token")
    console.get_by_label("Token", exact=True).fill(issue_connection_token(SECRET, "ann", 600))
    console.get_by_role("button", name="Explain").click()
    expect(console.get_by_role("status").filter(has_text="Accepted")).to_be_visible()
    check(console, "token")


def test_settings_are_shown_without_secrets(console: Page) -> None:
    show(console, "Limits and settings")
    console.get_by_label("Show settings with").fill("console_password")
    expect(console.locator("tbody tr")).to_have_count(1)
    expect(console.locator("tbody tr")).to_contain_text("(secret)")
    console.get_by_label("Show settings with").fill("")
    check(console, "settings")


def test_a_reader_sees_no_button_that_changes_something(
    context: BrowserContext, pods: tuple[Starling, Starling]
) -> None:
    page = context.new_page()
    page.set_viewport_size({"width": 320, "height": 640})
    page.emulate_media(reduced_motion="reduce")
    page.goto(f"{pods[1].internal}/console")
    check(page)
    log_in(page, pods[1], READ_PASSWORD)
    expect(page.get_by_text("reads only")).to_be_visible()
    show(page, "Users and connections")
    expect(page.get_by_role("region", name="Connections")).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("Disconnect"))).to_have_count(0)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("link", name="Log out").click()
    expect(page.get_by_label("Password")).to_be_visible()


@pytest.mark.skipif("PICTURES" not in os.environ, reason="it only fills the chart for a picture")
def test_the_overview_after_two_minutes_of_publications(console: Page, pods: tuple[Starling, Starling]) -> None:
    end = time.monotonic() + 120
    while (left := end - time.monotonic()) > 0:
        step = int(left * 10)
        publish(pods[step % 2], ("chat:lobby", "news:today")[step % 3 == 0], {"text": f"step {step}"})
        console.wait_for_timeout(150 + 100 * math.sin(left / 10))
    expect(console.get_by_role("region", name="Busiest channels").locator("tbody tr")).to_have_count(2)
    check(console, "overview")


def test_a_pod_that_is_gone_is_named_and_the_view_stays(context: BrowserContext) -> None:
    page = context.new_page()
    with Starling({"STARLING_DEV": "true"}) as pod:
        page.goto(f"{pod.internal}/console")
        expect(page.get_by_role("region", name="Nodes").locator("tbody tr")).to_have_count(1)
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    expect(page.get_by_role("region", name="Nodes").locator("tbody tr")).to_have_count(1)
