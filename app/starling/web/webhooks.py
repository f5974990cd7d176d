"""Webhooks: a backend is posted in batches who comes and goes, and which channels have anybody in them."""

import asyncio
import time
from collections import deque
from collections.abc import Collection
from contextlib import suppress

import msgspec
import structlog
from msgspec import UNSET, Struct, UnsetType

from starling.engine.occupancy import Occupancy, OccupiedChannels
from starling.telemetry.metrics import Metrics
from starling.web.webhook_sender import Receiver, WebhookSender

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.webhooks")

# Events in one request, and in the queue.
BATCH_EVENTS = 100
QUEUE_EVENTS = 10_000
_GATHER_SECONDS = 0.1
_STOP_SECONDS = 3.0


class WebhookEvent(Struct):
    """One event as its receiver reads it. `time` in milliseconds since 1970; fields that do not apply are left out."""

    id: str
    event: str
    time: int
    channel: str | UnsetType = UNSET
    user: str | UnsetType = UNSET
    client: str | UnsetType = UNSET
    code: int | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    revision: int | UnsetType = UNSET


class Webhooks:
    """Implements starling.engine.lifecycle.Lifecycle: queues what it is told, and has it delivered in that order."""

    def __init__(
        self,
        receiver: Receiver,
        events: Collection[str],
        occupancy: Occupancy | None,
        metrics: Metrics,
        *,
        queue_events: int = QUEUE_EVENTS,
    ) -> None:
        """`events` are the kinds that are wanted; without `occupancy` channels are not told of."""
        self._receiver = receiver
        self._events = frozenset(events)
        self._occupancy = occupancy if self._events & {"occupied", "vacated"} else None
        self._metrics = metrics
        self._queue_events = queue_events
        self._queue: deque[WebhookEvent] = deque()
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._node = ""
        self._count = 0
        self._overflowing = False
        self._channels: OccupiedChannels | None = None
        self._sender: WebhookSender | None = None
        self._delivering: asyncio.Task[None] | None = None
        self._occupying: asyncio.Task[None] | None = None

    # Life

    def start(self, node: str) -> None:
        """Begin to deliver as node `node`."""
        self._node = node
        self._sender = WebhookSender(self._receiver)
        self._delivering = asyncio.create_task(self._deliver(self._sender), name="webhooks")
        if self._occupancy is not None:
            self._channels = OccupiedChannels(
                self._occupancy,
                on_occupied=lambda channel, revision: self._tell("occupied", channel=channel, revision=revision),
                on_vacated=lambda channel, revision: self._tell("vacated", channel=channel, revision=revision),
            )
            self._occupying = asyncio.create_task(self._channels.run(), name="occupancy")

    async def stop(self) -> None:
        """Give the channels up, deliver what is left, and count as dropped what cannot be delivered within seconds."""
        deadline = asyncio.get_running_loop().time() + _STOP_SECONDS
        if self._occupying is not None and self._channels is not None:
            self._occupying.cancel()
            await asyncio.wait((self._occupying,))
            await self._channels.close()
        if self._delivering is None or self._sender is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._idle.wait()
        self._delivering.cancel()
        await asyncio.wait((self._delivering,))
        await self._sender.close()
        if left := self._metrics.webhook_queue:
            self._metrics.webhook_events["dropped"] += left
            self._metrics.webhook_queue = 0
            log.warning("webhook_events_dropped", events=left, reason="the receiver did not take them before the stop")

    # What happens

    def connected(self, client: str, user: str) -> None:
        """Tell of a client that was let in."""
        self._tell("connect", client, user)

    def disconnected(self, client: str, user: str, code: int, reason: str) -> None:
        """Tell of a client that is gone."""
        self._tell("disconnect", client, user, code=code, reason=reason)

    def subscribed(self, client: str, user: str, channel: str) -> None:
        """Tell of a client that is in a channel."""
        self._tell("subscribe", client, user, channel=channel)
        if self._channels is not None:
            self._channels.enter(channel)

    def unsubscribed(self, client: str, user: str, channel: str) -> None:
        """Tell of a client that left a channel."""
        self._tell("unsubscribe", client, user, channel=channel)
        if self._channels is not None:
            self._channels.leave(channel)

    def _tell(
        self,
        kind: str,
        client: str | UnsetType = UNSET,
        user: str | UnsetType = UNSET,
        *,
        channel: str | UnsetType = UNSET,
        code: int | UnsetType = UNSET,
        reason: str | UnsetType = UNSET,
        revision: int | UnsetType = UNSET,
    ) -> None:
        if kind not in self._events:
            return
        if self._metrics.webhook_queue >= self._queue_events:
            self._metrics.webhook_events["dropped"] += 1
            if not self._overflowing:
                self._overflowing = True
                log.error(
                    "webhook_queue_full", events=self._queue_events, remedy="the receiver is away or slow: see to it"
                )
            return
        self._overflowing = False
        self._count += 1
        event = WebhookEvent(
            id=f"{self._node}-{self._count}",
            event=kind,
            time=int(time.time() * 1000),
            channel=channel,
            user=user,
            client=client,
            code=code,
            reason=reason,
            revision=revision,
        )
        self._queue.append(event)
        self._metrics.webhook_queue += 1
        self._idle.clear()
        self._arrived.set()

    # Delivery

    async def _deliver(self, sender: WebhookSender) -> None:
        encode = msgspec.json.Encoder().encode
        while True:
            await self._arrived.wait()
            if len(self._queue) < BATCH_EVENTS:
                await asyncio.sleep(_GATHER_SECONDS)
            batch = [self._queue.popleft() for _ in range(min(BATCH_EVENTS, len(self._queue)))]
            if not self._queue:
                self._arrived.clear()
            try:
                taken = await sender.send(encode({"events": batch}))
            except Exception:
                log.exception("webhook_failed")
                taken = False
            self._metrics.webhook_queue -= len(batch)
            self._metrics.webhook_events["delivered" if taken else "failed"] += len(batch)
            if not self._metrics.webhook_queue:
                self._idle.set()
