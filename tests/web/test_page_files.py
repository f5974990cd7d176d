"""The first page's files: what is vendored is as its authors published it, and the facts in the page are safe."""

import hashlib
import json
import re
from html import unescape

from fastapi import FastAPI
from fastapi.testclient import TestClient

from starling.web.pages import STATIC, PageFacts, build_router

# SHA-256 of dist/centrifuge.js in the npm package centrifuge 5.8.0.
VENDORED = {"vendor-centrifuge.js": "2e9a24e8495900b030008edd8a8d3746a218a213044b5ed15635fbadac24d4b8"}


def test_every_vendored_file_is_as_it_was_published_and_has_its_licence() -> None:
    files = {path.name: path for path in STATIC.glob("vendor-*") if path.suffix != ".txt"}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == VENDORED
    assert "== centrifuge-5.8.0" in (STATIC / "vendor-licences.txt").read_text()


def test_files_of_the_page_name_only_files_that_exist() -> None:
    for path in STATIC.iterdir():
        if path.suffix not in {".html", ".js"} or path.name.startswith(("vendor-", "docs")):
            continue
        named = re.findall(r"""(?:src|href)="static/([^"]+)"|from "\./([^"]+)\"""", path.read_text())
        assert all((STATIC / (one or other)).is_file() for one, other in named), path


def test_the_page_has_the_facts_of_its_service_whatever_letters_they_hold() -> None:
    application = FastAPI()
    facts = PageFacts(
        developer=True, names=False, tutorial=True, max_message_bytes=512, api="""a"p'i<>&""", console_port=9191
    )
    application.include_router(build_router(facts))
    with TestClient(application) as client:
        page = client.get("/")
    assert "default-src 'self';" in page.headers["content-security-policy"]
    (written,) = re.findall(r'data-facts="([^"]*)"', page.text)
    assert json.loads(unescape(written)) == {
        "developer": True,
        "names": False,
        "tutorial": True,
        "max_message_bytes": 512,
        "api": """a"p'i<>&""",
        "api_docs": None,
        "console_port": 9191,
        "guide": False,
    }
