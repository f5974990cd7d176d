"""A memory control group of a test's own, where this machine lets one be made."""

import contextlib
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

MOUNT = Path("/sys/fs/cgroup")


class MemoryGroup:
    """A group next to those of the system; skips the test where it cannot be made. At its end it must be empty."""

    def __init__(self, name: str) -> None:
        first_version = (MOUNT / "memory").is_dir()
        self.path = MOUNT / "memory" / name if first_version else MOUNT / name
        self._limit = "memory.limit_in_bytes" if first_version else "memory.max"
        self._usage = "memory.usage_in_bytes" if first_version else "memory.current"

    def __enter__(self) -> Self:
        try:
            self.path.mkdir()
        except OSError as error:
            pytest.skip(f"no memory control group can be made here ({error}): it takes root on a machine of one's own")
        if not (self.path / self._limit).exists():
            self.path.rmdir()
            pytest.skip("memory is not delegated to control groups here: it takes root on a machine of one's own")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The kernel takes a moment to release processes that have ended.
        for _ in range(50):
            with contextlib.suppress(OSError):
                self.path.rmdir()
                return
            time.sleep(0.1)
        raise AssertionError(f"{self.path} is still in use: {(self.path / 'cgroup.procs').read_text()}")

    def limit(self, limit: int) -> None:
        """Bound the group to this many bytes."""
        (self.path / self._limit).write_text(str(limit))

    @property
    def used(self) -> int:
        """What the group uses, in bytes."""
        return int((self.path / self._usage).read_text())

    def take(self, pid: int) -> None:
        """Put a process into the group; what it starts from now on is in it too."""
        (self.path / "cgroup.procs").write_text(str(pid))
