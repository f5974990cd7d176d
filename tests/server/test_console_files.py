"""The console's files: what is vendored is as its authors published it, and all together are small."""

import gzip
import hashlib
import re

import pytest

from starling.server.console.requests import STATIC, TYPES

# SHA-256 of the files in the packages: htm 3.1.1 (preact/standalone.module.js), uplot 1.6.32, @picocss/pico 2.1.1.
VENDORED = {
    "vendor-preact-htm.js": "72284e8e9079c87817145df1110f74e8a2aa040b2fc384922e18dfcb46fc1fd7",
    "vendor-uplot.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "vendor-pico.css": "61207a40ffc02a42d1e50143651c121beab70ed413c934c1ff84fa263ba436b0",
    "vendor-uplot.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
GZIPPED_BYTES = 70 * 1024


@pytest.mark.parametrize("name", VENDORED)
def test_a_vendored_file_is_as_it_was_published(name: str) -> None:
    assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == VENDORED[name]


def test_every_vendored_file_has_its_hash_and_its_licence() -> None:
    assert {path.name for path in STATIC.glob("vendor-*") if path.suffix != ".txt"} == set(VENDORED)
    licences = (STATIC / "vendor-licences.txt").read_text()
    assert [name for name in ("htm", "preact", "uplot", "pico") if f"== {name}" not in licences] == []


def test_the_console_is_small() -> None:
    files = [path.read_bytes() for path in STATIC.iterdir() if path.suffix in {".html", ".js", ".css", ".svg"}]
    assert sum(len(gzip.compress(content)) for content in files) < GZIPPED_BYTES


def test_its_files_name_no_other_server_and_only_files_that_exist() -> None:
    for path in STATIC.iterdir():
        assert path.suffix in TYPES, path
        if path.name.startswith("vendor-"):
            continue
        text = path.read_text()
        named = re.findall(r"""(?:src|href)="([^"#]+)"|from "\./([^"]+)\"""", text)
        assert all((STATIC / (one or other)).is_file() for one, other in named), path
        assert "://" not in text.replace("http://www.w3.org/2000/svg", ""), path
