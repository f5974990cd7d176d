"""`starling serve --reload`: what a developer changes in a hook is what the next client gets."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from tests.support.services import free_port
from tests.support.waiting import DEADLINE, until

HOOK = "async def on_connect(client):\n    return {'version': VERSION}\n"


class Developer:
    """A service that watches a directory, and what its clients get."""

    def __init__(self, directory: Path) -> None:
        self.hook = directory / "my_hooks.py"
        self.port = free_port()
        self.log = directory / "output.log"
        self.write("VERSION = 1\n" + HOOK)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("STARLING_")}
        settings = {
            "STARLING_PORT": str(self.port),
            "STARLING_INTERNAL_PORT": str(free_port()),
            "STARLING_HOOKS": "my_hooks",
            "STARLING_HOOKS_PATH": str(directory),
        }
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).with_name("starling")), "serve", "--dev", "--reload"],
                env=inherited | settings,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def write(self, text: str) -> None:
        self.hook.write_text(text)

    async def gets(self, version: int) -> bool:
        """Whether a client gets this version now."""
        try:
            async with connect(f"ws://127.0.0.1:{self.port}/connection/websocket", proxy=None) as client:
                await client.send('{"id":1,"connect":{}}')
                return bool(json.loads(await client.recv())["connect"]["data"] == {"version": version})
        except (OSError, KeyError):
            return False

    async def until_gets(self, version: int) -> None:
        for _ in range(300):
            if await self.gets(version):
                return
            await asyncio.sleep(0.2)
        raise AssertionError(self.log.read_text())


@pytest.fixture
def developer(tmp_path: Path) -> Iterator[Developer]:
    developer = Developer(tmp_path)
    yield developer
    if developer.process.poll() is None:
        developer.process.send_signal(signal.SIGTERM)
    developer.process.wait(DEADLINE)


async def test_a_changed_hook_is_loaded_and_a_mistake_in_it_waits_for_the_next_change(developer: Developer) -> None:
    await developer.until_gets(1)
    developer.write("VERSION = 2\n" + HOOK)
    await developer.until_gets(2)

    developer.write("VERSION = = 3\n")
    await until(lambda: "importing my_hooks failed: SyntaxError" in developer.log.read_text(), deadline=30)
    developer.write("VERSION = 4\n" + HOOK)
    await developer.until_gets(4)

    developer.process.send_signal(signal.SIGTERM)
    assert developer.process.wait(DEADLINE) == 0


def test_outside_developer_mode_it_is_refused_with_the_remedy(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STARLING_")}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("starling")), "serve", "--reload"],
        env=environment | {"STARLING_TOKEN_HMAC_SECRET": "x" * 40},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 2
    assert "--reload is for developer mode: add --dev" in done.stderr
