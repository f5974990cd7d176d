"""Measurement of the time that Python's garbage collector takes, during which nothing else runs."""

import gc
import time
from typing import Any

from starling.telemetry.metrics import Metrics

GENERATIONS = 3


class GarbageStats:
    """Collections of this process and the seconds they took, between `start` and `stop`."""

    def __init__(self) -> None:
        self.collections = [0] * GENERATIONS
        self.seconds = 0.0
        self._began = 0.0

    def start(self) -> None:
        """Register with the collector."""
        gc.callbacks.append(self._note)

    def stop(self) -> None:
        """Unregister."""
        if self._note in gc.callbacks:
            gc.callbacks.remove(self._note)

    def report(self, metrics: Metrics) -> None:
        """Set the metrics of the collector."""
        metrics.count("starling_worker_gc_seconds_total", self.seconds)
        for generation, collections in enumerate(self.collections):
            metrics.count("starling_worker_gc_collections_total", collections, str(generation))

    def _note(self, phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self.seconds += time.perf_counter() - self._began
            self.collections[info["generation"]] += 1
