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
from starling.web.api_examples import BATCH_EXAMPLE, CAPTURE_LINES, EXAMPLES
from starling.web.api_methods import ApiMethods
from starling.web.pages import HEADERS, STATIC

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

# The methods in the order in which a developer needs them: each group with what it is for.
GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "publish": ("Send data to subscribers.", ("publish", "broadcast", "batch")),
    "history and presence": (
        "Read what was published in a channel, and who is in it.",
        ("history", "history_remove", "presence", "presence_stats", "presence_set", "presence_unset"),
    ),
    "subscriptions and connections": (
        "Change what connected users receive.",
        ("subscribe", "unsubscribe", "disconnect", "refresh"),
    ),
    "overview": (
        "Look at channels, connections, permissions and nodes.",
        ("channels", "connections", "can", "info", "top"),
    ),
    "tokens and tickets": (
        "Revoke tokens, and issue one-time tickets.",
        ("revoke_token", "revoke_session", "invalidate_user_tokens", "ticket"),
    ),
    "streams": (
        "Write and read streams, such as answers of language models.",
        (
            "stream_open",
            "stream_append",
            "stream_close",
            "stream_cancel",
            "stream_info",
            "stream_list",
            "stream_delete",
        ),
    ),
    "diagnosis": ("Record the frames of one user or channel.", ("capture",)),
}
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
    described = {f"{api_prefix}/{name}": _method_path(name, methods) for name in methods.by_name}
    replies = {"replies": {"type": "array", "items": {"type": "object"}}}
    described[f"{api_prefix}/batch"] = _path("batch", batch_models.BatchBody, replies, *BATCH_EXAMPLE)
    described[f"{api_prefix}/capture"] = _capture_path()
    ordered = {}
    for group, (_, names) in GROUPS.items():
        for name in names:
            path = ordered[f"{api_prefix}/{name}"] = described.pop(f"{api_prefix}/{name}")
            path["post"]["tags"] = [group]
    # What the application describes itself, such as the health endpoints, comes last.
    document["paths"] = ordered | described | document["paths"]
    document["tags"] = [{"name": group, "description": use} for group, (use, _) in GROUPS.items()]


def _method_path(name: str, methods: ApiMethods) -> dict[str, Any]:
    method = methods.by_name[name]
    request_example, result_example = EXAMPLES[name]
    return _path(name, method.request, {"result": _ref(method.result)}, request_example, {"result": result_example})


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
    lines = "".join(f"{json.dumps(line)}\n" for line in CAPTURE_LINES)
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
