"""`GET /`: the first page, with a live channel and the tutorial's exercises; static files without a build step."""

import html
from pathlib import Path
from typing import Any

import msgspec
from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse, Response
from fastapi.staticfiles import StaticFiles

STATIC = Path(__file__).parent / "static"
_FACTS = "{{facts}}"

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class PageFiles(StaticFiles):
    """The page's files, with the page's headers, so that a browser never pairs an old script with a new page."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Answer with a file."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(HEADERS)
        return response


static_files = PageFiles(directory=STATIC)


class PageFacts(msgspec.Struct, frozen=True):
    """What the page needs to know of the service that serves it."""

    developer: bool
    """Clients need no token."""
    names: bool
    """The page makes one-time tickets with the key of developer mode, so that clients have the names users enter."""
    tutorial: bool
    max_message_bytes: int
    api: str = "api"
    """Where the server API is, seen from the page."""
    api_docs: str | None = None
    """Where the reference of the server API is, seen from the page; None where it is not served."""
    console_port: int | None = None
    """Port of the console on this machine; None where the page must not name it."""
    guide: bool = False
    """The documentation is served at docs/guide, seen from the page."""


def build_router(facts: PageFacts) -> APIRouter:
    """Build the route of the page, with `facts` in it, and of its icon."""
    router = APIRouter(include_in_schema=False)
    page = (STATIC / "index.html").read_text().replace(_FACTS, html.escape(msgspec.json.encode(facts).decode()))

    @router.get("/")
    async def first_page() -> HTMLResponse:
        """The page."""
        return HTMLResponse(page, headers=HEADERS)

    @router.get("/favicon.ico")
    async def icon() -> FileResponse:
        """The icon, where browsers look for it for addresses that are no page."""
        return FileResponse(STATIC / "icon.svg", headers=HEADERS)

    return router
