"""What the system reports of this process: its open files and its memory."""

import os
import resource
import sys
from pathlib import Path


def open_files_limit() -> int:
    """Files, sockets among them, that this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def resident_memory() -> int:
    """Bytes of this process that are in memory; where the kernel has no /proc (macOS), the most there ever were."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def count_open_files() -> int:
    """Return the number of files, sockets among them, that this process has open."""
    # Since Linux 6.2 the size of the directory is their number; to list them takes milliseconds where there are many.
    directory = "/proc/self/fd"
    try:
        return Path(directory).stat().st_size or len(os.listdir(directory))  # noqa: PTH208 - the names are not needed
    except OSError:
        # macOS has no /proc; its /dev/fd lists the same, but its size is not their number.
        return len(os.listdir("/dev/fd"))  # noqa: PTH208 - the names are not needed
