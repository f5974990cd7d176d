"""Checks of the project as a whole: what its files may name, its version, its locks."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from starling import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
LOCKS = {
    "requirements/runtime.txt": RUNTIME,
    "requirements/otel.txt": RUNTIME + EXTRAS["otel"],
    "requirements/dev.txt": RUNTIME + EXTRAS["otel"] + EXTRAS["dev"],
    "requirements/build.txt": PROJECT["dependency-groups"]["build"] + PROJECT["build-system"]["requires"],
}
PIN = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)(?P<marker> ;[^\\]*)? \\\n(?P<hashes>(?:    --hash=\S+(?: \\)?\n)+)"
)
FOREIGN = re.compile(
    r"pypi\.org|pythonhosted\.org|npmjs\.(?:org|com)|crates\.io|proxy\.golang\.org|(?:deb|security|snapshot)\.debian\.org"
    r"|maven\.org|find-links|(?<![\w.-])/(?:work|home)/|(?<![\w.-])/root/(?!\.cache/pip\b)"
)


def tracked_files() -> list[Path]:
    """Every file under version control that is there."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30
    )
    if listed.returncode != 0:
        pytest.skip("this is not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers; nothing of a picture."""
    content = path.read_bytes()
    if b"\0" not in content:
        yield from enumerate(content.decode().splitlines(), start=1)


def pins(lock: str) -> dict[str, re.Match[str]]:
    """The pinned packages of a lock by their names, the whole file accounted for."""
    text = "".join(line for line in (ROOT / lock).read_text().splitlines(keepends=True) if not re.match(r"\s*#", line))
    found: dict[str, re.Match[str]] = {}
    while text:
        pin = PIN.match(text)
        assert pin, f"{lock} holds something else than exact versions with hashes: {text[:200]!r}"
        found[canonicalize_name(pin["name"])] = pin
        text = text[pin.end() :]
    return found


@pytest.mark.processes
def test_no_file_names_a_registry_or_a_path_of_somebodys_machine() -> None:
    own = Path(__file__).resolve()
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in tracked_files()
        if path != own
        for number, line in text_lines(path)
        if (match := FOREIGN.search(line))
    ]
    assert not found


def test_the_search_for_foreign_names_finds_them() -> None:
    # Put together here, for this file may not name them either.
    for foreign in (
        "https://" + "pypi" + ".org/simple",
        "cd /" + "work/main",
        "--find" + "-links x",
        "/" + "root/.pyenv",
    ):
        assert FOREIGN.search(foreign)
    for allowed in ("target=/" + "root/.cache/pip", "https://starling.example/" + "work/", "network/" + "homes"):
        assert not FOREIGN.search(allowed)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_answers_what_pyproject_asks_for(lock: str) -> None:
    locked = pins(lock)
    for asked in map(Requirement, LOCKS[lock]):
        pin = locked.get(canonicalize_name(asked.name))
        assert pin, f"{asked.name} is not in {lock}: run `make lock`"
        assert pin["version"] in asked.specifier, f"{asked} contradicts {lock}: run `make lock`"


def test_the_locks_agree_with_each_other() -> None:
    versions: dict[str, set[str]] = {}
    for lock in LOCKS:
        for name, pin in pins(lock).items():
            versions.setdefault(name, set()).add(pin["version"])
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_the_changelog_begins_with_what_is_unreleased_and_its_newest_release_is_no_later_than_the_version() -> None:
    headings = re.findall(r"^## \[(.+?)\](.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    assert all(re.fullmatch(r" - \d{4}-\d\d-\d\d", date) for _, date in headings[1:]), "a release bears its date"
    releases = [Version(name) for name, _ in headings[1:]]
    assert releases == sorted(releases, reverse=True)
    assert not releases or releases[0] <= Version(__version__)


def pages() -> list[Path]:
    """Every page for readers."""
    return [path for path in tracked_files() if path.suffix == ".md"]


def anchors(page: Path) -> set[str]:
    """What a link may name within `page`: its headings as GitHub and others make anchors of them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.processes
def test_every_link_between_pages_leads_somewhere() -> None:
    links = [
        (page, *link.partition("#")[::2])
        for page in pages()
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text())
        if not re.match(r"https?:", link)
    ]
    lost = [
        f"{page.relative_to(ROOT)}: {path}#{anchor}"
        for page, path, anchor in links
        if not (target := (page.parent / path) if path else page).exists() or (anchor and anchor not in anchors(target))
    ]
    assert len(links) > 100
    assert not lost


def test_the_readme_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name})" not in readme]
    assert not missing


@pytest.mark.processes
def test_the_version_stands_in_one_place() -> None:
    """The chart, which must bear it too, is held to it by tests/chart."""
    written = re.compile(rf"version[_\W]+v?{re.escape(__version__)}\b", re.IGNORECASE)
    places = [
        str(path.relative_to(ROOT))
        for path in tracked_files()
        if path.name in {"pyproject.toml", "Makefile", "Dockerfile", "__init__.py"}
        for _, line in text_lines(path)
        if written.search(line)
    ]
    assert places == ["app/starling/__init__.py"]


@pytest.mark.processes
def test_every_shell_script_can_be_run() -> None:
    scripts = [path for path in tracked_files() if path.read_bytes().startswith(b"#!")]
    assert scripts
    assert [str(path) for path in scripts if not path.stat().st_mode & 0o111] == []


def test_every_test_that_the_security_page_and_its_decision_name_is_there() -> None:
    pages = [ROOT / "SECURITY.md", *(ROOT / "docs" / "decisions").glob("0034-*.md")]
    named = re.findall(
        r"`(tests/[\w/]+\.py)(?:::(\w+)| -k (?:\"([^\"]+)\"|(\w+)))?`", "\n".join(p.read_text() for p in pages)
    )
    assert len(named) > 30
    for file, test, words, word in named:
        names = re.findall(r"^(?:async )?def (test_\w+)", (ROOT / file).read_text(), re.MULTILINE)
        assert names, file
        assert not test or test in names, test
        for part in (words or word).split(" or ") if words or word else ():
            assert any(part in name for name in names), f"{file} -k {part}"
