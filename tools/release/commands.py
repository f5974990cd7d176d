"""The programs that a release runs: podman, helm and cosign, with the errors of each in words."""

import shutil
import subprocess
import sys
from pathlib import Path

HELM = str(Path(sys.executable).with_name("helm"))
# Programs with which the kernel runs another architecture's code, by the name of that architecture.
_EMULATORS = {"amd64": "qemu-x86_64", "arm64": "qemu-aarch64"}


class ReleaseError(Exception):
    """A release that cannot go on; the text says why and what to do."""


def run(*command: str, directory: Path | None = None) -> str:
    """What a command prints. Raises ReleaseError with its words where it fails."""
    if shutil.which(command[0]) is None:
        raise ReleaseError(f"{command[0]} is not installed")
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)  # noqa: S603 - fixed commands
    if done.returncode != 0:
        raise ReleaseError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def buildable(platform: str, own: str, registered: Path = Path("/proc/sys/fs/binfmt_misc")) -> bool:
    """Whether this machine, of the architecture `own`, can run what a build for `platform` (`linux/arm64`) runs."""
    architecture = platform.removeprefix("linux/")
    return architecture == own or (registered / _EMULATORS.get(architecture, architecture)).exists()
