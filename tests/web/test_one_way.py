"""Clients that only read bare pushes: over SSE, a stream of lines, and WebSocket."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from centrifuge import fossil
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from starling.auth.issue import issue_connection_token
from tests.support.in_process import InProcessStarling
from tests.support.running import SECRET
from tests.support.streams import EventStream, JsonStream, Stream, get, post
from tests.web.test_sse import PAGE, Served, settings

Push = dict[str, Any]

# Tokens of parameters are made before the first test of a run, which may be long.
A_DAY = 86400.0


class Reader:
    """A client that has connected, by one of the transports."""

    def __init__(self, served: Served, transport: str, request: dict[str, Any], *headers: str, query: str = "") -> None:
        body, path = json.dumps(request), f"/connection/{transport.partition(' ')[0]}{query}"
        self._stream: Any
        self._stack = ExitStack()
        if transport == "uni_sse GET":
            query = f"{path}{'&' if query else '?'}cf_connect={quote(body)}"
            self._stream = EventStream(served.port, get(query, *headers))
        elif transport == "uni_sse POST":
            self._stream = EventStream(served.port, post(path, body.encode(), *headers))
        elif transport == "uni_http_stream":
            self._stream = JsonStream(served.port, post(path, body.encode(), *headers))
        else:
            given = dict(header.split(": ", 1) for header in headers)
            address = f"ws://127.0.0.1:{served.port}{path}"
            self._stream = self._stack.enter_context(connect(address, additional_headers=given, proxy=None))
            self._stream.send(body)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_exc: object) -> None:
        if isinstance(self._stream, Stream):
            self._stream.socket.close()
        self._stack.close()

    def push(self) -> Push:
        """The next push that is no ping."""
        while not (push := self._next()):
            pass
        return push

    def _next(self) -> Push:
        found: Push
        if isinstance(self._stream, EventStream):
            found = json.loads(self._stream.event().data)
        elif isinstance(self._stream, JsonStream):
            found = self._stream.reply()
        else:
            found = json.loads(self._stream.recv(timeout=10))
        return found

    def refusal(self) -> tuple[int, int]:
        """The status and the code of a refusal; status 101 where a WebSocket is closed with the code."""
        if isinstance(self._stream, Stream):
            return self._stream.status, json.loads(self._stream.rest())["error"]["code"]
        with pytest.raises(ConnectionClosed) as closed:
            self._stream.recv(timeout=10)
        assert closed.value.rcvd is not None
        return 101, closed.value.rcvd.code


TRANSPORTS = ("uni_sse GET", "uni_sse POST", "uni_http_stream", "uni_websocket")
each_transport = pytest.mark.parametrize("transport", TRANSPORTS)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    environment = settings(tmp_path_factory.mktemp("one-way")) | {"STARLING_WORKER_CONNECTIONS_PER_USER": "5"}
    with InProcessStarling(tmp_path_factory.mktemp("run"), environment) as starling:
        yield Served(starling.port)


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> Callable[[str], str]:
    return lambda namespace: f"{namespace}:{abs(hash(request.node.nodeid))}"


def token(user: str = "alice", **claims: Any) -> str:
    return jwt.encode({"sub": user, "exp": time.time() + A_DAY, **claims}, SECRET)


@each_transport
def test_a_client_gets_bare_pushes_of_the_channels_of_its_request(
    served: Served, transport: str, channel: Callable[[str], str]
) -> None:
    name = channel("kept")
    with Reader(served, transport, {"token": token(), "name": "curl", "subs": {name: {}}}) as reader:
        connected = reader.push()["connect"]
        assert connected["client"]
        assert connected["subs"][name]["recoverable"]
        assert connected["ping"] == 2
        assert connected.get("pong", False) is (transport == "uni_websocket")
        served.publish(name, {"n": 1}, [2])
        for number, data in enumerate(({"n": 1}, [2]), 1):
            push = reader.push()
            assert (push["channel"], push["pub"]["data"], push["pub"]["offset"]) == (name, data, number)


@each_transport
def test_a_client_gets_the_channels_of_its_token(served: Served, transport: str) -> None:
    with Reader(served, transport, {"token": token(channels=["closed:x"])}) as reader:
        assert list(reader.push()["connect"]["subs"]) == ["closed:x"]
        served.publish("closed:x", 7)
        assert reader.push()["pub"]["data"] == 7


@each_transport
def test_a_client_gets_a_token_channel_by_its_subscription_token(served: Served, transport: str) -> None:
    subscription = jwt.encode({"sub": "alice", "channel": "$news", "exp": time.time() + 600}, SECRET)
    with Reader(served, transport, {"token": token(), "subs": {"$news": {"token": subscription}}}) as reader:
        assert list(reader.push()["connect"]["subs"]) == ["$news"]
        served.publish("$news", 7)
        assert reader.push()["pub"]["data"] == 7


@each_transport
def test_a_client_recovers_what_it_missed(served: Served, transport: str, channel: Callable[[str], str]) -> None:
    name = channel("kept")
    served.publish(name, 1, 2, 3)
    epoch = served.call("history", {"channel": name, "limit": 0})["epoch"]
    position = {"recover": True, "epoch": epoch, "offset": 1}
    with Reader(served, transport, {"token": token(), "subs": {name: position}}) as reader:
        result = reader.push()["connect"]["subs"][name]
        assert result["recovered"]
        assert [each["data"] for each in result["publications"]] == [2, 3]


@each_transport
def test_a_client_gets_patches_of_the_documents_that_match_its_filter(
    served: Served, transport: str, channel: Callable[[str], str]
) -> None:
    name, text = channel("patched"), "a document that is long enough to be worth a patch " * 5
    asked = {"delta": "fossil", "tf": {"key": "color", "cmp": "eq", "val": "red"}}
    with Reader(served, transport, {"token": token(), "subs": {name: asked}}) as reader:
        assert reader.push()["connect"]["subs"][name]["delta"]
        for number, color in enumerate(("red", "blue", "red")):
            served.call("publish", {"channel": name, "data": [number, text], "tags": {"color": color}})
        whole, patch = reader.push()["pub"], reader.push()["pub"]
    assert (whole.get("delta", False), patch["delta"]) == (False, True)
    assert json.loads(whole["data"]) == [0, text]
    assert json.loads(fossil.apply_delta(whole["data"].encode(), patch["data"].encode())) == [2, text]


@each_transport
@pytest.mark.parametrize(
    ("request_", "status", "code", "close"),
    [
        ({}, 401, 3500, 3500),
        ({"token": "nonsense"}, 401, 3500, 3500),
        ({"token": issue_connection_token(SECRET, "alice", -60)}, 401, 109, 3500),
        ({"token": token(), "subs": {"closed:x": {}}}, 403, 103, 3507),
        ({"token": token(), "subs": {"nowhere:x": {}}}, 404, 102, 3507),
        ({"token": token(), "subs": {"news": {}, "bytes:x": {}}}, 400, 108, 3508),
        ({"token": 7}, 400, 107, 3501),
    ],
)
def test_a_refused_client_gets_a_status_or_a_code(
    served: Served, transport: str, request_: dict[str, Any], status: int, code: int, close: int
) -> None:
    with Reader(served, transport, request_) as reader:
        expected = (101, close) if transport == "uni_websocket" else (status, code)
        assert reader.refusal() == expected


@each_transport
def test_a_client_connects_by_its_header_its_cookie_or_a_ticket(served: Served, transport: str) -> None:
    with Reader(served, transport, {"subs": {"news": {}}}, f"Authorization: Bearer {token('by-header')}") as reader:
        assert "news" in reader.push()["connect"]["subs"]
    cookie = (f"Cookie: session={token('by-cookie')}", f"Origin: {PAGE}")
    with Reader(served, transport, {"subs": {"news": {}}}, *cookie) as reader:
        assert "news" in reader.push()["connect"]["subs"]
    ticket = served.call("ticket", {"user": "by-ticket", "channels": ["closed:x"]})["ticket"]
    with Reader(served, transport, {}, query=f"?ticket={ticket}") as reader:
        connected = reader.push()["connect"]
        assert list(connected["subs"]) == ["closed:x"]
    with Reader(served, transport, {"token": connected["resume"]}) as reader:
        assert list(reader.push()["connect"]["subs"]) == ["closed:x"]


@each_transport
def test_a_client_that_is_disconnected_gets_the_reason(served: Served, transport: str) -> None:
    user = f"ended-{transport}"
    with Reader(served, transport, {"token": token(user)}) as reader:
        reader.push()
        served.call("disconnect", {"user": user})
        if transport == "uni_websocket":
            assert reader.refusal() == (101, 3503)
        else:
            assert reader.push() == {"disconnect": {"code": 3503, "reason": "force disconnect", "reconnect": False}}
            with pytest.raises(EOFError):
                reader.push()


@each_transport
def test_a_backend_subscribes_and_unsubscribes_a_client(served: Served, transport: str) -> None:
    user = f"moved-{transport}"
    with Reader(served, transport, {"token": token(user)}) as reader:
        reader.push()
        served.call("subscribe", {"user": user, "channel": "closed:x"})
        assert reader.push()["channel"] == "closed:x"
        served.publish("closed:x", 1)
        assert reader.push()["pub"]["data"] == 1
        served.call("unsubscribe", {"user": user, "channel": "closed:x"})
        assert reader.push()["unsubscribe"]["code"] == 2000


def test_a_client_without_anything_in_its_request_is_the_one_of_its_header(served: Served) -> None:
    bearer = f"Authorization: Bearer {token('silent')}"
    for request in (get("/connection/uni_sse", bearer), post("/connection/uni_sse", b"", bearer)):
        with EventStream(served.port, request) as stream:
            assert json.loads(stream.event().data)["connect"]["client"]


@each_transport
def test_a_user_may_have_a_number_of_connections(served: Served, transport: str) -> None:
    user = f"many-{transport}"
    readers = [Reader(served, transport, {"token": token(user)}) for _ in range(5)]
    for reader in readers:
        reader.push()
    with Reader(served, transport, {"token": token(user)}) as beyond:
        assert beyond.refusal() == ((101, 3504) if transport == "uni_websocket" else (429, 3504))
    for reader in readers:
        reader.__exit__()


def test_what_a_websocket_sends_after_its_request_means_nothing(served: Served) -> None:
    with Reader(served, "uni_websocket", {"token": token("talker"), "subs": {"news": {}}}) as reader:
        reader.push()
        reader._stream.send('{"id": 2, "publish": {"channel": "news", "data": "from the client"}}')
        reader._stream.send("no JSON at all")
        served.publish("news", "from the backend")
        assert reader.push()["pub"]["data"] == "from the backend"


def test_a_websocket_is_refused_for_a_request_in_the_address_that_is_none(served: Served) -> None:
    address = f"ws://127.0.0.1:{served.port}/connection/uni_websocket?cf_connect=x"
    with pytest.raises(InvalidStatus) as refused, connect(address, proxy=None):
        pass
    assert refused.value.response.status_code == 400
