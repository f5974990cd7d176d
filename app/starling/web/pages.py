"""`GET /`: the demo page, static files without a build step."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles

STATIC = Path(__file__).parent / "static"

router = APIRouter(include_in_schema=False)

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


@router.get("/")
async def page() -> FileResponse:
    """The demo page."""
    return FileResponse(STATIC / "index.html", headers=HEADERS)


@router.get("/favicon.ico")
async def icon() -> FileResponse:
    """The icon, where browsers look for it for addresses that are no page."""
    return FileResponse(STATIC / "icon.svg", headers=HEADERS)
