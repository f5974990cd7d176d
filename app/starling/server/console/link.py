"""The way from the internal process to a worker: requests for the console over a socket in the runtime directory.

A request is one line of JSON, and so is each of its answers; a worker serves it as starling.web.console_socket says.
"""

import json
import socket
from collections.abc import Generator, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

ANSWER_SECONDS = 8.0
SUFFIX = ".console"


class NoWorker(Exception):
    """No worker of this pod answers; the message names those that were asked."""


def encode_request(method: str, body: dict[str, Any]) -> bytes:
    """The line that asks a worker for a method. Raises RecursionError for a body that is nested too deeply."""
    return json.dumps({"method": method, "body": body}).encode() + b"\n"


class WorkerLink:
    """Asks one of the workers of this pod, whichever answers."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def ask(self, pids: Iterable[int], request: bytes) -> bytes:
        """The answer of a worker, one line of JSON. Raises NoWorker."""
        with closing(self.stream(pids, request)) as lines:
            return next(lines)

    def stream(self, pids: Iterable[int], request: bytes) -> Generator[bytes]:
        """The answers of a worker, a line each, until it or the caller ends. Raises NoWorker, at the first line."""
        asked: list[int] = []
        for pid in pids:
            asked.append(pid)
            with suppress(OSError), socket.socket(socket.AF_UNIX) as link:
                link.settimeout(ANSWER_SECONDS)
                link.connect(str(self._directory / f"{pid}{SUFFIX}"))
                link.sendall(request)
                with link.makefile("rb") as answers:
                    first = answers.readline()
                    if first:
                        yield first
                        yield from answers
                        return
        named = f" (process {', '.join(map(str, asked))})" if asked else ""
        raise NoWorker(f"no worker of this pod answers{named}: it starts, stops or is stuck")
