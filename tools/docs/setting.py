"""One setting as documents and the chart show it, read from the application's own list."""

import json
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from starling.settings import DECLARATIONS, PREFIX, Settings


@dataclass(frozen=True)
class Setting:
    """A field of Settings; `schema` is its JSON schema without title, default and description."""

    section: str
    field: str
    meaning: str
    default: Any
    secret: bool
    schema: dict[str, Any]

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.field.upper()

    @property
    def value(self) -> str:
        """The name in the chart's values: `drain_seconds` is `drainSeconds`."""
        first, *rest = self.field.split("_")
        return first + "".join(word.capitalize() for word in rest)

    @property
    def key(self) -> str:
        """The name as a key of a Secret: `drain_seconds` is `drain-seconds`."""
        return self.field.replace("_", "-")

    @property
    def shown_default(self) -> str:
        """The default as a person would set it; empty for none."""
        if self.default is None or self.default == ():
            return ""
        if isinstance(self.default, bool):
            return str(self.default).lower()
        if isinstance(self.default, tuple):
            return ",".join(self.default)
        return number(self.default) if isinstance(self.default, float) else str(self.default)


def all_settings() -> list[Setting]:
    """Every setting, section by section."""
    schemas = Settings.model_json_schema()["properties"]
    return [
        Setting(
            section=each.section,
            field=name,
            meaning=each.field.description or "",
            default=_plain_default(each.field.default),
            secret=each.secret,
            schema=_plain(schemas[name]),
        )
        for name, each in DECLARATIONS.items()
    ]


def _plain_default(default: Any) -> Any:
    return default.get_secret_value() if isinstance(default, SecretStr) else default


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """Fold `anyOf: [x, null]` to x, for the chart lets every setting be null."""
    inner = next((part for part in schema.get("anyOf", ()) if part != {"type": "null"}), schema)
    kept = ("type", "enum", "pattern", "items", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    plain = {name: inner[name] for name in kept if name in inner}
    if not plain:
        raise ValueError(f"no JSON schema is known for {json.dumps(schema)}")
    return plain


def number(value: float) -> str:
    """`value` as a person writes it: 5, not 5.0."""
    return str(int(value)) if value == int(value) else str(value)
