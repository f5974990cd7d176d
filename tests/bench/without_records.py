"""Starling with recorders that keep nothing: what metrics and logs cost is the difference to the real one.

    STARLING_RUNTIME_DIR=DIRECTORY python -m tests.bench.without_records

Numbers that are plain integers on a message's way are still added up, for no recorder could add less; nothing is
observed, carried over to Prometheus, formatted or written.
"""

import logging
import os
from pathlib import Path
from typing import Any

import structlog

from starling.settings import load_settings


def log_nothing(*_arguments: object) -> None:
    """Stands in for `configure_logging`."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=True
    )
    logging.disable(logging.CRITICAL)


def main() -> None:
    """Serve as `starling serve` does."""
    metrics_dir = Path(os.environ["STARLING_RUNTIME_DIR"]) / "metrics"
    metrics_dir.mkdir(parents=True, exist_ok=True)
    # prometheus_client chooses at its first import where numbers live.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_dir)
    from starling import main as composition
    from starling.telemetry.metrics import Distribution, Metrics

    class NullDistribution(Distribution):
        def observe(self, seconds: float, times: int = 1) -> None:
            """Forget it."""

    class NullMetrics(Metrics):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.delivery = NullDistribution(self.delivery.bounds)

        def flush(self) -> None:
            """Carry nothing over."""

    for name, substitute in {"Metrics": NullMetrics, "configure_logging": log_nothing}.items():
        if name not in vars(composition):
            raise SystemExit(f"starling.main has no {name} any more: fix tests/bench/without_records.py")
        setattr(composition, name, substitute)
    composition.run(load_settings(os.environ))


if __name__ == "__main__":
    main()
