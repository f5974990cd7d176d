"""The answer to paths without an endpoint: 404 on HTTP and before an upgrade, with the path that was probably meant."""

import difflib
import json
import re
from typing import Any

import structlog
from fastapi import FastAPI
from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from starling.telemetry.metrics import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.web")

REASON = "unknown_path"
WEBSOCKET_REMEDY = "clients of the real-time protocol connect to /connection/websocket"


# Of a path that is compared with those of the endpoints: its characters, and the share that must be alike.
_LONGEST = 64
_ALIKE = 0.8


class UnknownPath:
    """The ASGI application behind all routes."""

    def __init__(self, application: FastAPI, metrics: Metrics, *, developer: bool) -> None:
        self._router = application.router
        self._metrics = metrics
        self._developer = developer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 404; a WebSocket is counted and logged, because its client sees nothing but that it failed."""
        if scope["type"] == "http" and self._has_websocket(scope):
            detail = (
                f"this is a WebSocket endpoint: connect with a WebSocket client, as in `starling ping` or "
                f'new WebSocket("ws://HOST{scope["path"]}")'
            )
            await _answer(send, "http.response", detail, 426, (b"upgrade", b"websocket"), (b"connection", b"Upgrade"))
            return
        remedy = self._remedy(scope)
        detail = f"there is no endpoint at {json.dumps(scope['path'])[1:-1]}"
        if scope["type"] == "websocket":
            self._metrics.refuse(REASON, path=scope["path"], remedy=remedy or WEBSOCKET_REMEDY)
            await _answer(send, "websocket.http.response", f"{detail}: {remedy or WEBSOCKET_REMEDY}")
        else:
            await _answer(send, "http.response", f"{detail}: {remedy}" if remedy else detail)

    def _has_websocket(self, scope: Scope) -> bool:
        """Whether the path is one for WebSockets, as who pastes its address into a browser finds out."""
        upgraded = {**scope, "type": "websocket"}
        return any(
            route.matches(upgraded)[0] is Match.FULL for route in self._router.routes if not isinstance(route, Mount)
        )

    def _remedy(self, scope: Scope) -> str:
        """Name the endpoint of the path with fewer slashes, or a client endpoint spelt alike; else empty."""
        path = re.sub("/{2,}", "/", scope["path"]).rstrip("/")
        if path and path != scope["path"]:
            nearest = {**scope, "path": path}
            if any(route.matches(nearest)[0] is not Match.NONE for route in self._router.routes):
                return f"did you mean {path}? (a slash too many)"
        # The comparison costs more than the rest of the answer, so strangers do not get it.
        if not self._developer or len(path) > _LONGEST:
            return ""
        paths = {getattr(route, "path", "{"): route for route in self._router.routes}
        known = [known for known in paths if "{" not in known]
        for meant in difflib.get_close_matches(path, known, cutoff=_ALIKE):
            # A browser is also shown the address of a WebSocket, a WebSocket only what it can open.
            if scope["type"] == "http" or paths[meant].matches({**scope, "path": meant})[0] is Match.FULL:
                return f"did you mean {meant}?"
        return ""


async def _answer(send: Send, kind: str, detail: str, status: int = 404, *more: tuple[bytes, bytes]) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers: list[Any] = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-content-type-options", b"nosniff"),
    ]
    await send({"type": f"{kind}.start", "status": status, "headers": [*headers, *more]})
    await send({"type": f"{kind}.body", "body": body})


def install(application: FastAPI, metrics: Metrics, *, developer: bool = False) -> None:
    """Answer unknown paths in this way, and never by a redirect to the host that a request names.

    In developer mode the answer also names a client endpoint that is spelt alike.
    """
    application.router.redirect_slashes = False
    unknown: ASGIApp = UnknownPath(application, metrics, developer=developer)
    application.router.default = unknown
