"""Public: tests of an application with the whole service in the test's own event loop, without a port or a thread.

As a pytest plugin of the installed package it gives the fixture `starling`, a RunningService in memory.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from starling.auth.issue import issue_connection_token
from starling.embed.service import Starling
from starling.engine.transport import NO_CLOSE_FRAME, Batch, Frame
from starling.engine.upgrade import Denied, EndpointConnection, Upgrade

__all__ = ["ExpectationFailed", "RunningService", "ServiceClient", "service"]

SECRET = "the secret of tests, which no service in production has"  # noqa: S105 - it opens nothing but a test's service
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
                await asyncio.wait_for(self._arrived.wait(), end - loop.time())
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


class RunningService:
    """A Starling that runs in this process; made by `service`."""

    def __init__(self, starling: Starling) -> None:
        self.starling = starling
        self._clients: list[ServiceClient] = []

    def token(self, user: str, ttl: float | None = 3600.0, **claims: Any) -> str:
        """A connection token that this service accepts, for `ttl` seconds (None: without end)."""
        secret = self.starling.settings.token_hmac_secret
        if secret is None:
            raise ValueError("the service has no STARLING_TOKEN_HMAC_SECRET: give it one, or use service(…)")
        return issue_connection_token(secret.get_secret_value(), user, ttl, allow_weak_secret=True, **claims)

    async def connect(
        self,
        user: str = "",
        *,
        token: str | None = None,
        headers: Sequence[tuple[str, str]] = (),
        within: float = 2.0,
        **claims: Any,
    ) -> ServiceClient:
        """Connect a client as `user`, or with `token`; `claims` go into the token. Raises ExpectationFailed."""
        client = ServiceClient(user)
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        upgrade = Upgrade(b"", raw, ("centrifuge-json",), "127.0.0.1", self.starling.client_path)
        answer = self.starling.open_client(upgrade)
        if isinstance(answer, Denied):
            raise ExpectationFailed(f"client of {user or 'nobody'}: the upgrade is refused with {answer.status}")
        client.open(answer.connection, upgrade.address)
        self._clients.append(client)
        presented = token if token is not None else self.token(user, **claims) if user else ""
        await client.command("connect", {"token": presented} if presented else {}, within)
        return client

    async def published(self, channel: str) -> list[Any]:
        """The data of the publications in the history of a channel, oldest first; its namespace must keep one."""
        answer = await self.starling.history(channel, limit=-1)
        return [msgspec.json.decode(publication.data) for publication in answer.publications]

    def cut(self, client: ServiceClient) -> None:
        """Lose a client's connection without a close frame."""
        client.cut()

    def close(self) -> None:
        """Disconnect all clients."""
        for client in self._clients:
            if client.closed is None:
                client.disconnect()


@asynccontextmanager
async def service(starling: Starling | None = None, **options: Any) -> AsyncIterator[RunningService]:
    """Run a service in this event loop, on `memory://`; `options` are those of Starling.

    With `starling`, that of your application, it runs that one: your application's own lifespan need not run then.
    """
    options.setdefault("token_hmac_secret", SECRET)
    starling = starling or Starling(environment={}, **options)
    async with starling.running():
        running = RunningService(starling)
        try:
            yield running
        finally:
            running.close()


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
