"""What Starling is measured next to: installed under build/bench, and the versions that were found there."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from tests.bench.load_generator import SOURCES, compile_program

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PEERS = HERE / "peers"
BUILD = ROOT / "build" / "bench"
NCHAN = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
INSTALL_SECONDS = 300

# In the Python peers' environment redis-py has a version of its own.
OWN_VERSIONS = re.compile(r"^(redis|hiredis)[=\[]")
PIN = re.compile(r"^[A-Za-z0-9._-]+(\[[^]]*\])?==\S+")


@dataclass(slots=True)
class Workshop:
    """Where the programs are; None where one could not be had, with the reason in `missing`."""

    generator: Path
    baseline: Path
    python: Path | None = None
    node: Path | None = None
    nchan: bool = False
    centrifugo: str | None = None
    missing: dict[str, str] = field(default_factory=dict)


def install() -> Workshop:
    """Compile and install what is not there yet. Raises LoadFailedError if the generator does not compile."""
    BUILD.mkdir(parents=True, exist_ok=True)
    workshop = Workshop(
        generator=compile_program(SOURCES, BUILD / "generator", ["-lz"]),
        baseline=compile_program([PEERS / "baseline.c"], BUILD / "baseline"),
        nchan=NCHAN.exists() and shutil.which("nginx", path=search_path()) is not None,
        centrifugo=shutil.which("centrifugo"),
    )
    if not workshop.nchan:
        workshop.missing["nchan"] = "nginx with libnginx-mod-nchan is not installed"
    if workshop.centrifugo is None:
        workshop.missing["centrifugo"] = "no centrifugo on the PATH"
    for name, work in (("python", _install_python), ("node", _install_node)):
        try:
            setattr(workshop, name, work())
        except (subprocess.SubprocessError, OSError) as error:
            reported = getattr(error, "stderr", None) or str(error)
            workshop.missing[name] = reported.strip().splitlines()[-1] if reported.strip() else type(error).__name__
    return workshop


def search_path() -> str:
    """PATH with the directories of system programs, where nginx is."""
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def versions(workshop: Workshop) -> dict[str, str]:
    """Name and version of all that takes part, as each says itself."""
    found = {"Python": sys.version.split()[0], "gcc": _first_number("gcc", "-dumpfullversion")}
    found |= {name: version(name) for name in ("fastapi", "uvicorn", "uvloop", "httptools", "websockets", "redis")}
    if workshop.python is not None:
        script = (
            "import importlib.metadata as m; print(*(m.version(n) for n in ('broadcaster','redis','python-socketio')))"
        )
        names = ("broadcaster", "redis of broadcaster", "python-socketio")
        reported = subprocess.run(
            [workshop.python, "-c", script], capture_output=True, text=True, check=True, timeout=30
        )
        found |= dict(zip(names, reported.stdout.split(), strict=True))
    if workshop.node is not None:
        found["Node.js"] = _first_number("node", "--version")
        for name in ("ws", "socket.io", "@socket.io/redis-adapter"):
            package = workshop.node / "node_modules" / name / "package.json"
            found[name] = json.loads(package.read_text())["version"]
    if workshop.nchan:
        found["nginx"] = _first_number("nginx", "-v")
        found["nchan"] = _first_number("dpkg-query", "-W", "libnginx-mod-nchan")
    if workshop.centrifugo is not None:
        found["centrifugo"] = _first_number("centrifugo", "version")
    found["redis-server"] = _first_number("redis-server", "--version")
    return found


def _first_number(*command: str) -> str:
    program = shutil.which(command[0], path=search_path())
    if program is None:
        return "?"
    reported = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False, timeout=30)
    number = re.search(r"\d+\.\d+[\w.]*", reported.stdout + reported.stderr)
    return number[0] if number else "?"


def _install_python() -> Path:
    directory = BUILD / "python"
    asked = PEERS / "requirements.txt"
    constraints = BUILD / "constraints.txt"
    constraints.write_text("".join(f"{pin}\n" for pin in _pins()))
    wanted = asked.read_text() + constraints.read_text()
    stamp = directory / "installed.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(directory, ignore_errors=True)
        _run(sys.executable, "-m", "venv", directory)
        pip = (directory / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        _run(*pip, "-r", asked, "-c", constraints)
        stamp.write_text(wanted)
    return directory / "bin" / "python"


def _pins() -> Iterator[str]:
    """Starling's own versions, so that peers differ from it by nothing else."""
    for line in (ROOT / "requirements/runtime.txt").read_text().splitlines():
        if (pin := PIN.match(line)) and not OWN_VERSIONS.match(line):
            yield re.sub(r"\[[^]]*\]", "", pin[0])


def _install_node() -> Path:
    directory = BUILD / "node"
    source = PEERS / "node"
    lock = directory / "package-lock.json"
    wanted = (source / "package-lock.json").read_text()
    fresh = lock.exists() and lock.read_text() == wanted and (directory / "node_modules").exists()
    directory.mkdir(exist_ok=True)
    for path in source.iterdir():
        shutil.copy(path, directory)
    if not fresh:
        _run("npm", "ci", "--prefix", directory, "--silent", "--no-audit", "--no-fund")
    return directory


def _run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True, timeout=INSTALL_SECONDS)
