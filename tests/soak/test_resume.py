"""EventSource clients lose their workers, and lose and double nothing."""

from pathlib import Path

import pytest

from tests.soak.resume import resume

pytestmark = pytest.mark.processes


@pytest.mark.timeout(120)
def test_event_sources_get_everything_once_over_three_killed_workers(tmp_path: Path) -> None:
    report = resume(3, 1200, tmp_path, pause=0.8)

    assert report.wrong == [], report.text()
    assert (report.resets, report.given_up) == (0, [])
    assert report.reconnects > 0


@pytest.mark.long
@pytest.mark.timeout(300)
def test_event_sources_get_ten_thousand_messages_once_over_twenty_killed_workers(tmp_path: Path) -> None:
    report = resume(20, 10_000, tmp_path, pause=3.0)

    assert report.wrong == [], report.text()
    assert (report.resets, report.given_up) == (0, [])
    assert report.reconnects >= 20
