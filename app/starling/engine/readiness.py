"""Whether this worker should be sent new clients: local state only, so that a shared outage empties nothing."""

from collections.abc import Callable
from enum import Enum


class Unready(Enum):
    """Why a worker wants no new clients."""

    STARTING = "starting"
    BROKER_NEVER_REACHED = "broker_never_reached"
    BROKER_UNAVAILABLE = "broker_unavailable"
    AT_CAPACITY = "at_capacity"
    LAGGING = "lagging"
    SHORT_OF_MEMORY = "short_of_memory"
    DRAINING = "draining"


class Readiness:
    """The reasons that hold now, and what is known of the broker; told to `on_change` at each change."""

    def __init__(self) -> None:
        self.reasons: set[Unready] = {Unready.STARTING}
        self.broker = "connecting"
        self.on_change: Callable[[], None] = lambda: None

    @property
    def ready(self) -> bool:
        """True while nothing speaks against new clients."""
        return not self.reasons

    @property
    def started(self) -> bool:
        """True once the configuration stands and the first contact with the broker was tried."""
        return Unready.STARTING not in self.reasons

    @property
    def draining(self) -> bool:
        """True from SIGTERM on."""
        return Unready.DRAINING in self.reasons

    def hold(self, reason: Unready) -> None:
        """Say that `reason` speaks against new clients."""
        if reason not in self.reasons:
            self.reasons.add(reason)
            self.on_change()

    def release(self, reason: Unready) -> None:
        """Say that `reason` no longer holds."""
        if reason in self.reasons:
            self.reasons.remove(reason)
            self.on_change()

    def tell_broker(self, state: str) -> None:
        """Note the state of the broker link for the body of the probes; it does not unready a worker by itself."""
        if state != self.broker:
            self.broker = state
            self.on_change()

    def report(self) -> dict[str, object]:
        """The probes' body: `ready`, the sorted `reasons`, and `broker`."""
        return {"ready": self.ready, "reasons": sorted(reason.value for reason in self.reasons), "broker": self.broker}
