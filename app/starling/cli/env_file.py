"""`.env` files: settings by the line, for those who start the service by hand."""

import os
from collections.abc import Mapping, MutableMapping
from io import StringIO
from pathlib import Path
from typing import Annotated

import typer

from starling.cli.service import EXIT_USAGE, fail
from starling.variables import PREFIX

DEFAULT = Path(".env")

EnvFileOption = Annotated[
    Path | None,
    typer.Option(
        "--env-file",
        help="File with a setting on each line, as NAME=VALUE. Variables of the environment count more. "
        "Default: .env in this directory, where there is one.",
    ),
]


class EnvFile:
    """What the environment has from a file: the file of this directory, until another one is named."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        self._environment = environment
        self._set: list[str] = []
        if DEFAULT.is_file():
            self._load(DEFAULT)

    def use(self, path: Path | None) -> None:
        """Take `path` instead of the file of this directory; None keeps that. Ends the command for a file unread."""
        if path is None:
            return
        for name in self._set:
            self._environment.pop(name, None)
        self._load(path)

    def _load(self, path: Path) -> None:
        found = {name: value for name, value in read_env_file(path).items() if name not in self._environment}
        self._environment.update(found)
        self._set = list(found)


def read_env_file(path: Path) -> Mapping[str, str]:
    """The settings in `path`, without what is other programs'. Ends the command for a file that cannot be read."""
    from dotenv.parser import parse_stream

    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        fail(f"{path}: this is not UTF-8 text", EXIT_USAGE)
    except OSError as error:
        fail(f"{path}: {error.strerror}: name another file with --env-file", EXIT_USAGE)
    found: dict[str, str] = {}
    for line in parse_stream(StringIO(text)):
        if line.error or (line.key is not None and line.value is None):
            fail(f"{path}, line {line.original.line}: write NAME=VALUE, or # before a comment", EXIT_USAGE)
        if line.key is None or not line.key.startswith(PREFIX):
            continue
        if line.key in found:
            fail(f"{path}, line {line.original.line}: {line.key} is set a second time: remove one", EXIT_USAGE)
        found[line.key] = line.value or ""
    return found
