"""The part of CHANGELOG.md that belongs to one version: as release notes, and as a list for Artifact Hub."""

import re

# Artifact Hub's kinds, by the headings of Keep a Changelog.
_KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def release_notes(changelog: str, version: str) -> str:
    """What stands under the heading of `version`, else under Unreleased. Raises ValueError where neither has a word."""
    for name in (version, "Unreleased"):
        found = re.search(rf"(?ms)^## \[{re.escape(name)}\][^\n]*\n(.*?)(?=^## |\Z)", changelog)
        if found and found[1].strip():
            return found[1].strip() + "\n"
    raise ValueError(f"CHANGELOG.md says nothing of {version}, and nothing under Unreleased")


def changes(notes: str) -> list[tuple[str, str]]:
    """Pairs of a kind in small letters and the text of one entry on one line."""
    kind = "changed"
    entries: list[tuple[str, str]] = []
    for line in notes.splitlines():
        if line.startswith("### "):
            heading = line.removeprefix("### ").strip()
            kind = heading.lower() if heading in _KINDS else kind
        elif line.startswith("- "):
            entries.append((kind, line.removeprefix("- ").strip()))
        elif line.startswith("  ") and entries:
            entries[-1] = (entries[-1][0], f"{entries[-1][1]} {line.strip()}")
    return entries
