"""docs/asyncapi.json: every endpoint for clients and its messages, as AsyncAPI 3.0 (asyncapi.com)."""

import json
import types
import typing
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from starling import __version__
from starling.protocol.commands import Command
from starling.protocol.messages import Reply
from starling.web import client_endpoint, emulation, http_stream, one_way, sse, two_way_sse

SCHEMAS = "#/components/schemas"
Endpoint = tuple[str, str, str, str | None, str | None]

# Name, address, meaning, the message that clients send, and the one that they receive.
ENDPOINTS: tuple[Endpoint, ...] = (
    (
        "websocket",
        client_endpoint.PATH,
        "The client protocol over WebSocket: frames of one or more lines, in JSON or Protobuf.",
        "command",
        "reply",
    ),
    (
        "httpStream",
        http_stream.HttpStreamEndpoint.path,
        "The client protocol over a streamed HTTP response: the body of the request has the first commands.",
        "command",
        "reply",
    ),
    (
        "sse",
        two_way_sse.SseEndpoint.path,
        "The client protocol over server-sent events: the request has the first commands.",
        "command",
        "reply",
    ),
    (
        "emulation",
        emulation.EmulationEndpoint.path,
        "Further commands of clients of httpStream and sse.",
        "emulatedCommands",
        None,
    ),
    (
        "uniWebsocket",
        one_way.OneWayWebSocketEndpoint.path,
        "Pushes over WebSocket, for clients that only read: the first message is a connect request.",
        "connectRequest",
        "push",
    ),
    (
        "uniHttpStream",
        one_way.OneWayHttpStreamEndpoint.path,
        "Pushes over a streamed HTTP response: the body of the request is a connect request.",
        "connectRequest",
        "push",
    ),
    (
        "uniSse",
        one_way.OneWayEventsEndpoint.path,
        "Pushes over server-sent events: the body, or the query, is a connect request.",
        "connectRequest",
        "push",
    ),
    ("channelEvents", f"{sse.PATH}/{{channel}}", "The data of a channel's publications, as events.", None, "data"),
    ("events", sse.PATH, "The data of several channels' publications, as events.", None, "data"),
)
_TITLES = {
    "command": "A command, with an id and one request",
    "reply": "A reply to a command, or a push",
    "push": "A push: something that happened in a channel or to the connection",
    "connectRequest": "Who connects, and to which channels",
    "emulatedCommands": "Commands of the session",
    "data": "The data of a publication",
}


def asyncapi_file() -> str:
    """The document, as JSON."""
    return json.dumps(document(), indent=1) + "\n"


def document() -> dict[str, Any]:
    """The document: a channel for each endpoint, an operation for each direction."""
    messages, schemas = _components()
    channels, operations = {}, {}
    for name, address, meaning, sent, received in ENDPOINTS:
        used = [message for message in (sent, received) if message]
        channels[name] = {
            "address": address,
            "description": meaning,
            "messages": {message: {"$ref": f"#/components/messages/{message}"} for message in used},
            **({"parameters": {"channel": {"description": "Percent-encoded."}}} if "{channel}" in address else {}),
        }
        for action, message in (("receive", sent), ("send", received)):
            if message:
                operations[f"{action}{name[0].upper()}{name[1:]}"] = {
                    "action": action,
                    "channel": {"$ref": f"#/channels/{name}"},
                    "messages": [{"$ref": f"#/channels/{name}/messages/{message}"}],
                }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Starling",
            "version": __version__,
            "description": "The endpoints for clients. Starling receives what clients send. The server API is "
            "described by OpenAPI, at /openapi.json of a running service.",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas},
    }


def _components() -> tuple[dict[str, Any], dict[str, Any]]:
    described = _Described()
    kinds = tuple(described.kind(kind) for kind in (Command, Reply))
    (command, reply), schemas = msgspec.json.schema_components(kinds, ref_template=f"{SCHEMAS}/{{name}}")
    payloads = {
        "command": command,
        "reply": reply,
        "push": {"$ref": f"{SCHEMAS}/Push"},
        "connectRequest": {"$ref": f"{SCHEMAS}/ConnectRequest"},
        "emulatedCommands": {
            "type": "object",
            "properties": {
                "session": {"type": "string", "description": "Of the reply to connect; a secret."},
                "node": {"type": "string", "description": "Of the same reply."},
                "data": {"description": "Commands, a line each, as a text."},
            },
            "required": ["session", "node", "data"],
        },
        "data": {"description": "Any JSON, as it was published."},
    }
    messages = {name: {"name": name, "title": _TITLES[name], "payload": payload} for name, payload in payloads.items()}
    return messages, schemas


class _Described:
    """Types of messages as msgspec can describe them: payloads (Raw) are any JSON, optional fields have no default."""

    def __init__(self) -> None:
        self._structs: dict[type[Struct], type[Struct]] = {}

    def kind(self, kind: Any) -> Any:
        """The type in place of `kind`."""
        if kind is Raw:
            return Any
        if isinstance(kind, type) and issubclass(kind, Struct):
            return self._struct(kind)
        origin, parts = typing.get_origin(kind), typing.get_args(kind)
        if origin is typing.Annotated:
            return typing.Annotated[self.kind(parts[0]), *parts[1:]]
        if origin in (typing.Union, types.UnionType):
            return typing.Union[tuple(self.kind(part) for part in parts)]  # noqa: UP007 - of parts that are computed
        return origin[tuple(self.kind(part) for part in parts)] if origin in (list, dict) else kind

    def _struct(self, kind: type[Struct]) -> type[Struct]:
        if kind not in self._structs:
            fields: list[Any] = []
            for field in msgspec.structs.fields(kind):
                described = self.kind(field.type)
                optional = (described | UnsetType, UNSET)
                fields.append((field.encode_name, *((described,) if field.required else optional)))
            made = msgspec.defstruct(kind.__name__, fields, kw_only=True, namespace={"__doc__": kind.__doc__})
            self._structs[kind] = made
        return self._structs[kind]
