"""What a worker does when its link to the broker comes up, goes down or stays unresponsive."""

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from starling.engine.broker import BrokerUnavailable, LinkState
from starling.engine.clock import Turn
from starling.engine.presence_tracker import PresenceTracker
from starling.engine.readiness import Readiness, Unready
from starling.engine.revocation import Revocations
from starling.engine.subscriptions import Subscriptions
from starling.engine.tasks import Tasks

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.link")

# A worker whose link stays unresponsive exits after a random delay up to this, so that a pod's workers do not exit
# together.
RETIRE_SECONDS = 10.0
# A publication that the broker has accepted may still be on its way for this long before it counts as missed.
IN_FLIGHT_SECONDS = 1.0
# Pauses between attempts to read what was missed, once the link is back.
CATCH_UP_PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)


class LinkWatch:
    """Follows the state of the broker link: readiness, catching up after a loss, and the end of a hopeless worker.

    A broker away for over `grace` seconds unreadies this worker (0: never). The first contact of all workers with the
    broker creates `contact_file`; without it a worker is not ready before its own first contact. `retire` ends this
    worker as SIGTERM does.
    """

    def __init__(
        self,
        readiness: Readiness,
        subscriptions: Subscriptions,
        revocations: Revocations,
        presence: PresenceTracker,
        tasks: Tasks,
        *,
        grace: float,
        contact_file: Path | None,
        retire: Callable[[], None],
    ) -> None:
        self._readiness = readiness
        self._subscriptions = subscriptions
        self._revocations = revocations
        self._presence = presence
        self._tasks = tasks
        self._grace = grace
        self._contact_file = contact_file
        self._retire = retire
        self._lost_at: float | None = None
        self._retiring: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Hold readiness until the first contact, unless another worker has made it already."""
        if self._contact_file is None or not self._contact_file.exists():
            self._readiness.hold(Unready.BROKER_NEVER_REACHED)

    def on_link(self, state: LinkState) -> None:
        """Note the link's state; the first one, good or bad, ends the start."""
        self._readiness.note_broker(state.value)
        if state is LinkState.CONNECTING:
            return
        if state is LinkState.UP:
            self._on_up()
        elif self._lost_at is None:
            self._lost_at = time.monotonic()
        if state is LinkState.UNRESPONSIVE and self._retiring is None:
            self._retiring = self._tasks.start(self._retire_later())
        self._readiness.release(Unready.STARTING)

    def _on_up(self) -> None:
        self._revocations.catch_up()
        if self._lost_at is not None:
            self._tasks.start(self._catch_up())
            self._tasks.start(self._presence.refresh())
        self._lost_at = None
        self._readiness.release(Unready.BROKER_NEVER_REACHED)
        self._readiness.release(Unready.BROKER_UNAVAILABLE)
        if self._contact_file is not None:
            self._contact_file.touch()

    def each_second(self, turn: Turn) -> None:
        """Unready this worker once the broker has been away for too long."""
        if self._grace and self._lost_at is not None and time.monotonic() - self._lost_at > self._grace:
            self._readiness.hold(Unready.BROKER_UNAVAILABLE)

    def stop(self) -> None:
        """Give up a retirement that is under way: the worker ends anyway."""
        if self._retiring is not None:
            self._retiring.cancel()

    async def check_positions(self) -> None:
        """Compare the streams' positions with the store's and heal those that differ."""
        try:
            await self._subscriptions.check(in_flight=IN_FLIGHT_SECONDS)
        except BrokerUnavailable:
            log.info("positions_not_checked", reason="the broker does not answer")

    async def _retire_later(self) -> None:
        """End this worker after a random delay, unless its link works again by then."""
        seconds = random.uniform(0, RETIRE_SECONDS)  # noqa: S311 - spreads the exits of a pod's workers
        log.error("worker_unresponsive", retires_in_seconds=round(seconds, 3))
        await asyncio.sleep(seconds)
        if self._lost_at is None:
            log.info("worker_responsive_again")
        else:
            log.error(
                "worker_retires", reason="its link stays unresponsive, while the broker serves its other connections"
            )
            self._retire()
        self._retiring = None

    async def _catch_up(self) -> None:
        """Read what the link missed while it was down, even if the broker is not fully back yet."""
        for pause in CATCH_UP_PAUSES:
            try:
                await self._subscriptions.check(in_flight=0)
            except BrokerUnavailable:
                await asyncio.sleep(pause)
            else:
                return
        log.warning("positions_not_checked", reason="the broker does not answer since its link is back")
