"""A pod of one worker in this process, and what is asked of it: transports, commands, console, probes, a reload."""

import json
import os
import secrets
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from starling.auth.issue import issue_connection_token
from starling.producer.errors import StreamError, StreamUnavailable
from starling.producer.http import open_stream
from starling.reload import ConfigurationFiles, Reload
from starling.server.service import ReloadError
from tests.support.commands import run_command
from tests.support.conversation import TRANSPORTS, Conversation
from tests.support.in_process import InProcessStarling
from tests.support.running import SECRET
from tests.support.services import free_port
from tests.support.waiting import DEADLINE

KEY = "a key of these tests alone"
FOREIGN_SECRET = secrets.token_hex(32)
PASSWORD = secrets.token_urlsafe(16)
READ_PASSWORD = secrets.token_urlsafe(16)
CHANNELS = """
default: {allow_subscribe_for_client: true}
namespaces:
  kept:
    history_size: 100
    history_ttl: 1h
    presence: true
    join_leave: true
    force_recovery: true
    allow_subscribe_for_client: true
    allow_publish_for_client: true
    allow_history_for_subscriber: true
    allow_presence_for_subscriber: true
  answers: {stream: text}
"""


@pytest.fixture(scope="module")
def channels_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file: Path = tmp_path_factory.mktemp("channels") / "channels.yaml"
    file.write_text(CHANNELS)
    return file


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory, channels_file: Path) -> Iterator[InProcessStarling]:
    environment = {
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_API_KEYS": KEY,
        "STARLING_CHANNELS_FILE": str(channels_file),
        "STARLING_CONSOLE_PASSWORD": PASSWORD,
        "STARLING_CONSOLE_READ_PASSWORD": READ_PASSWORD,
    }
    with InProcessStarling(tmp_path_factory.mktemp("run"), environment) as pod:
        yield pod


def enter(pod: InProcessStarling, user: str, transport: str = "websocket", **subscribe: Any) -> Conversation:
    """A client of `user`, connected."""
    token = issue_connection_token(SECRET, user, 600)
    client = Conversation(transport, pod.port, {"token": token})
    client.connected()
    if subscribe:
        client.call("subscribe", **subscribe)
    return client


def command(pod: InProcessStarling, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command against the pod."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STARLING_")}
    variables = {"API_URL": pod.http, "API_KEY": KEY, "TOKEN_HMAC_SECRET": SECRET}
    environment = inherited | {f"STARLING_{name}": value for name, value in variables.items()} | {"COLUMNS": "200"}
    return run_command(arguments, environment, given)


def printed(pod: InProcessStarling, *arguments: str, given: str | None = None) -> str:
    """What the command prints, having done what it was to do."""
    done = command(pod, *arguments, given=given)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- transports ---


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_client_of_every_transport_is_served(pod: InProcessStarling, transport: str) -> None:
    channel = f"kept:{transport}"
    with enter(pod, "ann", transport, channel=channel) as ann:
        assert ann.call("publish", channel=channel, data={"text": "ä"})["publish"] == {}
        assert ann.push()["data"] == {"text": "ä"}
        assert [
            each["offset"] for each in ann.call("history", channel=channel, limit=5)["history"]["publications"]
        ] == [1]
        assert ann.call("presence_stats", channel=channel)["presence_stats"] == {"num_clients": 1, "num_users": 1}
        assert ann.call("ping")["id"]
        assert ann.call("unsubscribe", channel=channel)["unsubscribe"] == {}
        printed(pod, "disconnect", "ann", "--code", "4501", "--reason", "signed out")
        assert ann.end() == (4501, "signed out")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_client_without_a_token_is_refused_on_every_transport(pod: InProcessStarling, transport: str) -> None:
    client = Conversation(transport, pod.port, {})
    assert client.end()[0] == 3500
    client.close()


# --- writers of streams ---


async def test_a_program_writes_a_stream_over_http(pod: InProcessStarling) -> None:
    for url in (pod.http, f"{pod.http}/", f"{pod.http}/api"):
        async with open_stream("answers:1", url=url, key=KEY, replace=True) as answer:
            await answer.write("Once upon ")
            await answer.write("a time")
        assert (answer.status, answer.length) == ("complete", len("Once upon a time"))
    assert '"Once upon a time"' in printed(pod, "history", "answers:1", "--json")


@pytest.mark.parametrize(
    ("path", "key", "words"),
    [
        ("", "another key", "unauthorized: send one of"),
        ("/items/1", KEY, "answered 40[45]"),
        ("/items", KEY, "answered 404"),
    ],
)
async def test_a_writer_that_cannot_succeed_fails_at_once_with_the_reason(
    pod: InProcessStarling, path: str, key: str, words: str
) -> None:
    with pytest.raises(StreamError, match=words):
        async with open_stream("answers:2", url=pod.http + path, key=key):
            pass


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://localhost", "nonsense"])
async def test_an_address_of_a_service_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(StreamError, match="write it like http://localhost:8000"):
        async with open_stream("answers:2", url=url, key=KEY):
            pass


async def test_a_service_that_is_away_is_waited_for_as_long_as_the_writer_says() -> None:
    with pytest.raises(StreamUnavailable, match="stream_open: ConnectError"):
        async with open_stream("answers:2", url=f"http://127.0.0.1:{free_port()}", key=KEY, retry_seconds=0):
            pass


# --- commands ---


def test_commands_publish_and_read_back(pod: InProcessStarling) -> None:
    first = json.loads(printed(pod, "publish", "kept:cli", '{"n": 1}', "--json"))
    assert first["offset"] == 1
    assert "offset 2" in printed(pod, "publish", "kept:cli", "-", "--tag", "topic=sport", given='{"n": 2}')
    assert "kept:other" in printed(pod, "broadcast", "kept:cli", "kept:other", "3")

    lines = [json.loads(line) for line in printed(pod, "history", "kept:cli", "--json").splitlines()]
    assert [line["data"] for line in lines] == [{"n": 1}, {"n": 2}, 3]
    table = printed(pod, "history", "kept:cli", "--reverse", "--limit", "1")
    assert table.split()[-1] == "3"
    rest = command(pod, "history", "kept:cli", "--limit", "1", "--since", f"1:{first['epoch']}")
    assert '{"n": 2}' in rest.stdout
    assert "go on with --since 2:" in rest.stderr
    assert command(pod, "history", "kept:cli", "--since", "x").returncode == 2


def test_commands_show_who_is_there(pod: InProcessStarling) -> None:
    with enter(pod, "bob", channel="kept:room"), enter(pod, "carol", channel="kept:room"):
        shown = printed(pod, "presence", "kept:room")
        assert [line.split()[0] for line in shown.splitlines()[1:]] == ["bob", "carol"]
        users = [json.loads(line)["user"] for line in printed(pod, "presence", "kept:room", "--json").splitlines()]
        assert sorted(users) == ["bob", "carol"]
        assert json.loads(printed(pod, "channels", "kept:r*", "--json")) == {"channel": "kept:room", "num_clients": 2}
        assert printed(pod, "channels", "kept:room").split()[-2:] == ["kept:room", "2"]
        found = json.loads(printed(pod, "info", "--json"))
        assert found["channels"] == {"kept:room": {"num_clients": 2}}
        assert found["nodes"][0]["num_clients"] >= 2
        assert "Channels: 1" in printed(pod, "info")
        top = json.loads(printed(pod, "top", "--once", "--json"))
        assert top["total"]["connections"] >= 2
        assert "NODE" in printed(pod, "top", "--once", "--limit", "1")
        printed(pod, "unsubscribe", "bob", "kept:room")
        assert [line.split()[0] for line in printed(pod, "presence", "kept:room").splitlines()[1:]] == ["carol"]


def test_a_command_says_whether_a_user_may(pod: InProcessStarling) -> None:
    allowed = command(pod, "can", "dave", "subscribe", "kept:room", "--url", pod.http)
    assert (allowed.returncode, allowed.stdout[:5]) == (0, "yes: ")
    denied = command(pod, "can", "dave", "publish", "news", "--url", pod.http, "--json")
    assert (denied.returncode, json.loads(denied.stdout)["allowed"]) == (1, False)


def test_a_command_decides_by_the_settings_where_no_service_is_named(channels_file: Path) -> None:
    environment = {"STARLING_TOKEN_HMAC_SECRET": SECRET, "STARLING_CHANNELS_FILE": str(channels_file)}

    def decided(verb: str, channel: str, *more: str) -> tuple[int, str]:
        done = run_command(("can", "dave", verb, channel, *more), environment)
        return done.returncode, done.stdout.partition(":")[0]

    assert decided("subscribe", "kept:room") == (0, "yes")
    assert decided("publish", "news") == (1, "no")
    assert decided("subscribe", "nowhere:room") == (2, "")
    token = issue_connection_token(SECRET, "dave", 60)
    assert decided("subscribe", "news", "--token", token) == (0, "yes")


def test_a_revoked_token_and_a_revoked_user_are_disconnected(pod: InProcessStarling) -> None:
    with enter(pod, "erin") as erin:
        printed(pod, "revoke", "user", "erin", "--before", str(int(time.time()) + 60))
        assert erin.end()[0] == 3500
    assert "token" in printed(pod, "revoke", "token", "a-token-id")


def test_ping_and_capture_end_by_themselves(pod: InProcessStarling) -> None:
    assert json.loads(printed(pod, "ping", "--json"))["seconds"] > 0
    with enter(pod, "frank", channel="kept:film") as frank:
        over = threading.Event()

        def publish() -> None:
            while not over.wait(0.02):
                frank.call("publish", channel="kept:film", data={"of": "frank"})

        publishing = threading.Thread(target=publish)
        publishing.start()
        try:
            seen = printed(pod, "capture", "user", "frank", "--seconds", "1", "--payload")
        finally:
            over.set()
            publishing.join()
    assert '"of":"frank"' in seen.replace(" ", "").replace("\\", "")


def test_subscribe_prints_what_comes_and_ends_after_as_many(pod: InProcessStarling) -> None:
    first = json.loads(printed(pod, "publish", "kept:live", "0", "--json"))
    printed(pod, "publish", "kept:live", "1")
    shown = printed(pod, "subscribe", "kept:live", "--json", "--count", "1", "--since", f"1:{first['epoch']}")
    assert [json.loads(line)["data"] for line in shown.splitlines()] == [1]
    assert "1" in printed(pod, "subscribe", "kept:live", "--count", "1", "--since", f"1:{first['epoch']}")


def test_a_size_is_planned_and_a_foreign_configuration_is_taken_over(pod: InProcessStarling, tmp_path: Path) -> None:
    arguments = ("size", "--connections", "50000", "--rate", "100", "--channels", "500", "--history", "100", "--tls")
    assert json.loads(printed(pod, *arguments, "--json"))["values"]
    assert "pods" in printed(pod, *arguments)

    for name, text in {
        "config.json": '{"client": {"token": {"hmac_secret_key": "%s"}}, "channel": {"namespaces": [{"name": "n"}]}}',
        "config.toml": '[client.token]\nhmac_secret_key = "%s"\n[[channel.namespaces]]\nname = "n"\n',
        "config.yaml": "client: {token: {hmac_secret_key: '%s'}}\nchannel: {namespaces: [{name: n}]}\n",
    }.items():
        (tmp_path / name).write_text(text % FOREIGN_SECRET)
        directory = tmp_path / name.replace(".", "-")
        assert "1 namespace)" in printed(
            pod, "import", "centrifugo", str(tmp_path / name), "--directory", str(directory)
        )
        assert FOREIGN_SECRET in (directory / ".env").read_text()
    (tmp_path / "broken.json").write_text("{")
    assert command(pod, "import", "centrifugo", str(tmp_path / "broken.json")).returncode == 2
    assert command(pod, "import", "centrifugo", str(tmp_path / "absent.json")).returncode == 2


# --- the internal port ---


class Browser:
    """Someone who uses the console."""

    def __init__(self, pod: InProcessStarling, password: str = "") -> None:
        self.client = httpx2.Client(base_url=f"{pod.internal}/console/", headers={"Origin": pod.internal})
        if password:
            assert self.post("log_in", {"password": password}).status_code == 200

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def post(self, path: str, body: dict[str, Any] | None = None, **headers: str) -> httpx2.Response:
        """The answer to a request."""
        return self.client.post(path, json=body or {}, headers=headers, timeout=DEADLINE)

    def call(self, method: str, **body: Any) -> Any:
        """The result of a method."""
        answer = self.post(f"api/{method}", body)
        assert answer.status_code == 200, answer.text
        return answer.json()["result"]


def test_the_console_shows_nothing_before_the_password_and_ends_a_session(pod: InProcessStarling) -> None:
    with Browser(pod) as browser:
        assert browser.post("api/overview").status_code == 401
        assert browser.post("me").json()["result"] is None
        assert browser.post("log_in", {"password": "not the password"}).status_code == 401
        assert browser.post("log_in", {"password": PASSWORD}).status_code == 200
        assert browser.post("me").json()["result"] == {"name": "password (operator)", "role": "operator"}
        assert browser.post("nothing").status_code == 404
        assert browser.post("log_out").status_code == 200
        assert browser.post("me").json()["result"] is None
        assert browser.post("me", Origin="https://evil.example").status_code == 403
        assert browser.client.post("me", content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415
        assert browser.client.post("me", content=b"[]", headers={"Content-Type": "application/json"}).status_code == 400
        assert browser.client.post("me", content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
        assert browser.client.get("console.js").headers["content-type"].startswith("text/javascript")
        assert browser.client.get("").headers["content-type"].startswith("text/html")
        assert browser.client.get("nothing.js").status_code == 404


def test_readers_of_the_console_look_and_operators_act(pod: InProcessStarling) -> None:
    with Browser(pod, READ_PASSWORD) as reader, Browser(pod, PASSWORD) as operator:
        with enter(pod, "gina", channel="kept:console") as gina:
            assert operator.call("publish", channel="kept:console", data={"text": "seen"}) == {
                "offset": 1,
                "epoch": operator.call("history", channel="kept:console", limit=0)["epoch"],
            }
            assert gina.push()["data"] == {"text": "seen"}
            assert reader.call("channels", pattern="kept:console")["channels"] == {"kept:console": {"num_clients": 1}}
            assert reader.call("can", user="gina", verb="subscribe", channel="kept:console")["allowed"]
            assert reader.call("overview")["nodes"]
            shown = {each["variable"]: each["value"] for each in reader.call("settings")}
            assert SECRET not in shown.values()
            assert shown["STARLING_API_KEYS"] == shown["STARLING_TOKEN_HMAC_SECRET"] != ""
            assert reader.call("channel_options", channel="kept:console")
            token = issue_connection_token(SECRET, "gina", 60)
            assert "gina" in json.dumps(reader.call("verify_token", token=token))
            assert reader.post("api/disconnect", {"user": "gina"}).status_code == 403
            assert operator.call("disconnect", user="gina") == {}
            assert gina.end()[0] == 3503
        assert operator.post("api/nonesuch").json()["error"]
        assert operator.post("api/publish", {"channel": 7}).json()["error"]


def test_the_console_streams_what_a_channel_gets(pod: InProcessStarling) -> None:
    with Browser(pod, PASSWORD) as browser:
        asked = {"user": "hans", "seconds": 600, "payload": True}
        with browser.client.stream("POST", "api/live", json=asked, timeout=DEADLINE) as answer:
            lines = answer.iter_lines()
            first = json.loads(next(lines))
            assert "error" not in first, first
            with enter(pod, "hans", channel="kept:live-view"):
                while "hans" not in next(lines):
                    pass


def ask(pod: InProcessStarling, path: str, method: str = "GET") -> tuple[int, str]:
    """Status and body of an answer of the internal port."""
    request = urllib.request.Request(f"{pod.internal}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_internal_port_answers_probes_and_scrapes_and_nothing_else(pod: InProcessStarling) -> None:
    for path in ("/livez", "/startupz", "/readyz"):
        status, body = ask(pod, path)
        assert (status, json.loads(body)["workers"][0]["pid"]) == (200, os.getpid())
    assert "starling_workers 1.0" in ask(pod, "/metrics")[1]
    assert json.loads(ask(pod, "/channels/top")[1]) == {"channels": []}
    assert ask(pod, "/channels/top?limit=many")[0] == 400
    assert ask(pod, "/elsewhere")[0] == 404
    assert ask(pod, "/livez", "DELETE")[0] == 405
    assert ask(pod, "/livez", "HEAD") == (200, "")
    assert ask(pod, "/livez", "POST")[0] == 405


# --- a reload ---


def test_a_reload_gives_the_workers_new_channels_and_names_every_mistake(
    pod: InProcessStarling, channels_file: Path
) -> None:
    built = pod.built
    files, reload = (
        ConfigurationFiles(pod.settings, pod.environment),
        Reload(pod.settings, built.engine, built.verifier, built.api),
    )
    channels_file.write_text(CHANNELS + "  added: {history_size: 1, history_ttl: 1s}\n")
    reload.apply(files.read())
    assert built.engine.channels.options("added:1").history_size == 1

    channels_file.write_text(CHANNELS + "  added: {history_sizes: 1}\n")
    with pytest.raises(ReloadError, match="history_sizes"):
        files.read()
    channels_file.write_text(CHANNELS)
    reload.apply(files.read())
