"""Which channels have subscribers, over all processes: the contract of its store, and this process's part in it."""

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import structlog

from starling.engine.broker import BrokerUnavailable

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.occupancy")

# A holder that did not call for this part of the ttl is gone. Others look for such holders every fifth of the ttl, so
# that what it held is vacated within the ttl.
LEASE_SHARE = 2 / 3
_CALL_SHARE = 1 / 5

# Channels in one call.
_PORTION = 500
# Changes are gathered this long, so that a page reload in an otherwise empty channel may pass unseen. Seconds.
_GATHER_SECONDS = 0.1
_RETRY_SECONDS = 1.0
_CLOSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class OccupancyChange:
    """What one call changed for the whole cluster, no channel twice.

    `revision` grows from call to call over all holders: of the changes reported for a channel the highest holds. With
    `more` the store has more changes to return and must be called again.
    """

    occupied: list[str]
    vacated: list[str]
    revision: int
    more: bool = False


class OccupancyStore(Protocol):
    """Keeps which holder has subscribers in which channels; a holder is one process, for as long as it is not lost.

    A holder that does not call for two thirds of `ttl` seconds is gone: what it held is given up, and the next call of
    any holder returns the channels that became empty by that.
    """

    ttl: float

    async def change(
        self, holder: str, number: int, *, enter: Sequence[str] = (), leave: Sequence[str] = ()
    ) -> OccupancyChange | None:
        """Hold the channels `enter` too, `leave` those, and stay alive; returns what that changed for the cluster.

        Calls of a holder are numbered from 1 on. Raises BrokerUnavailable; the same call with the same number may then
        be made again, counts once and returns the same. None: the store lost the holder or its last calls; it has to
        start again under another name.
        """


@dataclass(frozen=True, slots=True)
class _Call:
    number: int
    enter: list[str]
    leave: list[str]
    causes: dict[str, str]


class OccupiedChannels:
    """The channels that this process's clients are in.

    `on_occupied` and `on_vacated` get the channel, the revision and the cause when this process made it non-empty or
    empty for the whole cluster, or found that a crashed one did, which has the cause "". Changes undone within 0.1 s
    may stay unreported.
    """

    def __init__(
        self,
        store: OccupancyStore,
        *,
        on_occupied: Callable[[str, int, str], None],
        on_vacated: Callable[[str, int, str], None],
    ) -> None:
        self._store = store
        self._on_occupied = on_occupied
        self._on_vacated = on_vacated
        self._clients: Counter[str] = Counter()
        self._held: set[str] = set()
        # Each with what caused its last change here.
        self._changed: dict[str, str] = {}
        self._wake = asyncio.Event()
        self._holder = secrets.token_hex(8)
        self._number = 0
        self._unanswered: _Call | None = None
        self._away = False

    def enter(self, channel: str, cause: str = "") -> None:
        """One client more is in a channel; `cause` is whose."""
        self._clients[channel] += 1
        if self._clients[channel] == 1:
            self._note(channel, cause)

    def leave(self, channel: str, cause: str = "") -> None:
        """One client less is in a channel; `cause` is whose."""
        self._clients[channel] -= 1
        if not self._clients[channel]:
            del self._clients[channel]
            self._note(channel, cause)

    def _note(self, channel: str, cause: str) -> None:
        self._changed[channel] = cause
        self._wake.set()

    async def run(self) -> None:
        """Keep the store right until cancelled."""
        while True:
            pause = self._store.ttl * _CALL_SHARE * random.uniform(0.8, 1.0)  # noqa: S311 - spreads load
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
                    await asyncio.sleep(_GATHER_SECONDS)
            await self._settle()

    async def close(self) -> None:
        """Give every channel up, within seconds: for a process that ends. `run` must have ended."""
        self._changed |= dict.fromkeys(self._clients, "")
        self._clients.clear()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._settle()
        except TimeoutError:
            log.warning("occupancy_left_behind", channels=len(self._held), reason="others find them when they look")

    async def _settle(self) -> None:
        """Call the store until it knows all that changed here, and has no more changes to return."""
        while True:
            self._wake.clear()
            call = self._unanswered = self._unanswered or self._next_call()
            try:
                change = await self._store.change(self._holder, call.number, enter=call.enter, leave=call.leave)
            except BrokerUnavailable as error:
                if not self._away:
                    self._away = True
                    log.warning(
                        "occupancy_not_kept", reason=str(error), remedy="it is made good when the broker answers"
                    )
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            self._away = False
            self._unanswered = None
            if change is None:
                self._begin_anew()
                continue
            self._take(call, change)
            if not change.more and not self._changed:
                return

    def _next_call(self) -> _Call:
        causes = dict(islice(self._changed.items(), _PORTION))
        for channel in causes:
            del self._changed[channel]
        self._number += 1
        return _Call(
            self._number,
            enter=[channel for channel in causes if channel in self._clients and channel not in self._held],
            leave=[channel for channel in causes if channel not in self._clients and channel in self._held],
            causes=causes,
        )

    def _take(self, call: _Call, change: OccupancyChange) -> None:
        self._held.update(call.enter)
        self._held.difference_update(call.leave)
        for channel in change.occupied:
            self._on_occupied(channel, change.revision, call.causes.get(channel, ""))
        for channel in change.vacated:
            self._on_vacated(channel, change.revision, call.causes.get(channel, ""))

    def _begin_anew(self) -> None:
        """Hold everything under another name; what the store still has under the old one goes by itself."""
        log.warning("occupancy_lost", channels=len(self._clients), reason="the store lost what this process held")
        self._holder = secrets.token_hex(8)
        self._number = 0
        self._held.clear()
        self._changed = dict.fromkeys(self._clients, "")
