"""The names of time series: those the application has, and those a PromQL expression asks for."""

from pathlib import Path

import promql_parser

from starling.server.board import Board
from starling.server.pod import Pod
from starling.telemetry.metric_list import METRICS

# What Grafana would fill in.
FILLED_IN = {"$__rate_interval": "1m", "$__interval": "1m", "$quantile": "0.99"}


def exposed_names() -> set[str]:
    """Every name under which samples come: of the workers, and of the master."""
    names: set[str] = set()
    for metric in METRICS:
        parts = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        names.update(metric.name + part for part in parts)
    for family in Pod(Board(), Path("unused"), heartbeat_seconds=1).collect():
        # The busiest channels have no samples where there are no channels.
        names.update([sample.name for sample in family.samples] or [family.name])
    return names


def names_in(expression: str) -> set[str]:
    """The names that `expression` asks for. Raises ValueError where it is not PromQL."""
    for variable, value in FILLED_IN.items():
        expression = expression.replace(variable, value)
    found: set[str] = set()

    def note(node: object) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.add(node.name or expression)
        return True

    promql_parser.walk(promql_parser.parse(expression), note)
    return found
