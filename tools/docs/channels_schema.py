"""The schema of the chart's value `channels`, so that a slip in an option is refused before it is installed."""

from typing import Any

from starling.engine.channels import ChannelOptions

DURATION = {"type": ["number", "string"], "minimum": 0, "pattern": r"^\s*\d+(\.\d+)?(ms|[smhd])\s*$"}


def channels_schema() -> dict[str, Any]:
    """The schema of a channels file; `starling check` looks closer, at options that must go together."""
    options = {
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {name: _option(schema) for name, schema in _option_schemas().items()},
    }
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {"default": options, "namespaces": {"type": "object", "additionalProperties": options}},
    }


def _option_schemas() -> dict[str, dict[str, Any]]:
    schemas: dict[str, dict[str, Any]] = ChannelOptions.model_json_schema()["properties"]
    return schemas


def _option(schema: dict[str, Any]) -> dict[str, Any]:
    if "anyOf" in schema:
        values = [value for kind in schema["anyOf"] for value in kind.get("enum", ())]
        if values:
            return {"enum": [*values, None]}
        return {"type": [kind["type"] for kind in schema["anyOf"]]}
    if schema["type"] == "number":
        return DURATION
    return {name: schema[name] for name in ("type", "enum", "minimum", "maximum") if name in schema}
