"""The documentation as a site: every page is there, every link leads somewhere, nothing is loaded from elsewhere."""

import re
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from playwright.sync_api import Browser

from tests.browser.axe import violations
from tests.browser.conftest import chromium
from tools.site.__main__ import ROOT, build, navigation, problems, with_links
from tools.site.diagrams import is_current, pictures

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
