"""Whether this worker should be sent new clients: local state only, so that a shared outage empties nothing."""

from collections.abc import Callable
from enum import Enum

from starling.telemetry.metric_sink import MetricSink


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
    """The reasons that hold now, and what is known of the broker; observers are called at each change."""

    def __init__(self) -> None:
        self.reasons: set[Unready] = {Unready.STARTING}
        self.broker = "connecting"
        self._observers: list[Callable[[], None]] = []

    def observe(self, observer: Callable[[], None]) -> None:
        """Call `observer` at each change from now on."""
        self._observers.append(observer)

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
            self._changed()

    def release(self, reason: Unready) -> None:
        """Say that `reason` no longer holds."""
        if reason in self.reasons:
            self.reasons.remove(reason)
            self._changed()

    def _changed(self) -> None:
        for observer in self._observers:
            observer()

    def note_broker(self, state: str) -> None:
        """Note the state of the broker link for the body of the probes; it does not unready a worker by itself."""
        if state != self.broker:
            self.broker = state
            self._changed()

    def report(self, metrics: MetricSink) -> None:
        """Set the metrics of readiness and drain."""
        metrics.set("starling_worker_ready", int(self.ready))
        metrics.set("starling_worker_draining", int(self.draining))

    def describe(self) -> dict[str, object]:
        """The body of probes: `ready`, the sorted `reasons`, and `broker`."""
        return {"ready": self.ready, "reasons": sorted(reason.value for reason in self.reasons), "broker": self.broker}
