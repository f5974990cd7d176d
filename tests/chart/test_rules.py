"""The alerts: valid, each proven firing and silent, each with a page, and in the chart as they are in the file."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.exposition import exposed_names, names_in
from tests.chart.rendering import CHART, NAMESPACE, RELEASE, render
from tools.dashboards.internals import internals
from tools.dashboards.overview import overview

ROOT = CHART.parents[1]
RULES = CHART / "rules" / "starling.yaml"
PAGES = sorted((ROOT / "docs" / "runbooks").iterdir())
CASES = sorted((Path(__file__).parent / "rules").glob("*.yaml"))
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]
# Prometheus makes the first one itself, kube-state-metrics the others.
FOREIGN = {
    "up",
    "kube_deployment_status_replicas_unavailable",
    "kube_deployment_status_replicas_updated",
    "kube_horizontalpodautoscaler_spec_max_replicas",
    "kube_horizontalpodautoscaler_status_desired_replicas",
}
# By which label each kind of metric is found.
OWN = ("job", "deployment", "horizontalpodautoscaler")


def promtool(*arguments: str, directory: Path | None = None) -> str:
    """What promtool says; fails the test when it finds fault."""
    binary = shutil.which("promtool")
    if binary is None:
        pytest.skip("promtool is not installed, so the rules cannot be tested; on Debian: apt-get install prometheus")
    done = subprocess.run([binary, *arguments], cwd=directory, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rendered_alerts(
    values: dict[str, Any] | None = None, settings: dict[str, float] | None = None
) -> dict[str, dict[str, Any]]:
    """The alerts of the PrometheusRule by name."""
    objects = render({"prometheusRule": {"enabled": True, **(values or {})}, "settings": settings or {}})
    rule = objects.one("PrometheusRule")
    return {alert["alert"]: alert for group in rule["spec"]["groups"] for alert in group["rules"]}


def test_prometheus_finds_nothing_to_say_about_the_rules() -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))


def test_every_alert_fires_when_it_should_and_stays_silent_when_it_should_not(tmp_path: Path) -> None:
    """Each alert has files of its own: promtool evaluates all rules of a file for each of its cases."""
    files = []
    for path in CASES:
        # Values such as 0x100, hexadecimal to YAML, stay as they are.
        document = yaml.load(path.read_text(), Loader=yaml.BaseLoader)
        for rule in ALERTS:
            cases = [case for case in document["tests"] if case["alert_rule_test"][0]["alertname"] == rule["alert"]]
            if cases:
                rules, file = f"{rule['alert']}.rules.yaml", f"{rule['alert']}.{path.name}"
                (tmp_path / rules).write_text(yaml.safe_dump({"groups": [{"name": "starling", "rules": [rule]}]}))
                (tmp_path / file).write_text(yaml.safe_dump({**document, "rule_files": [rules], "tests": cases}))
                files.append(file)
    promtool("test", "rules", *files, directory=tmp_path)


def test_every_alert_has_a_firing_and_a_silent_case() -> None:
    cases = [case for path in CASES for case in yaml.safe_load(path.read_text())["tests"]]
    firing: set[str] = set()
    silent: set[str] = set()
    for case in cases:
        for expected in case["alert_rule_test"]:
            assert case["name"].partition(" ")[0] == expected["alertname"]
            (firing if expected["exp_alerts"] else silent).add(expected["alertname"])
        assert any(expected["exp_alerts"] for expected in case["alert_rule_test"]) == (" fires" in case["name"])
    names = {alert["alert"] for alert in ALERTS}
    assert firing == names
    assert silent == names


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_an_alert_says_what_is_wrong_how_bad_it_is_and_where_to_read_on(alert: dict[str, Any]) -> None:
    assert re.fullmatch(r"Starling[A-Z][A-Za-z]+", alert["alert"])
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url", "dashboard", "panel"}
    assert alert["for"]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_an_alert_names_a_panel_that_is_there(alert: dict[str, Any]) -> None:
    dashboards = {dashboard.uid: dashboard for dashboard in (overview(), internals())}
    titles = [panel.title for panel in dashboards[alert["annotations"]["dashboard"]].panels]
    assert alert["annotations"]["panel"] in titles


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.stem))
def test_a_page_is_headed_by_its_alerts_and_has_what_a_sleepy_reader_looks_for(page: Path) -> None:
    lines = page.read_text().splitlines()
    named = [alert["alert"] for alert in ALERTS if alert["annotations"]["runbook_url"] == f"docs/runbooks/{page.name}"]
    assert lines[0] == "# " + ", ".join(named)
    headings = [line for line in lines if line.startswith("#")]
    assert headings[1:] == ["## Impact", "## Diagnosis", "## Resolution"]


def test_every_page_belongs_to_an_alert() -> None:
    assert {f"docs/runbooks/{page.name}" for page in PAGES} == {alert["annotations"]["runbook_url"] for alert in ALERTS}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_an_alert_asks_for_metrics_that_exist_and_of_this_job_only(alert: dict[str, Any]) -> None:
    used = names_in(alert["expr"])
    assert used
    assert used <= exposed_names() | FOREIGN
    selectors = re.findall(r"\{([^}]*)\}", alert["expr"])
    assert selectors
    assert all(any(f'{label}="starling"' in selector for label in OWN) for selector in selectors)


def test_the_chart_asks_for_its_own_release_only() -> None:
    for alert in rendered_alerts().values():
        selectors = re.findall(r"\{([^}]*)\}", alert["expr"])
        assert all(
            any(f'{label}="{RELEASE}",namespace="{NAMESPACE}"' in selector for label in OWN) for selector in selectors
        )


def test_monitors_give_targets_the_job_that_the_rules_ask_for() -> None:
    for kind, endpoints in (("serviceMonitor", "endpoints"), ("podMonitor", "podMetricsEndpoints")):
        monitor = render({kind: {"enabled": True}}).one(kind[0].upper() + kind[1:])
        (endpoint,) = monitor["spec"][endpoints]
        assert endpoint["relabelings"][0] == {"targetLabel": "job", "replacement": RELEASE}
        assert (endpoint["port"], endpoint["path"]) == ("internal", "/metrics")


def test_a_monitor_finds_what_it_is_for() -> None:
    objects = render({"serviceMonitor": {"enabled": True}})
    selector = objects.one("ServiceMonitor")["spec"]["selector"]["matchLabels"]
    found = [each for each in objects.of("Service") if selector.items() <= each["metadata"]["labels"].items()]
    assert [service["metadata"]["name"] for service in found] == [f"{RELEASE}-internal"]
    objects = render({"podMonitor": {"enabled": True}})
    selector = objects.one("PodMonitor")["spec"]["selector"]["matchLabels"]
    assert selector == objects.one("Deployment")["spec"]["selector"]["matchLabels"]


def test_the_chart_s_rules_are_valid_and_are_all_there(tmp_path: Path) -> None:
    alerts = rendered_alerts()
    assert list(alerts) == [alert["alert"] for alert in ALERTS]
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "starling", "rules": list(alerts.values())}]}))
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(rules))


def test_annotations_reach_prometheus_as_they_are() -> None:
    rendered = rendered_alerts({"runbookUrl": "https://git.example.com/"})
    for alert in ALERTS:
        annotations = rendered[alert["alert"]]["annotations"]
        assert annotations == {
            **alert["annotations"],
            "runbook_url": "https://git.example.com/" + alert["annotations"]["runbook_url"],
        }


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_with_grafana_s_address_an_alert_links_to_its_panel(alert: dict[str, Any]) -> None:
    rendered = rendered_alerts({"grafanaUrl": "https://grafana.example.com/"})[alert["alert"]]["annotations"]
    dashboard, _, query = rendered["panel_url"].partition("?")
    assert dashboard == f"https://grafana.example.com/d/{alert['annotations']['dashboard']}"
    parts = dict(part.split("=") for part in query.split("&"))
    assert (parts["var-namespace"], parts["var-job"]) == (NAMESPACE, RELEASE)
    boards = [json.loads(path.read_text()) for path in (CHART / "dashboards").glob("*.json")]
    (board,) = [board for board in boards if board["uid"] == alert["annotations"]["dashboard"]]
    panels = [panel for row in board["panels"] for panel in (row, *row.get("panels", ()))]
    (panel,) = [panel for panel in panels if panel["id"] == int(parts["viewPanel"])]
    assert panel["title"] == alert["annotations"]["panel"]
    variables = {variable["name"] for variable in board["templating"]["list"]}
    assert {"namespace", "job"} <= variables


def test_threshold_time_and_severity_can_be_changed() -> None:
    changes = {"StarlingEventLoopLag": {"threshold": 0.5, "for": "10m", "severity": "info"}}
    before, after = rendered_alerts(), rendered_alerts({"alerts": changes})
    assert before["StarlingEventLoopLag"]["expr"].endswith("> 0.25")
    assert after["StarlingEventLoopLag"]["expr"] == before["StarlingEventLoopLag"]["expr"][: -len("0.25")] + "0.5"
    assert after["StarlingEventLoopLag"]["for"] == "10m"
    assert after["StarlingEventLoopLag"]["labels"] == {"severity": "info"}
    del before["StarlingEventLoopLag"], after["StarlingEventLoopLag"]
    assert before == after


def test_every_threshold_can_be_changed() -> None:
    named = [alert["alert"] for alert in ALERTS if re.search(r"[<>]=? [0-9.]+$", alert["expr"])]
    changed = rendered_alerts({"alerts": {name: {"threshold": 1000 + at} for at, name in enumerate(named)}})
    assert named
    for at, name in enumerate(named):
        assert re.search(rf"[<>]=? {1000 + at}$", changed[name]["expr"]), name


@pytest.mark.parametrize(
    ("settings", "overdue"),
    [
        ({}, "5m"),
        ({"drainDelaySeconds": 5, "drainSeconds": 220}, "5m"),
        ({"drainDelaySeconds": 5.5, "drainSeconds": 220}, "301s"),
        ({"drainDelaySeconds": 600, "drainSeconds": 3600}, "4275s"),
        ({"maxConnections": 10_000, "workers": 4, "drainRate": 50}, "880s"),
    ],
)
def test_a_drain_is_overdue_a_minute_after_it_must_have_ended_and_five_minutes_in_at_least(
    settings: dict[str, float], overdue: str
) -> None:
    waits = {name: alert["for"] for name, alert in rendered_alerts(settings=settings).items()}
    assert waits == {alert["alert"]: alert["for"] for alert in ALERTS} | {"StarlingDrainOverdue": overdue}


def test_a_time_that_is_set_for_an_overdue_drain_holds_however_long_drains_are() -> None:
    changes = {"alerts": {"StarlingDrainOverdue": {"for": "2m"}}}
    assert rendered_alerts(changes, {"drainSeconds": 900})["StarlingDrainOverdue"]["for"] == "2m"


def test_a_drain_that_was_set_to_be_long_alerts_only_when_it_is_longer(tmp_path: Path) -> None:
    alerts = rendered_alerts(settings={"drainDelaySeconds": 60, "drainSeconds": 900})
    rules = {"groups": [{"name": "starling", "rules": list(alerts.values())}]}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    labels = f'job="{RELEASE}",namespace="{NAMESPACE}",pod="a"'
    values = {"starling_workers": "2x60", "starling_worker_ready": "0x60", "starling_worker_draining": "2x60"}
    overdue = f'ALERTS{{alertname="StarlingDrainOverdue",alertstate="firing",{labels},severity="warning"}}'
    expected: dict[str, list[dict[str, Any]]] = {"975s": [], "1080s": [{"labels": overdue, "value": 1}]}
    case = {
        "interval": "30s",
        "input_series": [{"series": f"{name}{{{labels}}}", "values": reported} for name, reported in values.items()],
        "promql_expr_test": [
            {
                "expr": 'ALERTS{alertstate="firing",alertname=~"StarlingDrainOverdue|StarlingNotReady"}',
                "eval_time": time,
                "exp_samples": samples,
            }
            for time, samples in expected.items()
        ],
    }
    cases = {"rule_files": ["rules.yaml"], "evaluation_interval": "30s", "tests": [case]}
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump(cases))
    promtool("test", "rules", "cases.yaml", directory=tmp_path)


def test_an_alert_can_be_turned_off() -> None:
    alerts = rendered_alerts({"alerts": {"StarlingConnectionStorm": {"enabled": False}}})
    assert "StarlingConnectionStorm" not in alerts
    assert len(alerts) == len(ALERTS) - 1
