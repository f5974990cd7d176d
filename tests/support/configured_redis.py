"""A redis-server that keeps its settings in a file, as the members of a group do."""

import subprocess

import redis

from tests.support.services import RedisServer


class ConfiguredServer(RedisServer):
    """A redis-server or a sentinel that keeps its settings in a file, which it may rewrite."""

    def __init__(self, lines: list[str], *, sentinel: bool = False, password: str = "") -> None:
        super().__init__()
        self._password = password
        self._sentinel = sentinel
        self.file = self.directory / "redis.conf"
        common = ["bind 127.0.0.1", f"port {self.port}", f"dir {self.directory}"]
        self.file.write_text("\n".join([*common, *lines]) + "\n")

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [self._binary, str(self.file), *(["--sentinel"] if self._sentinel else [])]
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def client(self) -> "redis.Redis":
        """A plain client of this server."""
        return redis.Redis(port=self.port, password=self._password or None, decode_responses=True, socket_timeout=5)
