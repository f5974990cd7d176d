"""The contract by which parts report metrics, without the library behind it, which reads its environment on import."""

from typing import Protocol


class MetricSink(Protocol):
    """Takes the values of metrics by name; starling.telemetry.metrics.Metrics is one."""

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set gauge `name`."""

    def count(self, name: str, total: float, *labels: str) -> None:
        """Bring counter `name` to `total`, which only grows within this process."""
