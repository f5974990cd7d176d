"""Statistics of every node: its connections, its traffic, and its lag."""

import resource

import msgspec
from msgspec import Struct

from starling.engine.control import NodeCommand
from starling.engine.engine import Engine
from starling.telemetry.process_stats import resident_memory


class NodeStats(Struct):
    """A node now. Messages, bytes, publications and CPU seconds count since its start, `uptime` seconds ago.

    `messages_out` are deliveries, one for each client. `lag_seconds` is the recent maximum of the event loop's delay.
    """

    uid: str
    name: str
    version: str
    uptime: float
    ready: bool
    draining: bool
    connections: int
    users: int
    subscriptions: int
    channels: int
    messages_in: int
    messages_out: int
    bytes_in: int
    bytes_out: int
    publications: int
    cpu_seconds: float
    memory_bytes: int
    lag_seconds: float


class StatsCommand(NodeCommand):
    """Return the statistics of the node."""


class NodeStatsCollector:
    """Collects the statistics of this node, and of all nodes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        engine.control.on_command(StatsCommand, lambda _: self.here())

    def here(self) -> NodeStats:
        """This node."""
        engine = self._engine
        info = engine.node.describe()
        transports = engine.metrics.transports.values()
        used = resource.getrusage(resource.RUSAGE_SELF)
        return NodeStats(
            uid=info.uid,
            name=info.name,
            version=info.version,
            uptime=engine.node.uptime,
            ready=engine.readiness.ready,
            draining=engine.readiness.draining,
            connections=info.num_clients,
            users=info.num_users,
            subscriptions=info.num_subs,
            channels=info.num_channels,
            messages_in=sum(stats.messages_in for stats in transports),
            messages_out=sum(stats.messages_out for stats in transports),
            bytes_in=sum(stats.bytes_in for stats in transports),
            bytes_out=sum(stats.bytes_out for stats in transports),
            publications=sum(total for (_, result), total in engine.metrics.published.items() if result == "stored"),
            cpu_seconds=used.ru_utime + used.ru_stime,
            memory_bytes=resident_memory(),
            lag_seconds=engine.clock.lag_seconds,
        )

    async def everywhere(self) -> tuple[list[NodeStats], list[str]]:
        """Every node that answers in time, by name, and the names of those that did not.

        Raises BrokerUnavailable, and NodeCommandRefused where a node of another version does not know what is asked.
        """
        known = {info.uid: info.name for info in self._engine.control.nodes()}
        answers = await self._engine.control.ask(StatsCommand())
        nodes = [msgspec.json.decode(answer, type=NodeStats) for answer in answers.values()]
        missing = sorted(name for uid, name in known.items() if uid not in answers)
        return sorted(nodes, key=lambda one: (one.name, one.uid)), missing
