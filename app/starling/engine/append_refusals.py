"""How a change is refused that an append-only stream does not take."""

from collections.abc import Callable

from msgspec import Struct

from starling.engine.append_store import PRODUCERS_LIMIT, AppendOutcome, Change, StreamStatus
from starling.protocol import codes
from starling.protocol.codes import CommandRefused, Error


class StreamProblem(Struct, frozen=True, omit_defaults=True):
    """Why a stream did not take a change, for programs: `reason` is the outcome, `status` that of the stream.

    `expected` is the sequence that comes next, or the epoch of the producer that counts now.
    """

    reason: AppendOutcome
    status: StreamStatus = StreamStatus.OPEN
    expected: int = 0
    detail: str = ""


class StreamRefused(Error, frozen=True):
    """The error of a change that a stream did not take."""

    stream: StreamProblem | None = None


def _wrong_sequence(change: Change) -> tuple[int, str]:
    return codes.ERROR_BAD_REQUEST.code, f"bad request: sequence: {change.expected} is expected next of this producer"


_WORDS: dict[AppendOutcome, Callable[[Change], tuple[int, str]]] = {
    AppendOutcome.NO_STREAM: lambda _: (
        codes.ERROR_NOT_AVAILABLE.code,
        "not available: channel: there is no stream: open it with stream_open",
    ),
    AppendOutcome.OTHER_KIND: lambda change: (
        codes.ERROR_BAD_REQUEST.code,
        f"bad request: type: the stream holds {'' if change.info is None else change.info.kind.value}",
    ),
    AppendOutcome.CLOSED: lambda change: (
        codes.ERROR_NOT_AVAILABLE.code,
        f"not available: the stream is closed ({_status(change)}) until it is deleted with stream_delete",
    ),
    AppendOutcome.FULL: lambda change: (
        codes.ERROR_LIMIT_EXCEEDED.code,
        f"limit exceeded: it holds {_size(change)} bytes, with this more than stream_max_bytes of its namespace",
    ),
    AppendOutcome.GAP: _wrong_sequence,
    AppendOutcome.NEW_EPOCH: lambda _: (
        codes.ERROR_BAD_REQUEST.code,
        "bad request: sequence: the first one of another epoch of this producer is 0",
    ),
    AppendOutcome.OVERLAP: _wrong_sequence,
    AppendOutcome.ZOMBIE: lambda change: (
        codes.ERROR_PERMISSION_DENIED.code,
        f"permission denied: producer_epoch: another process took over as epoch {change.expected} of this producer",
    ),
    AppendOutcome.MANY_PRODUCERS: lambda _: (
        codes.ERROR_LIMIT_EXCEEDED.code,
        f"limit exceeded: producer: the stream knows {PRODUCERS_LIMIT} producers, and no more are taken",
    ),
    AppendOutcome.STALE_MARK: lambda _: (
        codes.ERROR_BAD_REQUEST.code,
        "bad request: the mark of order is not above the last one",
    ),
}


def append_refused(change: Change) -> CommandRefused:
    """The exception for a change whose outcome is neither DONE nor REPEATED."""
    code, message = _WORDS[change.outcome](change)
    status = StreamStatus.OPEN if change.info is None else change.info.status
    detail = "" if change.info is None else change.info.reason
    return CommandRefused(
        StreamRefused(code, message, stream=StreamProblem(change.outcome, status, change.expected, detail))
    )


def _status(change: Change) -> str:
    return "" if change.info is None else change.info.status.value


def _size(change: Change) -> int:
    return 0 if change.info is None else change.info.size
