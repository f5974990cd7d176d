"""How clients come and go: what presence shows of it and what others got, over real presence stores.

The broker is a fake that records: a real one reports subscribers only, and never says that nothing was notified. That
both work together, over one Redis and two processes, is the last test.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis.asyncio
import structlog
from msgspec import Raw

from starling.brokers.memory.presence import MemoryPresence
from starling.brokers.open import open_broker
from starling.engine import presence_tracker as module
from starling.engine.broker import (
    BrokerEvents,
    BrokerUnavailable,
    PublicationTooLarge,
    PublishOptions,
    PublishOutcome,
    PublishRequest,
    StreamPosition,
)
from starling.engine.channels import ChannelOptions
from starling.engine.presence import PresenceCounts, PresenceStore
from starling.engine.presence_tracker import PresenceTracker
from starling.protocol.messages import ClientInfo, Publication
from tests.brokers.party import Party
from tests.support.services import RedisServer
from tests.support.waiting import DEADLINE, until

CHANNEL = "room:ü"
BOTH = ChannelOptions(presence=True, join_leave=True)
SHOWN = ChannelOptions(presence=True)
ANNOUNCED = ChannelOptions(join_leave=True)
NEITHER = ChannelOptions()
# Long enough for the test to do its next step in it, however busy the machine.
DELAY = 1.0
NEVER = 3600.0

Reported = list[tuple[str, str, str]]
Worker = Callable[..., PresenceTracker]


def someone(client: str, user: str = "") -> ClientInfo:
    return ClientInfo(user, client, Raw(b'{"n":1}'))


class RecordingBroker:
    """Keeps what is published as notification: `reported` holds (join or leave, channel, client)."""

    def __init__(self) -> None:
        self.reported: Reported = []
        self.failure: Exception | None = None

    async def publish_join(self, channel: str, info: ClientInfo) -> None:
        await self._note("join", channel, info)

    async def publish_leave(self, channel: str, info: ClientInfo) -> None:
        await self._note("leave", channel, info)

    async def _note(self, what: str, channel: str, info: ClientInfo) -> None:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.reported.append((what, channel, info.client))

    def of(self, channel: str = CHANNEL) -> list[str]:
        return [f"{what} {client}" for what, name, client in self.reported if name == channel]

    async def start(self, events: BrokerEvents) -> None:
        raise AssertionError("attendance does not start brokers")

    async def stop(self) -> None:
        raise AssertionError("attendance does not stop brokers")

    async def subscribe(self, channel: str) -> None:
        raise AssertionError("attendance does not subscribe")

    def subscribe_now(self, channel: str) -> bool:
        raise AssertionError("attendance does not subscribe")

    async def unsubscribe(self, channel: str) -> None:
        raise AssertionError("attendance does not unsubscribe")

    def begin_publish(
        self, channel: str, publication: Publication, options: PublishOptions, done: Callable[[PublishOutcome], None]
    ) -> PublishOutcome | None:
        raise AssertionError("attendance publishes joins and leaves only")

    def begin_publish_all(
        self, requests: Sequence[PublishRequest], done: Callable[[list[PublishOutcome]], None]
    ) -> list[PublishOutcome] | None:
        raise AssertionError("presence publishes joins and leaves only")

    async def publish_all(self, requests: Sequence[PublishRequest]) -> list[PublishOutcome]:
        raise AssertionError("attendance publishes joins and leaves only")

    async def publish(self, channel: str, publication: Publication, options: PublishOptions) -> StreamPosition:
        raise AssertionError("attendance does not publish")


class Clock:
    """Time that the test moves on."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class SwitchedPresence(MemoryPresence):
    """A real store that can be away from one call to the next, which a Redis cannot be so exactly."""

    away = False

    async def add(self, channel: str, info: ClientInfo) -> bool:
        self._answer()
        return await super().add(channel, info)

    async def enter(self, channel: str, info: ClientInfo, most: int) -> bool:
        self._answer()
        return await super().enter(channel, info, most)

    async def refresh(self, entries: Mapping[str, Collection[ClientInfo]]) -> None:
        self._answer()
        await super().refresh(entries)

    async def remove(self, entries: Mapping[str, Collection[ClientInfo]]) -> dict[str, set[str]]:
        self._answer()
        return await super().remove(entries)

    def _answer(self) -> None:
        if self.away:
            raise BrokerUnavailable("switched off")


class SlowPresence(MemoryPresence):
    """A real store whose `slow` call takes its time until requested to go on."""

    def __init__(self, slow: str) -> None:
        super().__init__()
        self.slow = slow
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def refresh(self, entries: Mapping[str, Collection[ClientInfo]]) -> None:
        await self._take_time("refresh")
        await super().refresh(entries)

    async def remove(self, entries: Mapping[str, Collection[ClientInfo]]) -> dict[str, set[str]]:
        await self._take_time("remove")
        return await super().remove(entries)

    async def _take_time(self, call: str) -> None:
        if call == self.slow:
            self.asked.set()
            await self.go_on.wait()


class Tasks:
    """What a node does for the tasks of its parts."""

    def __init__(self) -> None:
        self.running: set[asyncio.Task[None]] = set()
        self.started = 0

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.started += 1
        self.running.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.running.discard(task)
        if not task.cancelled() and (error := task.exception()):
            raise error

    async def finish(self) -> None:
        """Wait until nothing is under way."""
        async with asyncio.timeout(DEADLINE):
            while self.running:
                await asyncio.wait(tuple(self.running))


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    tasks = Tasks()
    yield tasks
    await tasks.finish()


@pytest.fixture
def broker() -> RecordingBroker:
    return RecordingBroker()


@pytest.fixture
async def redis_party(redis_server: RedisServer) -> AsyncIterator[Party]:
    party = Party(open_broker(redis_server.url, timeout=DEADLINE))
    await party.broker.start(party)
    await until(lambda: party.up, "the link comes up")
    yield party
    await party.broker.stop()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.processes)])
def presence(request: pytest.FixtureRequest) -> PresenceStore:
    if request.param == "memory":
        return MemoryPresence()
    party: Party = request.getfixturevalue("redis_party")
    assert party.broker.presence is not None
    return party.broker.presence


@pytest.fixture
def worker(broker: RecordingBroker, tasks: Tasks) -> Worker:
    """`worker(presence)` is what one process has; several may share a store."""

    def made(presence: PresenceStore | None, *, leave_delay: float = 0.0) -> PresenceTracker:
        return PresenceTracker(presence, broker, start_task=tasks.start, leave_delay=leave_delay)

    return made


async def enter(
    presence_tracker: PresenceTracker, info: ClientInfo, options: ChannelOptions = BOTH, at: str = CHANNEL
) -> None:
    await presence_tracker.arrive(at, info, options)
    presence_tracker.announce(at, info.client)


async def holds(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    end = asyncio.get_running_loop().time() + 20
    while not await condition():
        assert asyncio.get_running_loop().time() < end, f"waited 20 s in vain: {what}"
        await asyncio.sleep(0.02)


# One by one


async def test_who_arrives_is_shown_before_others_are_notified(
    presence: PresenceStore, worker: Worker, broker: RecordingBroker, tasks: Tasks
) -> None:
    presence_tracker, ann = worker(presence), someone("c1", "ann")
    await presence_tracker.arrive(CHANNEL, ann, BOTH)
    assert await presence.get(CHANNEL) == {"c1": ann}
    await tasks.finish()
    assert broker.reported == []
    presence_tracker.announce(CHANNEL, "c1")
    await tasks.finish()
    assert broker.reported == [("join", CHANNEL, "c1")]


async def test_who_departs_is_shown_no_more_and_others_are_notified(
    presence: PresenceStore, worker: Worker, broker: RecordingBroker, tasks: Tasks
) -> None:
    presence_tracker = worker(presence)
    await enter(presence_tracker, someone("c1", "ann"))
    await enter(presence_tracker, someone("c2", "ann"))
    presence_tracker.depart(CHANNEL, "c1")
    await tasks.finish()
    assert set(await presence.get(CHANNEL)) == {"c2"}
    assert broker.of() == ["join c1", "join c2", "leave c1"]


async def test_where_a_limited_number_may_be_nobody_is_notified_and_who_departs_makes_room_at_once(
    presence: PresenceStore, worker: Worker, broker: RecordingBroker, tasks: Tasks
) -> None:
    one, other = worker(presence, leave_delay=NEVER), worker(presence, leave_delay=NEVER)
    assert await one.enter(CHANNEL, someone("c1", "ann"), 2)
    assert await other.enter(CHANNEL, someone("c2", "ann"), 2)
    assert not await one.enter(CHANNEL, someone("c3", "ann"), 2)
    one.depart(CHANNEL, "c3")
    await tasks.finish()
    assert set(await presence.get(CHANNEL)) == {"c1", "c2"}

    other.depart(CHANNEL, "c2")
    await tasks.finish()
    assert await one.enter(CHANNEL, someone("c3", "ann"), 2)
    await one.close()
    assert await presence.get(CHANNEL) == {}
    assert broker.reported == []


async def test_while_the_broker_is_away_everyone_may_enter_and_a_refresh_makes_it_good(worker: Worker) -> None:
    presence = SwitchedPresence()
    presence_tracker = worker(presence)
    presence.away = True
    assert await presence_tracker.enter(CHANNEL, someone("c1", "ann"), 1)
    presence.away = False
    await presence_tracker.refresh()
    assert set(await presence.get(CHANNEL)) == {"c1"}
    assert not await presence_tracker.enter(CHANNEL, someone("c2", "ann"), 1)


async def test_without_a_store_everyone_may_enter(worker: Worker) -> None:
    presence_tracker = worker(None)
    assert await presence_tracker.enter(CHANNEL, someone("c1", "ann"), 1)
    assert await presence_tracker.enter(CHANNEL, someone("c2", "ann"), 1)


async def test_each_is_reported_once_and_only_who_came(
    presence: PresenceStore, worker: Worker, broker: RecordingBroker, tasks: Tasks
) -> None:
    presence_tracker = worker(presence)
    presence_tracker.announce(CHANNEL, "c1")
    presence_tracker.depart(CHANNEL, "c1")
    await enter(presence_tracker, someone("c1", "ann"))
    presence_tracker.announce(CHANNEL, "c1")
    presence_tracker.announce("elsewhere", "c1")
    presence_tracker.depart("elsewhere", "c1")
    for _ in range(3):
        presence_tracker.depart(CHANNEL, "c1")
    presence_tracker.announce(CHANNEL, "c1")
    await tasks.finish()
    presence_tracker.depart(CHANNEL, "c1")
    await tasks.finish()
    assert broker.reported == [("join", CHANNEL, "c1"), ("leave", CHANNEL, "c1")]


@pytest.mark.parametrize("leave_delay", [0.0, NEVER])
async def test_who_did_not_come_in_after_all_is_taken_out_and_not_spoken_of(
    presence: PresenceStore, worker: Worker, broker: RecordingBroker, tasks: Tasks, leave_delay: float
) -> None:
    presence_tracker = worker(presence, leave_delay=leave_delay)
    await presence_tracker.arrive(CHANNEL, someone("c1", "ann"), BOTH)
    presence_tracker.depart(CHANNEL, "c1")
    await tasks.finish()
    assert await presence.get(CHANNEL) == {}
    assert broker.reported == []


async def test_the_channels_options_say_what_is_shown_and_reported(
    presence: PresenceStore, worker: Worker, broker: RecordingBroker, tasks: Tasks
) -> None:
    presence_tracker, ann = worker(presence), someone("c1", "ann")
    for channel, options in {"shown": SHOWN, "announced": ANNOUNCED, "neither": NEITHER}.items():
        await enter(presence_tracker, ann, options, channel)
    await tasks.finish()
    assert broker.reported == [("join", "announced", "c1")]
    shown = {channel: set(await presence.get(channel)) for channel in ("shown", "announced", "neither")}
    assert shown == {"shown": {"c1"}, "announced": set(), "neither": set()}
    for channel in shown:
        presence_tracker.depart(channel, "c1")
    await tasks.finish()
    assert broker.reported == [("join", "announced", "c1"), ("leave", "announced", "c1")]
    assert await presence.get("shown") == {}


@pytest.mark.parametrize("leave_delay", [0.0, NEVER])
async def test_without_a_store_clients_are_announced_one_by_one_and_at_once(
    worker: Worker, broker: RecordingBroker, tasks: Tasks, leave_delay: float
) -> None:
    presence_tracker = worker(None, leave_delay=leave_delay)
    await enter(presence_tracker, someone("c1", "ann"), ANNOUNCED)
    await enter(presence_tracker, someone("c2", "ann"), ANNOUNCED)
    presence_tracker.depart(CHANNEL, "c1")
    await tasks.finish()
    await presence_tracker.refresh()
    presence_tracker.depart(CHANNEL, "c2")
    await tasks.finish()
    assert broker.of() == ["join c1", "join c2", "leave c1", "leave c2"]


async def test_a_client_that_leaves_and_returns_at_once_is_reported_in_that_order_and_shown(
    presence: PresenceStore, worker: Worker, broker: RecordingBroker, tasks: Tasks
) -> None:
    presence_tracker, ann = worker(presence), someone("c1", "ann")
    await enter(presence_tracker, ann)
    for _ in range(20):
        presence_tracker.depart(CHANNEL, "c1")
        await enter(presence_tracker, ann)
    await tasks.finish()
    assert broker.of() == ["join c1"] + ["leave c1", "join c1"] * 20
    assert await presence.stats(CHANNEL) == PresenceCounts(1, 1)


async def test_thousands_who_depart_at_once_are_all_reported(
    presence: PresenceStore, worker: Worker, broker: RecordingBroker, tasks: Tasks
) -> None:
    presence_tracker = worker(presence)
    names = [(f"room:{number % 700}", f"c{number}") for number in range(5000)]
    await asyncio.gather(*(enter(presence_tracker, someone(client, "u"), BOTH, at) for at, client in names))
    await tasks.finish()
    before = tasks.started
    for at, client in names:
        presence_tracker.depart(at, client)
    assert tasks.started - before == 1
    await tasks.finish()
    assert {(at, client) for what, at, client in broker.reported if what == "leave"} == set(names)
    assert len(broker.reported) == 2 * len(names)
    assert {(await presence.stats(f"room:{number}")).num_clients for number in range(700)} == {0}


# User by user, after a delay


async def test_with_a_delay_only_a_users_first_client_and_last_are_reported(
    presence: PresenceStore, worker: Worker, broker: RecordingBroker, tasks: Tasks
) -> None:
    here, there = worker(presence, leave_delay=0.05), worker(presence, leave_delay=0.05)
    await enter(here, someone("tab1", "ann"))
    await enter(here, someone("tab2", "ann"))
    await enter(there, someone("tab3", "ann"))
    here.depart(CHANNEL, "tab1")
    there.depart(CHANNEL, "tab3")

    async def one_left() -> bool:
        return set(await presence.get(CHANNEL)) == {"tab2"}

    await holds(one_left, "two are taken out")
    await tasks.finish()
    assert broker.of() == ["join tab1"]
    here.depart(CHANNEL, "tab2")
    await until(lambda: len(broker.reported) == 2, "the leave is reported")
    assert broker.of() == ["join tab1", "leave tab2"]
    assert await presence.get(CHANNEL) == {}


async def test_with_a_delay_a_page_reload_shows_nothing(
    presence: PresenceStore, worker: Worker, broker: RecordingBroker, tasks: Tasks
) -> None:
    here, there = worker(presence, leave_delay=DELAY), worker(presence, leave_delay=DELAY)
    await enter(here, someone("before", "ann"))
    here.depart(CHANNEL, "before")
    assert await presence.stats(CHANNEL) == PresenceCounts(1, 1)
    await enter(there, someone("after", "ann"))

    async def reloaded() -> bool:
        return set(await presence.get(CHANNEL)) == {"after"}

    await holds(reloaded, "the client of before is taken out")
    await tasks.finish()
    assert broker.of() == ["join before"]


async def test_with_a_delay_a_client_that_returns_shows_nothing(
    presence: PresenceStore, worker: Worker, broker: RecordingBroker, tasks: Tasks
) -> None:
    presence_tracker = worker(presence, leave_delay=0.5)
    await enter(presence_tracker, someone("c1", "ann"))
    presence_tracker.depart(CHANNEL, "c1")
    await enter(presence_tracker, someone("c1", "ann"))
    # Departs after c1 did, so that the delay of c1 is over when this one is gone.
    await enter(presence_tracker, someone("c2", "bob"))
    presence_tracker.depart(CHANNEL, "c2")
    await until(lambda: "leave c2" in broker.of(), "the other's leave is reported")
    assert broker.of() == ["join c1", "join c2", "leave c2"]
    assert set(await presence.get(CHANNEL)) == {"c1"}
    presence_tracker.depart(CHANNEL, "c1")
    await until(lambda: "leave c1" in broker.of(), "the leave is reported")


async def test_with_a_delay_who_departs_stays_shown_and_refreshed_until_it_is_over(
    worker: Worker, broker: RecordingBroker, tasks: Tasks
) -> None:
    clock = Clock()
    presence = MemoryPresence(60, clock)
    presence_tracker = worker(presence, leave_delay=NEVER)
    await enter(presence_tracker, someone("c1", "ann"))
    presence_tracker.depart(CHANNEL, "c1")
    for _ in range(3):
        clock.now += 40
        await presence_tracker.refresh()
    await tasks.finish()
    assert set(await presence.get(CHANNEL)) == {"c1"}
    assert broker.of() == ["join c1"]
    await presence_tracker.close()
    assert broker.of() == ["join c1", "leave c1"]


async def test_with_a_delay_a_user_whose_clients_go_together_is_reported_once(
    presence: PresenceStore, worker: Worker, broker: RecordingBroker
) -> None:
    presence_tracker = worker(presence, leave_delay=NEVER)
    for number in range(5):
        await enter(presence_tracker, someone(f"tab{number}", "ann"))
        await enter(presence_tracker, someone(f"tab{number}", "ann"), at="other")
    await presence_tracker.close()
    leaves = [(what, channel) for what, channel, _ in broker.reported if what == "leave"]
    assert sorted(leaves) == [("leave", "other"), ("leave", CHANNEL)]


async def test_with_a_delay_anonymous_clients_are_announced_one_by_one_and_at_once(
    presence: PresenceStore, worker: Worker, broker: RecordingBroker, tasks: Tasks
) -> None:
    presence_tracker = worker(presence, leave_delay=NEVER)
    await enter(presence_tracker, someone("c1"))
    await enter(presence_tracker, someone("c2"))
    presence_tracker.depart(CHANNEL, "c1")
    await tasks.finish()
    assert broker.of() == ["join c1", "join c2", "leave c1"]
    assert set(await presence.get(CHANNEL)) == {"c2"}


async def test_with_a_delay_users_are_counted_where_presence_is_not_shown_too(
    presence: PresenceStore, worker: Worker, broker: RecordingBroker, tasks: Tasks
) -> None:
    here, there = worker(presence, leave_delay=0.05), worker(presence, leave_delay=0.05)
    await enter(here, someone("c1", "ann"), ANNOUNCED)
    await enter(there, someone("c2", "ann"), ANNOUNCED)
    here.depart(CHANNEL, "c1")

    async def one_left() -> bool:
        return (await presence.stats(CHANNEL)).num_clients == 1

    await holds(one_left, "the first is taken out")
    there.depart(CHANNEL, "c2")
    await until(lambda: len(broker.reported) == 2, "the leave is reported")
    assert broker.of() == ["join c1", "leave c2"]


async def test_with_a_delay_a_leave_is_reported_though_the_last_client_was_never_announced(
    presence: PresenceStore, worker: Worker, broker: RecordingBroker, tasks: Tasks
) -> None:
    presence_tracker = worker(presence, leave_delay=0.05)
    await enter(presence_tracker, someone("c1", "ann"))
    await presence_tracker.arrive(CHANNEL, someone("c2", "ann"), BOTH)
    presence_tracker.depart(CHANNEL, "c1")

    async def one_left() -> bool:
        return set(await presence.get(CHANNEL)) == {"c2"}

    await holds(one_left, "the first is taken out")
    presence_tracker.depart(CHANNEL, "c2")
    await tasks.finish()
    assert broker.of() == ["join c1", "leave c2"]


# Keeping alive, and crashes


async def test_a_refresh_keeps_who_is_here_and_a_crashed_process_leaves_nobody(worker: Worker, tasks: Tasks) -> None:
    clock = Clock()
    presence = MemoryPresence(60, clock)
    living, crashed = worker(presence), worker(presence)
    await enter(living, someone("c1", "ann"), SHOWN)
    await enter(living, someone("c2", "ann"), SHOWN)
    await enter(crashed, someone("c3", "bob"), SHOWN)
    living.depart(CHANNEL, "c2")
    await tasks.finish()
    for _ in range(4):
        clock.now += 20
        await living.refresh()
    assert set(await presence.get(CHANNEL)) == {"c1"}


async def test_a_refresh_brings_back_what_the_store_lost(
    redis_party: Party, redis_server: RedisServer, worker: Worker
) -> None:
    presence = redis_party.broker.presence
    assert presence is not None
    presence_tracker = worker(presence)
    infos = {f"c{number}": someone(f"c{number}", f"u{number % 1000}") for number in range(2500)}
    await asyncio.gather(*(enter(presence_tracker, info, SHOWN) for info in infos.values()))
    async with redis.asyncio.from_url(redis_server.url) as client:
        await client.flushall()
    assert await presence.get(CHANNEL) == {}
    await presence_tracker.refresh()
    assert await presence.get(CHANNEL) == infos
    assert await presence.stats(CHANNEL) == PresenceCounts(2500, 1000)


async def test_a_refresh_does_not_bring_back_who_is_leaving(
    presence: PresenceStore, worker: Worker, broker: RecordingBroker, tasks: Tasks
) -> None:
    presence_tracker = worker(presence)
    await asyncio.gather(*(enter(presence_tracker, someone(f"c{number}", "u")) for number in range(3000)))
    await tasks.finish()
    refreshing = asyncio.create_task(presence_tracker.refresh())
    for number in range(3000):
        presence_tracker.depart(CHANNEL, f"c{number}")
        if number % 100 == 0:
            await asyncio.sleep(0)
    await refreshing
    await presence_tracker.refresh()
    await tasks.finish()
    assert await presence.get(CHANNEL) == {}
    assert broker.of().count("leave c2999") == 1


async def test_what_a_refresh_has_under_way_does_not_bring_back_who_leaves_meanwhile(
    worker: Worker, tasks: Tasks
) -> None:
    presence = SlowPresence("refresh")
    presence_tracker = worker(presence)
    await enter(presence_tracker, someone("c1", "ann"))
    refreshing = asyncio.create_task(presence_tracker.refresh())
    await presence.asked.wait()
    presence_tracker.depart(CHANNEL, "c1")
    # As many turns as the departure needs to reach the store, if nothing held it.
    for _ in range(10):
        await asyncio.sleep(0)
    presence.go_on.set()
    await refreshing
    await tasks.finish()
    assert await presence.get(CHANNEL) == {}


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_after_any_coming_and_going_presence_and_what_was_reported_are_true(
    presence: PresenceStore, worker: Worker, broker: RecordingBroker, tasks: Tasks, seed: int
) -> None:
    chance = random.Random(seed)
    workers = [worker(presence), worker(presence)]
    truth: dict[tuple[str, str], ClientInfo] = {}
    moves: set[asyncio.Task[None]] = set()
    busy: set[tuple[str, str]] = set()

    async def move(place: PresenceTracker, channel: str, info: ClientInfo) -> None:
        key = channel, info.client
        if key in truth:
            del truth[key]
            place.depart(channel, info.client)
        else:
            await place.arrive(channel, info, BOTH)
            if chance.random() < 0.8:
                place.announce(channel, info.client)
                truth[key] = info
            else:
                place.depart(channel, info.client)
        busy.discard(key)

    for _ in range(1500):
        number = chance.randrange(40)
        place, channel = workers[number % 2], chance.choice(["a", "b"])
        info = someone(f"c{number}", f"u{number % 7}")
        if (channel, info.client) not in busy:
            busy.add((channel, info.client))
            task = asyncio.create_task(move(place, channel, info))
            moves.add(task)
            task.add_done_callback(moves.discard)
        if chance.random() < 0.05:
            await chance.choice(workers).refresh()
        if chance.random() < 0.3:
            await asyncio.sleep(0)
    await asyncio.gather(*moves)
    await tasks.finish()
    for channel in ("a", "b"):
        here = {client: info for (name, client), info in truth.items() if name == channel}
        assert await presence.get(channel) == here
        assert await presence.stats(channel) == PresenceCounts(len(here), len({info.user for info in here.values()}))
        for number in range(40):
            client = f"c{number}"
            received = [what for what, name, who in broker.reported if (name, who) == (channel, client)]
            assert received == (["join", "leave"] * len(received))[: len(received)]
            assert len(received) % 2 == (client in here)


# A process that ends


@pytest.mark.parametrize("leave_delay", [0.0, NEVER])
async def test_closing_takes_everyone_out_at_once_and_reports_it(
    presence: PresenceStore,
    worker: Worker,
    broker: RecordingBroker,
    tasks: Tasks,
    leave_delay: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_CLOSE_SECONDS", DEADLINE)
    ending, staying = worker(presence, leave_delay=leave_delay), worker(presence, leave_delay=leave_delay)
    for number in range(2500):
        await enter(ending, someone(f"c{number}", f"u{number}"))
    await enter(staying, someone("tab2", "u7"))
    ending.depart(CHANNEL, "c1")
    await tasks.finish()
    await ending.close()
    assert set(await presence.get(CHANNEL)) == {"tab2"}
    expected = {f"leave c{number}" for number in range(2500)}
    if leave_delay:
        expected.remove("leave c7")
    assert {reported for reported in broker.of() if reported.startswith("leave")} == expected
    assert len(broker.of()) == 2500 + (0 if leave_delay else 1) + len(expected)
    await ending.close()
    assert len(broker.of()) == 2500 + (0 if leave_delay else 1) + len(expected)


async def test_closing_finishes_what_a_cancelled_task_had_begun(
    presence: PresenceStore, worker: Worker, broker: RecordingBroker, tasks: Tasks
) -> None:
    presence_tracker = worker(presence)
    for number in range(50):
        await enter(presence_tracker, someone(f"c{number}", "u"))
    await tasks.finish()
    for number in range(50):
        presence_tracker.depart(CHANNEL, f"c{number}")
    await asyncio.sleep(0)
    for task in tasks.running:
        task.cancel()
    await tasks.finish()
    await presence_tracker.close()
    assert await presence.get(CHANNEL) == {}
    assert {reported for reported in broker.of() if "leave" in reported} == {f"leave c{number}" for number in range(50)}


async def test_closing_does_not_wait_for_a_redis_that_stands_still(
    redis_party: Party, redis_server: RedisServer, worker: Worker
) -> None:
    assert redis_party.broker.presence is not None
    presence_tracker = worker(redis_party.broker.presence)
    await asyncio.gather(*(enter(presence_tracker, someone(f"c{number}", "u"), SHOWN) for number in range(2000)))
    redis_server.freeze()
    with structlog.testing.capture_logs() as logs:
        async with asyncio.timeout(DEADLINE):
            await presence_tracker.close()
    redis_server.thaw()
    (line,) = [line for line in logs if line["event"] == "presence_left_behind"]
    assert line["entries"] == 2000


async def test_closing_takes_only_so_long_whatever_the_store_does(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CLOSE_SECONDS", 0.1)
    presence_tracker = worker(SlowPresence("remove"))
    await enter(presence_tracker, someone("c1", "ann"))
    with structlog.testing.capture_logs() as logs:
        async with asyncio.timeout(DEADLINE):
            await presence_tracker.close()
    assert [line["event"] for line in logs] == ["presence_close_cut_short", "presence_left_behind"]


# Outages


async def test_an_outage_fails_nobody_and_is_made_good(
    redis_party: Party, redis_server: RedisServer, worker: Worker, broker: RecordingBroker, tasks: Tasks
) -> None:
    presence = redis_party.broker.presence
    assert presence is not None
    presence_tracker = worker(presence)
    await enter(presence_tracker, someone("c1", "ann"))
    await enter(presence_tracker, someone("c2", "bob"))
    redis_server.stop()
    async with asyncio.timeout(DEADLINE):
        await enter(presence_tracker, someone("c3", "cid"))
    presence_tracker.depart(CHANNEL, "c2")
    await tasks.finish()
    await presence_tracker.refresh()
    assert "leave c2" not in broker.of()
    # It returns empty: nothing of it was saved.
    redis_server.start()
    await until(lambda: redis_party.up, "the link returns")

    async def good() -> bool:
        await presence_tracker.refresh()
        await tasks.finish()
        return "leave c2" in broker.of()

    await holds(good, "the departure is made good")
    assert set(await presence.get(CHANNEL)) == {"c1", "c3"}
    assert broker.of() == ["join c1", "join c2", "join c3", "leave c2"]


async def test_an_outage_is_logged_when_it_begins_and_when_it_is_made_good(worker: Worker, tasks: Tasks) -> None:
    presence = SwitchedPresence()
    presence_tracker = worker(presence)
    await enter(presence_tracker, someone("c0", "ann"))
    presence.away = True
    with structlog.testing.capture_logs() as logs:
        for number in range(1, 5):
            await enter(presence_tracker, someone(f"c{number}", "ann"))
            presence_tracker.depart(CHANNEL, f"c{number}")
            await tasks.finish()
            await presence_tracker.refresh()
        presence.away = False
        await presence_tracker.refresh()
        await tasks.finish()
        await presence_tracker.refresh()
    assert [line["event"] for line in logs] == ["presence_not_kept", "presence_made_good"]
    assert logs[0]["reason"] == "switched off"
    assert logs[1] == {"event": "presence_made_good", "log_level": "info", "entries": 1, "departures": 4}
    assert set(await presence.get(CHANNEL)) == {"c0"}


async def test_a_client_that_returns_in_an_outage_is_not_taken_out_after_it(
    worker: Worker, broker: RecordingBroker, tasks: Tasks
) -> None:
    presence = SwitchedPresence()
    presence_tracker = worker(presence)
    await enter(presence_tracker, someone("c1", "ann"))
    presence.away = True
    presence_tracker.depart(CHANNEL, "c1")
    await tasks.finish()
    await enter(presence_tracker, someone("c1", "ann"))
    presence.away = False
    await presence_tracker.refresh()
    await tasks.finish()
    assert set(await presence.get(CHANNEL)) == {"c1"}
    assert "leave c1" not in broker.of()


async def test_what_waits_for_the_end_of_an_outage_is_bounded(
    worker: Worker, broker: RecordingBroker, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_UNDONE_LIMIT", 3)
    presence = SwitchedPresence()
    presence_tracker = worker(presence)
    presence.away = True
    with structlog.testing.capture_logs() as logs:
        for number in range(5):
            await enter(presence_tracker, someone(f"c{number}", "ann"))
            presence_tracker.depart(CHANNEL, f"c{number}")
            await presence_tracker.arrive(CHANNEL, someone(f"refused{number}", "ann"), BOTH)
            presence_tracker.depart(CHANNEL, f"refused{number}")
            await tasks.finish()
    assert sum(line["leaves"] for line in logs if line["event"] == "leaves_given_up") == 2
    assert len(presence_tracker._leaving) == 3
    presence.away = False
    await presence_tracker.refresh()
    await tasks.finish()
    assert [reported for reported in broker.of() if "leave" in reported] == ["leave c2", "leave c3", "leave c4"]


async def test_a_join_that_cannot_be_reported_harms_nobody(
    presence: PresenceStore, worker: Worker, broker: RecordingBroker, tasks: Tasks
) -> None:
    presence_tracker = worker(presence)
    for failure in (BrokerUnavailable("away"), PublicationTooLarge("at most 8000 bytes")):
        broker.failure = failure
        with structlog.testing.capture_logs() as logs:
            await enter(presence_tracker, someone("c1", "ann"))
            await tasks.finish()
            presence_tracker.depart(CHANNEL, "c1")
            await tasks.finish()
        assert str(failure) in {line["reason"] for line in logs}
        assert await presence.get(CHANNEL) == {}
    broker.failure = None
    await enter(presence_tracker, someone("c1", "ann"))
    await tasks.finish()
    assert broker.of() == ["join c1"]


# With a real broker


async def test_over_redis_another_process_sees_and_receives_who_comes_and_goes(
    redis_server: RedisServer, tasks: Tasks
) -> None:
    async with AsyncExitStack() as stack:
        parties = []
        for _ in range(2):
            party = Party(open_broker(redis_server.url, timeout=DEADLINE))
            await party.broker.start(party)
            stack.push_async_callback(party.broker.stop)
            await party.broker.subscribe(CHANNEL)
            parties.append(party)
        here, there = parties
        presence_tracker = PresenceTracker(here.broker.presence, here.broker, start_task=tasks.start, leave_delay=0.2)
        ann = someone("c1", "ann")
        await enter(presence_tracker, ann)
        await until(lambda: there.joins and here.joins, "the join is heard")
        assert there.joins == here.joins == [(CHANNEL, ann)]
        assert there.broker.presence is not None
        assert await there.broker.presence.get(CHANNEL) == {"c1": ann}
        presence_tracker.depart(CHANNEL, "c1")
        await until(lambda: there.leaves and here.leaves, "the leave is heard")
        assert there.leaves == here.leaves == [(CHANNEL, ann)]
        assert await there.broker.presence.get(CHANNEL) == {}
        await tasks.finish()
