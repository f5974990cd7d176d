"""A random walk over everything that can fail with a stream, against a truth kept on the side.

Several processes' worth of streams stand over one store. Messages are dropped, links are lost, processes die, the
store goes back to a snapshot, forgets entries or everything, publishers repeat themselves, clients come in crowds.
Wrong is a client that stands subscribed with a hole, a double, a wrong order or a lost end, and was not notified.

The links are modelled, because a real one drops nothing on demand; the streams and the stores are the real ones. Going
back is DUMP and RESTORE of the keys with another run's name, expiry is DEL; test_history_redis restarts a real server.
"""

import asyncio
import contextlib
import copy
import os
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec
import pytest
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from starling.brokers.envelope import decode, encode_body
from starling.brokers.memory.history import MemoryHistory
from starling.brokers.redis.broker import keeping, read_position
from starling.brokers.redis.calls import PUBLISH, RedisNames, new_epoch
from starling.brokers.redis.history import RedisHistory
from starling.engine.broker import BrokerUnavailable, PublishOptions, StreamEntry, StreamPosition, StreamRead
from starling.engine.follower import Joined, MemoryBudget
from starling.engine.history import HistoryStore
from starling.engine.stream import Stream, check_positions
from starling.engine.stream_contract import StreamOptions, StreamStats
from starling.protocol.messages import Publication
from tests.support.services import RedisServer
from tests.support.virtual_time import run_in_virtual_time
from tests.support.waiting import DEADLINE

SEED = int(os.environ.get("STARLING_MODEL_SEED", "7"))
CHANNELS = ("news:a", "news:b", "news:c")
SIZE = 24
TTL = 600.0
META_TTL = 86_400.0


# The stores


class Store(Protocol):
    """A real store, and how to harm it."""

    size: int

    @property
    def history(self) -> HistoryStore:
        """What is tested."""

    async def publish(self, channel: str, payload: int, key: str) -> StreamPosition:
        """Publish one number; what is reported to the processes arrives in `reported`."""

    async def settle(self) -> None:
        """Return when all that was published has arrived in `reported`."""

    async def take_snapshot(self) -> None:
        """Remember the state."""

    async def go_back(self) -> None:
        """Return to the snapshot, as another run of the server."""

    async def expire_entries(self, channel: str) -> None:
        """End the entries of a channel, and maybe of others, by time; with them, maybe, what keys were used."""

    async def expire_positions(self, channel: str) -> set[str]:
        """The same for the position; returns the channels that lost theirs."""


class Reported:
    """Where a store puts what it sends to every process."""

    def __init__(self) -> None:
        self.processes: list[Process] = []
        self.count = 0

    def __call__(self, channel: str, entry: StreamEntry) -> None:
        self.count += 1
        for process in self.processes:
            process.receive(channel, entry)


class MemoryStore(MemoryHistory):
    """The memory history under a clock of the test, with snapshots, which it has no need of in service."""

    def __init__(self, reported: Reported, size: int) -> None:
        self.size = size
        self.now = 0.0
        super().__init__(clock=lambda: self.now)
        self._reported = reported
        self._snapshot: dict[str, Any] = {}
        self._gone_back: set[str] = set()
        self._jump = 0

    @property
    def history(self) -> HistoryStore:
        return self

    async def publish(self, channel: str, payload: int, key: str) -> StreamPosition:
        if key and (position := self.repeated(channel, key)):
            return position
        options = PublishOptions(history_size=self.size, history_ttl=TTL, history_meta_ttl=META_TTL)
        entry = self.append_next(channel, Publication(msgspec.Raw(b"%d" % payload)), options, self.sweep())
        if channel in self._gone_back:
            entry = self._jump_over(channel, entry)
        position = StreamPosition(entry.offset, entry.epoch)
        if key:
            self.remember(channel, key, position)
        self._reported(channel, entry)
        return position

    def _jump_over(self, channel: str, entry: StreamEntry) -> StreamEntry:
        self._gone_back.discard(channel)
        self._jump += 2**40
        publication = msgspec.structs.replace(entry.publication, offset=self._jump + entry.offset)
        jumped = StreamEntry(publication, entry.previous, entry.epoch)
        stream = self._streams[channel]
        stream.entries[-1], stream.top = jumped, jumped.offset
        return jumped

    async def settle(self) -> None:
        pass

    async def take_snapshot(self) -> None:
        self._snapshot = copy.deepcopy(
            {name: getattr(self, name) for name in ("now", "_streams", "_due", "_repeated", "_repeated_until")}
        )

    async def go_back(self) -> None:
        for name, value in copy.deepcopy(self._snapshot).items():
            setattr(self, name, value)
        self._gone_back = set(self._streams)

    async def expire_entries(self, channel: str) -> None:
        self.now += TTL + 1

    async def expire_positions(self, channel: str) -> set[str]:
        self.now += META_TTL + 1
        self._gone_back.clear()
        return set(CHANNELS)


class RedisStore:
    """The scripts in a real Redis, received over a real Pub/Sub connection."""

    def __init__(self, redis: "Redis", reported: Reported) -> None:
        self._redis = redis
        self.size = SIZE
        self._names = RedisNames("starling")
        self.history = RedisHistory(self._execute, self._names)
        self._reported = reported
        self._published = 0
        self._snapshot: dict[bytes, bytes] = {}

    async def _execute(self, *command: bytes | str | int | float, size: int = 0) -> object:
        return await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]

    async def listen(self, pubsub: "PubSub") -> None:
        async for message in pubsub.listen():
            if message["type"] == "pmessage":
                entry = decode(message["data"])
                assert isinstance(entry, StreamEntry)
                self._reported(message["channel"].decode().removeprefix("starling:"), entry)

    async def publish(self, channel: str, payload: int, key: str) -> StreamPosition:
        body = encode_body(Publication(msgspec.Raw(b"%d" % payload)), 0)
        options = PublishOptions(SIZE, TTL, META_TTL, key)
        before = await self._length(channel)
        keys, arguments = keeping(self._names, channel, body, options, new_epoch())
        position = read_position(await PUBLISH.run(self._execute, keys, *arguments))
        self._published += await self._length(channel) != before
        return position

    async def _length(self, channel: str) -> object:
        return await self._redis.hget(f"starling:meta:{{{channel}}}", "o")

    async def settle(self) -> None:
        async with asyncio.timeout(DEADLINE):
            while self._reported.count < self._published:
                await asyncio.sleep(0.001)

    async def take_snapshot(self) -> None:
        self._snapshot.clear()
        for key in await self._redis.keys("starling:*"):
            value = await self._redis.dump(key)
            assert isinstance(key, bytes)
            # A read under way may delete entries that outlived their position.
            if value is not None:
                assert isinstance(value, bytes)
                self._snapshot[key] = value

    async def go_back(self) -> None:
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.flushall()
            for key, value in self._snapshot.items():
                pipeline.restore(key, 0, value)
                if key.startswith(b"starling:meta:"):
                    pipeline.hset(key, "r", "another")
            await pipeline.execute()

    async def expire_entries(self, channel: str) -> None:
        await self._redis.delete(f"starling:stream:{{{channel}}}")

    async def expire_positions(self, channel: str) -> set[str]:
        await self._redis.delete(f"starling:meta:{{{channel}}}")
        return {channel}


class Flaky:
    """The way to a store: answers come late, and some do not come."""

    in_process = False

    def __init__(self, history: HistoryStore, chance: random.Random, failures: float) -> None:
        self._history = history
        self._chance = chance
        self.failures = failures
        self.reads = 0

    async def read(self, channel: str, **request: Any) -> StreamRead:
        self.reads += 1
        await self._wait()
        read = await self._history.read(channel, **request)
        await self._wait()
        return read

    async def positions(self, channels: Mapping[str, float]) -> dict[str, StreamPosition]:
        await self._wait()
        positions = await self._history.positions(channels)
        await self._wait()
        return positions

    async def remove(self, channel: str) -> None:
        await self._history.remove(channel)

    async def _wait(self) -> None:
        for _ in range(self._chance.randrange(4)):
            await asyncio.sleep(0)
        if self._chance.random() < self.failures:
            raise BrokerUnavailable("so the test wants it")


# The clients and the processes


class Client:
    """A client as the SDKs are: it knows where it stands, and returns from there."""

    def __init__(self, channel: str, truth: "Truth") -> None:
        self.channel = channel
        self.truth = truth
        self.process: Process | None = None
        self.subscribed = False
        self.busy = False
        self.since: StreamPosition | None = None
        self.latest = False
        self.start: object = None
        self.seen: list[int] = []

    @property
    def end(self) -> object:
        return self.seen[-1] if self.seen else self.start

    def reply(self, joined: Joined) -> bool:
        self.truth.subscriptions += 1
        publications = [int(bytes(publication.data)) for publication in joined.publications]
        if self.since is not None and not self.latest:
            self.truth.returns += 1
            self.truth.recovered += joined.recovered
        if joined.recovered and not self.latest:
            self.seen += publications
        else:
            self.truth.finish(self)
            self.start = self.truth.place(self.channel, joined.position)
            self.truth.cached(self.start, publications)
        self.since = joined.position
        self.subscribed = True
        return True

    def push(self, publication: Publication) -> None:
        assert self.since is not None
        self.seen.append(int(bytes(publication.data)))
        self.since = StreamPosition(publication.offset, self.since.epoch)

    def unsubscribe(self) -> None:
        self.truth.reported += 1
        self.subscribed = False


class Process:
    """What a worker does around its streams: subscriptions, the link, the hub."""

    def __init__(self, history: Flaky, stats: StreamStats, budget: int, size: int, recovery_limit: int) -> None:
        self.history = history
        self.size = size
        self.recovery_limit = recovery_limit
        self.stats = stats
        self.budget = MemoryBudget(budget)
        self.streams: dict[str, Stream[Client]] = {}
        self.live: dict[str, set[Client]] = {channel: set() for channel in CHANNELS}
        self.locks = {channel: asyncio.Lock() for channel in CHANNELS}
        self.link: deque[tuple[str, StreamEntry]] = deque()
        self.up = True
        self.dropping = 0

    # The link

    def receive(self, channel: str, entry: StreamEntry) -> None:
        if not self.up or channel not in self.streams:
            return
        if self.dropping:
            self.dropping -= 1
        else:
            self.link.append((channel, entry))

    def deliver(self, count: int) -> None:
        for _ in range(min(count, len(self.link))):
            channel, entry = self.link.popleft()
            if channel in self.streams:
                self.streams[channel].on(entry)

    def lose_link(self) -> None:
        self.up = False
        self.link.clear()

    async def find_link(self) -> None:
        self.up = True
        await self.check()

    async def check(self) -> None:
        while True:
            with contextlib.suppress(BrokerUnavailable):
                await check_positions(self.history, list(self.streams.values()), in_flight=0)
                return

    # The hub

    def broadcast(self, channel: str, entry: StreamEntry) -> None:
        for client in self.live[channel]:
            client.push(entry.publication)

    def enter(self, channel: str, subscriber: Client) -> None:
        self.live[channel].add(subscriber)

    def unsubscribe_all(self, channel: str) -> None:
        clients, self.live[channel] = self.live[channel], set()
        for client in clients:
            client.unsubscribe()

    # Coming and going

    async def join(self, client: Client) -> None:
        try:
            async with self.locks[client.channel]:
                stream = self.streams.get(client.channel) or await self.follow(client.channel)
            await stream.join(client, client.since, latest=client.latest)
        except BrokerUnavailable:
            pass
        finally:
            client.busy = False

    async def follow(self, channel: str) -> Stream[Client]:
        options = StreamOptions(self.size, META_TTL, self.recovery_limit)
        stream = Stream(channel, self.history, self, options, self.budget, self.stats)
        self.streams[channel] = stream
        try:
            await stream.start()
        except BrokerUnavailable:
            if self.streams.get(channel) is stream:
                del self.streams[channel]
            raise
        return stream

    async def leave(self, client: Client) -> None:
        client.subscribed = False
        self.live[client.channel].discard(client)
        if stream := self.streams.get(client.channel):
            stream.leave(client)
        async with self.locks[client.channel]:
            stream = self.streams.get(client.channel)
            if stream and stream.idle and not self.live[client.channel]:
                self.streams.pop(client.channel).close()

    def die(self) -> None:
        for stream in self.streams.values():
            stream.close()
        self.streams.clear()
        self.link.clear()
        for clients in self.live.values():
            clients.clear()


# The truth


class Truth:
    """What was published, in order, and what each client should have seen."""

    def __init__(self) -> None:
        self.chains: dict[str, list[int]] = {channel: [] for channel in CHANNELS}
        self.before: dict[int, object] = {}
        self.places: dict[tuple[str, str, int], int] = {}
        self.positions: dict[int, StreamPosition] = {}
        self.snapshot: dict[str, list[int]] = copy.deepcopy(self.chains)
        self.last = 0
        self.subscriptions = self.returns = self.recovered = self.reported = 0
        self.wrong: list[str] = []
        self._finished: list[tuple[object, list[int]]] = []
        self._cached: list[tuple[object, list[int]]] = []

    def place(self, channel: str, position: StreamPosition) -> object:
        """The publication that stands at `position`, looked up later, because its publisher may not know yet."""
        return (channel, position.epoch, position.offset)

    def published(self, channel: str, payload: int, position: StreamPosition) -> None:
        chain = self.chains[channel]
        place = (channel, position.epoch, position.offset)
        if place in self.places:
            self.wrong.append(f"offset given out twice: {place}")
        self.before[payload] = chain[-1] if chain else (channel, position.epoch, 0)
        self.places[place] = payload
        self.positions[payload] = position
        chain.append(payload)

    def finish(self, client: Client) -> None:
        self._finished.append((client.start, client.seen))
        client.start, client.seen = None, []

    def cached(self, start: object, publications: list[int]) -> None:
        self._cached.append((start, publications))

    def judge(self) -> None:
        """Look at all that clients saw; every publisher must have its answer."""
        for start, publications in self._cached:
            if publications and publications != [self._resolve(start)]:
                self.wrong.append(f"{publications} is not the latest publication at {start}")
        self._cached.clear()
        for start, seen in self._finished:
            self._judge_order(start, seen)
        self._finished.clear()

    def judge_client(self, client: Client, epoch: str) -> None:
        self._judge_order(client.start, client.seen)
        chain = self.chains[client.channel]
        top = chain[-1] if chain else (client.channel, epoch, 0)
        if self._resolve(client.end) != top:
            self.wrong.append(f"end {client.end} where the top is {top}, and not reported")

    def _judge_order(self, start: object, seen: list[int]) -> None:
        previous = self._resolve(start)
        for payload in seen:
            if payload not in self.before:
                self.wrong.append(f"{payload} was never published")
            elif self.before[payload] != previous:
                self.wrong.append(f"{payload} after {previous}, not after {self.before[payload]}")
            previous = payload

    def _resolve(self, place: object) -> object:
        return self.places.get(place, place) if isinstance(place, tuple) else place


Step = Callable[[], Awaitable[None]]


class Walk:
    """The walk itself. Publishing and harming the store take turns; all else overlaps as it likes."""

    def __init__(
        self, store: Store, reported: Reported, chance: random.Random, failures: float, *, harm: bool = True
    ) -> None:
        """`failures` is the share of reads that fail; with `harm` the store forgets, and goes back to what it was."""
        self.store = store
        self.chance = chance
        self.truth = Truth()
        self.stats = StreamStats()
        self.history = Flaky(store.history, chance, failures)
        self.failures = failures
        limit = 20 if harm else 10**6
        self.processes = [
            Process(self.history, self.stats, budget, store.size, limit) for budget in (10**9, 10**9, 6_000)
        ]
        reported.processes = self.processes
        self.clients: list[Client] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.keys: list[tuple[str, str, int]] = []
        self.steps: tuple[tuple[float, Step], ...] = (
            (40, self.publish),
            (40, self.deliver),
            (14, self.come),
            (14, self.reconnect),
            (6, self.move),
            (5, self.leave),
            (3, self.crowd),
            (3, self.repeat),
            (3, self.drop),
            (2, self.lose_link),
            (4, self.find_link),
            (1, self.check),
            (0.5, self.die),
        )
        if harm:
            self.steps += (
                (0.7, self.burst),
                (0.4, self.snapshot),
                (0.3, self.go_back),
                (0.2, self.expire_entries),
                (0.1, self.expire_positions),
                (0.12, self.begin_anew),
                (0.2, self.remove),
            )

    async def run(self, subscriptions: int) -> None:
        weights, steps = zip(*self.steps, strict=True)
        await self.store.take_snapshot()
        while self.truth.subscriptions < subscriptions:
            for step in self.chance.choices(steps, weights, k=150):
                await step()
                for _ in range(self.chance.randrange(3)):
                    await asyncio.sleep(0)
            await self.come_to_rest()
            assert not self.truth.wrong, self.truth.wrong[:5]
            if len(self.clients) > 150:
                self.clients = self.chance.sample(self.clients, 60)
                await self._keep_only_clients()

    def start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.truth.wrong.append(repr(task.exception()))

    def join(self, process: Process, client: Client) -> None:
        client.process = process
        client.busy = True
        self.start(process.join(client))

    async def _keep_only_clients(self) -> None:
        kept = set(self.clients)
        for process in self.processes:
            for client in [client for clients in process.live.values() for client in clients if client not in kept]:
                self.truth.finish(client)
                await process.leave(client)

    # Steps

    async def publish(self) -> None:
        channel = self.chance.choice(CHANNELS)
        key = ""
        if self.chance.random() < 0.2:
            key = f"key-{self.truth.last}"
            self.keys.append((channel, key, self.truth.last + 1))
        self.truth.last += 1
        payload = self.truth.last
        self.truth.published(channel, payload, await self.store.publish(channel, payload, key))

    async def repeat(self) -> None:
        """A publisher that did not learn the outcome tries again; the text differs, so that a double shows."""
        if not self.keys:
            return
        channel, key, payload = self.chance.choice(self.keys[-10:])
        self.truth.last += 1
        position = await self.store.publish(channel, self.truth.last, key)
        if position != self.truth.positions[payload]:
            if payload in self.truth.chains[channel]:
                self.truth.wrong.append(f"{payload} was published twice")
            self.truth.published(channel, self.truth.last, position)
            self.keys.remove((channel, key, payload))

    async def burst(self) -> None:
        for _ in range(self.chance.randrange(2 * SIZE)):
            await self.publish()

    async def deliver(self) -> None:
        self.chance.choice(self.processes).deliver(self.chance.randrange(1, 12))

    async def come(self) -> None:
        client = Client(self.chance.choice(CHANNELS), self.truth)
        client.latest = self.chance.random() < 0.1
        self.clients.append(client)
        self.join(self.chance.choice(self.processes), client)

    async def reconnect(self) -> None:
        away = [client for client in self.clients if not client.subscribed and not client.busy]
        if away:
            self.join(self.chance.choice(self.processes), self.chance.choice(away))

    async def crowd(self) -> None:
        """Many return at once, to one process."""
        process = self.chance.choice(self.processes)
        for client in self.clients:
            if not client.subscribed and not client.busy:
                self.join(process, client)

    async def leave(self) -> None:
        here = [client for client in self.clients if client.subscribed]
        if here:
            client = self.chance.choice(here)
            assert client.process is not None
            await client.process.leave(client)

    async def move(self) -> None:
        """Several lose their connection at once."""
        for _ in range(self.chance.randrange(6)):
            await self.leave()

    async def drop(self) -> None:
        self.chance.choice(self.processes).dropping = self.chance.randrange(1, 4)

    async def lose_link(self) -> None:
        self.chance.choice(self.processes).lose_link()

    async def find_link(self) -> None:
        process = self.chance.choice(self.processes)
        if not process.up:
            self.start(process.find_link())

    async def check(self) -> None:
        self.start(self.chance.choice(self.processes).check())

    async def die(self) -> None:
        process = self.chance.choice(self.processes)
        process.die()
        for client in self.clients:
            if client.process is process:
                client.subscribed = False

    async def snapshot(self) -> None:
        await self.store.take_snapshot()
        self.truth.snapshot = copy.deepcopy(self.truth.chains)

    async def go_back(self) -> None:
        """A restart from the snapshot; half of the processes lose their link by it, the others do not notice."""
        await self.store.settle()
        await self.store.go_back()
        self.truth.chains = copy.deepcopy(self.truth.snapshot)
        for process in self.processes:
            if self.chance.random() < 0.5:
                process.lose_link()

    async def expire_entries(self) -> None:
        await self.store.expire_entries(self.chance.choice(CHANNELS))
        self.keys.clear()

    async def expire_positions(self) -> None:
        for channel in await self.store.expire_positions(self.chance.choice(CHANNELS)):
            self.truth.chains[channel] = []
        self.keys.clear()

    async def begin_anew(self) -> None:
        """Lose the position twice, so that the same low offsets are given out in three epochs."""
        for _ in range(2):
            await self.expire_positions()
            for _ in range(self.chance.randrange(6)):
                await self.publish()

    async def remove(self) -> None:
        await self.store.history.remove(self.chance.choice(CHANNELS))

    # Rest

    async def come_to_rest(self) -> None:
        """Let everything heal and finish, then judge all clients."""
        self.history.failures = 0.0
        await self.store.settle()
        async with asyncio.timeout(60):
            for process in self.processes:
                process.up, process.dropping = True, 0
            await self._finish_tasks()
            for process in self.processes:
                await process.check()
            await self._finish_tasks()
        self.truth.judge()
        live = {client for process in self.processes for clients in process.live.values() for client in clients}
        tops = await self.store.history.positions(dict.fromkeys(CHANNELS, META_TTL))
        for client in self.clients:
            if client.subscribed:
                if client not in live:
                    self.truth.wrong.append("a client that is answered, not informed and not live")
                self.truth.judge_client(client, tops[client.channel].epoch)
            elif client in live:
                self.truth.wrong.append("a client that is live, though it left")
        self.history.failures = self.failures

    async def _finish_tasks(self) -> None:
        while True:
            for process in self.processes:
                process.deliver(len(process.link))
            streams = [stream for process in self.processes for stream in process.streams.values()]
            if not self.tasks and all(stream.following for stream in streams):
                return
            await asyncio.sleep(0.001)


# The tests


def report(walk: Walk, name: str) -> None:
    truth, stats = walk.truth, walk.stats
    print(
        f"\n{name}: {truth.subscriptions} subscriptions, {len(truth.before)} publications, {truth.recovered} of"
        f" {truth.returns} returns recovered, {truth.reported} notified, {stats.heals} heals, {stats.resets} resets,"
        f" {stats.join_reads} reads for joins, {len(truth.wrong)} wrong"
    )


def walk_over_memory(subscriptions: int, *, size: int, harm: bool) -> Walk:
    async def run() -> Walk:
        reported = Reported()
        walk = Walk(MemoryStore(reported, size), reported, random.Random(SEED), failures=0.01, harm=harm)
        await walk.run(subscriptions)
        return walk

    # In virtual time, where the walk is the same each time for a seed.
    walk = run_in_virtual_time(run())
    report(walk, "memory" if harm else "memory, unharmed")
    return walk


def test_no_subscriber_is_left_wrong_and_unreported_over_memory() -> None:
    truth = walk_over_memory(20_000, size=SIZE, harm=True).truth
    assert truth.wrong == []
    assert truth.recovered > truth.returns / 5
    assert truth.reported > 1_000


def test_while_the_store_holds_everything_every_return_recovers_and_nobody_is_notified_of_loss() -> None:
    truth = walk_over_memory(4_000, size=10**6, harm=False).truth
    assert truth.wrong == []
    assert truth.recovered == truth.returns > 1_000
    assert truth.reported == 0


@contextlib.asynccontextmanager
async def redis_store(server: RedisServer, reported: Reported) -> AsyncIterator[RedisStore]:
    redis = Redis.from_url(server.url, protocol=2)
    pubsub = redis.pubsub()
    await pubsub.psubscribe("starling:*")
    store = RedisStore(redis, reported)
    listening = asyncio.create_task(store.listen(pubsub))
    try:
        yield store
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await pubsub.aclose()  # type: ignore[no-untyped-call]
        await redis.aclose()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("subscriptions", [2_000, pytest.param(8_000, marks=pytest.mark.long)])
async def test_no_subscriber_is_left_wrong_and_unreported_over_redis(
    redis_server: RedisServer, subscriptions: int
) -> None:
    reported = Reported()
    async with redis_store(redis_server, reported) as store:
        walk = Walk(store, reported, random.Random(SEED), failures=0.0005)
        await walk.run(subscriptions)
    report(walk, "redis")
    assert walk.truth.wrong == []
    assert walk.truth.recovered > walk.truth.returns / 5
    assert walk.truth.reported > subscriptions / 20
