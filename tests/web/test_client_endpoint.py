"""The client endpoint over both ways to it: our own server's direct call, and the route of an ordinary ASGI server."""

import json
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from starling.auth.issue import issue_connection_token
from tests.support.in_process import InProcessStarling
from tests.support.plain_uvicorn import under_uvicorn
from tests.support.running import SECRET
from tests.support.waiting import DEADLINE

PATH = "/connection/websocket"
SETTINGS = {"STARLING_TOKEN_HMAC_SECRET": SECRET, "STARLING_TOKEN_IN_QUERY": "true", "STARLING_MAX_CONNECTIONS": "10"}
JSON_CONNECT = json.dumps({"id": 1, "connect": {}})
PROTOBUF_CONNECT = b"\x04\x08\x01\x22\x00"


@dataclass(frozen=True)
class Served:
    """A service, by the port it listens on."""

    port: int

    def connect(self, query: str = "", offered: tuple[str, ...] = (), **headers: str) -> ClientConnection:
        return connect(
            f"ws://127.0.0.1:{self.port}{PATH}{query}",
            subprotocols=[Subprotocol(name) for name in offered] or None,
            additional_headers={name.replace("_", "-"): value for name, value in headers.items()},
            proxy=None,
            close_timeout=1,
        )

    def refusal(self, query: str = "", **headers: str) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Status, body and headers of an upgrade that is refused."""
        with pytest.raises(InvalidStatus) as refused, self.connect(query, (), **headers):
            pass
        response = refused.value.response
        given = {name.lower(): value for name, value in response.headers.raw_items()}
        return response.status_code, json.loads(response.body or b"{}"), given

    def authenticated(self, query: str = "", offered: tuple[str, ...] = (), **headers: str) -> dict[str, Any]:
        """The answer to a connect command without a token; the code of the close where that comes instead."""
        with self.connect(query, offered, **headers) as client:
            client.send(JSON_CONNECT)
            try:
                answer: dict[str, Any] = json.loads(client.recv(timeout=10))
            except ConnectionClosed as closed:
                return {"closed": closed.rcvd.code if closed.rcvd else None}
            return answer


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with InProcessStarling(tmp_path_factory.mktemp("run"), SETTINGS) as starling:
        yield Served(starling.port)


@pytest.fixture(scope="module")
def uvicorn_server() -> Iterator[Served]:
    with under_uvicorn(SETTINGS) as port:
        yield Served(port)


@pytest.fixture(params=["own_server", "uvicorn_server"])
def served(request: pytest.FixtureRequest) -> Served:
    served: Served = request.getfixturevalue(request.param)
    return served


@pytest.fixture
def token() -> str:
    return issue_connection_token(SECRET, "alice", 60)


@pytest.mark.parametrize(
    ("query", "offered", "chosen"),
    [
        ("", (), None),
        ("?format=unknown", (), None),
        ("?format=protobuf", ("centrifuge-json",), "centrifuge-json"),
        ("", ("unknown", "centrifuge-json"), "centrifuge-json"),
        ("", ("starling.v1",), "starling.v1"),
    ],
)
def test_json_is_the_format_unless_protobuf_is_asked_for(
    served: Served, token: str, query: str, offered: tuple[str, ...], chosen: str | None
) -> None:
    with served.connect(query, offered, Authorization=f"Bearer {token}") as client:
        client.send(JSON_CONNECT)
        assert json.loads(client.recv(timeout=10))["connect"]["client"]
        assert client.subprotocol == chosen


@pytest.mark.parametrize(("query", "offered"), [("?format=protobuf", ()), ("?format=json", ("centrifuge-protobuf",))])
def test_protobuf_is_answered_in_binary(served: Served, token: str, query: str, offered: tuple[str, ...]) -> None:
    with served.connect(query, offered, Authorization=f"Bearer {token}") as client:
        client.send(PROTOBUF_CONNECT)
        assert isinstance(client.recv(timeout=10), bytes)


def test_a_token_counts_in_each_place_that_a_handshake_has(served: Served, token: str) -> None:
    answers = [
        served.authenticated(Authorization=f"Bearer {token}"),
        served.authenticated(offered=("starling.v1", f"bearer.{token}")),
        served.authenticated(Cookie=f"other=1; session={token}"),
        served.authenticated(f"?a=1&token={token}"),
    ]

    assert all(answer.get("connect", {}).get("client") for answer in answers), answers


def test_a_token_in_the_command_counts_before_one_in_the_handshake(served: Served, token: str) -> None:
    with served.connect(Authorization="Bearer of nothing good") as client:
        client.send(json.dumps({"id": 1, "connect": {"token": token}}))
        assert json.loads(client.recv(timeout=10))["connect"]["client"]


def test_a_token_that_is_refused_is_answered_to_connect_and_not_to_the_upgrade(served: Served) -> None:
    expired = issue_connection_token(SECRET, "alice", -60)

    assert served.authenticated(Authorization=f"Bearer {expired}")["error"]["code"] == 109
    assert served.authenticated(Authorization="Bearer rubbish") == {"closed": 3500}
    assert served.authenticated() == {"closed": 3500}


@pytest.mark.parametrize("origin", ["http://evil.example", "null"])
def test_a_foreign_page_is_refused_before_the_upgrade(served: Served, token: str, origin: str) -> None:
    status, body, headers = served.refusal(Origin=origin, Authorization=f"Bearer {token}")

    assert status == HTTPStatus.FORBIDDEN
    assert "STARLING_ALLOWED_ORIGINS" in body["detail"]
    assert headers["content-type"] == "application/json"


def test_a_page_of_the_own_host_may_connect(served: Served, token: str) -> None:
    with served.connect(Origin=f"http://127.0.0.1:{served.port}", Authorization=f"Bearer {token}"):
        pass


@pytest.mark.parametrize(("given", "answered"), [("r-1", "r-1"), ("a b", None)])
def test_a_request_id_is_answered_where_it_is_fit_for_a_header(
    served: Served, token: str, given: str, answered: str | None
) -> None:
    with served.connect(X_Request_ID=given, Authorization=f"Bearer {token}") as client:
        assert client.response is not None
        assert client.response.headers.get("X-Request-ID") == answered
    refused = served.refusal(X_Request_ID=given, Origin="http://evil.example")[2]
    assert refused.get("x-request-id") == answered


def test_a_full_worker_rejects_with_503_and_a_time_to_try_again(served: Served, token: str) -> None:
    with ExitStack() as held:
        # Connections of the tests before may not have ended yet.
        clients = (served.connect(Authorization=f"Bearer {token}") for _ in range(11))
        with pytest.raises(InvalidStatus) as refused:
            deque(map(held.enter_context, clients), maxlen=0)
        assert refused.value.response.status_code == HTTPStatus.SERVICE_UNAVAILABLE
        assert 5 <= int(refused.value.response.headers["Retry-After"]) <= 30
    # There is room as soon as the server has seen a close.
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            with served.connect(Authorization=f"Bearer {token}"):
                break
        except InvalidStatus:
            assert time.monotonic() < deadline, "no room came back"
            time.sleep(0.05)


def test_messages_that_come_with_the_upgrade_request_are_not_lost(served: Served, token: str) -> None:
    """The first frame may arrive in the packet of the request, and two commands in one frame are answered in order."""
    with served.connect(Authorization=f"Bearer {token}") as client:
        client.send(JSON_CONNECT + '\n{"id":2,"rpc":{"method":"none","data":{}}}')
        lines = [json.loads(line) for line in str(client.recv(timeout=10)).splitlines()]
        while len(lines) < 2:
            lines += map(json.loads, str(client.recv(timeout=10)).splitlines())
        assert [line["id"] for line in lines] == [1, 2]
        assert lines[1]["error"]["code"] == 108
