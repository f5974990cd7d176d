"""The reference of the server API at `/docs`: dark where the system is, and without a violation that axe finds."""

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.axe import violations
from tests.support.running import Starling


@pytest.mark.long
def test_a_method_is_tried_and_axe_finds_nothing_in_light_and_dark(chromium: Browser, service: Starling) -> None:
    context = chromium.new_context(color_scheme="light")
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.goto(f"{service.http}/docs")
    expect(page.locator(".opblock-summary-path").first).to_have_text("/api/publish")
    page.get_by_role("button", name="Authorize").click()
    page.locator(".modal-ux").get_by_role("textbox").fill("dev")
    page.get_by_role("button", name="Apply credentials").click()
    page.get_by_role("button", name="Close", exact=True).click()
    page.locator("#operations-publish-publish .opblock-summary-control").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table tbody .response-col_status")).to_have_text("200")

    # Buttons change their colours slowly otherwise, and axe reads the colours in between.
    page.add_style_tag(content="* { transition: none !important }")
    backgrounds = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        assert violations(page) == [], scheme
        backgrounds.append(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
    assert backgrounds[0] != backgrounds[1]
    assert problems == []
    context.close()
