"""Append-only streams over HTTP: who may read and write them, and that HTTP and the server API see one stream."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from starling.auth.issue import issue_connection_token
from starling.main import create_app
from starling.settings import load_settings

KEY = "the-key-of-a-test-long-enough"
SECRET = "a test's own secret, longer than thirty-two bytes"
CHANNELS = """
default: {stream: text, allow_subscribe_for_client: true}
namespaces:
  answers: {stream: any, stream_max_bytes: 1000, allow_subscribe_for_client: true, append_window: 10ms}
  notes: {stream: text, allow_append_for_client: true}
  fixed: {stream: json, stream_over_http: read, allow_subscribe_for_client: true}
  hidden: {stream: text, stream_over_http: "off", allow_subscribe_for_client: true}
  plain: {allow_subscribe_for_client: true}
  open: {stream: any}
"""
HOOKS = """
from starling.hooks import Refuse

async def on_publish(client, channel, data: dict):
    if data == {"text": "refuse me"}:
        raise Refuse()
    if data == {"text": "of another kind"}:
        return {"json": [1]}
    return {"text": f"{client.user} says change me"} if data == {"text": "change me"} else None
"""
TEXT = {"Content-Type": "text/plain"}
# Streams that a user may create at once.
NEW = 5
# Tokens of parameters are made before the first test of a run, which may be long.
A_DAY = 86400.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    path = tmp_path_factory.mktemp("durable") / "channels.yaml"
    path.write_text(CHANNELS)
    (path.parent / "durable_hooks.py").write_text(HOOKS)
    environment = {
        "STARLING_HOOKS": "durable_hooks",
        "STARLING_HOOKS_PATH": str(path.parent),
        "STARLING_CHANNELS_FILE": str(path),
        "STARLING_API_KEYS": KEY,
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_STREAMS_OPEN_NAMESPACE": "open",
        "STARLING_LOG_LEVEL": "error",
        "STARLING_NEW_CHANNELS_PER_SECOND": "0.001",
        "STARLING_NEW_CHANNEL_BURST": str(NEW),
    }
    with TestClient(create_app(load_settings(environment), CollectorRegistry())) as client:
        yield client


def key(**more: str) -> dict[str, str]:
    return {"X-API-Key": KEY, **more}


def bearer(user: str = "alice", **claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {issue_connection_token(SECRET, user, A_DAY, **claims)}"}


def created(service: TestClient, channel: str, body: bytes = b"", **headers: str) -> Any:
    answer = service.put(f"/streams/{channel}", content=body, headers=key(**{**TEXT, **headers}))
    assert answer.status_code == 201, answer.text
    return answer


def test_what_http_writes_the_api_reads_and_the_other_way_round(service: TestClient) -> None:
    created(service, "answers:1", "Grüße".encode())
    api = service.post("/api/stream_append", json={"channel": "answers:1", "text": ", Welt"}, headers=key())
    assert api.json()["result"]["length"] == 13
    assert service.post("/streams/answers:1", content=b"!", headers=key(**TEXT)).status_code == 204

    read = service.get("/streams/answers:1", headers=bearer())
    assert (read.text, read.headers["stream-up-to-date"]) == ("Grüße, Welt!", "true")
    assert "stream-closed" not in read.headers
    service.post("/api/stream_cancel", json={"channel": "answers:1"}, headers=key())
    rest = service.get("/streams/answers:1", params={"offset": read.headers["stream-next-offset"]}, headers=bearer())
    assert (rest.text, rest.headers["stream-closed"]) == ("", "true")
    refused = service.post("/streams/answers:1", content=b"more", headers=key(**TEXT))
    assert (refused.status_code, refused.headers["stream-closed"]) == (409, "true")


def test_a_name_without_a_namespace_is_the_defaults(service: TestClient) -> None:
    created(service, "alone", b"x")
    assert service.get("/streams/alone", headers=bearer()).text == "x"


@pytest.mark.parametrize(
    ("method", "channel", "headers", "status"),
    [
        ("GET", "answers:2", {}, 401),
        ("GET", "answers:2", {"Authorization": "Bearer nonsense"}, 401),
        ("GET", "answers:2", bearer(), 200),
        ("HEAD", "answers:2", bearer(), 200),
        ("POST", "answers:2", bearer(), 403),
        ("DELETE", "answers:2", bearer(), 403),
        ("PUT", "answers:3", bearer(), 403),
        ("POST", "answers:2", {"X-API-Key": "another key altogether"}, 401),
        ("GET", "notes:2", bearer(), 403),
        ("GET", "notes:2", bearer(channels=["notes:2"]), 404),
        ("PUT", "notes:1", bearer(), 201),
        ("PUT", "fixed:1", key(), 405),
        ("DELETE", "fixed:1", key(), 405),
        ("GET", "hidden:1", bearer(), 404),
        ("GET", "plain:1", bearer(), 404),
        ("GET", "nowhere:1", bearer(), 404),
        ("GET", "answers:2", {**bearer(), "Origin": "https://elsewhere.example"}, 403),
        ("PATCH", "answers:2", key(), 405),
    ],
)
def test_rights_are_those_of_every_transport(
    service: TestClient, method: str, channel: str, headers: dict[str, str], status: int
) -> None:
    service.put("/streams/answers:2", headers=key(**TEXT))
    body = b"x" if method in ("POST", "PUT") else None
    answer = service.request(method, f"/streams/{channel}", content=body, headers={**headers, **TEXT})
    assert answer.status_code == status, answer.text
    if (status, method) == (403, "POST"):
        assert answer.json()["error"] == {"code": 103, "message": "permission denied"}


@pytest.mark.parametrize(
    ("text", "headers", "status", "stored"),
    [
        ("refuse me", bearer("erin"), 403, ""),
        ("change me", bearer("erin"), 204, "erin says change me"),
        ("of another kind", bearer("erin"), 400, ""),
        ("as it is", bearer("erin"), 204, "as it is"),
        ("refuse me", key(), 204, "refuse me"),
    ],
)
def test_the_hook_of_publications_decides_about_appends_of_clients(
    service: TestClient, text: str, headers: dict[str, str], status: int, stored: str
) -> None:
    for method, channel, done in (("POST", "notes:hooked", 204), ("PUT", "notes:new", 201)):
        service.delete(f"/streams/{channel}", headers=key())
        if method == "POST":
            created(service, channel)
        answer = service.request(method, f"/streams/{channel}", content=text, headers={**headers, **TEXT})
        assert answer.status_code == (done if status == 204 else status), answer.text
        read = service.post("/api/history", json={"channel": channel, "limit": 10}, headers=key()).json()
        kept = [publication["data"]["text"] for publication in read["result"]["publications"]]
        assert "".join(kept) == stored


def test_streams_that_a_user_creates_spend_its_budget_of_new_channels(service: TestClient) -> None:
    def create(name: str, headers: dict[str, str]) -> int:
        return service.put(f"/streams/notes:{name}", content=b"x", headers={**headers, **TEXT}).status_code

    first = [create(f"paid-{number}", bearer("carol")) for number in range(NEW + 1)]
    assert first == [201] * NEW + [429]
    # What is there costs nothing, and neither others nor a key pay for it.
    assert create("paid-0", bearer("carol")) == 200
    assert create("paid-by-dave", bearer("dave")) == 201
    assert [create(f"key-{number}", key()) for number in range(NEW + 1)] == [201] * (NEW + 1)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service whose users have one connection, and whose addresses fail twice a minute."""
    path = tmp_path_factory.mktemp("strict") / "channels.yaml"
    path.write_text(CHANNELS)
    environment = {
        "STARLING_CHANNELS_FILE": str(path),
        "STARLING_API_KEYS": KEY,
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_WORKER_CONNECTIONS_PER_USER": "1",
        "STARLING_FAILED_CONNECTS_PER_MINUTE": "2",
        "STARLING_LOG_LEVEL": "error",
    }
    with TestClient(create_app(load_settings(environment), CollectorRegistry())) as client:
        yield client


def test_requests_that_wait_count_as_connections_of_their_user(strict: TestClient) -> None:
    created(strict, "answers:waited", b"all", **{"Stream-Closed": "true"})

    def read(user: str, **query: str) -> int:
        return strict.get("/streams/answers:waited", params=query, headers=bearer(user)).status_code

    with strict.websocket_connect("/connection/websocket", headers=bearer("erin")) as session:
        session.send_json({"id": 1, "connect": {}})
        assert "connect" in session.receive_json()
        for live in ("long-poll", "sse"):
            assert read("erin", offset="-1", live=live) == 429
            assert read("frank", offset="-1", live=live) == 200
        assert read("erin", offset="-1") == 200
    # Each gives its place back.
    for live in ("long-poll", "sse", "sse"):
        assert read("erin", offset="-1", live=live) == 200


def test_invalid_tokens_of_requests_for_streams_count_as_failed_connects(strict: TestClient) -> None:
    invalid = {"Authorization": "Bearer nonsense"}
    assert [strict.get("/streams/answers:1", headers=invalid).status_code for _ in range(3)] == [401, 401, 429]


def test_the_namespace_without_credentials_is_open_and_no_other(service: TestClient) -> None:
    assert service.put("/v1/stream/a/b", content=b"x", headers=TEXT).status_code == 201
    read = service.get("/v1/stream/a/b")
    assert (read.text, read.headers["access-control-allow-origin"]) == ("x", "*")
    assert service.get("/streams/open:a/b", headers=bearer()).status_code == 403
    assert service.get("/streams/open:a/b", headers=key()).text == "x"
    assert service.delete("/v1/stream/a/b").status_code == 204


def test_server_sent_events_end_with_the_stream(service: TestClient) -> None:
    created(service, "answers:4", b" one\ntwo", **{"Stream-Closed": "true"})
    answer = service.get("/streams/answers:4", params={"offset": "-1", "live": "sse"}, headers=bearer())
    data, control, _ = answer.text.split("\n\n")
    assert data == "event: data\ndata:  one\ndata:two"
    assert control.startswith("event: control\ndata:{")
    assert '"streamClosed":true' in control


def test_a_long_poll_at_the_end_of_a_closed_stream_answers_at_once(service: TestClient) -> None:
    made = created(service, "answers:5", b"x", **{"Stream-Closed": "true"})
    params = {"offset": made.headers["stream-next-offset"], "live": "long-poll"}
    answer = service.get("/streams/answers:5", params=params, headers=bearer())
    assert (answer.status_code, answer.headers["stream-closed"]) == (204, "true")
    assert answer.headers["stream-cursor"].isdigit()


@pytest.mark.parametrize(
    ("headers", "status", "shown"),
    [
        ({"Producer-Epoch": "0", "Producer-Seq": "1"}, 200, {"producer-seq": "1"}),
        ({"Producer-Epoch": "0", "Producer-Seq": "0"}, 204, {"producer-seq": "0"}),
        (
            {"Producer-Epoch": "0", "Producer-Seq": "3"},
            409,
            {"producer-expected-seq": "1", "producer-received-seq": "3"},
        ),
        ({"Producer-Epoch": "1", "Producer-Seq": "1"}, 400, {}),
        ({"Producer-Epoch": "1"}, 400, {}),
        ({"Producer-Epoch": "x", "Producer-Seq": "1"}, 400, {}),
    ],
)
def test_producers_are_fenced(service: TestClient, headers: dict[str, str], status: int, shown: dict[str, str]) -> None:
    service.delete("/streams/answers:6", headers=key())
    created(service, "answers:6")
    first = {"Producer-Id": "p", "Producer-Epoch": "0", "Producer-Seq": "0"}
    assert service.post("/streams/answers:6", content=b"0", headers=key(**TEXT, **first)).status_code == 200
    answer = service.post("/streams/answers:6", content=b"1", headers=key(**TEXT, **{"Producer-Id": "p", **headers}))
    assert answer.status_code == status
    assert shown.items() <= dict(answer.headers).items()


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("text/plain", b"\xff", 400),
        ("application/json", b"{", 400),
        ("application/json", b"[1, 2]", 201),
        ("application/octet-stream", b"\xff", 201),
        ("nonsense", b"x", 400),
        ("text/plain", b"x" * 1001, 413),
    ],
)
def test_content_is_what_its_type_says(service: TestClient, content_type: str, body: bytes, status: int) -> None:
    path = f"/streams/answers:7-{len(body)}-{hash(content_type)}"
    answer = service.put(path, content=body, headers=key(**{"Content-Type": content_type}))
    assert answer.status_code == status


def test_forks_are_refused_in_words(service: TestClient) -> None:
    answer = service.put("/streams/answers:8", headers=key(**{"Stream-Forked-From": "/streams/answers:1"}))
    assert (answer.status_code, "forked" in answer.text) == (501, True)


def test_a_stream_of_an_earlier_life_is_gone(service: TestClient) -> None:
    made = created(service, "answers:9", b"old")
    service.delete("/streams/answers:9", headers=key())
    created(service, "answers:9", b"new")
    params = {"offset": made.headers["stream-next-offset"]}
    assert service.get("/streams/answers:9", params=params, headers=bearer()).status_code == 410
