"""What the master knows of its workers, for the probes and the metrics of the whole pod."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from starling.telemetry.top_channels import ChannelTraffic, joined

# A worker that has not shown itself so long gets no new clients; the master replaces it later.
SILENT_SECONDS = 10.0
# A worker tells so many of its busiest channels, in a file that ends so.
TOP_CHANNELS = 100
CHANNELS_SUFFIX = ".channels.json"
TRAFFIC = (
    ("subscribers", "Subscribers of the pod's busiest channels."),
    ("messages_per_second", "Messages a second of the pod's busiest channels, over about ten seconds."),
    ("deliveries_per_second", "Messages to single clients a second of the pod's busiest channels."),
    ("bytes_per_second", "Payload bytes to clients a second of the pod's busiest channels."),
    ("dropped_per_second", "Broker messages dropped a second of the pod's busiest channels."),
)

_decode_traffic = msgspec.json.Decoder(list[ChannelTraffic]).decode


class Pod(Collector):
    """The workers as their heartbeats and status files show them; read by a thread beside the master's own."""

    def __init__(self, status_dir: Path, heartbeat_seconds: float, *, top_channels: int = 10) -> None:
        """At most `top_channels` channels are named to Prometheus."""
        self._status_dir = status_dir
        self._top_channels = top_channels
        self._heartbeat_seconds = heartbeat_seconds
        self.heartbeats: Callable[[], dict[int, float]] = dict
        """Gives each worker's process id and the seconds since it showed that its event loop turns."""
        self.stopping = False
        self.restarts = 0

    def forget(self, pid: int) -> None:
        """A worker has ended."""
        for suffix in (".json", CHANNELS_SUFFIX):
            (self._status_dir / f"{pid}{suffix}").unlink(missing_ok=True)
        if not self.stopping:
            self.restarts += 1

    @property
    def alive(self) -> bool:
        """True while some worker's event loop turns, and to the end of a stop that was asked for."""
        return self.stopping or any(age < self._heartbeat_seconds for age in self.heartbeats().values())

    @property
    def started(self) -> bool:
        """True once some worker has started."""
        return any(report["started"] for report in self.workers())

    @property
    def ready(self) -> bool:
        """True while some worker wants new clients and the pod is not stopping."""
        return not self.stopping and any(report["ready"] for report in self.workers())

    def report(self) -> dict[str, object]:
        """Give the probes' body: `ready`, `stopping`, and each worker's own report."""
        return {"ready": self.ready, "stopping": self.stopping, "workers": self.workers()}

    def workers(self) -> list[dict[str, Any]]:
        """Give each worker's report, with `silent_seconds` since its last heartbeat; a silent one is not ready."""
        return [self._describe(pid, age) for pid, age in sorted(self.heartbeats().items())]

    def _describe(self, pid: int, age: float) -> dict[str, Any]:
        try:
            report = msgspec.json.decode((self._status_dir / f"{pid}.json").read_bytes(), type=dict[str, Any])
        except (OSError, msgspec.DecodeError):
            report = {"pid": pid, "started": False, "ready": False, "reasons": ["booting"], "broker": "unknown"}
        if age > SILENT_SECONDS:
            report |= {"ready": False, "reasons": [*report["reasons"], "silent"]}
        return {**report, "silent_seconds": round(max(age, 0.0), 1)}

    def collect(self) -> Iterable[Metric]:
        """Give Prometheus what only the master knows."""
        workers = GaugeMetricFamily("starling_workers", "Worker processes that run now.")
        workers.add_metric([], len(self.heartbeats()))
        restarts = CounterMetricFamily(
            "starling_worker_restarts", "Workers that ended though no stop was asked for, each replaced by another."
        )
        restarts.add_metric([], self.restarts)
        silent = GaugeMetricFamily(
            "starling_worker_silent_seconds", "Since a worker showed that its event loop turns.", labels=["worker"]
        )
        # Numbered from 1, for process ids would make a new series at each restart.
        for number, (_, age) in enumerate(sorted(self.heartbeats().items()), start=1):
            silent.add_metric([str(number)], max(age, 0.0))
        busiest = self.top_channels(self._top_channels)
        return [workers, restarts, silent, *(_traffic(name, meaning, busiest) for name, meaning in TRAFFIC)]

    def top_channels(self, limit: int) -> list[ChannelTraffic]:
        """Give the `limit` busiest channels over this pod's workers, the busiest first."""
        return joined((self._traffic_of(pid) for pid in self.heartbeats()), limit)

    def _traffic_of(self, pid: int) -> list[ChannelTraffic]:
        try:
            return _decode_traffic((self._status_dir / f"{pid}{CHANNELS_SUFFIX}").read_bytes())
        except (OSError, msgspec.DecodeError):
            return []


def _traffic(figure: str, meaning: str, busiest: list[ChannelTraffic]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"starling_top_channel_{figure}", meaning, labels=["channel"])
    for traffic in busiest:
        family.add_metric([traffic.channel], getattr(traffic, figure))
    return family
