"""Whether a regular expression for channel names is safe: tried, when it is read, with names that are hard to refuse.

Python's matcher tries every way to split a name among nested repetitions, as in `^(a+)+$`, before it gives up: one name
could then stop the event loop for seconds.
"""

import re
import time
from collections.abc import Iterator
from itertools import permutations

from starling.engine.pattern_names import Pump, pumps

# In seconds of CPU. Ordinary expressions take a few microseconds for the longest name.
SLOW = 0.01
_LONGEST = 255
_LENGTHS = (*range(4, 64, 2), 80, 100, 128, 160, 200, _LONGEST)
_COMMON = "a0A-_. "
# Characters that no ordinary expression for names takes, so that the end of a name refuses it.
_ENDS = ("!", "\u2028", "")
_LITERAL_START = re.compile(r"\^?((?:[A-Za-z0-9_:#/@ -]|\\[.\-/+*?])*)")


def slow_name(pattern: re.Pattern[str]) -> str | None:
    """A name that `pattern` takes over SLOW for; None where none was found.

    Names grow little by little, so that a slow one is met long before one that takes seconds.
    """
    ends = (*_ENDS, *dict.fromkeys(re.findall(r"[^\w\s{}]", pattern.pattern)))
    start = _literal_start(pattern.pattern)
    for pump in (*pumps(pattern.pattern), *(Pump(start, unit) for unit in _units(pattern.pattern))):
        for end in ends:
            for length in _LENGTHS:
                name: str = (pump.start + pump.unit * length)[: _LONGEST - 1] + end
                # The second time is no accident.
                if _seconds(pattern, name) > SLOW and _seconds(pattern, name) > SLOW:
                    return name
                if len(name) >= _LONGEST:
                    break
    return None


def _seconds(pattern: re.Pattern[str], name: str) -> float:
    began = time.thread_time()
    pattern.search(name)
    return time.thread_time() - began


def _units(expression: str) -> Iterator[str]:
    """What names are made of: characters that the expression may repeat, one by one and in pairs."""
    characters = list(dict.fromkeys([*re.findall(r"[^\W_]", expression), *_COMMON]))[:24]
    yield from characters
    yield from map("".join, permutations(characters[:5], 2))


def _literal_start(expression: str) -> str:
    """The characters that a name must begin with to reach the rest of the expression."""
    found = _LITERAL_START.match(expression)
    literal = found[1] if found is not None else ""
    following = expression[found.end() : found.end() + 1] if found is not None else ""
    start = re.sub(r"\\(.)", r"\1", literal)
    return start[:-1] if following in tuple("*+?{") and following else start
