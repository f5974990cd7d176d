"""The tutorial's three exercises, played on the demo page in a real browser against the real service."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.browser.tab import Tab
from tests.support.running import Starling

# --- echo ---


def test_text_returns_in_a_sentence(tab: Tab) -> None:
    tab.echo.send("hello")
    tab.echo.expect_messages("Message text was: hello")


def test_markup_is_shown_as_the_text_it_is(tab: Tab) -> None:
    tab.echo.send("<img src=x onerror=alert(1)>  two  spaces")

    tab.echo.expect_messages("Message text was: <img src=x onerror=alert(1)>  two  spaces")
    expect(tab.echo.messages.locator("*")).to_have_count(0)
    assert tab.errors == []


def test_json_is_sent_as_it_was_typed(tab: Tab) -> None:
    tab.echo.field("Send as").select_option("JSON")
    tab.echo.send('{"big": 12345678901234567890, "é": [1]}')
    tab.echo.expect_messages('Message text was: {"big": 12345678901234567890, "é": [1]}')


def test_what_is_not_json_is_reported_and_not_sent(tab: Tab) -> None:
    tab.echo.field("Send as").select_option("JSON")
    tab.echo.send("{'a': 1}")
    assert tab.echo.message.evaluate("field => field.validationMessage") == "This is not JSON."

    tab.echo.send('{"a": 1}')
    tab.echo.expect_messages('Message text was: {"a": 1}')


def test_bytes_return_as_they_were(tab: Tab) -> None:
    tab.echo.field("Send as").select_option("Bytes")
    tab.echo.send("héllo")
    tab.echo.expect_messages("Binary, 6 bytes: 68 c3 a9 6c 6c 6f")


def test_a_file_returns_as_it_was(tab: Tab, tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(b"\x00\xff\x10\x80" * 10)
    tab.echo.field("File").set_input_files(tmp_path / "picture")
    tab.echo.press("Send file")
    tab.echo.expect_messages("Binary, 40 bytes: " + "00 ff 10 80 " * 8 + "…")


def test_a_file_over_the_limit_ends_the_connection_and_the_page_says_why(tab: Tab, tmp_path: Path) -> None:
    (tmp_path / "film").write_bytes(bytes(65537))
    tab.echo.field("File").set_input_files(tmp_path / "film")
    tab.echo.press("Send file")

    expect(tab.echo.state).to_contain_text("Closed: 1009, the message was too large")
    tab.echo.send("and on")
    tab.echo.expect_messages("Message text was: and on")


def test_a_text_over_the_limit_stays_and_is_not_sent(tab: Tab) -> None:
    tab.echo.message.fill("é" * 32_768)
    expect(tab.page.locator("#echo-bytes")).to_have_text("0 bytes left")
    tab.echo.message.fill("é" * 32_769)
    tab.echo.press("Send")
    assert "2 bytes over the limit" in tab.echo.message.evaluate("field => field.validationMessage")
    expect(tab.echo.message).to_have_value("é" * 32_769)
    tab.echo.expect_state("Open")


def test_one_leaves_and_returns(tab: Tab) -> None:
    tab.echo.press("Disconnect")
    tab.echo.expect_state("Closed: 1000, normal end")

    tab.echo.connect()
    tab.echo.send("again")
    tab.echo.expect_messages("Message text was: again")


def test_sending_opens_the_endpoint_where_need_be(tab: Tab) -> None:
    tab.echo.press("Disconnect")
    tab.echo.expect_state("Closed: 1000, normal end")

    tab.echo.send("knock")
    tab.echo.expect_messages("Message text was: knock")


# --- items ---


def test_the_items_endpoint_reports_token_and_text(tab: Tab) -> None:
    tab.items.connect()
    tab.items.send("hi")
    tab.items.expect_messages(
        "Session cookie or query token value is: some-key-token", "Message text was: hi, for item ID: foo"
    )


def test_the_items_endpoint_reports_q_too(tab: Tab) -> None:
    tab.items.field("Item ID").fill("blue boots & 50 %")
    tab.items.field("Query token").fill("a+b=c&d")
    tab.items.field("q").fill("7")
    tab.items.connect()
    tab.items.send("hi")
    tab.items.expect_messages(
        "Session cookie or query token value is: a+b=c&d",
        "Query parameter q is: 7",
        "Message text was: hi, for item ID: blue boots & 50 %",
    )


def test_the_items_endpoint_refuses_who_has_no_token_and_the_page_says_what_to_look_at(tab: Tab) -> None:
    tab.items.field("Query token").fill("")
    tab.items.press("Connect")
    tab.items.expect_refusal("a query token, a cookie “session” or an access token")

    tab.items.field("Query token").fill("late")
    tab.items.connect()
    expect(tab.items.refusal).to_be_hidden()


def test_a_q_that_is_no_number_is_refused(tab: Tab) -> None:
    tab.items.field("q").fill("abc")
    tab.items.press("Connect")
    tab.items.expect_refusal("q, if given, as a whole number")


def test_a_refused_message_stays_in_its_field(tab: Tab) -> None:
    tab.items.field("Query token").fill("")
    tab.items.send("do not lose me")
    tab.items.expect_refusal()
    expect(tab.items.message).to_have_value("do not lose me")


def test_the_cookie_beats_the_token(tab: Tab, context: BrowserContext, service: Starling) -> None:
    context.add_cookies([{"name": "session", "value": "from-the-cookie", "url": service.http}])
    tab.items.connect()
    tab.items.send("hi")
    tab.items.expect_messages(
        "Session cookie or query token value is: from-the-cookie", "Message text was: hi, for item ID: foo"
    )


def test_an_item_id_that_would_lead_to_another_endpoint_is_not_sent(tab: Tab) -> None:
    asked = list(tab.requests)
    for item_id in ("", ".", "..", "a/b"):
        tab.items.field("Item ID").fill(item_id)
        tab.items.press("Connect")
        assert tab.items.field("Item ID").evaluate("field => field.validity.valid") is False, item_id

    tab.items.expect_state("Not connected")
    assert tab.requests == asked


# --- chat ---


@pytest.fixture
def other(tab: Tab, open_tab: Callable[[str], Tab], service: Starling) -> Tab:
    """A second tab of the same browser, in the chat as well."""
    other = open_tab(service.http)
    other.chat.expect_state("Open")
    assert other.client_id != tab.client_id
    return other


def test_two_tabs_chat(tab: Tab, other: Tab) -> None:
    tab.chat.send("hello")
    tab.chat.expect_messages("You wrote: hello", f"Client #{tab.client_id} says: hello")
    other.chat.expect_messages(f"Client #{tab.client_id} says: hello")

    other.chat.send("hi")
    other.chat.expect_messages(
        f"Client #{tab.client_id} says: hello", "You wrote: hi", f"Client #{other.client_id} says: hi"
    )
    tab.chat.expect_messages(
        "You wrote: hello", f"Client #{tab.client_id} says: hello", f"Client #{other.client_id} says: hi"
    )


def test_a_closed_tab_has_left_the_chat(tab: Tab, other: Tab) -> None:
    gone = other.client_id
    other.page.close()
    tab.chat.expect_messages(f"Client #{gone} left the chat")


def test_who_disconnects_has_left_the_chat_and_may_return_under_the_same_number(tab: Tab, other: Tab) -> None:
    tab.chat.press("Disconnect")
    tab.chat.expect_state("Closed: 1000, normal end")
    other.chat.expect_messages(f"Client #{tab.client_id} left the chat")

    tab.chat.connect()
    tab.chat.send("back")
    other.chat.expect_messages(f"Client #{tab.client_id} left the chat", f"Client #{tab.client_id} says: back")
