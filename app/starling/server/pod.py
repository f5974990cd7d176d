"""The state of a pod's workers, for its probes and metrics."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from starling.server.board import Board, Slot
from starling.telemetry.top_channels import ChannelTraffic, joined

# A worker without a heartbeat for this long gets no new clients; the master replaces it later. Seconds.
SILENT_SECONDS = 10.0
# The number of busiest channels that a worker reports, and the suffix of the file.
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
    """The workers as the board and their files of busy channels show them."""

    def __init__(self, board: Board, status_dir: Path, heartbeat_seconds: float, *, top_channels: int = 10) -> None:
        """At most `top_channels` channels are named to Prometheus."""
        self._board = board
        self._status_dir = status_dir
        self._top_channels = top_channels
        self._heartbeat_seconds = heartbeat_seconds

    @property
    def stopping(self) -> bool:
        """Whether the pod was asked to stop."""
        return self._board.stopping

    def pids(self) -> list[int]:
        """The process ids of the workers that run, those that showed a heartbeat last first: they answer."""
        return [slot.pid for slot in sorted(self._board.workers(), key=lambda slot: slot.beat, reverse=True)]

    @property
    def alive(self) -> bool:
        """True while some worker's event loop turns, and to the end of a stop that was asked for."""
        return self.stopping or any(age < self._heartbeat_seconds for age in self._board.heartbeats().values())

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
        return [self._describe(slot) for slot in sorted(self._board.workers(), key=lambda slot: slot.pid)]

    def _describe(self, slot: Slot) -> dict[str, Any]:
        age = time.monotonic() - slot.beat
        try:
            report = msgspec.json.decode(slot.report, type=dict[str, Any])
        except msgspec.DecodeError:
            report = {"pid": slot.pid, "started": False, "ready": False, "reasons": ["booting"], "broker": "unknown"}
        if age > SILENT_SECONDS:
            report |= {"ready": False, "reasons": [*report["reasons"], "silent"]}
        return {**report, "configuration": slot.applied, "silent_seconds": round(max(age, 0.0), 1)}

    def collect(self) -> Iterable[Metric]:
        """Give Prometheus what only the master knows."""
        workers = GaugeMetricFamily("starling_workers", "Worker processes that run now.")
        heartbeats = self._board.heartbeats()
        workers.add_metric([], len(heartbeats))
        restarts = CounterMetricFamily(
            "starling_worker_restarts", "Workers that ended though no stop was asked for, each replaced by another."
        )
        restarts.add_metric([], self._board.restarts)
        version = GaugeMetricFamily(
            "starling_configuration_version", "Version of the configuration: 1 at the start, one more at each reload."
        )
        version.add_metric([], self._board.version)
        failed = GaugeMetricFamily(
            "starling_configuration_reload_failed", "1 while the last reload found a mistake, and so changed nothing."
        )
        failed.add_metric([], int(self._board.reload_failed))
        silent = GaugeMetricFamily(
            "starling_worker_silent_seconds", "Since a worker showed that its event loop turns.", labels=["worker"]
        )
        # Numbered from 1, for process ids would make a new series at each restart.
        for number, (_, age) in enumerate(sorted(heartbeats.items()), start=1):
            silent.add_metric([str(number)], max(age, 0.0))
        busiest = self.top_channels(self._top_channels)
        return [
            workers,
            restarts,
            version,
            failed,
            silent,
            *(_traffic(name, meaning, busiest) for name, meaning in TRAFFIC),
        ]

    def top_channels(self, limit: int) -> list[ChannelTraffic]:
        """Give the `limit` busiest channels over this pod's workers, the busiest first."""
        return joined((self._traffic_of(pid) for pid in self.pids()), limit)

    def _traffic_of(self, pid: int) -> list[ChannelTraffic]:
        try:
            return _decode_traffic((self._status_dir / f"{pid}{CHANNELS_SUFFIX}").read_bytes())
        except (OSError, msgspec.DecodeError):
            return []


def _traffic(field: str, meaning: str, busiest: list[ChannelTraffic]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"starling_top_channel_{field}", meaning, labels=["channel"])
    for traffic in busiest:
        family.add_metric([traffic.channel], getattr(traffic, field))
    return family
