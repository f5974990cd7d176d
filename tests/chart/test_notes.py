"""What Helm reports after an installation: the way in, and what is not fit for more than trying out."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.rendering import CHART, render_exactly

SECRET = "never-to-be-printed-" + "x" * 32


@pytest.fixture(scope="module")
def talking_chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart with its notes as an object, for rendering alone shows none."""
    chart = tmp_path_factory.mktemp("chart") / "starling"
    shutil.copytree(CHART, chart)
    (chart / "files").mkdir(exist_ok=True)
    shutil.copy(chart / "templates" / "NOTES.txt", chart / "files" / "NOTES.txt")
    template = 'kind: Notes\nmetadata: {name: notes}\ntext: {{ tpl (.Files.Get "files/NOTES.txt") . | toJson }}\n'
    (chart / "templates" / "notes.yaml").write_text(template)
    return chart


def notes(chart: Path, name: str) -> str:
    values: dict[str, Any] = {}
    if name != "defaults":
        values = yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text())
    if name == "everything-else":
        values["secrets"]["brokerUrl"]["value"] = f"redis://:{SECRET}@redis"
    text: str = render_exactly(values, chart=chart).one("Notes", "notes")["text"]
    return text


def test_they_say_how_to_see_that_it_works(talking_chart: Path) -> None:
    reported = notes(talking_chart, "production")
    assert "helm test starling --namespace live --logs" in reported
    assert "rollout status deployment/starling" in reported
    assert "wss://live.example.com/connection/websocket" in reported
    assert "wss://live.example.com/ws" in reported
    assert "WARNING" not in reported


def test_they_warn_of_what_is_for_trying_out(talking_chart: Path) -> None:
    reported = notes(talking_chart, "try-out")
    assert "WARNING: redis.enabled" in reported
    assert "port-forward service/starling 8000:80" in reported
    assert "get secret starling" in reported
    assert "WARNING: settings.dev" in notes(talking_chart, "one-pod")


def test_without_values_they_say_that_it_is_a_trial_and_what_production_needs(talking_chart: Path) -> None:
    text = notes(talking_chart, "defaults")
    assert "WARNING: this is a trial" in text
    assert all(value in text for value in ("secrets.brokerUrl", "replicaCount", "production.yaml"))
    assert "starling token alice" in text
    assert "{.data.api-keys}" in text
    assert "secrets.apiKeys opens it" not in text


@pytest.mark.parametrize("name", ["defaults", "try-out"])
def test_they_send_users_of_argo_cd_to_secrets_of_their_own_where_one_is_generated(
    talking_chart: Path, name: str
) -> None:
    text = notes(talking_chart, name)
    assert "Argo CD" in text
    assert "secrets.tokenHmacSecret.existingSecret" in text
    assert "Argo CD" not in notes(talking_chart, "production")


def test_they_name_both_ways_in_where_there_are_two(talking_chart: Path) -> None:
    values = yaml.safe_load((CHART / "ci" / "everything-else-values.yaml").read_text())
    values["httpRoute"] = {"enabled": True, "parentRefs": [{"name": "g"}], "hostnames": ["gateway.example.com"]}
    text = str(render_exactly(values, chart=talking_chart).one("Notes", "notes")["text"])
    assert "wss://gateway.example.com/ws" in text
    assert "wss://live.example.com/ws" in text


def test_they_say_that_alerts_have_no_link_where_the_runbooks_address_is_missing(talking_chart: Path) -> None:
    assert "prometheusRule.runbookUrl" in notes(talking_chart, "everything-else")
    assert "prometheusRule.runbookUrl" not in notes(talking_chart, "production")


def test_they_say_that_the_server_api_is_closed_where_no_key_opens_it(talking_chart: Path) -> None:
    assert "secrets.apiKeys opens it" in notes(talking_chart, "production")
    # Developer mode has a key, and extraEnvFrom may bring one.
    assert "secrets.apiKeys" not in notes(talking_chart, "one-pod")
    assert "secrets.apiKeys" not in notes(talking_chart, "everything-else")


def test_they_hold_no_secret(talking_chart: Path) -> None:
    reported = notes(talking_chart, "everything-else")
    assert "wss://live.example.com/ws" in reported
    assert SECRET not in reported
