"""The documentation as one small file, which the service shows at /docs/guide in developer mode.

It leaves out what would add most to its size: decision notes, a second theme, and most colours of pictures.
"""

import io
import json
import re
import zipfile
from pathlib import Path

from PIL import Image

COLOURS = 48
_LEFT_OUT = ("assets/stylesheets/classic/", "decisions/", "sitemap.xml", "robots.txt")
_SELECTOR = re.compile(rb'"version":\s*\{[^{}]*\}')
# A link to a page that is left out becomes its text.
_LINK = re.compile(rb'<a [^>]*href="(?:\.\./)*decisions/[^"]*"[^>]*>(.*?)</a>', re.DOTALL)


def write_guide(site: Path, target: Path) -> int:
    """Pack the pages of `site` into the archive `target` and return its size in bytes."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(site.rglob("*")):
            name = path.relative_to(site).as_posix()
            if path.is_file() and not name.startswith(_LEFT_OUT):
                # A fixed time: the same pages make the same archive.
                archive.writestr(zipfile.ZipInfo(name), _small(path), zipfile.ZIP_DEFLATED)
    return target.stat().st_size


def _small(path: Path) -> bytes:
    if path.suffix == ".html":
        return _LINK.sub(rb"\1", _SELECTOR.sub(b'"version":null', path.read_bytes()))
    if path.name == "search.json":
        index = json.loads(path.read_text())
        index["items"] = [item for item in index["items"] if not item["location"].startswith(_LEFT_OUT)]
        return json.dumps(index, ensure_ascii=False, separators=(",", ":")).encode()
    if path.suffix != ".png":
        return path.read_bytes()
    smaller = io.BytesIO()
    Image.open(path).convert("RGB").quantize(COLOURS).save(smaller, "PNG", optimize=True)
    return min(path.read_bytes(), smaller.getvalue(), key=len)
