"""`make docs-site`: the pages of docs/ with README, changelog and security as a site, by zensical.

The index of README.md is the navigation. A link that leaves the documentation goes to the repository (PROJECT_URL), or
becomes plain text where that is not given. A broken link or anchor ends the build. The site is
build/site or SITE, with a directory for each version; other versions stay. The archive of `/docs/guide` is written too.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from starling import __version__
from tools.site.guide import write_guide
from tools.site.versions import add_version

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"
GUIDE = ROOT / "app" / "starling" / "web" / "guide.zip"
# Pages outside docs/, by their place in the repository.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
}
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_SECTION = re.compile(r"^\| (\w+) \| page \|\n\|---\|---\|\n((?:\|.*\n)+)", re.MULTILINE)
_CONFIGURATION = """\
[project]
site_name = "Starling"
site_description = "A real-time service for Python teams"
docs_dir = "site-pages"
site_dir = "site-version"
use_directory_urls = false
extra_css = ["site.css"]
extra_javascript = ["site.js"]
nav = [
{nav}
]

[project.extra.version]
provider = "mike"

[project.theme]
features = ["content.code.copy", "navigation.top", "search.highlight", "toc.follow"]
font = false
logo = "starling.svg"
favicon = "starling.svg"

[[project.theme.palette]]
media = "(prefers-color-scheme: light)"
scheme = "default"
toggle.icon = "lucide/sun"
toggle.name = "Switch to dark mode"

[[project.theme.palette]]
media = "(prefers-color-scheme: dark)"
scheme = "slate"
toggle.icon = "lucide/moon"
toggle.name = "Switch to light mode"

[project.markdown_extensions.tables]

[project.markdown_extensions.toc]
permalink = true

[project.markdown_extensions.pymdownx.highlight]

[project.markdown_extensions.pymdownx.superfences]
"""


def navigation(readme: str) -> dict[str, list[tuple[str, str]]]:
    """The index of README.md: for each of its tables the title and the page of each row."""
    sections = {}
    for heading, rows in _SECTION.findall(readme):
        pages = []
        for row in rows.splitlines():
            title, links = row.strip("| ").split(" | ", 1)
            for label, target in _LINK.findall(links):
                pages.append((title if len(_LINK.findall(links)) == 1 else Path(label).stem, _place(target)))
        sections[heading.capitalize()] = [page for page in pages if page[1].endswith(".md")]
    return sections


def _place(path: str) -> str:
    """Where a file of the repository is in the site."""
    return PAGES.get(path, path.removeprefix("docs/"))


def with_links(text: str, page: str, project_url: str) -> str:
    """The text of `page` (its path in the repository) with links as they are in the site."""

    def replace(match: re.Match[str]) -> str:
        label, target = match[1], match[2]
        parts = urlsplit(target)
        if parts.scheme or not parts.path:
            return match[0]
        path = os.path.normpath(Path(page).parent / parts.path)
        if path in PAGES or path.startswith("docs/"):
            place = os.path.relpath(_place(path), Path(_place(page)).parent)
            if (ROOT / path).is_file():
                return f"[{label}]({place}{'#' + parts.fragment if parts.fragment else ''})"
        return f"[{label}]({project_url}/blob/main/{path})" if project_url else label

    # Code is left as it is.
    pieces, end = [], 0
    for code in _CODE.finditer(text):
        pieces += [_LINK.sub(replace, text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*pieces, _LINK.sub(replace, text[end:])])


def write_pages(target: Path, project_url: str) -> None:
    """Copy every page and picture into `target`."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "docs", target, ignore=shutil.ignore_patterns("*.mmd", "__pycache__"))
    for source in [*PAGES, *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]:
        page = target / _place(source)
        page.write_text(with_links((ROOT / source).read_text(), source, project_url))
    for name in ("site.css", "site.js"):
        shutil.copy(Path(__file__).with_name(name), target / name)


class _Links(HTMLParser):
    """What a page of the site refers to, and the anchors it has."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Take the references of one tag."""
        values = {name: value or "" for name, value in attributes}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in {"script", "img", "iframe"} and "src" in values:
            self.loaded.append(values["src"])
        if tag == "link" and values.get("rel") in {"stylesheet", "icon", "preload", "manifest"}:
            self.loaded.append(values["href"])


def problems(site: Path) -> Iterator[str]:
    """Each link of the site that leads nowhere, and each file that a page would load from elsewhere."""
    pages = {path: _Links() for path in site.rglob("*.html")}
    for path, page in pages.items():
        page.feed(path.read_text())
    for path, page in pages.items():
        for address in page.loaded:
            if urlsplit(address).netloc:
                yield f"{path.relative_to(site)}: it loads {address}"
        for address in [*page.links, *page.loaded]:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target = target / "index.html"
            if not target.exists():
                yield f"{path.relative_to(site)}: {address} does not exist"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{path.relative_to(site)}: {address} has no such heading"


def build(project_url: str = "") -> Path:
    """Build the pages of this version and return their directory. Raises SystemExit with every problem."""
    BUILD.mkdir(exist_ok=True)
    write_pages(BUILD / "site-pages", project_url)
    lines = ['  { "Overview" = "index.md" },']
    for heading, pages in navigation((ROOT / "README.md").read_text()).items():
        rows = ", ".join(f'{{ "{title[0].upper()}{title[1:]}" = "{place}" }}' for title, place in pages)
        lines.append(f'  {{ "{heading}" = [{rows}] }},')
    lines.append('  { "Changelog" = "changelog.md" },')
    configuration = BUILD / "zensical.toml"
    configuration.write_text(_CONFIGURATION.format(nav="\n".join(lines)))
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--clean", "-f", str(configuration)]
    done = subprocess.run(command, cwd=BUILD, capture_output=True, text=True, check=False)  # noqa: S603
    site = BUILD / "site-version"
    found = [*problems(site)] if done.returncode == 0 else [done.stdout + done.stderr]
    if found:
        raise SystemExit("\n".join(found))
    return site


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(prog="python -m tools.site", description=__doc__)
    parser.add_argument("--project-url", default="", help="address of the repository, for links to its files")
    parser.add_argument("--site", type=Path, default=BUILD / "site", help="the site, with the versions it has so far")
    options = parser.parse_args()
    pages = build(options.project_url.rstrip("/"))
    size = write_guide(pages, GUIDE)
    add_version(options.site, __version__, pages)
    print(f"Open {options.site / 'index.html'}, or /docs/guide of `make run` ({size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
