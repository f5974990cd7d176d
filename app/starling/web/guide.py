"""`GET /docs/guide`: the documentation in developer mode, from the archive that `make docs-site` packs.

A source tree where nobody has run that command, and an installed package, have no archive: the pages are not served.
"""

import base64
import hashlib
import mimetypes
import re
from pathlib import Path
from zipfile import ZipFile

from fastapi import APIRouter, HTTPException
from fastapi.responses import RedirectResponse, Response

ARCHIVE = Path(__file__).with_name("guide.zip")
PATH = "/docs/guide"
_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; "
    "frame-ancestors 'none'; script-src 'self'"
)


def build_router(archive: Path) -> APIRouter:
    """Build the routes of the pages in `archive`."""
    router = APIRouter(include_in_schema=False)
    names = frozenset(ZipFile(archive).namelist())

    @router.get(PATH)
    def start() -> RedirectResponse:
        """Lead to the first page: the links of the pages are relative."""
        return RedirectResponse(f"{PATH.rsplit('/', 1)[1]}/index.html")

    @router.get(PATH + "/{name:path}")
    def file(name: str) -> Response:
        """Return one file; a page's own scripts are allowed by their hashes."""
        if (name := name or "index.html") not in names:
            raise HTTPException(404, f"the documentation has no page {name}; see {PATH}/index.html")
        with ZipFile(archive) as files:
            content = files.read(name)
        media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        hashes = (
            [hashlib.sha256(script).digest() for script in _SCRIPT.findall(content)] if name.endswith("html") else []
        )
        policy = " ".join([_POLICY, *(f"'sha256-{base64.b64encode(value).decode()}'" for value in hashes)])
        headers = {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        }
        return Response(content, media_type=media_type, headers=headers)

    return router
