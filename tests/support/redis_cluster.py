"""A Redis cluster of three shards on free loopback ports, whose slots can be moved and whose masters can die."""

import time
from collections.abc import Callable

from redis.crc import key_slot

from starling.brokers.redis.rights import acl_rule
from tests.support.configured_redis import ConfiguredServer
from tests.support.redis_group import RedisGroup
from tests.support.services import free_port
from tests.support.waiting import DEADLINE

SLOTS = 16384
SHARDS = 3
NODE_TIMEOUT = 1.5


class RedisCluster(RedisGroup):
    """Three masters, each with a replica where wanted; a context manager. It has the user of docs/redis.md."""

    def __init__(self, *, replicas: bool = False) -> None:
        settings = [
            "cluster-enabled yes",
            f"cluster-node-timeout {round(NODE_TIMEOUT * 1000)}",
            "cluster-require-full-coverage no",
            "cluster-replica-validity-factor 0",
            'save ""',
            "repl-diskless-sync-delay 0",
            f"user starling on >PASSWORD {acl_rule('starling', cluster=True)}",
        ]
        self._bus_ports: dict[int, int] = {}
        self.nodes = [self._node(settings) for _ in range(SHARDS * (2 if replicas else 1))]
        super().__init__(self.nodes)

    def _node(self, settings: list[str]) -> ConfiguredServer:
        bus_port = free_port()
        node = ConfiguredServer([*settings, f"cluster-port {bus_port}"])
        self._bus_ports[node.port] = bus_port
        return node

    @property
    def url(self) -> str:
        """For Starling, as the user who may do what docs/redis.md says and nothing else."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:2])
        return f"redis+cluster://starling:PASSWORD@{hosts}"

    def flush(self) -> None:
        """Forget all keys."""
        for node in self.masters():
            with node.client() as client:
                client.execute_command("FLUSHALL")

    def masters(self) -> list[ConfiguredServer]:
        """The nodes that run and are masters."""
        found = []
        for node in self.nodes:
            if node.running:
                with node.client() as client:
                    if client.execute_command("ROLE")[0] == "master":
                        found.append(node)
        return found

    def owner(self, key: str) -> ConfiguredServer:
        """The master that has the slot of `key`."""
        return self.owner_of_slot(key_slot(key.encode()))

    def owner_of_slot(self, slot: int) -> ConfiguredServer:
        """The master that has `slot`, as the first running node reports it."""
        node = next(node for node in self.nodes if node.running)
        with node.client() as client:
            ranges = client.execute_command("CLUSTER", "SLOTS")
        port = next(entry[2][1] for entry in ranges if entry[0] <= slot <= entry[1])
        return next(node for node in self.nodes if node.port == port)

    def move_slot(self, slot: int, source: ConfiguredServer, target: ConfiguredServer) -> None:
        """Move a slot and its keys while they are in use, as `redis-cli --cluster reshard` does."""
        with source.client() as giving, target.client() as taking:
            source_id, target_id = (client.execute_command("CLUSTER", "MYID") for client in (giving, taking))
            taking.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
            giving.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
            while keys := giving.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
                giving.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
            for node in [target, source, *(node for node in self.masters() if node not in (source, target))]:
                with node.client() as client:
                    client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target_id)

    def until_promoted(self, former: ConfiguredServer) -> None:
        """Wait until every slot has a master that runs."""
        others = [node for node in self.nodes if node is not former and node.running]

        def healed() -> bool:
            with others[0].client() as client:
                ranges = client.execute_command("CLUSTER", "SLOTS")
            return isinstance(ranges, list) and former.port not in {entry[2][1] for entry in ranges}

        self.until(healed, "a replica is promoted")

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Wait until `holds()`."""
        end = time.monotonic() + DEADLINE
        while not holds():
            assert time.monotonic() < end, f"waited in vain: {what}"
            time.sleep(0.02)

    def _join(self) -> None:
        first, *others = self.nodes
        with first.client() as client:
            for number, node in enumerate(self.nodes):
                with node.client() as own:
                    own.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            for node in others:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, self._bus_ports[node.port])
        bounds = [SLOTS * shard // SHARDS for shard in range(SHARDS + 1)]
        for shard, node in enumerate(self.nodes[:SHARDS]):
            with node.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[shard], bounds[shard + 1] - 1)
        self.until(
            lambda: all(self._known(node) == len(self.nodes) for node in self.nodes), "the nodes know each other"
        )
        for master, replica in zip(self.nodes[:SHARDS], self.nodes[SHARDS:], strict=False):
            with master.client() as leading, replica.client() as following:
                following.execute_command("CLUSTER", "REPLICATE", leading.execute_command("CLUSTER", "MYID"))
        self.until(lambda: all(map(self._is_whole, self.nodes)), "the cluster is whole")

    def _known(self, node: ConfiguredServer) -> int:
        with node.client() as client:
            return len(str(client.execute_command("CLUSTER", "NODES")).splitlines())

    def _is_whole(self, node: ConfiguredServer) -> bool:
        with node.client() as client:
            text = str(client.execute_command("CLUSTER", "INFO"))
            role = client.execute_command("ROLE")
            linked = role[0] == "master" or role[3] == "connected"
            # Every node must know the replicas too, so that a promotion finds its voters.
            return "cluster_state:ok" in text and f"cluster_slots_assigned:{SLOTS}" in text and linked
