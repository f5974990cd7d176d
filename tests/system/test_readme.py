"""The commands of the README for a service outside developer mode, as printed, from an empty directory. 6 s."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.support.services import RedisServer, free_port
from tests.support.waiting import DEADLINE

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text().split("## Run it outside developer mode")[1].split("\n## ")[0]
INIT, SERVE, SUBSCRIBE, PUBLISH = re.findall(r"^\$ (.*\.venv/bin/starling .*)$", SECTION, re.MULTILINE)


def wait_for(log: Path, text: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while text not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def test_the_commands_bring_a_publication_from_one_terminal_to_another(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    # Only the addresses differ, because the tests' machine may use these ports for something else.
    port = free_port()
    own = {"STARLING_PORT": str(port), "STARLING_INTERNAL_PORT": str(free_port())}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STARLING_")} | own
    serve = SERVE.replace("redis://localhost:6379", redis_server.url)
    assert serve != SERVE

    def start(command: str, log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as output:
            return subprocess.Popen(
                ["/bin/sh", "-c", f"exec env {command}"],
                cwd=tmp_path,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    subprocess.run(INIT, shell=True, cwd=tmp_path, env=environment, check=True)
    served, received = tmp_path / "serve.log", tmp_path / "subscribe.log"
    processes = [start(serve, served)]
    try:
        wait_for(served, '"event":"worker_started"')
        processes.append(start(SUBSCRIBE, received))
        wait_for(received, "subscribed to news:today")
        subprocess.run(PUBLISH, shell=True, cwd=tmp_path, env=environment, check=True)
        wait_for(received, '{"text": "hello"}')
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(DEADLINE)
