"""`starling explain`: what a code, a setting or a channel option means, and what to do about it."""

import difflib
import json
import textwrap
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from starling.cli.explanations import CODES, OPTIONS, WEBSOCKET_CODES, CodeMeaning
from starling.cli.output import Output, OutputOption, print_heading, terminal_width
from starling.cli.service import EXIT_REFUSED, fail
from starling.variables import CLIENT_VARIABLES, PREFIX


def explain(
    name: Annotated[
        str,
        typer.Argument(
            help="A code (3008), a setting (STARLING_PORT) or a channel option (history_ttl).", metavar="NAME"
        ),
    ],
    output: OutputOption = Output.table,
) -> None:
    """Explain a code, a setting or a channel option."""
    found = _code(name) if name.strip().isdigit() else _variable(name) or _option(name)
    if found is None:
        fail(f"{name}: no code, setting or channel option has this name{_nearest(name)}", EXIT_REFUSED)
    if output is Output.json:
        print(json.dumps(found))
        return
    width = terminal_width()
    title, *rest = found.items()
    print_heading(str(title[1]))
    for field, value in rest:
        line = f"{field.replace('_', ' ')}: {_shown(value)}"
        print(textwrap.fill(line, max(width, 40), subsequent_indent="  ") if width else line)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _code(text: str) -> dict[str, Any] | None:
    from starling.protocol.codes import Disconnect, Error, Unsubscribe

    code = int(text)
    for known in _constants():
        if known.code != code:
            continue
        meaning = CODES[code]
        match known:
            case Error():
                kind, client = "error", "the command failed; the connection stays"
                words = known.message
            case Unsubscribe():
                kind, words = "end of a subscription", known.reason
                client = "subscribes again" if known.resubscribe else "stays unsubscribed"
            case Disconnect():
                kind, words = "end of the connection", known.reason
                client = "reconnects" if known.reconnect else "does not reconnect"
        return {"name": f"{code} {words}", "kind": kind, "client": client, **meaning._asdict()}
    if code in WEBSOCKET_CODES:
        return {"name": str(code), "kind": "close code of WebSocket", **WEBSOCKET_CODES[code]._asdict()}
    if 4000 <= code < 5000:
        again = "reconnects" if Disconnect(code, "").reconnect else "does not reconnect"
        own = CodeMeaning("A code of your own application.", "Look in your hooks and your backend for it.")
        return {"name": str(code), "kind": "end of the connection", "client": again, **own._asdict()}
    return None


def _constants() -> Iterator[Any]:
    from starling.protocol import codes

    kinds = (codes.Error, codes.Unsubscribe, codes.Disconnect)
    return (value for value in vars(codes).values() if isinstance(value, kinds))


def _variable(name: str) -> dict[str, Any] | None:
    from starling.cli.configuration import shown_default
    from starling.settings import DECLARATIONS, Settings

    field_name = name.strip().upper().replace("-", "_").removeprefix(PREFIX).lower()
    variable = PREFIX + field_name.upper()
    if variable in CLIENT_VARIABLES:
        return {"name": variable, "kind": "variable of the command line", "meaning": CLIENT_VARIABLES[variable]}
    declared = DECLARATIONS.get(field_name) or DECLARATIONS.get(field_name.removesuffix("_file"))
    if declared is None:
        return None
    field = declared.field
    if field_name not in DECLARATIONS:
        meaning = f"Path of a file that holds {variable.removesuffix('_FILE')}: {field.description}"
        return {"name": variable, "kind": "setting", "meaning": meaning}
    explained: dict[str, Any] = {"name": variable, "kind": "setting", "meaning": field.description}
    default = shown_default(field.default)
    explained["default"] = "(unset)" if default is None else default
    if declared.unit is not None:
        explained["unit"] = declared.unit.value
    schema = Settings.model_json_schema()["properties"][field_name]
    for part in (schema, *schema.get("anyOf", ())):
        limits = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most"}
        explained |= {words.replace(" ", "_"): part[limit] for limit, words in limits.items() if limit in part}
        if "enum" in part:
            explained["values"] = ", ".join(part["enum"])
    return explained | {"from_a_file": f"{variable}_FILE holds the path of a file with the value"}


def _option(name: str) -> dict[str, Any] | None:
    from starling.engine.channels import ChannelOptions

    option = name.strip().lower().replace("-", "_")
    field = ChannelOptions.model_fields.get(option)
    if field is None:
        return None
    schema = ChannelOptions.model_json_schema()["properties"][option]
    explained = {
        "name": option,
        "kind": "option of a namespace, in the file of STARLING_CHANNELS_FILE",
        "meaning": field.description or OPTIONS.get(option, "See docs/channels.md."),
        "default": field.default if field.default not in ("", None) else "(none)",
    }
    for part in (schema, *schema.get("anyOf", ())):
        if "enum" in part:
            explained["values"] = ", ".join(part["enum"])
    return explained


def _nearest(name: str) -> str:
    from starling.engine.channels import ChannelOptions
    from starling.settings import DECLARATIONS

    names = [*(PREFIX + field.upper() for field in DECLARATIONS), *ChannelOptions.model_fields]
    near = difflib.get_close_matches(name.strip(), names, n=1)
    near = near or difflib.get_close_matches(PREFIX + name.strip().upper(), names, n=1)
    if near:
        return f": did you mean {near[0]}?"
    return ": `starling settings` lists the settings, docs/channels.md the options, docs/connect-a-client.md the codes"
