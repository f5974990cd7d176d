"""How near the pod is to its memory limit, by files as kernels write them and by a real group; and freed memory."""

import ctypes
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from starling.engine.memory import TRIM_BYTES, FreedMemory, MemoryLimit
from starling.telemetry.process_stats import resident_memory
from tests.support.cgroup import MemoryGroup

MIB = 2**20


def write_group(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def v2(limit: str, usage: int, *, inactive: int = 0, active: int = 0) -> dict[str, str]:
    stat = f"anon 4096\nfile 8192\ninactive_file {inactive}\nactive_file {active}\nslab 0\n"
    return {"memory.max": f"{limit}\n", "memory.current": f"{usage}\n", "memory.stat": stat}


def v1(limit: int, usage: int, *, file_pages: int = 0) -> dict[str, str]:
    stat = f"cache 1\ninactive_file 7\nactive_file 7\ntotal_inactive_file {file_pages}\ntotal_active_file 0\n"
    return {"memory.limit_in_bytes": f"{limit}\n", "memory.usage_in_bytes": f"{usage}\n", "memory.stat": stat}


def limit_of(tmp_path: Path, own_groups: str) -> MemoryLimit:
    (tmp_path / "own").write_text(own_groups)
    return MemoryLimit(tmp_path / "mount", tmp_path / "own")


def test_a_container_sees_its_own_group_at_the_top(tmp_path: Path) -> None:
    write_group(tmp_path / "mount", v2(str(100 * MIB), 80 * MIB))

    assert limit_of(tmp_path, "0::/\n").share() == 0.8


def test_a_container_that_gets_the_hosts_path_finds_its_group_all_the_same(tmp_path: Path) -> None:
    write_group(tmp_path / "mount", v2(str(100 * MIB), 80 * MIB))

    assert limit_of(tmp_path, "0::/kubepods/pod1/container1\n").share() == 0.8


def test_pages_of_files_do_not_count(tmp_path: Path) -> None:
    write_group(tmp_path / "mount", v2(str(100 * MIB), 80 * MIB, inactive=20 * MIB, active=10 * MIB))

    assert limit_of(tmp_path, "0::/\n").share() == 0.5


def test_the_limit_around_the_own_group_counts_too(tmp_path: Path) -> None:
    write_group(tmp_path / "mount" / "pod", v2(str(100 * MIB), 90 * MIB))
    write_group(tmp_path / "mount" / "pod" / "container", v2(str(100 * MIB), 20 * MIB))

    assert limit_of(tmp_path, "0::/pod/container\n").share() == 0.9


@pytest.mark.parametrize(
    ("limits", "total"),
    [
        ({"pod": "100", "pod/container": "max"}, 100),
        ({"pod": "max", "pod/container": "70"}, 70),
        ({"pod": "max", "pod/container": "max"}, None),
        # A limit of more than the machine has is none.
        ({"pod/container": str(2**59)}, None),
        ({}, None),
    ],
)
def test_the_lowest_limit_is_the_memory_that_there_is(
    tmp_path: Path, limits: dict[str, str], total: int | None
) -> None:
    for group, limit in limits.items():
        write_group(tmp_path / "mount" / group, v2(limit, 10))
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert limit_of(tmp_path, "0::/pod/container\n").total_bytes == (machine if total is None else total)


def test_a_limit_that_is_moved_is_found_moved(tmp_path: Path) -> None:
    write_group(tmp_path / "mount", v2("max", 80 * MIB))
    limit = limit_of(tmp_path, "0::/\n")
    assert limit.share() is None

    write_group(tmp_path / "mount", v2(str(160 * MIB), 80 * MIB))
    assert limit.share() == 0.5


def test_the_first_version_of_the_groups_is_read_too(tmp_path: Path) -> None:
    write_group(tmp_path / "mount" / "memory" / "docker" / "c1", v1(100 * MIB, 80 * MIB, file_pages=20 * MIB))

    assert limit_of(tmp_path, "4:cpu,memory:/docker/c1\n1:name=systemd:/\n0::/\n").share() == 0.6


def test_the_first_versions_word_for_no_limit_is_none(tmp_path: Path) -> None:
    write_group(tmp_path / "mount" / "memory", v1(9223372036854771712, 80 * MIB))

    assert limit_of(tmp_path, "4:memory:/\n").share() is None


@pytest.mark.parametrize("own_groups", ["", "0::/\n", "1:cpu:/\n"])
def test_where_there_are_no_such_files_there_is_no_limit(tmp_path: Path, own_groups: str) -> None:
    assert limit_of(tmp_path, own_groups).share() is None


def test_files_of_another_kind_are_no_limit(tmp_path: Path) -> None:
    write_group(tmp_path / "mount", {**v2("1000", 1), "memory.current": "gone\n"})

    assert limit_of(tmp_path, "0::/\n").share() is None


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    with MemoryGroup(f"starling-test-{os.getpid()}-{secrets.token_hex(4)}") as group:
        yield group


@pytest.mark.processes
def test_a_process_in_a_real_group_finds_the_share_that_it_uses(group: MemoryGroup) -> None:
    group.limit(256 * MIB)
    program = (
        "import sys; from starling.engine.memory import MemoryLimit; sys.stdin.readline();"
        "limit = MemoryLimit(); before = limit.share(); held = bytearray(b'x') * (128 * 2**20);"
        "print(before, limit.share())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        group.take(process.pid)
        output, _ = process.communicate("\n", timeout=20)
    before, after = map(float, output.split())

    assert 0 <= before < 0.3
    assert 0.5 <= after - before < 0.6


def test_without_groups_or_with_a_limit_that_cannot_be_read_there_is_no_share(tmp_path: Path) -> None:
    assert MemoryLimit(tmp_path / "mount", tmp_path / "no file").share() is None
    write_group(tmp_path / "mount", v2("unreadable", 1))
    assert limit_of(tmp_path, "0::/\n").share() is None
    assert limit_of(tmp_path, "3:cpu:/\n").share() is None


def test_memory_is_given_back_once_after_a_peak() -> None:
    calls: list[int] = []
    freed = FreedMemory(calls.append)
    for size in (0, TRIM_BYTES * 2, TRIM_BYTES * 2 - 1, 0, 0):
        freed.observe(size)
    assert calls == [0]


def test_the_c_library_gives_back_what_lies_between_pieces_in_use() -> None:
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("this C library has no malloc_trim")
    pieces = [bytearray(16 * 1024) for _ in range(4000)]
    kept = pieces[::100]
    del pieces
    before = resident_memory()
    FreedMemory().give_back()
    assert before - resident_memory() > 32 * MIB
    assert len(kept) == 40
