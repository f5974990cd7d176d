"""`/connection/http_stream` on the wire, to the byte: heads, chunks, ends, and clients that are not as they should."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.conversation import emulate
from tests.support.running import Starling
from tests.support.streams import JsonStream, encoded, post

PATH = "/connection/http_stream"


@pytest.fixture(scope="module")
def starling() -> Iterator[Starling]:
    with Starling() as running:
        yield running


def opened(starling: Starling, *more: dict[str, Any], version: str = "1.1") -> JsonStream:
    """A stream whose request connects, with `more` commands behind."""
    return JsonStream(starling.port, post(PATH, encoded({"id": 1, "connect": {}}, *more), version=version))


def test_a_request_connects_and_gets_what_is_published_in_chunks(starling: Starling) -> None:
    with opened(starling, {"id": 2, "subscribe": {"channel": "demo:1"}}) as stream:
        assert (stream.version, stream.status, stream.is_chunked) == ("HTTP/1.1", 200, True)
        assert stream.headers["x-accel-buffering"] == "no"
        assert stream.headers["cache-control"] == "private, no-cache, no-store, must-revalidate, max-age=0"
        assert (stream.headers["pragma"], stream.headers["expire"]) == ("no-cache", "0")
        connected = stream.reply()
        assert connected["id"] == 1
        assert connected["connect"]["ping"] > 0
        assert "pong" not in connected["connect"]
        assert connected["connect"]["node"]
        assert len(connected["connect"]["session"]) > 32
        assert stream.reply()["id"] == 2
        with opened(starling, {"id": 2, "publish": {"channel": "demo:1", "data": {"text": "to all"}}}) as publisher:
            publisher.reply()
            assert publisher.reply() == {"id": 2, "publish": {}}
        assert stream.publication() == {"text": "to all"}


def test_without_a_broker_between_nodes_the_sessions_of_another_cannot_be_reached(starling: Starling) -> None:
    refused = emulate(starling.port, "a.b", "0123456789abcdef", b'{"id":2,"ping":{}}')
    assert (refused.status, json.loads(refused.body)["error"]["code"]) == (503, 108)


def test_a_client_of_http_1_0_gets_the_same_without_chunks(starling: Starling) -> None:
    with opened(starling, version="1.0") as stream:
        assert (stream.is_chunked, stream.headers["connection"]) == (False, "close")
        assert stream.reply()["id"] == 1


def test_a_stream_ends_with_a_push_that_says_why_and_the_last_chunk() -> None:
    with Starling() as starling:
        streams = [opened(starling, version=version) for version in ("1.1", "1.0")]
        for stream in streams:
            stream.reply()
        starling.process.terminate()
        for stream in streams:
            assert stream.reply() == {"push": {"disconnect": {"code": 3001, "reason": "shutdown", "reconnect": True}}}
            assert (stream.rest(), stream.ended) == (b"", True)
            stream.socket.close()
        assert len(starling.reported("client_disconnected", 2, transport="http_stream", code=3001)) == 2
