"""A real Prometheus that scrapes a running Starling every second, with the project's own rules."""

import json
import math
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.services import Server
from tests.support.waiting import DEADLINE

RULES = Path(__file__).parents[2] / "helm" / "starling" / "rules" / "starling.yaml"
SCRAPE_SECONDS = 1
# What Grafana would fill in, for a dashboard that shows everything of this Prometheus.
FILLED_IN = {
    "$__rate_interval": f"{4 * SCRAPE_SECONDS}s",
    "$quantile": "0.99",
    **dict.fromkeys(("$cluster", "$namespace", "$job", "$pod"), ".*"),
}


@dataclass(frozen=True)
class Series:
    """One line of a graph: its labels, and its values at times in seconds since 1970; NaN is left out."""

    labels: dict[str, str]
    times: Sequence[float]
    values: Sequence[float]


class PrometheusServer(Server):
    """Scrapes `targets` (pod name to host:port) and evaluates the alerts, with `wait` in the place of each `for`.

    `thresholds` change those of alerts by name, as the chart's values can.
    """

    name = "prometheus"

    def __init__(
        self, targets: dict[str, str], *, wait: str = "1s", thresholds: Mapping[str, float] | None = None
    ) -> None:
        binary = shutil.which("prometheus")
        if binary is None:
            pytest.skip("prometheus is not installed; on Debian: apt-get install prometheus")
        super().__init__()
        self._binary = binary
        rules = yaml.safe_load(RULES.read_text())
        for rule in (rule for group in rules["groups"] for rule in group["rules"]):
            rule["for"] = wait
            if (threshold := (thresholds or {}).get(rule["alert"])) is not None:
                rule["expr"] = re.sub(r"[0-9.]+$", str(threshold), rule["expr"])
        configuration = {
            "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [
                {
                    "job_name": "starling",
                    "static_configs": [
                        {"targets": [address], "labels": {"namespace": "live", "pod": pod}}
                        for pod, address in targets.items()
                    ],
                }
            ],
        }
        (self.directory / "rules.yaml").write_text(yaml.safe_dump(rules))
        (self.directory / "prometheus.yaml").write_text(yaml.safe_dump(configuration))

    @property
    def url(self) -> str:
        """For a client."""
        return f"http://127.0.0.1:{self.port}"

    def range(self, expression: str, start: float, end: float) -> list[Series]:
        """What a panel would show of `expression` from `start` to `end`, in seconds since 1970."""
        for variable, value in FILLED_IN.items():
            expression = expression.replace(variable, value)
        answer = self._ask("query_range", query=expression, start=start, end=end, step=SCRAPE_SECONDS)
        return [_series(result) for result in answer["result"]]

    def firing(self) -> set[str]:
        """The names of the alerts that fire now."""
        return {alert["labels"]["alertname"] for alert in self.alerts()}

    def alerts(self) -> list[dict[str, Any]]:
        """The alerts that fire now, each with its `labels` and `annotations`."""
        return [alert for alert in self._ask("alerts")["alerts"] if alert["state"] == "firing"]

    def until(self, condition: Callable[[set[str]], bool], what: str, timeout: float = DEADLINE) -> None:
        """Wait until `condition` holds for the names of the alerts that fire."""
        deadline = time.monotonic() + timeout
        while not condition(firing := self.firing()):
            assert time.monotonic() < deadline, f"{what} within {timeout} s; firing: {sorted(firing) or 'nothing'}"
            time.sleep(0.2)

    def _ask(self, what: str, **parameters: str | float) -> Any:
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{what}?{query}", timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def _spawn(self) -> subprocess.Popen[bytes]:
        arguments = [
            "--config.file=prometheus.yaml",
            "--storage.tsdb.path=data",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
        ]
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                [self._binary, *arguments], cwd=self.directory, stdout=log, stderr=log, start_new_session=True
            )

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def _series(result: dict[str, Any]) -> Series:
    points = [(float(at), float(value)) for at, value in result["values"]]
    points = [(at, value) for at, value in points if not math.isnan(value)]
    return Series(result["metric"], [at for at, _ in points], [value for _, value in points])
