"""What a refreshed token changes for its connection, over the wire."""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from starlette.testclient import WebSocketTestSession

from starling.auth.issue import issue_connection_token, issue_subscription_token
from starling.main import create_app
from starling.settings import load_settings

SECRET = "a test's own secret, longer than thirty-two bytes"
CHANNELS = {
    "namespaces": {
        "open": {
            "allow_subscribe_for_client": True,
            "allow_publish_for_subscriber": True,
            "presence": True,
            "allow_presence_for_subscriber": True,
        },
        "closed": {},
    }
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    path: Path = tmp_path_factory.mktemp("refresh") / "channels.json"
    path.write_text(json.dumps(CHANNELS))
    environment = {
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_CHANNELS_FILE": str(path),
        "STARLING_API_KEYS": "the key of these tests",
        "STARLING_SUBSCRIBE_TO_PERSONAL_CHANNEL": "true",
    }
    with TestClient(create_app(load_settings(environment), CollectorRegistry())) as client:
        client.headers["X-API-Key"] = "the key of these tests"
        yield client


class Talk:
    """One client, that reads until the answer to its command comes."""

    def __init__(self, session: WebSocketTestSession) -> None:
        self.session = session
        self.number = 0
        self.pushes: list[Any] = []

    def ask(self, **command: Any) -> Any:
        self.number += 1
        self.session.send_text(json.dumps({"id": self.number, **command}))
        while True:
            message = self.session.receive()
            if message["type"] == "websocket.close":
                return message["code"]
            for line in message["text"].splitlines():
                reply = json.loads(line)
                if reply.get("id") == self.number:
                    return reply
                self.pushes.append(reply.get("push"))


def token(user: str = "alice", **claims: Any) -> str:
    return issue_connection_token(SECRET, user, 600, **claims)


@pytest.fixture
def talk(service: TestClient) -> Iterator[Talk]:
    with service.websocket_connect("/connection/websocket") as session:
        yield Talk(session)


@pytest.mark.parametrize(
    ("claims", "entered"),
    [
        ({"channels": ["nowhere:a", "open:a"]}, {"open:a", "#alice"}),
        ({"channels": ["nowhere:a", "$nowhere:a", "elsewhere:#bob"]}, {"#alice"}),
        ({"subs": {"nowhere:a": {"info": {"n": 1}}, "open:a": {}}}, {"open:a", "#alice"}),
    ],
)
def test_channels_of_a_token_whose_namespace_is_not_configured_are_left_out(
    talk: Talk, claims: dict[str, Any], entered: set[str]
) -> None:
    connected = talk.ask(connect={"token": token(**claims)})["connect"]
    assert connected["subs"].keys() == entered
    # The token names the same channels still, so its successor changes nothing.
    assert "refresh" in talk.ask(refresh={"token": token(**claims)})
    assert talk.ask(subscribe={"channel": "nowhere:a"})["error"]["code"] == 102


def test_a_token_with_an_illegal_channel_is_refused(talk: Talk) -> None:
    assert talk.ask(connect={"token": token(channels=["open:a", "x" * 256])})["error"]["code"] == 107


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ({}, {}, True),
        ({"channels": ["open:a"]}, {"channels": ["open:a"]}, True),
        ({"channels": ["open:a", "open:b"]}, {"channels": ["open:b", "open:a"]}, True),
        ({"channels": ["open:a"]}, {"subs": {"open:a": {}}}, True),
        ({"channels": ["open:a"]}, {"channels": ["open:a", "open:a"]}, True),
        ({"channels": ["open:a"]}, {}, False),
        ({}, {"channels": ["open:a"]}, False),
        ({"channels": ["open:a"]}, {"channels": ["open:b"]}, False),
        ({"channels": ["open:a"]}, {"channels": ["open:a", "open:b"]}, False),
        ({"channels": ["open:a", "open:b"]}, {"subs": {"open:b": {}}}, False),
        ({"channels": ["#alice"]}, {}, False),
        ({"info": {"n": 1}, "channels": ["open:a"]}, {"info": {"n": 2}}, False),
    ],
)
def test_a_token_with_other_channels_brings_the_client_back_for_them_with_3010(
    talk: Talk, before: dict[str, Any], after: dict[str, Any], same: bool
) -> None:
    assert "connect" in talk.ask(connect={"token": token(**before)})

    answer = talk.ask(refresh={"token": token(**after)})

    assert ("refresh" in answer) if same else answer == 3010


def test_channels_that_no_token_named_stay_out_of_the_comparison(service: TestClient, talk: Talk) -> None:
    connected = talk.ask(connect={"token": token(channels=["open:a"])})["connect"]
    assert set(connected["subs"]) == {"open:a", "#alice"}
    talk.ask(subscribe={"channel": "open:own"})
    service.post("/api/subscribe", json={"user": "alice", "client": connected["client"], "channel": "closed:api"})
    service.post("/api/unsubscribe", json={"user": "alice", "client": connected["client"], "channel": "open:a"})

    assert "refresh" in talk.ask(refresh={"token": token(channels=["open:a"])})


def test_the_info_of_the_new_token_is_shown_from_then_on(talk: Talk) -> None:
    client = talk.ask(connect={"token": token(info={"n": 1})})["connect"]["client"]
    talk.ask(subscribe={"channel": "open:a"})

    assert "refresh" in talk.ask(refresh={"token": token(b64info=base64.b64encode(b'{"n":2}').decode())})
    assert "publish" in talk.ask(publish={"channel": "open:a", "data": "hello"})
    members = talk.ask(presence={"channel": "open:a"})["presence"]["presence"]

    assert members[client]["conn_info"] == {"n": 2}
    (received,) = [push for push in talk.pushes if push.get("channel") == "open:a" and "pub" in push]
    assert received["pub"]["info"]["conn_info"] == {"n": 2}

    assert "refresh" in talk.ask(refresh={"token": token()})
    assert "conn_info" not in talk.ask(presence={"channel": "open:a"})["presence"]["presence"][client]


@pytest.mark.parametrize("channel", ["closed:a", "open:a"])
def test_a_subscription_token_is_for_the_connection_that_it_names_alone(talk: Talk, channel: str) -> None:
    client = talk.ask(connect={"token": token()})["connect"]["client"]

    def subscription(**claims: Any) -> str:
        return issue_subscription_token(SECRET, "alice", channel, 600, **claims)

    for wrong in ("another", client[:-1], client.upper() + "x"):
        refused = talk.ask(subscribe={"channel": channel, "token": subscription(client=wrong)})
        assert refused["error"]["code"] == 103
    own = subscription(client=client, iat=int(time.time()))
    assert "subscribe" in talk.ask(subscribe={"channel": channel, "token": own})
    assert talk.ask(sub_refresh={"channel": channel, "token": subscription(client="another")})["error"]["code"] == 103
    assert "sub_refresh" in talk.ask(sub_refresh={"channel": channel, "token": own})
