"""A Starling that runs in the test's own event loop."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any

import msgspec
from fastapi import FastAPI

from starling.auth.issue import issue_connection_token
from starling.brokers.memory.broker import MemoryBroker
from starling.embed.service import Starling
from starling.engine.upgrade import Denied, Upgrade
from starling.testing.client import ExpectationFailed, ServiceClient
from starling.testing.recording import Recording
from starling.testing.turned_clock import TurnedClock, settle

SECRET = "the secret of tests, which no service in production has"  # noqa: S105 - it opens nothing but a test's service
API_KEY = "the API key of tests"


class RunningService:
    """A Starling that runs in this process; made by `service`."""

    def __init__(self, starling: Starling) -> None:
        self.starling = starling
        self._clock = TurnedClock()
        broker = starling.broker
        self._recording = Recording(broker) if isinstance(broker, MemoryBroker) else None
        self._broker_return: asyncio.TimerHandle | None = None
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

    @cached_property
    def app(self) -> FastAPI:
        """The service's paths as an ASGI application, for HTTP clients with an ASGI transport in this event loop.

        The server API takes the key `API_KEY`, unless the Starling is yours.
        """
        application = FastAPI(title="Starling", docs_url=None, redoc_url=None, openapi_url=None)
        application.include_router(self.starling.router)
        return application

    async def published(self, channel: str) -> list[Any]:
        """The data of what was published in a channel since the service began, oldest first.

        With a broker other than `memory://`, what the channel's history keeps.
        """
        if self._recording is not None:
            return self._recording.of(channel)
        answer = await self.starling.history(channel, limit=-1)
        return [msgspec.json.decode(publication.data) for publication in answer.publications]

    def cut(self, client: ServiceClient) -> None:
        """Lose a client's connection without a close frame."""
        client.cut()

    async def turn(self, seconds: float) -> None:
        """Turn the clock forward, and let everything happen that is due until then, such as the end of a token.

        It turns `time.time`, `time.monotonic` and the timers of the event loop in this process, until the service
        ends; `datetime.now` it cannot turn. It needs asyncio's own event loop.
        """
        await self._clock.turn(seconds)

    async def lose_broker(self, seconds: float) -> None:
        """Take the broker away; returns when the service has noticed. It returns after `seconds` of the clock.

        Raises ValueError for a broker other than `memory://`.
        """
        broker = self._memory_broker()
        self._restore_broker()
        broker.lose()
        self._broker_return = asyncio.get_running_loop().call_later(seconds, self._restore_broker)
        await settle()

    def _restore_broker(self) -> None:
        if self._broker_return is not None:
            self._broker_return.cancel()
            self._broker_return = None
            self._memory_broker().restore()

    def _memory_broker(self) -> MemoryBroker:
        broker = self.starling.broker
        if not isinstance(broker, MemoryBroker):
            problem = "lose_broker() is for memory://: leave STARLING_BROKER_URL out in your tests"
            raise ValueError(problem)  # noqa: TRY004 - a setting is wrong
        return broker

    def close(self) -> None:
        """Disconnect all clients, and restore the real clock."""
        if self._recording is not None:
            self._recording.stop()
        self._restore_broker()
        self._clock.stop()
        for client in self._clients:
            if client.closed is None:
                client.disconnect()


@asynccontextmanager
async def service(starling: Starling | None = None, **options: Any) -> AsyncIterator[RunningService]:
    """Run a service in this event loop, on `memory://`; `options` are those of Starling.

    With `starling`, that of your application, it runs that one: your application's own lifespan need not run then.
    """
    options.setdefault("token_hmac_secret", SECRET)
    options.setdefault("api_keys", API_KEY)
    starling = starling or Starling(environment={}, **options)
    async with starling.running():
        running = RunningService(starling)
        try:
            yield running
        finally:
            running.close()
