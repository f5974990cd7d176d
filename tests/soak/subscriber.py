"""A subscriber of a soak: it returns whenever it is cut, as the SDKs do, and keeps every stretch it was served."""

import asyncio
import itertools
import json
import random
from collections import Counter
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from tests.soak.ledger import Segment


class Subscriber:
    """One client in one channel of one pod, until its task is cancelled."""

    def __init__(self, name: str, channel: str, url: str, dice: random.Random) -> None:
        self.name = name
        self.channel = channel
        self.segments: list[Segment] = []
        self.live = False
        self.returns: Counter[str] = Counter()
        """How often it returned, by whether all was recovered."""
        self.reported: Counter[int] = Counter()
        """Codes of unsubscribe pushes and of closes."""
        self._url = f"{url}/connection/websocket"
        self._dice = dice
        self._connection: ClientConnection | None = None

    async def run(self) -> None:
        """Connect, and connect again, until cancelled."""
        attempts = 0
        while True:
            connection: ClientConnection | None = None
            try:
                async with connect(
                    self._url, max_queue=None, ping_interval=None, open_timeout=5, close_timeout=0.5
                ) as connection:
                    self._connection = connection
                    await self._talk(connection)
            except (OSError, WebSocketException, TimeoutError):
                attempts += 1
            finally:
                self._connection = None
                self.live = False
            if connection is not None:
                attempts = 0
                self.reported[connection.close_code or 1006] += 1
            await asyncio.sleep(self._dice.uniform(0.1, 0.5) * min(2**attempts, 8))

    def cut(self) -> None:
        """Reset the connection from this side, as a phone in a tunnel does."""
        if self._connection is not None:
            self._connection.transport.abort()

    async def _talk(self, connection: ClientConnection) -> None:
        numbers = itertools.count(1)
        await connection.send(json.dumps({"id": next(numbers), "connect": {}}))
        await self._subscribe(connection, next(numbers))
        async for frame in connection:
            for line in str(frame).splitlines():
                message = json.loads(line)
                if not message:
                    await connection.send("{}")
                elif "error" in message:
                    # Every error here is temporary: the broker is away.
                    await asyncio.sleep(self._dice.uniform(0.2, 0.5))
                    await self._subscribe(connection, next(numbers))
                elif "subscribe" in message:
                    self._begin(message["subscribe"])
                elif "unsubscribe" in message.get("push", {}):
                    self.reported[message["push"]["unsubscribe"]["code"]] += 1
                    self.live = False
                    await self._subscribe(connection, next(numbers))
                elif "pub" in message.get("push", {}):
                    self._keep(message["push"]["pub"])

    async def _subscribe(self, connection: ClientConnection, number: int) -> None:
        request: dict[str, Any] = {"channel": self.channel}
        if self.segments:
            segment = self.segments[-1]
            request |= {"recover": True, "epoch": segment.epoch, "offset": segment.position}
        await connection.send(json.dumps({"id": number, "subscribe": request}))

    def _begin(self, result: dict[str, Any]) -> None:
        if result.get("was_recovering"):
            self.returns["recovered" if result.get("recovered") else "refused"] += 1
        if not result.get("recovered"):
            self.segments.append(Segment(result["epoch"], result.get("offset", 0)))
        for publication in result.get("publications", ()):
            self._keep(publication)
        self.live = True

    def _keep(self, publication: dict[str, Any]) -> None:
        self.segments[-1].received.append((publication["offset"], publication["data"]))
