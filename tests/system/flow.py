"""Clients in history channels on all workers, and publishers that count what was acknowledged: the ledger of a test."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.support.history_clients import HistoryClient, Refused
from tests.support.running import Starling, two_workers
from tests.support.waiting import DEADLINE, StepClock

CHANNELS = [f"history:{number}" for number in range(4)]
CLIENTS = 10

CHANNELS_FILE = """
namespaces:
  history: {history_size: 5000, history_ttl: 5m, force_recovery: true}
"""


def environment(tmp_path: Path, broker_url: str) -> dict[str, str]:
    return two_workers(tmp_path, broker_url, CHANNELS_FILE)


class Flow:
    """Clients in history channels on both workers, and one publisher a channel that counts what was acknowledged."""

    def __init__(self, clients: list[HistoryClient], publisher: HistoryClient) -> None:
        self.clients = clients
        self.publisher = publisher
        self.acknowledged: dict[str, list[int]] = {channel: [] for channel in CHANNELS}
        self.refused: list[int] = []
        self._publishing: list[asyncio.Task[None]] = []

    async def _publish(self, channel: str, number: int) -> None:
        while True:
            number += 1
            try:
                await self.publisher.publish(channel, number)
                self.acknowledged[channel].append(number)
            except Refused as refusal:
                self.refused.append(refusal.code)
            await asyncio.sleep(0.01)

    async def until_live(self) -> float:
        """Seconds from now until every client has got a publication that is acknowledged from now on."""
        marks = {channel: numbers[-1] if numbers else 0 for channel, numbers in self.acknowledged.items()}
        with StepClock() as clock:
            while not all(
                client.ledgers[channel].numbers[-1:] > [marks[channel]]
                for client in self.clients
                for channel in CHANNELS
            ):
                assert clock.seconds < DEADLINE, "it does not flow again"
                await asyncio.sleep(0.02)
        return clock.seconds

    def problems(self) -> list[str]:
        """What is wrong in any ledger; of one that began anew, from its second publication on."""
        problems = []
        for index, client in enumerate(self.clients):
            for channel, ledger in client.ledgers.items():
                wanted = self.acknowledged[channel]
                if ledger.restarts:
                    wanted = [number for number in wanted if ledger.numbers and number > ledger.numbers[0]]
                problems += [f"client {index} in {channel}: {problem}" for problem in ledger.problems(wanted)]
        return problems

    def reported(self) -> list[int]:
        return [code for client in self.clients for ledger in client.ledgers.values() for code in ledger.reported]

    def closed(self) -> list[int]:
        return [code for client in self.clients for ledger in client.ledgers.values() for code in ledger.closed]

    def start(self, after: int = 0) -> None:
        """Begin to publish the numbers that follow `after` in each channel."""
        self._publishing = [asyncio.create_task(self._publish(channel, after)) for channel in CHANNELS]

    async def stop(self) -> None:
        """Publish no more, and wait for all that was acknowledged; the ledgers report what is missing."""
        for task in self._publishing:
            task.cancel()
        await asyncio.gather(*self._publishing, return_exceptions=True)
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end and self.problems():
            await asyncio.sleep(0.05)


@asynccontextmanager
async def flowing(starling: Starling) -> AsyncIterator[Flow]:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(HistoryClient(starling.url)) for _ in range(CLIENTS)]
        for client in clients:
            for channel in CHANNELS:
                await client.subscribe(channel)
        flow = Flow(clients, await stack.enter_async_context(HistoryClient(starling.url)))
        flow.start()
        try:
            yield flow
        finally:
            await flow.stop()


async def publishes(flow: Flow, count: int) -> None:
    """Wait until this many more were acknowledged in each channel."""
    wanted = {channel: len(numbers) + count for channel, numbers in flow.acknowledged.items()}
    async with asyncio.timeout(DEADLINE):
        while any(len(flow.acknowledged[channel]) < wanted[channel] for channel in CHANNELS):
            await asyncio.sleep(0.02)
