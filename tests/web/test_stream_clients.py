"""Clients in append-only streams: what a subscription brings, in both protocols, and who may append and cancel."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from starlette.testclient import WebSocketTestSession

from starling.auth.issue import issue_connection_token
from starling.main import create_app
from starling.protocol.client_pb2 import Command, Reply
from starling.settings import load_settings

KEY = "the-key-of-a-test-long-enough"
SECRET = "a test's own secret, longer than thirty-two bytes"
CHANNELS = """
default: {}
namespaces:
  answers: {stream: text, allow_subscribe_for_client: true, allow_cancel_for_subscriber: true}
  files: {stream: bytes, allow_subscribe_for_client: true}
  notes: {stream: text, allow_subscribe_for_client: true, allow_append_for_subscriber: true}
  log: {stream: json, allow_subscribe_for_client: true, allow_append_for_client: true}
"""
HOOKS = """
from starling.hooks import Refuse

async def on_cancel(client, channel, reason):
    if reason == "not now":
        raise Refuse("it must be finished", 403)
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("streams")
    (folder / "channels.yaml").write_text(CHANNELS)
    (folder / "stream_hooks.py").write_text(HOOKS)
    environment = {
        "STARLING_CHANNELS_FILE": str(folder / "channels.yaml"),
        "STARLING_HOOKS": "stream_hooks",
        "STARLING_HOOKS_PATH": str(folder),
        "STARLING_API_KEYS": KEY,
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_LOG_LEVEL": "error",
    }
    with TestClient(create_app(load_settings(environment), CollectorRegistry())) as client:
        client.headers["X-API-Key"] = KEY
        yield client


class Client:
    """A connected JSON client: asks, and keeps the pushes that come meanwhile."""

    def __init__(self, session: WebSocketTestSession) -> None:
        self._session = session
        self._id = 0
        self._lines: list[Any] = []
        self.pushes: list[Any] = []

    def ask(self, **command: Any) -> Any:
        self._id += 1
        self._session.send_json({"id": self._id, **command})
        while True:
            reply = self._next()
            if reply.get("id") == self._id:
                return reply

    def publication(self) -> Any:
        """The next publication that was pushed."""
        while not self.pushes:
            self._next()
        return self.pushes.pop(0)["pub"]

    def _next(self) -> Any:
        if not self._lines:
            self._lines = [json.loads(line) for line in self._session.receive_text().splitlines()]
        reply = self._lines.pop(0)
        if "pub" in reply.get("push", {}):
            self.pushes.append(reply["push"])
        return reply


@contextmanager
def connected(service: TestClient, user: str = "alice", **claims: Any) -> Iterator[tuple[Client, Any]]:
    with service.websocket_connect("/connection/websocket") as session:
        client = Client(session)
        token = issue_connection_token(SECRET, user, 600, **claims)
        yield client, client.ask(connect={"token": token})["connect"]


def api(service: TestClient, method: str, **body: Any) -> Any:
    return service.post(f"/api/{method}", json=body).json()["result"]


def written(service: TestClient, channel: str, *texts: str) -> Any:
    api(service, "stream_open", channel=channel)
    for text in texts:
        last = api(service, "stream_append", channel=channel, text=text)
    return last


def test_a_subscription_brings_the_whole_stream_and_then_what_is_appended(service: TestClient) -> None:
    channel = "answers:live"
    last = written(service, channel, "Once ", "upon", " a")
    with connected(service) as (client, _):
        result = client.ask(subscribe={"channel": channel})["subscribe"]
        assert [each["data"] for each in result["publications"]] == [{"text": "Once upon a"}]
        assert (result["publications"][0]["offset"], result["publications"][0]["tags"]) == (3, {"at": "0"})
        assert (result["recoverable"], result["positioned"], result["epoch"]) == (True, True, last["epoch"])
        assert result.get("offset", 0) == 0

        api(service, "stream_append", channel=channel, text=" time")
        live = client.publication()
        assert (live["data"], live["tags"], live["offset"]) == ({"text": " time"}, {"at": "11"}, 4)
        api(service, "stream_close", channel=channel, status="failed", reason="no more tokens")
        assert client.publication()["tags"] == {"at": "16", "status": "failed", "reason": "no more tokens"}


@pytest.mark.parametrize(("offset", "text"), [(0, "abc"), (1, "bc"), (2, "c"), (3, None)])
def test_a_client_that_returns_goes_on_where_it_was(service: TestClient, offset: int, text: str | None) -> None:
    channel = f"answers:back-{offset}"
    last = written(service, channel, *"abc")
    with connected(service) as (client, _):
        request = {"channel": channel, "recover": True, "offset": offset, "epoch": last["epoch"] if offset else ""}
        result = client.ask(subscribe=request)["subscribe"]
        assert (result["recovered"], result["was_recovering"]) == (True, True)
        texts = [each["data"]["text"] for each in result.get("publications", [])]
        assert texts == ([] if text is None else [text])


def test_a_position_of_a_stream_that_was_deleted_begins_at_the_start_again(service: TestClient) -> None:
    channel = "answers:anew"
    old = written(service, channel, "old", "er")
    api(service, "stream_delete", channel=channel)
    new = written(service, channel, "new")
    with connected(service) as (client, _):
        request = {"channel": channel, "recover": True, "offset": 2, "epoch": old["epoch"]}
        result = client.ask(subscribe=request)["subscribe"]
    assert "recovered" not in result
    assert (result["epoch"], result.get("offset", 0)) == (new["epoch"], 0)
    assert [each["data"] for each in result["publications"]] == [{"text": "new"}]


def test_channels_of_the_token_bring_their_stream_with_the_connection(service: TestClient) -> None:
    written(service, "answers:token", "all ", "of it")
    with connected(service, channels=["answers:token"]) as (_, result):
        (publication,) = result["subs"]["answers:token"]["publications"]
        assert publication["data"] == {"text": "all of it"}


def test_bytes_are_base64_in_json_and_themselves_in_protobuf(service: TestClient) -> None:
    channel, content = "files:1", b"\x00\xffabc"
    api(service, "stream_open", channel=channel)
    for part in (content[:2], content[2:]):
        api(service, "stream_append", channel=channel, b64data=base64.b64encode(part).decode())
    with connected(service) as (client, _):
        (publication,) = client.ask(subscribe={"channel": channel})["subscribe"]["publications"]
        assert publication["data"] == {"bytes": base64.b64encode(content).decode()}
    with service.websocket_connect("/connection/websocket?format=protobuf") as session:
        connect = Command(id=1)
        connect.connect.token = issue_connection_token(SECRET, "bob", 600)
        protobuf(session, connect)
        subscribe = Command(id=2)
        subscribe.subscribe.channel = channel
        (found,) = protobuf(session, subscribe).subscribe.publications
        assert found.data == content
        api(service, "stream_append", channel=channel, b64data=base64.b64encode(b"more").decode())
        assert protobuf(session, None).push.pub.data == b"more"


def protobuf(session: WebSocketTestSession, command: Command | None) -> Reply:
    if command is not None:
        body = command.SerializeToString()
        length = bytes([len(body)]) if len(body) < 128 else bytes([len(body) % 128 | 128, len(body) // 128])
        session.send_bytes(length + body)
    answer = session.receive_bytes()
    reply: Reply = Reply.FromString(answer[1 if answer[0] < 128 else 2 :])
    return reply


def test_a_subscriber_cancels_and_others_do_not(service: TestClient) -> None:
    channel = "answers:stop"
    written(service, channel, "a")
    with connected(service) as (client, _):
        assert client.ask(publish={"channel": channel, "data": {"cancel": True}})["error"]["code"] == 103
        client.ask(subscribe={"channel": channel})
        refused = client.ask(publish={"channel": channel, "data": {"cancel": "not now"}})
        assert (refused["error"]["code"], refused["error"]["message"]) == (403, "it must be finished")
        assert api(service, "stream_info", channel=channel)["status"] == "open"

        assert client.ask(publish={"channel": channel, "data": {"cancel": "enough"}}).get("error") is None
        assert client.publication()["tags"] == {"at": "1", "status": "cancelled", "reason": "enough"}
        assert client.ask(publish={"channel": channel, "data": {"text": "b"}})["error"]["code"] == 103
    info = api(service, "stream_info", channel=channel)
    assert (info["status"], info["reason"]) == ("cancelled", "enough")


def test_clients_append_where_the_options_say_so(service: TestClient) -> None:
    with connected(service) as (client, _):
        assert client.ask(publish={"channel": "notes:1", "data": {"text": "a"}})["error"]["code"] == 103
        client.ask(subscribe={"channel": "notes:1"})
        assert "error" not in client.ask(publish={"channel": "notes:1", "data": {"text": "a"}})
        assert "error" not in client.ask(publish={"channel": "notes:1", "data": {"text": "b"}})
        assert [client.publication()["data"] for _ in "ab"] == [{"text": "a"}, {"text": "b"}]
        assert client.ask(publish={"channel": "notes:1", "data": {"cancel": True}})["error"]["code"] == 103
        assert "error" not in client.ask(publish={"channel": "log:1", "data": {"json": [1, {"a": 2}]}})
    assert api(service, "stream_info", channel="log:1")["length"] == 2


@pytest.mark.parametrize(
    "data", [{"text": 1}, {}, {"text": "a", "cancel": True}, "a", {"json": [1]}, {"bytes": "?"}, {"other": 1}, None]
)
def test_what_is_no_chunk_is_error_107(service: TestClient, data: Any) -> None:
    with connected(service) as (client, _):
        client.ask(subscribe={"channel": "notes:2"})
        error = client.ask(publish={"channel": "notes:2", "data": data})["error"]
    assert error["code"] == 107
    assert "data" in error["message"]


@pytest.mark.parametrize(
    ("verb", "channel", "subscribed", "rule", "allowed"),
    [
        ("append", "notes:1", True, "allow_append_for_subscriber", True),
        ("append", "notes:1", False, "allow_append_for_subscriber", False),
        ("append", "answers:1", True, "no_rule", False),
        ("cancel", "answers:1", True, "allow_cancel_for_subscriber", True),
        ("cancel", "answers:1", False, "allow_cancel_for_subscriber", False),
        ("publish", "notes:1", True, "no_rule", False),
        ("append", "files:1", True, "no_rule", False),
    ],
)
def test_the_rights_say_which_rule_decides(
    service: TestClient, verb: str, channel: str, subscribed: bool, rule: str, allowed: bool
) -> None:
    found = api(service, "can", user="alice", verb=verb, channel=channel, subscribed=subscribed)
    assert (found["rule"], found["allowed"]) == (rule, allowed)
