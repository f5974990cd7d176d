"""Channels that a route of the user's application receives, in this process: as an iterator, or on its WebSocket."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import structlog
from fastapi import WebSocket, WebSocketDisconnect

from starling.embed.methods import MethodFailed
from starling.engine.broker import BrokerUnavailable
from starling.engine.channels import ChannelOptions
from starling.engine.engine import Engine
from starling.engine.receiver import TokenFacts
from starling.engine.subscriptions import Subscriber
from starling.protocol.codes import (
    DISCONNECT_INAPPROPRIATE_PROTOCOL,
    ERROR_INTERNAL,
    ERROR_NOT_AVAILABLE,
    CommandRefused,
    Error,
)
from starling.protocol.messages import Batch, Frame, Push
from starling.protocol.portable_json import is_json
from starling.telemetry.metrics import TransportStats

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.embed")

TOO_SLOW = 1013
_NO_JSON = Error(
    ERROR_NOT_AVAILABLE.code, "not available: the publication_data_format of the channel is binary, and routes get JSON"
)


class ListenerTooSlow(Exception):
    """More bytes wait for this listener than STARLING_WRITE_BUFFER_BYTES."""


class _DataAlone:
    """Encodes publications as their data, joins and leaves as nothing. Raises CommandRefused for what is no JSON."""

    def encode_push(self, push: Push) -> Frame:
        data = bytes(push.pub.data) if push.pub else b""
        if data and not is_json(data):
            raise CommandRefused(DISCONNECT_INAPPROPRIATE_PROTOCOL)
        return Frame(data, text=True)


class ChannelListener:
    """One route in one channel. Implements starling.engine.receiver.Receiver, and of a Transport what a hub uses."""

    encoder = _DataAlone()

    def __init__(self, engine: Engine, channel: str, limit: int) -> None:
        """`limit` bytes may wait."""
        self.id = f"{engine.node.names.getrandbits(64):016x}"
        self.user = ""
        self.sent = 0
        self.slot = -1
        # Its WebSocket is counted where it is served; an iterator is no connection.
        self.stats = TransportStats(TOO_SLOW)
        self._engine = engine
        self._channel = channel
        self._limit = limit
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._filled = asyncio.Event()
        self._overflowed = False
        self._subscriber: Subscriber | None = None
        self._left = False

    @property
    def transport(self) -> Any:
        """This object: it takes the frames itself."""
        return self

    async def enter(self) -> None:
        """Begin to receive. While the broker is away it waits in a channel without history. Raises MethodFailed."""
        options = self._options()
        try:
            if options.keeps_history:
                self._subscriber = Subscriber(self, self._channel, lambda subscriber, joined: not self._left)
                await self._engine.subscriptions.join(self._subscriber, options, None, latest=False)
            else:
                await self._engine.subscriptions.wait_in(self, self._channel)
        except BrokerUnavailable as away:
            if options.keeps_history:
                raise MethodFailed(ERROR_INTERNAL) from away
            log.warning("listener_waits_for_broker", channel=self._channel)

    def _options(self) -> ChannelOptions:
        """The channel's options. Raises MethodFailed for one that cannot be, or that a route cannot read."""
        try:
            options = self._engine.channels.options(self._channel)
        except CommandRefused as refused:
            reason = refused.reason
            raise MethodFailed(reason if isinstance(reason, Error) else ERROR_INTERNAL) from refused
        if options.publication_data_format == "binary":
            raise MethodFailed(_NO_JSON)
        return options

    async def leave(self) -> None:
        """Receive no more."""
        self._left = True
        if self._subscriber is not None:
            # It may not be live yet.
            self._engine.subscriptions.drop(self._subscriber)
        with suppress(BrokerUnavailable):
            await self._engine.subscriptions.leave(self, self._channel)

    async def next(self) -> bytes:
        """The data of the next publication. Raises ListenerTooSlow."""
        while not self._waiting:
            if self._overflowed:
                raise ListenerTooSlow
            self._filled.clear()
            await self._filled.wait()
        data = self._waiting.popleft()
        self._waiting_bytes -= len(data)
        return data

    # What the hub calls

    def send(self, frame: Frame) -> None:
        """Keep the data of a publication until the route takes it."""
        if self._overflowed or not frame.payload:
            return
        self._waiting.append(frame.payload)
        self._waiting_bytes += len(frame.payload)
        if self._waiting_bytes > self._limit:
            self._overflowed = True
            self._waiting.clear()
        self._filled.set()

    def send_batch(self, batch: Batch) -> None:
        """As `send` of each of its frames."""
        for frame in batch.frames:
            self.send(frame)

    queue_batch = send_batch

    async def catch_up(self, frames: Sequence[Frame], left: Callable[[], bool]) -> bool:
        """Pass over what was there before this listener."""
        return True

    def tick(self, now: float) -> float:
        """Nothing is due: the clock does not know listeners."""
        return now

    def lose_state(self, channel: str) -> None:
        """Enter again: a listener has no position that could be wrong."""
        self._engine.tasks.start(self.enter())

    def drop_revoked(self, refuses: Callable[[TokenFacts], bool]) -> TokenFacts | None:
        """Keep: it has no token."""
        return None


@asynccontextmanager
async def listening(engine: Engine, channel: str, limit: int) -> AsyncIterator[ChannelListener]:
    """A listener in a channel, until the end of the block."""
    listener = ChannelListener(engine, channel, limit)
    try:
        await listener.enter()
        yield listener
    finally:
        await listener.leave()


async def values(listener: ChannelListener) -> AsyncIterator[Any]:
    """The data of all publications from now on, decoded."""
    while True:
        data = await listener.next()
        try:
            yield msgspec.json.decode(data)
        except msgspec.ValidationError:
            # JSON has numbers that no float holds, such as 1e400.
            yield json.loads(data)


@asynccontextmanager
async def forwarding(listener: ChannelListener, websocket: WebSocket) -> AsyncIterator[None]:
    """Send what the listener receives to a WebSocket, until the end of the block: text as it is, other data as JSON."""
    forwarder = asyncio.create_task(_forward(listener, websocket))
    try:
        yield
    finally:
        forwarder.cancel()
        await asyncio.wait([forwarder])


async def _forward(listener: ChannelListener, websocket: WebSocket) -> None:
    # The route itself sees the end of its WebSocket, when it reads.
    with suppress(WebSocketDisconnect, RuntimeError):
        try:
            while True:
                data = await listener.next()
                await websocket.send_text(msgspec.json.decode(data) if data.startswith(b'"') else data.decode())
        except ListenerTooSlow:
            await websocket.close(TOO_SLOW, "slow")
