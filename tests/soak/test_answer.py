"""One answer, one text: readers join, reload and are moved by killed workers and a killed Redis."""

from pathlib import Path

import pytest

from tests.soak.answer import answer_over_kills

pytestmark = [pytest.mark.processes, pytest.mark.long]


@pytest.mark.timeout(300)
async def test_two_hundred_readers_have_one_text_over_ten_killed_workers_and_a_killed_redis(tmp_path: Path) -> None:
    report = await answer_over_kills(200, 10, tmp_path, pause=2.0)

    assert report.wrong == []
    assert (report.kills, len(report.readers)) == (10, 200)
    assert len(report.written) > 1000
    # Many were moved: a reader that joins before the last kill connects more than once.
    assert sum(reader.connections for reader in report.readers) > 250
