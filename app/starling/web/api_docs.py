"""The OpenAPI description of the server API, and the page `/docs` that shows it, without files from other hosts."""

import json
from importlib.resources import files
from typing import Any

import msgspec
from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from starling.web import api_batch_models as batch_models
from starling.web import api_models as models
from starling.web import api_results as results
from starling.web.api_methods import ApiMethods
from starling.web.pages import HEADERS, STATIC

TAG = "server API"
_SCHEMA = "#/components/schemas/{name}"
# Swagger UI sets styles of its own and has its pictures in its style sheet.
_PAGE_HEADERS = {
    **HEADERS,
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "frame-ancestors 'none'",
}
_KEYLESS = (
    "**No key is set, so every call is answered with 401.** Set `STARLING_API_KEYS` to one that "
    "`openssl rand -hex 24` makes; several, comma separated, let you change them one after the other."
)
_KEYED = "Send one of `STARLING_API_KEYS` in the header `X-API-Key`."
_DEVELOPER = "In developer mode the key is `dev`."
_ANSWERS = (
    "The answer to a call is 200 with `result`, or with `error`: a code and a message that names the remedy. 401 means "
    "that the key is not valid, 403 that the address may not use the API, 413 that the body is too large, 500 that "
    "Starling failed and logged the cause, 503 that the broker does not answer: then it is not known whether the call "
    "was executed, and with an `idempotency_key` you can safely try again."
)

_STREAM = {"type": "text", "status": "open", "offset": 0, "epoch": "xtZk3bqA", "length": 0, "size": 0}

EXAMPLES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "publish": (
        {"channel": "news:sport", "data": {"text": "Kick-off"}, "idempotency_key": "kick-off-1"},
        {"offset": 42, "epoch": "xtZk3bqA"},
    ),
    "broadcast": (
        {"channels": ["#alice", "#bob"], "data": {"text": "Your report is ready"}},
        {"responses": [{"result": {}}, {"result": {}}]},
    ),
    "subscribe": ({"user": "alice", "channel": "room:7", "data": {"welcome": True}}, {}),
    "unsubscribe": ({"user": "alice", "channel": "room:7"}, {}),
    "disconnect": ({"user": "alice", "disconnect": {"code": 4501, "reason": "signed out"}}, {}),
    "refresh": ({"user": "alice", "expire_at": 1893456000}, {}),
    "presence": (
        {"channel": "room:7"},
        {
            "presence": {
                "5b1c9d0e7f2a4c68": {"user": "alice", "client": "5b1c9d0e7f2a4c68", "conn_info": {"name": "A."}}
            }
        },
    ),
    "presence_stats": ({"channel": "room:7"}, {"num_clients": 3, "num_users": 2}),
    "history": (
        {"channel": "news:sport", "limit": 10, "since": {"offset": 41, "epoch": "xtZk3bqA"}},
        {
            "publications": [{"data": {"text": "Kick-off"}, "offset": 42, "time": 1790000000000}],
            "offset": 42,
            "epoch": "xtZk3bqA",
        },
    ),
    "can": (
        {"user": "alice", "verb": "publish", "channel": "room:7", "subscribed": True},
        {
            "allowed": True,
            "rule": "allow_publish_for_subscriber",
            "namespace": "room",
            "sentence": "allow_publish_for_subscriber is on in the namespace room",
        },
    ),
    "stream_open": (
        {"channel": "answers:42", "type": "text", "producer": "model"},
        {**_STREAM, "created": True},
    ),
    "stream_append": (
        {"channel": "answers:42", "text": "Hello", "producer": "model", "producer_epoch": 0, "sequence": 0},
        {**_STREAM, "offset": 1, "length": 5, "size": 5},
    ),
    "stream_close": (
        {"channel": "answers:42", "status": "complete", "final": {"tokens": 1}},
        {**_STREAM, "status": "complete", "offset": 2, "length": 5, "size": 5, "final": {"tokens": 1}},
    ),
    "stream_cancel": (
        {"channel": "answers:42", "reason": "the user pressed stop"},
        {**_STREAM, "status": "cancelled", "offset": 1, "reason": "the user pressed stop"},
    ),
    "stream_info": ({"channel": "answers:42", "wait": 25}, _STREAM),
    "stream_delete": ({"channel": "answers:42"}, {"deleted": True}),
    "stream_list": (
        {"limit": 10},
        {"streams": [{"channel": "answers:42", "type": "text", "status": "open", "length": 5, "size": 5}]},
    ),
    "history_remove": ({"channel": "news:sport"}, {}),
    "channels": ({"pattern": "room:*"}, {"channels": {"room:7": {"num_clients": 3}}}),
    "connections": (
        {"user": "alice", "limit": 10},
        {
            "connections": [
                {
                    "client": "9b29275f3a0b41c2",
                    "user": "alice",
                    "transport": "json",
                    "address": "203.0.113.7",
                    "node": "starling-6f7c9_8",
                    "since": 1790000000.0,
                    "num_channels": 1,
                    "channels": ["room:7"],
                    "received": 4,
                    "sent": 31,
                }
            ]
        },
    ),
    "info": (
        {},
        {
            "nodes": [
                {
                    "uid": "9e815511fb67125d",
                    "name": "starling-6f7c9_8",
                    "version": "1.0.0",
                    "num_clients": 3,
                    "num_users": 2,
                    "num_subs": 3,
                    "num_channels": 1,
                    "uptime": 3600,
                }
            ]
        },
    ),
    "top": (
        {"limit": 1},
        {
            "nodes": [
                {
                    "uid": "9e815511fb67125d",
                    "name": "starling-6f7c9_8",
                    "version": "1.0.0",
                    "uptime": 3600.5,
                    "ready": True,
                    "draining": False,
                    "connections": 3,
                    "users": 2,
                    "subscriptions": 3,
                    "channels": 1,
                    "messages_in": 310,
                    "messages_out": 930,
                    "bytes_in": 9300,
                    "bytes_out": 62000,
                    "publications": 300,
                    "cpu_seconds": 4.2,
                    "memory_bytes": 60000000,
                    "lag_seconds": 0.001,
                }
            ],
            "channels": [
                {
                    "channel": "room:7",
                    "subscribers": 3,
                    "messages_per_second": 10.0,
                    "deliveries_per_second": 30.0,
                    "bytes_per_second": 2000.0,
                    "dropped_per_second": 0.0,
                }
            ],
            "missing": [],
        },
    ),
    "revoke_token": ({"uid": "token-1", "expire_at": 1893456000}, {}),
    "revoke_session": ({"session": "login-1", "expire_at": 1893456000}, {}),
    "invalidate_user_tokens": ({"user": "alice"}, {"issued_before": 1790000000}),
    "presence_set": ({"channel": "chat:42", "user": "bot", "info": {"state": "writing"}, "ttl": 60}, {}),
    "presence_unset": ({"channel": "chat:42", "user": "bot"}, {}),
    "ticket": (
        {"user": "alice", "channels": ["news"], "ttl": 30},
        {"ticket": "tkt_a-text-of-22-characters", "session": "5f0c1d1e0bb24b2c9a0f7d6e3c1b2a39"},
    ),
}
_BATCH_EXAMPLE = (
    {"commands": [{"publish": {"channel": "news:sport", "data": {"text": "Kick-off"}}}, {"info": {}}]},
    {"replies": [{"publish": {"offset": 42, "epoch": "xtZk3bqA"}}, {"info": {"nodes": []}}]},
)

_TRACE_LINES: list[dict[str, Any]] = [
    {"capture": "3f1c9d0e7f2a4c68", "seconds": 10, "nodes": ["starling-6f7c9_8"]},
    {
        "time": 1790000000000,
        "node": "starling-6f7c9_8",
        "direction": "in",
        "user": "alice",
        "client": "5b1c9d0e7f2a4c68",
        "frame": {"id": 1, "connect": {"token": "[redacted]"}},
    },
    {"dropped": 12, "node": "starling-6f7c9_8"},
    {"ended": "time is over", "frames": 1, "dropped": 12},
]
# Methods whose publications continue the trace that a request's headers name.
TRACED = ("publish", "broadcast", "batch")
_TRACE_HEADERS = [
    {
        "name": name,
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": f"{meaning} (W3C Trace Context); ignored where tracing is off.",
    }
    for name, meaning in {"traceparent": "The trace to continue", "tracestate": "What goes with it"}.items()
]

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs() -> FileResponse:
    """The page that shows the API and tries it out."""
    return FileResponse(STATIC / "docs.html", headers=_PAGE_HEADERS)


def install(
    application: FastAPI, methods: ApiMethods, *, developer: bool, keyed: bool, api_prefix: str = "/api"
) -> None:
    """Serve `/docs` with its files, and describe `methods`, whose paths begin with `api_prefix`, to OpenAPI."""
    application.include_router(router)
    assets = StaticFiles(directory=str(files("fastapi_offline") / "static"))
    application.mount("/static/swagger-ui", assets, name="swagger-ui")
    written = application.openapi
    application.description = "\n\n".join([_DEVELOPER if developer else _KEYED if keyed else _KEYLESS, _ANSWERS])

    def openapi() -> dict[str, Any]:
        document = written()
        if "apiKey" not in document.get("components", {}).get("securitySchemes", {}):
            _add_methods(document, methods, api_prefix)
        return document

    application.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _add_methods(document: dict[str, Any], methods: ApiMethods, api_prefix: str) -> None:
    wanted: list[type[Any]] = [batch_models.BatchBody, results.ApiError, models.CaptureBody]
    for method in methods.by_name.values():
        wanted += [method.request, method.result]
    _, schemas = msgspec.json.schema_components(wanted, ref_template=_SCHEMA)
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(schemas)
    components["securitySchemes"] = {"apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
    for name, method in methods.by_name.items():
        request_example, result_example = EXAMPLES[name]
        document["paths"][f"{api_prefix}/{name}"] = _path(
            name, method.request, {"result": _ref(method.result)}, request_example, {"result": result_example}
        )
    replies = {"replies": {"type": "array", "items": {"type": "object"}}}
    document["paths"][f"{api_prefix}/batch"] = _path("batch", batch_models.BatchBody, replies, *_BATCH_EXAMPLE)
    document["paths"][f"{api_prefix}/capture"] = _capture_path()


def _path(
    name: str,
    request: type[Any],
    result: dict[str, Any],
    request_example: dict[str, Any],
    result_example: dict[str, Any],
) -> dict[str, Any]:
    done = {"type": "object", "properties": result, "required": list(result)}
    failed = {"type": "object", "properties": {"error": _ref(results.ApiError)}, "required": ["error"]}
    example = {"error": {"code": 107, "message": "bad request: channel: it is missing"}}
    answer = {
        "schema": {"oneOf": [done, failed]},
        "examples": {"done": {"value": result_example}, "refused": {"value": example}},
    }
    refused = {"application/json": {"schema": failed}}
    summary, _, more = (request.__doc__ or "").partition("\n")
    return {
        "post": {
            "tags": [TAG],
            "operationId": name,
            "summary": summary.rstrip(".").replace("`", ""),
            "description": " ".join(more.split()),
            "security": [{"apiKey": []}],
            "parameters": _TRACE_HEADERS if name in TRACED else [],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": _ref(request), "example": request_example}},
            },
            "responses": {
                "200": {"description": "Done, or why not.", "content": {"application/json": answer}},
                "401": {"description": "The key is not valid.", "content": refused},
                "403": {"description": "Not from this address.", "content": refused},
                "413": {"description": "The body is too large.", "content": refused},
                "503": {"description": "The broker does not answer.", "content": refused},
            },
        }
    }


def _capture_path() -> dict[str, Any]:
    """As the others, but the answer is a line of JSON for each frame."""
    path = _path("capture", models.CaptureBody, {}, {"user": "alice", "seconds": 10}, {})
    lines = "".join(f"{json.dumps(line)}\n" for line in _TRACE_LINES)
    failed = path["post"]["responses"]["401"]["content"]["application/json"]
    path["post"]["responses"]["200"] = {
        "description": "A line of JSON for each frame; an empty one now and then means that nothing happened.",
        "content": {
            "application/x-ndjson": {"schema": {"type": "string"}, "example": lines},
            "application/json": failed,
        },
    }
    return path


def _ref(model: type[Any]) -> dict[str, str]:
    return {"$ref": _SCHEMA.format(name=model.__name__)}
