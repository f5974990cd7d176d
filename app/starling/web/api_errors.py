"""Says in words what is wrong with a request to the server API, naming the field."""

import re

import msgspec

_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>[^`]*)`$")


def describe(problem: Exception) -> str:
    """`channel: expected str, got int` for what msgspec says of a request."""
    if isinstance(problem, UnicodeError):
        return "the body is not UTF-8"
    if isinstance(problem, RecursionError):
        return "the body is nested too deeply"
    place = _PLACE.match(str(problem))
    if not isinstance(problem, msgspec.ValidationError) or place is None:
        return f"the body is no JSON that can be read: {problem}"
    path = (place["path"] or "$").removeprefix("$").removeprefix(".")
    what = place["what"]
    if missing := _MISSING.match(what):
        path = f"{path}.{missing['name']}" if path else missing["name"]
        what = "it is missing"
    what = what[:1].lower() + what[1:].replace("`", "")
    return f"{path}: {what}" if path else what
