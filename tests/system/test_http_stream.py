"""`/connection/http_stream` on the wire, to the byte: heads, chunks, ends, and clients that are not as they should."""

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.conversation import emulate
from tests.support.running import Starling
from tests.support.streams import JsonStream, Stream, encoded, post

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
    assert starling.reported("commands_refused", reason="emulation_unavailable", address="127.0.0.1")[0]["remedy"]


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


SSE = "/connection/sse?cf_connect=" + quote('{"id":1,"connect":{}}')


def test_an_event_stream_begins_with_a_line_end_and_has_one_reply_an_event(starling: Starling) -> None:
    with Stream(starling.port, post(SSE, b"", method="GET")) as stream:
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["connection"] == "keep-alive"
        assert stream.piece() == b"\r\n"
        event = stream.until(b"\n\n").decode()
        assert event.startswith("data: {")
        assert "connect" in json.loads(event.removeprefix("data: "))


def test_a_connect_command_in_the_body_of_a_post_opens_an_event_stream_too(starling: Starling) -> None:
    with Stream(starling.port, post("/connection/sse", encoded({"id": 1, "connect": {}}))) as stream:
        assert stream.until(b"\n\n").startswith(b"\r\ndata: ")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (post(SSE, b"", method="HEAD"), 200),
        (post(PATH, b"", method="HEAD"), 405),
        (post(PATH, b"", method="GET"), 405),
        (post(PATH, b"", method="OPTIONS"), 204),
        (post("/connection/sse", b"", method="GET"), 400),
        (post("/connection/sse?cf_connect=%7B%5D", b"", method="GET"), 400),
        (post(PATH, b""), 400),
        (post(PATH, b"{]"), 400),
        (post(PATH, b"\n"), 400),
        (post(PATH, b"{}"), 400),
        (post(PATH, encoded({"connect": {}})), 400),
        (post(PATH, encoded({"id": 1, "subscribe": {"channel": "x"}}, {"id": 2, "connect": {}})), 400),
        (post(PATH, b"\x00", "Content-Type: application/octet-stream"), 400),
        (post("/connection/sse?cf_connect=%7B%7D", b"", method="GET"), 400),
        (post("/connection/uni_http_stream", b"{}", "Accept: text/event-stream"), 406),
        (post("/connection/uni_sse", b"{}", "Accept: application/x-ndjson"), 406),
        (post("/connection/uni_sse?cf_connect=%7B%7D", b"", "Accept: text/html", method="GET"), 406),
        (post(PATH, b" " * 65_537), 413),
        (post(SSE, b"", "Accept: application/json", method="GET"), 406),
        (post(SSE, b"", "Accept: text/event-stream;q=0, */*", method="GET"), 406),
        (post(PATH, encoded({"id": 1, "connect": {}}), "Accept: text/html"), 406),
        (post(PATH, encoded({"id": 1, "connect": {}}), "Origin: https://stranger.example"), 403),
    ],
)
def test_what_is_no_stream_is_answered_by_its_status(starling: Starling, request_bytes: bytes, status: int) -> None:
    with Stream(starling.port, request_bytes) as response:
        assert response.status == status
        if status == 200:
            assert response.headers["content-type"].startswith("text/event-stream")
        if status in (400, 406):
            assert starling.reported("connection_refused", reason="parameters")[-1]["remedy"]
        if status == 405:
            assert response.headers["allow"] == "POST, OPTIONS"


@pytest.mark.parametrize("accepted", ["application/json", "*/*", "text/html, application/*;q=0.5", ""])
def test_what_a_client_accepts_may_be_said_in_many_ways(starling: Starling, accepted: str) -> None:
    request = post(PATH, encoded({"id": 1, "connect": {}}), f"Accept: {accepted}")
    with JsonStream(starling.port, request) as stream:
        assert stream.reply()["id"] == 1


def test_a_client_that_ends_its_side_has_left(starling: Starling) -> None:
    with opened(starling) as stream:
        client = stream.reply()["connect"]["client"]
        stream.socket.shutdown(socket.SHUT_WR)
        starling.reported("client_disconnected", connection_id=client, code=3000)


def test_what_follows_the_request_on_its_connection_is_discarded_and_much_of_it_cuts_the_client(
    starling: Starling,
) -> None:
    request = post(PATH, encoded({"id": 1, "connect": {}}))
    with JsonStream(starling.port, request + post("/livez", b"", method="GET") + b"\x00" * 100) as stream:
        client = stream.reply()["connect"]["client"]
        stream.socket.sendall(b"more" * 1000)
        with pytest.raises(ConnectionError):
            stream.socket.sendall(b"x" * 2**26)
        starling.reported("client_disconnected", connection_id=client)
        starling.reported("connection_cut", reason="protocol_error")


def test_a_body_without_a_length_opens_a_stream_too(starling: Starling) -> None:
    body = encoded({"id": 1, "connect": {}})
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with JsonStream(starling.port, head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)) as stream:
        assert stream.reply()["id"] == 1
