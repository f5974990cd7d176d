"""How much of its memory limit this pod uses, from the control groups of the kernel (cgroup v2, and v1)."""

import ctypes
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
# cgroup v1 reports "no limit" as a number near 2^63.
_UNLIMITED = 2**60
# A peak of buffers that is over by this much is worth a call of malloc_trim(3).
TRIM_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class _Files:
    """What a version of the control groups calls its files, and the lines about file pages in the last of them."""

    limit: str
    usage: str
    pages: str
    file_pages: tuple[str, str]


_V2 = _Files("memory.max", "memory.current", "memory.stat", ("inactive_file", "active_file"))
_V1 = _Files(
    "memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", ("total_inactive_file", "total_active_file")
)


def _find_trim() -> Callable[[int], object]:
    library = ctypes.CDLL(None)
    return library.malloc_trim if hasattr(library, "malloc_trim") else lambda pad: None


class FreedMemory:
    """Gives memory back to the system after a peak: the C library keeps what is freed between pieces in use."""

    def __init__(self, trim: Callable[[int], object] | None = None) -> None:
        """`trim` is malloc_trim(3) of the C library, None to find it; where there is none, nothing is given back."""
        self._trim = trim or _find_trim()
        self._peak = 0

    def observe(self, size: int) -> None:
        """Note that buffers of `size` bytes are in use, and give back what a peak left behind."""
        self._peak = max(self._peak, size)
        if self._peak - size > TRIM_BYTES:
            self.give_back()
            self._peak = size

    def give_back(self) -> None:
        """Give back all that is free; takes some milliseconds for each 100 MiB."""
        self._trim(0)


class MemoryLimit:
    """The memory limit of this process's control group and of those around it; a container sees its own group."""

    def __init__(self, mount: Path = MOUNT, own_groups: Path = OWN_GROUPS) -> None:
        """`mount` is where the control groups are, `own_groups` the file that names those of this process."""
        self._groups = [(group, files) for group, files in _groups(mount, own_groups) if (group / files.limit).exists()]

    @property
    def total_bytes(self) -> int:
        """The lowest limit, which is the machine's memory where none is below it."""
        limits = [limit for group, files in self._groups if (limit := _limit(group, files))]
        return min([*limits, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")])

    def share(self) -> float | None:
        """The used share of the limit that is nearest to being reached; None where there is no limit.

        Pages of files do not count, for the kernel gives them up before it kills.
        """
        shares = [share for group, files in self._groups if (share := _share(group, files)) is not None]
        return max(shares, default=None)


def _groups(mount: Path, own_groups: Path) -> Iterator[tuple[Path, _Files]]:
    """Every group that this process may be bounded by, the innermost first, with the names of its files."""
    try:
        lines = own_groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, files = mount, _V2
        elif "memory" in controllers.split(","):
            top, files = mount / "memory", _V1
        else:
            continue
        group = top / path.lstrip("/")
        # Without a namespace of its own a container reads the host's path, and finds its own group at the top.
        while group != top:
            yield group, files
            group = group.parent
        yield top, files


def _limit(group: Path, files: _Files) -> int:
    with suppress(OSError, ValueError):
        limit = int((group / files.limit).read_text())
        if 0 < limit < _UNLIMITED:
            return limit
    return 0


def _share(group: Path, files: _Files) -> float | None:
    # A group may be going away, and "max" is no number.
    with suppress(OSError, ValueError, KeyError):
        limit = int((group / files.limit).read_text())
        if 0 < limit < _UNLIMITED:
            pages = _numbers((group / files.pages).read_text())
            used = int((group / files.usage).read_text()) - sum(pages[name] for name in files.file_pages)
            return max(0, used) / limit
    return None


def _numbers(text: str) -> Mapping[str, int]:
    return {name: int(value) for name, _, value in (line.partition(" ") for line in text.splitlines())}
