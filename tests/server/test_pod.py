"""What the master reports of its workers: silence by number, and the busiest channels of those that live."""

import os
import time
from pathlib import Path
from unittest.mock import patch

import msgspec
import pytest

from starling.server.board import Board
from starling.server.pod import CHANNELS_SUFFIX, Pod
from starling.telemetry.top_channels import ChannelTraffic


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    board = Board()
    for pid, silent in ((31, 0.25), (700, 12.5)):
        with (
            patch("starling.server.board.os.getpid", return_value=pid),
            patch("starling.server.board.time.monotonic", return_value=time.monotonic() - silent),
        ):
            board.claim().enter()
    return Pod(board, tmp_path, 30, top_channels=1)


def tell(directory: Path, pid: int, *busiest: ChannelTraffic) -> None:
    (directory / f"{pid}{CHANNELS_SUFFIX}").write_bytes(msgspec.json.encode(busiest))


def samples(pod: Pod, name: str) -> list[tuple[dict[str, str], float]]:
    return [(dict(each.labels), each.value) for family in pod.collect() for each in family.samples if each.name == name]


def test_each_worker_s_silence_is_reported_under_a_number_that_does_not_grow(pod: Pod) -> None:
    silent = {labels["worker"]: seconds for labels, seconds in samples(pod, "starling_worker_silent_seconds")}
    assert list(silent) == ["1", "2"]
    assert 0.25 <= silent["1"] < 12.5 <= silent["2"]


def test_the_worker_that_showed_a_heartbeat_last_is_asked_first() -> None:
    board = Board()
    for pid, silent in ((7, 9.0), (5, 0.1), (6, 0.5)):
        with (
            patch("starling.server.board.os.getpid", return_value=pid),
            patch("starling.server.board.time.monotonic", return_value=time.monotonic() - silent),
        ):
            board.claim().enter()
    assert Pod(board, Path(), 30).pids() == [5, 6, 7]


def test_busy_channels_are_joined_over_workers_and_only_a_limited_number_become_series(
    pod: Pod, tmp_path: Path
) -> None:
    tell(tmp_path, 31, ChannelTraffic("news", 2, 1.0, 2.0), ChannelTraffic("chat", 1, 1.0, 3.0))
    tell(tmp_path, 700, ChannelTraffic("news", 5, 1.0, 5.0))
    tell(tmp_path, 999, ChannelTraffic("of a worker that is gone", 50, 1.0, 50.0))

    assert [traffic.channel for traffic in pod.top_channels(10)] == ["news", "chat"]
    assert samples(pod, "starling_top_channel_deliveries_per_second") == [({"channel": "news"}, 7.0)]
    assert samples(pod, "starling_top_channel_subscribers") == [({"channel": "news"}, 7.0)]


def test_a_worker_that_was_forked_and_has_not_begun_is_none_yet() -> None:
    board = Board()
    slot = board.claim()
    assert list(board.workers()) == []
    slot.enter()
    assert [worker.pid for worker in board.workers()] == [os.getpid()]
    slot.release()
    assert list(board.workers()) == []
    assert board.claim().report == b"", "the next one begins anew"


def test_a_configuration_is_read_whole_or_not_at_all() -> None:
    board = Board()
    assert (board.version, board.read_configuration()) == (1, None)
    assert board.hand_out(b"first") == 2
    assert board.read_configuration() == (2, b"first")
    assert board.hand_out(b"second") == 3
    assert board.read_configuration() == (3, b"second")
    with pytest.raises(ValueError, match="over 8388608 bytes"):
        board.hand_out(bytes(8 * 2**20 + 1))
    assert board.read_configuration() == (3, b"second")


def test_a_file_that_is_half_there_is_passed_over(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / f"31{CHANNELS_SUFFIX}").write_text("[{")
    assert pod.top_channels(10) == []
