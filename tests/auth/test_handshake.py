"""Where a handshake's token is looked for, in which order, and what the server echoes."""

import pytest

from starling.auth.handshake import PresentedToken, TokenSource, find_token, select_subprotocol, session_cookie

TOKEN = "aaa.bbb.ccc"


def test_the_first_place_that_holds_a_token_counts() -> None:
    places = {
        "authorization": "Bearer from-header",
        "subprotocols": ["starling.v1", "bearer.from-subprotocol"],
        "cookie": "from-cookie",
        "query": "from-query",
    }
    found = []
    for place in list(places):
        presented = find_token(**places, allow_query=True)  # type: ignore[arg-type]
        assert presented is not None
        found.append((presented.token, presented.source))
        del places[place]
    assert found == [
        ("from-header", TokenSource.HEADER),
        ("from-subprotocol", TokenSource.SUBPROTOCOL),
        ("from-cookie", TokenSource.COOKIE),
        ("from-query", TokenSource.QUERY),
    ]
    assert find_token() is None


def test_the_query_counts_only_where_it_is_allowed() -> None:
    assert find_token(query=TOKEN) is None
    assert find_token(query=TOKEN, allow_query=True) == PresentedToken(TOKEN, TokenSource.QUERY)


@pytest.mark.parametrize("header", ["Bearer aaa.bbb.ccc", "bearer aaa.bbb.ccc", "BEARER   aaa.bbb.ccc "])
def test_the_scheme_is_bearer_in_any_case(header: str) -> None:
    assert find_token(authorization=header) == PresentedToken(TOKEN, TokenSource.HEADER)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "aaa.bbb.ccc", "Bearerx aaa"])
def test_a_header_without_a_bearer_token_is_passed_over(header: str) -> None:
    assert find_token(authorization=header, cookie=TOKEN) == PresentedToken(TOKEN, TokenSource.COOKIE)


@pytest.mark.parametrize("offered", [[], ["starling.v1"], ["bearer."], ["Bearer.x"], ["x-bearer.x"]])
def test_subprotocols_without_a_token_are_passed_over(offered: list[str]) -> None:
    assert find_token(subprotocols=offered) is None


def test_empty_places_are_passed_over() -> None:
    assert find_token(authorization="", subprotocols=["bearer."], cookie="", query="", allow_query=True) is None


def test_only_the_name_of_the_protocol_is_echoed_never_the_token() -> None:
    assert select_subprotocol(["bearer." + TOKEN, "starling.v1"]) == "starling.v1"
    assert select_subprotocol(["bearer." + TOKEN]) is None
    assert select_subprotocol(["starling.v2"]) is None
    assert select_subprotocol([]) is None


def test_a_presented_token_does_not_show_itself() -> None:
    assert TOKEN not in repr(find_token(cookie=TOKEN))


@pytest.mark.parametrize(
    ("headers", "cookie"),
    [
        ([], None),
        (["a=b"], None),
        (["session"], None),
        (["session=t"], "t"),
        (["a=b; session=t; c=d"], "t"),
        (['session="t"'], "t"),
        (["session=t; session=t"], "t"),
        (["session=mine; session=theirs"], "mine, theirs"),
        (["session=theirs", "session=mine"], "theirs, mine"),
        (["session=theirs; __Host-session=mine"], "mine"),
        (["__Host-session=mine", "session=theirs"], "mine"),
        (["__Host-session=one; __Host-session=two"], "one, two"),
        (["Session=t; xsession=t"], None),
    ],
)
def test_of_two_different_session_cookies_neither_counts(headers: list[str], cookie: str | None) -> None:
    assert session_cookie(headers) == cookie
