"""Real Redis and PostgreSQL servers for tests, each on a free loopback port with a directory of its own."""

import contextlib
import itertools
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import psutil
import pytest

from tests.support.waiting import DEADLINE


def _own_ports() -> Iterator[int]:
    """Ports of this test process, none twice before all were given; the processes that run side by side share none.

    Under those that Linux gives to connections going out: none of them can take a port while its server restarts. Over
    10080, which browsers and Node.js do not fetch from.
    """
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    own = list(range(11_000, 32_000)[number::processes])
    random.shuffle(own)
    return itertools.cycle(own)


_PORTS = _own_ports()


def free_port() -> int:
    """A loopback port that nothing listens on now, and that no other test draws for long."""
    while True:
        port = next(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Server(ABC):
    """A server process: started, ended kindly or with SIGKILL, frozen and thawed. It keeps its port and directory."""

    name: str

    def __init__(self) -> None:
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix=f"starling-{self.name}-"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.remove()

    @property
    @abstractmethod
    def url(self) -> str:
        """For a client."""

    @property
    def running(self) -> bool:
        """Whether the process is there, be it frozen."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, and return when it answers."""
        self._process = self._spawn()
        deadline = time.monotonic() + DEADLINE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = (self.directory / "log").read_text(errors="replace")[-2000:]
                self.kill()
                raise RuntimeError(f"{self.name} did not start:\n{log}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Shut down in order, whatever the state."""
        if self._process is not None:
            self.thaw()
            self._process.send_signal(self._stop_signal)
            try:
                self._process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def kill(self) -> None:
        """End every process of the server with SIGKILL."""
        for process in self._family():
            # A child may end with its parent, which was killed just before.
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process is not None:
            self._process.wait(DEADLINE)
            self._process = None

    def restart(self) -> None:
        """Start again on the same port and data, after stopping what still runs."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Stop every process where it stands; the kernel keeps the connections."""
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self) -> None:
        """Let a frozen server go on."""
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def remove(self) -> None:
        """End at once, and delete the directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    _stop_signal = signal.SIGTERM

    def _family(self) -> list[psutil.Process]:
        if self._process is None or self._process.poll() is not None:
            return []
        try:
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    @abstractmethod
    def _spawn(self) -> subprocess.Popen[bytes]:
        """Start the process."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether the process takes clients."""


class RedisServer(Server):
    """A redis-server; `options` are lines of its configuration, such as `appendonly="yes"` (`_` stands for `-`).

    Next to its default user, who may do everything, it has one with the rights that docs/redis.md gives.
    """

    name = "redis"

    def __init__(self, **options: str) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            pytest.skip("redis-server is not installed; on Debian: apt-get install redis-server")
        super().__init__()
        self._binary = binary
        self._options = options

    @property
    def url(self) -> str:
        """For a client."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def limited_url(self) -> str:
        """For Starling, as the user who may do what docs/redis.md says and nothing else."""
        return f"redis://starling:PASSWORD@127.0.0.1:{self.port}/0"

    def _spawn(self) -> subprocess.Popen[bytes]:
        settings = {"bind": "127.0.0.1", "port": str(self.port), "dir": str(self.directory), "save": ""}
        settings |= {name.replace("_", "-"): value for name, value in self._options.items()}
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        arguments += ["--user", *documented_user()]
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen([self._binary, *arguments], stdout=log, stderr=log, start_new_session=True)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                probe.sendall(b"PING\r\n")
                # -NOAUTH is an answer too; -LOADING is not yet.
                return probe.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


def documented_user() -> list[str]:
    """The words of the line that docs/redis.md gives for a user of Redis, from the name on."""
    page = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
    line = re.search(r"^ACL SETUSER (starling .*)$", page, re.MULTILINE)
    assert line is not None
    return str(line[1]).split()


class PostgresServer(Server):
    """A PostgreSQL server whose superuser `starling` needs no password."""

    name = "postgres"
    _stop_signal = signal.SIGINT

    def __init__(self) -> None:
        binaries = sorted(
            Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name.split(".")[0])
        )
        on_path = shutil.which("initdb")
        if not binaries and on_path is None:
            pytest.skip("PostgreSQL's server is not installed; on Debian: apt-get install postgresql")
        super().__init__()
        self._binaries = binaries[-1] if binaries else Path(str(on_path)).parent
        # PostgreSQL refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(self.directory, self._user, self._user)
        self._initialise()

    @property
    def url(self) -> str:
        """For a client."""
        return f"postgresql://starling@127.0.0.1:{self.port}/postgres"

    def _command(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                [str(self._binaries / arguments[0]), *arguments[1:]],
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
            )

    def _initialise(self) -> None:
        made = self._command(
            "initdb", "-D", str(self.directory / "data"), "-U", "starling", "-A", "trust", "-E", "UTF8", "--no-sync"
        )
        if made.wait(DEADLINE) != 0:
            raise RuntimeError((self.directory / "log").read_text(errors="replace")[-2000:])

    def _spawn(self) -> subprocess.Popen[bytes]:
        return self._command(
            "postgres",
            *("-D", str(self.directory / "data")),
            *("-p", str(self.port)),
            *("-c", "listen_addresses=127.0.0.1"),
            *("-c", "unix_socket_directories="),
            *("-c", "fsync=off"),
        )

    def _answers(self) -> bool:
        return self._command("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)).wait(DEADLINE) == 0
