"""From a fault to the page that reports what to do: of each kind one, in two pods over Redis under a real Prometheus.

The alert fires, the panel that it names shows the fault, and so does the first command of its runbook. Times (`for`)
are shortened and some thresholds lowered, as the chart's values can, so that a test need not last an hour. kubectl is
a stand-in, as in test_runbooks.py.
"""

import asyncio
import json
import os
import re
import resource
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from tests.support.cgroup import MemoryGroup
from tests.support.prometheus import PrometheusServer
from tests.support.running import Starling
from tests.support.services import RedisServer, free_port
from tests.support.waiting import DEADLINE
from tests.system.runbooks import RUNBOOKS, commands, install
from tools.dashboards.internals import internals
from tools.dashboards.overview import overview

CHANNELS = """
default: {allow_subscribe_for_client: true, allow_publish_for_client: true}
namespaces:
  kept: {history_size: 10, history_ttl: 60s, allow_subscribe_for_client: true, allow_publish_for_client: true}
"""
LEAK_BYTES = 8 * 2**20
LEAKING_HOOK = f"""
from starling.protocol.messages import ClientInfo

hoard = []


async def remember(client: ClientInfo) -> dict[str, int]:
    hoard.append(b"x" * {LEAK_BYTES})
    return {{}}


rpc = {{"remember": remember}}
"""
THRESHOLDS = {
    "StarlingSlowClients": 0.001,
    "StarlingConnectionStorm": 0.5,
    "StarlingWorkerSilent": 2,
    # A busy machine delays timers too.
    "StarlingEventLoopLag": 2.5,
    "StarlingJwksOld": 1,
}
CROWD = 120
CAPACITY = 70
STANDSTILL_SECONDS = 4
# Seconds after which it stands still once more.
ONE_STANDSTILL_FIRES_WITHIN = 20.0
GENEROUS = 2**30
SLOW_CLIENTS = 3


@dataclass
class Pods:
    """Two pods, and a third that nobody has started yet."""

    pods: dict[str, Starling]
    redis: RedisServer
    prometheus: PrometheusServer
    shell: dict[str, str]
    memory: MemoryGroup | None
    """Of the second pod, where one can be made."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    directory: Path = tmp_path_factory.mktemp("pods")
    (directory / "channels.yaml").write_text(CHANNELS)
    (directory / "leaking_hook.py").write_text(LEAKING_HOOK)
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        environment = {
            "STARLING_DEV": "true",
            "STARLING_BROKER_URL": redis.url,
            "STARLING_WORKERS": "1",
            "STARLING_CHANNELS_FILE": str(directory / "channels.yaml"),
            "STARLING_WRITE_BUFFER_BYTES": "65536",
            "STARLING_MAX_CONNECTIONS": str(CAPACITY),
            "STARLING_DRAIN_SECONDS": "8",
            "STARLING_DRAIN_RATE": "1",
            "STARLING_WEBHOOK_URL": f"http://127.0.0.1:{free_port()}/nobody",
            "STARLING_HOOKS": "leaking_hook",
            "STARLING_HOOKS_PATH": str(directory),
        }
        # It can reach neither its Redis nor its issuer.
        new_version = {
            "STARLING_BROKER_URL": f"redis://127.0.0.1:{free_port()}/0",
            "STARLING_TOKEN_JWKS_URL": f"http://127.0.0.1:{free_port()}/keys",
            "STARLING_WORKERS": "1",
        }
        memory = _memory_group(stack)
        pods = {
            "starling-0": stack.enter_context(Starling(environment)),
            "starling-1": stack.enter_context(Starling(environment, wait_ready=False)),
            "starling-new": Starling(new_version, wait_ready=False),
        }
        if memory is not None:
            # It asks for its limit only when it has loaded its modules.
            memory.take(pods["starling-1"].process.pid)
        pods["starling-1"].until_ready()
        targets = {name: f"127.0.0.1:{pod.internal_port}" for name, pod in pods.items()}
        prometheus = stack.enter_context(PrometheusServer(targets, thresholds=THRESHOLDS))
        shell = install(directory, pods) | {"REDIS_URL": redis.url}
        yield Pods(pods, redis, prometheus, shell, memory)
        # Without Redis and without the receiver of their webhooks they take seconds to stop.
        for pod in (pods["starling-0"], pods["starling-1"]):
            pod.process.kill()


def _memory_group(stack: ExitStack) -> MemoryGroup | None:
    try:
        group = stack.enter_context(MemoryGroup(f"starling-test-{os.getpid()}-{secrets.token_hex(4)}"))
    except pytest.skip.Exception:
        return None
    group.limit(GENEROUS)
    return group


def find(running: Pods, alert: str, pod: str, *, shown: float, said: str | None = None, below: bool = False) -> None:
    """Wait for the alert, and follow it.

    Its panel must show a value over `shown` (or `below` it) in the last minute, and the first command of its runbook,
    asked of `pod`, must print what `said` matches.
    """
    annotations = firing_for(running, alert, pod)
    dashboard = {each.uid: each for each in (overview(), internals())}[annotations["dashboard"]]
    panel = next(each for each in dashboard.panels if each.title == annotations["panel"])
    values = [
        value
        for query in panel.queries
        for series in running.prometheus.range(query.expression, time.time() - 60, time.time())
        if series.labels.get("pod", pod) == pod
        for value in series.values
    ]
    assert any(value < shown if below else value > shown for value in values), (panel.title, values)
    if said is not None:
        first = commands(RUNBOOKS / Path(annotations["runbook_url"]).name)[0]
        printed = subprocess.run(
            ["bash", "-c", first.line], env=running.shell | {"POD": pod}, capture_output=True, text=True, timeout=60
        )
        assert re.search(said, printed.stdout), f"{first.line}\n{printed.stdout}{printed.stderr}"


def firing_for(running: Pods, alert: str, pod: str) -> dict[str, str]:
    """Wait until the alert fires for `pod`, or for all pods together, and return its annotations."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        for reported in running.prometheus.alerts():
            if reported["labels"]["alertname"] == alert and reported["labels"].get("pod", pod) == pod:
                annotations: dict[str, str] = reported["annotations"]
                return annotations
        time.sleep(0.2)
    raise AssertionError(f"{alert} did not fire for {pod}; firing: {sorted(running.prometheus.firing())}")


def call(pod: Starling, method: str, body: dict[str, object]) -> None:
    request = urllib.request.Request(f"{pod.http}/api/{method}", json.dumps(body).encode(), {"X-API-Key": "dev"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert "error" not in json.load(answer)


async def enter(pod: Starling, channel: str, **options: object) -> ClientConnection:
    """A subscriber of `channel`."""
    client = await connect(f"{pod.url}/connection/websocket", **options)  # type: ignore[arg-type]
    await client.send('{"id":1,"connect":{}}\n' + json.dumps({"id": 2, "subscribe": {"channel": channel}}))
    while '"id":2' not in str(await client.recv()):
        pass
    return client


def test_without_a_fault_only_the_pod_that_is_not_there_is_missed(running: Pods) -> None:
    running.prometheus.until(lambda firing: "StarlingTargetDown" in firing, "the third pod is missed")
    assert running.prometheus.firing() == {"StarlingTargetDown"}


def test_a_bad_deploy_is_found(running: Pods) -> None:
    new = running.pods["starling-new"]
    new.start()
    try:
        find(running, "StarlingNotReady", "starling-new", shown=0.5, below=True, said='"broker_never_reached"')
        find(running, "StarlingJwksOld", "starling-new", shown=1)
        # The others serve on.
        assert new.get(f"{running.pods['starling-0'].internal}/readyz")[0] == 200
    finally:
        new.stop()


def test_clients_that_do_not_read_are_found(running: Pods) -> None:
    pod = running.pods["starling-0"]

    async def stall() -> None:
        clients = []
        for _ in range(SLOW_CLIENTS):
            reader = socket.create_connection(("127.0.0.1", pod.port))
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            clients.append(await enter(pod, "film", sock=reader, max_queue=1, ping_interval=None))
        for _ in range(60):
            await asyncio.to_thread(call, pod, "publish", {"channel": "film", "data": "x" * 32_000})
        closed = 'starling_connections_closed_total{code="3008",transport="json"}'
        deadline = time.monotonic() + DEADLINE
        while (await asyncio.to_thread(pod.metrics)).get(closed, 0) < SLOW_CLIENTS:
            assert time.monotonic() < deadline, "they were not cut"
            await asyncio.sleep(0.1)
        for client in clients:
            client.transport.abort()
            await client.wait_closed()

    asyncio.run(stall())
    find(running, "StarlingSlowClients", "starling-0", shown=0, said=rf'code="3008",transport="json"}} {SLOW_CLIENTS}')


async def test_a_crowd_that_connects_at_once_is_found(running: Pods) -> None:
    pods = [running.pods["starling-0"], running.pods["starling-1"]]
    clients = await asyncio.gather(
        *(connect(f"{pods[number % 2].url}/ws", open_timeout=60, ping_interval=None) for number in range(CROWD))
    )
    opened = r'opened_total\{transport="echo"\} \d{2}'
    await asyncio.to_thread(find, running, "StarlingConnectionStorm", "starling-1", shown=1, said=opened)
    await asyncio.to_thread(find, running, "StarlingCapacityNear", "starling-1", shown=0.8)
    more = [connect(f"{pods[1].url}/ws", open_timeout=60, ping_interval=None) for _ in range(20)]
    answers = await asyncio.gather(*more, return_exceptions=True)
    assert sum(isinstance(answer, InvalidStatus) for answer in answers) == 20 - (CAPACITY - CROWD // 2)
    await asyncio.to_thread(find, running, "StarlingAtCapacity", "starling-1", shown=0)
    entered = [answer for answer in answers if isinstance(answer, ClientConnection)]
    await asyncio.gather(*(client.close() for client in (*clients, *entered)))


async def test_a_worker_that_stands_still_is_found(running: Pods) -> None:
    still, other = running.pods["starling-0"], running.pods["starling-1"]
    lagging = {"StarlingEventLoopLag": 1.0} | {
        f"StarlingLatency{burn}": 0.1 for burn in ("FastBurn", "Burn", "SlowBurn")
    }
    fired: set[str] = set()
    # Again on a machine that is so slow that one standstill leaves too little behind, or that the worker was replaced.
    while not fired.issuperset(lagging):
        (worker,) = await asyncio.to_thread(lambda: still.workers)
        client = await enter(still, "kept:news")
        os.kill(worker, signal.SIGSTOP)
        try:
            for number in range(20):
                await asyncio.to_thread(call, other, "publish", {"channel": "kept:news", "data": number})
            # It stands still until this was measured, however long that takes; later the alert goes on by itself.
            await asyncio.sleep(STANDSTILL_SECONDS)
            await asyncio.to_thread(find, running, "StarlingWorkerSilent", "starling-0", shown=2)
        finally:
            os.kill(worker, signal.SIGCONT)
        end = time.monotonic() + ONE_STANDSTILL_FIRES_WITHIN
        while not fired.issuperset(lagging) and time.monotonic() < end:
            fired = await asyncio.to_thread(running.prometheus.firing)
            await asyncio.sleep(0.2)
        await client.close()
        await asyncio.to_thread(still.until_ready)
    for alert, shown in lagging.items():
        await asyncio.to_thread(find, running, alert, "starling-0", shown=shown)


async def test_clients_that_return_too_late_are_found(running: Pods) -> None:
    async with connect(f"{running.pods['starling-0'].url}/connection/websocket") as client:
        await client.send('{"id":1,"connect":{}}')
        for number in range(2, 42):
            position = {"recover": True, "epoch": "of another life", "offset": 7}
            ask = {"id": number, "subscribe": {"channel": f"kept:{number}", **position}}
            await client.send(json.dumps(ask))
        while '"id":41' not in str(await client.recv()):
            pass
        await asyncio.to_thread(find, running, "StarlingRecoveriesRefused", "starling-0", shown=0)


def test_a_worker_that_may_open_hardly_any_more_files_is_found(running: Pods) -> None:
    (worker,) = running.pods["starling-0"].workers
    before = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    now = len(list(Path(f"/proc/{worker}/fd").iterdir()))
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (now + 4, before[1]))
    try:
        find(running, "StarlingOpenFilesNearLimit", "starling-0", shown=0.8)
    finally:
        resource.prlimit(worker, resource.RLIMIT_NOFILE, before)


async def test_a_drain_that_takes_too_long_is_found_and_so_is_what_nobody_was_notified_of(running: Pods) -> None:
    pod = running.pods["starling-0"]
    (worker,) = pod.workers
    clients = [await connect(f"{pod.url}/connection/websocket", ping_interval=None) for _ in range(10)]
    for client in clients:
        await client.send('{"id":1,"connect":{}}')
        await client.recv()
    os.kill(worker, signal.SIGTERM)
    await asyncio.to_thread(find, running, "StarlingDrainOverdue", "starling-0", shown=0)
    await asyncio.gather(*(client.close() for client in clients))
    # The worker takes with it what the receiver of webhooks never got.
    await asyncio.to_thread(find, running, "StarlingWebhookEventsLost", "starling-0", shown=0)
    await asyncio.to_thread(pod.until_ready)


def test_a_leak_is_found(running: Pods) -> None:
    pod = running.pods["starling-1"]

    async def leak(times: int) -> None:
        async with connect(f"{pod.url}/connection/websocket") as client:
            await client.send('{"id":1,"connect":{}}')
            await client.recv()
            for number in range(2, 2 + times):
                await client.send(json.dumps({"id": number, "rpc": {"method": "remember", "data": 1}}))
                while f'"id":{number}' not in str(await client.recv()):
                    pass

    if running.memory is None:
        pytest.skip("no memory control group can be made here: it takes root on a machine of one's own")
    leaks = 8
    before = pod.metrics()["starling_memory_used_ratio"] * GENEROUS
    asyncio.run(leak(leaks))
    # What the pod reports is up to a second old.
    deadline = time.monotonic() + DEADLINE
    while (used := pod.metrics()["starling_memory_used_ratio"] * GENEROUS) < before + 0.9 * LEAK_BYTES * leaks:
        assert time.monotonic() < deadline, (before, used)
        time.sleep(0.2)
    running.memory.limit(int(used / 0.95))
    try:
        find(running, "StarlingMemoryNearLimit", "starling-1", shown=0.9, said=r"starling_memory_used_ratio 0\.9")
    finally:
        running.memory.limit(GENEROUS)


async def test_redis_that_stops_again_and_again_is_found(running: Pods) -> None:
    async def stutter() -> None:
        while True:
            # Out of step with the canary, which comes a second after the one before was received.
            running.redis.freeze()
            await asyncio.sleep(1.4)
            running.redis.thaw()
            await asyncio.sleep(0.3)

    stuttering = asyncio.create_task(stutter())
    try:
        await asyncio.to_thread(find, running, "StarlingCanaryLate", "starling-0", shown=0.25)
    finally:
        stuttering.cancel()
        running.redis.thaw()


async def test_redis_that_is_away_and_returns_empty_is_found(running: Pods) -> None:
    pod = running.pods["starling-0"]
    client = await enter(pod, "kept:news")
    await asyncio.to_thread(call, pod, "publish", {"channel": "kept:news", "data": "the last word"})
    assert "StarlingBrokerDown" not in running.prometheus.firing()
    assert "StarlingLossFastBurn" not in running.prometheus.firing()

    running.redis.stop()
    for _ in range(5):
        with pytest.raises(urllib.error.HTTPError):
            await asyncio.to_thread(call, pod, "publish", {"channel": "kept:news", "data": "unheard"})
    said = r"starling_broker_up 0\.0"
    await asyncio.to_thread(find, running, "StarlingBrokerDown", "starling-0", shown=0.5, below=True, said=said)
    await asyncio.to_thread(find, running, "StarlingPublicationsFailing", "starling-0", shown=0)
    await asyncio.to_thread(find, running, "StarlingApiErrors", "starling-0", shown=0)

    running.redis.start()
    for alert in ("StarlingLossFastBurn", "StarlingLossBurn", "StarlingLossSlowBurn"):
        await asyncio.to_thread(find, running, alert, "starling-0", shown=0)
    await client.close()
