"""What the tests ask of a client SDK, the same for every SDK and wire format, and what it reports."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.waiting import DEADLINE

Event = dict[str, Any]
GetToken = Callable[[], Awaitable[str]]
GetChannelToken = Callable[[str], Awaitable[str]]
Position = Mapping[str, Any]
GetState = Callable[[str], Awaitable[Position]]


class Refused(Exception):
    """An operation of the SDK failed with the service's error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


class Unauthorized(Exception):
    """Raised by a token callback: the SDK's own UnauthorizedError, which makes it give up."""


@dataclass
class ClientOptions:
    """How a client connects.

    `handshake_token` goes into the handshake's Authorization header, `headers` go with the connect command; each SDK
    has one of the two. `mute` keeps back what the SDK sends: `all`, or its `pongs`.
    """

    token: str = ""
    get_token: GetToken | None = None
    data: Any = None
    name: str = ""
    version: str = ""
    handshake_token: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    mute: str = ""


@dataclass
class SubscriptionOptions:
    """How a subscription is made; `since` is where to recover from on the first subscribe.

    `ticker` is the value of the tag `ticker` that publications are to have, for a filter by tags.
    """

    token: str = ""
    get_token: GetChannelToken | None = None
    get_state: GetState | None = None
    data: Any = None
    since: Position | None = None
    recoverable: bool = False
    positioned: bool = False
    join_leave: bool = False
    delta: bool = False
    ticker: str = ""


class Client(ABC):
    """One client of the SDK.

    Every event lands in `events` as a dict: `event` is its name, the other keys are the context's, in snake case.
    Payloads are values of JSON in every wire format.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._unseen: list[Event] = []
        self._came = asyncio.Event()

    # Events

    def report(self, event: Event) -> None:
        """Take note of an event."""
        self.events.append(event)
        self._unseen.append(event)
        self._came.set()

    async def event(self, name: str, *, timeout: float = DEADLINE, **wanted: Any) -> Event:
        """The first event of that name, with these values, that was not asked for before."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    for index, event in enumerate(self._unseen):
                        if event["event"] == name and all(event.get(key) == value for key, value in wanted.items()):
                            return self._unseen.pop(index)
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            raise AssertionError(f"no {name} with {wanted} came; unseen are {self._unseen}") from None

    async def error(self, code: int, **wanted: Any) -> None:
        """Wait for an error event with the service's error of that code, past those of other causes."""
        while (await self.event("error", **wanted))["error"].get("code") != code:
            pass

    async def publications(self, count: int, channel: str, *, timeout: float = DEADLINE) -> list[Any]:
        """The data of the next `count` publications of a channel."""
        return [(await self.event("publication", channel=channel, timeout=timeout))["data"] for _ in range(count)]

    def named(self, name: str) -> list[Event]:
        """All events of that name so far."""
        return [event for event in self.events if event["event"] == name]

    # What an SDK does

    @abstractmethod
    async def connect(self) -> None:
        """Begin to connect."""

    @abstractmethod
    async def disconnect(self) -> None:
        """Disconnect, and stay so."""

    @abstractmethod
    async def state(self) -> str:
        """`connecting`, `connected` or `disconnected`."""

    @abstractmethod
    async def subscribe(self, channel: str, options: SubscriptionOptions | None = None) -> None:
        """Make a subscription and begin to subscribe."""

    @abstractmethod
    async def resubscribe(self, channel: str) -> None:
        """Subscribe again after `unsubscribe`."""

    @abstractmethod
    async def unsubscribe(self, channel: str) -> None:
        """Leave the channel."""

    @abstractmethod
    async def subscription_state(self, channel: str) -> str:
        """`subscribing`, `subscribed` or `unsubscribed`."""

    @abstractmethod
    async def unsubscribe_on(self, channel: str, event: str) -> None:
        """Leave the channel from within the handler of its next such event."""

    @abstractmethod
    async def publish(self, channel: str, data: Any) -> None:
        """Publish. Raises Refused, as everything below does."""

    @abstractmethod
    async def rpc(self, method: str, data: Any) -> Any:
        """Call a method; returns its result."""

    @abstractmethod
    async def history(
        self, channel: str, limit: int = 0, since: Position | None = None, *, reverse: bool = False
    ) -> dict[str, Any]:
        """`publications` (each with `data`, `offset`, `info`), `offset` and `epoch`."""

    @abstractmethod
    async def presence(self, channel: str) -> dict[str, Any]:
        """Who is in the channel, by client id."""

    @abstractmethod
    async def presence_stats(self, channel: str) -> tuple[int, int]:
        """How many clients and users are in the channel."""

    @abstractmethod
    async def cut(self) -> None:
        """Lose the connection without a close."""

    @abstractmethod
    async def inject(self, text: str) -> None:
        """Send a frame past the SDK."""

    @abstractmethod
    async def close(self) -> None:
        """End it all."""

    # Together

    async def connected(self) -> Event:
        """Connect, and wait for it."""
        await self.connect()
        return await self.event("connected")

    async def subscribed(self, channel: str, options: SubscriptionOptions | None = None) -> Event:
        """Subscribe, and wait for it."""
        await self.subscribe(channel, options)
        return await self.event("subscribed", channel=channel)
