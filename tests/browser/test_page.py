"""The first page itself: it keeps to its security policy, it can be read and operated by everyone, on any screen."""

from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.tab import Tab
from tests.support.running import Starling

# Texts whose contrast with what is behind them is under WCAG 2.2's 4.5 to 1 (success criterion 1.4.3).
FAINT_TEXTS = """() => {
  const channel = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const luminance = color => {
    const [r, g, b] = color.match(/[\\d.]+/g).map(part => channel(part / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = element => {
    for (let each = element; each; each = each.parentElement) {
      const color = getComputedStyle(each).backgroundColor;
      if (color !== "rgba(0, 0, 0, 0)") return color;
    }
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const said = [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (!said && !element.matches("input, select")) continue;
    if (!element.checkVisibility()) continue;
    const pair = [getComputedStyle(element).color, ground(element)].map(luminance).sort((a, b) => b - a);
    const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (contrast < 4.5) faint.push(`${contrast.toFixed(2)} ${element.outerHTML.slice(0, 80)}`);
  }
  return faint;
}"""


def refuse_items(page: Page) -> None:
    """Show a refusal too, which is the longest text on the page."""
    items = page.get_by_role("region", name="Items")
    items.get_by_label("Query token").fill("")
    items.get_by_role("button", name="Connect").click()
    expect(items.locator(".refusal")).to_be_visible()


def test_it_loads_without_a_complaint_and_from_this_service_alone(tab: Tab, service: Starling) -> None:
    assert tab.errors == []
    assert {urlsplit(address).netloc for address in tab.requests} == {f"127.0.0.1:{service.port}"}
    assert {urlsplit(address).path for address in tab.requests} >= {"/", "/static/page.js", "/static/style.css", "/ws"}


def test_its_policy_lets_no_script_run_that_is_not_the_services_own(tab: Tab) -> None:
    tab.page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.intruded = true";
          document.body.append(script);
        }"""
    )
    assert tab.page.evaluate("window.intruded") is None
    assert len(tab.errors) == 1
    assert "Content Security Policy" in tab.errors[0]


def test_its_links_lead_somewhere(tab: Tab) -> None:
    links = tab.page.get_by_role("link")
    addresses = [link.evaluate("link => link.href") for link in links.all()]
    assert len(addresses) == 5
    assert any(address.endswith("/console") for address in addresses)
    for address in addresses:
        assert tab.page.request.get(address).status == 200, address


def test_every_field_and_button_has_a_name(tab: Tab) -> None:
    names = tab.page.locator("input, select, textarea").evaluate_all(
        "fields => fields.map(field => field.labels[0]?.textContent.trim())"
    )
    assert len(names) == 12
    assert all(names)
    assert all(tab.page.locator("button").all_text_contents())


def test_logs_and_states_are_read_out(tab: Tab) -> None:
    for exercise in (tab.echo, tab.items, tab.chat):
        expect(exercise.card.get_by_role("log", name="Messages")).to_have_attribute("aria-live", "polite")
        expect(exercise.state).to_have_role("status")


def test_the_keyboard_is_enough(tab: Tab) -> None:
    keyboard = tab.page.keyboard
    # The chosen tab, and two steps into its panel.
    for _ in range(3):
        keyboard.press("Tab")
    keyboard.type("typed")
    keyboard.press("Enter")
    tab.echo.expect_messages("Message text was: typed")

    keyboard.press("Shift+Tab")
    keyboard.press("Space")
    tab.echo.expect_state("Closed: 1000, normal end")
    expect(tab.echo.card.get_by_role("button", name="Connect")).to_be_focused()
    keyboard.press("Space")
    tab.echo.expect_state("Open")


def test_it_fits_every_screen_without_sideways_scrolling(tab: Tab) -> None:
    tab.echo.send("w" * 300)
    tab.echo.expect_messages("Message text was: " + "w" * 300)
    refuse_items(tab.page)
    for width in (320, 390, 768, 1440):
        tab.page.set_viewport_size({"width": width, "height": 800})
        assert tab.page.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width, width]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(context: BrowserContext, service: Starling, scheme: str) -> None:
    page = context.new_page()
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.goto(service.http)
    expect(page.get_by_role("region", name="Live channel").locator(".state")).to_have_text("Connected")
    assert page.evaluate(FAINT_TEXTS) == []
    page.get_by_role("tab", name="Tutorial").click()
    refuse_items(page)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 20, 29)"
    assert dark == (scheme == "dark")
    assert page.evaluate(FAINT_TEXTS) == []


def test_the_icon_is_where_browsers_look_for_it(tab: Tab, service: Starling) -> None:
    icon = tab.page.request.get(f"{service.http}/favicon.ico")
    assert (icon.status, icon.headers["content-type"]) == (200, "image/svg+xml")


def test_text_of_right_to_left_scripts_is_laid_out_so_in_fields_and_messages(tab: Tab) -> None:
    direction = "element => getComputedStyle(element).direction"
    for exercise, message in ((tab.echo, "مرحبا بالعالم"), (tab.chat, "שלום")):
        exercise.message.fill(message)
        assert exercise.message.evaluate(direction) == "rtl"
        exercise.press("Send")
        expect(exercise.messages.first).to_contain_text(message)
        # The endpoints put English before it; the first letter decides, so the same entry with another text turns.
        assert exercise.messages.first.evaluate(direction) == "ltr"
        exercise.messages.first.evaluate("(item, message) => { item.textContent = message; }", message)
        assert exercise.messages.first.evaluate(direction) == "rtl"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_high_contrast_still_shows_which_endpoint_is_open(
    context: BrowserContext, service: Starling, scheme: str
) -> None:
    page = context.new_page()
    page.emulate_media(forced_colors="active", color_scheme="dark" if scheme == "dark" else "light")
    page.goto(f"{service.http}/#tutorial")
    look = """state => {
      const dot = getComputedStyle(state, "::before");
      return {filled: dot.backgroundColor === dot.borderColor, ring: dot.borderStyle};
    }"""
    opened = page.get_by_role("region", name="Echo").locator(".state")
    idle = page.get_by_role("region", name="Items").locator(".state")
    expect(opened).to_have_text("Open")
    assert page.evaluate("matchMedia('(forced-colors: active)').matches")
    assert opened.evaluate(look) == {"filled": True, "ring": "solid"}
    assert idle.evaluate(look) == {"filled": False, "ring": "solid"}


@pytest.mark.long
def test_the_reference_of_the_api_begins_with_publish_and_is_dark_where_the_system_is(
    context: BrowserContext, service: Starling
) -> None:
    page = context.new_page()
    page.emulate_media(color_scheme="dark")
    page.goto(f"{service.http}/docs")
    expect(page.locator(".opblock-summary-path").first).to_have_text("/api/publish")
    assert [heading.inner_text() for heading in page.get_by_role("heading", level=2).all()] == ["Methods"]
    color = page.locator("h2.methods").evaluate("heading => getComputedStyle(heading).color")
    assert color == "rgb(228, 230, 230)"
