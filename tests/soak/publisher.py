"""A publisher of a soak: it numbers what it publishes, and repeats each publication until it is acknowledged."""

import asyncio
import random
from collections import Counter

import httpx2

from tests.soak.ledger import Acknowledged


class Publisher:
    """Publishes to one channel through whichever pod answers, one publication after the other."""

    def __init__(self, channel: str, pods: list[str], pause: float, dice: random.Random) -> None:
        self.channel = channel
        self.acknowledged: list[Acknowledged] = []
        self.refusals: Counter[str] = Counter()
        """Attempts that were not acknowledged, by HTTP status or by the exception."""
        self._pods = pods
        self._pause = pause
        self._dice = dice
        self._number = 0

    async def run(self, stopping: asyncio.Event) -> None:
        """Publish until `stopping`; the publication that is under way is brought to its end."""
        async with httpx2.AsyncClient(timeout=5, headers={"X-API-Key": "dev"}) as client:
            while not stopping.is_set():
                await self.publish(client)
                await asyncio.sleep(self._dice.uniform(0.5, 1.5) * self._pause)

    async def publish(self, client: httpx2.AsyncClient) -> None:
        """Publish the next number, under one idempotency key however often it takes."""
        self._number += 1
        body = {
            "channel": self.channel,
            "data": self._number,
            "idempotency_key": f"{self.channel}-{self._number}",
        }
        while True:
            pod = self._dice.choice(self._pods)
            try:
                answer = await client.post(f"{pod}/api/publish", json=body)
                if answer.status_code == 200 and "result" in (reported := answer.json()):
                    result = reported["result"]
                    self.acknowledged.append(Acknowledged(self._number, result["epoch"], result["offset"]))
                    return
                self.refusals[str(answer.status_code)] += 1
            except httpx2.TransportError as error:
                self.refusals[type(error).__name__] += 1
            await asyncio.sleep(self._dice.uniform(0.05, 0.2))
