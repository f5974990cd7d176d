"""The command `starling` as a person or a script uses it, against a running service."""

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from starling import __version__
from starling.cli.entry import cli
from starling.cli.top import snapshot_of
from starling.variables import CLIENT_VARIABLES
from tests.support.commands import run_command
from tests.support.running import SECRET, Starling
from tests.support.services import RedisServer, free_port
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import DEADLINE, until

KEY = "a test's own key for the API"
CHANNELS = """
default: {}
namespaces:
  kept: {history_size: 100, history_ttl: 60s}
"""
# The first byte of a WebSocket's last frame, RFC 6455 section 5.2.
CLOSE_FRAME = 0x88
COMMAND = str(Path(sys.executable).with_name("starling"))


@pytest.fixture(scope="module")
def starling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starling]:
    """Two workers over Redis, where no client may enter a channel without a token."""
    channels = tmp_path_factory.mktemp("channels") / "channels.yaml"
    channels.write_text(CHANNELS)
    with RedisServer() as redis:
        environment = {
            "STARLING_TOKEN_HMAC_SECRET": SECRET,
            "STARLING_API_KEYS": KEY,
            "STARLING_BROKER_URL": redis.url,
            "STARLING_WORKERS": "2",
            "STARLING_CHANNELS_FILE": str(channels),
        }
        with Starling(environment) as running:
            yield running


def environment(**variables: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("STARLING_", "FORCE_"))}
    return inherited | {f"STARLING_{name}": value for name, value in variables.items()} | {"COLUMNS": "200"}


def run(*arguments: str, given: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    return run_command(arguments, environment(**variables), given)


def run_process(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command, as a script does."""
    return subprocess.run(
        [COMMAND, *arguments], env=environment(**variables), capture_output=True, text=True, timeout=60
    )


def at(starling: Starling, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command with all that it needs to reach the service."""
    return run(*arguments, given=given, API_URL=starling.http, API_KEY=KEY, TOKEN_HMAC_SECRET=SECRET)


# --- the service's own ---


@pytest.mark.parametrize(
    "command",
    [
        *("serve", "check", "settings", "token", "verify", "size"),
        *("publish", "subscribe", "info", "top", "capture", "disconnect", "ping"),
    ],
)
def test_help_shows_examples_and_exit_codes(command: str) -> None:
    done = CliRunner().invoke(cli, [command, "--help"], env=environment(), terminal_width=200)

    assert done.exit_code == 0
    assert f"starling {command}" in done.output.partition("Examples:")[2]
    reported = "0 stopped as asked, 1 a port is taken" if command == "serve" else "0 done, 1 refused, 2 the command"
    assert f"Exit codes: {reported}" in done.output


@pytest.mark.processes
def test_the_version_is_reported_by_command_and_by_option() -> None:
    assert run("--version").stdout == run_process("version").stdout == f"{__version__}\n"


def test_the_variables_of_the_client_side_are_those_that_the_page_of_settings_reports() -> None:
    options = [option for command in get_command(cli).commands.values() for option in command.params]  # type: ignore[attr-defined]
    read = {option.envvar: option.help for option in options if option.envvar}

    assert read == CLIENT_VARIABLES
    page = (Path(__file__).parents[1] / "docs" / "settings.md").read_text()
    assert all(f"| `{variable}` |" in page for variable in read)


@pytest.mark.processes
def test_completion_is_offered_for_shells() -> None:
    # The shell that asks is looked for among the processes above; exit keeps bash from making way for the command.
    asked = ["bash", "-c", f"{shlex.quote(str(COMMAND))} --show-completion; exit $?"]
    done = subprocess.run(asked, env=environment(), capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert "_STARLING_COMPLETE" in done.stdout


def test_settings_are_listed_for_people_and_for_programs() -> None:
    assert "STARLING_BROKER_URL" in run("settings").stdout

    listed = [json.loads(line) for line in run("settings", "--json").stdout.splitlines()]

    by_name = {setting["variable"]: setting for setting in listed}
    assert by_name["STARLING_BROKER_URL"]["default"] == "memory://"
    assert by_name["STARLING_TRUSTED_PROXIES"]["default"] == "127.0.0.1,::1"
    assert by_name["STARLING_PORT"]["default"] == 8000


def test_check_reports_every_problem_on_a_line_of_its_own() -> None:
    done = run("check", PORT="eighty", WROKERS="2")

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 3
    assert "STARLING_WROKERS is not a setting: did you mean STARLING_WORKERS?" in done.stderr
    reported = json.loads(run("check", "--json", TOKEN_HMAC_SECRET=SECRET).stdout)
    assert reported == {"workers": 1, "broker": "memory", "warnings": []}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"BROKER_URL": "redis+sentinel://:sesame@one:26379"},
            "STARLING_BROKER_URL: after the hosts stands the name that Sentinel knows the master by",
        ),
        (
            {"BROKER_URL": "rediss://one", "BROKER_KEY_FILE": "/etc/hosts"},
            "STARLING_BROKER_CERT_FILE: it is missing and broker_key_file is set",
        ),
    ],
)
def test_check_names_the_setting_of_the_broker_that_is_wrong(given: dict[str, str], words: str) -> None:
    done = run("check", DEV="true", **given)

    assert done.returncode == 2
    assert done.stderr.startswith(words)
    assert "sesame" not in done.stderr


def test_what_the_client_side_reads_does_not_keep_the_service_from_its_start() -> None:
    assert run("check", TOKEN_HMAC_SECRET=SECRET, API_URL="http://x", API_KEY="y", TOKEN="z").returncode == 0


def test_a_token_holds_what_was_asked_for_and_verify_reads_it() -> None:
    made = run(
        *("token", "alice", "--ttl", "600", "--channel", "news", "--channel", "#alice"),
        *("--id", "t1", "--session", "s1", "--info", '{"name": "Alice"}'),
        TOKEN_HMAC_SECRET=SECRET,
    )
    assert made.returncode == 0, made.stderr

    read = run("verify", "-", given=made.stdout, TOKEN_HMAC_SECRET=SECRET)
    assert read.returncode == 0
    assert "Accepted: a connection token of user 'alice'" in read.stdout
    assert 'jti: "t1"' in read.stdout
    assert 'channels: ["news", "#alice"]' in read.stdout
    reported = json.loads(run("verify", made.stdout.strip(), "--json", TOKEN_HMAC_SECRET=SECRET).stdout)
    assert (reported["accepted"], reported["reason"]) == (True, None)


def test_a_subscription_token_is_made_and_distinguished_from_the_other_kind() -> None:
    made = json.loads(run("token", "alice", "--subscription", "$room", "--json", TOKEN_HMAC_SECRET=SECRET).stdout)

    assert "subscription token" in run("verify", made["token"], TOKEN_HMAC_SECRET=SECRET).stdout


def test_verify_says_why_a_token_is_refused_with_exit_code_1() -> None:
    made = run("token", "alice", TOKEN_HMAC_SECRET="x" * 40).stdout.strip()

    done = run("verify", made, "--json", TOKEN_HMAC_SECRET=SECRET)

    assert done.returncode == 1
    assert json.loads(done.stdout)["reason"] == "bad_signature"


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        (("token", "a", "--info", "{"), "--info: "),
        (("token", "a", "--channel", "x", "--subscription", "y"), "--channel and --subscription"),
        (("publish", "news", "{"), "JSON: "),
        (("publish", "news", "hello"), "a text needs quotes of its own"),
        (("publish", "news", "1", "--tag", "x"), "--tag: write it as NAME=VALUE"),
        (("publish", "news", "1", "--url", "nowhere"), "--url: 'nowhere' is no address"),
        (("publish", "news", "1", "--url", "https://realtime.example.com"), "No key: give --key or STARLING_API_KEY"),
        (("subscribe", "news", "--since", "x"), "--since: write it as OFFSET:EPOCH"),
        (("publish", "news", '"\\ud800"'), "the JSON names a character that UTF-8 has not"),
        (("publish", "\udcff", "1"), "channel: it is no text in UTF-8"),
        (("can", "\udcff", "subscribe", "chat:1"), "user: it is no text in UTF-8"),
        (("capture", "user", "\udcff"), "name: it is no text in UTF-8"),
        (("subscribe", "a", "\udcff"), "channels: it is no text in UTF-8"),
        (("token", "\udcff"), "user: it is no text in UTF-8"),
        (("token", "a", "--channel", "b", "--channel", "\udcff"), "--channel: it is no text in UTF-8"),
    ],
)
def test_a_mistake_is_reported_in_one_line_with_exit_code_2(arguments: tuple[str, ...], reported: str) -> None:
    done = CliRunner().invoke(cli, arguments, env={"STARLING_TOKEN_HMAC_SECRET": SECRET})

    assert done.exit_code == 2
    assert reported in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


# --- over a running service ---


def test_publish_reports_the_position(starling: Starling) -> None:
    first = json.loads(at(starling, "publish", "kept:a", '{"n": 1}', "--json").stdout)
    done = at(starling, "publish", "kept:a", "-", "--tag", "topic=sport", given='{"n": 2}')
    live = at(starling, "publish", "live", '"hi"')

    assert first["offset"] == 1
    assert done.stdout == f"Published to kept:a at offset 2 of epoch {first['epoch']}.\n"
    assert live.stdout == "Published to live, which keeps no history.\n"


def test_publish_with_a_key_of_its_own_publishes_once(starling: Starling) -> None:
    again = [
        json.loads(at(starling, "publish", "kept:once", "1", "--idempotency-key", "k", "--json").stdout)
        for _ in range(2)
    ]

    assert again[0] == again[1]


def test_an_error_of_the_service_is_one_line_with_exit_code_1(starling: Starling) -> None:
    done = at(starling, "publish", "nowhere:x", "1")
    wrong_key = run("publish", "live", "1", "--url", starling.http, "--key", "another")

    assert done.returncode == wrong_key.returncode == 1
    assert done.stderr == "unknown channel: 'nowhere:x': its namespace is not in the channels file (code 102)\n"
    assert "STARLING_API_KEYS" in wrong_key.stderr


def test_where_nobody_answers_the_exit_code_is_3() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    for arguments in (("publish", "a", "1", "--key", "k"), ("info", "--key", "k"), ("ping",), ("subscribe", "a")):
        done = run(*arguments, API_URL=address)

        assert done.returncode == 3, (arguments, done.stderr)
        assert address.removeprefix("http") in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


class Stranger(BaseHTTPRequestHandler):
    """A service that is not Starling's, and answers with JSON that looks a little like it."""

    answers = ('{"detail": "Not Found"}', '{"error": "not found"}', "[]", "7", "null", "<html>")

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer()

    def answer(self) -> None:
        self.server.asked += 1  # type: ignore[attr-defined]
        body = self.answers[self.server.asked % len(self.answers)].encode()  # type: ignore[attr-defined]
        self.send_response(404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize("arguments", [("info", "--key", "k"), ("capture", "user", "a", "--key", "k"), ("probe",)])
def test_a_stranger_at_the_address_is_one_line_with_exit_code_3(arguments: tuple[str, ...]) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        server.asked = 0  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for _ in Stranger.answers:
            done = run(*arguments, "--url", f"http://127.0.0.1:{server.server_port}")

            assert done.returncode == 3, done.stderr
            assert "see --url" in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1
        server.shutdown()


def test_the_key_and_the_port_of_the_service_itself_are_taken_too(starling: Starling, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"{KEY},another one of the keys\n")

    done = run("info", "--json", PORT=str(starling.port), API_KEYS_FILE=str(tmp_path / "keys"))

    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["nodes"]) == 2


def test_ping_reports_the_time_or_that_a_token_is_wanted(starling: Starling) -> None:
    answered = at(starling, "ping", "--json")
    unknown = run("ping", API_URL=starling.http)
    refused = run("ping", API_URL=starling.http, TOKEN_HMAC_SECRET="x" * 40)

    assert json.loads(answered.stdout)["seconds"] > 0
    assert (unknown.returncode, "wants a token" in unknown.stdout) == (0, True)
    assert (refused.returncode, "HTTP 401" in refused.stderr) == (1, True)


class Listening:
    """`starling subscribe` in the background."""

    def __init__(self, starling: Starling, *arguments: str, colours: bool = False) -> None:
        variables = environment(API_URL=starling.http, TOKEN_HMAC_SECRET=SECRET)
        self.process = subprocess.Popen(
            [COMMAND, "subscribe", *arguments],
            env=variables | ({"FORCE_COLOR": "1", "TERM": "xterm"} if colours else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until(self, words: str) -> str:
        """Read its notices until one holds `words`; returns that one."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if words in line:
                return line
        raise AssertionError(f"it ended without {words!r}")

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def __enter__(self) -> "Listening":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)


def test_subscribe_shows_what_is_published_and_stops_at_ctrl_c(starling: Starling) -> None:
    with Listening(starling, "live", "kept:b") as listening:
        for _ in range(2):
            listening.until("subscribed to")
        for channel in ("live", "kept:b"):
            at(starling, "publish", channel, '{"text": "hé"}')
            assert f"{channel}" in (line := listening.line())
            assert '{"text": "hé"}' in line
        at(starling, "publish", "live", '"x\x9b31m\x7f\u202e\u2028"')
        assert listening.line().rstrip("\n").endswith('"x\\u009b31m\\u007f\\u202e\\u2028"')

        listening.process.send_signal(signal.SIGINT)
        assert listening.process.wait(DEADLINE) == 0


def test_subscribe_shows_colours_on_a_terminal_and_none_in_a_pipe(starling: Starling) -> None:
    with Listening(starling, "live", colours=True) as coloured, Listening(starling, "live") as plain:
        for listening in (coloured, plain):
            listening.until("subscribed to")
        at(starling, "publish", "live", '{"number": 7}')

        assert "\x1b[1;36mlive" in coloured.line()
        assert "\x1b" not in plain.line()


def test_subscribe_prints_json_and_stops_after_as_many_as_asked(starling: Starling) -> None:
    with Listening(starling, "kept:c", "--json", "--count", "2") as listening:
        listening.until("subscribed to")
        for number in range(2):
            at(starling, "publish", "kept:c", str(number), "--tag", "a=b")

        lines = [json.loads(listening.line()) for _ in range(2)]
        assert [(line["channel"], line["offset"], line["data"]) for line in lines] == [
            ("kept:c", 1, 0),
            ("kept:c", 2, 1),
        ]
        assert lines[0]["tags"] == {"a": "b"}
        assert listening.process.wait(DEADLINE) == 0


async def leave(proxy: TcpProxy, listening: Listening, *, answer_after: float) -> None:
    """Ctrl-C; returns when the service has answered the client's close, which the proxy holds back for so long."""
    answered = asyncio.Event()

    def note(piece: bytes) -> bool:
        if piece[0] == CLOSE_FRAME:
            answered.set()
        return False

    await asyncio.to_thread(listening.until, "subscribed to")
    proxy.swallow, proxy.delay = note, answer_after
    listening.process.send_signal(signal.SIGINT)
    await asyncio.wait_for(answered.wait(), DEADLINE)


async def test_subscribe_waits_for_the_answer_to_its_close(starling: Starling) -> None:
    async with TcpProxy(starling.port) as proxy:
        with Listening(starling, "live", "--url", f"http://127.0.0.1:{proxy.port}") as listening:
            await leave(proxy, listening, answer_after=0.6)
            (connection,) = proxy.connections
            assert await asyncio.to_thread(listening.process.wait, DEADLINE) == 0
            await until(lambda: not proxy.connections, "the answer is passed on")
            assert connection.undelivered == b"", "it left before the answer"


async def test_subscribe_ends_without_an_answer_to_its_close(starling: Starling) -> None:
    async with TcpProxy(starling.port) as proxy:
        with Listening(starling, "live", "--url", f"http://127.0.0.1:{proxy.port}") as listening:
            await leave(proxy, listening, answer_after=30)
            assert await asyncio.to_thread(listening.process.wait, DEADLINE) == 0
            assert len(proxy.connections) == 1, "it had its answer"


def test_subscribe_resumes_after_a_disconnect_with_what_it_missed(starling: Starling) -> None:
    with Listening(starling, "kept:d", "--json", "--count", "3") as listening:
        listening.until("subscribed to")
        at(starling, "publish", "kept:d", "0")
        assert json.loads(listening.line())["data"] == 0

        at(starling, "disconnect", "starling-cli", "--code", "4000", "--reason", "try again")
        at(starling, "publish", "kept:d", "1")
        listening.until("connection lost (4000 try again)")
        listening.until("nothing was missed")
        at(starling, "publish", "kept:d", "2")

        assert [json.loads(listening.line())["data"] for _ in range(2)] == [1, 2]


@pytest.mark.processes
def test_subscribe_says_that_the_broker_is_away_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    channels = tmp_path / "channels.yaml"
    channels.write_text(CHANNELS)
    away = "The broker does not answer, a hook failed, or Starling did (error 100); trying again"
    with RedisServer() as redis:
        settings = {
            "STARLING_TOKEN_HMAC_SECRET": SECRET,
            "STARLING_API_KEYS": KEY,
            "STARLING_BROKER_URL": redis.url,
            "STARLING_WORKERS": "1",
            "STARLING_CHANNELS_FILE": str(channels),
        }
        redis.kill()
        with Starling(settings, wait_ready=False) as starling:
            end = time.monotonic() + DEADLINE
            while starling.get(f"{starling.http}/livez")[0] != 200:
                assert time.monotonic() < end, starling.output
                time.sleep(0.05)
            with Listening(starling, "kept:away", "--json") as listening:
                # A worker that never had revocations from Redis lets nobody in.
                assert listening.until("(error 100)") == f"{starling.url}: {away}\n"
                redis.start()
                assert listening.until("kept:away") == "subscribed to kept:away\n", "it is said once"

                redis.kill()
                with Listening(starling, "kept:other") as other:
                    assert other.until("kept:other") == f"kept:other: {away}\n"
                    # Redis returns without what it held: the positions of before say nothing any more.
                    redis.start()
                    other.until("subscribed to kept:other")
                assert "(2500 insufficient state), subscribing again" in listening.until("kept:away")
                listening.until("subscribed to kept:away")
                at(starling, "publish", "kept:away", "1")
                assert json.loads(listening.line())["data"] == 1


def test_subscribe_begins_at_the_given_position(starling: Starling) -> None:
    epoch = ""
    for number in range(3):
        epoch = json.loads(at(starling, "publish", "kept:e", str(number), "--json").stdout)["epoch"]

    with Listening(starling, "kept:e", "--json", "--count", "2", "--since", f"1:{epoch}") as listening:
        assert [json.loads(listening.line())["data"] for _ in range(2)] == [1, 2]
    with Listening(starling, "kept:e", "--since", "1:gone") as lost:
        assert lost.process.wait(DEADLINE) == 1
        lost.until("not kept any more")


def test_subscribe_ends_with_the_reason_when_it_may_not_enter(starling: Starling) -> None:
    without_rights = run("token", "eve", TOKEN_HMAC_SECRET=SECRET).stdout.strip()
    done = run("subscribe", "live", "--token", without_rights, API_URL=starling.http)
    anonymous = run("subscribe", "live", API_URL=starling.http)

    assert (done.returncode, "permission denied (code 103)" in done.stderr) == (1, True)
    assert (anonymous.returncode, "(code 3500)" in anonymous.stderr) == (1, True)


def test_info_shows_nodes_and_channels(starling: Starling) -> None:
    with Listening(starling, "shown") as listening:
        listening.until("subscribed to")
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            found = json.loads(at(starling, "info", "--json").stdout)
            if len(found["nodes"]) == 2 and sum(node["num_clients"] for node in found["nodes"]) == 1:
                break
        assert found["channels"] == {"shown": {"num_clients": 1}}

        table = at(starling, "info").stdout
        assert "shown" in table
        assert all(node["name"] in table for node in found["nodes"])
        assert at(starling, "info", "--channels", "nothing*").stdout.count("shown") == 0


def test_top_shows_nodes_and_busiest_channels_once(starling: Starling) -> None:
    with Listening(starling, "kept:busy") as listening:
        listening.until("subscribed to")
        for number in range(3):
            at(starling, "publish", "kept:busy", str(number))

        (line,) = at(starling, "top", "--once", "--json").stdout.splitlines()
        shown = at(starling, "top", "--once", "--limit", "1").stdout

    snapshot = json.loads(line)
    assert len(snapshot["nodes"]) == 2
    assert snapshot["total"]["connections"] == 1
    assert all(node["cores"] >= 0 and node["sent_per_second"] >= 0 for node in snapshot["nodes"])
    assert "kept:busy" in [channel["channel"] for channel in snapshot["channels"]]
    assert "Nodes: 2" in shown
    assert "Busiest channels" in shown


def test_top_goes_on_until_it_is_stopped(starling: Starling) -> None:
    variables = environment(API_URL=starling.http, API_KEY=KEY)
    command = [COMMAND, "top", "--json", "--interval", "0.2"]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(DEADLINE) == 0

    assert lines[0]["time"] < lines[1]["time"]


# A background job of a script, where the shell has SIGINT ignored.
IN_BACKGROUND = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]


@pytest.mark.parametrize(
    "arguments",
    [["top", "--json", "--interval", "0.2"], ["capture", "user", "nobody", "--json"], ["subscribe", "live"]],
)
def test_a_command_started_with_sigint_ignored_ends_at_sigterm_as_it_otherwise_does_at_ctrl_c(
    starling: Starling, arguments: list[str]
) -> None:
    variables = environment(API_URL=starling.http, API_KEY=KEY, TOKEN_HMAC_SECRET=SECRET)
    with subprocess.Popen(
        [*IN_BACKGROUND, COMMAND, *arguments],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline(), "it is under way"
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.send_signal(signal.SIGTERM)
        shown = process.stdout.read()
        assert process.wait(60) == 0, shown

    ignored = int(next(line for line in status.splitlines() if line.startswith("SigIgn:")).split()[1], 16)
    assert ignored & 1 << (signal.SIGINT - 1), "SIGINT stays ignored"
    assert "Traceback" not in shown


def test_a_snapshot_reports_rates_by_each_nodes_own_clock() -> None:
    counters = {"messages_in": 0, "bytes_in": 0, "bytes_out": 0, "publications": 0, "cpu_seconds": 1.0}
    same = {"connections": 5, "users": 4, "subscriptions": 3, "memory_bytes": 10, "lag_seconds": 0.25}
    before = {"nodes": [{"uid": "a", "uptime": 10.0, "messages_out": 100, **counters, **same}]}
    now = {
        "nodes": [
            {"uid": "a", "uptime": 12.0, "messages_out": 700, **counters, **same, "cpu_seconds": 2.0},
            {"uid": "b", "uptime": 0.5, "messages_out": 9, **counters, **same, "lag_seconds": 0.5},
        ],
        "channels": [],
        "missing": ["c"],
    }

    snapshot = snapshot_of(before, now)

    first, second = snapshot["nodes"]
    assert (first["sent_per_second"], first["cores"]) == (300.0, 0.5)
    assert second["sent_per_second"] is None, "it was not there before"
    assert snapshot["total"]["sent_per_second"] == 300.0
    assert (snapshot["total"]["connections"], snapshot["total"]["lag_seconds"]) == (10, 0.5)
    assert snapshot["missing"] == ["c"]


def test_capture_shows_the_frames_of_a_user_and_never_a_token(starling: Starling) -> None:
    def watch(*options: str) -> subprocess.Popen[str]:
        variables = environment(API_URL=starling.http, API_KEY=KEY)
        command = [COMMAND, "capture", "user", "captured", "--seconds", "300", *options]
        return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    with watch() as shown, watch("--json") as reported:
        assert shown.stdout is not None
        assert shown.stderr is not None
        assert reported.stdout is not None
        assert "on 2 node(s)" in shown.stderr.readline()
        # From its first line on, every node sees each frame.
        assert "capture" in json.loads(reported.stdout.readline())
        with Listening(starling, "live", "--user", "captured") as listening:
            listening.until("subscribed to")
        assert json.loads(reported.stdout.readline())["frame"]["connect"]["token"] == "[redacted]"
        out = shown.stdout.readline()
        for process in (reported, shown):
            process.send_signal(signal.SIGINT)
        out += shown.communicate(timeout=DEADLINE)[0]
        reported.communicate(timeout=DEADLINE)

    assert (shown.returncode, reported.returncode) == (0, 0)
    assert '"token": "[redacted]"' in out
    assert "captured/" in out
    assert "eyJ" not in out


def test_capture_ends_when_its_time_is_over(starling: Starling) -> None:
    done = at(starling, "capture", "user", "nobody", "--seconds", "1")

    assert done.returncode == 0
    assert "time is over:" in done.stderr


def test_a_capture_that_is_refused_is_one_line(starling: Starling) -> None:
    refused = at(starling, "capture", "channel", "nowhere:x")
    unknown = run("capture", "room", "x", API_URL=starling.http, API_KEY=KEY)
    away = run("capture", "user", "x", API_URL=f"http://127.0.0.1:{free_port()}", API_KEY=KEY)

    assert (refused.returncode, "code 102" in refused.stderr) == (1, True)
    assert (unknown.returncode, away.returncode) == (2, 3)
    assert len(refused.stderr.splitlines()) == len(away.stderr.splitlines()) == 1


def test_disconnect_ends_a_users_connections(starling: Starling) -> None:
    with Listening(starling, "live", "--user", "mallory") as listening:
        listening.until("subscribed to")

        done = at(starling, "disconnect", "mallory", "--code", "4501", "--reason", "signed out")

        assert done.returncode == 0
        listening.until("signed out (code 4501)")
        assert listening.process.wait(DEADLINE) == 1


def test_check_warns_of_a_drain_that_is_too_short_for_the_rate_and_ends_with_0() -> None:
    given = {"DEV": "true", "MAX_CONNECTIONS": "30000", "DRAIN_SECONDS": "20"}

    done = run("check", **given)
    as_json = run("check", "--json", **given)

    assert done.returncode == as_json.returncode == 0
    assert done.stdout.startswith("The configuration is good")
    (warning,) = json.loads(as_json.stdout)["warnings"]
    assert done.stderr == f"Warning: {warning}\n"
    assert "needs 60 s at STARLING_DRAIN_RATE=500" in warning


@pytest.mark.processes
def test_serve_without_a_place_for_temporary_files_says_so_in_one_line() -> None:
    # A process that may not write a byte to a file: even root finds no directory that can be used then.
    done = subprocess.run(
        ["prlimit", "--fsize=0", COMMAND, "serve"],
        env=environment(DEV="true"),
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(
        "STARLING_RUNTIME_DIR: it is not set, and no temporary directory can be made: No usable"
    )


@pytest.mark.processes
def test_serve_with_a_runtime_directory_that_cannot_be_used_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    done = run_process("serve", DEV="true", RUNTIME_DIR=str(tmp_path / "file"))

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"STARLING_RUNTIME_DIR: cannot use {tmp_path}/file: ")


def test_metrics_prints_the_samples_that_are_asked_for(starling: Starling) -> None:
    port = {"INTERNAL_PORT": str(starling.internal_port)}
    done = run("metrics", "starling_broker_up", "starling_workers", **port)
    assert done.stdout.splitlines() == ["starling_workers 2.0", "starling_broker_up 1.0"]
    everything = run("metrics", "--url", starling.internal).stdout
    assert "starling_connections{" in everything
    assert "#" not in everything


def test_probe_reports_each_worker_and_its_exit_code_the_answer(starling: Starling) -> None:
    done = run("probe", INTERNAL_PORT=str(starling.internal_port), INTERNAL_HOST="0.0.0.0")
    *workers, whole = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, whole) == (0, {"readyz": True, "ready": True, "stopping": False})
    assert [worker["ready"] for worker in workers] == [True, True]
    assert json.loads(run("probe", "livez", "--url", starling.internal).stdout.splitlines()[-1])["livez"]


def test_metrics_that_are_not_there_are_refused(starling: Starling) -> None:
    done = run("metrics", "nonesuch", "--url", starling.internal)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "no sample contains nonesuch: `starling metrics` prints them all\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", "--url", "http://127.0.0.1:1"),
        ("history", "news", "--url", "http://127.0.0.1:1"),
        ("probe", "--url", "http://127.0.0.1:1"),
        ("ping", "--url", "ws://127.0.0.1:1"),
    ],
)
def test_a_service_that_is_not_there_is_reported_without_the_number_of_the_error(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 3
    assert "Connection refused" in done.stderr
    assert "rrno" not in done.stderr


def test_help_names_values_as_their_options_do() -> None:
    help_text = run("publish", "--help").stdout + run("size", "--help").stdout + run("probe", "--help").stdout
    assert "--key KEY " in help_text
    assert "--connections N " in help_text
    assert "--output table|json " in help_text
    options = [line for line in help_text.splitlines() if line.startswith("  -")]
    assert not [line for line in options if "<" in line]


@pytest.mark.parametrize("command", ["metrics", "probe"])
def test_where_no_internal_port_answers_it_is_said(command: str) -> None:
    done = run(command, INTERNAL_PORT=str(free_port()))
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1)
    assert "is the service there? See --url" in done.stderr
    assert run(command, "--url", "localhost:9090").returncode == 2
