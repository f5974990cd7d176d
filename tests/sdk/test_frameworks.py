"""The programs of the pages about React, Vue, Svelte and React Native, compiled as printed, in Chromium.

Those for React Native run with react-native-web, because a test cannot start a telephone;
`make typescript-check` checks their types.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.conftest import chromium, context, shared_context
from tests.sdk.javascript_sdk import FOLDER, require_sdk
from tests.sdk.test_browser import open_alone, serving_files
from tests.support.running import Starling

DOCS = FOLDER.parents[1] / "docs"
FILE = re.compile(r"^`([\w.]+)`:\n\n```\w+\n(.*?)```", re.DOTALL | re.MULTILINE)
SLOW = pytest.mark.long
# Each page, and the file where its program begins.
PAGES = {"react": "main.jsx", "vue": "main.js", "svelte": "main.js", "react-native": "main.tsx"}
# What a new project in React Native has, for react-native-web.
REGISTER = """
import { AppRegistry } from "react-native";
import App from "./App";
AppRegistry.registerComponent("chat", () => App);
AppRegistry.runApplication("chat", { rootTag: document.querySelector("#app") });
"""

__all__ = ["chromium", "context", "shared_context"]


@pytest.fixture(scope="module")
def developer() -> Iterator[Starling]:
    with Starling() as running:
        yield running


def files_of(name: str) -> dict[str, str]:
    """The files that a page gives to save."""
    files = dict(FILE.findall((DOCS / f"{name}.md").read_text()))
    return {**files, "main.tsx": REGISTER} if name == "react-native" else files


def bundle(folder: Path, name: str, service: Starling, without: str = "", **replaced: str) -> None:
    """Save the files of a page, without lines that have `without`, and bundle them as in development."""
    require_sdk()
    for package in ("react", "vue", "svelte", "react-native-web", "esbuild"):
        if not (FOLDER / "node_modules" / package).is_dir():
            pytest.skip(f"{package} is not installed; run: npm ci --prefix tests/sdk")
    (folder / "node_modules").symlink_to(FOLDER / "node_modules")
    files = files_of(name)
    assert sum("ws://localhost:8000" in text for text in files.values()) == 1
    for path, text in files.items():
        lines = [line for line in text.splitlines(keepends=True) if not without or without not in line]
        changed = "".join(lines).replace("ws://localhost:8000", service.url)
        for old, new in replaced.items():
            changed = changed.replace(old, new)
        (folder / path).write_text(changed)
    (folder / "index.html").write_text(
        '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">'
        '<div id="app"></div><script type="module" src="bundle.js"></script>'
    )
    shutil.copy(FOLDER / "bundle_page.mjs", folder)
    subprocess.run(["node", "bundle_page.mjs", str(folder), PAGES[name]], cwd=folder, check=True, timeout=60)


def expect_messages(page: Page, name: str, texts: list[str]) -> None:
    """Wait until the page shows these messages, in their order; the list for React Native begins with the newest."""
    expect(page.get_by_role("listitem")).to_have_text(texts[::-1] if name == "react-native" else texts)


def send(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()


def publish(service: Starling, channel: str, texts: list[str]) -> None:
    commands = [{"publish": {"channel": channel, "data": {"text": text}}} for text in texts]
    answer = httpx2.post(
        f"{service.http}/api/batch", json={"commands": commands}, headers={"X-API-Key": "dev"}, timeout=10
    )
    answer.raise_for_status()


@pytest.mark.parametrize(
    "name", ["react", "vue", pytest.param("svelte", marks=SLOW), pytest.param("react-native", marks=SLOW)]
)
def test_a_chat_shows_the_newest_50_in_their_order_and_what_both_tabs_send(
    context: BrowserContext, developer: Starling, tmp_path: Path, name: str
) -> None:
    publish(developer, "demo:chat", [f"m{number}" for number in range(60)])
    newest = [f"m{number}" for number in range(10, 60)]
    bundle(tmp_path, name, developer)
    with serving_files(tmp_path) as address:
        (alice, of_alice), (bob, of_bob) = open_alone(context, address), open_alone(context, address)
        for page, text in ((alice, "hello"), (bob, "<b>שלום</b>")):
            expect(page.get_by_text("2 online")).to_be_visible()
            send(page, text)
            expect(page.get_by_label("Message")).to_have_value("")
        for page in (alice, bob):
            expect_messages(page, name, [*newest, "hello", "<b>שלום</b>"])
        alice.close()
        expect(bob.get_by_text("1 online")).to_be_visible()
    assert [*of_alice, *of_bob] == []


@pytest.mark.long
@pytest.mark.parametrize("name", PAGES)
def test_a_text_is_shown_before_the_service_has_it_and_returns_to_the_field_if_it_is_not_sent(
    context: BrowserContext, developer: Starling, tmp_path: Path, name: str
) -> None:
    publish(developer, "demo:chat", [f"m{number}" for number in range(60)])
    newest = [f"m{number}" for number in range(10, 60)]
    # Without this the SDK reconnects before the time-out of a request: the network is there.
    later = '/connection/websocket", { minReconnectDelay: 60000, maxReconnectDelay: 60000 }'
    bundle(tmp_path, name, developer, **{'/connection/websocket"': later})
    with serving_files(tmp_path) as address:
        page, complaints = open_alone(context, address)
        expect_messages(page, name, newest)
        page.evaluate("window.dispatchEvent(new Event('offline'))")
        send(page, "kept")
        expect_messages(page, name, [*newest, "kept (sending)"])
        page.evaluate("window.dispatchEvent(new Event('online'))")
        expect_messages(page, name, [*newest, "kept"])
        page.evaluate("window.dispatchEvent(new Event('offline'))")
        send(page, "lost")
        expect_messages(page, name, [*newest, "kept", "lost (sending)"])
        expect(page.get_by_role("alert")).to_have_text("Not sent: timeout (1)")
        expect_messages(page, name, [*newest, "kept"])
        expect(page.get_by_label("Message")).to_have_value("lost")
        # What was published while the page was offline is recovered, in its order and once.
        publish(developer, "demo:chat", ["missed 1", "missed 2"])
        page.evaluate("window.dispatchEvent(new Event('online'))")
        expect_messages(page, name, [*newest, "kept", "missed 1", "missed 2"])
        page.get_by_role("button", name="Send").click()
        expect_messages(page, name, [*newest, "kept", "missed 1", "missed 2", "lost"])
        expect(page.get_by_role("alert")).to_be_empty()
    assert complaints == []


@pytest.mark.long
@pytest.mark.parametrize("name", ["react", "vue", "svelte"])
def test_a_component_that_is_shown_again_subscribes_again_and_leaves_its_channel_before(
    context: BrowserContext, developer: Starling, tmp_path: Path, name: str
) -> None:
    publish(developer, "demo:chat", ["here"])
    publish(developer, "demo:other", ["there"])
    bundle(tmp_path, name, developer)
    with serving_files(tmp_path) as address:
        page, complaints = open_alone(context, address)
        (other, _) = open_alone(context, address)
        expect(other.get_by_text("2 online")).to_be_visible()
        for channel, last in (("demo:other", "there"), ("demo:chat", "here"), ("", ""), ("demo:chat", "here")):
            page.get_by_label("Channel").select_option(channel)
            expect(other.get_by_text("2 online" if channel == "demo:chat" else "1 online")).to_be_visible()
            if channel:
                expect(page.get_by_role("listitem").last).to_have_text(last)
            else:
                expect(page.get_by_role("listitem")).to_have_count(0)
        # Unmounted and mounted again before any reply, as hot module replacement does.
        page.evaluate(
            """() => {
                const field = document.querySelector("select");
                for (const value of ["", "demo:chat", "demo:other", "demo:chat"]) {
                    field.value = value;
                    field.dispatchEvent(new Event("change", { bubbles: true }));
                }
            }"""
        )
        send(page, text := f"once in {name}")
        expect(other.get_by_role("listitem").last).to_have_text(text)
        expect(page.get_by_role("listitem").last).to_have_text(text)
        expect(page.get_by_role("listitem").get_by_text(text)).to_have_count(1)
    assert complaints == []


@pytest.mark.long
@pytest.mark.parametrize("name", ["react", "vue", "svelte"])
def test_without_the_removal_a_second_mount_fails_as_the_page_says(
    context: BrowserContext, developer: Starling, tmp_path: Path, name: str
) -> None:
    bundle(tmp_path, name, developer, without="removeSubscription")
    with serving_files(tmp_path) as address:
        page = context.new_page()
        said = "Subscription to the channel demo:chat already exists"
        with page.expect_event("pageerror", lambda error: said in str(error), timeout=20_000):
            page.goto(address)
            # React's StrictMode mounts twice by itself, and shows nothing after a failure.
            if name != "react":
                for channel in ("", "demo:chat"):
                    page.get_by_label("Channel").select_option(channel)
