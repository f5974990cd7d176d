"""Clients of the real-time protocol that keep a ledger of each channel: what came, and what was reported lost."""

import asyncio
import contextlib
import json
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.waiting import DEADLINE


class Refused(Exception):
    """A command was answered by an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code


@dataclass
class Ledger:
    """What one subscriber got of one channel, where every publication is a number, and what it got instead."""

    offsets: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    data: list[Any] = field(default_factory=list)
    """The same publications where they are no numbers."""
    reported: list[int] = field(default_factory=list)
    """Codes of unsubscribe pushes; the ledger begins anew when the client has subscribed again."""
    restarts: int = 0
    closed: list[int] = field(default_factory=list)

    def restart(self) -> None:
        """Begin anew, in another stream."""
        self.offsets.clear()
        self.numbers.clear()
        self.restarts += 1

    def problems(self, acknowledged: list[int]) -> list[str]:
        """What speaks against it, given the numbers that were acknowledged, in the order in which they were."""
        seen = set(self.numbers)
        lost = [number for number in acknowledged if number not in seen]
        wanted = set(acknowledged)
        problems = []
        if lost:
            problems.append(f"lost {len(lost)} of {len(acknowledged)}: {lost[:5]}")
        if len(seen) != len(self.numbers):
            problems.append(f"doubled {len(self.numbers) - len(seen)}")
        if self.offsets != sorted(set(self.offsets)):
            problems.append("offsets out of order")
        if [number for number in self.numbers if number in wanted] != [n for n in acknowledged if n in seen]:
            problems.append("numbers out of order")
        return problems


class HistoryClient:
    """One connection to the protocol endpoint; a context manager. After 2500 it subscribes again, as the SDKs do."""

    def __init__(self, url: str, request: Mapping[str, Any] | None = None) -> None:
        """`request` is that of the connect command; its result will be `connected`."""
        self.url = f"{url}/connection/websocket"
        self.connected: dict[str, Any] = {}
        self._request = dict(request or {})
        self.ledgers: dict[str, Ledger] = {}
        self.epochs: dict[str, str] = {}
        self._connection: ClientConnection
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._subscribing: dict[int, str] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._number = 0
        self._reading: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._connection = await connect(self.url, max_queue=None, ping_interval=None)
        self._reading = asyncio.create_task(self._read())
        self.connected = await self.call("connect", self._request)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reading.cancel()
        self._connection.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(self._reading, *self._tasks, return_exceptions=True)

    async def call(self, method: str, request: dict[str, Any]) -> Any:
        """Run a command; returns its result. Raises Refused."""
        self._number += 1
        number = self._number
        if method == "subscribe":
            self._subscribing[number] = request["channel"]
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        await self._connection.send(json.dumps({"id": number, method: request}))
        try:
            async with asyncio.timeout(DEADLINE):
                return await reply
        finally:
            del self._replies[number]

    async def subscribe(self, channel: str, since: tuple[int, str] | None = None) -> dict[str, Any]:
        """Subscribe, recovering from `since` (offset, epoch); what is recovered goes to the ledger."""
        self.ledgers.setdefault(channel, Ledger())
        request: dict[str, Any] = {"channel": channel}
        if since is not None:
            request |= {"recover": True, "offset": since[0], "epoch": since[1]}
        result: dict[str, Any] = await self.call("subscribe", request)
        self.epochs[channel] = result.get("epoch", "")
        return result

    async def _subscribe_again(self, channel: str) -> None:
        ledger = self.ledgers[channel]
        since = (ledger.offsets[-1] if ledger.offsets else 0, self.epochs[channel])
        ledger.restart()
        result = await self.subscribe(channel, since)
        assert not result.get("recovered"), "what was reported as lost is there all the same"

    async def publish(self, channel: str, data: Any) -> None:
        """Publish; returns when it was acknowledged. Raises Refused."""
        await self.call("publish", {"channel": channel, "data": data})

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for frame in self._connection:
                for line in str(frame).splitlines():
                    self._take(json.loads(line))
        for ledger in self.ledgers.values():
            ledger.closed.append(self._connection.close_code or 1006)
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(ConnectionError(f"closed with {self._connection.close_code}"))

    def _take(self, message: dict[str, Any]) -> None:
        if not message:
            self._start(self._connection.send("{}"))
        elif number := message.get("id"):
            self._answer(number, message)
        elif push := message.get("push"):
            if publication := push.get("pub"):
                self._keep(push["channel"], publication)
            elif unsubscribe := push.get("unsubscribe"):
                self.ledgers[push["channel"]].reported.append(unsubscribe["code"])
                self._start(self._subscribe_again(push["channel"]))

    def _start(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _keep(self, channel: str, publication: dict[str, Any]) -> None:
        self.ledgers[channel].offsets.append(publication.get("offset", 0))
        data = publication["data"]
        ledger = self.ledgers[channel]
        (ledger.numbers if isinstance(data, int) else ledger.data).append(data)

    def _answer(self, number: int, message: dict[str, Any]) -> None:
        # Before the reply is notified: pushes that follow in the same frame stand behind what was recovered.
        for publication in message.get("subscribe", {}).get("publications", ()):
            self._keep(self._subscribing[number], publication)
        reply = self._replies.get(number)
        if reply is None or reply.done():
            return
        if error := message.get("error"):
            reply.set_exception(Refused(error["code"], error["message"]))
        else:
            reply.set_result(next((value for key, value in message.items() if key != "id"), {}))
