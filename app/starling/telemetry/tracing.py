"""The contracts of tracing for the other layers, and their implementation where tracing is off.

OpenTelemetry itself stands behind starling.telemetry.open_telemetry, which is imported only where tracing is on.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

# The results of a span. All are exported as 0 from the start: `rate()` misses the first increase of a new series.
NO_SPANS: Mapping[str, int] = MappingProxyType({"exported": 0, "failed": 0, "dropped": 0})


class TraceContext(NamedTuple):
    """A position in a sampled trace, in the terms of W3C Trace Context (https://www.w3.org/TR/trace-context/)."""

    traceparent: str
    tracestate: str = ""


class Publishing(Protocol):
    """A publication on its way to the broker."""

    trace: TraceContext | None
    """What the broker carries with it; None where the trace is not sampled."""

    def fail(self, error: str, channels: int) -> None:
        """Record that it was not stored in `channels` channels, because of an `error` of this kind."""


class SocketWrite(Protocol):
    """The write of the pending frames of one group of subscribers."""

    def end(self) -> None:
        """Record that the last socket has it, or its queue."""


class Delivery(Protocol):
    """A publication of a sampled trace that goes out to this process's subscribers."""

    def owe(self, connections: int) -> None:
        """Add `connections` that are to receive it."""

    def end(self) -> None:
        """Record that all its receivers are known."""

    def write(self, *, connections: int, frames: int, size: int) -> SocketWrite:
        """Begin to write to `connections` sockets: `frames` joined frames, together `size` bytes for each."""


LogProcessor = Callable[[Any, str, Any], Any]


class Tracer(Protocol):
    """What makes spans. It is made before the fork; `start` comes after it, and before everything below."""

    on: bool
    log_processors: Sequence[LogProcessor]
    """What adds the current trace to log lines."""

    @property
    def spans(self) -> Mapping[str, int]:
        """What became of the spans so far, in number, with the keys of NO_SPANS."""

    def start(self, node: str) -> None:
        """Begin to send spans as node `node`, within the worker."""

    async def stop(self) -> None:
        """Send what is left, for a short while at most."""

    def received(self, traceparent: str, tracestate: str) -> AbstractContextManager[object]:
        """What happens within belongs to the trace that a request names; text that names none changes nothing."""

    def command(self, method: str, connection_id: str) -> AbstractContextManager[object]:
        """What happens within is a client's command, and begins a trace if the sampler wants it."""

    def publish(self, channel: str, namespace: str, *, size: int, channels: int) -> AbstractContextManager[Publishing]:
        """What happens within publishes `size` bytes of data in `channel` or, where that is empty, in many."""

    def fan_out(self, channel: str, namespace: str, *, offset: int, trace: TraceContext) -> Delivery | None:
        """A publication that carries `trace` has come; None where nothing is to be noted of it."""


_NOTHING = nullcontext()


class _Untraced:
    """Publishing without tracing."""

    trace: TraceContext | None = None

    def fail(self, error: str, channels: int) -> None:
        """Note nothing."""


_UNTRACED = nullcontext(_Untraced())


class NoTracer:
    """A tracer where tracing is off."""

    on = False
    log_processors: Sequence[LogProcessor] = ()
    spans = NO_SPANS

    def start(self, node: str) -> None:
        """Do nothing."""

    async def stop(self) -> None:
        """Do nothing."""

    def received(self, traceparent: str, tracestate: str) -> AbstractContextManager[object]:
        """Ignore the trace."""
        return _NOTHING

    def command(self, method: str, connection_id: str) -> AbstractContextManager[object]:
        """Begin no trace."""
        return _NOTHING

    def publish(self, channel: str, namespace: str, *, size: int, channels: int) -> AbstractContextManager[Publishing]:
        """Publish without a trace."""
        return _UNTRACED

    def fan_out(self, channel: str, namespace: str, *, offset: int, trace: TraceContext) -> Delivery | None:
        """Ignore the trace, which another process with tracing on has begun."""
        return None
