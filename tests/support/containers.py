"""Containers for the tests: podman as this machine lets it run, the image under test, and containers of it."""

import json
import os
import resource
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.services import free_port

ROOT = Path(__file__).parents[2]
BASE = "localhost/starling-test-base:latest"
IMAGES = "localhost/starling-test"
# The label of a container; its value is the id of the process of the tests that it belongs to.
OWNER = "starling-test-process"
# What `make image` finds out about the release, for the image's labels.
ABOUT = {
    "BASE_DIGEST": "sha256:" + "0" * 64,
    "CREATED": "2026-11-29T00:00:00+00:00",
    "PROJECT_URL": "https://git.example.com/starling",
}


class ContainersUnavailableError(Exception):
    """Containers cannot run here; the text says why."""


class Podman:
    """The command podman with a configuration of its own; `directory` takes it."""

    def __init__(self, directory: Path) -> None:
        if shutil.which("podman") is None:
            raise ContainersUnavailableError("podman is not installed (`make test` installs it where it may)")
        self.directory = directory
        self._image = f"{IMAGES}:{os.getpid()}"
        configuration = directory / "containers.conf"
        configuration.write_text(_configuration())
        self._environment = os.environ | {"CONTAINERS_CONF": str(configuration)}
        try:
            self("info")
        except PodmanError as error:
            raise ContainersUnavailableError(f"podman cannot run here: {error}") from error
        self._remove_orphans()

    def _remove_orphans(self) -> None:
        """Remove what processes of tests have left that were ended with SIGKILL."""
        for container in json.loads(self("ps", "--all", "--filter", f"label={OWNER}", "--format", "json") or "[]"):
            if not Path(f"/proc/{container['Labels'][OWNER]}").exists():
                self.run("rm", "--force", "--time", "0", container["Id"])
        for tag in self("images", "--filter", f"reference={IMAGES}", "--format", "{{.Tag}}").splitlines():
            if not Path(f"/proc/{tag.partition('-')[0]}").exists():
                self.run("image", "rm", "--force", f"{IMAGES}:{tag}")

    def __call__(self, *arguments: str, timeout: float = 60) -> str:
        """Run one podman command and return what it printed. Raises PodmanError with podman's words."""
        done = self.run(*arguments, timeout=timeout)
        if done.returncode != 0:
            raise PodmanError(f"podman {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
        return done.stdout.strip()

    def run(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run one podman command, whatever its exit code."""
        return subprocess.run(
            ["podman", *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def inspect(self, image: str) -> dict[str, Any]:
        """Everything podman knows of an image."""
        description: dict[str, Any] = json.loads(self("image", "inspect", image))[0]
        return description

    def ensure_base(self) -> str:
        """The name of the image to build on: BASE_IMAGE where it is set, else a stand-in made of Debian's packages.

        The stand-in resembles the slim Python image: same Debian, no bytecode of the library, no documentation.
        It is made once per machine.
        """
        if named := os.environ.get("BASE_IMAGE"):
            return named
        if self.run("image", "exists", BASE).returncode == 0:
            return BASE
        if shutil.which("mmdebstrap") is None:
            raise ContainersUnavailableError(
                "neither is BASE_IMAGE set nor mmdebstrap installed to make a stand-in for it"
            )
        root = self.directory / "base.tar"
        release = _os_release()
        command = ["mmdebstrap", "--quiet", "--variant=minbase"]
        command += ["--include=ca-certificates,netbase,tzdata,python3-venv"]
        command += [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("man", "doc", "locale")]
        command += ['--customize-hook=find "$1/usr/lib" -name __pycache__ -prune -exec rm -r {} +']
        command += [release["VERSION_CODENAME"], str(root), *_package_sources()]
        made = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if made.returncode != 0:
            raise ContainersUnavailableError(f"the stand-in base image could not be made:\n{made.stderr[-4000:]}")
        self("import", "--quiet", str(root), BASE, timeout=120)
        root.unlink()
        return BASE

    def build(self, *, version: str, revision: str) -> str:
        """Build the project's image and return its name; like `make image`, but intermediate layers are not kept."""
        arguments = {"BASE_IMAGE": self.ensure_base(), "VERSION": version, "REVISION": revision, **ABOUT}
        options = ["--format", "docker", "--layers=false", "--network", "host"]
        options += [f"--build-arg={name}={value}" for name, value in arguments.items()]
        authorities = Path("/etc/ssl/certs/ca-certificates.crt")
        if authorities.exists():
            pip = self.directory / "pip.conf"
            pip.write_text("[global]\ncert = /run/secrets/ca.pem\n")
            options += ["--secret", f"id=pip.conf,src={pip}", "--secret", f"id=ca.pem,src={authorities}"]
        self("build", *options, "--tag", self._image, str(ROOT), timeout=400)
        return self._image

    def remove_image(self) -> None:
        """Remove what `build` built; the base is kept."""
        self.run("image", "rm", "--force", self._image)


class PodmanError(Exception):
    """A podman command failed; the text holds its words."""


class Container:
    """One container, run as a restricted pod is; a context manager that waits for readiness and removes it."""

    def __init__(
        self,
        podman: Podman,
        image: str,
        environment: Mapping[str, str],
        command: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> None:
        self.podman = podman
        self.image = image
        self.environment = environment
        self.command = command
        self.options = options
        self.port = free_port()
        self.internal_port = free_port()
        self.name = f"starling-test-{self.port}"
        self.seconds_to_ready = 0.0

    @property
    def url(self) -> str:
        """The public port's address for WebSockets."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def logs(self) -> str:
        """Everything the container has written."""
        done = self.podman.run("logs", self.name)
        return done.stdout + done.stderr

    def start(self) -> Self:
        """Start it with nothing but /tmp to write to, and wait until it is ready."""
        begun = time.monotonic()
        self.podman(
            *("run", "--detach", "--name", self.name, "--label", f"{OWNER}={os.getpid()}"),
            *("--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp:rw,noexec,nosuid,size=16m,mode=1777"),
            *("--cap-drop", "all", "--security-opt", "no-new-privileges"),
            *("--memory", "256m", "--cpus", "1", "--pids-limit", "100"),
            *("--publish", f"127.0.0.1:{self.port}:8000", "--publish", f"127.0.0.1:{self.internal_port}:9090"),
            *(part for name, value in self.environment.items() for part in ("--env", f"{name}={value}")),
            *self.options,
            self.image,
            *self.command,
        )
        deadline = begun + 60
        while self.status("/readyz") != 200:
            if time.monotonic() > deadline or not self.running:
                raise AssertionError(f"the container was not ready:\n{self.logs}")
            time.sleep(0.02)
        self.seconds_to_ready = time.monotonic() - begun
        return self

    @property
    def running(self) -> bool:
        """Whether its first process lives."""
        return self.podman("container", "inspect", "--format", "{{.State.Running}}", self.name) == "true"

    @property
    def exit_code(self) -> int:
        """What its first process ended with."""
        return int(self.podman("container", "inspect", "--format", "{{.State.ExitCode}}", self.name))

    def status(self, path: str, *, internal: bool = True) -> int:
        """HTTP status of `path`, 0 where nobody answers."""
        port = self.internal_port if internal else self.port
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                status: int = answer.status
                return status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def python(self, code: str) -> str:
        """Run a line of Python inside and return what it printed."""
        return self.podman("exec", self.name, "python", "-c", code)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self._remove()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            print(self.logs[-20000:])
        self._remove()

    def _remove(self) -> None:
        self.podman.run("rm", "--force", "--time", "1", self.name)


def _configuration() -> str:
    """Settings under which podman also runs without systemd, on old control groups, and under a low limit of files."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    files, processes = (min(limit, 32768) if limit > 0 else 32768 for limit in (files, processes))
    lines = ["[containers]", f'default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]']
    lines += ['log_driver = "k8s-file"', "[engine]", 'events_logger = "file"']
    if not Path("/run/systemd/system").exists():
        lines.append('cgroup_manager = "cgroupfs"')
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        lines.append('runtime = "runc"')
    lines += ["[network]", 'network_backend = "netavark"']
    return "\n".join(lines) + "\n"


def _os_release() -> dict[str, str]:
    lines = Path("/etc/os-release").read_text().splitlines()
    return {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}


def _package_sources() -> list[str]:
    """Files that name where this machine takes its packages from."""
    parts = Path("/etc/apt/sources.list.d")
    files = [Path("/etc/apt/sources.list"), *parts.glob(f"{_os_release()['ID']}.sources")]
    return [str(file) for file in files if file.exists() and file.read_text().strip()]
