"""The faults of a soak: drawn from a seed, done to real processes and links, and undone again."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import psutil
import redis.asyncio

from tests.soak.subscriber import Subscriber
from tests.support.running import Starling
from tests.support.services import RedisServer
from tests.support.tcp_proxy import TcpProxy


@dataclass(frozen=True)
class Pod:
    """A running Starling with its own link to Redis."""

    starling: Starling
    link: TcpProxy


@dataclass
class Scene:
    """All that a fault may be done to."""

    pods: Sequence[Pod]
    server: RedisServer
    subscribers: Sequence[Subscriber]
    dice: random.Random


Fault = Callable[[Scene], Awaitable[None]]


async def kill_a_worker(scene: Scene) -> None:
    """SIGKILL: its clients are cut without a word, and the master starts another."""
    os.kill(await _worker(scene), signal.SIGKILL)


async def freeze_a_worker(scene: Scene) -> None:
    """SIGSTOP for some seconds: nothing is cut, nothing is answered."""
    process = psutil.Process(await _worker(scene))
    process.suspend()
    await asyncio.sleep(scene.dice.uniform(0.5, 4))
    # The master may have replaced it meanwhile.
    if process.is_running():
        process.resume()


async def kill_redis(scene: Scene) -> None:
    """SIGKILL, and a start from its append-only file: nothing that was acknowledged is gone."""
    await asyncio.to_thread(scene.server.kill)
    await asyncio.sleep(scene.dice.uniform(0.1, 3))
    await asyncio.to_thread(scene.server.start)


async def freeze_redis(scene: Scene) -> None:
    """SIGSTOP for some seconds: connections stay and are dead."""
    scene.server.freeze()
    await asyncio.sleep(scene.dice.uniform(0.5, 6))
    scene.server.thaw()


async def kill_listeners(scene: Scene) -> None:
    """Redis ends every Pub/Sub connection."""
    async with redis.asyncio.from_url(scene.server.url) as admin:
        await admin.client_kill_filter(_type="pubsub")


async def cut_a_link(scene: Scene) -> None:
    """One pod cannot reach Redis for a while; the other can."""
    link = scene.dice.choice(scene.pods).link
    link.away = True
    link.cut()
    await asyncio.sleep(scene.dice.uniform(0.1, 4))
    link.away = False


async def reset_clients(scene: Scene) -> None:
    """A third of the clients lose their connection at once."""
    for subscriber in scene.dice.sample(list(scene.subscribers), len(scene.subscribers) // 3):
        subscriber.cut()


async def restart_a_pod(scene: Scene) -> None:
    """SIGTERM, the whole drain, and a start on the same ports: an update of one pod."""
    starling = scene.dice.choice(scene.pods).starling
    os.kill(starling.process.pid, signal.SIGTERM)
    ended = await asyncio.to_thread(starling.process.wait, 40)
    if ended != 0:
        raise AssertionError(f"a drained pod ended with {ended}")
    await asyncio.to_thread(starling.start)


async def empty_redis(scene: Scene) -> None:
    """All is gone: every subscriber must be notified."""
    async with redis.asyncio.from_url(scene.server.url) as admin:
        await admin.flushall()


FAULTS: dict[Fault, int] = {
    kill_a_worker: 6,
    freeze_a_worker: 3,
    kill_redis: 4,
    freeze_redis: 3,
    kill_listeners: 4,
    cut_a_link: 5,
    reset_clients: 5,
    restart_a_pod: 3,
    empty_redis: 1,
}


class Chaos:
    """Does one fault after the other, with a pause between, until the time is over."""

    def __init__(self, scene: Scene, pause: float) -> None:
        self.done: Counter[str] = Counter()
        self._scene = scene
        self._pause = pause

    async def run(self, seconds: float, report_fault: Callable[[str], None]) -> None:
        """Run for so long; the last fault is undone before this returns."""
        end = time.monotonic() + seconds
        faults, weights = list(FAULTS), list(FAULTS.values())
        while time.monotonic() < end:
            await asyncio.sleep(self._scene.dice.uniform(0.3, 1.7) * self._pause)
            (fault,) = self._scene.dice.choices(faults, weights)
            report_fault(fault.__name__)
            await fault(self._scene)
            self.done[fault.__name__] += 1


async def _worker(scene: Scene) -> int:
    starling = scene.dice.choice(scene.pods).starling
    while not (workers := await asyncio.to_thread(lambda: starling.workers)):
        await asyncio.sleep(0.1)
    return scene.dice.choice(workers)
