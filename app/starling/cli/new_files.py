"""Files that commands write for a new project: never over another file without being asked, secrets for their owner."""

import os
from collections.abc import Mapping
from pathlib import Path

from starling.cli.service import EXIT_USAGE, fail

PRIVATE = frozenset({".env"})


def write_files(directory: Path, contents: Mapping[str, str], *, force: bool) -> None:
    """Write each file of `contents`, by its name, into `directory`, which is made where there is none.

    Ends the command where one exists and `force` is false, or where the directory cannot be written.
    """
    existing = [str(directory / name) for name in contents if (directory / name).exists()]
    if existing and not force:
        fail(f"{', '.join(existing)}: already there; name another directory, or replace with --force", EXIT_USAGE)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            _write(directory / name, text, private=name in PRIVATE)
    except OSError as error:
        fail(f"{error.filename or directory}: {error.strerror}: name a directory that can be written", EXIT_USAGE)


def _write(path: Path, text: str, *, private: bool) -> None:
    """Replace the file; a private one is its owner's alone from its first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644), "w") as file:
        file.write(text)
