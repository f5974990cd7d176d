"""The versions of the site: a directory for each, the list that the theme's selector reads, and the way to the newest.

The layout is that of mike (https://github.com/jimporter/mike), which the theme supports: `versions.json` stands next to
the versions.
"""

import json
import shutil
from pathlib import Path

from packaging.version import InvalidVersion, Version

_REDIRECT = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Starling</title>
<meta http-equiv="refresh" content="0; url={version}/index.html">
<p><a href="{version}/index.html">Documentation of Starling {version}</a></p>
</html>
"""


def add_version(site: Path, version: str, pages: Path) -> None:
    """Put `pages` into `site` as `version`, in place of earlier pages of this version. Other versions stay."""
    site.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(site / version, ignore_errors=True)
    shutil.copytree(pages, site / version)
    newest, *older = versions(site)
    listed = [{"version": newest, "title": newest, "aliases": ["latest"]}]
    listed += [{"version": one, "title": one, "aliases": []} for one in older]
    (site / "versions.json").write_text(json.dumps(listed, indent=1) + "\n")
    (site / "index.html").write_text(_REDIRECT.format(version=newest))


def versions(site: Path) -> list[str]:
    """The versions that have a directory in `site`, the newest release first; pre-releases come after all releases."""
    found = []
    for directory in site.iterdir():
        try:
            version = Version(directory.name)
        except InvalidVersion:
            continue
        if (directory / "index.html").is_file():
            found.append((not version.is_prerelease, version, directory.name))
    return [name for *_, name in sorted(found, reverse=True)]
