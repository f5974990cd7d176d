"""The parts of the chart's files that follow from the application: its settings, its alerts' names, its version."""

import json
import re
from typing import Any

import yaml

from starling import __version__
from tools.docs.channels_schema import channels_schema
from tools.docs.chart_settings import secrets_schema, secrets_values, settings_schema, settings_values
from tools.docs.marked import replace_marked

# The number that an alert's expression ends with, which the chart's values can change.
THRESHOLD = re.compile(r"[<>]=? [0-9.]+$")


def values_file(text: str) -> str:
    """values.yaml with today's settings and secrets."""
    text = replace_marked(text, "settings", settings_values(), comment="# {}")
    return replace_marked(text, "secrets", secrets_values(), comment="# {}")


def schema_file(text: str, rules: str) -> str:
    """values.schema.json with today's settings, secrets, channel options and alerts (`rules` is the rules file)."""
    schema = json.loads(text)
    schema["properties"]["settings"] = settings_schema()
    schema["properties"]["secrets"] = secrets_schema()
    schema["properties"]["channels"] = channels_schema()
    schema["properties"]["prometheusRule"]["properties"]["alerts"] = _alerts_schema(rules)
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def chart_file(text: str) -> str:
    """Chart.yaml with today's version."""
    text = re.sub(r"(?m)^version: .*$", f"version: {__version__}", text)
    return re.sub(r"(?m)^appVersion: .*$", f'appVersion: "{__version__}"', text)


def _alerts_schema(rules: str) -> dict[str, Any]:
    alerts = [rule for group in yaml.safe_load(rules)["groups"] for rule in group["rules"]]
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {rule["alert"]: _alert_schema(rule["expr"]) for rule in alerts},
    }


def _alert_schema(expression: str) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "enabled": {"type": "boolean"},
        "for": {"type": "string", "pattern": "^([0-9]+(ms|[smhdwy]))+$"},
        "severity": {"enum": ["info", "warning", "critical"]},
    }
    if THRESHOLD.search(expression.strip()):
        properties["threshold"] = {"type": "number", "minimum": 0}
    return {"type": "object", "additionalProperties": False, "properties": properties}
