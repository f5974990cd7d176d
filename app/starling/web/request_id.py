"""An id for every request, in its log lines and in the answer, so that a proxy's line and ours can be joined."""

import os
import re
from collections.abc import Iterable, MutableMapping
from typing import Any

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

HEADER = b"x-request-id"
# What another may have put there: nothing that could break a log line or a header.
_GOOD = re.compile(rb"^[A-Za-z0-9._:/+=-]{1,128}$")


def given_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id that a proxy gave a request; empty where there is none that is fit for a log line and a header."""
    given = next((value for name, value in headers if name == HEADER), b"")
    return given.decode() if _GOOD.match(given) else ""


def new_id() -> str:
    """An id for a request that brought none."""
    return os.urandom(8).hex()


class RequestId:
    """Takes the id of `X-Request-ID`, or makes one for an HTTP request that has none."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Bind the id for the log lines of this request, and answer with it."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        if given := given_id(scope["headers"]):
            request_id = given.encode()
        elif scope["type"] == "websocket":
            # A connection has an id of its own.
            await self._app(scope, receive, send)
            return
        else:
            request_id = new_id().encode()

        async def answer(message: MutableMapping[str, Any]) -> None:
            if message["type"] in {"http.response.start", "websocket.accept", "websocket.http.response.start"}:
                message["headers"] = [*message.get("headers", ()), (HEADER, request_id)]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id.decode()):
            await self._app(scope, receive, answer)
