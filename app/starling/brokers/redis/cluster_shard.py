"""The supervised link to one master of a Redis cluster."""

from collections.abc import Callable
from itertools import count, islice

from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot
from redis.exceptions import ResponseError

from starling.brokers.broadcast import EventQueue
from starling.brokers.link import LinkLost
from starling.brokers.redis.calls import RedisCalls, RedisNames
from starling.brokers.redis.cluster_link import ShardLink
from starling.brokers.redis.cluster_map import ClusterMap, Node
from starling.brokers.redis.inspection import inspect_server
from starling.brokers.redis.refusal import refused
from starling.brokers.supervised import SupervisedBackend
from starling.engine.broker import LinkState

# A node with a single slot needs as many tries as there are slots to find a channel in it.
_TRIES = 100_000


class ShardBackend(SupervisedBackend):
    """The channels whose slots one node has. What it receives goes to the cluster's own queue."""

    def __init__(
        self,
        node: Node,
        *,
        names: RedisNames,
        timeout: float,
        address: str,
        queue: EventQueue,
        slots: ClusterMap,
        make_connection: Callable[[str], AbstractConnection],
        calls: Callable[[], RedisCalls],
        rights_remedy: str,
        on_states: Callable[["ShardBackend", tuple[LinkState, ...]], None],
        moved: Callable[["ShardBackend", list[str]], None],
    ) -> None:
        """`on_states` gets the link's states, `moved` of channels that this node has no more.

        `calls` gives the connection that publications to this node take.
        """
        super().__init__(address, timeout=timeout, queue=queue)
        self.node = node
        self._names = names
        self._map = slots
        self._make_connection = make_connection
        self._calls = calls
        self._rights_remedy = rights_remedy
        self._on_states = on_states
        self._moved = moved

    @property
    def is_up(self) -> bool:
        """Whether the link stands."""
        return self._state is LinkState.UP

    def make_link(self) -> ShardLink:
        """A Pub/Sub connection that is not open yet."""
        return ShardLink(self._make_connection("subscriber"), self._names, self._give_up)

    def own_channel(self, purpose: str) -> str:
        """A channel in a slot of this very node."""
        first = super().own_channel(purpose)
        names = (f"{first}:{number}" for number in islice(count(), _TRIES))
        return next((name for name in names if self._map.node_of(key_slot(name.encode())) == self.node), first)

    async def publish(self, channel: str, message: bytes) -> None:
        """Send over the connection that publications take. Raises BrokerUnavailable."""
        await self._publish(self._calls(), channel, message)

    async def publish_apart(self, channel: str, message: bytes) -> None:
        """Send over a connection that is opened for it. Raises BrokerUnavailable."""
        calls = RedisCalls(self._make_connection("probe"), timeout=self.timeout)
        calls.start()
        try:
            await self._publish(calls, channel, message)
        finally:
            await calls.stop()

    async def _publish(self, calls: RedisCalls, channel: str, message: bytes) -> None:
        try:
            await calls.execute(*self._names.publish(channel, message), size=len(message))
        except ResponseError as error:
            raise refused(error) from None

    async def open_publishing(self) -> None:
        """Nothing: the cluster has the connections."""

    async def close_publishing(self) -> None:
        """Nothing: the cluster has the connections."""

    async def first_up(self) -> None:
        """Log what is wrong with the server, or with the rights of its user."""
        await inspect_server(self._calls().execute, self._names.prefix, cluster=True, rights_remedy=self._rights_remedy)

    def report_states(self, *states: LinkState) -> None:
        """Report to the cluster, which has one state for all."""
        self._on_states(self, states)

    def remedy(self, reason: str) -> str:
        """The rule for the user, where Redis says that something is not allowed."""
        return self._rights_remedy if "permission" in reason else ""

    def drop(self, channel: str) -> None:
        """Listen to `channel` no more."""
        self._subscriptions.drop(channel)

    def _give_up(self, channels: list[str]) -> None:
        if self._canary_channel in channels:
            # The next link has another, in a slot that is still here.
            raise LinkLost("the slot of the canary went to another node")
        self._moved(self, channels)
