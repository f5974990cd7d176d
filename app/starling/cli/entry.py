"""The command `starling`: its commands, each with the examples of its help."""

import errno
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from starling import __version__
from starling.cli import (
    backend,
    can,
    capture,
    configuration,
    explain,
    importing,
    live,
    pod,
    reading,
    serve,
    size,
    streams,
    tokens,
    top,
)
from starling.cli.env_file import EnvFile
from starling.cli.output import colours_wanted
from starling.cli.service import EXIT_CODES, EXIT_REFUSED, EXIT_USAGE, SERVE_EXIT_CODES, fail

SERVER = "The service"
CLIENT = "A running service"
JSON_FLAG = "--json"
# Why standard output cannot be written.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


class CliCommand(TyperCommand):
    """A command with `--json` as the short form of `--output json`, and with names for values in its help."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what typer read from the function."""
        super().__init__(*args, **kwargs)
        for param in self.params:
            if isinstance(param, TyperOption) and param.metavar is None and not param.is_flag:
                param.metavar = _value_name(param)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; ends the command for one that is no text, which could not be sent."""
        end = args.index("--") if "--" in args else len(args)
        if any("--output" in param.opts for param in self.params):
            options = ["--output=json" if arg == JSON_FLAG else arg for arg in args[:end]]
            args = [*options, *args[end:]]
        rest = super().parse_args(ctx, args)
        for param in self.params:
            if not _is_text(ctx.params.get(param.name or "")):
                fail(f"{max(param.opts, key=len)}: it is no text in UTF-8", EXIT_USAGE)
        return rest


def _is_text(value: object) -> bool:
    """Whether a value, or each of several, can be encoded: what is not UTF-8, Python reads as half of a pair."""
    texts = value if isinstance(value, (list, tuple)) else (value,)
    try:
        return all(text.encode() for text in texts if isinstance(text, str) and text)
    except UnicodeEncodeError:
        return False


def _value_name(param: Any) -> str:
    """What stands for an option's value in the help: its choices, N for a number, else the option's name."""
    kind = param.type_descriptor
    if kind.is_choice:
        return "|".join(str(getattr(choice, "value", choice)) for choice in kind.choices)
    if kind.annotation in {int, float}:
        return "N"
    name: str = max(param.opts, key=len)
    return name.lstrip("-").upper()


def _pretty_help() -> str | None:
    """Help with boxes and colours on a terminal, plain text in a pipe and where NO_COLOR is set."""
    # A stream that is closed is None.
    terminals = all(stream and stream.isatty() and colours_wanted(stream) for stream in (sys.stdout, sys.stderr))
    return "rich" if terminals else None


cli = typer.Typer(
    name="starling",
    epilog=EXIT_CODES,
    pretty_exceptions_enable=False,
    rich_markup_mode=_pretty_help(),  # type: ignore[arg-type]  # a Literal of its own
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@cli.callback(invoke_without_command=True)
def starling(
    ctx: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A real-time service for Python teams. Settings come from the environment and .env: see `starling settings`."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
    elif ctx.invoked_subcommand not in {"init", "import", "version", "explain"} and not ctx.resilient_parsing:
        ctx.obj = EnvFile()


def _add(
    panel: str, command: Callable[..., None], *examples: str, exit_codes: str = EXIT_CODES, name: str | None = None
) -> None:
    """Add a command, with examples and exit codes for its help."""
    epilog = "\n\n".join(["Examples:", *(f"  {example}" for example in examples), exit_codes])
    cli.command(name, cls=CliCommand, rich_help_panel=panel, epilog=epilog)(command)


def version() -> None:
    """Print the version."""
    print(__version__)


_add(
    SERVER, serve.serve, "starling serve --dev", "starling serve --env-file production.env", exit_codes=SERVE_EXIT_CODES
)
_add(SERVER, configuration.init, "starling init", "starling init deploy --force")
_add(
    SERVER,
    importing.import_configuration,
    "starling import centrifugo config.json",
    "starling import centrifugo config.yaml --directory deploy",
    name="import",
)
_add(SERVER, configuration.check, "starling check", "starling check --env-file production.env")
_add(SERVER, configuration.settings, "starling settings", "starling settings | grep DRAIN", "starling settings --json")
_add(SERVER, explain.explain, "starling explain 3008", "starling explain STARLING_PORT", "starling explain history_ttl")
_add(
    SERVER,
    tokens.token,
    "starling token alice",
    "starling token alice --ttl 600 --channel news --channel '#alice'",
    "starling token alice --subscription '$chat:42'",
)
_add(SERVER, can.can, "starling can alice subscribe news", "starling can alice publish '$chat:42' --token $TOKEN")
_add(SERVER, tokens.verify, "starling verify eyJhbGciOi…", "starling token alice | starling verify -")
_add(
    SERVER,
    size.size,
    "starling size --connections 50000 --rate 100 --channels 500",
    "starling size --connections 50000 --rate 100 --channels 500 --history 100 --tls --json | jq .values",
)
_add(
    CLIENT,
    backend.publish,
    """starling publish news '{"text": "hi"}'""",
    "date +%s | starling publish clock -",
    "starling publish news 1 --url https://realtime.example.com --key $KEY",
)
_add(CLIENT, backend.broadcast, """starling broadcast news sport '{"text": "hi"}'""")
_add(CLIENT, live.subscribe, "starling subscribe news", "starling subscribe news weather --json | jq .data")
_add(CLIENT, reading.history, "starling history news", "starling history news --limit 10 --reverse")
_add(CLIENT, reading.presence, "starling presence chat:42", "starling presence chat:42 --json | jq -r .user")
_add(CLIENT, reading.channels, "starling channels", "starling channels 'news:*' --limit 10")
_add(CLIENT, reading.info, "starling info", "starling info --channels 'news:*' --json")
_add(CLIENT, top.top, "starling top", "starling top --once --json | jq .total")
_add(
    CLIENT,
    capture.capture,
    "starling capture user alice",
    "starling capture channel news --seconds 300 --payload",
    "starling capture user alice --json | jq .frame",
)
_add(
    CLIENT,
    streams.streams,
    "starling streams list",
    "starling streams tail answers:42",
    "starling streams cancel answers:42 --reason 'it is wrong'",
)
_add(CLIENT, backend.unsubscribe, "starling unsubscribe alice chat:42")
_add(
    CLIENT,
    backend.disconnect,
    "starling disconnect alice",
    "starling disconnect alice --code 4000 --reason 'new version'",
)
_add(CLIENT, backend.revoke, "starling revoke token TOKEN_ID", "starling revoke user alice")
_add(CLIENT, live.ping, "starling ping", "starling ping --url wss://realtime.example.com")
_add(CLIENT, pod.metrics, "starling metrics broker lag", "starling metrics 'code=\"3008\"'")
_add(CLIENT, pod.probe, "starling probe", "starling probe livez")
_add(SERVER, version, "starling version")


def main() -> None:
    """Entry point of the command."""
    if sys.stdout is None:
        print("standard output is closed: give the command one, /dev/null at least", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    try:
        try:
            cli()
        finally:
            sys.stdout.flush()
    except OSError as error:
        # Errors of files name them.
        if error.filename is not None or error.errno not in FULL:
            raise
        print(f"cannot write to standard output: {error.strerror}", file=sys.stderr)
        # Python would try once more at its end, and print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_REFUSED)
