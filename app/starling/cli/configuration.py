"""Commands about the configuration: list the settings, check them, and write the files of a new project."""

import json
import os
import secrets
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from starling.cli.env_file import EnvFile, EnvFileOption
from starling.cli.new_files import write_files
from starling.cli.output import Column, Output, OutputOption, print_heading, print_table, terminal_width
from starling.cli.service import EXIT_USAGE
from starling.variables import variable

if TYPE_CHECKING:
    from starling.settings import Settings, SettingsError

ENV_FILE = ".env"
CHANNELS_FILE = "channels.yaml"


def read_settings() -> "Settings":
    """The settings of the environment; ends the command with a line for each problem."""
    # Pydantic takes a fifth of a second to load, and most commands do without.
    from starling.settings import SettingsError, load_settings

    try:
        return load_settings(os.environ)
    except SettingsError as error:
        refuse(error)


def refuse(error: "SettingsError") -> NoReturn:
    """End the command with a line for each problem."""
    for problem in error.problems:
        print(problem, file=sys.stderr)
    raise typer.Exit(EXIT_USAGE)


def shown_default(value: Any) -> Any:
    """A setting's default as the environment would hold it; None where there is none."""
    from pydantic import SecretStr

    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def settings(output: OutputOption = Output.table) -> None:
    """List every setting with its default and meaning. Each can be read from a file too: NAME_FILE holds the path."""
    from starling.settings import DECLARATIONS

    fields = [
        (each.section, variable(name), shown_default(each.field.default), each.field.description or "")
        for name, each in DECLARATIONS.items()
    ]
    if output is Output.json:
        for _, name, default, meaning in fields:
            print(json.dumps({"variable": name, "default": default, "meaning": meaning}))
        return
    width = terminal_width()
    if width is None:
        columns = [Column("VARIABLE"), Column("DEFAULT"), Column("MEANING")]
        print_table(columns, [(name, _text(default), meaning) for _, name, default, meaning in fields])
        return
    heading = ""
    for section, name, default, meaning in fields:
        if section != heading:
            heading = section
            print()
            print_heading(section)
        head = name if default is None else f"{name} = {_text(default)}"
        for text, indent in ((head, "  "), (meaning, "      ")):
            print(textwrap.fill(text, max(width, 40), initial_indent=indent, subsequent_indent="      "))


def _text(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return "" if default is None else str(default)


def check(ctx: typer.Context, env_file: EnvFileOption = None, output: OutputOption = Output.table) -> None:
    """Validate the configuration without starting, and print each problem on a line with its fix.

    Warnings name what can be used but may surprise; they do not change the exit code.
    """
    _env_file(ctx).use(env_file)
    found = read_settings()
    from prometheus_client import CollectorRegistry

    from starling.channels_file import build_channels
    from starling.main import create_app
    from starling.settings import SettingsError

    try:
        if found.app is None:
            create_app(found, CollectorRegistry())
        else:
            # What only a user's application needs.
            from starling.embed.hosting import check_application

            check_application(found, found.app)
    except SettingsError as error:
        refuse(error)
    warnings = [*found.warnings(), *build_channels(found).surprises()]
    if output is Output.json:
        print(json.dumps({"workers": found.worker_count, "broker": found.broker_scheme, "warnings": warnings}))
    else:
        for warning in warnings:
            print(f"Warning: {warning}", file=sys.stderr)
        workers = "1 worker" if found.worker_count == 1 else f"{found.worker_count} workers"
        print(f"The configuration is good: {workers}, broker {found.broker_scheme}.")


def _env_file(ctx: typer.Context) -> EnvFile:
    return ctx.ensure_object(EnvFile)


def init(
    directory: Annotated[
        Path, typer.Argument(help="Directory for the files; it is made where there is none.")
    ] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
) -> None:
    """Write a `.env` with new secrets, and a commented channels file, to begin a project with."""
    contents = {
        ENV_FILE: _ENV.format(
            secret=secrets.token_urlsafe(48),
            key=secrets.token_hex(24),
            channels=CHANNELS_FILE,
        ),
        CHANNELS_FILE: _CHANNELS,
    }
    write_files(directory, contents, force=force)
    print(f"Wrote {directory / ENV_FILE} (keep it out of version control) and {directory / CHANNELS_FILE}.")
    where = "" if directory == Path() else f"cd {directory} && "
    print(f"Next: {where}starling check && starling serve")


_ENV = """\
# Settings of Starling, one a line. `starling settings` lists all of them, `starling explain NAME` explains one.
# The file holds secrets: keep it out of version control.

# Your backend signs the users' tokens with this secret (HS256). To rotate it, move it to the line below.
STARLING_TOKEN_HMAC_SECRET={secret}
# STARLING_TOKEN_HMAC_SECRET_PREVIOUS=

# Your backend sends this key with each request to the server API.
STARLING_API_KEYS={key}

# What each channel keeps, and who may do what in it.
STARLING_CHANNELS_FILE={channels}

# Origins of the web pages that connect, such as https://app.example.com. Unset: pages of Starling's own host only.
# STARLING_ALLOWED_ORIGINS=http://localhost:5173

# Several processes or hosts share a Redis. Unset: one process, in memory.
# STARLING_BROKER_URL=redis://localhost:6379
# STARLING_WORKERS=2

# No tokens and no permissions, on this machine only: for trying out.
# STARLING_DEV=true
"""

_CHANNELS = """\
# What each channel keeps, and who may do what in it. All options are off by default.
# `starling explain OPTION` explains an option, `starling check` checks this file.

# Channels without a namespace, such as `lobby`.
default: {}

namespaces:
  # chat:42 - users with a token read and write; messages are kept for a day, and clients that were away get what
  # they missed.
  chat:
    history_size: 200
    history_ttl: 24h
    force_recovery: true
    presence: true
    join_leave: true
    force_push_join_leave: true
    allow_subscribe_for_client: true
    allow_publish_for_subscriber: true
    allow_presence_for_subscriber: true
    allow_history_for_subscriber: true

  # news:sport - everybody with a token reads, only your backend publishes.
  news:
    history_size: 100
    history_ttl: 24h
    force_recovery: true
    allow_subscribe_for_client: true

  # price:eur - new subscribers get the latest value at once.
  price:
    history_size: 1
    history_ttl: 1h
    force_recovery: true
    force_recovery_mode: cache
    allow_subscribe_for_client: true
"""
