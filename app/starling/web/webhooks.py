"""Webhooks: batches of events for a backend, of clients that connect and subscribe, and of channels' occupancy."""

import asyncio
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace

import msgspec
import structlog
from msgspec import UNSET, UnsetType

from starling.clocks import wall_milliseconds
from starling.engine.allowances import payer_of
from starling.engine.occupancy import OccupancyStore, OccupiedChannels
from starling.telemetry.metrics import Metrics
from starling.web.options import WebhookOptions
from starling.web.webhook_queue import WebhookEvent, WebhookQueue
from starling.web.webhook_sender import WebhookSender, WebhookTarget

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.webhooks")

# Events in one request, and in the queue.
BATCH_EVENTS = 100
QUEUE_EVENTS = 10_000
_GATHER_SECONDS = 0.1
_STOP_SECONDS = 3.0


def build_webhooks(options: WebhookOptions, occupancy: OccupancyStore | None, metrics: Metrics) -> "Webhooks":
    """Build the webhooks that `webhook_url` gets. Raises SettingsError for a secret that cannot be read."""
    url = options.webhook_url.get_secret_value() if options.webhook_url is not None else ""
    receiver = WebhookTarget(url, options.webhook_key, options.webhook_timeout_seconds)
    return Webhooks(receiver, options.webhook_events, occupancy, metrics)


class Webhooks:
    """Implements starling.engine.lifecycle.Lifecycle: queues events and delivers them in their order."""

    def __init__(
        self,
        receiver: WebhookTarget,
        events: Collection[str],
        occupancy: OccupancyStore | None,
        metrics: Metrics,
        *,
        queue_events: int = QUEUE_EVENTS,
    ) -> None:
        """`events` are the kinds that are sent; without `occupancy` none of channels."""
        self._receiver = receiver
        self._events = frozenset(events)
        self._occupancy = occupancy if self._events & {"occupied", "vacated"} else None
        self._metrics = metrics
        self._queue_events = queue_events
        self._queue = WebhookQueue(queue_events)
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._node = ""
        self._count = 0
        self._overflowing = False
        self._sending = 0
        self._channels: OccupiedChannels | None = None
        self._sender: WebhookSender | None = None
        self._delivering: asyncio.Task[None] | None = None
        self._occupying: asyncio.Task[None] | None = None

    def replace_key(self, key: bytes | None) -> None:
        """Sign requests with `key` from now on."""
        self._receiver = replace(self._receiver, key=key)
        if self._sender is not None:
            self._sender.receiver = self._receiver

    # Life

    def start(self, node: str) -> None:
        """Begin to deliver as node `node`."""
        self._node = node
        self._sender = WebhookSender(self._receiver)
        self._delivering = asyncio.create_task(self._deliver(self._sender), name="webhooks")
        if self._occupancy is not None:
            self._channels = OccupiedChannels(
                self._occupancy,
                on_occupied=lambda *change: self._add_change("occupied", *change),
                on_vacated=lambda *change: self._add_change("vacated", *change),
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

    def connected(self, client: str, user: str, address: str = "") -> None:
        """Queue the event of a client that connected."""
        self._add("connect", client, user, owner=_owner(client, user, address))

    def disconnected(self, client: str, user: str, code: int, reason: str, address: str = "") -> None:
        """Queue the event of a client that has gone."""
        self._add("disconnect", client, user, owner=_owner(client, user, address), code=code, reason=reason)

    def subscribed(self, client: str, user: str, channel: str, address: str = "") -> None:
        """Queue the event of a client that is in a channel."""
        owner = _owner(client, user, address)
        self._add("subscribe", client, user, owner=owner, channel=channel)
        if self._channels is not None:
            self._channels.enter(channel, owner)

    def unsubscribed(self, client: str, user: str, channel: str, address: str = "", *, unused: bool = False) -> None:
        """Queue the event of a client that left a channel, or take back that it came where it left with nothing."""
        owner = _owner(client, user, address)
        if not (unused and self._take_back(client, channel)):
            self._add("unsubscribe", client, user, owner=owner, channel=channel)
        if self._channels is not None:
            self._channels.leave(channel, owner)

    def _add_change(self, kind: str, channel: str, revision: int, cause: str) -> None:
        """Queue the event of a channel whose occupancy changed."""
        self._add(kind, owner=cause, channel=channel, revision=revision)

    def _add(
        self,
        kind: str,
        client: str | UnsetType = UNSET,
        user: str | UnsetType = UNSET,
        *,
        owner: str,
        channel: str | UnsetType = UNSET,
        code: int | UnsetType = UNSET,
        reason: str | UnsetType = UNSET,
        revision: int | UnsetType = UNSET,
    ) -> None:
        if kind not in self._events:
            return
        self._count += 1
        event = WebhookEvent(
            id=f"{self._node}-{self._count}",
            event=kind,
            time=wall_milliseconds(),
            channel=channel,
            user=user,
            client=client,
            code=code,
            reason=reason,
            revision=revision,
        )
        dropped = self._queue.add(event, owner)
        self._note_dropped(dropped)
        self._metrics.webhook_queue = len(self._queue) + self._sending
        self._idle.clear()
        self._arrived.set()

    def _take_back(self, client: str, channel: str) -> bool:
        if "unsubscribe" not in self._events or not self._queue.cancel_subscribe(client, channel):
            return False
        self._metrics.webhook_queue = len(self._queue) + self._sending
        if not self._metrics.webhook_queue:
            self._idle.set()
        return True

    def _note_dropped(self, dropped: int) -> None:
        self._metrics.webhook_events["dropped"] += dropped
        if dropped and not self._overflowing:
            log.error("webhook_queue_full", events=self._queue_events, remedy="the receiver is away or slow: see to it")
        self._overflowing = bool(dropped)

    # Delivery

    async def _deliver(self, sender: WebhookSender) -> None:
        encode = msgspec.json.Encoder().encode
        while True:
            await self._arrived.wait()
            if len(self._queue) < BATCH_EVENTS:
                await asyncio.sleep(_GATHER_SECONDS)
            batch = self._queue.take(BATCH_EVENTS)
            if not self._queue:
                self._arrived.clear()
            if not batch:
                continue
            self._sending = len(batch)
            try:
                taken = await sender.send(encode({"events": batch}))
            except Exception:
                log.exception("webhook_failed")
                taken = False
            self._sending = 0
            self._metrics.webhook_queue = len(self._queue)
            self._metrics.webhook_events["delivered" if taken else "failed"] += len(batch)
            if not self._metrics.webhook_queue:
                self._idle.set()


def _owner(client: str, user: str, address: str) -> str:
    """Who an event counts for: its user, without one its address, without both the client itself."""
    return payer_of(user, address) if user or address else f"client {client}"
