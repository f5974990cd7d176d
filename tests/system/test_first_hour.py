"""What a new user meets: the banner's commands, refusals in the log with their remedy, switches, and the chat's ids."""

import json
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from starling.auth.issue import issue_connection_token
from tests.support.running import SECRET, Starling
from tests.support.services import RedisServer
from tests.test_cli import environment

CHANNELS = """
namespaces:
  quiet: {}
  raw: {publication_data_format: binary, allow_subscribe_for_client: true}
  open: {allow_subscribe_for_client: true, allow_subscribe_for_anonymous: true}
  kept:
    history_size: 10
    history_ttl: 60s
    allow_subscribe_for_client: true
    allow_publish_for_subscriber: true
    allow_history_for_subscriber: true
"""


@pytest.fixture(scope="module")
def developer() -> Iterator[Starling]:
    with Starling({"STARLING_DEV": "true", "STARLING_LOG_FORMAT": "auto"}) as starling:
        yield starling


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starling]:
    channels = tmp_path_factory.mktemp("channels") / "channels.yaml"
    channels.write_text(CHANNELS)
    with RedisServer() as redis:
        settings = {
            "STARLING_TOKEN_HMAC_SECRET": SECRET,
            "STARLING_BROKER_URL": redis.url,
            "STARLING_WORKERS": "2",
            "STARLING_CHANNELS_FILE": str(channels),
            "STARLING_LOG_LEVEL": "debug",
        }
        with Starling(settings) as starling:
            yield starling


@contextmanager
def client_of(starling: Starling, token: str = "", **headers: str) -> Iterator[ClientConnection]:
    with connect(f"{starling.url}/connection/websocket", additional_headers=headers) as client:
        assert "connect" in ask(client, connect={"token": token} if token else {})
        yield client


def status_of_upgrade(starling: Starling, path: str, **headers: str) -> int:
    try:
        with connect(f"{starling.url}{path}", additional_headers=headers):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def ask(client: ClientConnection, **command: Any) -> dict[str, Any]:
    client.send(json.dumps({"id": 7, **command}))
    while True:
        for line in str(client.recv(10)).splitlines():
            reply: dict[str, Any] = json.loads(line)
            if reply.get("id") == 7:
                return reply


def close_code(client: ClientConnection, message: str) -> int:
    """The code with which the service closes a client for this message; 0 where it answers."""
    code = 0
    with suppress(ConnectionClosedError), client:
        try:
            client.send(message)
            client.recv(10)
        except ConnectionClosedError as closed:
            code = closed.rcvd.code if closed.rcvd is not None else 1006
    return code


def token_of(user: str) -> str:
    return issue_connection_token(SECRET, user, 600)


# --- developer mode ---


def test_the_commands_of_the_banner_work_as_printed(developer: Starling) -> None:
    banner = developer.output
    lines = [line.strip() for line in banner.splitlines() if line.startswith("    ")]
    publish, history, subscribe = lines

    def run(line: str) -> str:
        done = subprocess.run(line, shell=True, env=environment(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "Published to demo:chat at offset 1 " in run(publish)
    assert '{"text": "hello"}' in run(history)
    with subprocess.Popen(
        shlex.split(subscribe), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as listening:
        assert listening.stderr is not None
        assert listening.stdout is not None
        assert any("subscribed to demo:chat" in line for line in iter(listening.stderr.readline, ""))
        run(publish)
        assert '{"text": "hello"}' in listening.stdout.readline()
        listening.terminate()
    assert f"http://localhost:{developer.port}" in banner
    console = next(line.split()[1] for line in banner.splitlines() if line.startswith("  Console "))
    assert httpx2.get(console, timeout=10, follow_redirects=True).status_code == 200
    assert f"ws://localhost:{developer.port}/connection/websocket" in banner


def test_the_demo_namespace_has_history_recovery_and_presence(developer: Starling) -> None:
    with client_of(developer) as client:
        subscribed = ask(client, subscribe={"channel": "demo:room"})["subscribe"]
        assert subscribed["recoverable"]
        assert ask(client, publish={"channel": "demo:room", "data": {"n": 1}})["publish"] == {}
        assert len(ask(client, history={"channel": "demo:room", "limit": 10})["history"]["publications"]) == 1
        assert len(ask(client, presence={"channel": "demo:room"})["presence"]["presence"]) == 1


def read_history(client: ClientConnection, channel: str, **request: Any) -> list[int]:
    found = ask(client, history={"channel": channel, **request})["history"]
    return [publication["data"] for publication in found.get("publications", [])]


def publish_five(client: ClientConnection, channel: str) -> str:
    """Publish 1 to 5; the epoch of the channel's stream."""
    ask(client, subscribe={"channel": channel})
    for number in range(1, 6):
        assert ask(client, publish={"channel": channel, "data": number}) == {"id": 7, "publish": {}}
    return str(ask(client, history={"channel": channel})["history"]["epoch"])


def test_a_history_call_whose_limit_leaves_out_the_newest_is_a_hint_in_developer_mode(developer: Starling) -> None:
    channel = "demo:hint"
    with client_of(developer) as client:
        epoch = publish_five(client, channel)
        # Calls that get the newest, or say where they begin, or ask for nothing, come first: they log nothing.
        assert read_history(client, channel, limit=2, reverse=True) == [5, 4]
        assert read_history(client, channel, limit=5) == [1, 2, 3, 4, 5]
        assert read_history(client, channel, limit=2, since={"offset": 1, "epoch": epoch}) == [2, 3]
        assert read_history(client, channel, limit=-1) == [1, 2, 3, 4, 5]
        assert read_history(client, channel) == []
        assert read_history(client, channel, limit=2) == [1, 2]
    (line,) = developer.reported("history_without_newest", channel=channel, level="info")
    assert (line["limit"], line["last_offset"], line["top_offset"]) == (2, 2, 5)
    assert "reverse: true" in line["remedy"]


def test_there_is_no_such_hint_outside_developer_mode(production: Starling) -> None:
    with client_of(production, token_of("ann")) as client:
        publish_five(client, "kept:hint")
        assert read_history(client, "kept:hint", limit=2) == [1, 2]
        # Refused by the same worker, so that its line comes after the one that must not be there.
        ask(client, subscribe={"channel": "quiet:after"})
    production.reported("command_refused", channel="quiet:after")
    assert "history_without_newest" not in production.output


def test_any_other_namespace_is_taken(developer: Starling) -> None:
    with client_of(developer) as client:
        assert "subscribe" in ask(client, subscribe={"channel": "orders:42"})
        assert ask(client, subscribe={"channel": ":chat"})["error"]["code"] == 102


def test_what_a_channel_does_not_keep_is_named_by_its_option_to_the_client_and_in_the_log(developer: Starling) -> None:
    with client_of(developer) as client:
        ask(client, subscribe={"channel": "lobby"})
        error = ask(client, history={"channel": "lobby", "limit": 10})["error"]
        assert error == {"code": 108, "message": "not available: set history_size and history_ttl under default"}
        error = ask(client, presence={"channel": "orders:1"})["error"]
        assert error["message"] == "not available: set presence under namespaces.orders"

    (line,) = developer.reported("command_refused", channel="lobby", level="info")
    assert (line["option"], line["code"]) == ("history_size and history_ttl", 108)


def test_developer_mode_listens_on_this_machine_alone_unless_it_is_said() -> None:
    starling = Starling({"STARLING_DEV": "true"})
    del starling.environment["STARLING_HOST"]
    with starling:
        (started,) = starling.reported("server_started")
        assert started["host"] == "127.0.0.1"


def test_a_foreign_page_cannot_reach_developer_mode_and_the_log_says_what_would_let_it(developer: Starling) -> None:
    with client_of(developer, Origin="http://localhost:5173"):
        pass
    assert status_of_upgrade(developer, "/connection/websocket", Origin="https://evil.example") == 403
    (line,) = developer.reported("connection_refused", reason="origin", origin="https://evil.example", level="info")
    assert line["path"] == "/connection/websocket"
    assert line["remedy"] == "add https://evil.example to STARLING_ALLOWED_ORIGINS"


# --- outside developer mode ---


def test_refusals_before_the_upgrade_are_lines_at_info_without_a_secret(production: Starling) -> None:
    secret = "eyJhbGciOiJIUzI1NiJ9.e30.not-a-token"
    for path, headers in (
        ("/ws", {}),
        ("/ws", {"Authorization": f"Bearer {secret}"}),
        ("/ws/abc?token=hidden-token", {}),
        ("/nowhere", {}),
        ("/connection/websocket?token=hidden-token", {"Origin": "https://evil.example"}),
    ):
        assert 400 <= status_of_upgrade(production, path, **headers) < 500

    for reason, path in {"no_token": "/ws", "unknown_path": "/nowhere", "origin": "/connection/websocket"}.items():
        line, *_ = production.reported("connection_refused", reason=reason, path=path, level="info")
        assert line["remedy"]
    production.reported("token_refused", path="/ws", level="info")
    assert secret not in production.output
    assert "hidden-token" not in production.output


@pytest.mark.parametrize(
    ("command", "code", "option"),
    [
        ({"subscribe": {"channel": "quiet:a"}}, 103, "allow_subscribe_for_client"),
        ({"subscribe": {"channel": "$quiet:a"}}, 103, None),
        ({"publish": {"channel": "quiet:a", "data": 1}}, 103, "allow_publish_for_client"),
        ({"publish": {"channel": "open:a", "data": 1}}, 103, "allow_publish_for_subscriber"),
        ({"history": {"channel": "quiet:a"}}, 108, "history_size and history_ttl"),
        ({"presence": {"channel": "quiet:a"}}, 108, "presence"),
        ({"presence_stats": {"channel": "open:a"}}, 108, "presence"),
        ({"subscribe": {"channel": "nowhere:a"}}, 102, "namespaces.nowhere"),
        ({"subscribe": {"channel": ":a"}}, 102, None),
        ({"subscribe": {"channel": "raw:a"}}, 108, "publication_data_format"),
    ],
)
def test_a_refused_command_is_a_line_at_debug_with_the_option_that_would_allow_it(
    production: Starling, command: dict[str, Any], code: int, option: str | None
) -> None:
    with client_of(production, token_of("dan")) as client:
        ask(client, subscribe={"channel": "open:a"})
        error = ask(client, **command)["error"]

    (name, body), *_ = command.items()
    verb = name.partition("_")[0]
    seen = {"channel": body["channel"], "code": code, "command": verb, "user": "dan"}
    lines = production.reported("command_refused", level="debug", **seen)
    assert lines[-1].get("option", "") == (option or "")
    assert lines[-1]["remedy"]
    assert ":" not in error["message"], "outside developer mode clients learn nothing of the configuration"


def test_a_client_without_a_token_is_a_line_with_its_remedy(production: Starling) -> None:
    client = connect(f"{production.url}/connection/websocket")
    assert close_code(client, json.dumps({"id": 1, "connect": {}})) == 3500
    (line,) = production.reported("connection_refused", code=3500, level="info")
    assert "starling token" in line["remedy"]


def chat(starling: Starling, user: str, number: int) -> ClientConnection:
    return connect(f"{starling.url}/ws/{number}", additional_headers={"Authorization": f"Bearer {token_of(user)}"})


def test_nobody_speaks_under_an_id_of_another_user(production: Starling) -> None:
    with chat(production, "alice", 77) as alice:
        alice.send("here")
        assert [alice.recv(10), alice.recv(10)] == ["You wrote: here", "Client #77 says: here"]
        for _ in range(4):  # on each of the workers
            assert close_code(chat(production, "mallory", 77), "I claim to be 77") == 1008
        with chat(production, "alice", 77) as second:
            second.send("mine too")
            assert second.recv(10) == "You wrote: mine too"
            assert alice.recv(10) == "Client #77 says: mine too"
        assert alice.recv(10) == "Client #77 left the chat"

    production.reported("connection_cut", user="mallory", client_id=77)


def test_an_id_is_free_once_its_user_has_gone(production: Starling) -> None:
    with chat(production, "alice", 78) as alice:
        alice.send("here")
        alice.recv(10)
    for _ in range(100):
        # A refusal says that the leave is still on its way.
        with suppress(ConnectionClosedError), chat(production, "bob", 78) as bob:
            bob.send("now me")
            assert bob.recv(10) == "You wrote: now me"
            break
    else:
        raise AssertionError("the id stayed taken")


def status_of(starling: Starling, path: str) -> int:
    return starling.get(f"{starling.http}{path}")[0]


def test_the_reference_of_the_api_is_off_outside_developer_mode(production: Starling, developer: Starling) -> None:
    for path in ("/docs", "/openapi.json"):
        assert status_of(production, path) == 404
    assert status_of(developer, "/openapi.json") == 200


def test_tutorial_and_pages_can_be_turned_off(tmp_path: Path) -> None:
    off = {
        "STARLING_DEV": "true",
        "STARLING_TUTORIAL": "false",
        "STARLING_PAGES": "false",
        "STARLING_API_DOCS": "false",
    }
    with Starling(off) as starling:
        for path in ("/", "/docs", "/openapi.json", "/static/page.js"):
            assert status_of(starling, path) == 404, path
        for path in ("/ws", "/ws/1", "/items/a/ws?token=x"):
            assert status_of_upgrade(starling, path) == 404
        with client_of(starling):
            pass
        assert status_of(starling, "/readyz") == 200
        starling.reported("connection_refused", reason="unknown_path", path="/ws")
