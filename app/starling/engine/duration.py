"""Durations as files write them: a number and a unit."""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(value: object) -> object:
    """Seconds from `40ms`, `300s`, `5m`, `24h` or `30d`. Raises ValueError for a number without a unit, except 0."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value != 0:
        raise ValueError("write a duration as a number and a unit, such as 300s, 5m, 24h or 30d")
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|[smhd])", value.strip())
    if match is None:
        raise ValueError("write a duration as a number and a unit, such as 300s, 5m, 24h or 30d")
    return float(match[1]) * _UNITS[match[2]]


Duration = Annotated[float, BeforeValidator(parse_duration), Field(ge=0)]
