"""The pages for those who connect clients: what they give to copy runs, what they list is what there is."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from starling.engine.channels import ChannelOptions, parse_channels
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


QUICK_JAVASCRIPT, JAVASCRIPT = blocks(CONNECT, "js")
QUICK_PYTHON, BACKEND, PYTHON = blocks(CONNECT, "python")
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
    deadline = time.monotonic() + 30
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


def test_the_quick_programs_talk_to_each_other(folder: Path) -> None:
    with Starling() as service:
        for name, program in (("lobby.mjs", QUICK_JAVASCRIPT), ("lobby.py", QUICK_PYTHON)):
            assert "ws://localhost:8000/" in program
            (folder / name).write_text(program.replace("ws://localhost:8000", service.url))
        javascript, python = folder / "javascript.log", folder / "python.log"
        with running("node", "lobby.mjs", folder=folder, log=javascript):
            wait_for(javascript, "JavaScript got hello from JavaScript")
            with running(sys.executable, "lobby.py", folder=folder, log=python):
                wait_for(python, "Python got hello from Python")
                wait_for(javascript, "JavaScript got hello from Python")


def test_the_page_of_the_readme_shows_what_its_command_publishes(folder: Path) -> None:
    command, *_ = README_PUBLISH
    # Browsers have the class as a global, this Node.js has not.
    (folder / "browser.mjs").write_text('import WebSocket from "ws";\nglobalThis.WebSocket = WebSocket;\n')
    log = folder / "page.log"
    with Starling() as service:
        (folder / "page.mjs").write_text(README_JAVASCRIPT.replace("ws://localhost:8000", service.url))
        publish = [f"{Path(sys.executable).parent}/starling", *shlex.split(command)[1:], "--url", service.http]
        with running("node", "--import", "./browser.mjs", "page.mjs", folder=folder, log=log):
            deadline = time.monotonic() + 60
            while "hello" not in log.read_text():
                assert time.monotonic() < deadline, log.read_text()
                subprocess.run(publish, check=True, capture_output=True, timeout=60)


def test_the_programs_with_users_fetch_tokens_and_talk_to_each_other(folder: Path) -> None:
    (folder / "channels.yaml").write_text(NAMESPACES)
    (folder / "backend.py").write_text(BACKEND)
    settings = {"STARLING_TOKEN_HMAC_SECRET": SECRET, "STARLING_CHANNELS_FILE": str(folder / "channels.yaml")}
    uvicorn = (sys.executable, "-m", "uvicorn", "backend:app", "--port", "0")
    backend = folder / "backend.log"
    with Starling(settings) as service, running(*uvicorn, folder=folder, log=backend):
        address = wait_for(backend, r"INFO: +Uvicorn running on http://([\d.:]+) .*")[1]
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
