"""CORS of the endpoints that pages use by `fetch` and `EventSource`: which pages may read them (the Fetch standard).

A page of an origin that may connect can read the response, and no other can. Its cookies are credentials only where
STARLING_ALLOWED_ORIGINS names the origins.
"""

import re
from collections.abc import Iterable, MutableMapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from starling.engine.upgrade import Upgrade
from starling.protocol import codes
from starling.web.dependencies import FOREIGN_ORIGIN, WebContext
from starling.web.refusals import error_body

# Seconds that a browser may keep the answer to a preflight.
PREFLIGHT_SECONDS = 300
# What a page may read of a response besides the headers that it always may.
EXPOSED = b"Retry-After, X-Request-ID"

Header = tuple[bytes, bytes]

VARY: Header = (b"vary", b"Origin")
_PREFLIGHT_VARY: Header = (b"vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers")
_FIELD_NAMES = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:, *[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")
_POST_ONLY = frozenset({"/connection/http_stream", "/connection/uni_http_stream", "/emulation"})


def methods_of(path: str) -> str:
    """The methods that a page elsewhere may use at `path`; empty where the path is none of these endpoints'."""
    if path in _POST_ONLY:
        return "POST, OPTIONS"
    if path == "/sse" or path.startswith("/sse/"):
        return "GET, HEAD, OPTIONS"
    return "GET, HEAD, POST, OPTIONS" if path.startswith("/connection/") else ""


def response_headers(context: WebContext, request: Upgrade) -> list[Header]:
    """The CORS headers of any response to `request`; without those that let a page read it where it may not."""
    origin = request.header(b"origin")
    if origin is None or not context.allows_origin(request):
        return [VARY]
    headers: list[Header] = [
        VARY,
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", EXPOSED),
    ]
    if context.cookies_checked:
        headers.append((b"access-control-allow-credentials", b"true"))
    return headers


class CrossOrigin:
    """ASGI middleware that answers preflights, and adds the CORS headers to every other response.

    It leaves alone what is not under `prefix`, and the paths of other endpoints.
    """

    def __init__(self, app: ASGIApp, context: WebContext, prefix: str = "", streams_path: str = "") -> None:
        """`streams_path`: where append-only streams are; empty: nowhere."""
        self._streams_path = f"{streams_path}/" if streams_path else ""
        self._app = app
        self._context = context
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", "")).removeprefix(self._prefix)
        methods = methods_of(path)
        if self._streams_path and path.startswith(self._streams_path):
            methods = "GET, HEAD, PUT, POST, DELETE, OPTIONS"
        if not methods:
            await self._app(scope, receive, send)
            return
        request = request_of(scope)
        if scope["method"] == "OPTIONS":
            await _answer(send, *self._preflight(request, methods))
            return

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = with_headers(message.get("headers", ()), response_headers(self._context, request))
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _preflight(self, request: Upgrade, methods: str) -> tuple[HTTPStatus, list[Header], bytes]:
        allow = (b"allow", methods.encode())
        asked = request.header(b"access-control-request-method")
        if request.header(b"origin") is None or asked is None:
            return HTTPStatus.NO_CONTENT, [VARY, allow], b""
        if self._context.is_foreign(request):
            body = error_body(codes.ERROR_PERMISSION_DENIED, FOREIGN_ORIGIN)
            return HTTPStatus.FORBIDDEN, [_PREFLIGHT_VARY, (b"content-type", b"application/json")], body
        headers = [header for header in response_headers(self._context, request) if header != VARY]
        headers += [_PREFLIGHT_VARY, (b"access-control-allow-methods", methods.encode())]
        wanted = (request.header(b"access-control-request-headers") or "").encode("latin-1")
        if _FIELD_NAMES.fullmatch(wanted):
            headers.append((b"access-control-allow-headers", wanted))
        headers.append((b"access-control-max-age", b"%d" % PREFLIGHT_SECONDS))
        return HTTPStatus.NO_CONTENT, headers, b""


def request_of(scope: Scope) -> Upgrade:
    """An HTTP request in an ASGI scope, as the checks of a handshake see it."""
    client = scope.get("client")
    return Upgrade(
        query=scope["query_string"],
        headers=scope["headers"],
        subprotocols=(),
        address=client[0] if client else "",
        path=scope["path"],
    )


def with_headers(headers: Iterable[Header], added: Sequence[Header]) -> list[Header]:
    """`headers` with those of `added` that are not among them."""
    present = list(headers)
    return [*present, *(header for header in added if header not in present)]


async def _answer(send: Send, status: HTTPStatus, headers: list[Header], body: bytes) -> None:
    # RFC 9110 section 8.6: a 204 has no Content-Length.
    length = [] if status is HTTPStatus.NO_CONTENT else [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *length]})
    await send({"type": "http.response.body", "body": body})
