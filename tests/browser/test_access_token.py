"""The demo page outside developer mode: nothing opens without a token, everything with one."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import expect

from starling.auth.issue import issue_connection_token
from tests.browser.tab import Tab
from tests.support.running import SECRET, Starling


@pytest.fixture(scope="module")
def service() -> Iterator[Starling]:
    with Starling({"STARLING_TOKEN_HMAC_SECRET": SECRET}) as service:
        yield service


@pytest.fixture
def tab(open_tab: Callable[[str], Tab], service: Starling) -> Tab:
    """The page, whose endpoints were refused by the time it is shown, for no token was given."""
    tab = open_tab(service.http)
    for exercise in (tab.echo, tab.chat):
        exercise.expect_refusal("an access token is needed", "STARLING_ALLOWED_ORIGINS")
    return tab


@pytest.fixture
def token() -> str:
    return issue_connection_token(SECRET, "alice", 60)


def test_a_token_opens_echo_and_chat(tab: Tab, token: str) -> None:
    tab.use_token(token)
    tab.echo.expect_state("Open")
    tab.chat.expect_state("Open")

    tab.echo.send("hello")
    tab.echo.expect_messages("Message text was: hello")
    tab.chat.send("hello")
    tab.chat.expect_messages("You wrote: hello", f"Client #{tab.client_id} says: hello")


@pytest.mark.parametrize("query_token", ["", "some-key-token"])
def test_the_items_endpoint_answers_with_the_tokens_user(tab: Tab, token: str, query_token: str) -> None:
    tab.use_token(token)
    tab.items.field("Query token").fill(query_token)
    tab.items.connect()
    tab.items.send("hi")
    tab.items.expect_messages("Session cookie or query token value is: alice", "Message text was: hi, for item ID: foo")


def test_a_query_token_alone_opens_nothing(tab: Tab, token: str) -> None:
    tab.items.field("Query token").fill(token)
    tab.items.press("Connect")
    tab.items.expect_refusal("an access token is needed")


@pytest.mark.parametrize(
    "bad",
    [
        issue_connection_token(SECRET, "alice", -60),
        issue_connection_token("another secret, longer than thirty-two bytes", "alice", 60),
        "nonsense",
    ],
    ids=["expired", "foreign", "nonsense"],
)
def test_an_invalid_token_is_refused_and_the_page_says_what_to_look_at(tab: Tab, bad: str) -> None:
    tab.use_token(bad)
    tab.echo.expect_refusal("may have expired", "STARLING_TOKEN_HMAC_SECRET")


def test_a_token_of_impossible_letters_is_not_sent(tab: Tab) -> None:
    asked = list(tab.requests)
    tab.use_token("two words")
    assert tab.access_token.evaluate("field => field.validity.patternMismatch") is True
    assert tab.requests == asked


def test_the_token_is_in_no_address_and_in_no_memory_but_the_pages(tab: Tab, token: str) -> None:
    tab.use_token(f" {token}\t")
    tab.items.connect()
    tab.echo.expect_state("Open")

    assert len([address for address in tab.requests if address.startswith("ws:")]) >= 5
    assert not [address for address in tab.requests if token in address]
    assert tab.page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])") == '[{},{},""]'
    tab.page.reload()
    expect(tab.access_token).to_have_value("")
    tab.echo.expect_refusal("an access token is needed")
