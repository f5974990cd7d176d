"""`starling import`: write the configuration of another server as Starling's settings and channels file."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from starling.cli.configuration import CHANNELS_FILE, ENV_FILE
from starling.cli.new_files import write_files
from starling.cli.service import EXIT_REFUSED, EXIT_USAGE, fail

if TYPE_CHECKING:
    from starling.cli.centrifugo import Translation


class Source(StrEnum):
    """The servers whose configuration can be read."""

    centrifugo = "centrifugo"


def import_configuration(
    source: Annotated[Source, typer.Argument(help="The server that the configuration is of.")],
    file: Annotated[Path, typer.Argument(help="Its configuration file: JSON, YAML or TOML.")],
    directory: Annotated[
        Path, typer.Option("--directory", help="Directory for the files; it is made where there is none.")
    ] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
) -> None:
    """Write a `.env` and a channels file from a Centrifugo configuration, and name each option without a counterpart.

    Exit code 1 means that the files were written, and that `starling check` refuses something in them.
    """
    from starling.cli.centrifugo import CentrifugoError, translate

    try:
        found = translate(_read(file))
    except CentrifugoError as error:
        fail(f"{file}: {error}", EXIT_USAGE)
    write_files(directory, {ENV_FILE: _env_text(found, file), CHANNELS_FILE: _channels_text(found, file)}, force=force)
    for option in found.left:
        print(f"Not taken over: {option.path}: {option.reason}")
    problems = _problems(found)
    for problem in problems:
        print(f"Change this: {problem}")
    names = len(found.channels["namespaces"])
    print(
        f"Wrote {directory / ENV_FILE} ({len(found.settings) + 1} settings; keep it out of version control) and "
        f"{directory / CHANNELS_FILE} ({names} namespace{'' if names == 1 else 's'})."
    )
    if problems:
        raise typer.Exit(EXIT_REFUSED)
    where = "" if directory == Path() else f"cd {directory} && "
    print(f"Next: {where}starling check && starling serve")


def _read(file: Path) -> object:
    import tomllib

    from yaml import YAMLError

    from starling.yaml_file import read_yaml

    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".toml":
            return tomllib.loads(text)
        return json.loads(text) if file.suffix == ".json" else read_yaml(text)
    except OSError as error:
        fail(f"{file}: {error.strerror}: name a file that can be read", EXIT_USAGE)
    except UnicodeDecodeError:
        fail(f"{file}: this is not UTF-8 text", EXIT_USAGE)
    except (json.JSONDecodeError, YAMLError, tomllib.TOMLDecodeError) as error:
        fail(f"{file}: it cannot be read: {' '.join(str(error).split())}", EXIT_USAGE)


def _env_text(found: "Translation", file: Path) -> str:
    lines = [
        f"# Settings of Starling, from {file.name}. `starling settings` lists all of them.",
        "# The file holds secrets: keep it out of version control.",
        f"STARLING_CHANNELS_FILE={CHANNELS_FILE}",
        *(f"{name}={_quoted(value)}" for name, value in found.settings.items()),
    ]
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    """A value as `.env` files have it: in single quotes where a bare one would be read otherwise."""
    if value and all(character.isalnum() or character in "_-.,:/@%+=*[]?&" for character in value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _channels_text(found: "Translation", file: Path) -> str:
    import yaml

    head = f"# What each channel keeps, and who may do what in it; from {file.name}.\n"
    body: str = yaml.safe_dump(found.channels, sort_keys=False, allow_unicode=True)
    return f"{head}# `starling explain OPTION` explains an option, `starling check` checks this file.\n{body}"


def _problems(found: "Translation") -> list[str]:
    """What `starling check` says of the result."""
    from starling.engine.channels import ChannelsError
    from starling.engine.channels_document import parse_channels
    from starling.settings import SettingsError, load_settings

    problems: list[str] = []
    settings: dict[str, Any] = found.settings
    try:
        load_settings(settings)
    except SettingsError as error:
        problems += error.problems
    try:
        parse_channels(
            found.channels,
            developer=False,
            personal=settings.get("STARLING_SUBSCRIBE_TO_PERSONAL_CHANNEL") == "true",
            personal_namespace=settings.get("STARLING_PERSONAL_CHANNEL_NAMESPACE", ""),
        )
    except ChannelsError as error:
        problems += error.problems
    return problems
