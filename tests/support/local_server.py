"""A server in this process at which several brokers meet, for tests that start no process or need a fault at a moment.

It shows what starling.brokers.supervised and starling.brokers.broadcast do with a link, whatever server is behind it;
what Redis and PostgreSQL do is tested with theirs.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence

from starling.brokers.broadcast import MAX_EVENTS, BroadcastBroker
from starling.brokers.link import Link, LinkLost, Receive
from starling.brokers.memory.revocations import MemoryRevocations
from starling.brokers.supervised import SupervisedBackend
from starling.engine.broker import BrokerRefused, BrokerUnavailable, PublicationTooLarge
from starling.engine.revocation import Revocation, StoredRevocations

LOCAL_URL = "local://"


class LocalServer:
    """Delivers what is published to the links that are subscribed, at once and in order."""

    def __init__(self) -> None:
        self.links: list[LocalLink] = []
        self.opened = 0
        """Links that were ever opened, probes included."""
        self.away = False
        """Whether it refuses links and publications."""
        self.refuses: Callable[[Sequence[str]], bool] = lambda channels: False
        """Whether it ends the link that subscribes these channels."""
        self.fault: Exception | None = None
        """What opening a link raises."""
        self.most_bytes = 2**30
        """What is longer is refused, as PostgreSQL does."""
        self.full = False
        """Whether its store takes nothing."""
        self.revocations = LocalRevocations(self)
        self._thawed = asyncio.Event()
        self._thawed.set()

    def broker(self, *, timeout: float = 2.0, max_events: int = MAX_EVENTS) -> BroadcastBroker:
        """A broker of one process, not started yet; all of this server share a store of revocations."""
        return LocalBroker(self, LocalBackend(self, timeout=timeout, max_events=max_events))

    def publish(self, channel: str, message: bytes) -> None:
        """Deliver; raises BrokerUnavailable while it is away, and ValueError where the name has no UTF-8."""
        channel.encode()
        if self.away:
            raise BrokerUnavailable("the server is away")
        if self.frozen:
            return
        for link in self.links:
            if channel in link.channels:
                link.inbox.put_nowait((channel, message))

    def cut(self, why: Exception | None = None) -> None:
        """End the links that there are, without a reason or by `why`."""
        for link in tuple(self.links):
            link.inbox.put_nowait(why)

    def stop(self) -> None:
        """Be away until `start`, and end all links."""
        self.away = True
        self.cut(LinkLost("the server closed the connection"))

    def kill(self) -> None:
        """As `stop`, and forget what was stored."""
        self.stop()
        self.revocations.clear()

    def start(self) -> None:
        """Be there again."""
        self.away = False

    @property
    def frozen(self) -> bool:
        """Whether it takes everything and answers nothing."""
        return not self._thawed.is_set()

    def freeze(self) -> None:
        """Answer nothing until `thaw`; what is published meanwhile is lost."""
        self._thawed.clear()

    def thaw(self) -> None:
        """Answer again."""
        self._thawed.set()

    async def answer(self) -> None:
        """Return when the server answers."""
        await asyncio.sleep(0)
        await self._thawed.wait()


class LocalRevocations(MemoryRevocations):
    """The store of a LocalServer; raises what Redis's does while the server is away or full."""

    def __init__(self, server: LocalServer) -> None:
        super().__init__()
        self.fault: Exception | None = None
        """What reading the store raises."""
        self._server = server

    async def add(self, revocations: Collection[Revocation]) -> int:
        await self._reach()
        if self._server.full:
            raise BrokerRefused("the store takes nothing more")
        return await super().add(revocations)

    async def version(self) -> int:
        await self._reach()
        return await super().version()

    async def writable(self) -> bool:
        await self._reach()
        return not self._server.full

    async def load(self) -> StoredRevocations:
        await self._reach()
        if self.fault is not None:
            raise self.fault
        return await super().load()

    def clear(self) -> None:
        """Hold nothing, as at the beginning."""
        super().__init__()

    async def _reach(self) -> None:
        await asyncio.sleep(0)
        if self._server.away:
            raise BrokerUnavailable("the server is away")


class LocalLink(Link):
    """A link to a LocalServer; `channels` are those that the server has subscribed."""

    batch = 100

    def __init__(self, server: LocalServer) -> None:
        self.channels: set[str] = set()
        self.inbox: asyncio.Queue[tuple[str, bytes] | Exception | None] = asyncio.Queue()
        self._server = server
        self._requested: set[str] = set()

    async def open(self) -> None:
        self._server.opened += 1
        await self._server.answer()
        if self._server.fault is not None:
            raise self._server.fault
        if self._server.away:
            raise LinkLost("connection refused")
        self._server.links.append(self)

    async def read(self, receive: Receive) -> None:
        while (received := await self.inbox.get()) is not None:
            if isinstance(received, Exception):
                raise received
            receive(*received)

    async def subscribe(self, channels: Sequence[str]) -> None:
        await self._server.answer()
        if self._server.refuses(channels):
            raise LinkLost("the server refuses these channels")
        self._requested.update(channels)
        self.channels.update(channels)

    async def unsubscribe(self, channels: Sequence[str]) -> None:
        await self._server.answer()
        self._requested.difference_update(channels)
        self.channels.difference_update(channels)

    async def check_count(self) -> None:
        await self._server.answer()
        if self.channels != self._requested:
            raise LinkLost(f"the server counts {len(self.channels)} subscriptions of {len(self._requested)}")

    async def close(self) -> None:
        if self in self._server.links:
            self._server.links.remove(self)


class LocalBackend(SupervisedBackend):
    """The backend of one process that meets others at a LocalServer."""

    def __init__(self, server: LocalServer, *, timeout: float, max_events: int = MAX_EVENTS) -> None:
        super().__init__(LOCAL_URL, timeout=timeout, max_events=max_events)
        self._server = server
        self._open = False

    def make_link(self) -> Link:
        return LocalLink(self._server)

    async def publish(self, channel: str, message: bytes) -> None:
        if not self._open:
            raise BrokerUnavailable("the broker is not started")
        await self.publish_apart(channel, message)

    async def publish_apart(self, channel: str, message: bytes) -> None:
        self._server.publish(channel, message)
        try:
            async with asyncio.timeout(self.timeout):
                await self._server.answer()
        except TimeoutError:
            raise BrokerUnavailable(f"the broker did not answer within {self.timeout:g} s") from None

    async def open_publishing(self) -> None:
        self._open = True

    async def close_publishing(self) -> None:
        self._open = False


class LocalBroker(BroadcastBroker):
    """The broker of one process that meets others at a LocalServer."""

    def __init__(self, server: LocalServer, backend: LocalBackend) -> None:
        super().__init__(backend)
        self.revocations = server.revocations
        self._server = server

    def check_size(self, channel: str, size: int, data_size: int) -> None:
        if size > self._server.most_bytes:
            raise PublicationTooLarge(f"{size} bytes are too much")
