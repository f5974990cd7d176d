"""A running Starling: the real command in a process group of its own, on free loopback ports."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.services import free_port
from tests.support.waiting import DEADLINE

SECRET = "a test's own secret, longer than thirty-two bytes"


def two_workers(directory: Path, broker_url: str, channels: str) -> dict[str, str]:
    """The settings of a Starling of two workers in developer mode, its channels file written into `directory`."""
    file = directory / "channels.yaml"
    file.write_text(channels)
    return {
        "STARLING_DEV": "true",
        "STARLING_BROKER_URL": broker_url,
        "STARLING_WORKERS": "2",
        "STARLING_CHANNELS_FILE": str(file),
    }


class Starling:
    """`starling serve` with its settings; a context manager that waits for readiness and ends it with SIGTERM."""

    def __init__(self, environment: Mapping[str, str] | None = None, *, wait_ready: bool = True) -> None:
        self.port = free_port()
        self.internal_port = free_port()
        self.wait_ready = wait_ready
        self.environment = {
            "STARLING_HOST": "127.0.0.1",
            "STARLING_INTERNAL_HOST": "127.0.0.1",
            "STARLING_PORT": str(self.port),
            "STARLING_INTERNAL_PORT": str(self.internal_port),
            "STARLING_DRAIN_DELAY_SECONDS": "0",
            "STARLING_DRAIN_SECONDS": "1",
            "STARLING_LOG_FORMAT": "json",
            # A busy machine must not reject connections in tests of something else.
            "STARLING_MAX_LAG_SECONDS": "0",
            "STARLING_MAX_MEMORY_SHARE": "0",
            **(environment or {"STARLING_DEV": "true"}),
        }
        self._output = tempfile.NamedTemporaryFile(suffix=".log", delete=False)  # noqa: SIM115 - lives as long as the process
        self.process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """The public port's address for WebSockets."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def http(self) -> str:
        """The public port's address for HTTP."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def internal(self) -> str:
        """The internal port's address."""
        return f"http://127.0.0.1:{self.internal_port}"

    @property
    def log_path(self) -> Path:
        """The file that everything is written to; it stays until the context ends."""
        return Path(self._output.name)

    @property
    def output(self) -> str:
        """Everything written so far, standard output and error together."""
        return self.log_path.read_text(errors="replace")

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log lines written so far, without one that is only half there."""
        whole, _, _ = self.output.rpartition("\n")
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    def reported(self, event: str, count: int = 1, **fields: object) -> list[dict[str, Any]]:
        """Log lines of an event with these fields, once there are this many: they are written a moment after it."""
        deadline = time.monotonic() + DEADLINE
        wanted = {"event": event, **fields}
        while len(lines := [line for line in self.lines if wanted.items() <= line.items()]) < count:
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(lines)} lines report {wanted}, not {count}")
            time.sleep(0.02)
        return lines

    @property
    def workers(self) -> list[int]:
        """Process ids of the workers, from the pod's own readiness report."""
        return sorted(int(worker["pid"]) for worker in self.get(f"{self.internal}/readyz")[1]["workers"])

    def start(self) -> Self:
        """Start the command; returns when it is ready, unless `wait_ready` is false."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("STARLING_")}
        self.process = subprocess.Popen(
            [str(Path(sys.executable).with_name("starling")), "serve"],
            env=inherited | self.environment,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        if self.wait_ready:
            self.until_ready()
        return self

    def until_ready(self, workers: int | None = None, timeout: float = DEADLINE) -> None:
        """Wait until as many workers as are wanted are ready."""
        wanted = workers or int(self.environment.get("STARLING_WORKERS", "1"))
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"starling ended with {self.process.returncode}:\n{self.output}")
            status, body = self.get(f"{self.internal}/readyz")
            if status == 200 and sum(worker["ready"] for worker in body["workers"]) >= wanted:
                return
            time.sleep(0.05)
        raise AssertionError(f"starling was not ready in {timeout} s:\n{self.output}")

    def get(self, url: str) -> tuple[int, Any]:
        """Status and JSON body of `url`; (0, {}) where nobody answers."""
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            body = error.read()
            return error.code, json.loads(body) if body.startswith(b"{") else {}
        except (OSError, http.client.HTTPException):
            # Nobody is there, or the answerer ended in the middle of its answer.
            return 0, {}

    def metrics(self) -> dict[str, float]:
        """Every sample of the internal port, by its name with labels."""
        with urllib.request.urlopen(f"{self.internal}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        samples = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    def stop(self, timeout: float = DEADLINE) -> int:
        """SIGTERM the master and return its exit code; what outlives the time is killed, which fails the test."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL whatever is left of the process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(5)
        self._output.close()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.kill()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            print(self.output[-20000:])
        self.stop()
        self.log_path.unlink(missing_ok=True)


@asynccontextmanager
async def serving(environment: Mapping[str, str]) -> AsyncIterator[Starling]:
    """A running Starling, started and ended next to the event loop, where something in the loop stands in its way."""
    starling = Starling(environment)
    await asyncio.to_thread(starling.__enter__)
    try:
        yield starling
    finally:
        await asyncio.to_thread(starling.__exit__, *sys.exc_info())
