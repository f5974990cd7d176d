"""The log's lines about refused clients: one each, bounded for each reason, and none goes without a number."""

from structlog.testing import capture_logs

from starling.telemetry.metric_list import REFUSALS
from starling.telemetry.refusals import CUT, LINES, PERIOD_SECONDS, REMEDIES, RefusalLog


class Clock:
    """A clock that stands until a test moves it."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_each_refusal_is_a_line_with_reason_and_remedy() -> None:
    with capture_logs() as lines:
        RefusalLog().write("origin", origin="https://evil.example", path="")

    (line,) = lines
    assert line["event"] == "connection_refused"
    assert (line["log_level"], line["reason"], line["origin"]) == ("info", "origin", "https://evil.example")
    assert "STARLING_ALLOWED_ORIGINS" in line["remedy"]
    assert "path" not in line, "it was not known"


def test_too_many_of_one_reason_are_counted_and_other_reasons_still_have_lines() -> None:
    clock = Clock()
    refusals = RefusalLog(clock)
    with capture_logs() as lines:
        for _ in range(LINES + 7):
            refusals.write("capacity")
        refusals.write("no_token")
        clock.now = PERIOD_SECONDS - 0.1
        refusals.flush()
        assert len(lines) == LINES + 1
        clock.now = PERIOD_SECONDS
        refusals.flush()
        refusals.flush()

    assert [line.get("left_out") for line in lines] == [None] * (LINES + 1) + [7]
    assert lines[-1]["reason"] == "capacity"


def test_the_number_left_out_comes_before_the_next_line_when_nobody_flushes() -> None:
    clock = Clock()
    refusals = RefusalLog(clock)
    with capture_logs() as lines:
        for _ in range(LINES + 1):
            refusals.write("capacity")
        clock.now = PERIOD_SECONDS
        refusals.write("capacity")

    assert [line.get("left_out") for line in lines[LINES:]] == [1, None]


def test_what_is_cut_on_an_open_connection_has_another_event() -> None:
    with capture_logs() as lines:
        for reason in sorted(CUT):
            RefusalLog().write(reason)

    assert {line["event"] for line in lines} == {"connection_cut"}


def test_every_reason_has_a_remedy() -> None:
    assert set(REFUSALS) - set(REMEDIES) <= {"unknown_path"}, "that one names the path that was meant"
