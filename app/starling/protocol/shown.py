"""Messages as a person may see them: never a token or a header, and payloads only where they were asked for."""

import base64
from collections.abc import Mapping
from typing import Any

from msgspec import Raw, Struct, structs

from starling.protocol.portable_json import is_json

REDACTED = "[redacted]"
# Of a longer payload only the beginning is shown.
PAYLOAD_BYTES = 1024
_SECRETS = frozenset({"token", "headers", "resume"})


def shown(message: Struct, *, payload: bool) -> dict[str, Any]:
    """The fields of `message` that are set, ready for a JSON encoder; without `payload` only the size of payloads."""
    fields: dict[str, Any] = {}
    for field in structs.fields(message):
        value = getattr(message, field.name)
        if value is None or value == field.default or value in ({}, []):
            continue
        fields[field.encode_name] = REDACTED if field.name in _SECRETS else _shown(field.name, value, payload=payload)
    return fields


def _shown(name: str, value: Any, *, payload: bool) -> Any:
    if isinstance(value, Struct):
        return shown(value, payload=payload)
    if isinstance(value, Raw):
        return _payload(bytes(value)) if payload else {"bytes": len(bytes(value))}
    if isinstance(value, Mapping):
        if name == "tags" and not payload:
            return list(value)
        return {key: _shown(key, one, payload=payload) for key, one in value.items()}
    if isinstance(value, list):
        return [_shown(name, one, payload=payload) for one in value]
    return value


def _payload(data: bytes) -> Any:
    if len(data) > PAYLOAD_BYTES:
        return {"bytes": len(data), "begins": data[:PAYLOAD_BYTES].decode(errors="replace")}
    if is_json(data):
        # One line, whatever spaces it came with: a raw newline is only space between tokens.
        return Raw(data.replace(b"\n", b" ").replace(b"\r", b" "))
    return {"base64": base64.b64encode(data).decode()}
