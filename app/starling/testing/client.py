"""A client of the client endpoint in the test's own process, and its end of a connection without a socket."""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from starling.engine.transport import NO_CLOSE_FRAME
from starling.engine.upgrade import EndpointConnection
from starling.protocol.messages import Batch, Frame

_SHOWN_EVENTS = 20

Predicate = Callable[[Any], bool]


class ExpectationFailed(AssertionError):
    """What a test expects has not come; the message ends with the last events of the connection."""


class ServiceClient:
    """A client of the client endpoint in this process; made by `RunningService.connect`."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.events: deque[dict[str, Any]] = deque(maxlen=1000)
        """Everything that the service has sent, oldest first; a close is `{"closed": code, "reason": …}`."""
        self._numbers = itertools.count(1)
        self._unread: deque[dict[str, Any]] = deque()
        self._arrived = asyncio.Event()
        self._transport = _Transport(self._receive)

    async def subscribe(self, channel: str, within: float = 2.0, **options: Any) -> dict[str, Any]:
        """Subscribe to a channel; returns the reply's result. Raises ExpectationFailed for an error."""
        return await self.command("subscribe", {"channel": channel, **options}, within)

    async def publish(self, channel: str, data: Any, within: float = 2.0) -> dict[str, Any]:
        """Publish as the client. Raises ExpectationFailed for an error."""
        return await self.command("publish", {"channel": channel, "data": data}, within)

    async def command(self, method: str, fields: dict[str, Any], within: float = 2.0) -> dict[str, Any]:
        """Send one command of the client protocol; returns its result. Raises ExpectationFailed for an error."""
        number = next(self._numbers)
        self._transport.deliver(msgspec.json.encode({"id": number, method: fields}).decode())
        reply = await self._find(lambda event: event.get("id") == number, within, f"a reply to {method}")
        if method not in reply:
            raise ExpectationFailed(self._with_events(f"{method} was refused: {reply}"))
        result: dict[str, Any] = reply[method]
        return result

    async def expect(self, channel: str, data: Any = ..., *, within: float = 2.0) -> Any:
        """Wait for a publication in `channel`, equal to `data` where it is given; returns its data.

        `data` may be a function of it. Publications before it stay for later calls. Raises ExpectationFailed after
        `within` seconds, or at once if the connection ends.
        """

        def matches(event: dict[str, Any]) -> bool:
            push = event.get("push", {})
            if push.get("channel") != channel or "pub" not in push:
                return False
            found = push["pub"].get("data")
            return data is ... or (bool(data(found)) if callable(data) else found == data)

        wanted = "any publication" if data is ... else repr(data)
        event = await self._find(matches, within, f"{wanted} in {channel}")
        return event["push"]["pub"]["data"]

    def open(self, connection: EndpointConnection, address: str) -> None:
        """Be the client of `connection`."""
        self._transport.handler = connection
        connection.open(self._transport, address)

    def disconnect(self) -> None:
        """Close the connection as a client does."""
        self._transport.end(1000, "")

    def cut(self) -> None:
        """Lose the connection without a close frame."""
        self._transport.end(NO_CLOSE_FRAME, "")

    @property
    def closed(self) -> int | None:
        """The close code, None while the connection is open."""
        return self._transport.code

    async def _find(self, matches: Predicate, within: float, wanted: str) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        end = loop.time() + within
        while True:
            for event in self._unread:
                if matches(event):
                    self._unread.remove(event)
                    return event
            if self.closed is not None:
                raise ExpectationFailed(self._with_events(f"{wanted}: the connection is closed with {self.closed}"))
            self._arrived.clear()
            try:
                async with asyncio.timeout_at(end):
                    await self._arrived.wait()
            except TimeoutError:
                raise ExpectationFailed(self._with_events(f"{wanted} has not come within {within:g} s")) from None

    def _receive(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        if not event:
            self._transport.deliver("{}")
        else:
            self._unread.append(event)
        self._arrived.set()

    def _with_events(self, problem: str) -> str:
        last = list(self.events)[-_SHOWN_EVENTS:]
        lines = [f"  {event}" for event in last] or ["  (none)"]
        return "\n".join([f"client of {self.user or 'nobody'}: {problem}", "its last events:", *lines])


class _Transport:
    """The client's end of a connection without a socket."""

    def __init__(self, receive: Callable[[dict[str, Any]], None]) -> None:
        self.handler: Any = None
        self.code: int | None = None
        self._receive = receive

    def deliver(self, text: str) -> None:
        """Have the service receive `text`, in a turn of the loop of its own."""
        asyncio.get_running_loop().call_soon(self._pass_on, text)

    def _pass_on(self, text: str) -> None:
        if self.code is None:
            self.handler.on_message(text)

    def end(self, code: int, reason: str) -> None:
        """End the connection from the client's side."""
        if self.code is None:
            self.code = code
            self._receive({"closed": code, "reason": reason})
            self.handler.on_close(code, reason)

    def send_frame(self, frame: Frame) -> None:
        """Read the events in a frame."""
        if self.code is None:
            for line in frame.payload.splitlines():
                self._receive(msgspec.json.decode(line))

    def send_batch(self, batch: Batch) -> None:
        """Read the events of all frames."""
        self.queue_batch(batch)

    def queue_batch(self, batch: Batch) -> None:
        """As `send_batch`."""
        for frame in batch.frames:
            self.send_frame(frame)

    def ping(self) -> None:
        """Answer at once."""
        self.handler.on_pong()

    def pause_reading(self) -> None:
        """Tests send little: nothing is held back."""

    def resume_reading(self) -> None:
        """As `pause_reading`."""

    @property
    def replies_wait(self) -> bool:
        """False: nothing waits."""
        return False

    def takes_replies(self) -> bool:
        """False: nothing waits."""
        return False

    def close(self, code: int, reason: str = "") -> None:
        """End the connection from the side of the service."""
        asyncio.get_running_loop().call_soon(self.end, code, reason)
