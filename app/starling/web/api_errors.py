"""Errors of the server API for requests that are invalid or ask for what is not there, with the field or the remedy."""

import re

import msgspec

from starling.protocol import codes
from starling.protocol.codes import CommandRefused, Error

_LOCATION = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>[^`]*)`$")


def describe(problem: Exception) -> str:
    """`channel: expected str, got int` for what msgspec says of a request."""
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


def bad_request(remedy: str) -> Error:
    """The error of a request that cannot be meant, with its remedy."""
    return Error(codes.ERROR_BAD_REQUEST.code, f"bad request: {remedy}")


def not_available(remedy: str) -> CommandRefused:
    """The refusal of what this service does not keep or do, with its remedy."""
    return CommandRefused(Error(codes.ERROR_NOT_AVAILABLE.code, f"not available: {remedy}"))
