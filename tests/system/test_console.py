"""The console on the internal port: two pods over Redis, roles, log-in, and the audit log."""

import asyncio
import json
import os
import secrets
import signal
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect

from starling.auth.issue import issue_connection_token
from tests.support.running import SECRET, Starling
from tests.support.services import RedisServer
from tests.support.waiting import until

CHANNELS = """
default: {allow_subscribe_for_client: true}
namespaces:
  kept: {history_size: 100, history_ttl: 1h, presence: true, allow_subscribe_for_client: true}
"""
PASSWORD = secrets.token_urlsafe(16)
READ_PASSWORD = secrets.token_urlsafe(16)


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Starling, Starling]]:
    """Two services of one worker each."""
    channels: Path = tmp_path_factory.mktemp("channels") / "channels.yaml"
    channels.write_text(CHANNELS)
    with RedisServer() as redis:
        environment = {
            "STARLING_TOKEN_HMAC_SECRET": SECRET,
            "STARLING_BROKER_URL": redis.url,
            "STARLING_CHANNELS_FILE": str(channels),
            "STARLING_WORKERS": "1",
            "STARLING_CONSOLE_PASSWORD": PASSWORD,
            "STARLING_CONSOLE_READ_PASSWORD": READ_PASSWORD,
            "STARLING_CONSOLE_USER_HEADER": "X-Forwarded-User",
            "STARLING_CONSOLE_OPERATORS": "ann",
        }
        with Starling(environment) as one, Starling(environment) as two:
            yield one, two


class Browser:
    """Someone who uses the console of a pod: a cookie jar, and the headers that browsers send."""

    def __init__(self, pod: Starling, **headers: str) -> None:
        self.client = httpx2.Client(base_url=f"{pod.internal}/console/", headers={"Origin": pod.internal, **headers})

    def post(self, path: str, body: dict[str, Any] | None = None, **headers: str) -> httpx2.Response:
        return self.client.post(path, json=body or {}, headers=headers, timeout=20)

    def log_in(self, password: str = PASSWORD) -> "Browser":
        assert self.post("log_in", {"password": password}).status_code == 200
        return self

    def call(self, method: str, **body: Any) -> Any:
        answer = self.post(f"api/{method}", body)
        assert answer.status_code == 200, answer.text
        return answer.json()["result"]


async def enter(pod: Starling, user: str, channel: str) -> ClientConnection:
    client = await connect(f"{pod.url}/connection/websocket")
    token = issue_connection_token(SECRET, user, 60)
    await client.send(
        f'{{"id":1,"connect":{{"token":"{token}"}}}}\n' + json.dumps({"id": 2, "subscribe": {"channel": channel}})
    )
    while '"id":2' not in str(await client.recv()):
        pass
    return client


def actions(pod: Starling) -> list[dict[str, Any]]:
    return [line for line in pod.lines if line["event"] == "console_action"]


def test_nothing_is_shown_before_the_password(pods: tuple[Starling, Starling]) -> None:
    browser = Browser(pods[0])
    for path in ("log_out", "api/overview", "api/publish", "api/nothing"):
        assert browser.post(path).status_code == 401, path
    assert browser.post("me").json()["result"] is None
    refused = browser.post("log_in", {"password": "not the password"})
    assert (refused.status_code, refused.json()["error"]["message"]) == (401, "the password is wrong")
    assert "set-cookie" not in refused.headers


def test_a_session_is_in_a_cookie_that_pages_of_others_do_not_send(pods: tuple[Starling, Starling]) -> None:
    browser = Browser(pods[0])
    cookie = browser.post("log_in", {"password": PASSWORD}).headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/console", "Max-Age=43200"} <= {
        part.strip() for part in cookie.split(";")
    }
    assert browser.post("me").json()["result"] == {"name": "password (operator)", "role": "operator"}
    assert browser.post("log_out").status_code == 200
    assert browser.post("me").json()["result"] is None


def test_requests_of_foreign_pages_are_refused(pods: tuple[Starling, Starling]) -> None:
    browser = Browser(pods[0]).log_in()
    assert browser.post("me", Origin="https://evil.example").status_code == 403
    assert browser.post("me", Origin="null").status_code == 403
    assert browser.post("me", Host="evil.example").status_code == 403
    form = browser.client.post("me", content=b"{}", headers={"Content-Type": "text/plain"})
    assert form.status_code == 415
    assert browser.client.get("api/overview").status_code == 404


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b'{"password":"\\ud800"}', 401),
        ({"Origin": "http://["}, b"{}", 403),
        ({"Origin": "http://[", "Host": "[:::::]"}, b"{}", 403),
        ({}, b"[" * 100_000, 400),
        ({}, b"9" * 5000, 400),
        ({}, b"\xff\xfe{", 400),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(
    pods: tuple[Starling, Starling], headers: dict[str, str], body: bytes, status: int
) -> None:
    given = {"Content-Type": "application/json", **headers}
    answer = Browser(pods[0]).client.post("log_in", content=body, headers=given)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "body", "problem"),
    [
        ("can", b'{"user":NaN}', "this is no JSON"),
        ("can", b'{"user":1}', "user: expected str, got int"),
        ("publish", b'{"channel":"kept:answered","data":' + b"[" * 500 + b"]" * 500 + b"}", "is not JSON in UTF-8"),
        ("publish", b'{"channel":"kept:answered","data":"' + "é".encode() * 500_000 + b'"}', ""),
        ("\\ud800", b"{}", "method not found"),
        ("publish", b'{"channel":"kept:answered","data":1,"tags":{"\\ud800":1}}', "the body is no JSON"),
    ],
)
def test_each_request_of_a_user_gets_an_answer(
    pods: tuple[Starling, Starling], method: str, body: bytes, problem: str
) -> None:
    browser = Browser(pods[0]).log_in()
    answer = browser.client.post(
        f"api/{method}", content=body, headers={"Content-Type": "application/json"}, timeout=20
    )
    assert answer.status_code == (400 if problem == "this is no JSON" else 200), answer.text
    assert problem in answer.json().get("error", {"message": ""})["message"]


def test_a_length_of_thousands_of_digits_is_refused(pods: tuple[Starling, Starling]) -> None:
    head = (
        f"Host: localhost\r\nOrigin: http://localhost\r\nContent-Type: application/json\r\nContent-Length: {'9' * 5000}"
    )
    with socket.create_connection(("127.0.0.1", pods[0].internal_port), timeout=20) as client:
        client.sendall(f"POST /console/me HTTP/1.1\r\n{head}\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")


def test_the_page_and_its_files_come_with_a_strict_policy(pods: tuple[Starling, Starling]) -> None:
    page = httpx2.get(f"{pods[0].internal}/console", follow_redirects=True)
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert httpx2.get(f"{pods[0].internal}/console/console.js").headers["content-type"].startswith("text/javascript")
    for path in ("../options.py", "%2e%2e/options.py", "nothing.js", "static/console.js"):
        assert httpx2.get(f"{pods[0].internal}/console/{path}").status_code in {404, 400}, path


async def test_one_pod_shows_the_connections_and_rates_of_all(pods: tuple[Starling, Starling]) -> None:
    clients = [await enter(pod, "ben", "kept:news") for pod in pods]
    browser = Browser(pods[0]).log_in(READ_PASSWORD)

    overview = browser.call("overview")
    assert len(overview["nodes"]["nodes"]) == 2
    assert overview["nodes"]["missing"] == []
    assert overview["broker"]["broker"] == "up"
    await until(lambda: any(step["connections"] >= 2 for step in browser.call("overview")["rates"]))
    found = browser.call("connections", user="ben")["connections"]
    assert len({one["node"] for one in found}) == 2
    assert browser.call("presence", channel="kept:news")["presence"]
    assert browser.call("can", user="ben", verb="publish", channel="kept:news")["allowed"] is False
    for client in clients:
        await client.close()


async def test_an_operator_acts_and_each_action_is_in_the_log(pods: tuple[Starling, Starling]) -> None:
    client = await enter(pods[1], "dora", "kept:acted")
    browser = Browser(pods[0]).log_in()
    before = len(actions(pods[0]))
    browser.call("publish", channel="kept:acted", data={"secret": "never logged"})
    while "never logged" not in str(await client.recv()):
        pass
    browser.call("disconnect", user="dora")
    await client.wait_closed()
    assert client.close_code == 3503
    await until(lambda: len(actions(pods[0])) >= before + 2)
    logged = actions(pods[0])[before:]
    assert [(line["method"], line["on"], line["by"], line["allowed"]) for line in logged] == [
        ("publish", {"channel": "kept:acted"}, "password (operator)", True),
        ("disconnect", {"user": "dora"}, "password (operator)", True),
    ]
    assert "never logged" not in json.dumps(pods[0].lines)


async def test_no_member_that_an_action_has_not_keeps_it_out_of_the_log(pods: tuple[Starling, Starling]) -> None:
    browser = Browser(pods[0]).log_in()
    before = len(actions(pods[0]))
    deep = b"[" * 700 + b"]" * 700
    body = b'{"channel":"kept:logged","data":1,"uid":' + deep + b',"user":{"a":1}}'
    answer = browser.client.post("api/publish", content=body, headers={"Content-Type": "application/json"})
    assert "result" in answer.json(), answer.text
    await until(lambda: len(actions(pods[0])) > before)
    assert [(line["method"], line["on"]) for line in actions(pods[0])[before:]] == [
        ("publish", {"channel": "kept:logged"})
    ]


def test_json_of_every_depth_gets_an_answer(pods: tuple[Starling, Starling]) -> None:
    browser = Browser(pods[0]).log_in()
    for depth in range(960, 1000):
        body = b'{"channel":' + b"[" * depth + b"]" * depth + b"}"
        answer = browser.client.post("api/publish", content=body, headers={"Content-Type": "application/json"})
        assert answer.json()["error"]["message"], depth


def test_a_reader_changes_nothing(pods: tuple[Starling, Starling]) -> None:
    browser = Browser(pods[0]).log_in(READ_PASSWORD)
    for method in (
        "publish",
        "disconnect",
        "live",
        "revoke_token",
        "batch",
        "history_remove",
        "ticket",
        "stream_cancel",
    ):
        assert browser.post(f"api/{method}", {"channel": "kept:a", "data": 1}).status_code == 403, method
    assert browser.call("history", channel="kept:untouched", limit=1)["publications"] == []


def test_a_trusted_proxy_names_the_user(pods: tuple[Starling, Starling]) -> None:
    assert Browser(pods[0], **{"X-Forwarded-User": "ann"}).post("me").json()["result"] == {
        "name": "ann",
        "role": "operator",
    }
    assert Browser(pods[0], **{"X-Forwarded-User": "ben"}).post("me").json()["result"] == {
        "name": "ben",
        "role": "reader",
    }


def test_no_secret_is_among_the_settings(pods: tuple[Starling, Starling]) -> None:
    browser = Browser(pods[0]).log_in()
    shown = browser.call("settings")
    values = {one["variable"]: one["value"] for one in shown}
    assert values["STARLING_TOKEN_HMAC_SECRET"] == values["STARLING_CONSOLE_PASSWORD"] == "(secret)"
    assert values["STARLING_CONSOLE_OPERATORS"] == "ann"
    assert not any(secret in json.dumps(shown) for secret in (SECRET, PASSWORD, READ_PASSWORD))


def test_options_of_a_channel_say_where_they_come_from(pods: tuple[Starling, Starling]) -> None:
    found = Browser(pods[0]).log_in().call("channel_options", channel="kept:a")
    options = {one["name"]: (one["value"], one["origin"]) for one in found["options"]}
    assert found["namespace"] == "kept"
    assert options["history_size"] == (100, "channels file, kept")
    assert options["force_recovery"] == (False, "default")


def test_a_token_is_explained(pods: tuple[Starling, Starling]) -> None:
    browser = Browser(pods[0]).log_in()
    good = browser.call("verify_token", token=issue_connection_token(SECRET, "ann", 60))
    assert good["accepted"]
    assert "'ann'" in good["sentence"]
    bad = browser.call("verify_token", token=issue_connection_token("x" * 40, "ann", 60))
    assert not bad["accepted"]


@pytest.mark.parametrize(
    ("method", "body", "said"),
    [
        ("nothing", {}, "method not found"),
        ("channel_options", {}, "channel"),
        ("channel_options", {"channel": "nowhere:a"}, "unknown channel"),
        ("history", {"channel": "plain"}, "not available"),
        ("live", {}, "a user or a channel"),
    ],
)
def test_what_cannot_be_done_is_answered_in_words(
    pods: tuple[Starling, Starling], method: str, body: dict[str, Any], said: str
) -> None:
    error = Browser(pods[0]).log_in().post(f"api/{method}", body).json()["error"]
    assert said in error["message"]


async def test_frames_are_watched_while_they_pass(pods: tuple[Starling, Starling]) -> None:
    browser = Browser(pods[0]).log_in()
    async with httpx2.AsyncClient(headers=browser.client.headers, cookies=browser.client.cookies, timeout=30) as http:
        asked = {"channel": "kept:watched", "payload": True}
        async with http.stream("POST", f"{pods[0].internal}/console/api/live", json=asked) as answer:
            lines = answer.aiter_lines()
            assert "capture" in json.loads(await anext(lines))
            client = await enter(pods[1], "eve", "kept:watched")
            async for line in lines:
                if line and json.loads(line).get("user") == "eve":
                    break
    await client.close()


async def test_each_view_of_all_nodes_names_one_that_does_not_answer(pods: tuple[Starling, Starling]) -> None:
    (worker,) = pods[1].workers
    browser = Browser(pods[0]).log_in()
    os.kill(worker, signal.SIGSTOP)
    try:
        overview, channels, connections = await asyncio.gather(
            *(asyncio.to_thread(browser.call, method) for method in ("overview", "channels", "connections"))
        )
    finally:
        os.kill(worker, signal.SIGCONT)
    assert len(overview["nodes"]["nodes"]) == 1
    for answer in (overview["nodes"], channels, connections):
        assert [name.rpartition("_")[2] for name in answer["missing"]] == [str(worker)]
    await until(lambda: browser.call("overview")["nodes"]["missing"] == [])


@pytest.mark.long
async def test_100_000_channels_of_two_pods_are_searched_page_by_page() -> None:
    half = 50_000
    environment = {
        "STARLING_DEV": "true",
        "STARLING_WORKERS": "1",
        "STARLING_MAX_CHANNELS": str(half),
        "STARLING_MESSAGE_BURST": str(10 * half),
        "STARLING_MAX_MESSAGE_BYTES": "1048576",
        # The clients of this test do not answer pings.
        "STARLING_PING_SECONDS": "3600",
    }
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        shared = {**environment, "STARLING_BROKER_URL": redis.url}
        pods = [stack.enter_context(Starling(shared)) for _ in range(2)]
        for pod, first in zip(pods, (0, half), strict=True):
            client = await stack.enter_async_context(
                connect(f"{pod.url}/connection/websocket", max_size=None, ping_interval=None)
            )
            await client.send('{"id":1,"connect":{}}')
            for begin in range(first, first + half, 1000):
                commands = [
                    {"id": number + 2, "subscribe": {"channel": f"many:{number:06}"}}
                    for number in range(begin, begin + 1000)
                ]
                await client.send("\n".join(map(json.dumps, commands)))
                while f'"id":{begin + 1001}' not in str(await client.recv()):
                    pass
        browser = Browser(pods[0])
        assert pages(browser, "many:*", 10_000) == [f"many:{number:06}" for number in range(2 * half)]
        assert pages(browser, "many:0499*", 30) == [f"many:{number:06}" for number in range(49_900, 50_000)]
        assert pages(browser, "many:x*", 30) == []


def pages(browser: Browser, pattern: str, limit: int) -> list[str]:
    """The channels of all pages of a search, as the console's button asks for them."""
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = browser.call("channels", pattern=pattern, limit=limit, cursor=cursor)
        assert len(page["channels"]) <= limit
        found += page["channels"]
        cursor = page.get("cursor")
    return found


@pytest.mark.long
def test_a_pod_whose_only_worker_is_stuck_names_the_process(pods: tuple[Starling, Starling]) -> None:
    browser = Browser(pods[1]).log_in()
    (worker,) = pods[1].workers
    os.kill(worker, signal.SIGSTOP)
    try:
        refused = browser.post("api/overview")
    finally:
        os.kill(worker, signal.SIGCONT)
    assert refused.status_code == 503
    assert refused.json()["error"]["message"] == (
        f"no worker of this pod answers (process {worker}): it starts, stops or is stuck"
    )


def test_guessing_is_slowed_down(pods: tuple[Starling, Starling]) -> None:
    """The last of this module: afterwards nobody can log in for a minute."""
    browser = Browser(pods[1])
    statuses = [browser.post("log_in", {"password": f"guess {number}"}).status_code for number in range(12)]
    assert statuses[:10] == [401] * 10
    assert statuses[10:] == [429] * 2
    assert browser.post("log_in", {"password": PASSWORD}).status_code == 429
    assert "retry-after" in browser.post("log_in", {"password": PASSWORD}).headers
