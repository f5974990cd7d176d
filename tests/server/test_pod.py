"""What the master tells of its workers: silence by number, and the busiest channels of those that live."""

from pathlib import Path

import msgspec
import pytest

from starling.server.pod import CHANNELS_SUFFIX, Pod
from starling.telemetry.top_channels import ChannelTraffic


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    pod = Pod(tmp_path, 30, top_channels=1)
    pod.heartbeats = lambda: {700: 12.5, 31: 0.25}
    return pod


def tell(directory: Path, pid: int, *busiest: ChannelTraffic) -> None:
    (directory / f"{pid}{CHANNELS_SUFFIX}").write_bytes(msgspec.json.encode(busiest))


def samples(pod: Pod, name: str) -> list[tuple[dict[str, str], float]]:
    return [(dict(each.labels), each.value) for family in pod.collect() for each in family.samples if each.name == name]


def test_each_worker_s_silence_is_told_under_a_number_that_does_not_grow(pod: Pod) -> None:
    assert samples(pod, "starling_worker_silent_seconds") == [({"worker": "1"}, 0.25), ({"worker": "2"}, 12.5)]


def test_busy_channels_are_joined_over_workers_and_only_so_many_become_series(pod: Pod, tmp_path: Path) -> None:
    tell(tmp_path, 31, ChannelTraffic("news", 2, 1.0, 2.0), ChannelTraffic("chat", 1, 1.0, 3.0))
    tell(tmp_path, 700, ChannelTraffic("news", 5, 1.0, 5.0))
    tell(tmp_path, 999, ChannelTraffic("of a worker that is gone", 50, 1.0, 50.0))

    assert [traffic.channel for traffic in pod.top_channels(10)] == ["news", "chat"]
    assert samples(pod, "starling_top_channel_deliveries_per_second") == [({"channel": "news"}, 7.0)]
    assert samples(pod, "starling_top_channel_subscribers") == [({"channel": "news"}, 7.0)]


def test_what_a_worker_leaves_behind_goes_with_it(pod: Pod, tmp_path: Path) -> None:
    tell(tmp_path, 31, ChannelTraffic("news", 2))
    (tmp_path / "31.json").write_text("{}")

    pod.forget(31)

    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_half_there_is_passed_over(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / f"31{CHANNELS_SUFFIX}").write_text("[{")
    assert pod.top_channels(10) == []
