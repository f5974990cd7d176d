"""The commands of docs/sse.md, as printed there, and its program in a real browser."""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.event_reader import EventReader
from tests.support.running import Starling
from tests.support.waiting import DEADLINE

pytestmark = pytest.mark.processes

PAGE = (Path(__file__).parents[2] / "docs" / "sse.md").read_text()
COMMANDS = re.findall(r"```bash\n(.*?)\n```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def starling() -> Iterator[Starling]:
    with Starling() as running:
        yield running


@contextmanager
def running(command: str, starling: Starling) -> Iterator[subprocess.Popen[bytes]]:
    """A command of the page, with the address of the test's own service."""
    words = shlex.split(command.replace("http://localhost:8000", starling.http))
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_curl_prints_what_the_page_says(starling: Starling) -> None:
    stream, publish, _ = COMMANDS
    printed = re.search(r"prints:\n\n```\n(.*?)```", PAGE, re.DOTALL)
    assert printed is not None
    with running(stream, starling) as process:
        assert process.stdout is not None
        text = b"".join(process.stdout.readline() for _ in range(3))
        with running(publish, starling) as publishing:
            answer, _ = publishing.communicate(timeout=DEADLINE)
        assert json.loads(answer)["result"]["offset"] == 1
        text += b"".join(process.stdout.readline() for _ in range(2))

    def variable(shown: str) -> str:
        return re.sub(r"id: [\w-]{8}:", "id: EPOCH:", re.sub(r"retry: \d+", "retry: TIME", shown))

    assert variable(text.decode()).strip() == variable(printed[1]).strip()
    reader = EventReader()
    reader.feed(text + b"\n")
    assert [json.loads(event.data) for event in reader.events] == [{"text": "hello"}]


def test_curl_reads_bare_pushes(starling: Starling) -> None:
    _, publish, stream = COMMANDS
    with running(stream, starling) as process:
        assert process.stdout is not None
        assert list(json.loads(process.stdout.readline())["connect"]["subs"]) == ["demo:news"]
        with running(publish, starling) as publishing:
            publishing.communicate(timeout=DEADLINE)
        assert "join" in json.loads(process.stdout.readline()), "the namespace demo shows who comes"
        assert json.loads(process.stdout.readline())["pub"]["data"] == {"text": "hello"}
