"""The opening handshake: what is one, and the bytes that answer it."""

import pytest

from starling.server.handshake import BadHandshake, accept_response, check_handshake, refuse_response, subprotocols_of

# The example of RFC 6455 section 1.3.
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
GOOD = [(b"host", b"localhost"), (b"sec-websocket-key", KEY), (b"sec-websocket-version", b"13")]


def test_the_example_of_the_standard_is_accepted_with_its_answer() -> None:
    assert check_handshake(b"GET", b"/chat", "1.1", GOOD) == KEY
    assert accept_response(KEY, "chat", [(b"date", b"today")]) == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\ndate: today\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("method", "target", "version", "headers"),
    [
        (b"POST", b"/", "1.1", GOOD),
        (b"GET", b"/", "1.0", GOOD),
        (b"GET", "/ü".encode(), "1.1", GOOD),
        (b"GET", b"/", "1.1", GOOD[:1] + GOOD[2:]),
        (b"GET", b"/", "1.1", [*GOOD, GOOD[1]]),
        (b"GET", b"/", "1.1", [(b"sec-websocket-key", b"c2hvcnQ="), GOOD[2]]),
        (b"GET", b"/", "1.1", [(b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=*"), GOOD[2]]),
        (b"GET", b"/", "1.1", GOOD[:2]),
        (b"GET", b"/", "1.1", [*GOOD[:2], (b"sec-websocket-version", b"8")]),
        (b"GET", b"/", "1.1", [*GOOD, (b"content-length", b"5")]),
        (b"GET", b"/", "1.1", [*GOOD, (b"transfer-encoding", b"chunked")]),
    ],
    ids=[
        "method",
        "HTTP/1.0",
        "target",
        "no key",
        "two keys",
        "short key",
        "no base64",
        "no version",
        "version 8",
        "body",
        "chunked",
    ],
)
def test_what_is_no_handshake_learns_what_it_lacks(
    method: bytes, target: bytes, version: str, headers: list[tuple[bytes, bytes]]
) -> None:
    with pytest.raises(BadHandshake, match=r"\.$"):
        check_handshake(method, target, version, headers)


def test_subprotocols_keep_the_clients_order_over_several_lines() -> None:
    headers = [(b"sec-websocket-protocol", b"one, two"), (b"x", b"y"), (b"sec-websocket-protocol", b"three")]
    assert subprotocols_of(headers) == ["one", "two", "three"]


def test_a_refusal_keeps_the_endpoints_headers_and_adds_what_is_missing() -> None:
    answer = refuse_response(401, [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")], b"{}")
    assert answer == (
        b"HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\nwww-authenticate: Bearer\r\n"
        b"Content-Length: 2\r\nConnection: close\r\n\r\n{}"
    )


def test_a_header_cannot_smuggle_in_another() -> None:
    with pytest.raises(ValueError, match="line end"):
        accept_response(KEY, None, [(b"x", b"1\r\nSet-Cookie: a=b")])
    with pytest.raises(ValueError, match="line end"):
        accept_response(KEY, "chat\r\nSet-Cookie: a=b", [])
