"""The links to a Redis cluster: one for each master, and channels that follow their slots."""

import asyncio
import time
from collections.abc import Sequence

import structlog
from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot
from redis.exceptions import ResponseError

from starling.brokers.broadcast import MAX_EVENTS, EventQueue, LinkBackend, LinkEvent
from starling.brokers.envelope import stored_name
from starling.brokers.link import LinkStats
from starling.brokers.redis.address import RedisAddress
from starling.brokers.redis.backend import CALLS_AT_ONCE, QUERIES_AT_ONCE, READS_AT_ONCE
from starling.brokers.redis.calls import PUBLISH, PUBLISH_ONCE, Command, RedisCalls, RedisNames
from starling.brokers.redis.cluster_calls import ClusterCalls
from starling.brokers.redis.cluster_map import ClusterMap, Node
from starling.brokers.redis.cluster_shard import ShardBackend
from starling.brokers.redis.connections import make_connection
from starling.brokers.redis.refusal import refused
from starling.brokers.redis.rights import acl_rule
from starling.engine.broker import BrokerUnavailable, LinkState

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.broker")

# Seconds between two readings of the slots: while the link is up, while it is not, and the minimum.
_REFRESH_WHILE_UP = 10.0
_REFRESH_WHILE_DOWN = 1.0
_REFRESH_LEAST = 0.1
# Seconds between two looks whether a channel's slot has a node.
_POLL = 0.05


class ClusterBackend(LinkBackend):
    """Channels of a Redis cluster, under one prefix, each in the shard that has its slot.

    It is up while the links to all masters are. When a slot has gone to another node, its channels are subscribed
    there, and a loss and a return of the link are reported, so that streams read what was published in between.
    """

    def __init__(self, address: RedisAddress, *, prefix: str, timeout: float, max_events: int = MAX_EVENTS) -> None:
        """`timeout` in seconds bounds one call, `max_events` the events that may wait."""
        self.names = RedisNames(prefix, cluster=True)
        self.timeout = timeout
        self._address = address
        self._stats = LinkStats()
        self._map = ClusterMap(address.hosts)
        # Known from the start, so that no publication is sent twice and falls behind the one after it.
        scripts = [script.introduce() for script in (PUBLISH, PUBLISH_ONCE)]
        self.calls = self._make_calls("publisher", CALLS_AT_ONCE, scripts)
        self.reads = self._make_calls("reader", READS_AT_ONCE)
        # What clients and backends ask goes another way than what subscribing needs, and so never delays that.
        self.queries = self._make_calls("query", QUERIES_AT_ONCE)
        self._shards: dict[Node, ShardBackend] = {}
        # Where each channel is subscribed; nowhere, while its slot moves.
        self._placed: dict[str, Node | None] = {}
        super().__init__(EventQueue(max_events), self._placed)
        self._state = LinkState.CONNECTING
        self._reason = ""
        self._ever_up = False
        self._rights_remedy = f"ACL SETUSER {address.username or 'default'} {acl_rule(prefix, cluster=True)}"
        self._task: asyncio.Task[None] | None = None

    @property
    def stats(self) -> LinkStats:  # type: ignore[override]  # a field of the others, made of many here
        """The worst of all links, and what they counted together."""
        stats = self._stats
        links = [shard.stats for shard in self._shards.values()]
        stats.up = self._state is LinkState.UP
        stats.canary_round_trip_seconds = max((link.canary_round_trip_seconds for link in links), default=0.0)
        stats.canary_received_at = min(
            (link.canary_received_at for link in links if link.canary_received_at), default=None
        )
        stats.failed_swaps = max((link.failed_swaps for link in links), default=0)
        for link in links:
            stats.overflowed.update(link.take_overflowed())
        return stats

    # What broadcaster asks

    async def connect(self) -> None:
        """Begin to connect, and return at once."""
        self._queue.put(LinkEvent(LinkState.CONNECTING))
        self.calls.start()
        self.reads.start()
        self.queries.start()
        self._task = asyncio.create_task(self._follow_slots(), name="broker-cluster")

    async def disconnect(self) -> None:
        """Close all connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        shards, self._shards = self._shards, {}
        await asyncio.gather(*(shard.disconnect() for shard in shards.values()))
        self._placed.clear()
        await self.calls.stop()
        await self.reads.stop()
        await self.queries.stop()
        self._state = LinkState.DOWN

    async def subscribe(self, group: str) -> None:
        """Return when the node that has the slot has acknowledged. Raises BrokerUnavailable; the request stands."""
        slot = key_slot(stored_name(group).encode())
        self._placed.setdefault(group, None)
        deadline = time.monotonic() + self.timeout
        while group in self._placed:
            node = self._map.node_of(slot)
            if node is not None and (shard := self._shards.get(node)) is not None:
                self._placed[group] = node
                try:
                    await shard.subscribe(group)
                except BrokerUnavailable:
                    # Given up by its shard, it has moved, and the time may not be over.
                    if self._placed.get(group, node) == node:
                        raise
                else:
                    return
            if time.monotonic() > deadline:
                raise BrokerUnavailable(
                    f"no subscription was acknowledged within {self.timeout:g} s; it is made good when the link returns"
                )
            await asyncio.sleep(_POLL)

    async def unsubscribe(self, group: str) -> None:
        """Deliver nothing more of `group`; the server is informed later."""
        node = self._placed.pop(group, None)
        if node is not None and (shard := self._shards.get(node)) is not None:
            shard.drop(group)

    async def publish(self, channel: str, message: bytes) -> None:
        """Send to every process, after all that was published here before in this channel. Raises BrokerUnavailable."""
        try:
            await self.calls.execute(*self.names.publish(channel, message), size=len(message))
        except ResponseError as error:
            raise refused(error) from None

    # Slots and shards

    async def _follow_slots(self) -> None:
        while True:
            try:
                await self._map.refresh(lambda node: self.reads.at(node).execute("CLUSTER", "SLOTS"))
                await self._assign_all()
            except BrokerUnavailable as error:
                self._down(str(error))
            except Exception:
                log.exception("cluster_not_followed", address=str(self._address))
            await asyncio.sleep(_REFRESH_LEAST)
            try:
                async with asyncio.timeout(_REFRESH_WHILE_UP if self._state is LinkState.UP else _REFRESH_WHILE_DOWN):
                    await self._map.outdated.wait()
            except TimeoutError:
                pass

    async def _assign_all(self) -> None:
        """Hold a link to each master and none else, and have every channel where its slot is."""
        masters = self._map.masters
        for node in masters - self._shards.keys():
            shard = self._shards[node] = self._make_shard(node)
            await shard.connect()
        moves: list[tuple[str, ShardBackend]] = []
        for channel, present in self._placed.items():
            owner = self._map.node_of(key_slot(stored_name(channel).encode()))
            if owner is None or owner == present or owner not in self._shards:
                continue
            if present in self._shards:
                self._shards[present].drop(channel)
            self._placed[channel] = owner
            moves.append((channel, self._shards[owner]))
        # What is not acknowledged in time is made good when that link returns, which is reported as well.
        await asyncio.gather(*(shard.subscribe(channel) for channel, shard in moves), return_exceptions=True)
        for node in self._shards.keys() - masters:
            await self._shards.pop(node).disconnect()
        await self.calls.keep(masters)
        await self.reads.keep(self._map.nodes)
        await self.queries.keep(self._map.nodes)
        if moves and self._state is LinkState.UP:
            log.info("cluster_slots_moved", address=str(self._address), channels=len(moves))
            self._queue.put(LinkEvent(LinkState.DOWN))
            self._queue.put(LinkEvent(LinkState.UP))
        self._settle()

    def _make_shard(self, node: Node) -> ShardBackend:
        shard = ShardBackend(
            node,
            names=self.names,
            timeout=self.timeout,
            address=f"{self._address} at {node[0]}:{node[1]}",
            queue=self._queue,
            slots=self._map,
            make_connection=lambda purpose: self._make_connection(node, purpose),
            calls=lambda: self.calls.at(node),
            rights_remedy=self._rights_remedy,
            on_states=self._states_changed,
            moved=self._give_up,
        )
        shard.stats.dropped, shard.stats.probes = self._stats.dropped, self._stats.probes
        return shard

    def _give_up(self, shard: ShardBackend, channels: list[str]) -> None:
        """Have `channels` subscribed elsewhere: their slot has left `shard`."""
        for channel in channels:
            shard.drop(channel)
            if self._placed.get(channel) == shard.node:
                self._placed[channel] = None
        self._map.outdated.set()

    # The state of all links

    def _states_changed(self, shard: ShardBackend, states: tuple[LinkState, ...]) -> None:
        if self._shards.get(shard.node) is not shard:
            return
        if states[-1] is LinkState.UNRESPONSIVE:
            self._queue.put(LinkEvent(LinkState.UNRESPONSIVE))
        elif states == (LinkState.UP,):
            self._settle()
        elif states == (LinkState.DOWN,):
            self._map.outdated.set()
            self._down("")
        elif self._state is LinkState.UP and LinkState.CONNECTING not in states:
            for state in states:
                self._queue.put(LinkEvent(state))

    def _settle(self) -> None:
        """Be up, if all links are and every channel is placed."""
        whole = self._map.is_whole and self._map.masters == self._shards.keys()
        if self._state is LinkState.UP or not whole or not all(shard.is_up for shard in self._shards.values()):
            return
        self._stats.reconnects += self._ever_up
        self._state, self._reason, self._ever_up = LinkState.UP, "", True
        self._queue.put(LinkEvent(LinkState.UP))
        log.info("broker_link_up", address=str(self._address), channels=len(self._placed), nodes=len(self._shards))

    def _down(self, reason: str) -> None:
        if reason and reason != self._reason:
            self._reason = reason
            remedy = self._remedy(reason)
            log.warning(
                "broker_link_down", address=str(self._address), reason=reason, **({"remedy": remedy} if remedy else {})
            )
        if self._state is not LinkState.DOWN:
            self._state = LinkState.DOWN
            self._queue.put(LinkEvent(LinkState.DOWN))

    def _remedy(self, reason: str) -> str:
        if "cluster support disabled" in reason:
            return "this Redis is no cluster: write redis:// (or rediss://) in the broker URL"
        return self._rights_remedy if "permission" in reason else ""

    # Connections

    def _make_calls(self, purpose: str, max_batch: int, first: Sequence[Command] = ()) -> ClusterCalls:
        def make(node: Node) -> RedisCalls:
            connection = self._make_connection(node, purpose)
            return RedisCalls(connection, timeout=self.timeout, max_batch=max_batch, first=first)

        return ClusterCalls(self._map, make, timeout=self.timeout)

    def _make_connection(self, node: Node, purpose: str) -> AbstractConnection:
        return make_connection(self._address, *node, purpose, timeout=self.timeout)
