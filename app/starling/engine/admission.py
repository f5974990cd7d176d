"""Admission: whether this worker accepts one more client, decided before any work is done for it."""

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from starling.engine.allowances import AddressBudgets, Budgets, ConnectionLimit
from starling.engine.hub import Hub
from starling.engine.memory import FreedMemory
from starling.engine.options import AdmissionOptions
from starling.engine.readiness import Readiness, Unready
from starling.engine.upgrade import Rejection
from starling.protocol.budget import Budget
from starling.telemetry.metrics import Metrics
from starling.telemetry.process_stats import open_files_limit

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.admission")

# Hysteresis: new clients are accepted again at this share of the lag limit, and this far below the memory limit.
LAG_RELEASE = 0.5
MEMORY_RELEASE = 0.05
# Seconds between two log lines about refused clients, however many there are.
LOG_SECONDS = 10.0
# Seconds between two returns of freed memory to the system while memory is short.
GIVE_BACK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """What clients may do in this worker, counted by user and address."""

    first_uses: Budgets
    connections: ConnectionLimit
    failed_connects: AddressBudgets


class Admission:
    """Rejects clients while this worker drains, is full, lags, is short of memory, or gets too many connects."""

    def __init__(
        self,
        hub: Hub,
        readiness: Readiness,
        limits: AdmissionOptions,
        memory_share: Callable[[], float | None],
        clients: ClientLimits,
    ) -> None:
        """`memory_share` returns the share of its memory limit that the pod uses, None where there is no limit."""
        self.memory_share = 0.0
        """As `observe` measured it last; 0 where there is no limit."""
        self.clients = clients
        self._hub = hub
        self._readiness = readiness
        self._limits = limits
        self._measure_memory = memory_share
        self._freed = FreedMemory()
        self._gave_back_at = -GIVE_BACK_SECONDS
        self._lag = 0.0
        self._connects = Budget(limits.connects_per_second) if limits.connects_per_second else None
        self._refused: Counter[str] = Counter()
        self._logged_at = -LOG_SECONDS

    @property
    def full(self) -> bool:
        """True when no further client fits."""
        return bool(self._limits.max_connections) and len(self._hub.connections) >= self._limits.max_connections

    def refusal(self) -> Rejection | None:
        """Return why a client is rejected, or None, which counts as a connect: call it once for each client."""
        refusal = self._refusal()
        if refusal is not None:
            self._refused[refusal.reason] += 1
        return refusal

    def _refusal(self) -> Rejection | None:
        # The retry times are spread, so that rejected clients do not all reconnect at one moment.
        reasons = self._readiness.reasons
        if Unready.DRAINING in reasons:
            return Rejection("draining", "this server is stopping; connect again", _between(1, 5))
        if self.full:
            return self.no_room()
        if Unready.LAGGING in reasons:
            return Rejection("lag", "this server is too busy; try again", _between(5, 30))
        if Unready.SHORT_OF_MEMORY in reasons:
            return Rejection("memory", "this server is short of memory; try again", _between(5, 30))
        at_once = max(1.0, self._limits.connects_per_second)
        if self._connects is not None and not self._connects.afford(time.monotonic(), at_once):
            return Rejection("connect_rate", "too many clients connect at once; try again", _between(1, 15))
        return None

    def no_room(self) -> Rejection:
        """The rejection by a full worker: for a client that was admitted while others took the last connections."""
        return Rejection("capacity", "this server is full; try again", _between(5, 30))

    def observe(self, lag: float) -> None:
        """Take the event loop's delay in seconds and update readiness; to be called once a second."""
        self._hold(Unready.AT_CAPACITY, holds=self.full)
        self._lag = (self._lag + lag) / 2
        self._watch(
            Unready.LAGGING, self._lag, self._limits.max_lag_seconds, self._limits.max_lag_seconds * LAG_RELEASE
        )
        self.memory_share = self._measure_memory() or 0.0
        most = self._limits.max_memory_share
        self._watch(Unready.SHORT_OF_MEMORY, self.memory_share, most, most - MEMORY_RELEASE)
        self._give_back_memory()
        self._log_refusals()

    def report(self, metrics: Metrics) -> None:
        """Set the metrics of memory and of the connections that fit."""
        metrics.set("starling_memory_used_ratio", self.memory_share)
        metrics.set("starling_connections_capacity", self._limits.max_connections or open_files_limit())

    def _give_back_memory(self) -> None:
        now = time.monotonic()
        if Unready.SHORT_OF_MEMORY in self._readiness.reasons and now - self._gave_back_at >= GIVE_BACK_SECONDS:
            self._gave_back_at = now
            self._freed.give_back()

    def _watch(self, reason: Unready, value: float, limit: float, release: float) -> None:
        if limit and value > limit:
            self._hold(reason, holds=True)
        elif value < release or not limit:
            self._hold(reason, holds=False)

    def _hold(self, reason: Unready, *, holds: bool) -> None:
        if holds == (reason in self._readiness.reasons):
            return
        if holds:
            self._readiness.hold(reason)
        else:
            self._readiness.release(reason)
        log.warning(
            "admission_changed",
            reason=reason.value,
            refuses=holds,
            connections=len(self._hub.connections),
            lag_seconds=round(self._lag, 3),
            memory_share=round(self.memory_share, 3),
        )

    def _log_refusals(self) -> None:
        now = time.monotonic()
        if self._refused and now - self._logged_at >= LOG_SECONDS:
            log.warning("clients_refused", **self._refused)
            self._refused.clear()
            self._logged_at = now


def _between(least: int, most: int) -> int:
    return random.randint(least, most)  # noqa: S311 - spreads a crowd, hides nothing
