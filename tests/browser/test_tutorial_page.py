"""docs/tutorial.md: its files and commands in their order, from an empty directory to a chat with tokens behind nginx.

The commands that install packages are left out: the tests' own environment has what they install. Ports are free ones.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.services import free_port
from tests.support.waiting import DEADLINE

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
FILE = re.compile(r"(?:Save|Replace)[^\n`]*`([\w.]+)`[^\n`]*:\n\n\Z|as `([\w.]+)`:\n\n\Z")
INSTALLS = ("python3 -m venv", "pip install", "npm install")
# These run until they are stopped.
SERVERS = ("starling serve", "STARLING_BROKER_URL", "redis-server", "nginx")


class Reader:
    """Someone who follows the page in an empty directory, one step after the other."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports = {number: free_port() for number in ("8000", "8080", "6379")}
        self.running: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("STARLING_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(directory / "chat"),
            "STARLING_PORT": str(self.ports["8000"]),
            "STARLING_INTERNAL_PORT": str(free_port()),
            "STARLING_DRAIN_DELAY_SECONDS": "0",
            "STARLING_DRAIN_SECONDS": "1",
        }
        text = (ROOT / "docs" / "tutorial.md").read_text()
        self.steps = re.split(r"^## ", text, flags=re.MULTILINE)[1:]

    def url(self, number: str) -> str:
        return f"http://localhost:{self.ports[number]}"

    def follow(self, heading: str) -> None:
        """Save the files of a step and run its commands, as the page has them."""
        step = next(step for step in self.steps if heading in step.splitlines()[0])
        for block in BLOCK.finditer(step):
            if block[1] == "console":
                for line in block[2].splitlines():
                    self.run(line.removeprefix("$ "))
            else:
                found = FILE.search(step[: block.start()])
                assert found, f"the page does not say where to save: {block[0][:60]}"
                (self.directory / "chat" / (found[1] or found[2])).write_text(self.with_ports(block[2]))

    def run(self, line: str) -> None:
        if line == "mkdir chat && cd chat":
            (self.directory / "chat").mkdir()
        elif "npm install" in line:
            packages = self.directory / "chat" / "node_modules"
            packages.symlink_to(ROOT / "tests" / "sdk" / "node_modules")
        elif line.startswith(INSTALLS):
            return
        elif line.startswith(SERVERS):
            self.start(line)
        else:
            done = subprocess.run(
                ["/bin/sh", "-c", line], cwd=self.directory / "chat", env=self.environment, capture_output=True
            )
            assert done.returncode == 0, f"{line}\n{done.stdout.decode()}{done.stderr.decode()}"

    def start(self, line: str) -> None:
        if "starling serve" in line:
            self.stop()
        line = self.with_ports(line)
        self.running.append(
            subprocess.Popen(
                ["/bin/sh", "-c", f"exec env {line}" if "=" in line.split()[0] else f"exec {line}"],
                cwd=self.directory / "chat",
                env=self.environment,
                start_new_session=True,
            )
        )
        if "starling serve" in line:
            self.until_answered(f"{self.url('8000')}/readyz")
        elif line.startswith("nginx"):
            self.until_answered(self.url("8080"))

    def with_ports(self, text: str) -> str:
        for number, port in self.ports.items():
            text = text.replace(number, str(port))
        return text

    def until_answered(self, url: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while True:
            assert self.running[-1].poll() is None, "it ended"
            try:
                with urllib.request.urlopen(url, timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                assert time.monotonic() < deadline, f"nothing answers at {url}"
                time.sleep(0.1)

    def stop(self) -> None:
        """End the service, but not Redis and nginx."""
        for process in self.running:
            if b"starling" in Path(f"/proc/{process.pid}/cmdline").read_bytes():
                process.send_signal(signal.SIGTERM)
                process.wait(60)
        self.running = [process for process in self.running if process.poll() is None]

    def stop_all(self) -> None:
        for process in reversed(self.running):
            process.send_signal(signal.SIGTERM)
        for process in self.running:
            process.wait(60)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed; on Debian: apt-get install nginx")
    reader = Reader(tmp_path)
    yield reader
    reader.stop_all()


def say(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()


def expect_messages(page: Page, *messages: str) -> None:
    expect(page.locator("#messages li")).to_have_text(list(messages))


def test_a_reader_ends_in_a_chat_with_tokens_behind_nginx(reader: Reader, chromium: Browser) -> None:
    context = chromium.new_context()
    reader.follow("1. Set up")

    reader.follow("2. A page")
    page = context.new_page()
    page.goto(reader.url("8000"))
    say(page, "first")
    expect_messages(page, "first")

    # The service still runs: FastAPI reads the page at each request.
    reader.follow("3. History")
    page.reload()
    expect_messages(page, "hello from the terminal", "first")
    other = context.new_page()
    other.goto(reader.url("8000"))
    expect(page.locator("#here")).to_have_text("2")
    other.close()
    expect(page.locator("#here")).to_have_text("1")

    reader.follow("4. Users")
    page.reload()
    enter(page, "Ann")
    say(page, "I am Ann")
    expect_messages(page, "Ann: I am Ann")

    reader.follow("5. Two workers")
    ann, ben = context.new_page(), context.new_page()
    for tab, name in ((ann, "Ann"), (ben, "Ben")):
        tab.goto(reader.url("8080"))
        enter(tab, name)
    expect(ann.locator("#here")).to_have_text("Ann, Ben")
    say(ann, "hello Ben")
    say(ben, "hello Ann")
    expect_messages(ben, "Ann: hello Ben", "Ben: hello Ann")
    ben.get_by_role("button", name="Wave").click()
    expect_messages(ann, "Ann: hello Ben", "Ben: hello Ann", "ben waves")
    context.close()


def enter(page: Page, name: str) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Enter").click()
    expect(page.locator("#state")).to_have_text("connected")
