"""Errors of the server API: of invalid requests, of what is not there, and of what the broker did not do."""

import re

import msgspec
import structlog

from starling.engine.broker import BrokerRefused, BrokerUnavailable, PublicationTooLarge
from starling.protocol import codes
from starling.protocol.codes import CommandRefused, Error

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.api")

_LOCATION = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>[^`]*)`$")


def describe(problem: Exception) -> str:
    """`channel: expected str, got int` for what msgspec says of a request, in characters that can be sent."""
    # The name of a member may hold half of a UTF-16 pair, which UTF-8 has not.
    return _described(problem).encode(errors="backslashreplace").decode()


def _described(problem: Exception) -> str:
    if isinstance(problem, UnicodeError):
        return "the body is not UTF-8"
    if isinstance(problem, RecursionError):
        return "the body is nested too deeply"
    location = _LOCATION.match(str(problem))
    if not isinstance(problem, msgspec.ValidationError) or location is None:
        return f"the body is no JSON that can be read: {problem}"
    path = (location["path"] or "$").removeprefix("$").removeprefix(".")
    what = location["what"]
    if missing := _MISSING.match(what):
        path = f"{path}.{missing['name']}" if path else missing["name"]
        what = "it is missing"
    what = what[:1].lower() + what[1:].replace("`", "")
    return f"{path}: {what}" if path else what


def invalid(problem: Exception) -> Error:
    """The error of a request that cannot be decoded."""
    return Error(codes.ERROR_BAD_REQUEST.code, f"bad request: {describe(problem)}")


def bad_request(remedy: str) -> Error:
    """The error of a request that cannot be meant, with its remedy."""
    return Error(codes.ERROR_BAD_REQUEST.code, f"bad request: {remedy}")


def not_available(remedy: str) -> CommandRefused:
    """The refusal of what this service does not keep or do, with its remedy."""
    return CommandRefused(Error(codes.ERROR_NOT_AVAILABLE.code, f"not available: {remedy}"))


class Unavailable(Error, frozen=True):
    """The broker did not do it; the answer's status is 503."""


UNAVAILABLE = Unavailable(
    codes.ERROR_INTERNAL.code, "the broker does not answer, and may have done it or not: try again"
)
NOT_READ = Unavailable(codes.ERROR_INTERNAL.code, "the broker does not answer, so nothing was read: try again")
# Methods that change nothing.
READS = frozenset(
    {
        "can",
        "channels",
        "connections",
        "history",
        "info",
        "presence",
        "presence_stats",
        "stream_info",
        "stream_list",
        "top",
    }
)
FAILED = Error(codes.ERROR_INTERNAL.code, "internal server error: the log has the cause")


def error_of(name: str, failure: Exception) -> Error:
    """The error that answers a request of a method; what is nobody's fault but ours is logged."""
    if isinstance(failure, CommandRefused):
        reason = failure.reason
        return reason if isinstance(reason, Error) else Error(codes.ERROR_INTERNAL.code, reason.reason)
    if isinstance(failure, BrokerUnavailable):
        return unavailable(failure, reads=name in READS)
    if isinstance(failure, PublicationTooLarge):
        return Error(codes.ERROR_LIMIT_EXCEEDED.code, f"limit exceeded: {failure}")
    log.error("api_method_failed", method=name, exc_info=failure)
    return FAILED


def unavailable(failure: BrokerUnavailable, *, reads: bool = False) -> Unavailable:
    """The error of what the broker did not do: it refused, and why, or it does not answer."""
    if isinstance(failure, BrokerRefused):
        return Unavailable(codes.ERROR_INTERNAL.code, f"the broker did nothing: {failure}")
    return NOT_READ if reads else UNAVAILABLE
