"""The pages for those who connect clients: what they give to copy runs, what they list is what there is."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from starling.engine.channels import ChannelOptions
from starling.engine.channels_document import parse_channels
from starling.engine.rights import Subject, Verb, may
from starling.protocol import codes
from tests.sdk.javascript_sdk import FOLDER, require_sdk
from tests.support.running import SECRET, Starling
from tests.support.waiting import DEADLINE

DOCS = Path(__file__).parents[2] / "docs"
CONNECT = (DOCS / "connect-a-client.md").read_text()
CHANNELS = (DOCS / "channels.md").read_text()
README = (DOCS.parent / "README.md").read_text()


def blocks(page: str, language: str) -> list[str]:
    """The pieces of code of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


QUICK_JAVASCRIPT, JAVASCRIPT, HISTORY_JAVASCRIPT, LARGE_JAVASCRIPT = blocks(CONNECT, "js")
QUICK_PYTHON, BACKEND, PYTHON, HISTORY_PYTHON = blocks(CONNECT, "python")
(COMMANDS,) = blocks(CONNECT, "sh")
(README_JAVASCRIPT,) = blocks(README, "js")
README_PUBLISH = re.findall(r"bin/(starling publish .*)", README)
(NAMESPACES,) = blocks(CONNECT, "yaml")
(EXAMPLE,) = blocks(CHANNELS, "yaml")


@contextmanager
def running(*command: str, folder: Path, log: Path) -> Iterator[None]:
    """A program of the page, which runs until it is killed."""
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "STARLING_TOKEN_HMAC_SECRET": SECRET},
        )
    try:
        yield
    finally:
        process.kill()
        process.wait(DEADLINE)


def wait_for(log: Path, line: str) -> re.Match[str]:
    """Wait until a program has written a line like this pattern."""
    deadline = time.monotonic() + DEADLINE
    while not (match := re.search(f"^{line}$", log.read_text(), re.MULTILINE)):
        if time.monotonic() > deadline:
            logs = {one.name: one.read_text() for one in log.parent.glob("*.log")}
            raise AssertionError(f"{line} is not in {log.name}: {logs}")
        time.sleep(0.05)
    return match


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project that has the SDK installed."""
    require_sdk()
    (tmp_path / "node_modules").symlink_to(FOLDER / "node_modules")
    return tmp_path


@pytest.fixture(scope="module")
def developer() -> Iterator[Starling]:
    with Starling() as service:
        yield service


def test_the_quick_programs_talk_to_each_other(folder: Path, developer: Starling) -> None:
    for name, program in (("lobby.mjs", QUICK_JAVASCRIPT), ("lobby.py", QUICK_PYTHON)):
        assert "ws://localhost:8000/" in program
        (folder / name).write_text(program.replace("ws://localhost:8000", developer.url))
    javascript, python = folder / "javascript.log", folder / "python.log"
    with running("node", "lobby.mjs", folder=folder, log=javascript):
        wait_for(javascript, "JavaScript got hello from JavaScript")
        with running(sys.executable, "lobby.py", folder=folder, log=python):
            wait_for(python, "Python got hello from Python")
            wait_for(javascript, "JavaScript got hello from Python")


def test_the_page_of_the_readme_shows_what_its_command_publishes(folder: Path, developer: Starling) -> None:
    command, *_ = README_PUBLISH
    # Browsers have the class as a global, this Node.js has not.
    (folder / "browser.mjs").write_text('import WebSocket from "ws";\nglobalThis.WebSocket = WebSocket;\n')
    log = folder / "page.log"
    (folder / "page.mjs").write_text(README_JAVASCRIPT.replace("ws://localhost:8000", developer.url))
    publish = [f"{Path(sys.executable).parent}/starling", *shlex.split(command)[1:], "--url", developer.http]
    with running("node", "--import", "./browser.mjs", "page.mjs", folder=folder, log=log):
        deadline = time.monotonic() + DEADLINE
        while "hello" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            subprocess.run(publish, check=True, capture_output=True, timeout=60)


def test_the_programs_with_users_fetch_tokens_and_talk_to_each_other(folder: Path) -> None:
    (folder / "channels.yaml").write_text(NAMESPACES)
    (folder / "backend.py").write_text(BACKEND)
    install, secret, backend, serve = COMMANDS.splitlines()
    assert install == "pip install fastapi uvicorn pyjwt"
    assert secret == "export STARLING_TOKEN_HMAC_SECRET=$(openssl rand -hex 32)"
    variables = [word for word in shlex.split(serve) if "=" in word]
    assert shlex.split(serve) == [*variables, "starling", "serve"]
    settings = dict(variable.split("=", 1) for variable in variables)
    settings["STARLING_CHANNELS_FILE"] = str(folder / settings["STARLING_CHANNELS_FILE"])
    uvicorn = backend.removesuffix(" &").replace("9000", "0").split()
    log = folder / "backend.log"
    with (
        Starling({**settings, "STARLING_TOKEN_HMAC_SECRET": SECRET}) as service,
        running(sys.executable, "-m", *uvicorn, folder=folder, log=log),
    ):
        address = wait_for(log, r"INFO: +Uvicorn running on http://([\d.:]+) .*")[1]
        for name, program in (("chat.mjs", JAVASCRIPT), ("chat.py", PYTHON)):
            assert "ws://localhost:8000/" in program
            assert "http://localhost:9000/" in program
            own = program.replace("ws://localhost:8000", service.url).replace("localhost:9000", address)
            (folder / name).write_text(own)
        javascript, python = folder / "javascript.log", folder / "python.log"
        with running("node", "chat.mjs", folder=folder, log=javascript):
            wait_for(javascript, "Alice: hello from JavaScript")
            with running(sys.executable, "chat.py", folder=folder, log=python):
                wait_for(python, "Alice: hello from Python")
                wait_for(javascript, "Alice: hello from Python")


def test_the_programs_with_history_show_the_newest_50_who_is_online_and_what_failed(
    folder: Path, developer: Starling
) -> None:
    commands = [{"publish": {"channel": "demo:chat", "data": {"text": f"m{number}"}}} for number in range(1, 61)]
    call(developer, "batch", {"commands": commands})
    for name, program in (("history.mjs", HISTORY_JAVASCRIPT), ("history.py", HISTORY_PYTHON)):
        assert "ws://localhost:8000/" in program
        (folder / name).write_text(program.replace("ws://localhost:8000", developer.url))
    javascript, python = folder / "javascript.log", folder / "python.log"
    with running("node", "history.mjs", folder=folder, log=javascript):
        wait_for(javascript, "newest: " + ", ".join(f"m{number}" for number in range(11, 61)))
        wait_for(javascript, "JavaScript got hello from JavaScript")
        wait_for(javascript, "online: 1")
        with running(sys.executable, "history.py", folder=folder, log=python):
            expected = [*(f"m{number}" for number in range(12, 61)), "hello from JavaScript"]
            wait_for(python, "newest: " + ", ".join(expected))
            wait_for(python, "online: 2")
            wait_for(python, "Python got hello from Python")
            other = wait_for(python, r"joined: (\S+)")[1]
            wait_for(javascript, f"joined: {other}")
        wait_for(javascript, f"left: {other}")
    # What the service refuses is an error of the call: here a publication without data.
    refused = HISTORY_JAVASCRIPT.replace("demo:chat", "demo:refused").replace("ws://localhost:8000", developer.url)
    (folder / "refused.mjs").write_text(refused.replace('{ text: "hello from JavaScript" }', "undefined"))
    with running("node", "refused.mjs", folder=folder, log=javascript):
        wait_for(javascript, "not sent: 107 bad request.*")


def test_the_program_with_a_large_message_shows_that_the_sdk_does_not_reconnect(
    folder: Path, developer: Starling
) -> None:
    assert "ws://localhost:8000/" in LARGE_JAVASCRIPT
    (folder / "large.mjs").write_text(LARGE_JAVASCRIPT.replace("ws://localhost:8000", developer.url))
    log = folder / "large.log"
    with running("node", "large.mjs", folder=folder, log=log):
        wait_for(log, "too long\nsent\n(?:lost: .*\n)?stopped: 3 message size limit exceeded")
        wait_for(log, "lost: .*")


def call(service: Starling, method: str, body: dict[str, object]) -> None:
    """Call the server API of a service in developer mode."""
    request = urllib.request.Request(
        f"{service.http}/api/{method}", json.dumps(body).encode(), headers={"X-API-Key": "dev"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
        assert "error" not in json.load(answer)


def test_the_example_of_namespaces_is_a_good_configuration() -> None:
    channels = parse_channels(yaml.safe_load(EXAMPLE), developer=False)
    assert set(channels.namespaces) == {"news", "chat", "score", "letters"}
    assert may(Subject("alice"), Verb.SUBSCRIBE, channels.facts("news:today")).allowed
    assert not may(Subject(""), Verb.SUBSCRIBE, channels.facts("news:today")).allowed
    assert not may(Subject("alice"), Verb.SUBSCRIBE, channels.facts("chat:42")).allowed
    assert may(Subject(""), Verb.SUBSCRIBE, channels.facts("score:final")).allowed
    assert may(Subject("alice"), Verb.SUBSCRIBE, channels.facts("letters:box#alice")).allowed
    assert not may(Subject("bob"), Verb.SUBSCRIBE, channels.facts("letters:box#alice")).allowed


def test_every_option_of_channels_is_in_the_table_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", CHANNELS, re.MULTILINE))
    written = {
        "False": "off",
        "0": "0",
        "": "none",
        str(30 * 86400): "30d",
        "stream": "`stream`",
        "()": "none",
        "json": "`json`",
        "None": "none",
        "1048576": "1048576",
        "86400": "24h",
        "0.04": "40ms",
        "30": "30s",
        "write": "`write`",
    }
    expected = {name: written[str(field.default)] for name, field in ChannelOptions.model_fields.items()}
    assert rows == expected


@pytest.mark.parametrize("page", [CONNECT, CHANNELS], ids=["connect-a-client", "channels"])
def test_the_codes_that_the_pages_name_are_those_of_the_protocol(page: str) -> None:
    known = {
        str(value.code)
        for value in vars(codes).values()
        if isinstance(value, codes.Error | codes.Unsubscribe | codes.Disconnect)
    }
    named = set(re.findall(r"(?:errors?|Errors?|codes?|with|and|is|one) (1\d\d|[23]\d{3})\b(?!-)", page))
    assert named
    assert named <= known
