"""HEAD on every path that answers GET (RFC 9110 section 9.1): the same status and headers, without the content."""

from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

IS_HEAD = "starling.head"
"""Set in the scope of a GET request that was HEAD, for endpoints that should do less then."""


class ContentNotWanted(OSError):
    """Raised in an endpoint that goes on sending after its headers have answered a HEAD request."""


class HeadRequests:
    """ASGI middleware that serves HEAD as GET and sends the head of the response alone."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; all but HEAD pass as they are."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        answered = False

        async def send_head(message: MutableMapping[str, Any]) -> None:
            nonlocal answered
            if message["type"] == "http.response.start" and not answered:
                answered = True
                await send(message)
                await send({"type": "http.response.body", "body": b""})
            elif message.get("more_body", False):
                # An endless stream would never end by itself.
                raise ContentNotWanted

        try:
            await self._app({**scope, "method": "GET", IS_HEAD: True}, receive, send_head)
        except Exception:
            # Starlette raises its own ClientDisconnect for the OSError; what fails before the head is a fault.
            if not answered:
                raise
