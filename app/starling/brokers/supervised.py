"""The supervision that every link to a server shares: reconnecting, the canary, and reports of a lost link."""

import asyncio
import os
import random
import socket
import ssl
import time
from abc import abstractmethod
from collections.abc import Coroutine
from typing import Any
from uuid import uuid4

import structlog

from starling.brokers.broadcast import MAX_EVENTS, EventQueue, LinkBackend, LinkEvent
from starling.brokers.link import Link, LinkLost, LinkStats
from starling.brokers.probe import receives_own_message
from starling.brokers.subscriptions import LinkSubscriptions
from starling.engine.broker import BrokerUnavailable, LinkState

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.broker")

# Delivery resumes within 5 s of the server's return, so no wait between two attempts is longer than this. Seconds.
_FIRST_WAIT = 0.05
_LONGEST_WAIT = 1.0
# After a link that lived this long the next attempt follows at once. Seconds.
_PROVEN = 2.0
_CANARY_INTERVAL = 1.0
_CANARY_TIMEOUT = 3.0
# A canary that is late because this process was blocked this long proves nothing about the link. Seconds.
_STANDSTILL = 0.5
_COUNT_INTERVAL = 2.0
# This number of links failed one after the other, each while a probe received its message: this process is at fault.
_UNRESPONSIVE = 3


def in_words(error: Exception) -> str:
    """What a failure is called in the log; the address is in the same line."""
    inner = error if isinstance(error, OSError) else error.__context__
    if isinstance(inner, OSError) and inner.errno and not isinstance(inner, ssl.SSLError | socket.gaierror):
        return os.strerror(inner.errno)
    return str(error) or type(error).__name__


class SupervisedBackend(LinkBackend):
    """Holds one Link and replaces it whenever it fails or falls silent.

    A canary detects silence: the backend subscribes a channel of its own before all others, publishes to it over the
    path that publications take, and must receive the message. Nothing else detects a server that is frozen while its
    kernel keeps the connection. The canary does not show that another subscription was lost; the server's count of
    subscriptions does. When consecutive links fail although a probe receives its own message, the backend reports
    LinkState.UNRESPONSIVE.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float,
        max_events: int = MAX_EVENTS,
        queue: EventQueue | None = None,
    ) -> None:
        """`address` is for the log, without credentials; `timeout` in seconds bounds one call to the server.

        `max_events` bounds the events that may wait; beyond it messages are dropped and counted, and a loss of the link
        is reported, so that streams heal. Several that share a `queue` report as one.
        """
        self.stats = LinkStats()
        self.identity = uuid4().hex[:12]
        self.timeout = timeout
        self._address = address
        self._subscriptions = LinkSubscriptions()
        super().__init__(queue or EventQueue(max_events), self._subscriptions.wanted)
        self._state = LinkState.CONNECTING
        self._reason = ""
        self._ever_up = False
        self._canary_channel = ""
        self._canary_number = 0
        self._canary_payload = b""
        self._canary_received: asyncio.Future[None] | None = None
        self._supervisor: asyncio.Task[None] | None = None

    # Methods that each server's backend implements

    @abstractmethod
    def make_link(self) -> Link:
        """A link that is not open yet."""

    @abstractmethod
    async def publish(self, channel: str, message: bytes) -> None:
        """Send to every process. Raises BrokerUnavailable in bounded time when the outcome is unknown."""

    @abstractmethod
    async def publish_apart(self, channel: str, message: bytes) -> None:
        """Send over a connection that is opened for it. Raises BrokerUnavailable."""

    @abstractmethod
    async def open_publishing(self) -> None:
        """Make `publish` possible; called once, from `connect`."""

    @abstractmethod
    async def close_publishing(self) -> None:
        """End `publish`; called once, from `disconnect`."""

    async def first_up(self) -> None:
        """Inspect the server once, when the link is up for the first time. May raise BrokerUnavailable."""

    async def check_server(self) -> None:
        """Check the server at intervals while the link is up. Raises LinkLost when it is no longer the right one."""

    def own_channel(self, purpose: str) -> str:
        """A channel that this process alone listens to, over the server that the link leads to."""
        return f":{purpose}:{self.identity}"

    def report_states(self, *states: LinkState) -> None:
        """Report changes of the link, in their order among the messages."""
        for state in states:
            self._queue.put(LinkEvent(state))

    def remedy(self, reason: str) -> str:
        """The remedy for a link lost for `reason`; empty where the reason is enough."""
        return ""

    # The interface of broadcaster

    async def connect(self) -> None:
        """Begin to connect, and return at once."""
        self.report_states(LinkState.CONNECTING)
        await self.open_publishing()
        self._supervisor = asyncio.create_task(self._supervise(), name="broker-link")

    async def disconnect(self) -> None:
        """Close all connections."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait((self._supervisor,))
        self._subscriptions.close()
        await self.close_publishing()
        self.stats.up = False

    async def subscribe(self, group: str) -> None:
        """Return when the server has acknowledged. Raises BrokerUnavailable after `timeout`; the request stands."""
        group.encode()  # A name that has no UTF-8 is this caller's error, and must not reach the link that all share.
        self._subscriptions.want(group)
        if not await self._subscriptions.wait(group, self.timeout):
            raise BrokerUnavailable(
                f"no subscription was acknowledged within {self.timeout:g} s; it is made good when the link returns"
            )

    async def unsubscribe(self, group: str) -> None:
        """Deliver nothing more of `group`; the server is informed later."""
        self._subscriptions.drop(group)

    # The supervisor

    async def _supervise(self) -> None:
        failed_while_probed = 0
        while True:
            failures = self.stats.failed_swaps
            probe = asyncio.create_task(self._probe(), name="broker-probe") if failures else None
            try:
                opened_at = time.monotonic()
                reason = await self._hold(self.make_link())
                came_up = self._state is LinkState.UP
                if came_up and time.monotonic() - opened_at > _PROVEN:
                    failures = -1
                self.stats.failed_swaps = failures = failures + 1
                self._link_down(reason)
                wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(failures, 10))
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, no secret
                # A link that received its canary was cut from outside: this process is not at fault.
                failed_while_probed = (
                    failed_while_probed + 1 if failures and not came_up and self._probe_received(probe) else 0
                )
                if failed_while_probed == _UNRESPONSIVE:
                    failed_while_probed = 0
                    log.error("broker_link_unresponsive", address=self._address, reason=reason, failed_swaps=failures)
                    self.report_states(LinkState.UNRESPONSIVE)
            finally:
                if probe is not None:
                    probe.cancel()
                    await asyncio.wait((probe,))

    async def _probe(self) -> bool:
        channel = self.own_channel("probe")
        try:
            return await receives_own_message(self.make_link(), self.publish_apart, channel, seconds=_CANARY_TIMEOUT)
        except Exception:
            log.exception("broker_probe_failed", address=self._address)
            return False

    def _probe_received(self, probe: asyncio.Task[bool] | None) -> bool:
        """Whether the probe received its message while the link failed; a probe that still waits did not."""
        if probe is None:
            return False
        received = probe.done() and probe.result()
        self.stats.probes["received" if received else "silent"] += 1
        return received

    async def _hold(self, link: Link) -> str:
        """Use `link` until it fails; returns the reason."""
        tasks: list[asyncio.Task[None]] = []
        self._canary_channel = self.own_channel("canary")
        try:
            await self._in_time(link.open(), "connecting")
            subscribed = asyncio.Event()
            tasks = [
                asyncio.create_task(link.read(self.receive), name="broker-read"),
                asyncio.create_task(self._keep_subscribed(link, subscribed), name="broker-subscribe"),
                asyncio.create_task(self._keep_checking(subscribed), name="broker-canary"),
            ]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await done.pop()
        except LinkLost as error:
            return str(error)
        except Exception as error:
            log.exception("broker_link_failed", address=self._address)
            return type(error).__name__
        finally:
            self._subscriptions.link_lost()
            for task in tasks:
                task.cancel()
            try:
                await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                await link.close()
        return "the link ended without a reason"

    async def _keep_subscribed(self, link: Link, subscribed: asyncio.Event) -> None:
        subscriptions = self._subscriptions
        await self._in_time(link.subscribe([self._canary_channel]), "subscribing")
        while True:
            subscriptions.changed.clear()
            while missing := subscriptions.next_missing(link.batch):
                await self._in_time(link.subscribe(missing), "subscribing")
                subscriptions.acknowledged(missing)
            while surplus := subscriptions.next_surplus(link.batch):
                await self._in_time(link.unsubscribe(surplus), "unsubscribing")
            subscribed.set()
            try:
                async with asyncio.timeout(_COUNT_INTERVAL):
                    await subscriptions.changed.wait()
            except TimeoutError:
                await self._count_subscriptions(link)

    async def _count_subscriptions(self, link: Link) -> None:
        deadline = time.monotonic() + _CANARY_TIMEOUT
        try:
            await self._in_time(link.check_count(), "counting subscriptions")
            await self._in_time(self.check_server(), "looking at the server")
        except LinkLost:
            if not time.monotonic() - deadline > _STANDSTILL:
                raise

    async def _in_time(self, call: Coroutine[Any, Any, None], doing: str) -> None:
        try:
            async with asyncio.timeout(_CANARY_TIMEOUT):
                await call
        except TimeoutError:
            raise LinkLost(f"no answer within {_CANARY_TIMEOUT:g} s while {doing}") from None

    # The canary

    async def _keep_checking(self, subscribed: asyncio.Event) -> None:
        await subscribed.wait()
        while True:
            if await self._exchange_canary() and self._state is not LinkState.UP:
                await self._link_up()
            await asyncio.sleep(_CANARY_INTERVAL)

    async def _exchange_canary(self) -> bool:
        """Publish a canary and receive it; False when this process was blocked meanwhile. Raises LinkLost."""
        self._canary_number += 1
        self._canary_payload = b"%d" % self._canary_number
        self._canary_received = asyncio.get_running_loop().create_future()
        # Not the loop's own clock: uvloop's counts whole milliseconds.
        sent_at = time.monotonic()
        deadline = sent_at + _CANARY_TIMEOUT
        problem = ""
        try:
            async with asyncio.timeout(_CANARY_TIMEOUT):
                while True:
                    sent_at = time.monotonic()
                    try:
                        await self.publish(self._canary_channel, self._canary_payload)
                        break
                    except BrokerUnavailable as error:
                        problem = f": {error}"
                        await asyncio.sleep(_FIRST_WAIT)
                problem = ""
                await self._canary_received
        except TimeoutError:
            if time.monotonic() - deadline > _STANDSTILL:
                return False
            raise LinkLost(f"no canary received within {_CANARY_TIMEOUT:g} s{problem}") from None
        self.stats.canary_received_at = time.monotonic()
        self.stats.canary_round_trip_seconds = self.stats.canary_received_at - sent_at
        return True

    # Received messages

    def on_unwanted(self, channel: str, message: bytes) -> None:
        """Take the canary; what else comes was unsubscribed meanwhile."""
        if (
            channel == self._canary_channel
            and message == self._canary_payload
            and self._canary_received is not None
            and not self._canary_received.done()
        ):
            self._canary_received.set_result(None)

    def on_overflow(self) -> None:
        """Report the link lost and restored, so that streams read what is dropped from here on.

        Nothing else is queued before half of the queue is taken, so they read after the last message that was dropped.
        """
        if self._state is LinkState.UP:
            self.report_states(LinkState.DOWN, LinkState.UP)

    async def _link_up(self) -> None:
        self._state = LinkState.UP
        self._reason = ""
        self.stats.up = True
        self.stats.failed_swaps = 0
        self.report_states(LinkState.UP)
        log.info("broker_link_up", address=self._address, channels=len(self._subscriptions.wanted))
        if self._ever_up:
            self.stats.reconnects += 1
            return
        self._ever_up = True
        try:
            await self.first_up()
        except BrokerUnavailable as error:
            log.info("broker_not_inspected", address=self._address, reason=str(error))

    def _link_down(self, reason: str) -> None:
        self.stats.up = False
        if self._state is not LinkState.DOWN:
            self._state = LinkState.DOWN
            self.report_states(LinkState.DOWN)
        if reason != self._reason:
            self._reason = reason
            remedy = self.remedy(reason)
            log.warning(
                "broker_link_down", address=self._address, reason=reason, **({"remedy": remedy} if remedy else {})
            )
