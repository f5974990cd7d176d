"""Options of logs, metrics and traces."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from starling.options import Options

_SECTION = "Logs, metrics and traces"


class TopChannelsOptions(Options):
    """Which channels the metrics name."""

    section = _SECTION

    top_channels: Annotated[
        int, Field(ge=0, le=100, description="How many of a pod's busiest channels the metrics name. 0: none.")
    ] = 10


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class LogOptions(Options):
    """What is logged, and how."""

    section = _SECTION

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        BeforeValidator(_lower),
        Field(description="Least severe log lines that are written."),
    ] = "info"
    log_format: Annotated[
        Literal["auto", "json", "console"],
        Field(description="`json`: one object a line. `auto`: `console` on a terminal."),
    ] = "auto"


class TracingOptions(Options):
    """Whether spans are made; where they go is OpenTelemetry's to read from the environment."""

    section = _SECTION

    tracing: Annotated[
        bool,
        Field(description="Send spans to an OpenTelemetry collector, as `OTEL_…` variables say: see docs/tracing.md."),
    ] = False
