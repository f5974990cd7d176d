"""The chart's side of every setting: the parts `settings` and `secrets` of its values and of their schema."""

import json
import textwrap
from typing import Any

from tools.docs.setting import Setting, all_settings

# What the chart wants to be otherwise than the application's own default.
OWN_DEFAULTS: dict[str, Any] = {
    "internal_host": "0.0.0.0",  # noqa: S104 - the kubelet and Prometheus ask from outside the pod
    "workers": 1,
    "runtime_dir": "/run/starling",
    "log_format": "json",
}
# What the templates compute with, so that it has to stand in the values.
COMPUTED_WITH = ("port", "internal_port", "runtime_dir", "drain_delay_seconds", "drain_rate")
# What the chart can generate itself, each with what `generate: null` means for it.
GENERATED = {
    "token_hmac_secret": "only where nothing else checks tokens, for a first try",
    "api_keys": "as `tokenHmacSecret` for a first try",
}

WIDTH = 118


def settings_values() -> str:
    """The part `settings` of values.yaml."""
    lines = ["settings:"]
    section = ""
    for setting in all_settings():
        if not setting.secret:
            if setting.section != section:
                section = setting.section
                lines += ([""] if lines[1:] else []) + [f"  # {section}"]
            lines += _comment(_meaning(setting), 2)
            lines.append(f"  {setting.value}: {json.dumps(_chart_default(setting))}")
    return "\n".join(lines) + "\n"


def secrets_values() -> str:
    """The part `secrets` of values.yaml."""
    lines = ["secrets:"]
    for setting in (setting for setting in all_settings() if setting.secret):
        lines.append(f"  {setting.value}:")
        lines += _comment(f"{setting.meaning} Name of the Secret that holds it.", 4)
        lines.append('    existingSecret: ""')
        lines += _comment("Its key in that Secret.", 4)
        lines.append(f"    key: {setting.key}")
        lines += _comment("The value itself, for the Secret that this chart makes.", 4)
        lines.append('    value: ""')
        if setting.field in GENERATED:
            lines += _comment(
                "Generate it at the first installation and keep it. Needs `helm install`: tools that only render "
                f"(`helm template`, Argo CD) would generate another each time. Null: {GENERATED[setting.field]}.",
                4,
            )
            lines.append("    generate: null")
    return "\n".join(lines) + "\n"


def settings_schema() -> dict[str, Any]:
    """The schema of `settings`: each may be null, which leaves it to the application."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [setting.value for setting in all_settings() if setting.field in COMPUTED_WITH],
        "properties": {setting.value: _nullable(setting) for setting in all_settings() if not setting.secret},
    }


def secrets_schema() -> dict[str, Any]:
    """The schema of `secrets`."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {setting.value: _secret_schema(setting) for setting in all_settings() if setting.secret},
    }


def _secret_schema(setting: Setting) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "existingSecret": {"type": "string"},
        "key": {"type": "string", "pattern": "^[-._a-zA-Z0-9]+$"},
        "value": {"type": "string"},
    }
    if setting.field in GENERATED:
        properties["generate"] = {"type": ["boolean", "null"]}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _nullable(setting: Setting) -> dict[str, Any]:
    schema = dict(setting.schema)
    if "enum" in schema:
        return {"enum": [*schema["enum"], None], "description": setting.meaning}
    if setting.field in COMPUTED_WITH:
        return {**schema, "description": setting.meaning}
    return {**schema, "type": [schema["type"], "null"], "description": setting.meaning}


def _chart_default(setting: Setting) -> Any:
    if setting.field in OWN_DEFAULTS or setting.field not in COMPUTED_WITH:
        return OWN_DEFAULTS.get(setting.field)
    return int(setting.default) if setting.default == int(setting.default) else setting.default


def _meaning(setting: Setting) -> str:
    if _chart_default(setting) is not None or not setting.shown_default:
        return setting.meaning
    return f"{setting.meaning} Default of the application: `{setting.shown_default}`."


def _comment(text: str, indent: int) -> list[str]:
    prefix = " " * indent + "# "
    return textwrap.wrap(
        f"-- {text}", WIDTH, initial_indent=prefix, subsequent_indent=prefix, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
