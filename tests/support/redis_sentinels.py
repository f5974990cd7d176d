"""A Redis master with replicas and sentinels that watch them, on free loopback ports, for tests of fail-over."""

import time

from tests.support.configured_redis import ConfiguredServer
from tests.support.redis_group import RedisGroup
from tests.support.waiting import DEADLINE

SERVICE = "main"
DOWN_AFTER = 1.0


class SentinelGroup(RedisGroup):
    """One master, two replicas and three sentinels; a context manager."""

    def __init__(self, *, password: str = "", sentinel_password: str = "") -> None:
        login = [f"requirepass {password}", f"masterauth {password}"] if password else []
        common = ['save ""', "repl-diskless-sync-delay 0", "repl-ping-replica-period 1", "repl-timeout 5", *login]
        self.password = password
        self.sentinel_password = sentinel_password
        first = ConfiguredServer(common, password=password)
        self.servers = [first] + [
            ConfiguredServer([*common, f"replicaof 127.0.0.1 {first.port}"], password=password) for _ in range(2)
        ]
        watch = [
            f"sentinel monitor {SERVICE} 127.0.0.1 {first.port} 2",
            f"sentinel down-after-milliseconds {SERVICE} {round(DOWN_AFTER * 1000)}",
            f"sentinel failover-timeout {SERVICE} 4000",
        ]
        if password:
            watch.append(f"sentinel auth-pass {SERVICE} {password}")
        if sentinel_password:
            watch += [f"requirepass {sentinel_password}", f"sentinel sentinel-pass {sentinel_password}"]
        self.sentinels = [ConfiguredServer(watch, sentinel=True, password=sentinel_password) for _ in range(3)]
        super().__init__([*self.servers, *self.sentinels])

    @property
    def url(self) -> str:
        """For a client."""
        login = f":{self.password}@" if self.password else ""
        query = f"?sentinel_password={self.sentinel_password}" if self.sentinel_password else ""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{login}{hosts}/{SERVICE}{query}"

    @property
    def master(self) -> ConfiguredServer:
        """The server that all sentinels hold for the master; waits until they do."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            ports = {port_of_master(sentinel) for sentinel in self.sentinels if sentinel.running}
            for server in self.servers:
                if server.running and ports == {server.port}:
                    return server
            time.sleep(0.05)
        raise AssertionError("the sentinels name no master that runs")

    def until_promoted(self, former: ConfiguredServer) -> None:
        """Wait until another server is master."""
        others = [server for server in self.servers if server is not former and server.running]
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            for server in others:
                with server.client() as client:
                    if client.execute_command("ROLE")[0] == "master":
                        return
            time.sleep(0.02)
        raise AssertionError("no replica was promoted")

    def _join(self) -> None:
        """Wait until the sentinels know each other and both replicas, which follow the master."""
        end = time.monotonic() + DEADLINE
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                while True:
                    flat = client.execute_command("SENTINEL", "MASTER", SERVICE)
                    state = flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
                    known = (int(state["num-other-sentinels"]), int(state["num-slaves"]))
                    if known == (len(self.sentinels) - 1, len(self.servers) - 1):
                        break
                    assert time.monotonic() < end, f"a sentinel knows {known} others and replicas"
                    time.sleep(0.05)
        with self.servers[0].client() as client:
            while client.execute_command("WAIT", len(self.servers) - 1, 1000) < len(self.servers) - 1:
                assert time.monotonic() < end, "the replicas do not follow"


def port_of_master(sentinel: ConfiguredServer) -> int:
    """The port of the master, as a sentinel reports it."""
    with sentinel.client() as client:
        return int(client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])
