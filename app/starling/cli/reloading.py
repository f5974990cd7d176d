"""`starling serve --reload`: runs the service in a process of its own, and anew whenever a watched file changes."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType

from starling.cli.output import print_heading

LOOK_SECONDS = 0.5
# What a stopped service takes at most, whatever its settings.
STOP_SECONDS = 30.0
# Directories that hold no code of the user's own.
_SKIPPED = frozenset({".git", ".venv", "__pycache__", "node_modules", "site-packages", "venv"})

_Seen = dict[Path, int]


def serve_reloading(environment: dict[str, str], watched: Iterable[Path]) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    A service that does not start, such as by a mistake in a hook, is started again when a file has changed.
    """
    # A developer waits for each reload.
    environment = {"STARLING_DRAIN_DELAY_SECONDS": "0", "STARLING_DRAIN_SECONDS": "0", **environment}
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    paths = tuple(watched)
    while True:
        seen = _changes(paths)
        service = subprocess.Popen([sys.executable, "-m", "starling", "serve"], env=environment)
        while not stopping.wait(LOOK_SECONDS) and (found := _changes(paths)) == seen:
            pass
        code = _stopped(service)
        if stopping.is_set():
            return code
        changed = sorted(path.name for path, _ in found.items() ^ seen.items())
        print_heading(f"Reload: {', '.join(dict.fromkeys(changed))} changed")


def _changes(paths: Iterable[Path]) -> _Seen:
    """When each watched file was written last, in ns."""
    seen: _Seen = {}
    for path in paths:
        for file in _code(path) if path.is_dir() else (path,):
            try:
                seen[file] = file.stat().st_mtime_ns
            except OSError:
                # It is gone, or being replaced.
                continue
    return seen


def _code(directory: Path) -> Iterator[Path]:
    for file in directory.rglob("*.py"):
        if not _SKIPPED.intersection(file.relative_to(directory).parts):
            yield file


def _stopped(service: "subprocess.Popen[bytes]") -> int:
    """End the service, if it has not ended yet; returns its exit code."""
    service.terminate()
    try:
        return service.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        service.kill()
        return service.wait()
