"""Plain words for what pydantic reports of a value, and the operating system of a file or an address."""

import os
import re
from collections.abc import Mapping
from typing import Any

_ERRNO = re.compile(r"\[Errno -?[0-9]+\] ")

# By pydantic's type of a problem; the names in braces are of its context.
_WORDS = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "finite_number": "must be a number, and not an infinite one",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "int_type": "must be a whole number",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "string_too_long": "must have {max_length} characters at most",
    "string_too_short": "must have {min_length} characters or more",
    "string_type": "must be a text",
    "value_error": "{error}",
}


def describe_value(problem: Mapping[str, Any]) -> str:
    """Return what is wrong with a value, as one of pydantic's problems (`ValidationError.errors()`) has it."""
    words = _WORDS.get(problem["type"])
    if words is None:
        message = str(problem["msg"])
        return f"{message[0].lower()}{message[1:]}"
    message = words.format_map(problem.get("ctx", {}))
    return f"{message[0].lower()}{message[1:]}"


def describe_failure(error: BaseException) -> str:
    """Return why a file or an address cannot be used: the words of the system, without the number of the error."""
    reason = getattr(error, "reason", None)  # as urllib wraps errors
    if isinstance(reason, OSError):
        error = reason
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return _ERRNO.sub("", str(error)) or type(error).__name__
