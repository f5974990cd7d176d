"""The example for Alertmanager, run by a real one: what is one notification, and what keeps off the pager."""

import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.rendering import CHART
from tests.support.services import free_port
from tests.support.waiting import DEADLINE

CONFIGURATION = CHART.parents[1] / "deploy" / "prometheus" / "alertmanager.yml"
RULES = [
    rule
    for group in yaml.safe_load((CHART / "rules" / "starling.yaml").read_text())["groups"]
    for rule in group["rules"]
]
SEVERITIES = {rule["alert"]: rule["labels"]["severity"] for rule in RULES}


class Alertmanager:
    """A running Alertmanager with the example's configuration."""

    def __init__(self, port: int) -> None:
        self._api = f"http://127.0.0.1:{port}/api/v2"

    def fire(self, name: str, **labels: str) -> None:
        """Report an alert as Prometheus does."""
        alert = {"labels": {"alertname": name, "severity": SEVERITIES[name], "namespace": "live", **labels}}
        body = json.dumps([alert]).encode()
        request = urllib.request.Request(f"{self._api}/alerts", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert answer.status == 200

    def get(self, path: str) -> Any:
        """What it says, once it is up."""
        with urllib.request.urlopen(f"{self._api}/{path}", timeout=5) as answer:
            return json.load(answer)

    def inhibited(self, count: int) -> set[tuple[str, str]]:
        """Names and jobs of the alerts that another one inhibits, once `count` alerts are known to all of it."""

        def held() -> list[dict[str, Any]] | None:
            alerts: list[dict[str, Any]] = self.get("alerts")
            states = [alert["status"]["state"] for alert in alerts]
            return alerts if len(alerts) == count and "unprocessed" not in states else None

        return {
            (alert["labels"]["alertname"], alert["labels"]["job"])
            for alert in until(held)
            if alert["status"]["inhibitedBy"]
        }


def until(found: Any) -> Any:
    """What `found()` returns as soon as it is something; fails after 20 seconds."""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            if (result := found()) is not None:
                return result
        except OSError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[Alertmanager]:
    binary = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    if binary is None:
        pytest.skip("Alertmanager is not installed; on Debian: apt-get install prometheus-alertmanager")
    # Groups are made after their wait, which is minutes in the example and nothing here.
    text = re.sub(r"group_wait: \w+", "group_wait: 0s", CONFIGURATION.read_text())
    (tmp_path / "alertmanager.yml").write_text(text)
    port = free_port()
    command = [binary, f"--config.file={tmp_path}/alertmanager.yml", f"--storage.path={tmp_path}/data"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=", "--log.level=error"]
    with subprocess.Popen(command) as process:
        try:
            server = Alertmanager(port)
            until(lambda: server.get("status"))
            yield server
        finally:
            process.terminate()


def test_thirty_pods_with_one_problem_are_one_notification(alertmanager: Alertmanager) -> None:
    for number in range(30):
        alertmanager.fire("StarlingMemoryNearLimit", job="starling", pod=f"starling-{number}")
    alertmanager.fire("StarlingMemoryNearLimit", job="other", pod="other-0")

    def groups() -> list[int] | None:
        sizes = sorted(len(group["alerts"]) for group in alertmanager.get("alerts/groups"))
        return sizes if sum(sizes) == 31 else None

    assert until(groups) == [1, 30]


def test_a_broker_that_is_away_is_one_page_and_no_other_release_is_silenced_by_it(alertmanager: Alertmanager) -> None:
    alertmanager.fire("StarlingBrokerDown", job="starling")
    followers = ["StarlingPublicationsFailing", "StarlingApiErrors", "StarlingCanaryLate", "StarlingLossFastBurn"]
    for name in followers:
        alertmanager.fire(name, job="starling")
    alertmanager.fire("StarlingPublicationsFailing", job="other")
    alertmanager.fire("StarlingMemoryNearLimit", job="starling", pod="starling-0")
    assert alertmanager.inhibited(len(followers) + 3) == {(name, "starling") for name in followers}


def test_pods_that_do_not_start_are_one_alert(alertmanager: Alertmanager) -> None:
    alertmanager.fire("StarlingRolloutStalled", job="starling")
    alertmanager.fire("StarlingTargetDown", job="starling", pod="starling-9")
    alertmanager.fire("StarlingAtCapacity", job="starling")
    assert alertmanager.inhibited(3) == {("StarlingTargetDown", "starling")}


def test_the_pager_gets_what_is_critical_and_the_example_names_no_alert_that_there_is_not() -> None:
    configuration = yaml.safe_load(CONFIGURATION.read_text())
    (route,) = configuration["route"]["routes"]
    assert route["matchers"] == ['severity="critical"']
    patterns = [
        re.search(r'"(.+)"', matcher)
        for rule in configuration["inhibit_rules"]
        for matcher in rule["source_matchers"] + rule["target_matchers"]
    ]
    for pattern in patterns:
        assert pattern
        for part in re.split(r"\|(?![^(]*\))", pattern[1]):
            assert [name for name in SEVERITIES if re.fullmatch(part, name)], part
