"""`make diagrams`: draw docs/diagrams/*.mmd (mermaid) as SVG into docs/pictures, in Chromium.

A picture names the hash of its source, by which a test finds one that is older than its source.
"""

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "docs" / "diagrams"
PICTURES = ROOT / "docs" / "pictures"
MERMAID = "11.17.2"
_PAGE = "<!doctype html><meta charset='utf-8'><body style='font-family: sans-serif'>"
_DRAW = """async ([name, source]) => {
    mermaid.initialize({ startOnLoad: false, theme: "neutral", fontFamily: "sans-serif", htmlLabels: false });
    return (await mermaid.render(name, source)).svg;
}"""


def source_hash(source: str) -> str:
    """What a picture is known by."""
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def pictures() -> Iterator[tuple[Path, Path]]:
    """Each source with its picture."""
    for source in sorted(SOURCES.glob("*.mmd")):
        yield source, PICTURES / f"{source.stem}.svg"


def draw(page: Page, name: str, source: str) -> str:
    """The picture of one source, with a white background for dark pages."""
    svg: str = page.evaluate(_DRAW, [f"diagram-{name}", source])
    svg = re.sub(r'(<svg [^>]*style=")', r"\1background: #fff; ", svg, count=1)
    return f"<!-- source {source_hash(source)} -->\n{svg}\n"


def main() -> None:
    """Draw every picture whose source changed."""
    old = [(source, picture) for source, picture in pictures() if not is_current(source, picture)]
    if not old:
        return
    packages = ROOT / "build" / "mermaid"
    packages.mkdir(parents=True, exist_ok=True)
    (packages / "package.json").write_text(json.dumps({"private": True, "dependencies": {"mermaid": MERMAID}}))
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=packages, check=True)  # noqa: S607
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.set_content(_PAGE)
        page.add_script_tag(path=packages / "node_modules" / "mermaid" / "dist" / "mermaid.min.js")
        for source, picture in old:
            picture.write_text(draw(page, source.stem, source.read_text()))
            print(f"drew {picture.relative_to(ROOT)}")
        browser.close()


def is_current(source: Path, picture: Path) -> bool:
    """Whether `picture` was drawn from `source` as it is."""
    return picture.exists() and f"<!-- source {source_hash(source.read_text())} -->" in picture.read_text()


if __name__ == "__main__":
    main()
