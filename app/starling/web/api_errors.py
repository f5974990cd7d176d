"""Error messages for invalid requests to the server API, which name the field."""

import re

import msgspec

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
