"""What clients get of channels that are not theirs, over the wire: personal, user-limited and token channels."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from starlette.testclient import WebSocketDenialResponse

from starling.auth.issue import issue_connection_token, issue_subscription_token
from starling.main import create_app
from starling.settings import load_settings
from tests.web.test_refresh import SECRET, Talk

ALL_FOR_CLIENTS = {f"allow_{verb}_for_client": True for verb in ("subscribe", "publish", "presence", "history")}
KEPT = {"history_size": 10, "history_ttl": "60s", "presence": True}
CHANNELS = {
    "default": {**ALL_FOR_CLIENTS, **KEPT},
    "namespaces": {
        "chat": {**ALL_FOR_CLIENTS, **KEPT},
        "letters": {**ALL_FOR_CLIENTS, **KEPT, "allow_user_limited_channels": True},
    },
}
KEY = "the key of these tests"


@contextmanager
def serving(folder: Path, **environment: str) -> Iterator[TestClient]:
    path = folder / "channels.json"
    path.write_text(json.dumps(CHANNELS))
    variables = {"TOKEN_HMAC_SECRET": SECRET, "CHANNELS_FILE": str(path), "API_KEYS": KEY, **environment}
    settings = load_settings({f"STARLING_{name}": value for name, value in variables.items()})
    with TestClient(create_app(settings, CollectorRegistry())) as client:
        client.headers["X-API-Key"] = KEY
        yield client


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with serving(tmp_path_factory.mktemp("rights"), SUBSCRIBE_TO_PERSONAL_CHANNEL="true") as client:
        yield client


@contextmanager
def connected(service: TestClient, user: str) -> Iterator[tuple[Talk, dict[str, Any]]]:
    with service.websocket_connect("/connection/websocket") as session:
        talk = Talk(session)
        yield talk, talk.ask(connect={"token": issue_connection_token(SECRET, user, 600)})["connect"]


@pytest.mark.parametrize("user", ["alice", "Doe, John", "google:1", "a{b}", "$x", "#", "ålice", "a\nb", "x" * 255])
def test_every_user_connects_and_receives_its_personal_channel_and_no_other_user_does(
    service: TestClient, user: str
) -> None:
    channel = f"#{user}"
    with connected(service, user) as (talk, result), connected(service, " John") as (other, _):
        assert channel in result["subs"]
        for command in (
            {"subscribe": {"channel": channel}},
            {"publish": {"channel": channel, "data": 1}},
            {"history": {"channel": channel, "limit": 1}},
            {"presence": {"channel": channel}},
            {"presence_stats": {"channel": channel}},
        ):
            assert other.ask(**command)["error"]["code"] == 103

        published = service.post("/api/publish", json={"channel": channel, "data": "yours"}).json()
        assert published["result"]["offset"]
        while not [push for push in talk.pushes if push.get("channel") == channel and "pub" in push]:
            talk.ask(ping={})
        assert other.ask(ping={})
        assert [push for push in other.pushes if push.get("channel") == channel] == []
        history = talk.ask(history={"channel": channel, "limit": 1})["history"]
        assert [publication["data"] for publication in history["publications"]] == ["yours"]


@pytest.mark.parametrize("channel", ["$chat:42", "$lobby", "letters:box#alice", "$letters:box#mallory", "#alice"])
def test_a_channel_that_is_closed_to_a_client_gives_it_nothing_until_a_token_lets_it_in(
    service: TestClient, channel: str
) -> None:
    service.post("/api/publish", json={"channel": channel, "data": "private"})
    commands: list[dict[str, Any]] = [
        {"publish": {"channel": channel, "data": 1}},
        {"history": {"channel": channel, "limit": 1}},
        {"presence": {"channel": channel}},
        {"presence_stats": {"channel": channel}},
    ]
    with connected(service, "mallory") as (talk, _):
        for command in ({"subscribe": {"channel": channel}}, *commands):
            assert talk.ask(**command)["error"]["code"] == 103
        token = issue_subscription_token(SECRET, "mallory", channel, 600)
        assert "subscribe" in talk.ask(subscribe={"channel": channel, "token": token})
        for command in commands:
            assert "error" not in talk.ask(**command)


def test_personal_channels_may_have_a_namespace_of_their_own(tmp_path: Path) -> None:
    with (
        serving(tmp_path, SUBSCRIBE_TO_PERSONAL_CHANNEL="true", PERSONAL_CHANNEL_NAMESPACE="chat") as service,
        connected(service, "google:1") as (_, result),
        connected(service, "bob") as (other, _),
    ):
        assert set(result["subs"]) == {"chat:#google:1"}
        assert other.ask(subscribe={"channel": "chat:#google:1"})["error"]["code"] == 103


def test_two_different_session_cookies_are_401(service: TestClient) -> None:
    token, foreign = (issue_connection_token(SECRET, user, 600) for user in ("alice", "mallory"))
    with service.websocket_connect("/ws", headers={"cookie": f"session={token}"}):
        pass
    with (
        pytest.raises(WebSocketDenialResponse) as denied,
        service.websocket_connect("/ws", headers={"cookie": f"session={token}; session={foreign}"}),
    ):
        pass
    assert denied.value.status_code == 401
