"""A headless Chromium for the tests of the demo page.

Playwright keeps its event loop running in this thread for as long as the browser lives, which is one module at most:
tests next to these fixtures are plain functions.
"""

import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

from tests.browser.tab import Tab
from tests.support.running import Starling

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

DEADLINE = 20_000  # milliseconds, for whatever a test waits for

OpenTab = Callable[[str], Tab]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    binary = shutil.which("chromium")
    if binary is None:
        pytest.skip("chromium is not installed; on Debian: apt-get install chromium")
    expect.set_options(timeout=DEADLINE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def shared_context(chromium: Browser) -> Iterator[BrowserContext]:
    """One context for a module, with an empty tab that stays; use `context` instead.

    The first tab of a context takes three times the CPU time of a further one.
    """
    context = chromium.new_context()
    context.new_page()
    yield context
    context.close()


@pytest.fixture
def context(shared_context: BrowserContext) -> Iterator[BrowserContext]:
    """A browser without tabs, cookies and rights of earlier tests; what the pages keep ends with their tab."""
    yield shared_context
    for page in shared_context.pages[1:]:
        page.close()
    shared_context.clear_cookies()
    shared_context.clear_permissions()


@pytest.fixture
def open_tab(context: BrowserContext) -> OpenTab:
    """Opens the demo page of a service, given its address, in a further tab of the same browser."""
    return lambda address: Tab(context, address)


@pytest.fixture(scope="module")
def service() -> Iterator[Starling]:
    """One worker in developer mode, where every endpoint opens without a token."""
    with Starling({"STARLING_DEV": "true"}) as service:
        yield service


@pytest.fixture
def tab(open_tab: OpenTab, service: Starling) -> Tab:
    """The page, with the endpoints open that open by themselves."""
    tab = open_tab(service.http)
    tab.echo.expect_state("Open")
    tab.chat.expect_state("Open")
    return tab
