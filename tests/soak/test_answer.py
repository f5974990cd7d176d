"""One answer, one text: readers join, reload and are moved by killed workers and a killed Redis."""

from pathlib import Path

import pytest

from tests.soak.answer import answer_over_kills

pytestmark = pytest.mark.processes


async def test_readers_have_one_text_over_a_killed_worker_and_a_killed_redis(tmp_path: Path) -> None:
    report = await answer_over_kills(20, 1, tmp_path, pause=0.5)

    assert report.wrong == []
    assert (report.kills, report.redis_kills, len(report.readers)) == (1, 1, 20)
    assert len(report.written) > 500


@pytest.mark.long
@pytest.mark.timeout(720)
async def test_two_hundred_readers_have_one_text_over_fifty_killed_workers_and_three_of_redis(tmp_path: Path) -> None:
    # Each worker lives for longer than ten seconds, or its successor would be delayed.
    report = await answer_over_kills(200, 50, tmp_path, pause=6.0, redis_kills=3)

    assert report.wrong == []
    assert (report.kills, report.redis_kills, len(report.readers)) == (50, 3, 200)
    assert len(report.written) > 100_000
    # Many were moved: a reader that joins before the last kill connects more than once.
    assert sum(reader.connections for reader in report.readers) > 1000
