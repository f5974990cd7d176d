"""A bound on the memory of all bytes of a worker that wait for clients which read slowly, or not at all."""

import time
from collections.abc import Collection
from typing import Protocol

import structlog

from starling.engine.memory import MemoryLimit
from starling.server.options import SocketOptions

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.server")

# After a look at every client, this part of the budget may be added before the next look.
_LOOK_SHARE = 1 / 16
# Clients are disconnected until this part of the budget is free.
_FREE_SHARE = 1 / 8
# What disconnected clients may hold beyond the budget until they have read their close frame.
_CLOSING_SHARE = 1 / 4
_LOG_SECONDS = 10.0


def waiting_budget(options: SocketOptions, workers: int) -> int:
    """The bytes that may wait in one of `workers`, its part of the share of the memory limit; 0: no bound."""
    share = options.waiting_memory_share
    return max(1, int(MemoryLimit().total_bytes * share / workers)) if share else 0


class SlowClient(Protocol):
    """A client for which bytes wait."""

    @property
    def own_waiting_bytes(self) -> int:
        """Waiting bytes whose memory no other client shares."""

    @property
    def closing(self) -> bool:
        """Whether the client has been disconnected, and its socket has not ended yet."""

    def overflow(self) -> None:
        """Disconnect the client because it reads too slowly."""

    def abort(self) -> None:
        """Cut the socket and drop what waits."""


class WaitingBudget:
    """Disconnects the clients that wait with most when all of a worker wait with more than `most` bytes (0: never).

    The frames of a fan-out are one piece of memory for all its receivers, so only a client's own bytes count: replies,
    and what is left of frames that were written in part.
    """

    def __init__(self, waiting: Collection[SlowClient], most: int = 0) -> None:
        self.disconnected = 0
        self._waiting = waiting
        self._most = most
        # At most this much waits: what waited at the last look, and all that was added since.
        self._at_most = 0
        self._look_at = most
        self._looking = False
        self._logged_at = -_LOG_SECONDS

    def add(self, size: int) -> None:
        """Note `size` bytes more."""
        self._at_most += size
        if self._most and self._at_most > self._look_at and not self._looking:
            self._looking = True
            try:
                self._look()
            finally:
                self._looking = False

    def _look(self) -> None:
        open_bytes = closing_bytes = 0
        for client in self._waiting:
            if client.closing:
                closing_bytes += client.own_waiting_bytes
            else:
                open_bytes += client.own_waiting_bytes
        if open_bytes > self._most:
            closed = self._disconnect(open_bytes)
            open_bytes, closing_bytes = open_bytes - closed, closing_bytes + closed
        if closing_bytes > self._most * _CLOSING_SHARE:
            closing_bytes -= self._abort(closing_bytes)
        self._at_most = open_bytes + closing_bytes
        self._look_at = max(self._most, self._at_most + int(self._most * _LOOK_SHARE))

    def _disconnect(self, waiting_bytes: int) -> int:
        """Disconnect those that wait with most; returns the bytes that wait for them."""
        closed, before = 0, self.disconnected
        for client in self._by_size(closing=False):
            if waiting_bytes - closed <= self._most * (1 - _FREE_SHARE):
                break
            closed += client.own_waiting_bytes
            self.disconnected += 1
            client.overflow()
        now = time.monotonic()
        if now - self._logged_at >= _LOG_SECONDS:
            self._logged_at = now
            log.warning(
                "waiting_bytes_over_budget",
                waiting_bytes=waiting_bytes,
                budget_bytes=self._most,
                disconnected=self.disconnected - before,
                disconnected_in_all=self.disconnected,
                remedy="clients do not read what they ask for; see STARLING_WAITING_MEMORY_SHARE",
            )
        return closed

    def _abort(self, closing_bytes: int) -> int:
        freed = 0
        for client in self._by_size(closing=True):
            if closing_bytes - freed <= self._most * _CLOSING_SHARE:
                break
            freed += client.own_waiting_bytes
            client.abort()
        return freed

    def _by_size(self, *, closing: bool) -> list[SlowClient]:
        clients = [client for client in self._waiting if client.closing is closing]
        return sorted(clients, key=lambda client: client.own_waiting_bytes, reverse=True)
