"""Whether a regular expression for channel names is safe: tried, when it is read, with names that are hard to refuse.

Python's matcher tries every way to split a name among nested repetitions, as in `^(a+)+$`, before it gives up: one name
could then stop the event loop for seconds.
"""

import math
import re
import signal
import threading
import time
from collections.abc import Iterator
from itertools import permutations
from types import FrameType
from typing import Any, Self

from starling.engine.pattern_names import Pump, pumps

# In seconds of CPU. Ordinary expressions take a few microseconds for the longest name.
SLOW = 0.01
_INTERRUPT = 0.1
_LONGEST = 255
_LENGTHS = (*range(4, 64, 2), 80, 100, 128, 160, 200, _LONGEST)
_COMMON = "a0A-_. "
# Characters that no ordinary expression for names takes, so that the end of a name refuses it.
_ENDS = ("!", "\u2028", "")
_LITERAL_START = re.compile(r"\^?((?:[A-Za-z0-9_:#/@ -]|\\[.\-/+*?])*)")


def slow_name(pattern: re.Pattern[str]) -> str | None:
    """A name that `pattern` takes over SLOW for; None where none was found.

    Names grow little by little, so that a slow one is met long before one that takes seconds. An expression that wants
    long names is instant for all shorter ones, so each name also has a time limit, as far as this is the main thread.
    """
    with _TimeLimit() as limit:
        return _first_slow(pattern, limit)


def _first_slow(pattern: re.Pattern[str], limit: "_TimeLimit") -> str | None:
    ends = (*_ENDS, *dict.fromkeys(re.findall(r"[^\w\s{}]", pattern.pattern)))
    start = _literal_start(pattern.pattern)
    for pump in (*pumps(pattern.pattern), *(Pump(start, unit) for unit in _units(pattern.pattern))):
        for end in ends:
            for length in _LENGTHS:
                name: str = (pump.start + pump.unit * length)[: _LONGEST - 1] + end
                # The second time is no accident.
                if limit.seconds(pattern, name) > SLOW and limit.seconds(pattern, name) > SLOW:
                    return name
                if len(name) >= _LONGEST:
                    break
    return None


class _TimeExceeded(Exception):
    """The name took longer than names may take by far."""


class _TimeLimit:
    """Measures searches, and interrupts one that takes too long, by a signal that Python's matcher looks for."""

    def __init__(self) -> None:
        self._searching = False
        self._interrupts = threading.current_thread() is threading.main_thread()
        self._before: Any = None

    def __enter__(self) -> Self:
        if self._interrupts:
            self._before = signal.signal(signal.SIGVTALRM, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        if self._interrupts:
            signal.signal(signal.SIGVTALRM, self._before)

    def _interrupt(self, _: int, __: FrameType | None) -> None:
        if self._searching:
            raise _TimeExceeded

    def seconds(self, pattern: re.Pattern[str], name: str) -> float:
        """CPU time of a search, in seconds; infinite where it was interrupted."""
        began = time.thread_time()
        self._searching = True
        try:
            if self._interrupts:
                signal.setitimer(signal.ITIMER_VIRTUAL, _INTERRUPT)
            pattern.search(name)
        except _TimeExceeded:
            return math.inf
        finally:
            self._searching = False
            if self._interrupts:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
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
