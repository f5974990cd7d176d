"""Files of metrics on a disk that may be full: pages are allocated before they are written, or values stay in memory.

prometheus_client writes sparse files through a map, and a page that the disk cannot give is SIGBUS, which ends the
process. Members of prometheus_client that this module uses, held by tests/telemetry/test_metric_files.py:
`values.MmapedDict`; `mmap_dict.MmapedDict` with `_capacity`, `_f`, `_fname`, `_init_value`, `_m`, `_positions`,
`_used`, `close`, `read_all_values_from_file`, `write_value`.
"""

import mmap
import os
import struct
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import prometheus_client.values
import structlog
from prometheus_client.mmap_dict import MmapedDict

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.metrics")

INITIAL_BYTES = 1 << 16
_USED = struct.Struct("ii")
# Of a key: its length, its end aligned to eight bytes, and two doubles.
_ENTRY_BYTES = 4 + 8 + 16

# How values of workers that have ended become one, by the kind that a file's name begins with. Gauges of one moment
# (`gauge_liveall_…`) go with their worker.
MERGED: dict[str, Callable[[float, float], float]] = {
    "counter": lambda one, other: one + other,
    "histogram": lambda one, other: one + other,
    "gauge_max": max,
    "gauge_min": min,
    "gauge_sum": lambda one, other: one + other,
}
ENDED = "0"


class AllocatedDict(MmapedDict):
    """A MmapedDict whose file has all its pages; where the disk has no room its values are kept in memory alone."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        if not read_mode and not _exists(filename):
            try:
                _create(filename)
            except OSError as error:
                _report_once(os.getpid(), str(Path(filename).parent), str(error.strerror))
                self._begin_in_memory(filename)
                return
        super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Close the file, where there is one."""
        if self._f is None:
            self._m.close()
        else:
            super().close()  # type: ignore[no-untyped-call]

    def _begin_in_memory(self, filename: str) -> None:
        self._f: Any = None
        self._fname = filename
        self._capacity = INITIAL_BYTES
        self._m = mmap.mmap(-1, self._capacity)
        self._positions: dict[str, int] = {}
        self._used = _USED.size
        self._m[: _USED.size] = _USED.pack(self._used, 0)

    def _init_value(self, key: str) -> None:
        while self._used + len(key.encode()) + _ENTRY_BYTES > self._capacity:
            self._grow(self._capacity * 2)
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def _grow(self, capacity: int) -> None:
        file: Any = self._f
        if file is not None:
            try:
                _allocate(file.fileno(), capacity)
                self._m = mmap.mmap(file.fileno(), capacity)
            except OSError as error:
                _report_once(os.getpid(), str(Path(self._fname).parent), str(error.strerror))
                file.close()
                self._f = file = None
        if file is None:
            memory = mmap.mmap(-1, capacity)
            memory[: self._used] = self._m[: self._used]
            self._m = memory
        self._capacity = capacity


def allocate_metric_files() -> None:
    """Have prometheus_client keep the values of all metrics that are made from now on in this way."""
    prometheus_client.values.MmapedDict = AllocatedDict  # type: ignore[attr-defined]


def merge_ended(directory: Path, running: Iterable[int]) -> None:
    """Merge the files of processes that are not among `running` into one of each kind. Raises OSError for a full disk.

    Nobody may read the files meanwhile: they would find values twice, or not at all.
    """
    alive = {str(pid) for pid in running}
    for path in sorted(directory.glob("*.db")):
        kind, _, pid = path.stem.rpartition("_")
        if kind in MERGED and pid != ENDED and pid not in alive:
            _merge(path, directory / f"{kind}_{ENDED}.db", MERGED[kind])
        elif kind.startswith("gauge_live") and pid not in alive:
            path.unlink(missing_ok=True)


def _merge(path: Path, into: Path, join: Callable[[float, float], float]) -> None:
    values: dict[str, tuple[float, float]] = {}
    for source in (into, path):
        if not source.exists():
            continue
        for key, value, timestamp, _ in MmapedDict.read_all_values_from_file(str(source)):  # type: ignore[no-untyped-call]
            known = values.get(key)
            values[key] = (value, timestamp) if known is None else (join(known[0], value), max(known[1], timestamp))
    unfinished = into.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    size = INITIAL_BYTES
    while sum(len(key.encode()) + _ENTRY_BYTES for key in values) + _USED.size > size:
        size *= 2
    _create(str(unfinished), size)
    merged = MmapedDict(str(unfinished))  # type: ignore[no-untyped-call]
    for key, (value, timestamp) in values.items():
        merged.write_value(key, value, timestamp)  # type: ignore[no-untyped-call]
    merged.close()  # type: ignore[no-untyped-call]
    unfinished.replace(into)
    path.unlink()


def _exists(filename: str) -> bool:
    try:
        return Path(filename).stat().st_size > 0
    except OSError:
        return False


def _create(filename: str, size: int = INITIAL_BYTES) -> None:
    """Make a file of zeros with all its pages, whole from the moment it has its name."""
    unfinished = Path(f"{filename}.{os.getpid()}.part")
    fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        _allocate(fd, size)
        unfinished.replace(filename)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def _allocate(fd: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    else:
        os.ftruncate(fd, size)


@cache
def _report_once(pid: int, directory: str, error: str) -> None:
    log.error(
        "metrics_not_kept",
        directory=directory,
        error=error,
        remedy="free space there (STARLING_RUNTIME_DIR); metrics of this worker are incomplete until it restarts",
    )
