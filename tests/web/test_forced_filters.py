"""A filter by tags that the server forces on a client, and a client that tries to get more than it lets through."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from starling.auth.issue import issue_connection_token, issue_subscription_token
from starling.main import create_app
from starling.settings import load_settings
from tests.web.test_refresh import SECRET, Talk

KEY = "the key of these tests"
KEPT = {
    "history_size": 100,
    "history_ttl": "60s",
    "force_recovery": True,
    "allow_tags_filter": True,
    "allow_history_for_subscriber": True,
}
CHANNELS = {
    "namespaces": {
        "closed": KEPT,
        "open": {**KEPT, "allow_subscribe_for_client": True, "allow_history_for_client": True},
        "cache": {**KEPT, "force_recovery_mode": "cache"},
        "patches": {**KEPT, "allowed_delta_types": ["fossil"], "delta_publish": True},
        "live": {"allow_tags_filter": True},
    }
}
RED = {"key": "color", "cmp": "eq", "val": "red"}
BIG = {"key": "size", "cmp": "eq", "val": "big"}
WIDENING = [
    {"key": "color", "cmp": "ex"},
    {"op": "or", "nodes": [RED, {"key": "color", "cmp": "neq", "val": "red"}]},
    {"op": "not", "nodes": [RED]},
    {"key": "color", "cmp": "in", "vals": ["red", "blue", ""]},
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    path: Path = tmp_path_factory.mktemp("forced") / "channels.json"
    path.write_text(json.dumps(CHANNELS))
    environment = {"TOKEN_HMAC_SECRET": SECRET, "CHANNELS_FILE": str(path), "API_KEYS": KEY}
    settings = load_settings({f"STARLING_{name}": value for name, value in environment.items()})
    with TestClient(create_app(settings, CollectorRegistry())) as client:
        client.headers["X-API-Key"] = KEY
        yield client


@pytest.fixture
def room(request: pytest.FixtureRequest) -> str:
    """The rest of a channel's name that no other test uses."""
    return str(abs(hash(request.node.nodeid)))


@contextmanager
def connected(service: TestClient, asked: Any = None, **claims: Any) -> Iterator[tuple[Talk, Any]]:
    """A client of alice with a token of these claims, and its connect result; `asked` are its command's `subs`."""
    with service.websocket_connect("/connection/websocket") as session:
        talk = Talk(session)
        answer = talk.ask(
            connect={"token": issue_connection_token(SECRET, "alice", 600, **claims), "subs": asked or {}}
        )
        yield talk, answer["connect"] if isinstance(answer, dict) else answer


def publish(service: TestClient, channel: str, *numbers: int, **tags: str) -> None:
    for number in numbers:
        body = {"channel": channel, "data": {"n": number}, "tags": tags}
        assert "result" in service.post("/api/publish", json=body).json()


def received(talk: Talk, channel: str) -> list[int]:
    """The numbers of the channel's publications until now; those before are forgotten."""
    talk.ask(ping={})
    found = [push["pub"]["data"]["n"] for push in talk.pushes if push.get("channel") == channel and "pub" in push]
    talk.pushes.clear()
    return found


def numbers(publications: list[Any]) -> list[int]:
    return [publication["data"]["n"] for publication in publications]


def red_token(channel: str, **claims: Any) -> str:
    return issue_subscription_token(SECRET, "alice", channel, 600, **{"server_tags_filter": RED, **claims})


@pytest.mark.parametrize("widening", [None, *WIDENING])
@pytest.mark.parametrize("namespace", ["closed", "live"])
def test_a_clients_own_filter_does_not_widen_that_of_its_token(
    service: TestClient, room: str, namespace: str, widening: Any
) -> None:
    channel = f"{namespace}:{room}"
    with connected(service) as (talk, _):
        tf = {} if widening is None else {"tf": widening}
        assert "error" not in talk.ask(subscribe={"channel": channel, "token": red_token(channel), **tf})
        publish(service, channel, 1, color="blue")
        publish(service, channel, 2)
        publish(service, channel, 3, color="red")
        expected = [] if widening == {"op": "not", "nodes": [RED]} else [3]
        assert received(talk, channel) == expected


def test_a_clients_own_filter_narrows_that_of_its_token(service: TestClient, room: str) -> None:
    channel = f"closed:{room}"
    with connected(service) as (talk, _):
        talk.ask(subscribe={"channel": channel, "token": red_token(channel), "tf": BIG})
        publish(service, channel, 1, color="red")
        publish(service, channel, 2, size="big")
        publish(service, channel, 3, color="red", size="big")
        assert received(talk, channel) == [3]
        assert numbers(talk.ask(history={"channel": channel, "limit": 10})["history"]["publications"]) == [3]


def test_a_client_that_unsubscribes_and_subscribes_without_its_token_is_refused(service: TestClient, room: str) -> None:
    channel = f"closed:{room}"
    with connected(service) as (talk, _):
        talk.ask(subscribe={"channel": channel, "token": red_token(channel)})
        talk.ask(unsubscribe={"channel": channel})
        assert talk.ask(subscribe={"channel": channel})["error"]["code"] == 103
        assert talk.ask(history={"channel": channel, "limit": 10})["error"]["code"] == 103


def test_a_client_gets_no_more_by_recovery_history_or_the_cache(service: TestClient, room: str) -> None:
    for channel in (f"closed:{room}", f"cache:{room}"):
        publish(service, channel, 1, color="red")
        publish(service, channel, 2, color="blue")
        with connected(service) as (talk, _):
            request = {"channel": channel, "token": red_token(channel), "recover": True, "offset": 0, "epoch": ""}
            result = talk.ask(subscribe=request)["subscribe"]
            assert numbers(result.get("publications", [])) == [1]
            for reverse in (False, True):
                history = talk.ask(history={"channel": channel, "limit": 10, "reverse": reverse})["history"]
                assert numbers(history["publications"]) == [1]
                assert history["offset"] == 2


def test_a_client_gets_no_more_as_patches(service: TestClient, room: str) -> None:
    channel = f"patches:{room}"
    with connected(service) as (talk, _):
        request = {"channel": channel, "token": red_token(channel), "delta": "fossil"}
        assert talk.ask(subscribe=request)["subscribe"]["delta"]
        publish(service, channel, 1, color="blue")
        publish(service, channel, 2, color="red")
        publish(service, channel, 3, color="blue")
        talk.ask(ping={})
        (push,) = talk.pushes
        assert json.loads(push["pub"]["data"]) == {"n": 2}
        assert not push["pub"].get("delta")


def test_the_filter_stays_with_a_refreshed_token_of_the_same_filter(service: TestClient, room: str) -> None:
    channel = f"closed:{room}"
    with connected(service) as (talk, _):
        talk.ask(subscribe={"channel": channel, "token": red_token(channel), "tf": BIG})
        assert "error" not in talk.ask(sub_refresh={"channel": channel, "token": red_token(channel, jti="2")})
        publish(service, channel, 1, color="blue", size="big")
        publish(service, channel, 2, color="red", size="big")
        assert received(talk, channel) == [2]


@pytest.mark.parametrize("after", [None, BIG])
def test_a_refreshed_token_with_another_filter_makes_the_client_subscribe_again(
    service: TestClient, room: str, after: Any
) -> None:
    channel = f"closed:{room}"
    with connected(service) as (talk, _):
        talk.ask(subscribe={"channel": channel, "token": red_token(channel)})
        other = red_token(channel, server_tags_filter=after)
        talk.ask(sub_refresh={"channel": channel, "token": other})
        publish(service, channel, 1, color="blue", size="big")
        talk.ask(ping={})
        assert talk.pushes == [{"channel": channel, "unsubscribe": {"code": 2500, "reason": "insufficient state"}}]
        assert "error" not in talk.ask(subscribe={"channel": channel, "token": other})


@pytest.mark.parametrize("namespace", ["closed", "open"])
def test_a_client_gets_no_more_of_a_channel_of_its_connection_token(
    service: TestClient, room: str, namespace: str
) -> None:
    channel = f"{namespace}:{room}"
    publish(service, channel, 1, color="red")
    publish(service, channel, 2, color="blue")
    claims = {"subs": {channel: {"server_tags_filter": RED}}}
    asked = {channel: {"recover": True, "offset": 0, "epoch": "", "tf": WIDENING[0]}}
    with connected(service, asked, **claims) as (talk, result):
        assert numbers(result["subs"][channel]["publications"]) == [1]
        publish(service, channel, 3, color="blue")
        publish(service, channel, 4, color="red")
        assert received(talk, channel) == [4]
        assert numbers(talk.ask(history={"channel": channel, "limit": 10})["history"]["publications"]) == [1, 4]

        # It leaves the channel, and enters again without what the server asked for.
        talk.ask(unsubscribe={"channel": channel})
        history = talk.ask(history={"channel": channel, "limit": 10})
        answer = talk.ask(subscribe={"channel": channel, "recover": True, "offset": 0, "epoch": ""})
        if namespace == "closed":
            assert history["error"]["code"] == answer["error"]["code"] == 103
        else:
            assert numbers(history["history"]["publications"]) == [1, 4]
            assert numbers(answer["subscribe"]["publications"]) == [1, 4]
            publish(service, channel, 5, color="blue")
            publish(service, channel, 6, color="red")
            assert received(talk, channel) == [6]


def test_a_refreshed_connection_token_with_another_filter_makes_the_client_connect_again(
    service: TestClient, room: str
) -> None:
    channel = f"closed:{room}"
    claims = {"subs": {channel: {"server_tags_filter": RED}}}
    for subs, same in ((claims["subs"], True), ({channel: {}}, False), ({channel: {"server_tags_filter": BIG}}, False)):
        with connected(service, **claims) as (talk, _):
            answer = talk.ask(refresh={"token": issue_connection_token(SECRET, "alice", 600, jti="2", subs=subs)})
            assert (answer == 3010) is not same
            if same:
                publish(service, channel, 1, color="blue")
                publish(service, channel, 2, color="red")
                assert received(talk, channel) == [2]


def test_a_subscription_that_a_backend_makes_has_its_filter(service: TestClient, room: str) -> None:
    channel = f"closed:{room}"
    publish(service, channel, 1, color="red")
    publish(service, channel, 2, color="blue")
    with connected(service) as (talk, _):
        body = {
            "user": "alice",
            "channel": channel,
            "server_tags_filter": {"op": "or", "nodes": [RED, BIG]},
            "recover_since": {"offset": 0, "epoch": ""},
        }
        assert service.post("/api/subscribe", json=body).json() == {"result": {}}
        publish(service, channel, 3, color="blue")
        publish(service, channel, 4, size="big")
        assert received(talk, channel) == [1, 4]


@pytest.mark.parametrize(
    ("tree", "named"),
    [
        ({}, "server_tags_filter.cmp"),
        ({"op": "xor", "nodes": [RED]}, "server_tags_filter.op"),
        ({"op": "not", "nodes": [RED, BIG]}, "server_tags_filter.nodes"),
        ({"op": "and", "nodes": [RED, {"key": "a", "cmp": "eq"}]}, "server_tags_filter.nodes[1]"),
        ({"nodes": [RED]}, "server_tags_filter.op"),
        ({"op": "or", "nodes": [RED], "key": "a"}, "server_tags_filter: or takes nodes only"),
        ({**RED, "values": ["red"]}, "server_tags_filter"),
        ("red", "server_tags_filter"),
    ],
)
def test_an_invalid_filter_of_a_backend_is_107_and_names_the_field(service: TestClient, tree: Any, named: str) -> None:
    body = {"user": "alice", "channel": "closed:x", "server_tags_filter": tree}
    error = service.post("/api/subscribe", json=body).json()["error"]
    assert error["code"] == 107
    assert named in error["message"]


def test_a_token_with_an_invalid_filter_gives_nothing(service: TestClient) -> None:
    wrong = {"op": "and", "nodes": []}
    with connected(service) as (talk, _):
        token = red_token("closed:x", server_tags_filter=wrong)
        assert talk.ask(subscribe={"channel": "closed:x", "token": token})["error"]["code"] == 103
    with connected(service, subs={"open:x": {"server_tags_filter": wrong}}) as (_, answer):
        assert answer == 3500
