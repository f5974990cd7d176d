"""The clocks of the process, read anew at each call, so that a test that turns them reaches what keeps such a clock."""

import time


def wall_clock() -> float:
    """Seconds since 1970."""
    return time.time()


def wall_milliseconds() -> int:
    """Whole milliseconds since 1970, as publications and events are stamped."""
    return int(time.time() * 1000)


def steady_clock() -> float:
    """Seconds of a clock that never goes back."""
    return time.monotonic()
