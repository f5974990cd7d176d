"""The tutorial endpoints, spoken to over plain ASGI: what is said, and how a client is refused."""

from collections.abc import Iterator, Mapping

import httpx2
import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from starlette.testclient import WebSocketDenialResponse, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect
from structlog.testing import capture_logs

from starling.auth.issue import issue_connection_token
from starling.main import create_app
from starling.settings import load_settings

SECRET = "a test's own secret, longer than thirty-two bytes"


def client_with(**environment: str) -> TestClient:
    settings = load_settings({f"STARLING_{name}": value for name, value in environment.items()})
    application = create_app(settings, CollectorRegistry())
    return TestClient(application)


@pytest.fixture
def developer() -> Iterator[TestClient]:
    with client_with(DEV="true", TOKEN_HMAC_SECRET=SECRET) as client:
        yield client


@pytest.fixture
def production() -> Iterator[TestClient]:
    with client_with(TOKEN_HMAC_SECRET=SECRET) as client:
        yield client


@pytest.fixture
def token() -> str:
    return issue_connection_token(SECRET, "alice", 60)


def refusal(client: TestClient, path: str, headers: Mapping[str, str] | None = None) -> int:
    """The HTTP status of a refused upgrade; Starlette's client gives a close before the upgrade as its code."""
    try:
        with client.websocket_connect(path, headers=headers or {}):
            raise AssertionError("the door opened")
    except WebSocketDenialResponse as denial:
        return denial.status_code
    except WebSocketDisconnect as disconnect:
        return {1008: 403}[disconnect.code]


def answers(session: WebSocketTestSession, text: str, count: int) -> list[str]:
    session.send_text(text)
    return [session.receive_text() for _ in range(count)]


def test_text_returns_in_a_sentence(developer: TestClient) -> None:
    with developer.websocket_connect("/ws") as session:
        assert answers(session, "hello", 1) == ["Message text was: hello"]


def test_json_is_text(developer: TestClient) -> None:
    with developer.websocket_connect("/ws") as session:
        assert answers(session, '{"a": 1}', 1) == ['Message text was: {"a": 1}']


def test_a_binary_frame_returns_as_it_was(developer: TestClient) -> None:
    with developer.websocket_connect("/ws") as session:
        session.send_bytes(b"\x00\xff\x10")
        assert session.receive_bytes() == b"\x00\xff\x10"


def test_items_reports_the_token_and_the_text(developer: TestClient) -> None:
    with developer.websocket_connect("/items/foo/ws?token=secret") as session:
        assert answers(session, "hi", 2) == [
            "Session cookie or query token value is: secret",
            "Message text was: hi, for item ID: foo",
        ]


def test_items_reports_q_where_it_was_given(developer: TestClient) -> None:
    with developer.websocket_connect("/items/foo/ws?token=secret&q=3") as session:
        assert answers(session, "hi", 3)[1] == "Query parameter q is: 3"


def test_a_q_of_nought_was_given_too(developer: TestClient) -> None:
    with developer.websocket_connect("/items/foo/ws?token=secret&q=0") as session:
        assert answers(session, "hi", 3)[1] == "Query parameter q is: 0"


def test_the_cookie_wins_over_the_token(developer: TestClient) -> None:
    with developer.websocket_connect("/items/foo/ws?token=query", headers={"cookie": "session=cookie"}) as session:
        assert answers(session, "hi", 2)[0] == "Session cookie or query token value is: cookie"


def test_items_without_cookie_and_token_is_403(developer: TestClient) -> None:
    assert refusal(developer, "/items/foo/ws") == 403


@pytest.mark.parametrize("path", ["/items/foo/ws?token=t&q=abc", "/ws/abc", "/ws/1e3", "/ws/" + "9" * 5000])
def test_parameters_that_do_not_fit_are_422(developer: TestClient, path: str) -> None:
    assert refusal(developer, path) == 422


def test_a_422_names_the_parameter(developer: TestClient) -> None:
    with pytest.raises(WebSocketDenialResponse) as denial, developer.websocket_connect("/items/foo/ws?token=t&q=abc"):
        pass

    assert denial.value.json()["detail"][0]["parameter"] == "q"


def test_what_one_writes_everyone_receives(developer: TestClient) -> None:
    with developer.websocket_connect("/ws/1") as one, developer.websocket_connect("/ws/2") as two:
        assert answers(one, "hello", 2) == ["You wrote: hello", "Client #1 says: hello"]
        assert two.receive_text() == "Client #1 says: hello"


def test_the_others_receive_who_left(developer: TestClient) -> None:
    with developer.websocket_connect("/ws/1") as one:
        answers(one, "here", 2)
        with developer.websocket_connect("/ws/2") as two:
            answers(two, "here", 2)
            assert one.receive_text() == "Client #2 says: here"
        assert one.receive_text() == "Client #2 left the chat"


def test_a_binary_frame_ends_only_its_senders_chat(developer: TestClient) -> None:
    with developer.websocket_connect("/ws/1") as one:
        answers(one, "here", 2)
        with developer.websocket_connect("/ws/2") as two:
            two.send_bytes(b"\x00")
            with pytest.raises(WebSocketDisconnect) as closed:
                two.receive_text()
        assert closed.value.code == 1003
        assert one.receive_text() == "Client #2 left the chat"
        assert answers(one, "still here", 2) == ["You wrote: still here", "Client #1 says: still here"]


@pytest.mark.parametrize("path", ["/ws", "/items/foo/ws", "/ws/1"])
class TestOutsideDeveloperMode:
    """Every endpoint takes a token."""

    def test_without_a_token_is_403(self, production: TestClient, path: str) -> None:
        assert refusal(production, path) == 403

    def test_an_invalid_token_is_401(self, production: TestClient, path: str) -> None:
        assert refusal(production, path, {"authorization": "Bearer nonsense"}) == 401

    def test_an_expired_token_is_401(self, production: TestClient, path: str) -> None:
        expired = issue_connection_token(SECRET, "alice", -10)
        assert refusal(production, path, {"authorization": f"Bearer {expired}"}) == 401

    def test_a_token_in_the_header_opens(self, production: TestClient, path: str, token: str) -> None:
        with production.websocket_connect(path, headers={"authorization": f"Bearer {token}"}) as session:
            assert session.accepted_subprotocol is None

    def test_a_token_in_the_cookie_opens(self, production: TestClient, path: str, token: str) -> None:
        with production.websocket_connect(path, headers={"cookie": f"session={token}"}):
            pass

    def test_a_token_in_the_subprotocol_opens_and_is_not_echoed(
        self, production: TestClient, path: str, token: str
    ) -> None:
        with production.websocket_connect(path, subprotocols=["starling.v1", f"bearer.{token}"]) as session:
            assert session.accepted_subprotocol == "starling.v1"

    def test_a_token_in_the_query_is_not_looked_at(self, production: TestClient, path: str, token: str) -> None:
        assert refusal(production, f"{path}?token={token}") == 403

    def test_a_token_in_the_query_opens_where_it_is_allowed(self, path: str, token: str) -> None:
        with (
            client_with(TOKEN_HMAC_SECRET=SECRET, TOKEN_IN_QUERY="true") as client,
            client.websocket_connect(f"{path}?token={token}"),
        ):
            pass

    def test_a_page_of_another_origin_is_403(self, production: TestClient, path: str, token: str) -> None:
        headers = {"authorization": f"Bearer {token}", "origin": "https://evil.example"}
        assert refusal(production, path, headers) == 403

    def test_another_origin_in_front_of_our_own_is_403(self, production: TestClient, path: str, token: str) -> None:
        origins = [("origin", "https://evil.example"), ("origin", "http://testserver")]
        assert refusal(production, path, httpx2.Headers([("authorization", f"Bearer {token}"), *origins])) == 403


@pytest.mark.parametrize(
    ("rule", "ttl", "status"),
    [
        ({"TOKEN_REQUIRE_EXPIRY": "true"}, None, 401),
        ({"TOKEN_REQUIRE_EXPIRY": "true"}, 60, 101),
        ({"TOKEN_MAX_LIFETIME_SECONDS": "60"}, None, 401),
        ({"TOKEN_MAX_LIFETIME_SECONDS": "60"}, 600, 401),
        ({"TOKEN_MAX_LIFETIME_SECONDS": "60"}, 60, 101),
        ({}, None, 101),
    ],
)
def test_a_token_may_have_to_end_and_soon(rule: dict[str, str], ttl: int | None, status: int) -> None:
    headers = {"authorization": f"Bearer {issue_connection_token(SECRET, 'alice', ttl)}"}
    with client_with(TOKEN_HMAC_SECRET=SECRET, **rule) as client:
        if status == 101:
            with client.websocket_connect("/ws", headers=headers):
                pass
        else:
            assert refusal(client, "/ws", headers) == status


def test_items_answers_with_the_user_and_never_with_the_cookie(production: TestClient, token: str) -> None:
    with production.websocket_connect("/items/foo/ws", headers={"cookie": f"session={token}"}) as session:
        assert answers(session, "hi", 2)[0] == "Session cookie or query token value is: alice"


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://good.example", 101),
        ("https://a.wild.example", 101),
        ("HTTPS://GOOD.EXAMPLE", 101),
        ("http://[::1]:8000", 101),
        ("https://evil.example", 403),
        ("https://good.example.evil.example", 403),
        ("https://evilgood.example", 403),
        ("http://good.example", 403),
        ("https://good.example:8443", 403),
        ("https://wild.example", 403),
        ("null", 403),
        ("http://:", 403),
        ("http://[", 403),
        ("http://testserver", 403),
    ],
)
def test_only_listed_origins_may_connect(origin: str, status: int, token: str) -> None:
    listed = "https://good.example,https://*.wild.example,http://[::1]:8000"
    with client_with(TOKEN_HMAC_SECRET=SECRET, ALLOWED_ORIGINS=listed) as client:
        headers = {"authorization": f"Bearer {token}", "origin": origin}
        if status == 101:
            with client.websocket_connect("/ws", headers=headers):
                pass
        else:
            assert refusal(client, "/ws", headers) == status


def test_where_no_origin_is_listed_the_own_host_may_connect(production: TestClient, token: str) -> None:
    headers = {"authorization": f"Bearer {token}", "origin": "http://testserver"}
    with production.websocket_connect("/ws", headers=headers):
        pass


@pytest.mark.parametrize("origin", ["http://evil.example", "http://testserver.evil", "testserver", "null", "http://["])
def test_where_no_origin_is_listed_no_other_host_may_connect(production: TestClient, origin: str, token: str) -> None:
    assert refusal(production, "/ws", {"authorization": f"Bearer {token}", "origin": origin}) == 403


@pytest.mark.parametrize("path", ["/ws", "/items/foo/ws?token=t", "/ws/1"])
def test_more_messages_than_the_burst_are_closed_with_1008(path: str) -> None:
    limits = {"MESSAGES_PER_SECOND": "0.001", "MESSAGE_BURST": "3"}
    with client_with(DEV="true", TOKEN_HMAC_SECRET=SECRET, **limits) as client:
        with client.websocket_connect(path) as session:
            for _ in range(3):
                answers(session, "within", 2 if path != "/ws" else 1)
            session.send_text("one too many")
            with pytest.raises(WebSocketDisconnect) as closed:
                session.receive_text()
        assert (closed.value.code, closed.value.reason) == (1008, "too many messages")
        with client.websocket_connect(path) as session:
            answers(session, "a new connection has a burst of its own", 1)


@pytest.mark.parametrize("path", ["/ws", "/items/foo/ws?token=t", "/ws/1"])
def test_without_a_rate_nobody_is_closed(path: str) -> None:
    limits = {"MESSAGES_PER_SECOND": "0", "MESSAGE_BURST": "3"}
    with (
        client_with(DEV="true", TOKEN_HMAC_SECRET=SECRET, **limits) as client,
        client.websocket_connect(path) as session,
    ):
        for _ in range(20):
            answers(session, "more", 2 if path != "/ws" else 1)


def test_a_full_worker_refuses_with_503_and_a_time_to_return() -> None:
    with client_with(DEV="true", TOKEN_HMAC_SECRET=SECRET, MAX_CONNECTIONS="1") as client:
        with (
            client.websocket_connect("/ws"),
            pytest.raises(WebSocketDenialResponse) as denial,
            client.websocket_connect("/ws"),
        ):
            pass
        assert denial.value.status_code == 503
        assert 5 <= int(denial.value.headers["retry-after"]) <= 30
        with client.websocket_connect("/ws"):
            pass


def test_probes_report_this_workers_state(developer: TestClient) -> None:
    assert developer.get("/livez").json() == {"alive": True}
    assert developer.get("/startupz").status_code == 200
    assert developer.get("/readyz").json() == {"ready": True, "reasons": [], "broker": "up"}


@pytest.mark.parametrize("bearer", [True, False], ids=["in the handshake", "in the command"])
def test_a_clients_lines_name_its_user_as_soon_as_it_is_known(production: TestClient, token: str, bearer: bool) -> None:
    headers = {"Authorization": f"Bearer {token}"} if bearer else {}
    command = '{"id":1,"connect":{}}' if bearer else f'{{"id":1,"connect":{{"token":"{token}"}}}}'
    with capture_logs() as lines, production.websocket_connect("/connection/websocket", headers=headers) as session:
        session.send_text(command)
        session.receive_text()
    reported = [(line["event"], line["user"]) for line in lines if line["event"].startswith("client_")]
    between = [] if bearer else [("client_authenticated", "alice")]
    first = ("client_connected", "alice" if bearer else "")
    assert reported == [first, *between, ("client_disconnected", "alice")]
