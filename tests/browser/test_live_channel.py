"""The live channel on the first page: names, presence, history and recovery, without a violation that axe finds."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import BrowserContext, Locator, expect

from starling.auth.issue import issue_connection_token
from tests.browser.axe import violations
from tests.browser.tab import Tab
from tests.support.running import SECRET, Starling

SDK = Path(__file__).parents[1] / "sdk"

OpenPage = Callable[[str], "LivePage"]


class LivePage:
    """One tab on the live channel."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.errors: list[str] = []
        self.page = context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.goto(address)
        self.card = self.page.get_by_role("region", name="Live channel")
        self.state = self.card.locator(".state")
        self.messages = self.card.get_by_role("log").locator("li")
        self.present = self.card.locator(".present li")
        self.message = self.card.get_by_label("Message", exact=True)

    def press(self, button: str) -> None:
        self.page.get_by_role("button", name=button, exact=True).click()

    def send(self, text: str) -> None:
        self.message.fill(text)
        self.press("Send")

    def newest(self) -> Locator:
        return self.messages.last


@pytest.fixture
def open_page(context: BrowserContext, service: Starling) -> Iterator[OpenPage]:
    """Opens the page as a user of a given name; nothing may fail on it."""
    pages: list[LivePage] = []

    def open_page(name: str) -> LivePage:
        page = LivePage(context, service.http)
        pages.append(page)
        expect(page.state).to_have_text("Connected")
        page.card.get_by_label("Your name").fill(name)
        page.press("Apply")
        expect(page.present.filter(has_text=re.compile(f"^{name}$"))).to_be_visible()
        return page

    yield open_page
    assert [page.errors for page in pages] == [[]] * len(pages)


def publish(service: Starling, data: Any) -> None:
    body = {"channel": "demo:chat", "data": data}
    httpx2.post(f"{service.http}/api/publish", json=body, headers={"X-API-Key": "dev"}, timeout=10).raise_for_status()


@contextmanager
def running(directory: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A program that runs until the block ends."""
    with subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, text=True) as program:
        try:
            yield program
        finally:
            program.kill()


def test_two_users_see_each_other_and_what_they_write(open_page: OpenPage) -> None:
    ann, ben = open_page("ann"), open_page("ben")
    expect(ann.present).to_have_text(["ann", "ben"])
    expect(ben.present).to_have_text(["ann", "ben"])
    ann.send("hello <b>ben</b>")
    expect(ben.newest()).to_have_text("ann hello <b>ben</b>")
    expect(ann.newest()).to_have_text("ann hello <b>ben</b>")
    expect(ann.message).to_have_value("")
    ben.page.close()
    expect(ann.present).to_have_text(["ann"])


def test_a_message_of_the_servers_api_appears_as_the_line_for_the_terminal_sends_it(
    open_page: OpenPage, service: Starling
) -> None:
    ann = open_page("ann")
    expect(ann.page.locator("#command")).to_have_text(
        f"""starling publish demo:chat '{{"text": "hello"}}' --url {service.http}"""
    )
    publish(service, {"text": "from a backend"})
    expect(ann.newest()).to_have_text("server from a backend")
    publish(service, [1, 2])
    expect(ann.newest()).to_have_text("server [1,2]")


def test_the_code_for_the_page_runs_as_it_is_shown(open_page: OpenPage, tmp_path: Path) -> None:
    ann = open_page("ann")
    python, javascript = (ann.page.locator(code).text_content() or "" for code in ("#python", "#javascript"))
    (tmp_path / "page.py").write_text(python)
    (tmp_path / "page.mjs").write_text(javascript)
    (tmp_path / "node_modules").symlink_to(SDK / "node_modules")
    with running(tmp_path, sys.executable, "page.py"):
        expect(ann.newest()).to_have_text("anonymous hello from Python")
    # Browsers have a WebSocket of their own, older versions of Node.js have not.
    (tmp_path / "browser.mjs").write_text('import WebSocket from "ws"; globalThis.WebSocket = WebSocket;')
    with running(tmp_path, "node", "--import", "./browser.mjs", "page.mjs") as program:
        assert program.stdout is not None
        lines = [program.stdout.readline()]
        while lines[-1] and "here now" not in lines[-1]:
            lines.append(program.stdout.readline())
        assert lines[-2:] == ["hello from Python\n", "2 here now\n"]
        ann.send("to the program")
        assert program.stdout.readline() == "to the program\n"


def test_what_was_published_while_the_connection_was_broken_is_recovered(
    open_page: OpenPage, service: Starling
) -> None:
    ann = open_page("ann")
    publish(service, {"text": "before"})
    expect(ann.newest()).to_have_text("server before")
    shown = ann.messages.count()
    ann.press("Break the connection")
    expect(ann.state).to_have_text("Connection broken by you")
    expect(ann.card.locator(".countdown")).to_have_text(re.compile("The page reconnects in [1-5] s"))
    for number in range(3):
        publish(service, {"text": f"missed {number}"})
    ann.send("kept")
    expect(ann.card.locator(".unsent")).to_contain_text("stays here until it was sent")
    expect(ann.state).to_have_text("Connected")
    expect(ann.card.locator(".recovered")).to_have_text("Recovered 3 messages")
    expect(ann.messages).to_have_count(shown + 3)
    expect(ann.newest()).to_have_text("server missed 2")
    expect(ann.message).to_have_value("kept")
    ann.press("Send")
    expect(ann.newest()).to_have_text("ann kept")


def test_a_reload_shows_the_last_50_messages_in_their_order(open_page: OpenPage, service: Starling) -> None:
    for number in range(60):
        publish(service, {"text": f"number {number}"})
    ann = open_page("ann")
    last = [f"server number {number}" for number in range(10, 60)]
    expect(ann.messages).to_have_text(last)
    ann.page.reload()
    expect(ann.messages).to_have_text(last)
    expect(ann.card.get_by_label("Your name")).to_have_value("ann")


def test_the_limit_counts_bytes_and_keeps_the_text(open_page: OpenPage) -> None:
    ann = open_page("ann")
    left = ann.card.locator("#live-bytes")
    empty = int(re.sub(r"\D", "", left.inner_text()))
    ann.message.fill("é€😀")
    expect(left).to_have_text(f"{empty - 9:,} bytes left")
    ann.message.fill("é" * 40_000)
    ann.press("Send")
    expect(ann.card.locator(".unsent")).to_contain_text("over the limit")
    expect(ann.message).to_have_value("é" * 40_000)
    # The largest message that fits passes.
    ann.send("x" * empty)
    expect(ann.newest()).to_have_text("ann " + "x" * empty)
    expect(ann.state).to_have_text("Connected")


def test_after_a_restart_both_tabs_reconnect_by_themselves_with_a_countdown(
    context: BrowserContext, open_tab: Callable[[str], Tab]
) -> None:
    with Starling({"STARLING_DEV": "true"}) as service:
        tutorial = open_tab(service.http)
        live = LivePage(context, service.http)
        expect(live.state).to_have_text("Connected")
        tutorial.chat.expect_state("Open")
        tutorial.echo.expect_state("Open")
        port = service.port
        service.stop()

    expect(live.state).to_have_text("Connection lost, the page reconnects")
    expect(live.card.locator(".countdown")).to_have_text(re.compile(r"Next attempt in \d+ s"))
    live.send("not lost")
    expect(tutorial.chat.state).to_contain_text("Closed: 1012, the service restarts; connect again")
    expect(tutorial.chat.card.locator(".countdown")).to_have_text(re.compile(r"Next attempt in \d+ s"))
    tutorial.chat.message.fill("kept")
    # An attempt that a person asks for shows why it failed.
    tutorial.echo.press("Connect")
    tutorial.echo.expect_refusal("does not answer. Is it running?")

    with Starling({"STARLING_DEV": "true", "STARLING_PORT": str(port)}):
        expect(live.state).to_have_text("Connected")
        live.press("Send")
        expect(live.newest()).to_contain_text("not lost")
        tutorial.chat.expect_state("Open")
        tutorial.chat.press("Send")
        expect(tutorial.chat.messages.first).to_have_text("You wrote: kept")


def test_outside_developer_mode_a_token_opens_the_channel(context: BrowserContext, tmp_path: Path) -> None:
    channels = tmp_path / "channels.yaml"
    channels.write_text(
        "namespaces: {chat: {history_size: 10, history_ttl: 1h, presence: true, "
        "allow_subscribe_for_client: true, allow_publish_for_subscriber: true, "
        "allow_presence_for_subscriber: true, allow_history_for_subscriber: true, force_recovery: true}}"
    )
    environment = {
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_CHANNELS_FILE": str(channels),
        "STARLING_TUTORIAL": "false",
    }
    with Starling(environment) as service:
        page = LivePage(context, f"{service.http}/#tutorial")
        expect(page.page.get_by_role("tab")).to_have_count(0)
        expect(page.page.get_by_role("link", name="Console")).to_have_count(0)
        expect(page.state).to_contain_text("enter an access token")
        page.page.get_by_label("Access token").fill(issue_connection_token(SECRET, "alice", 60))
        page.press("Use token")
        expect(page.card.locator(".problem")).to_contain_text("demo:chat is not available: unknown channel")
        page.card.get_by_label("Channel", exact=True).fill("chat:lobby")
        page.press("Apply")
        expect(page.present).to_have_text(["alice"])
        page.send("hello")
        expect(page.newest()).to_have_text("alice hello")
        assert page.errors == []


def test_the_keyboard_reaches_both_tabs_and_the_address_names_them(open_page: OpenPage) -> None:
    ann = open_page("ann")
    ann.page.get_by_role("tab", name="Live channel").focus()
    ann.page.keyboard.press("ArrowRight")
    expect(ann.page.get_by_role("tab", name="Tutorial")).to_be_focused()
    expect(ann.page.get_by_role("region", name="Echo").locator(".state")).to_have_text("Open")
    expect(ann.card).to_be_hidden()
    assert ann.page.url.endswith("#tutorial")
    ann.page.keyboard.press("ArrowLeft")
    expect(ann.card).to_be_visible()


@pytest.mark.parametrize("look", ["light", pytest.param("dark", marks=pytest.mark.long), "forced colours"])
def test_axe_finds_nothing_and_320_pixels_are_enough(context: BrowserContext, service: Starling, look: str) -> None:
    live = LivePage(context, service.http)
    live.page.set_viewport_size({"width": 320, "height": 640})
    live.page.emulate_media(
        color_scheme="dark" if look == "dark" else "light",
        forced_colors="active" if look == "forced colours" else "none",
    )
    live.send("مرحبا " + "w" * 300)
    expect(live.state).to_have_text("Connected")
    live.press("Send")
    expect(live.newest()).to_contain_text("مرحبا")
    assert live.newest().locator(".text").evaluate("text => getComputedStyle(text).direction") == "rtl"
    live.page.get_by_text("Code for this page").click()
    assert violations(live.page) == []
    assert live.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    live.page.get_by_role("tab", name="Tutorial").click()
    expect(live.page.get_by_role("region", name="Chat").locator(".state")).to_have_text("Open")
    assert violations(live.page) == []


def test_the_line_is_copied(context: BrowserContext, service: Starling) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    live = LivePage(context, service.http)
    live.press("Copy")
    expect(live.page.locator(".copied")).to_have_text("Copied")
    assert live.page.evaluate("navigator.clipboard.readText()") == live.page.locator("#command").inner_text()
