"""Construction of the tracer that the options ask for; what it needs is loaded only then."""

from starling.options import SettingsError, problem
from starling.telemetry.options import TracingOptions
from starling.telemetry.tracing import NoTracer, Tracer


def build_tracer(options: TracingOptions) -> Tracer:
    """Build what makes spans, if there are to be any. Raises SettingsError."""
    if not options.tracing:
        return NoTracer()
    try:
        # Memory and time that only tracing is worth, and an extra that need not be installed.
        from starling.telemetry.open_telemetry import OpenTelemetry, environment_problems
    except ModuleNotFoundError as error:
        remedy = (
            "install Starling with its extra (`pip install 'starling-realtime[otel]'`; the image has it), or unset it"
        )
        raise SettingsError([problem("tracing", f"no module {error.name}: {remedy}")]) from error
    if problems := environment_problems():
        raise SettingsError(problems)
    return OpenTelemetry()
