"""How the index of an Autobahn run is read, and that the service takes the limits of its profiles."""

from pathlib import Path
from typing import Any

import pytest

from starling.server.options import ServerOptions
from tests.conformance.__main__ import PROFILES
from tests.conformance.report import read_report


def case(behavior: str, *, close: str = "OK", code: int | None = 1000) -> dict[str, Any]:
    return {"behavior": behavior, "behaviorClose": close, "remoteCloseCode": code}


def test_what_is_ok_informational_or_not_offered_has_not_failed() -> None:
    report = read_report(
        {
            "1.1.1": case("OK"),
            "6.4.1": case("NON-STRICT"),
            "7.13.1": case("INFORMATIONAL"),
            "13.2.1": case("UNIMPLEMENTED"),
        }
    )
    assert (report.failed, dict(report.refused)) == ([], {})


def test_a_case_that_fails_by_its_messages_or_by_its_close_has_failed() -> None:
    report = read_report({"10.1.1": case("FAILED"), "9.1.1": case("OK", close="FAILED", code=None)})
    assert report.failed == ["9.1.1", "10.1.1"]
    assert report.text().endswith("failed: 9.1.1 10.1.1")


def test_a_case_that_a_limit_ended_is_listed_with_its_code_and_has_not_failed() -> None:
    report = read_report({"9.1.3": case("FAILED", code=1009), "9.1.4": case("FAILED", code=1002)})
    assert dict(report.refused) == {"9.1.3": 1009}
    assert report.failed == ["9.1.4"]
    assert "refused with 1009, message too large or in too many fragments: 1 (9.1.3)" in report.text()


def test_a_run_without_a_case_has_failed() -> None:
    assert read_report({}).failed == ["no case ran"]


@pytest.mark.parametrize("profile", PROFILES)
def test_the_service_takes_the_limits_of_each_profile(profile: str, tmp_path: Path) -> None:
    options = ServerOptions(runtime_dir=tmp_path, **PROFILES[profile])
    # Case 9.2.6 is a message of 16 MiB.
    assert (options.max_message_bytes >= 2**24) == (profile == "wide")
