"""Heads that are known on a connection: what counts as the same request, and when an endpoint decides again."""

from collections.abc import Coroutine
from typing import Any

import pytest

from starling.engine.direct_request import DirectRequest, Respond, Work
from starling.server.known_heads import MOST_HEAD_BYTES, MOST_HEADS, KnownHeads


class Endpoint:
    """What KnownHeads asks of an endpoint."""

    max_body_bytes = 1000
    version = 0

    def accept(self, request: DirectRequest) -> Work | None:
        raise AssertionError("known heads are not decided about again")


def work(body: bytes, respond: Respond) -> Coroutine[Any, Any, None] | None:
    raise AssertionError("nothing runs here")


def request(body: bytes, length: bytes = b"", path: bytes = b"/api/publish", more: bytes = b"") -> bytes:
    length = length or b"%d" % len(body)
    return b"POST %b HTTP/1.1\r\nHost: x\r\ncontent-Length: %b\r\n%bX-API-Key: k\r\n\r\n%b" % (path, length, more, body)


@pytest.fixture
def heads() -> KnownHeads:
    heads = KnownHeads(Endpoint())
    heads.remember(request(b"hello"), 5, work)
    return heads


@pytest.mark.parametrize("body", [b"", b"hello", b"x" * 1000, b"\r\n\r\n"])
def test_a_head_is_known_whatever_the_length_of_its_body(heads: KnownHeads, body: bytes) -> None:
    assert heads.find(request(body)) == (work, body)


@pytest.mark.parametrize(
    "data",
    [
        request(b"x" * 1001),
        request(b"hello", b"4"),
        request(b"hello", b"6"),
        request(b"hello", b"+5"),
        request(b"hello", b" 5"),
        request(b"hello", b"5 "),
        request(b"hello", b"5, 5"),
        request(b"hello", b"0x5"),
        request(b"hello", b"-5"),
        request(b"hello", b"0000000005"),
        request(b"hello", b"\xd9\xa5"),
        request(b"hello", b"5\r\nContent-Length: 5"),
        request(b"hello", more=b"Transfer-Encoding: chunked\r\n"),
        request(b"hello").replace(b"X-API-Key: k", b"X-API-Key: l"),
        request(b"hello", path=b"/api/history"),
        request(b"hello") + request(b"hello"),
        request(b"hello")[:-1],
        request(b"hello")[:-6],
        request(b"hello")[:40],
        b"\r\n" + request(b"hello"),
        b"",
    ],
)
def test_anything_else_is_left_to_the_parser(heads: KnownHeads, data: bytes) -> None:
    assert heads.find(data) is None


@pytest.mark.parametrize(
    ("data", "length"),
    [
        (request(b"hello") + request(b"hello"), 5),
        (request(b"hello", more=b"Content-Length: 5\r\n"), 5),
        (request(b"hello", b"6"), 5),
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", 0),
        (b"POST / HTTP/1.1\nHost: x\nContent-Length: 5\n\nhello", 5),
        (request(b"hello", more=b"X-Long: %b\r\n" % (b"x" * MOST_HEAD_BYTES)), 5),
    ],
    ids=["two requests", "two lengths", "another length", "no length", "bare LF", "long"],
)
def test_only_the_head_of_one_plain_request_is_remembered(data: bytes, length: int) -> None:
    heads = KnownHeads(Endpoint())
    heads.remember(data, length, work)
    assert heads.find(data) is None


def test_the_endpoint_decides_again_when_its_version_changes() -> None:
    endpoint = Endpoint()
    heads = KnownHeads(endpoint)
    heads.remember(request(b"hello"), 5, work)
    endpoint.version += 1
    assert heads.find(request(b"hello")) is None
    endpoint.version -= 1
    assert heads.find(request(b"hello")) is None


def test_the_newest_heads_stay() -> None:
    heads = KnownHeads(Endpoint())
    paths = [b"/%d" % number for number in range(MOST_HEADS + 1)]
    for path in paths:
        heads.remember(request(b"", path=path), 0, work)
    known = [path for path in paths if heads.find(request(b"", path=path)) is not None]
    assert known == paths[1:]
