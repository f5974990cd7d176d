"""What a run is said to have reached, from numbers made up here."""

from pathlib import Path

import pytest

from tests.bench.__main__ import describe, make_plan, parse, scale_of
from tests.bench.goals import goals
from tests.bench.load_generator import Integrity
from tests.bench.report import goal_table, markdown, scenario_table
from tests.bench.results import Results, Series
from tests.bench.scenarios import KIB, P99, RATE, SECONDS, Scale
from tests.bench.workshop import Workshop

FAN_OUT = "1,000 x 128 B"


def series(server: str, case: str = FAN_OUT, scenario: str = "fanout", measure: str = RATE) -> Series:
    """What was measured."""
    return Series(scenario, server, case, measure)


@pytest.fixture
def results() -> Results:
    """Three rounds, in the last of which the whole machine was half as fast."""
    made = Results(conditions={"machine": "made up"})
    for number, (starling, tutorial, ws) in enumerate(
        ((300e3, 100e3, 200e3), (310e3, 100e3, 200e3), (150e3, 50e3, 100e3))
    ):
        made.add(series("starling"), number, starling)
        made.add(series("tutorial"), number, tutorial)
        made.add(series("ws"), number, ws)
    return made


def test_a_ratio_is_taken_within_each_round(results: Results) -> None:
    results.add(series("starling", "100 x 128 B"), 9, 1e9)
    assert results.ratio(series("starling"), series("tutorial")) == 3.0
    assert results.ratio(series("starling"), series("nobody")) is None


def test_the_table_of_numbers_says_what_was_reached_and_leaves_out_what_was_not_measured(results: Results) -> None:
    lines = goal_table(results, Scale()).splitlines()
    assert "| fan-out to 1,000 vs tutorial | \u2265 2.00x | 3.00x | yes |" in lines
    assert "| fan-out to 1,000 vs ws | \u2265 1.20x | 1.50x | yes |" in lines
    assert not any("nchan" in line or "5,000" in line for line in lines)


def test_a_target_that_is_not_reached_is_marked_with_no(results: Results) -> None:
    for number in range(3):
        results.add(series("c-single"), number, 400e3)
    assert "| fan-out to 1,000 vs c-single | \u2265 0.85x | 0.75x | **no** |" in goal_table(results, Scale())


def test_less_memory_and_latency_are_better(results: Results) -> None:
    results.add(series("starling", "5,000 connections", "memory", KIB), 0, 10.5)
    for server, value in (("starling", 6.0), ("ws", 5.0)):
        results.add(series(server, FAN_OUT, "latency", P99), 0, value)
    table = goal_table(results, Scale())
    assert "| idle connection: authenticated, one subscription | \u2264 10.0 KiB | 10.5 KiB | **no** |" in table
    assert "| p99 at half of the own load vs ws | \u2264 1.20x | 1.20x | yes |" in table


def test_a_storm_that_takes_fewer_seconds_is_faster(results: Results) -> None:
    for server, value in (("starling", 2.0), ("centrifugo", 1.9), ("starling-redis", 5.0), ("centrifugo-redis", 4.0)):
        results.add(series(server, "15,000, a channel each", "storm", SECONDS), 0, value)
    table = goal_table(results, Scale())
    assert "| speed of a storm in memory, 15,000, a channel each, vs Centrifugo | \u2265 0.90x | 0.95x | yes |" in table
    assert (
        "| speed of a storm over Redis, 15,000, a channel each, vs Centrifugo | \u2265 1.00x | 0.80x | **no** |"
        in table
    )


def test_a_storm_is_planned_without_the_servers_that_are_missing_and_says_which(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked = parse(["--only", "storm", "--most", "50"])
    workshop = Workshop(tmp_path, tmp_path, missing={"centrifugo": "no centrifugo on the PATH"})
    plan = make_plan(asked, workshop)
    assert [server for _, server in plan] == ["starling", "starling-redis"]
    assert scale_of(asked).storm == 50
    describe(plan, asked, workshop)
    assert "without centrifugo: no centrifugo on the PATH" in capsys.readouterr().out


def test_metrics_and_logs_cost_what_the_null_recorder_spares() -> None:
    results = Results()
    results.add(series("starling", FAN_OUT, "records"), 0, 96.0)
    results.add(series("starling-null", FAN_OUT, "records"), 0, 100.0)
    assert "| metrics and logs, fan-out | \u2264 3.0 % | 4.0 % | **no** |" in goal_table(results, Scale())


def test_every_goal_is_measured_by_a_whole_run() -> None:
    """Each goal asks for a series that the scenarios fill: a typo in a case's name would leave it out for ever."""
    asked: set[Series] = set()

    class Listening(Results):
        def rounds(self, series: Series) -> dict[int, float]:
            asked.add(series)
            return {}

    for goal in goals(Scale()):
        assert goal.measure(Listening()) is None
    cases: dict[str, set[str]] = {}
    for where in asked:
        cases.setdefault(where.scenario, set()).add(where.case)
    assert cases == {
        "fanout": {"100 x 128 B", "1,000 x 128 B", "5,000 x 128 B"},
        "burst": {"1,000, 16 in flight"},
        "channels": {"10,000 channels"},
        "memory": {"5,000 connections"},
        "connects": {"5,000 connections"},
        "latency": {"1,000 x 128 B"},
        "slow": {"nobody", "one slow reader"},
        "storm": {"15,000 in one channel, 50 missed", "15,000, a channel each"},
        "records": {"1,000 x 128 B", "connects"},
    }


def test_the_page_lists_what_was_not_delivered_whole(results: Results) -> None:
    assert "0 lost" not in markdown(results, Scale())
    results.check("crowd", "starling", Integrity())
    assert "0 lost, 0 duplicated, 0 out of order, 0 altered in every row." in markdown(results, Scale())
    results.check("crowd", "starling", Integrity(lost=2, trouble="cut by the server"))
    page = markdown(results, Scale())
    assert "- crowd/starling: 2 lost (cut by the server)" in page
    assert "0 lost" not in page


def test_a_table_has_the_medians(results: Results) -> None:
    table = scenario_table(results, "fanout")
    assert "| Starling, client protocol | 300k |" in table
    assert "| Node ws | 200k |" in table


def test_results_are_read_as_they_were_saved(results: Results, tmp_path: Path) -> None:
    results.check("crowd", "starling", Integrity(duplicated=1))
    results.printed["Server API"] = "fast"
    results.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == results


def test_an_unknown_scenario_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--only", "fanout,brust"])
    assert "brust: choose from fanout, burst, latency" in capsys.readouterr().err
