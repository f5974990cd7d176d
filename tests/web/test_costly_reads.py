"""Commands that are short and cost much, in both formats: they are paid for by what was done, not what is returned."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from starlette.testclient import WebSocketTestSession

from starling.auth.issue import issue_connection_token
from starling.main import create_app
from starling.settings import load_settings
from tests.support.conversation import encoded_commands, protobuf_replies
from tests.web.test_refresh import SECRET, Talk

KEY = "the key of these tests"
BURST = 2000
CHANNELS = {
    "default": {
        "allow_subscribe_for_client": True,
        "allow_history_for_client": True,
        "allow_presence_for_client": True,
        "allow_tags_filter": True,
        "presence": True,
        "history_size": 100,
        "history_ttl": "60s",
        "force_recovery": True,
        "allowed_delta_types": ["fossil"],
    },
    "namespaces": {"plain": {"allow_subscribe_for_client": True}},
}


class ProtobufTalk(Talk):
    """As Talk, in Protobuf."""

    def ask(self, **command: Any) -> Any:
        self.number += 1
        self.session.send_bytes(encoded_commands([{"id": self.number, **command}], protobuf=True))
        while True:
            for reply in protobuf_replies(self.session.receive_bytes()):
                if reply.get("id") == self.number:
                    return reply


Talking = Callable[[], AbstractContextManager[Talk]]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service whose clients may spend BURST messages, of which hardly any is refilled while a test runs."""
    path: Path = tmp_path_factory.mktemp("costly") / "channels.json"
    path.write_text(json.dumps(CHANNELS))
    environment = {
        "TOKEN_HMAC_SECRET": SECRET,
        "CHANNELS_FILE": str(path),
        "API_KEYS": KEY,
        "MESSAGES_PER_SECOND": "1",
        "MESSAGE_BURST": str(BURST),
    }
    settings = load_settings({f"STARLING_{name}": value for name, value in environment.items()})
    with TestClient(create_app(settings, CollectorRegistry())) as client:
        client.headers["X-API-Key"] = KEY
        yield client


@pytest.fixture(params=["json", "protobuf"])
def talking(service: TestClient, request: pytest.FixtureRequest) -> Talking:
    """A client of each format, connected."""
    kind: Callable[[WebSocketTestSession], Talk] = Talk if request.param == "json" else ProtobufTalk

    @contextmanager
    def connected() -> Iterator[Talk]:
        with service.websocket_connect(f"/connection/websocket?format={request.param}") as session:
            talk = kind(session)
            talk.ask(connect={"token": issue_connection_token(SECRET, "alice", 600)})
            yield talk

    return connected


def call(service: TestClient, method: str, **body: Any) -> None:
    answer = service.post(f"/api/{method}", json=body).json()
    assert "error" not in answer, answer


def asked_until_refused(talk: Talk, **command: Any) -> list[int]:
    """The error codes of the answers to the same command, 0 for a result, up to the first 111."""
    codes: list[int] = []
    while 111 not in codes and len(codes) < 50:
        codes.append(talk.ask(**command).get("error", {"code": 0})["code"])
    return codes


def test_publications_that_a_filter_leaves_out_are_paid_for(service: TestClient, talking: Talking) -> None:
    for number in range(100):
        call(service, "publish", channel="filtered", data=str(number).ljust(1000, "x"), tags={"color": "blue"})
    with talking() as talk:
        red = {"key": "color", "cmp": "eq", "val": "red"}
        assert "subscribe" in talk.ask(subscribe={"channel": "filtered", "tf": red})
        history = {"channel": "filtered", "limit": 1}
        assert talk.ask(history=history)["history"].get("publications", []) == []
        # 100 KB are read for each.
        assert asked_until_refused(talk, history=history) == [0, 0, 0, 0, 111]


def test_filters_are_paid_for_by_their_size(service: TestClient, talking: Talking) -> None:
    with talking() as talk:
        many = {"key": "color", "cmp": "in", "vals": [str(number) for number in range(1000)]}
        # Each costs 250 messages, one that is invalid too.
        invalid = {"channel": "filtered", "tf": {**many, "key": ""}}
        assert asked_until_refused(talk, subscribe=invalid) == [107] * 8 + [111]


def test_what_is_recovered_again_and_again_is_paid_for(service: TestClient, talking: Talking) -> None:
    call(service, "publish", channel="recovered", data=1)
    with talking() as talk:
        position = talk.ask(history={"channel": "recovered", "limit": 0})["history"]
        for number in range(90):
            call(service, "publish", channel="recovered", data=str(number).ljust(1000, "x"))
        since = {"recover": True, "offset": position["offset"], "epoch": position["epoch"]}
        codes: list[int] = []
        while 111 not in codes and len(codes) < 20:
            answer = talk.ask(subscribe={"channel": "recovered", **since})
            codes.append(answer.get("error", {"code": 0})["code"])
            if codes[-1] == 0:
                assert len(answer["subscribe"]["publications"]) == 90
                talk.ask(unsubscribe={"channel": "recovered"})
        # 95 KB are sent for each.
        assert codes == [0] * 6 + [111]


def test_history_is_paid_for(service: TestClient, talking: Talking) -> None:
    for number in range(50):
        call(service, "publish", channel="kept", data=str(number).ljust(2000, "x"))
    with talking() as talk:
        assert asked_until_refused(talk, history={"channel": "kept", "limit": 50}) == [0, 0, 0, 0, 0, 111]


def test_presence_of_too_many_is_paid_for(service: TestClient, talking: Talking) -> None:
    for number in range(20):
        call(service, "presence_set", channel="crowd", user=f"u{number}", info="x" * 50_000, ttl=600)
    with talking() as talk:
        assert asked_until_refused(talk, presence={"channel": "crowd"}) == [106, 111]


def test_subscriptions_again_and_again_are_paid_for_by_what_they_do(service: TestClient, talking: Talking) -> None:
    def rounds(channel: str) -> int:
        with talking() as talk:
            done = 0
            while done < 200 and not any(
                "error" in talk.ask(**{command: {"channel": channel}}) for command in ("subscribe", "unsubscribe")
            ):
                done += 1
            return done

    # History and presence are 8 messages each, which an unsubscribe adds.
    assert rounds("kept-and-present") == BURST // 18
    assert rounds("plain:room") == 200
