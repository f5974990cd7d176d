"""A server of tests/server/application.py in this process or another, its clients over raw sockets, and its log."""

import base64
import contextlib
import http.client
import json
import os
import re
import secrets
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from starling.engine.readiness import Readiness
from starling.server.options import ServerOptions
from tests.server.application import Application, service_of
from tests.support.in_process import InProcessServer
from tests.support.services import free_port
from tests.support.waiting import DEADLINE

ROOT = Path(__file__).parents[2]


def until(find: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    """Ask `find` until it gives something true."""
    end = time.monotonic() + deadline
    while not (found := find()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {what}")
        time.sleep(0.02)
    return found


class InProcess:
    """A worker's server in this process: its listener's port, and what it logged and refused."""

    def __init__(self, directory: Path, *, host: str = "127.0.0.1", **options: Any) -> None:
        self.refusals: Counter[str] = Counter()
        self._directory = directory
        self._options = ServerOptions(
            host=host, runtime_dir=directory, drain_delay_seconds=0, drain_seconds=0, **options
        )
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        application = Application(Readiness(), starts=True, start_seconds=0, away=self._directory / "away")
        service = service_of(application, lambda reason: self.refusals.update([reason]))
        self._server = self._stack.enter_context(InProcessServer(self._options, service))
        self.port = self._server.port
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log lines of this event."""
        return [line for line in tuple(self._server.lines) if line["event"] == name]

    @property
    def problems(self) -> list[dict[str, Any]]:
        """The log lines of errors."""
        return [line for line in tuple(self._server.lines) if line["level"] in {"error", "critical"}]

    def refused(self, reason: str) -> float:
        """How many clients were refused for this reason."""
        return float(self.refusals[reason])

    def connect(self, path: str = "/ws", *headers: str, receive_buffer: int | None = None) -> "Client":
        """A client whose upgrade was accepted."""
        return connected(self.port, path, *headers, receive_buffer=receive_buffer)


class Server:
    """Starts with `with`; at the end no process of it lives, and every line it wrote was one JSON object."""

    def __init__(
        self,
        directory: Path,
        *,
        wait_ready: bool = True,
        open_files: int = 0,
        output: IO[bytes] | None = None,
        **options: Any,
    ) -> None:
        """`open_files` lowers the process's soft limit; `output` gets its lines, which then are not looked at."""
        self._output = output
        self.wait_ready = wait_ready
        self._open_files = open_files
        self.port = free_port()
        self.internal_port = free_port()
        self.directory = directory
        self.options = {
            "host": "127.0.0.1",
            "port": self.port,
            "internal_host": "127.0.0.1",
            "internal_port": self.internal_port,
            "workers": 1,
            "runtime_dir": str(directory / "run"),
            "drain_delay_seconds": 0,
            "drain_seconds": 0,
            **options,
        }
        self._log = directory / "output.log"

    def start(self) -> Self:
        with self._log.open("ab") as log_file:
            self.process = self._launch(self._output or log_file)
        return self

    @property
    def environment(self) -> dict[str, str]:
        # prometheus_client reads the variable at its import.
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PROMETHEUS_MULTIPROC_DIR": f"{self.options['runtime_dir']}/metrics",
        }

    def _launch(self, output: IO[bytes]) -> subprocess.Popen[bytes]:
        limit = ["prlimit", f"--nofile={self._open_files}:"] if self._open_files else []
        command = [sys.executable, str(Path(__file__).with_name("application.py")), json.dumps(self.options)]
        return subprocess.Popen(
            limit + command,
            cwd=ROOT,
            env=self.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        self.start()
        if not self.wait_ready:
            return self
        until(lambda: len(self.workers(ready=True)) == self.options["workers"], f"ready workers\n{self.output}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                self.kill_all()
                raise AssertionError(f"did not stop\n{self.output}") from error
        self.kill_all()
        if kind is None and self._output is None:
            assert self.lines, "it says something, and each line is JSON"

    def kill_all(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.process.wait(DEADLINE)

    @property
    def output(self) -> str:
        return self._log.read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        whole, _, _ = self.output.rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == name]

    def get(self, path: str, method: str = "GET", headers: dict[str, str] | None = None) -> tuple[int, bytes, Any]:
        """Status, body and headers of the internal port's answer; status 0 where nobody answers."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.internal_port}{path}", method=method, headers=headers or {}
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read(), error.headers
        except (OSError, http.client.HTTPException):
            # Nobody is there, or the answerer ended in the middle of its answer.
            return 0, b"", {}

    def workers(self, *, ready: bool = False) -> list[int]:
        _, body, _ = self.get("/readyz")
        reports = json.loads(body)["workers"] if body else []
        return [report["pid"] for report in reports if report["ready"] or not ready]

    def sample(self, name: str) -> float | None:
        """The sample of this name without labels among the metrics."""
        found = re.search(rf"^{name} (\S+)$", self.get("/metrics")[1].decode(), re.M)
        return float(found[1]) if found else None

    def refused(self, reason: str) -> float:
        found = re.search(rf'^test_refused_total{{reason="{reason}"}} (\S+)$', self.get("/metrics")[1].decode(), re.M)
        return float(found[1]) if found else 0.0

    def connect(self, path: str = "/ws", *headers: str, receive_buffer: int | None = None) -> "Client":
        return connected(self.port, path, *headers, receive_buffer=receive_buffer)

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> float:
        """Send the master a signal, wait for its end with code 0, and give the seconds that took."""
        started = time.monotonic()
        self.process.send_signal(sig)
        assert self.process.wait(DEADLINE * 2) == 0, self.output
        return time.monotonic() - started


def connected(port: int, path: str, *headers: str, receive_buffer: int | None) -> "Client":
    """A client whose upgrade was accepted."""
    client = Client(port, receive_buffer)
    client.upgrade(path, *headers)
    assert client.status == 101, client.head
    return client


class Client:
    """One raw TCP connection to the server, and WebSocket frames over it."""

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(DEADLINE)
        self.socket.connect(("127.0.0.1", port))
        self.head = ""
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def upgrade(self, path: str, *headers: str, early: bytes = b"") -> None:
        self.socket.sendall(handshake(path, *headers) + early)
        self.read_head()

    def read_head(self) -> None:
        while b"\r\n\r\n" not in self._buffer:
            if not (data := self.socket.recv(65536)):
                break
            self._buffer += data
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        self.head = head.decode()

    @property
    def status(self) -> int:
        return int(self.head.split()[1]) if self.head else 0

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError
            self._buffer += data
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def frame(self) -> tuple[int, bytes]:
        """The next frame of the server: opcode and payload."""
        first, length = self._take(2)
        assert first & 0x80
        assert not length & 0x80
        if length == 126:
            (length,) = struct.unpack("!H", self._take(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self._take(8))
        return first & 0x0F, self._take(length)

    def text(self) -> str:
        """The next message, which must be text."""
        opcode, payload = self.frame()
        assert opcode == 1, (opcode, payload)
        return payload.decode()

    def close_code(self) -> tuple[int, str]:
        """Code and reason of the server's close frame, whatever came before it."""
        while True:
            opcode, payload = self.frame()
            if opcode == 8:
                return struct.unpack("!H", payload[:2])[0], payload[2:].decode()

    def ended(self) -> bool:
        """Whether the server ends the connection, whatever it still sends."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
        return True

    def cut_while_sending(self, data: bytes, every: float = 0) -> bool:
        """Whether the server cuts the connection while `data` is sent again and again and nothing is read."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            try:
                self.socket.sendall(data)
            except ConnectionError:
                return True
            time.sleep(every)
        return False

    def sent_until_cut(self, most: int) -> int:
        """How many bytes can be sent until the server cuts the connection; `most` are enough to know."""
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < most:
                sent += self.socket.send(bytes(65_536))
        return sent

    def send(self, text: str) -> None:
        self.socket.sendall(frame(1, text.encode()))


def handshake(path: str, *headers: str) -> bytes:
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bool = True) -> bytes:
    """A frame as a client sends it, masked with zeros."""
    length = len(payload)
    bit = 0x80 if mask else 0
    if length < 126:
        head = struct.pack("!BB", fin << 7 | opcode, bit | length)
    elif length < 65536:
        head = struct.pack("!BBH", fin << 7 | opcode, bit | 126, length)
    else:
        head = struct.pack("!BBQ", fin << 7 | opcode, bit | 127, length)
    return head + (bytes(4) if mask else b"") + payload
