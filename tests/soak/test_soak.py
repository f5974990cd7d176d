"""A soak of some seconds: it does faults, and its ledger finds nothing. `make soak` runs the long one."""

from pathlib import Path

import pytest

from tests.soak.soak import Scale, soak


@pytest.mark.timeout(180)
async def test_some_seconds_of_chaos_lose_nothing_and_the_report_lists_what_was_done(tmp_path: Path) -> None:
    reported: list[str] = []
    report = await soak(7, 12, Scale(clients=24, channels=4, rate=80), tmp_path, report_fault=reported.append)

    assert report.verdict.counts == {}, report.text()
    assert report.passed
    assert len(reported) == report.faults.total() >= 2
    # This many subscribers of each channel, and nobody gets anything twice or more than what was acknowledged.
    assert 0 < report.deliveries <= 6 * report.publications
    assert report.values()["seed"] == 7
    assert "PASSED" in report.text()
