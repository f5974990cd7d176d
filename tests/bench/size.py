"""The constants of starling.cli.capacity, measured anew; and the model held to a run of another load within 25 %.

Starling over a real Redis, server and load on a CPU each. CPU time is the kernel's; memory is the anonymous
part of the proportional set size, which the kernel cannot give up; each is measured on a fresh pod, for what was freed
before would be used again unseen. `make bench ONLY=size` ends with 1 where the model is further off; with `--write` the
model gets the new constants first.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import psutil
import redis as redis_client
from rich.console import Console
from websockets.sync.client import connect

from starling.auth.issue import issue_connection_token
from starling.cli import capacity
from starling.cli.capacity import Load, pod_of, redis_of
from tests.bench.load_generator import SOURCES, LoadGenerator, Target, compile_program, compiler_missing
from tests.bench.process import Cores, anonymous_bytes, cpu_seconds, on_core, raise_file_limit
from tests.bench.workshop import BUILD
from tests.support.running import SECRET, Starling
from tests.support.services import RedisServer

KEY = "a key of the benchmark's own"
CHANNELS = """
default: {allow_subscribe_for_client: true}
namespaces:
  kept: {history_size: 200, history_ttl: 10m, allow_subscribe_for_client: true, force_recovery: true}
"""
WITHIN = 0.25
CLIENTS = 2_000
SETTLE_SECONDS = 2.0
WINDOW_SECONDS = 4.0
REST_SECONDS = 0.2
# Another load than those that the constants come from.
CHECKED = Load(connections=1_500, rate=120, channels=10, message_bytes=600, subscribers=150, history_size=50)
CHECK_SECONDS = 10.0
MANY_CHANNELS = 100


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds of the pod and of Redis in a stretch of time, without what they use at rest."""

    pod: float
    redis: float


class Bench:
    """One worker over Redis, with what measures it."""

    def __init__(self, starling: Starling, redis: RedisServer, generator: Path, tokens: Path) -> None:
        self.starling = starling
        self.redis = redis_client.Redis.from_url(redis.url)
        self.idle = Spent(0.0, 0.0)
        """At rest, for a second."""
        self._generator = generator
        self._tokens = tokens
        master = psutil.Process(starling.process.pid)
        self._workers = starling.workers
        self._family = [master.pid, *(child.pid for child in master.children(recursive=True))]

    def clients(self, channel: str) -> LoadGenerator:
        """Clients of `channel`, `*` in it the number of each; none publishes."""
        target = Target(
            port=self.starling.port,
            dialect="realtime",
            path="/connection/websocket",
            channel=channel,
            tokens=self._tokens,
            publisher=False,
        )
        return LoadGenerator(self._generator, target, CLIENTS)

    @contextmanager
    def subscriber(self, channels: list[str]) -> Iterator[None]:
        """One client in many channels, that reads nothing afterwards."""
        with connect(f"{self.starling.url}/connection/websocket") as client:
            client.send(json.dumps({"id": 1, "connect": {"token": issue_connection_token(SECRET, "many", 7200)}}))
            client.recv()
            commands = [{"id": 2 + n, "subscribe": {"channel": name}} for n, name in enumerate(channels)]
            client.send("\n".join(map(json.dumps, commands)))
            answered = 0
            while answered < len(channels):
                answered += sum('"subscribe"' in line for line in str(client.recv()).splitlines())
            yield

    def memory(self) -> int:
        """Bytes of all the pod's processes."""
        return sum(map(anonymous_bytes, self._family))

    def memory_of_workers(self) -> int:
        """Bytes of the workers alone."""
        return sum(map(anonymous_bytes, self._workers))

    def measure(self, work: Callable[[], object]) -> Spent:
        """What `work` makes the pod and Redis spend."""
        began, pod, redis = time.monotonic(), self._pod_seconds(), self._redis_seconds()
        work()
        # What the last of it began is finished a moment later.
        time.sleep(REST_SECONDS)
        seconds = time.monotonic() - began
        used = Spent(self._pod_seconds() - pod, self._redis_seconds() - redis)
        return Spent(used.pod - seconds * self.idle.pod, used.redis - seconds * self.idle.redis)

    def rest(self) -> Spent:
        """What a second of rest takes; from now on that is not counted."""
        self.idle = Spent(0.0, 0.0)
        spent = self.measure(lambda: time.sleep(WINDOW_SECONDS))
        seconds = WINDOW_SECONDS + REST_SECONDS
        self.idle = Spent(spent.pod / seconds, spent.redis / seconds)
        return self.idle

    def _pod_seconds(self) -> float:
        return sum(map(cpu_seconds, self._family))

    def _redis_seconds(self) -> float:
        reported: dict[str, float] = self.redis.info("cpu")
        return reported["used_cpu_user"] + reported["used_cpu_sys"]

    def fill(self, channels: list[str], payload: str, times: int) -> None:
        """Publish so often to each channel, as fast as it goes."""
        commands = [{"publish": {"channel": name, "data": payload}} for name in channels]
        with httpx2.Client(base_url=self.starling.http, headers={"X-API-Key": KEY}, timeout=30) as api:
            for _ in range(times):
                replies = api.post("/api/batch", json={"commands": commands}).json()["replies"]
                if any("error" in reply for reply in replies):
                    raise RuntimeError(str(replies[0]))

    def publish_by_api(self, channels: list[str], payload: str, rate: float, seconds: float) -> int:
        """Publish at an even rate over the API, to one channel after the other; returns how many."""
        count = int(rate * seconds)
        with httpx2.Client(base_url=self.starling.http, headers={"X-API-Key": KEY}, timeout=30) as api:

            def publish(number: int) -> None:
                body = {"channel": channels[number % len(channels)], "data": payload}
                answer = api.post("/api/publish", json=body)
                if answer.status_code != 200 or "error" in answer.json():
                    raise RuntimeError(answer.text)

            paced(count, rate, publish)
        return count


def paced(count: int, rate: float, work: Callable[[int], object]) -> None:
    """Do `work` this many times at an even rate, or as fast as it goes where that is slower."""
    began = time.monotonic()
    for number in range(count):
        if (early := began + number / rate - time.monotonic()) > 0:
            time.sleep(early)
        work(number)


@contextmanager
def bench(directory: Path, generator: Path, **environment: str) -> Iterator[Bench]:
    """A pod on a CPU of its own."""
    channels, tokens = directory / "channels.yaml", directory / "tokens"
    channels.write_text(CHANNELS)
    tokens.write_text("".join(issue_connection_token(SECRET, f"user-{n}", 7200) + "\n" for n in range(CLIENTS + 1)))
    cores = Cores.of_this_machine()
    with on_core(cores.store), RedisServer() as redis:
        variables = {
            "STARLING_TOKEN_HMAC_SECRET": SECRET,
            "STARLING_API_KEYS": KEY,
            "STARLING_BROKER_URL": redis.url,
            "STARLING_WORKERS": "1",
            "STARLING_CHANNELS_FILE": str(channels),
            "STARLING_LOG_LEVEL": "warning",
            **environment,
        }
        with on_core(cores.server):
            starling = Starling(variables)
            starling.start()
        try:
            with on_core(cores.load):
                time.sleep(SETTLE_SECONDS)
                yield Bench(starling, redis, generator, tokens)
        finally:
            starling.stop()


def rest_and_connections(one: Bench, found: dict[str, float]) -> None:
    """What a pod takes without clients, and what clients take that do nothing."""
    found["WORKER_BYTES"] = one.memory_of_workers()
    found["MASTER_BYTES"] = one.memory() - found["WORKER_BYTES"]
    idle = one.rest()
    found["IDLE_CORES"], found["REDIS_IDLE_CORES"] = idle.pod, idle.redis
    with one.clients("shared") as load:
        load.open(100)
        time.sleep(SETTLE_SECONDS)
        before = one.memory()
        spent = one.measure(lambda: load.open(CLIENTS))
        time.sleep(SETTLE_SECONDS)
        found["CONNECT_SECONDS"] = spent.pod / (CLIENTS - 100)
        found["CONNECTION_BYTES"] = (one.memory() - before) / (CLIENTS - 100)


def publications(one: Bench, found: dict[str, float]) -> None:
    """What publications take over the API: to nobody, to one subscriber, to many, and large ones to many."""
    one.rest()
    rate, few, many = 100, 100, 200
    count, small, large = rate * WINDOW_SECONDS, "x" * 100, "x" * 4000

    def publish(channel: str, payload: str, rate: float) -> Spent:
        return one.measure(lambda: one.publish_by_api([channel], payload, rate, WINDOW_SECONDS))

    publish("warm", small, rate)
    with one.clients("subscribed") as load, one.clients("kept:subscribed") as kept:
        load.open(1)
        kept.open(1)
        to_one = {name: publish(f"{name}subscribed", small, rate) for name in ("", "kept:")}
        load.open(many)
        time.sleep(SETTLE_SECONDS)
        to_many, large_to_many = publish("subscribed", small, few), publish("subscribed", large, few)
    deliveries = few * WINDOW_SECONDS * (many - 1)
    to_all = to_many.pod - to_one[""].pod * few / rate
    byte = max(0.0, (large_to_many.pod - to_many.pod) / deliveries / (len(large) - len(small)))
    found["DELIVERY_BYTE_SECONDS"] = byte
    found["DELIVERY_SECONDS"] = to_all / deliveries - byte * (len(small) + capacity.ENVELOPE_BYTES)
    for namespace, name in (("", ""), ("kept:", "_KEPT")):
        unread, received = publish(f"{namespace}nobody", small, rate), to_one[namespace]
        found[f"PUBLISH{name}_SECONDS"] = unread.pod / count
        found[f"RECEIVE{name}_SECONDS"] = (received.pod - unread.pod) / count - to_all / deliveries
        found[f"REDIS_PUBLISH{name}_SECONDS"] = unread.redis / count
        found[f"REDIS_RECEIVER{name}_SECONDS"] = (received.redis - unread.redis) / count


def channels(one: Bench, found: dict[str, float]) -> None:
    """What channels take that have a client each."""
    with one.clients("alone-*") as load:
        load.open(100)
        time.sleep(SETTLE_SECONDS)
        before = one.memory()
        load.open(CLIENTS)
        time.sleep(SETTLE_SECONDS)
        # The connection itself, with its subscription, is known.
        found["CHANNEL_BYTES"] = (one.memory() - before) / (CLIENTS - 100) - found["CONNECTION_BYTES"]


def subscriptions(one: Bench, found: dict[str, float]) -> None:
    """What further channels of a connection take, where others are in them too."""
    names, count = [f"common-{number}" for number in range(MANY_CHANNELS)], 60
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(one.subscriber(names))
        time.sleep(SETTLE_SECONDS)
        before = one.memory()
        for _ in range(count):
            stack.enter_context(one.subscriber(names))
        time.sleep(SETTLE_SECONDS)
        each = (one.memory() - before) / count
    found["SUBSCRIPTION_BYTES"] = (each - found["CONNECTION_BYTES"]) / (len(names) - 1)


def history(one: Bench, found: dict[str, float]) -> None:
    """What history takes in Redis and in a worker that follows it."""
    names, length, few, many = [f"kept:{number}" for number in range(100)], 100, 40, 140

    def used() -> int:
        reported: dict[str, int] = one.redis.info("memory")
        return reported["used_memory"]

    one.fill(["warm"] * len(names), "x" * length, 100)
    empty = used()
    with one.subscriber(names):
        one.fill(names, "x" * length, few)
        first, memory = used(), one.memory_of_workers()
        one.fill(names, "x" * length, many - few)
        second, grown = used(), one.memory_of_workers() - memory
    entries = len(names) * (many - few)
    found["REDIS_BYTES"] = empty
    found["REDIS_ENTRY_BYTES"] = (second - first) / entries - length
    found["REDIS_CHANNEL_BYTES"] = (first - empty) / len(names) - few * (length + found["REDIS_ENTRY_BYTES"])
    found["RECENT_BYTES"] = grown / entries - length


def pings(one: Bench, found: dict[str, float]) -> None:
    """What a ping takes, with its answer: every two seconds for each client."""
    one.rest()
    with one.clients("shared") as load:
        load.open(CLIENTS)
        time.sleep(SETTLE_SECONDS + 2)
        spent = one.measure(lambda: time.sleep(2 * WINDOW_SECONDS))
    found["PING_SECONDS"] = spent.pod / CLIENTS / WINDOW_SECONDS


def tls() -> dict[str, float]:
    """What TLS takes, as OpenSSL measures itself: a signature, two multiplications, and bytes in frames of 1 KiB."""
    reported = ""
    for what in (["ecdsap256"], ["ecdhx25519"], ["-bytes", "1024", "-evp", "aes-128-gcm"]):
        command = ["openssl", "speed", "-mr", "-seconds", "1", *what]
        reported += subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    sign = re.search(r"^\+F4:\d+:\d+:([\d.e-]+):", reported, re.MULTILINE)
    derive = re.search(r"^\+F5:\d+:253:([\d.e-]+):", reported, re.MULTILINE)
    per_second = re.search(r"^\+F:\d+:[^:]*:([\d.]+)$", reported, re.MULTILINE)
    if sign is None or derive is None or per_second is None:
        raise RuntimeError(f"openssl speed printed something else than expected:\n{reported}")
    handshake = 1 / float(sign[1]) + 2 / float(derive[1])
    return {"TLS_HANDSHAKE_SECONDS": handshake, "TLS_BYTE_SECONDS": 1 / float(per_second[1])}


def check(one: Bench, console: Console) -> bool:
    """Run the load of CHECKED, and hold the model to what it takes."""
    names = [f"kept:room-{number}" for number in range(CHECKED.channels)]
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(one.clients(name)).open(CHECKED.connections // CHECKED.channels)
        time.sleep(SETTLE_SECONDS)
        began = time.monotonic()
        spent = one.measure(
            lambda: one.publish_by_api(names, "x" * (CHECKED.message_bytes - 2), CHECKED.rate, CHECK_SECONDS)
        )
        seconds = time.monotonic() - began
        memory = one.memory()
    # On a machine that is busy with other things the load may have been slower than it should.
    load = replace(CHECKED, rate=CHECKED.rate * CHECK_SECONDS / seconds)
    pod, redis = pod_of(load, 1, 1), redis_of(load, 1)
    rows = [
        ("CPU cores of the pod", pod.cores, spent.pod / seconds),
        ("memory of the pod, MB", pod.memory_bytes / 1e6, memory / 1e6),
        ("CPU cores of Redis", redis.cores, spent.redis / seconds),
    ]
    good = True
    console.print(f"{load.connections} connections, {load.deliveries:,.0f} deliveries a second:")
    for name, said, measured in rows:
        off = said / measured - 1
        good = good and abs(off) <= WITHIN
        verdict = "within" if abs(off) <= WITHIN else "NOT within"
        console.print(f"{name}: size says {said:.3f}, measured {measured:.3f}: {off:+.0%}, {verdict} {WITHIN:.0%}")
    return good


def write(found: dict[str, float], console: Console) -> None:
    """Put the constants into the model, and into its file."""
    path = Path(capacity.__file__)
    text = path.read_text()
    for name, value in found.items():
        if value <= 0:
            console.print(f"{name}: lost in the noise of this machine, so the model counts nothing for it")
        rounded = max(0.0, float(f"{value:.2g}"))
        text, count = re.subn(rf"^{name} = .*$", f"{name} = {rounded!r}", text, flags=re.MULTILINE)
        if count != 1:
            raise RuntimeError(f"{path.name} has no {name}")
        setattr(capacity, name, rounded)
    capacity.MEASURED = f"{os.cpu_count()} CPUs, load average {os.getloadavg()[0]:.1f}"
    text = re.sub(r"^MEASURED = .*$", f'MEASURED = "{capacity.MEASURED}"', text, flags=re.MULTILINE)
    measured = re.findall(r"^([A-Z_]+) = ", text.partition("# Not measured")[0], re.MULTILINE)
    if missing := set(measured) - set(found) - {"MEASURED"}:
        raise RuntimeError(f"{', '.join(sorted(missing))}: not measured")
    path.write_text(text)


def main() -> None:
    """Print every constant, and whether the model holds."""
    if missing := compiler_missing():
        sys.exit(missing)
    raise_file_limit()
    console = Console(highlight=False, soft_wrap=True)
    generator = compile_program(SOURCES, BUILD / "generator", ["-lz"])
    found: dict[str, float] = tls()
    with tempfile.TemporaryDirectory(prefix="starling-size-") as path:
        directory = Path(path)
        for part in (rest_and_connections, channels, subscriptions, history, publications):
            with bench(directory, generator) as one:
                part(one, found)
        with bench(directory, generator, STARLING_PING_SECONDS="2", STARLING_PONG_SECONDS="1") as one:
            pings(one, found)
        constants: dict[str, Any] = vars(capacity)
        for name in sorted(found):
            console.print(f"{name} = {found[name]:.3g}  # app/starling/cli/capacity.py has {constants[name]:.3g}")
        if "--write" in sys.argv[1:]:
            write(found, console)
        with bench(directory, generator) as one:
            good = check(one, console)
    console.print(f"load average {os.getloadavg()[0]:.1f}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
