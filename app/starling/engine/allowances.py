"""What each user may cost this worker, by user, or by address where a client has no user."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from starling.engine.peer_address import network_of
from starling.protocol.budget import Budget

# Budgets are looked through for those that are not needed any more after this many new ones.
_SWEEP = 1000


class Spender(Protocol):
    """A client whose user or address pays."""

    id: str
    user: str
    address: str


def payer(client: Spender) -> str:
    """Who pays for a client: its user, without one its address, without both the client itself."""
    if client.user or client.address:
        return payer_of(client.user, client.address)
    return f"client {client.id}"


def payer_of(user: str, address: str) -> str:
    """Who pays for a client of a user, or without one at an address."""
    return f"user {user}" if user else f"address {network_of(address)}"


class Budgets:
    """A budget for each name; none is kept longer than it is needed."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`burst` may be spent at once, `rate` is given back in a second; 0 is no limit."""
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._budgets: dict[str, Budget] = {}
        self._sweep_at = _SWEEP

    def exhausted(self, name: str) -> bool:
        """Whether nothing is left for `name` at the moment."""
        budget = self._budgets.get(name)
        return budget is not None and budget.unforgiven(self._clock()) + 1 > self._burst + 1e-9

    def spend(self, name: str) -> None:
        """Spend one."""
        if not self._rate:
            return
        now = self._clock()
        budget = self._budgets.get(name)
        if budget is None:
            if len(self._budgets) >= self._sweep_at:
                self._budgets = {name: each for name, each in self._budgets.items() if each.unforgiven(now) > 0}
                self._sweep_at = len(self._budgets) + _SWEEP
            budget = self._budgets[name] = Budget(self._rate)
        budget.spend(now)


class AddressBudgets(Budgets):
    """A budget for each address, which IPv6 addresses of one network share (see `network_of`)."""

    def exhausted(self, name: str) -> bool:
        """Whether nothing is left for the address `name` at the moment."""
        return super().exhausted(network_of(name))

    def spend(self, name: str) -> None:
        """Spend one."""
        super().spend(network_of(name))


# A user by its name, which takes no memory of its own, or an address in a tuple, so that no name is taken for one.
Holder = str | tuple[str]


class ConnectionLimit:
    """Connections of one user, and of one address without a user, in this worker; 0 is no limit."""

    def __init__(self, per_user: int, per_address: int) -> None:
        self._per_user = per_user
        self._per_address = per_address
        self._counts: Counter[Holder] = Counter()

    def full(self, user: str, address: str) -> bool:
        """Whether one more is too many."""
        most = self._per_user if user else self._per_address
        return bool(most) and self._counts.get(_holder(user, address), 0) >= most

    def add(self, user: str, address: str) -> Holder:
        """Count a connection; returns what to `remove` it by."""
        holder = _holder(user, address)
        self._counts[holder] += 1
        return holder

    def remove(self, holder: Holder) -> None:
        """Count a connection no more."""
        self._counts[holder] -= 1
        if self._counts[holder] <= 0:
            del self._counts[holder]


def _holder(user: str, address: str) -> Holder:
    return user or (network_of(address),)
