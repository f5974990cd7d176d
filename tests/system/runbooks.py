"""The commands of the runbooks, and how they are run against a service of this machine."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.running import Starling
from tests.system import helm, kubectl

RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"
_BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One line of a runbook."""

    page: str
    line: str

    def run(self, environment: Mapping[str, str]) -> str:
        """What it prints; fails the test where it fails, and where what it pipes from does."""
        whole = f"{self.line}\nexit ${{PIPESTATUS[0]}}"
        done = subprocess.run(
            ["bash", "-u", "-c", whole], env=dict(environment), capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{self.page}: {self.line}\n{done.stdout}{done.stderr}"
        assert "command not found" not in done.stderr, done.stderr
        return done.stdout


def commands(page: Path) -> list[Command]:
    """The commands of a page, one a line of its fenced shell blocks."""
    blocks = _BLOCK.findall(page.read_text())
    return [Command(page.stem, line) for block in blocks for line in block.splitlines() if line.strip()]


def install(directory: Path, pods: Mapping[str, Starling]) -> dict[str, str]:
    """Put a `kubectl` for `pods` into `directory`; returns the environment in which commands find it."""
    described = {
        name: {"environment": pod.environment, "internal": pod.internal, "log": str(pod.log_path)}
        for name, pod in pods.items()
    }
    (directory / "pods.json").write_text(json.dumps(described))
    for stand_in in (helm, kubectl):
        source = Path(str(stand_in.__file__))
        command = directory / source.stem
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {source} "$@"\n')
        command.chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STARLING_")}
    tools = Path(sys.executable).parent
    return {
        **inherited,
        "PATH": f"{directory}:{tools}:{os.environ['PATH']}",
        kubectl.PODS: str(directory / "pods.json"),
        "DEPLOYMENT": kubectl.DEPLOYMENT,
        "RELEASE": helm.RELEASE,
    }
