"""The dashboards: conventions that hold for each, metrics that exist, and that they reach the cluster unchanged."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.chart.exposition import exposed_names, names_in
from tests.chart.rendering import CHART, RELEASE, render
from tools.dashboards.picture import with_unit

FILES = sorted((CHART / "dashboards").glob("*.json"))
DASHBOARDS: list[dict[str, Any]] = [json.loads(path.read_text()) for path in FILES]
# Prometheus makes these itself.
FOREIGN = {"up", "ALERTS"}
UNITS = {"short", "ops", "s", "bytes", "Bps", "percentunit"}


def all_panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every panel, those of folded rows included, rows themselves not."""
    for panel in dashboard["panels"]:
        yield from panel.get("panels", ())
        if panel["type"] != "row":
            yield panel


PANELS = [(dashboard, panel) for dashboard in DASHBOARDS for panel in all_panels(dashboard)]
each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=[path.stem for path in FILES])
each_panel = pytest.mark.parametrize(
    ("dashboard", "panel"), PANELS, ids=[f"{dashboard['uid']}-{panel['title']}" for dashboard, panel in PANELS]
)


@each_dashboard
def test_a_dashboard_can_be_brought_into_any_grafana(dashboard: dict[str, Any]) -> None:
    assert dashboard["id"] is None
    assert 0 < len(dashboard["uid"]) <= 40
    assert dashboard["graphTooltip"] == 1
    assert "starling" in dashboard["tags"]
    for holder in [*all_panels(dashboard), *dashboard["annotations"]["list"]]:
        for source in [holder, *holder.get("targets", ())]:
            assert source["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@each_dashboard
def test_numbers_are_given_once_and_panels_do_not_cover_one_another(dashboard: dict[str, Any]) -> None:
    rows = [panel for panel in dashboard["panels"] if panel["type"] == "row"]
    numbers = [panel["id"] for panel in [*rows, *all_panels(dashboard)]]
    assert len(numbers) == len(set(numbers))
    taken: set[tuple[int, int]] = set()
    for panel in all_panels(dashboard):
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        squares = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & squares, panel["title"]
        taken |= squares


@each_dashboard
def test_variables_choose_what_every_query_asks_for(dashboard: dict[str, Any]) -> None:
    names = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert names == ["datasource", "cluster", "namespace", "job", "pod", "quantile"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            assert (variable["includeAll"], variable["multi"], variable["allValue"]) == (True, True, ".*")
            assert names_in(variable["definition"].removeprefix("label_values(").rpartition(",")[0]) <= exposed_names()


@each_panel
def test_a_panel_says_what_it_shows_and_in_which_unit(dashboard: dict[str, Any], panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["fieldConfig"]["defaults"]["min"] == 0
    assert [target["refId"] for target in panel["targets"]] == list("ABCDEF")[: len(panel["targets"])]
    assert all(target["legendFormat"] for target in panel["targets"])


@each_panel
def test_a_query_is_promql_for_metrics_that_exist(dashboard: dict[str, Any], panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        used = names_in(target["expr"])
        assert used
        assert used <= exposed_names() | FOREIGN


@each_panel
def test_a_query_asks_for_what_the_variables_choose(dashboard: dict[str, Any], panel: dict[str, Any]) -> None:
    chosen = 'cluster=~"$cluster",namespace=~"$namespace",job=~"$job",pod=~"$pod"'
    for target in panel["targets"]:
        selectors = re.findall(r"\{([^}]*)\}", target["expr"])
        assert selectors
        assert all(selector.startswith(chosen) for selector in selectors)
        assert not re.search(r"\[\d", target["expr"]), "a range must be $__rate_interval"


@each_panel
def test_a_counter_is_shown_as_a_rate_only(dashboard: dict[str, Any], panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        for name in re.findall(r"starling_\w+(?:_total|_bucket)\b", target["expr"]):
            assert f"rate({name}" in target["expr"]


def test_annotations_ask_for_what_exists() -> None:
    for dashboard in DASHBOARDS:
        for annotation in dashboard["annotations"]["list"]:
            assert names_in(annotation["expr"]) <= exposed_names() | FOREIGN


def test_metrics_that_no_dashboard_shows(capsys: pytest.CaptureFixture[str]) -> None:
    shown = set().union(*(names_in(target["expr"]) for _, panel in PANELS for target in panel["targets"]))
    histograms = {name.removesuffix("_bucket") for name in shown if name.endswith("_bucket")}
    shown |= {f"{name}_{part}" for name in histograms for part in ("sum", "count")}
    unused = sorted(exposed_names() - shown)
    with capsys.disabled():
        print(f"\nmetrics on no dashboard: {', '.join(unused) or 'none'}")
    assert shown & exposed_names()


def test_the_config_map_carries_every_dashboard_unchanged() -> None:
    configuration = render({"dashboards": {"enabled": True}}).one("ConfigMap", f"{RELEASE}-dashboards")
    assert configuration["metadata"]["labels"]["grafana_dashboard"] == "1"
    carried = {name: json.loads(text) for name, text in configuration["data"].items()}
    assert carried == {f"starling-{path.name}": json.loads(path.read_text()) for path in FILES}
    # What kubectl keeps of an applied object may not be larger.
    assert len(json.dumps(configuration)) < 256 * 1024


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.00955, "s", "9.55 ms"),
        (2.5, "s", "2.5 s"),
        (1090, "ops", "1.09 K/s"),
        (29, "short", "29"),
        (0.42, "percentunit", "42 %"),
        (150 * 2**20, "bytes", "150 MiB"),
        (97.5 * 1024, "Bps", "97.5 KiB/s"),
        (0, "bytes", "0 B"),
    ],
)
def test_a_picture_s_values_have_their_units(value: float, unit: str, text: str) -> None:
    assert with_unit(value, unit) == text
