"""Decisions that a backend takes over HTTP, over the wire of the client protocol, in Centrifugo's JSON."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from starling.auth.issue import issue_connection_token, issue_subscription_token
from starling.main import create_app
from starling.settings import SettingsError, load_settings
from tests.support.proxy_backend_server import Answer, DecidingBackend
from tests.support.waiting import DEADLINE
from tests.web.test_refresh import Talk

SECRET = "a test's own secret, longer than thirty-two bytes"
KEY = "the key of these tests"
EVENTS = ("connect", "refresh", "subscribe", "sub_refresh", "publish", "rpc")
CHANNELS = {
    "namespaces": {
        "asked": {
            "subscribe_proxy": True,
            "sub_refresh_proxy": True,
            "publish_proxy": True,
            "history_size": 10,
            "history_ttl": "60s",
            "presence": True,
        },
        "cached": {"subscribe_proxy": True, "subscribe_proxy_cache": "60s"},
        "open": {"allow_subscribe_for_client": True, "allow_publish_for_client": True},
        "both": {"allow_subscribe_for_client": True, "subscribe_proxy": True},
    }
}
ORIGIN = "https://app.example.com"
Opener = Callable[..., TestClient]


@pytest.fixture
def backend() -> Iterator[DecidingBackend]:
    with DecidingBackend(lambda path, body: {"result": {"user": "56"} if path == "connect" else {}}) as backend:
        yield backend


@pytest.fixture
def opener(tmp_path: Path, backend: DecidingBackend) -> Iterator[Opener]:
    """`opener(setting=value, …)` starts a service whose proxies are `backend`."""
    path = tmp_path / "channels.json"
    path.write_text(json.dumps(CHANNELS))
    with ExitStack() as stack:

        def start(**settings: str) -> TestClient:
            environment = {
                "STARLING_TOKEN_HMAC_SECRET": SECRET,
                "STARLING_CHANNELS_FILE": str(path),
                "STARLING_API_KEYS": KEY,
                "STARLING_PROXY_TIMEOUT_SECONDS": "10",
                "STARLING_ALLOWED_ORIGINS": ORIGIN,
                **{f"STARLING_PROXY_{event.upper()}": backend.url(event) for event in EVENTS},
                **{f"STARLING_{name.upper()}": value for name, value in settings.items()},
            }
            given = {name: value for name, value in environment.items() if value}
            service = stack.enter_context(TestClient(create_app(load_settings(given), CollectorRegistry())))
            service.headers["X-API-Key"] = KEY
            return service

        yield start


@contextmanager
def talking(service: TestClient, **headers: str) -> Iterator[Talk]:
    """An open connection with these header fields in its handshake."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    with service.websocket_connect("/connection/websocket", headers=fields) as session:
        yield Talk(session)


def deciding(backend: DecidingBackend, **answers: Answer) -> None:
    """Answer each event as given; connects let in user 56."""
    defaults: dict[str, Answer] = {"connect": {"result": {"user": "56"}}}
    backend.decide = lambda path, body: {**defaults, **answers}.get(path, {"result": {}})


@contextmanager
def connected(service: TestClient, **headers: str) -> Iterator[Talk]:
    """A client that the connect proxy lets in."""
    with talking(service, **headers) as talk:
        assert "connect" in talk.ask(connect={})
        yield talk


def test_a_client_without_a_token_is_who_the_backend_says(opener: Opener, backend: DecidingBackend) -> None:
    deciding(
        backend,
        connect={
            "result": {
                "user": "56",
                "info": {"name": "Ada"},
                "data": {"hello": 1},
                "channels": ["open:news"],
                "subs": {"asked:1": {"data": {"sub": 1}}},
                "meta": {"role": "admin"},
            }
        },
        rpc={"result": {"data": {"year": 2026}}},
    )

    with talking(opener()) as talk:
        result = talk.ask(connect={"data": {"ticket": 7}, "name": "js", "version": "5.8"})["connect"]
        answer = talk.ask(rpc={"method": "year", "data": {"n": 1}})

    client = {"client": result["client"], "transport": "websocket", "protocol": "json", "encoding": "json"}
    assert result["data"] == {"hello": 1}
    assert set(result["subs"]) == {"open:news", "asked:1"}
    assert result["subs"]["asked:1"]["data"] == {"sub": 1}
    assert [asked.body for asked in backend.asked] == [
        {**client, "name": "js", "version": "5.8", "data": {"ticket": 7}},
        {**client, "user": "56", "method": "year", "data": {"n": 1}, "meta": {"role": "admin"}},
    ]
    assert answer["rpc"] == {"data": {"year": 2026}}


@pytest.mark.parametrize(
    ("path", "transport"),
    [
        ("/connection/uni_http_stream", "uni_http_stream"),
        ("/connection/uni_sse", "uni_sse"),
        ("/sse/open:x", "event_stream"),
    ],
)
def test_the_backend_learns_the_transport_of_a_client_without_websocket(
    opener: Opener, backend: DecidingBackend, path: str, transport: str
) -> None:
    # The backend refuses, so that the response has an end.
    deciding(backend, connect={"error": {"code": 403, "message": "no"}})
    service = opener()
    answer = service.get(path) if path.startswith("/sse") else service.post(path, content="{}")

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, 403)
    (asked,) = backend.asked
    assert (asked.body["transport"], asked.body["protocol"]) == (transport, "json")


def test_a_client_with_a_token_is_not_asked_about_and_with_a_bad_one_neither(
    opener: Opener, backend: DecidingBackend
) -> None:
    service = opener()
    with talking(service) as talk:
        assert "connect" in talk.ask(connect={"token": issue_connection_token(SECRET, "alice", 600)})
    with talking(service) as talk:
        assert talk.ask(connect={"token": "no.token.atall"}) == 3500

    assert backend.asked == []


@pytest.mark.parametrize(
    ("answer", "client"),
    [
        ({"error": {"code": 403, "message": "no", "temporary": False}}, {"code": 403, "message": "no"}),
        ({"disconnect": {"code": 4501, "reason": "banned"}}, 4501),
        ({"disconnect": {"code": 4001, "reason": "later"}}, 4001),
        (500, {"code": 100, "message": "internal server error", "temporary": True}),
        (302, {"code": 100, "message": "internal server error", "temporary": True}),
        (b"<html>", {"code": 100, "message": "internal server error", "temporary": True}),
        ({}, {"code": 100, "message": "internal server error", "temporary": True}),
        ({"result": {"channels": ["nowhere:1"]}}, {"code": 102, "message": "unknown channel"}),
        ({"result": {"expire_at": 1000}}, {"code": 110, "message": "expired"}),
    ],
)
@pytest.mark.parametrize("origin", [ORIGIN])
def test_a_client_that_the_backend_refuses_gets_its_reason_and_any_fault_is_a_temporary_error(
    opener: Opener, backend: DecidingBackend, answer: Answer, client: object, origin: str
) -> None:
    deciding(backend, connect=answer)
    with talking(opener(), origin=origin) as talk:
        reply = talk.ask(connect={})

    assert (reply if isinstance(reply, int) else reply["error"]) == client


def test_a_backend_that_is_away_refuses_new_clients_with_a_temporary_error_and_leaves_the_others(
    opener: Opener, backend: DecidingBackend
) -> None:
    service = opener()
    with connected(service) as talk:
        backend.stop()
        for _ in range(7):
            with talking(service) as late:
                assert late.ask(connect={})["error"]["temporary"] is True

        assert "subscribe" in talk.ask(subscribe={"channel": "open:1"})


def test_headers_and_cookies_are_forwarded_by_name_with_every_event(opener: Opener, backend: DecidingBackend) -> None:
    service = opener(proxy_headers="Authorization-Hint, X-Shop", proxy_cookies="sessionid, csrftoken")
    cookie = "sessionid=abc; tracking=1; csrftoken=t"
    with connected(service, origin=ORIGIN, x_shop="7", x_other="8", cookie=cookie) as talk:
        talk.ask(subscribe={"channel": "asked:1"})
        talk.ask(publish={"channel": "asked:1", "data": {}})
        talk.ask(rpc={"method": "x", "data": {}})

    assert [asked.path for asked in backend.asked] == ["/connect", "/subscribe", "/publish", "/rpc"]
    for asked in backend.asked:
        assert asked.headers["x-shop"] == "7"
        assert asked.headers["cookie"] == "sessionid=abc; csrftoken=t"
        assert "x-other" not in asked.headers


def test_headers_that_the_client_writes_are_forwarded_where_their_own_list_names_them(
    opener: Opener, backend: DecidingBackend
) -> None:
    service = opener(proxy_headers="X-Shop", proxy_client_headers="X-Device-Token, X-Shop, X-Broken, X-Empty")
    written = {
        "x-device-token": "t-1",
        "X-SHOP": "forged",
        "X-Broken": "a\r\nX-Admin: yes",
        "X-Empty": "",
        "X-Other": "8",
    }
    with talking(service, x_shop="7") as talk:
        assert "connect" in talk.ask(connect={"headers": written})
        talk.ask(subscribe={"channel": "asked:1"})
        talk.ask(rpc={"method": "x", "data": {}})
    with talking(service) as talk:
        assert "connect" in talk.ask(connect={"headers": written})

    for asked, shop in zip(backend.asked, ("7", "7", "7", "forged"), strict=True):
        assert asked.headers["x-device-token"] == "t-1"
        assert asked.headers["x-shop"] == shop
        assert not {"x-broken", "x-empty", "x-other", "x-admin"} & asked.headers.keys()


def test_a_client_with_a_token_has_its_written_headers_forwarded_too(opener: Opener, backend: DecidingBackend) -> None:
    service = opener(proxy_client_headers="X-Device-Token")
    with talking(service) as talk:
        token = issue_connection_token(SECRET, "alice", 600)
        assert "connect" in talk.ask(connect={"token": token, "headers": {"X-Device-Token": "t-2"}})
        talk.ask(subscribe={"channel": "asked:1"})

    assert [asked.headers["x-device-token"] for asked in backend.asked] == ["t-2"]


def test_methods_of_a_namespace_are_answered_by_its_own_backend(
    opener: Opener, backend: DecidingBackend, tmp_path: Path
) -> None:
    with DecidingBackend(lambda path, body: {"result": {"data": path}}) as other:
        namespaces = {"billing": {"rpc_proxy": other.url("billing")}, "chat": {}, "same": {"rpc_proxy": True}}
        (tmp_path / "channels.json").write_text(json.dumps({"namespaces": namespaces}))
        with connected(opener()) as talk:
            for method in ("billing:invoice", "chat:say", "same:x", "nowhere:x", "plain", "billing"):
                assert "rpc" in talk.ask(rpc={"method": method, "data": {}})

    assert [asked.body["method"] for asked in other.asked] == ["billing:invoice"]
    assert [asked.body["method"] for asked in backend.about("rpc")] == [
        "chat:say",
        "same:x",
        "nowhere:x",
        "plain",
        "billing",
    ]


def test_without_a_proxy_for_all_methods_those_of_other_namespaces_are_not_available(
    opener: Opener, backend: DecidingBackend, tmp_path: Path
) -> None:
    (tmp_path / "channels.json").write_text(json.dumps({"namespaces": {"billing": {"rpc_proxy": True}}}))
    with pytest.raises(SettingsError, match=r"namespaces\.billing\.rpc_proxy.*STARLING_PROXY_RPC"):
        opener(proxy_rpc="")
    (tmp_path / "channels.json").write_text(json.dumps({"namespaces": {"billing": {"rpc_proxy": backend.url("b")}}}))
    with connected(opener(proxy_rpc="")) as talk:
        assert "rpc" in talk.ask(rpc={"method": "billing:x", "data": {}})
        assert talk.ask(rpc={"method": "other:x", "data": {}})["error"]["code"] == 108


def test_without_a_list_no_header_and_no_cookie_leaves(opener: Opener, backend: DecidingBackend) -> None:
    with connected(opener(), origin=ORIGIN, x_shop="7", cookie="sessionid=abc", authorization="Basic eA=="):
        pass

    assert not {"cookie", "x-shop", "authorization", "origin"} & backend.asked[0].headers.keys()


def test_a_page_of_another_origin_is_refused_before_the_backend_is_asked(
    opener: Opener, backend: DecidingBackend
) -> None:
    service = opener(proxy_cookies="sessionid")
    with pytest.raises(Exception), talking(service, origin="https://evil.example.net", cookie="sessionid=abc"):  # noqa: B017, PT011 - the test client's denial
        pass

    assert backend.asked == []


def test_a_backend_grants_a_channel_that_no_right_gives_with_info_data_and_a_forced_filter(
    opener: Opener, backend: DecidingBackend
) -> None:
    deciding(
        backend,
        subscribe={
            "result": {
                "info": {"seat": 1},
                "data": {"welcome": True},
                "tags_filter": {"key": "team", "cmp": "eq", "val": "red"},
            }
        },
    )
    service = opener()
    with connected(service) as talk:
        subscribed = talk.ask(subscribe={"channel": "asked:1", "data": {"x": 1}})["subscribe"]
        for team in ("blue", "red"):
            service.post("/api/publish", json={"channel": "asked:1", "data": team, "tags": {"team": team}})
        talk.ask(rpc={"method": "x", "data": {}})
        got = [push["pub"]["data"] for push in talk.pushes if push and "pub" in push]
        presence = service.post("/api/presence", json={"channel": "asked:1"}).json()["result"]["presence"]

    assert subscribed["data"] == {"welcome": True}
    assert backend.about("subscribe")[0].body["channel"] == "asked:1"
    assert backend.about("subscribe")[0].body["data"] == {"x": 1}
    assert got == ["red"]
    assert [info["chan_info"] for info in presence.values()] == [{"seat": 1}]


@pytest.mark.parametrize("channel", ["asked:1", "both:1"])
@pytest.mark.parametrize(
    ("answer", "code"), [({"error": {"code": 404, "message": "no such order"}}, 404), (503, 100), ({}, 100)]
)
def test_a_channel_that_the_backend_does_not_grant_stays_closed(
    opener: Opener, backend: DecidingBackend, channel: str, answer: Answer, code: int
) -> None:
    deciding(backend, subscribe=answer)
    with connected(opener()) as talk:
        assert talk.ask(subscribe={"channel": channel})["error"]["code"] == code


def test_channels_without_a_proxy_and_clients_with_a_subscription_token_are_not_asked_about(
    opener: Opener, backend: DecidingBackend
) -> None:
    with connected(opener()) as talk:
        assert "subscribe" in talk.ask(subscribe={"channel": "open:1"})
        token = issue_subscription_token(SECRET, "56", "asked:1", 600)
        assert "subscribe" in talk.ask(subscribe={"channel": "asked:1", "token": token})
        assert "publish" in talk.ask(publish={"channel": "open:1", "data": {}})

    assert [asked.path for asked in backend.asked] == ["/connect"]


def test_answers_are_kept_by_user_and_channel_where_the_namespace_says_so(
    opener: Opener, backend: DecidingBackend
) -> None:
    service = opener()
    for _ in range(2):
        with connected(service) as talk:
            talk.ask(subscribe={"channel": "cached:1"})
            talk.ask(subscribe={"channel": "cached:2"})
            talk.ask(unsubscribe={"channel": "cached:2"})
            talk.ask(subscribe={"channel": "cached:2", "data": {"code": 1}})
    deciding(backend, connect={"result": {"user": "57"}})
    with connected(service) as talk:
        talk.ask(subscribe={"channel": "cached:1"})

    asked = [(asked.body["user"], asked.body["channel"]) for asked in backend.about("subscribe")]
    assert asked == [
        ("56", "cached:1"),
        ("56", "cached:2"),
        ("56", "cached:2"),
        ("56", "cached:2"),
        ("57", "cached:1"),
    ]


def test_a_backend_permits_changes_and_refuses_publications(opener: Opener, backend: DecidingBackend) -> None:
    service = opener()

    def published() -> list[Any]:
        history = service.post("/api/history", json={"channel": "asked:1", "limit": 10}).json()["result"]
        return [publication["data"] for publication in history["publications"]]

    with connected(service) as talk:
        assert "publish" in talk.ask(publish={"channel": "asked:1", "data": {"n": 1}})
        deciding(backend, publish={"result": {"data": {"n": "two"}}})
        assert "publish" in talk.ask(publish={"channel": "asked:1", "data": {"n": 2}})
        deciding(backend, publish={"error": {"code": 413, "message": "rude"}})
        assert talk.ask(publish={"channel": "asked:1", "data": {"n": 3}})["error"]["code"] == 413
        deciding(backend, publish=500)
        assert talk.ask(publish={"channel": "asked:1", "data": {"n": 4}})["error"]["code"] == 100

    assert published() == [{"n": 1}, {"n": "two"}]
    assert [asked.body["data"] for asked in backend.about("publish")] == [{"n": number} for number in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"proxy_cookies": "sessionid", "allowed_origins": ""}, "STARLING_PROXY_COOKIES"),
        ({"proxy_cookies": "sessionid", "allowed_origins": "*"}, "STARLING_PROXY_COOKIES"),
        ({"proxy_headers": "Cookie"}, "STARLING_PROXY_COOKIES"),
        ({"proxy_headers": "Host"}, "STARLING_PROXY_HEADERS"),
        ({"proxy_headers": "a b"}, "STARLING_PROXY_HEADERS"),
        ({"proxy_cookies": "a=b"}, "STARLING_PROXY_COOKIES"),
        ({"proxy_connect": "backend:8000"}, "STARLING_PROXY_CONNECT"),
        ({"proxy_timeout_seconds": "0"}, "STARLING_PROXY_TIMEOUT_SECONDS"),
    ],
)
def test_settings_that_cannot_be_used_are_named_with_their_remedy(
    opener: Opener, settings: dict[str, str], named: str
) -> None:
    with pytest.raises(SettingsError) as error:
        opener(**settings)

    assert named in str(error.value)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sub_refresh_proxy": "ftp://backend"}, "namespaces.bad.sub_refresh_proxy"),
        ({"subscribe_proxy": "backend/subscribe"}, "namespaces.bad.subscribe_proxy"),
        ({"subscribe_proxy_cache": "5s"}, "subscribe_proxy_cache"),
        ({"subscribe_proxy": 1}, "namespaces.bad.subscribe_proxy"),
    ],
)
def test_a_namespace_whose_proxy_cannot_be_used_is_named(
    opener: Opener, tmp_path: Path, options: dict[str, Any], named: str
) -> None:
    (tmp_path / "channels.json").write_text(json.dumps({"namespaces": {"bad": options}}))

    with pytest.raises(SettingsError) as error:
        opener()

    assert named in str(error.value)


def test_a_namespace_may_name_a_backend_of_its_own(opener: Opener, backend: DecidingBackend, tmp_path: Path) -> None:
    with DecidingBackend() as other:
        namespaces = {"theirs": {"subscribe_proxy": other.url("theirs")}}
        (tmp_path / "channels.json").write_text(json.dumps({"namespaces": namespaces}))
        with connected(opener()) as talk:
            assert "subscribe" in talk.ask(subscribe={"channel": "theirs:1"})

        assert [asked.path for asked in other.asked] == ["/theirs"]
        assert [asked.path for asked in backend.asked] == ["/connect"]


def expiring(backend: DecidingBackend, event: str, seconds: float, **result: Any) -> None:
    """Answer an event with an expiry this many seconds after it is asked, whenever that is."""
    others = backend.decide

    def decide(path: str, body: dict[str, Any]) -> Answer:
        if path == event:
            return {"result": {**result, "expire_at": time.time() + seconds}}
        return others(path, body)

    backend.decide = decide


def wait_for_end(talk: Talk) -> int:
    """The code that the connection ends with."""
    while True:
        message = talk.session.receive()
        if message["type"] == "websocket.close":
            code: int = message["code"]
            return code


def test_a_connection_at_its_end_goes_on_where_the_backend_says_so_and_ends_where_it_does_not(
    opener: Opener, backend: DecidingBackend
) -> None:
    def decide(path: str, body: dict[str, Any]) -> Answer:
        if path == "connect":
            return {"result": {"user": "56", "expire_at": time.time() + 1}}
        return {"result": {"expire_at": time.time() + 1, "expired": len(backend.about("refresh")) > 1}}

    backend.decide = decide
    with talking(opener()) as talk:
        result = talk.ask(connect={})["connect"]
        assert wait_for_end(talk) == 3005

    assert "expires" not in result
    assert [asked.body["user"] for asked in backend.about("refresh")] == ["56", "56"]


def test_a_connection_whose_refresh_gets_no_answer_goes_on_for_its_grace_and_no_longer(
    opener: Opener, backend: DecidingBackend
) -> None:
    deciding(backend, refresh=500)
    expiring(backend, "connect", 0.5, user="56")
    with talking(opener(proxy_grace_seconds="4")) as talk:
        talk.ask(connect={})
        deadline = time.monotonic() + DEADLINE
        while not backend.about("refresh") and time.monotonic() < deadline:
            time.sleep(0.02)
        assert "rpc" in talk.ask(rpc={"method": "x", "data": {}})
        assert wait_for_end(talk) == 3005


def test_a_subscription_at_its_end_is_asked_about_and_ends_where_it_is_expired(
    opener: Opener, backend: DecidingBackend
) -> None:
    deciding(backend, sub_refresh={"result": {"expired": True}})
    expiring(backend, "subscribe", 1)
    with connected(opener()) as talk:
        result = talk.ask(subscribe={"channel": "asked:1"})["subscribe"]
        # Pings come at any time.
        while "push" not in (message := json.loads(talk.session.receive()["text"])):
            assert message == {}

    assert "expires" not in result
    assert message["push"] == {"channel": "asked:1", "unsubscribe": {"code": 2501, "reason": "expired"}}
    assert [asked.body["channel"] for asked in backend.about("sub_refresh")] == ["asked:1"]
