"""The documentation as a site: every page is there, every link leads somewhere, nothing is loaded from elsewhere."""

import json
import re
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, expect

from starling.web.guide import build_router
from tests.browser.axe import violations
from tests.browser.conftest import chromium
from tests.support.services import free_port
from tools.site.__main__ import ROOT, build, navigation, problems, with_links
from tools.site.diagrams import is_current, pictures
from tools.site.guide import write_guide
from tools.site.versions import add_version

pytestmark = pytest.mark.processes
__all__ = ["chromium"]


@pytest.fixture(scope="module")
def site() -> Path:
    """It is built once: that takes seconds, and ends with every broken link."""
    return build()


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files without a line on standard error for each."""

    def log_message(self, *args: object) -> None:
        """Write nothing."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(site))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_every_page_is_in_the_site(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    built = {path.relative_to(site) for path in site.rglob("*.html")}
    assert pages <= built
    assert {Path("index.html"), Path("changelog.html"), Path("security.html")} <= built


def test_the_navigation_leads_to_every_page_of_the_first_level() -> None:
    listed = {place for pages in navigation((ROOT / "README.md").read_text()).values() for _, place in pages}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= listed


def test_a_reader_searches_without_another_server(address: str, chromium: Browser) -> None:
    context = chromium.new_context(color_scheme="dark")
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{address}/concepts.html")
    assert page.evaluate("document.body.dataset.mdColorScheme") == "slate"
    page.get_by_role("button", name="Search").first.click()
    page.get_by_placeholder("Search").press_sequentially("ConnectionManager")
    page.get_by_text(re.compile(r"^[1-9]\d* results?$")).wait_for()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    context.close()


def test_versions_stay_in_the_site_and_the_newest_release_is_the_first(tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    for version in ("0.9.0", "0.10.0", "1.0.0rc1", "0.2.0", "0.10.0"):
        (pages / "index.html").write_text(f"pages of {version}")
        add_version(tmp_path / "site", version, pages)
    listed = json.loads((tmp_path / "site" / "versions.json").read_text())
    assert [one["version"] for one in listed] == ["0.10.0", "0.9.0", "0.2.0", "1.0.0rc1"]
    assert [one["aliases"] for one in listed] == [["latest"], [], [], []]
    assert "url=0.10.0/index.html" in (tmp_path / "site" / "index.html").read_text()
    assert (tmp_path / "site" / "0.2.0" / "index.html").read_text() == "pages of 0.2.0"


def test_pages_of_the_same_version_are_replaced(tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "index.html").write_text("first")
    (pages / "gone.html").write_text("first")
    add_version(tmp_path / "site", "0.1.0", pages)
    (pages / "gone.html").unlink()
    add_version(tmp_path / "site", "0.1.0", pages)
    assert [path.name for path in (tmp_path / "site" / "0.1.0").iterdir()] == ["index.html"]


@pytest.mark.long
def test_a_reader_changes_to_another_version(site: Path, tmp_path: Path, chromium: Browser) -> None:
    for version in ("0.1.0", "0.2.0"):
        add_version(tmp_path, version, site)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(tmp_path))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        page = chromium.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_url("**/0.2.0/index.html")
        page.get_by_role("button", name="Select version").focus()
        page.get_by_role("link", name="0.1.0", exact=True).click()
        page.wait_for_url("**/0.1.0/**")
        expect(page.get_by_role("button", name="Select version")).to_have_text("0.1.0")
        page.close()
        server.shutdown()


@pytest.mark.long
def test_the_guide_of_developer_mode_is_small_and_every_link_in_it_leads_somewhere(site: Path, tmp_path: Path) -> None:
    size = write_guide(site, tmp_path / "guide.zip")
    assert size < 1_600_000
    with zipfile.ZipFile(tmp_path / "guide.zip") as archive:
        archive.extractall(tmp_path / "guide")
    assert (tmp_path / "guide" / "tutorial.html").is_file()
    assert not (tmp_path / "guide" / "decisions").exists()
    assert [*problems(tmp_path / "guide")] == []
    index = json.loads((tmp_path / "guide" / "search.json").read_text())
    assert all((tmp_path / "guide" / item["location"].split("#")[0]).is_file() for item in index["items"])


@pytest.mark.long
def test_the_guide_works_in_a_browser_under_its_strict_policy(site: Path, tmp_path: Path, chromium: Browser) -> None:
    write_guide(site, tmp_path / "guide.zip")
    application = FastAPI()
    application.include_router(build_router(tmp_path / "guide.zip"))
    server = uvicorn.Server(uvicorn.Config(application, port=free_port(), log_level="warning"))
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    page = chromium.new_page()
    complaints: list[str] = []
    page.on("console", lambda line: complaints.append(line.text) if line.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    while not server.started:
        page.wait_for_timeout(20)
    page.goto(f"http://127.0.0.1:{server.config.port}/docs/guide")
    page.get_by_role("button", name="Search").first.click()
    page.get_by_placeholder("Search").press_sequentially("ConnectionManager")
    page.get_by_text(re.compile(r"^[1-9]\d* results?$")).wait_for()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("From the tutorial's ConnectionManager")
    page.get_by_title("Switch to dark mode").click()
    assert page.evaluate("document.body.dataset.mdColorScheme") == "slate"
    page.close()
    server.should_exit = True
    thread.join(20)
    assert complaints == []


@pytest.mark.parametrize("scheme", ["default", pytest.param("slate", marks=pytest.mark.long)])
@pytest.mark.parametrize(
    "name", ["concepts", pytest.param("index", marks=pytest.mark.long), pytest.param("publish", marks=pytest.mark.long)]
)
def test_axe_finds_nothing(address: str, chromium: Browser, name: str, scheme: str) -> None:
    context = chromium.new_context(color_scheme="dark" if scheme == "slate" else "light")
    page = context.new_page()
    page.goto(f"{address}/{name}.html")
    assert page.evaluate("document.body.dataset.mdColorScheme") == scheme
    assert violations(page) == []
    context.close()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('<a href="missing.html">x</a>', "missing.html does not exist"),
        ('<a href="other.html#nowhere">x</a>', "no such heading"),
        ('<a href="#nowhere">x</a>', "no such heading"),
        ('<img src="lost.png">', "lost.png does not exist"),
        ('<script src="https://elsewhere.example/x.js"></script>', "it loads https://elsewhere.example/x.js"),
        ('<link rel="stylesheet" href="https://elsewhere.example/x.css">', "it loads"),
    ],
)
def test_a_broken_link_and_a_foreign_file_end_the_build(tmp_path: Path, written: str, said: str) -> None:
    (tmp_path / "other.html").write_text('<h1 id="here">x</h1><a href="#here">x</a>')
    assert [*problems(tmp_path)] == []
    (tmp_path / "page.html").write_text(written)
    (problem,) = problems(tmp_path)
    assert said in problem


@pytest.mark.parametrize(
    ("page", "written", "expected"),
    [
        ("README.md", "[a](docs/tokens.md#x)", "[a](tokens.md#x)"),
        ("docs/tokens.md", "[a](../SECURITY.md)", "[a](security.md)"),
        ("docs/runbooks/slow-clients.md", "[a](../operate.md)", "[a](../operate.md)"),
        ("docs/tokens.md", "[a](../app/starling/main.py)", "[a](https://code.example/blob/main/app/starling/main.py)"),
        ("docs/tokens.md", "[a](https://example.com/docs/x)", "[a](https://example.com/docs/x)"),
        ("docs/tokens.md", "```text\n[a](../app/x.py)\n```", "```text\n[a](../app/x.py)\n```"),
    ],
)
def test_links_lead_to_the_same_place_in_the_site(page: str, written: str, expected: str) -> None:
    assert with_links(written, page, "https://code.example") == expected


def test_a_link_to_code_is_plain_text_without_an_address_of_the_repository() -> None:
    assert with_links("see [main](../app/starling/main.py).", "docs/tokens.md", "") == "see main."


@pytest.mark.parametrize("source", [source.stem for source, _ in pictures()])
def test_a_picture_is_drawn_from_its_source_as_it_is(source: str) -> None:
    drawn = dict(pictures())
    path = next(path for path in drawn if path.stem == source)
    assert is_current(path, drawn[path]), "run `make diagrams`"
