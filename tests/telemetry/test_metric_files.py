"""Files of metrics: their pages are there before they are written, and those of ended workers become one."""

import resource
from pathlib import Path
from typing import Any

import prometheus_client.values
import pytest
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from structlog.testing import capture_logs

from starling.telemetry.metric_files import AllocatedDict, allocate_metric_files, merge_ended

# The library has no types.
open_file: Any = AllocatedDict
read_values: Any = MmapedDict.read_all_values_from_file


def key(number: int) -> str:
    return mmap_key("m", "m_total", ["a"], [f"{number:0100}"], "Help.")


def values_of(path: Path) -> dict[str, float]:
    return {name: value for name, value, _, _ in read_values(str(path))}


def write(path: Path, **values: float) -> None:
    file = open_file(str(path))
    for name, value in values.items():
        file.write_value(name, value, 0.0)
    file.close()


def test_a_file_has_all_its_pages_and_keeps_its_values_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "counter_1.db"
    file = open_file(str(path))
    for number in range(2000):
        file.write_value(key(number), number, 0.0)
        assert path.stat().st_blocks * 512 >= path.stat().st_size, "no page is still to be had"
    assert path.stat().st_size > 2**16
    assert values_of(path) == {key(number): number for number in range(2000)}
    file.close()
    again = open_file(str(path))
    assert again.read_value(key(7)) == (7.0, 0.0)
    again.close()
    assert [each.name for each in tmp_path.iterdir()] == ["counter_1.db"]


@pytest.mark.parametrize("room", [2**16, 2**17], ids=["none", "for the first pages"])
def test_where_the_disk_has_no_room_values_stay_in_memory_and_one_line_names_the_directory(
    tmp_path: Path, room: int
) -> None:
    path = tmp_path / "counter_1.db"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room - 1, hard))
    try:
        with capture_logs() as logs:
            file = open_file(str(path))
            for number in range(2000):
                file.write_value(key(number), number, 0.0)
            write(tmp_path / "histogram_1.db", a=1.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [file.read_value(key(number))[0] for number in (0, 1999)] == [0, 1999]
    assert [line["directory"] for line in logs if line["event"] == "metrics_not_kept"] == [str(tmp_path)]
    assert all(each.stat().st_size for each in tmp_path.iterdir()), "what readers find is whole"


def test_files_of_ended_workers_become_one_and_no_counter_falls(tmp_path: Path) -> None:
    for pid, value in ((11, 1.0), (12, 2.0), (13, 4.0)):
        write(tmp_path / f"counter_{pid}.db", a=value)
        write(tmp_path / f"histogram_{pid}.db", b=value, **{f"only{pid}": value})
        write(tmp_path / f"gauge_max_{pid}.db", c=value)
        write(tmp_path / f"gauge_livesum_{pid}.db", d=value)
    merge_ended(tmp_path, {13})
    merge_ended(tmp_path, {13})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("counter_0.db", "counter_13.db", "gauge_livesum_13.db", "gauge_max_0.db", "gauge_max_13.db"),
        *("histogram_0.db", "histogram_13.db"),
    ]
    assert values_of(tmp_path / "counter_0.db") == {"a": 3.0}
    assert values_of(tmp_path / "histogram_0.db") == {"b": 3.0, "only11": 1.0, "only12": 2.0}
    assert values_of(tmp_path / "gauge_max_0.db") == {"c": 2.0}
    merge_ended(tmp_path, ())
    assert values_of(tmp_path / "counter_0.db") == {"a": 7.0}


def test_many_ended_workers_take_the_room_of_one(tmp_path: Path) -> None:
    for pid in range(20, 60):
        write(tmp_path / f"counter_{pid}.db", **{key(number): 1.0 for number in range(600)})
        merge_ended(tmp_path, ())
    assert [path.name for path in tmp_path.iterdir()] == ["counter_0.db"]
    assert values_of(tmp_path / "counter_0.db")[key(5)] == 40.0


def test_the_library_makes_its_files_by_the_name_that_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert issubclass(prometheus_client.values.MmapedDict, MmapedDict)  # type: ignore[attr-defined]
    monkeypatch.setattr(prometheus_client.values, "MmapedDict", MmapedDict)
    allocate_metric_files()
    assert prometheus_client.values.MmapedDict is AllocatedDict  # type: ignore[attr-defined]
