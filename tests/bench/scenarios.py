"""What is measured: each scenario drives one server for one round and notes its numbers."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tests.bench.load_generator import LoadFailedError, LoadGenerator, Window
from tests.bench.results import Results, Series
from tests.bench.servers import Room, Running, Server

RATE = "deliveries per CPU-second"
GENERATOR = "generator busy, %"
P50, P99 = "p50, ms", "p99, ms"
KIB = "KiB per connection"
CONNECTS = "connects per CPU-second"
PER_SECOND = "per second"
RETURNS = "clients per CPU-second"
SECONDS = "seconds until all are back"

ALL_AT_ONCE = 1000
MEMORY_BASE = 100
LARGE = 16_000  # bytes: a slow reader's buffers must fill
MISSED_SIZE = 230  # bytes
FLOOD = 400  # messages of that size: more than a kernel keeps for one socket


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a run is: `counts` of receivers, `sizes` in bytes, `seconds` of a window, and `many` connections."""

    counts: tuple[int, ...] = (100, 1_000, 5_000, 10_000)
    sizes: tuple[int, ...] = (128, 1_024)
    seconds: float = 1.0
    receivers: int = 1_000
    """Of bursts, latencies and slow readers."""
    idle: int = 5_000
    channels: int = 10_000
    returning: int = 5_000
    missed: int = 100
    storm: int = 15_000
    """Clients that return at once."""
    storm_missed: int = 50
    settle: float = 3.0
    """Seconds before memory is read."""


@dataclass(slots=True)
class Task:
    """One server's part of one round."""

    server: Server
    round: int
    room: Room
    scale: Scale
    wanted: frozenset[str]
    """Names of the scenarios that were asked for."""
    results: Results
    scenario: str

    def note(self, case: str, measure: str, value: float, scenario: str = "") -> None:
        """Note a number."""
        self.results.add(Series(scenario or self.scenario, self.server.name, case, measure), self.round, value)

    def note_window(self, case: str, window: Window, scenario: str = "") -> None:
        """Note a window's deliveries per CPU second, and how busy the generator was."""
        self.note(case, RATE, window.per_cpu_second, scenario)
        self.note(case, GENERATOR, 100 * window.generator_seconds / window.seconds, scenario)


def fan_out_case(receivers: int, size: int) -> str:
    """How a fan-out is called in the tables."""
    return f"{receivers:,} x {size:,} B"


def crowd(task: Task) -> None:
    """Fan-out, bursts and latency over one server, whose clients become more and more."""
    scale, wanted = task.scale, task.wanted
    counts = [n for n in scale.counts if "fanout" in wanted]
    if wanted & {"burst", "latency"}:
        counts.append(scale.receivers)
    with task.server.run(task.room) as running, running.load(max(counts)) as load:
        for receivers in sorted(set(counts)):
            load.open(receivers)
            load.probe()
            if "fanout" in wanted and receivers in scale.counts:
                _fan_out(task, load, receivers)
            if "burst" in wanted and receivers == scale.receivers:
                _burst(task, load, receivers)
            if "latency" in wanted and receivers == scale.receivers:
                _latency(task, load, receivers)
        task.results.check("crowd", task.server.name, load.integrity)


def _fan_out(task: Task, load: LoadGenerator, receivers: int) -> None:
    largest = receivers == max(task.scale.counts) and len(task.scale.counts) > 1
    for size in task.scale.sizes[:1] if largest else task.scale.sizes:
        window = load.fan_out(size, in_flight=2, seconds=task.scale.seconds)
        task.note_window(fan_out_case(receivers, size), window, "fanout")


def _burst(task: Task, load: LoadGenerator, receivers: int) -> None:
    size = task.scale.sizes[0]
    window = load.fan_out(size, in_flight=16, seconds=task.scale.seconds)
    task.note_window(f"{receivers:,}, 16 in flight", window, "burst")
    window = load.fan_out(size, batch=10, seconds=task.scale.seconds)
    task.note_window(f"{receivers:,}, 10 at once", window, "burst")


def _latency(task: Task, load: LoadGenerator, receivers: int) -> None:
    size = task.scale.sizes[0]
    per_second = _half_load(load, size, receivers, task.scale.seconds)
    window = load.rate(size, per_second, seconds=2 * task.scale.seconds)
    if window.deliveries == 0:
        raise LoadFailedError("nothing was delivered at half load; is the machine busy?")
    case = fan_out_case(receivers, size)
    for measure, value in ((P50, window.p50), (P99, window.p99), ("messages a second", per_second)):
        task.note(case, measure, value, "latency")


def _half_load(load: LoadGenerator, size: int, receivers: int, seconds: float) -> float:
    """Messages a second that keep the busier of server and generator half busy."""
    window = load.fan_out(size, in_flight=2, seconds=seconds)
    busier = max(window.server_seconds, window.generator_seconds)
    return max(1.0, window.deliveries / busier / receivers / 2)


def slow_reader(task: Task) -> None:
    """Latency at half load, then the same while one client has stopped reading and its buffers are full."""
    receivers = task.scale.receivers
    with task.server.run(task.room) as running, running.load(receivers) as load:
        load.open(receivers)
        load.probe()
        per_second = _half_load(load, LARGE, receivers, task.scale.seconds)
        before = load.rate(LARGE, per_second, seconds=2 * task.scale.seconds)
        task.note("nobody", P99, before.p99)
        load.mute(1)
        load.publish(LARGE, FLOOD, in_flight=2)
        after = load.rate(LARGE, per_second, seconds=2 * task.scale.seconds)
        expected = per_second * 2 * task.scale.seconds * (receivers - 1)
        # What never arrives has no latency, so a blocked server shows in what is missing.
        task.note("one slow reader", "delivered, %", min(100.0, 100 * after.deliveries / expected))
        if after.deliveries >= 0.9 * expected:
            task.note("one slow reader", P99, after.p99)
            task.results.check(task.scenario, task.server.name, load.integrity)


def many_channels(task: Task) -> None:
    """As many channels as clients, each with one subscriber, who gets what it publishes there."""
    clients = task.scale.channels
    several: dict[str, object] = {"channel": "many-*"} if task.server.target.get("channel") else {"path": "/ws/many-*"}
    with task.server.run(task.room, publisher=False, **several) as running, running.load(clients) as load:
        load.open(clients)
        time.sleep(2)  # a subscription may take effect after the upgrade is answered
        store = running.store_seconds()
        window = load.own(task.scale.sizes[0], in_flight=64, seconds=2 * task.scale.seconds)
        case = f"{clients:,} channels"
        task.note_window(case, window)
        task.note(case, "Redis busy, %", 100 * (running.store_seconds() - store) / window.seconds)
        task.results.check(task.scenario, task.server.name, load.integrity)


def echo(task: Task) -> None:
    """A hundred clients, each waiting for the answer to its one message."""
    with task.server.run(task.room, publisher=False) as running, running.load(100) as load:
        load.open(100)
        for size in task.scale.sizes:
            task.note_window(f"100 x {size:,} B", load.own(size, in_flight=100, seconds=task.scale.seconds))
        task.results.check(task.scenario, task.server.name, load.integrity)


def connections(task: Task) -> None:
    """A storm of new connections, and the memory that they hold when it is over."""
    idle = task.scale.idle
    with task.server.run(task.room, publisher=False) as running, running.load(MEMORY_BASE + idle) as load:
        load.open(MEMORY_BASE)
        time.sleep(task.scale.settle / 2)
        before = running.process.proportional_bytes()
        window = load.open(MEMORY_BASE + idle)
        opened = f"{idle:,} connections"
        if "connects" in task.wanted:
            task.note(opened, CONNECTS, idle / window.server_seconds, "connects")
            task.note(opened, PER_SECOND, idle / window.seconds, "connects")
            task.note(opened, GENERATOR, 100 * window.generator_seconds / window.seconds, "connects")
        if "memory" in task.wanted:
            time.sleep(task.scale.settle)
            grown = running.process.proportional_bytes() - before
            task.note(opened, KIB, grown / idle / 1024, "memory")
        task.results.check("connections", task.server.name, load.integrity)


def recovery(task: Task) -> None:
    """Clients that missed messages all return at once, while more is published."""
    clients, missed = task.scale.returning, task.scale.missed
    with task.server.run(task.room, channel="history:room") as running, running.load(clients) as load:
        load.open(clients)
        load.drop(1)
        load.publish(task.scale.sizes[0], missed)
        window, unrecovered = load.reconnect(task.scale.sizes[0], per_second=5, concurrency=ALL_AT_ONCE)
        case = f"{clients:,} x {missed} missed"
        task.note(case, "seconds until all are recovered", window.seconds)
        task.note(case, "recovered clients per CPU-second", (clients - 1) / window.server_seconds)
        task.note(case, "not recovered", unrecovered)
        task.results.check(task.scenario, task.server.name, load.integrity)


def storm(task: Task) -> None:
    """All clients return at once, each with a token of its own, in one channel with missed messages and in one each.

    One client stays, so that the stream is followed as it would be by those that another server kept.
    """
    scale = task.scale
    with task.server.run(task.room) as running:
        for case, channel, missed in (
            (one_channel_case(scale), "history:room", scale.storm_missed),
            (own_channels_case(scale), "history:of-*", 0),
        ):
            target = replace(running.target, channel=channel, token_in_connect=True, one_frame=True)
            with replace(running, target=target).load(scale.storm + 1) as load:
                load.open(scale.storm + 1)
                load.drop(1)
                if missed:
                    load.publish(MISSED_SIZE, missed)
                running.await_rest()
                window, unrecovered = load.reconnect(MISSED_SIZE, per_second=0, concurrency=scale.storm)
                _note_storm(task, case, window)
                task.note(case, "not recovered", unrecovered)
                expected = scale.storm * missed
                if window.deliveries != expected:
                    raise LoadFailedError(f"{case}: {window.deliveries} deliveries instead of {expected}")
                task.results.check(task.scenario, task.server.name, load.integrity)
            running.await_rest()


def _note_storm(task: Task, case: str, window: Window) -> None:
    task.note(case, SECONDS, window.seconds)
    task.note(case, RETURNS, task.scale.storm / window.server_seconds)
    task.note(case, GENERATOR, 100 * window.generator_seconds / window.seconds)


def one_channel_case(scale: Scale) -> str:
    """How a storm in one channel is called in the tables."""
    return f"{scale.storm:,} in one channel, {scale.storm_missed} missed"


def own_channels_case(scale: Scale) -> str:
    """How a storm with a channel for each client is called in the tables."""
    return f"{scale.storm:,}, a channel each"


def records(task: Task) -> None:
    """The same fan-out and the same connects, with metrics and logs and without."""
    receivers, connects, size = task.scale.receivers, task.scale.idle, task.scale.sizes[0]
    with task.server.run(task.room) as running, running.load(receivers + connects) as load:
        load.open(receivers)
        load.probe()
        _check_records(task, running)
        for _ in range(3):
            window = load.fan_out(size, in_flight=2, seconds=task.scale.seconds)
            task.note(fan_out_case(receivers, size), RATE, window.per_cpu_second)
        # This many, because a line is a small part of a connect, and what is spent on a few is mostly chance.
        window = load.open(receivers + connects)
        task.note("connects", CONNECTS, connects / window.server_seconds)
        task.results.check(task.scenario, task.server.name, load.integrity)


def _check_records(task: Task, running: Running) -> None:
    logged = running.process.log.stat().st_size > 0
    if logged == (task.server.name == "starling-null"):
        raise RuntimeError(f"{task.server.name} {'writes' if logged else 'does not write'} log lines")


@dataclass(frozen=True, slots=True)
class Part:
    """Scenarios that share a server's start, with the servers they are for."""

    scenarios: Mapping[str, str]
    """What each is about, by its name."""
    drive: Callable[[Task], None]
    servers: tuple[str, ...]
    has_targets_for_all: bool = False
    """Whether each of the servers is part of a target, so that all of them run in every round."""


EVERYBODY = (
    "starling",
    "tutorial",
    "ws",
    "nchan",
    "c-single",
    "c-joined",
    "starling-chat",
    "starling-redis",
    "starling-redis-2",
    "starling-deflate",
    "tutorial-deflate",
    "broadcaster",
    "broadcaster-redis",
    "socketio",
    "socketio-redis",
    "python-socketio",
    "centrifugo",
)

# Receivers of the fan-outs that numbers to reach are of.
COMPARED = (100, 1_000, 5_000)
# Next to these nothing is promised, so they run in the first round alone, but in parts that have targets for all.
ONCE = frozenset(
    {
        "broadcaster",
        "centrifugo",
        "python-socketio",
        "socketio",
        "socketio-redis",
        "starling-chat",
        "starling-deflate",
        "tutorial-deflate",
    }
)

PARTS = (
    Part(
        {
            "fanout": "every message to all, two in flight",
            "burst": "every message to all, 16 in flight and 10 at once",
            "latency": "from publish to receive, at half of each server's own load",
        },
        crowd,
        EVERYBODY,
    ),
    Part(
        {
            "connects": "new connections, Starling's with a different JWT each, 64 in progress at a time",
            "memory": "growth of the proportional set size over idle connections",
        },
        connections,
        (
            "starling-echo",
            "starling",
            "starling-hook",
            "starling-deflate",
            "tutorial",
            "tutorial-deflate",
            "broadcaster",
            "ws",
            "socketio",
            "nchan",
            "c-single",
            "centrifugo",
        ),
    ),
    Part({"slow": "latency of the others while one client does not read"}, slow_reader, ("starling", "tutorial", "ws")),
    Part(
        {"channels": "each client alone in its channel, publishing to itself over Redis"},
        many_channels,
        ("starling-redis", "broadcaster-redis"),
    ),
    Part({"echo": "a message there and back"}, echo, ("starling-echo", "tutorial-echo", "ws-echo", "c-echo")),
    Part(
        {"recovery": "clients that missed messages reconnect all at once, while more is published"},
        recovery,
        ("starling", "starling-redis"),
    ),
    Part(
        {"storm": "all clients return at once with a JWT of their own; connect and subscribe are in one frame"},
        storm,
        ("starling", "centrifugo", "starling-redis", "centrifugo-redis"),
        has_targets_for_all=True,
    ),
    Part({"records": "what metrics and logs cost"}, records, ("starling", "starling-null")),
)

SCENARIOS = tuple(name for part in PARTS for name in part.scenarios)
