"""What every WebSocket route of a user's application has without asking: admission, origin check and metrics."""

from collections.abc import Callable, MutableMapping
from typing import Any

from fastapi import HTTPException, WebSocket
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from starling.engine.transport import VANISHED
from starling.telemetry.metric_list import APPLICATION_TRANSPORT
from starling.telemetry.metrics import TransportStats
from starling.web.dependencies import WebContext
from starling.web.unknown_path import REASON as UNKNOWN_PATH

_GUARDED = "starling.guarded"


class WebSocketGuard:
    """ASGI middleware around `app`; paths for which `is_own` is true have these checks already.

    Without `has_routes` nobody knows which WebSockets `app` takes, such as Django, which raises for each: what it
    raises before it answers is 404.
    """

    def __init__(
        self, app: ASGIApp, context: WebContext, is_own: Callable[[str], bool], *, has_routes: bool = True
    ) -> None:
        self._app = app
        self._context = context
        self._is_own = is_own
        self._has_routes = has_routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "websocket" or _GUARDED in scope or self._is_own(scope["path"]):
            await self._app(scope, receive, send)
            return
        websocket = WebSocket(scope, receive, send)
        try:
            await self._context.admit(websocket)
        except HTTPException as refused:
            answer = JSONResponse({"detail": refused.detail}, refused.status_code, headers=dict(refused.headers or {}))
            await websocket.send_denial_response(answer)
            return
        counter = _Counter(self._context.engine.metrics.transports[APPLICATION_TRANSPORT], receive, send)
        try:
            await self._app({**scope, _GUARDED: True}, counter.receive, counter.send)
        except Exception as error:
            if self._has_routes or counter.answered:
                raise
            remedy = f"your application takes no WebSocket here: {error}"
            self._context.engine.metrics.refuse(UNKNOWN_PATH, path=scope["path"], remedy=remedy)
            answer = JSONResponse({"detail": "there is no WebSocket endpoint here"}, 404)
            await websocket.send_denial_response(answer)
        finally:
            counter.end()


class _Counter:
    """Counts one connection from its accept to its close."""

    def __init__(self, stats: TransportStats, receive: Receive, send: Send) -> None:
        self._stats = stats
        self._receive = receive
        self._send = send
        self.answered = False
        """Whether the application has sent anything."""
        self._open = False
        self._code = VANISHED

    async def receive(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        if message["type"] == "websocket.receive":
            self._stats.messages_in += 1
            self._stats.bytes_in += _size(message)
        elif message["type"] == "websocket.disconnect":
            self._code = message.get("code", 1005)
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.answered = True
        await self._send(message)
        if message["type"] == "websocket.accept":
            self._open = True
            self._stats.opened += 1
            self._stats.now += 1
        elif message["type"] == "websocket.send":
            self._stats.messages_out += 1
            self._stats.bytes_out += _size(message)
        elif message["type"] == "websocket.close":
            self._code = message.get("code", 1000)

    def end(self) -> None:
        if self._open:
            self._open = False
            self._stats.now -= 1
            self._stats.close(self._code)


def _size(message: MutableMapping[str, Any]) -> int:
    text = message.get("text")
    return len(text.encode()) if text is not None else len(message.get("bytes") or b"")
