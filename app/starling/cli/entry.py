"""The command `starling`."""

import asyncio
import errno
import json
import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from starling import __version__
from starling.auth.explain import Explanation, explain
from starling.auth.issue import issue_connection_token, issue_subscription_token
from starling.auth.jwks import Jwks
from starling.auth.jwt import JwtVerifier
from starling.cli import backend, live, pod
from starling.cli.capture import capture
from starling.cli.service import EXIT_CODES, EXIT_REFUSED, EXIT_USAGE, SERVE_EXIT_CODES, JsonOption, fail
from starling.cli.size import size
from starling.cli.top import top
from starling.settings import PREFIX, SECTIONS, Settings, SettingsError, load_settings

SERVER = "The service"
CLIENT = "A running service"
# Why standard output cannot be written.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})

cli = typer.Typer(
    name="starling",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@cli.callback()
def starling(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A real-time WebSocket service for Python teams. Settings come from the environment: see `starling settings`."""


def _epilog(*examples: str, exit_codes: str = EXIT_CODES) -> str:
    """Examples and exit codes, for `--help`."""
    return "\n\n".join(["Examples:", *(f"  {example}" for example in examples), exit_codes])


@cli.command(
    rich_help_panel=SERVER,
    epilog=_epilog(
        "STARLING_DEV=true starling serve",
        "STARLING_TOKEN_HMAC_SECRET_FILE=/run/secret starling serve",
        exit_codes=SERVE_EXIT_CODES,
    ),
)
def serve() -> None:
    """Run the service until SIGTERM, then let its clients go and stop."""
    settings = _read_settings()
    runtime_dir, metrics_dir = _prepare_runtime_dir(settings.runtime_dir)
    made = None if settings.runtime_dir else runtime_dir
    settings = settings.model_copy(update={"runtime_dir": runtime_dir})
    # prometheus_client chooses at its first import where figures live, so whatever imports it comes after this line.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_dir)
    from starling.main import run

    try:
        if settings.dev:
            settings = _prepare_developer_mode(settings)
        run(settings)
    except SettingsError as error:
        _refuse(error)
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


@cli.command(rich_help_panel=SERVER, epilog=_epilog("starling settings", "starling settings --json"))
def settings(as_json: JsonOption = False) -> None:
    """List every setting with its default and meaning."""
    if as_json:
        for name, field in Settings.model_fields.items():
            print(
                json.dumps(
                    {
                        "variable": PREFIX + name.upper(),
                        "default": _default(field.default),
                        "meaning": field.description,
                    }
                )
            )
        return
    table = Table("environment variable", "default", "meaning", title="Each can be read from a file: NAME_FILE")
    for name, field in Settings.model_fields.items():
        if name in SECTIONS:
            table.add_section()
            table.add_row(SECTIONS[name], style="bold")
        shown = _default(field.default)
        table.add_row(PREFIX + name.upper(), "" if shown is None else str(shown), field.description or "")
    Console().print(table)


def _default(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(value)
    return value if value is None or isinstance(value, bool | int | float) else str(value)


@cli.command(rich_help_panel=SERVER, epilog=_epilog("starling check", "env $(cat production.env) starling check"))
def check(as_json: JsonOption = False) -> None:
    """Validate the configuration without starting: one line for each problem, with its mend.

    What can be used but may surprise is told too, and changes nothing about the exit code.
    """
    settings = _read_settings()
    from starling.main import create_app

    try:
        create_app(settings)
    except SettingsError as error:
        _refuse(error)
    warnings = settings.warnings()
    if as_json:
        told = {"workers": settings.worker_count, "broker": settings.broker_scheme, "warnings": warnings}
        print(json.dumps(told))
    else:
        for warning in warnings:
            print(f"Warning: {warning}", file=sys.stderr)
        print(f"The configuration is good: {settings.worker_count} worker(s), broker {settings.broker_scheme}.")


@cli.command(
    rich_help_panel=SERVER,
    epilog=_epilog(
        "starling token alice",
        "starling token alice --ttl 600 --channel news --channel '#alice'",
        "starling token alice --subscription '$chat:42'",
    ),
)
def token(
    user: Annotated[str, typer.Argument(help="The user that the token is for; an empty one is anonymous.")],
    ttl: Annotated[int, typer.Option(min=1, help="Seconds until the token expires.")] = 3600,
    channel: Annotated[list[str] | None, typer.Option(help="A channel that the client is subscribed to.")] = None,
    subscription: Annotated[
        str, typer.Option(help="Make a subscription token for this channel instead.", metavar="CHANNEL")
    ] = "",
    token_id: Annotated[str, typer.Option("--id", help="The token's id (jti), to revoke it by.")] = "",
    session: Annotated[str, typer.Option(help="The login session (sid) that it belongs to.")] = "",
    info: Annotated[str, typer.Option(help="JSON that others may see of the client.", metavar="JSON")] = "",
    as_json: JsonOption = False,
) -> None:
    """Print a token signed with STARLING_TOKEN_HMAC_SECRET."""
    if channel and subscription:
        fail("--channel and --subscription: the first is for a connection token, the second makes another", EXIT_USAGE)
    claims: dict[str, Any] = {"jti": token_id, "sid": session, "channels": channel}
    if info:
        try:
            claims["info"] = json.loads(info)
        except ValueError as error:
            fail(f"--info: {error}", EXIT_USAGE)
    given = {name: value for name, value in claims.items() if value}
    made = _issue(_read_settings(), user, ttl, subscription, **given)
    print(json.dumps({"token": made}) if as_json else made)


@cli.command(
    rich_help_panel=SERVER, epilog=_epilog("starling verify eyJhbGciOi…", "starling token alice | starling verify -")
)
def verify(
    token: Annotated[str, typer.Argument(help="The token, or - to read it from standard input.")],
    as_json: JsonOption = False,
) -> None:
    """Say what a token grants, or why it is refused. What was revoked is known to the running service alone."""
    from starling.main import build_verifier

    text = sys.stdin.read().strip() if token == "-" else token  # noqa: S105 - the usual name of standard input
    try:
        verifier, jwks = build_verifier(_read_settings())
    except SettingsError as error:
        _refuse(error)
    explanation = asyncio.run(_explain(text, verifier, jwks))
    if as_json:
        reason = explanation.reason and explanation.reason.value
        told = {"accepted": explanation.accepted, "reason": reason, "sentence": explanation.sentence}
        print(json.dumps({**told, "details": explanation.details}))
    else:
        print(explanation)
    if not explanation.accepted:
        raise typer.Exit(EXIT_REFUSED)


cli.command(
    rich_help_panel=SERVER,
    epilog=_epilog(
        "starling size --connections 50000 --rate 100 --channels 500",
        "starling size --connections 50000 --rate 100 --channels 500 --history 100 --tls --json | jq .values",
    ),
)(size)
cli.command(
    rich_help_panel=CLIENT,
    epilog=_epilog(
        """starling publish news '{"text": "hi"}'""",
        "date +%s | starling publish clock -",
        "starling publish news 1 --url https://realtime.example.com --key $KEY",
    ),
)(backend.publish)
cli.command(
    rich_help_panel=CLIENT,
    epilog=_epilog("starling subscribe news", "starling subscribe news weather --json | jq .data"),
)(live.subscribe)
cli.command(rich_help_panel=CLIENT, epilog=_epilog("starling info", "starling info --channels 'news:*' --json"))(
    backend.info
)
cli.command(
    rich_help_panel=CLIENT,
    epilog=_epilog("starling disconnect alice", "starling disconnect alice --code 4000 --reason 'come back'"),
)(backend.disconnect)
cli.command(rich_help_panel=CLIENT, epilog=_epilog("starling top", "starling top --once --json | jq .total"))(top)
cli.command(
    rich_help_panel=CLIENT,
    epilog=_epilog(
        "starling capture user alice",
        "starling capture channel news --seconds 300 --payload",
        "starling capture user alice --json | jq .frame",
    ),
)(capture)
cli.command(rich_help_panel=CLIENT, epilog=_epilog("starling ping", "starling ping --url wss://realtime.example.com"))(
    live.ping
)

cli.command(rich_help_panel=CLIENT, epilog=_epilog("starling metrics broker lag", "starling metrics 'code=\"3008\"'"))(
    pod.metrics
)
cli.command(rich_help_panel=CLIENT, epilog=_epilog("starling probe", "starling probe livez"))(pod.probe)


@cli.command()
def version() -> None:
    """Print the version."""
    print(__version__)


async def _explain(token: str, verifier: JwtVerifier, jwks: Jwks | None) -> Explanation:
    if jwks is None:
        return await explain(token, verifier)
    jwks.start()
    try:
        return await explain(token, verifier)
    finally:
        await jwks.stop()


def _issue(settings: Settings, user: str, ttl: int, channel: str = "", **claims: Any) -> str:
    secret = settings.token_hmac_secret
    if secret is None:
        fail("STARLING_TOKEN_HMAC_SECRET is not set: only tokens of an HMAC secret can be made here", EXIT_USAGE)
    wanted = {"aud": settings.token_audience, "iss": settings.token_issuer}
    claims |= {name: value for name, value in wanted.items() if value is not None}
    value, weak = secret.get_secret_value(), settings.dev
    try:
        if channel:
            return issue_subscription_token(value, user, channel, ttl, allow_weak_secret=weak, **claims)
        return issue_connection_token(value, user, ttl, allow_weak_secret=weak, **claims)
    except ValueError as error:
        fail(f"STARLING_TOKEN_HMAC_SECRET: {error}", EXIT_USAGE)


def _prepare_runtime_dir(wanted: Path | None) -> tuple[Path, Path]:
    """Give the directory for what the workers tell, a new temporary one where none is wanted, and where figures go."""
    try:
        runtime_dir = wanted or Path(tempfile.mkdtemp(prefix="starling-"))
        metrics_dir = runtime_dir / "metrics"
        metrics_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"cannot use {wanted}" if wanted else "it is not set, and no temporary directory can be made"
        fail(f"STARLING_RUNTIME_DIR: {what}: {error.strerror}. Name a directory that can be written", EXIT_USAGE)
    return runtime_dir, metrics_dir


def _prepare_developer_mode(settings: Settings) -> Settings:
    """Give developer mode a secret of its own where none is set, and say how to begin."""
    secret = settings.token_hmac_secret or SecretStr(secrets.token_urlsafe(48))
    settings = settings.model_copy(update={"token_hmac_secret": secret})
    ready_made = _issue(settings, "dev", 24 * 3600)
    if settings.log_format != "json":
        console = Console(soft_wrap=True, highlight=False)
        address = f"localhost:{settings.port}"
        console.print("\n[bold]Starling[/bold] in developer mode: everyone may do everything.\n")
        console.print(f"  The page   http://{address}")
        console.print(f"  A token    {ready_made}")
        console.print(f"  Try        {Path(sys.executable).parent / 'websockets'} ws://{address}/ws\n")
    # Nobody routes clients here, so Ctrl-C need not wait for anybody to notice.
    haste = {"drain_delay_seconds": 0.0, "drain_seconds": 1.0}
    kept = {name: value for name, value in haste.items() if name not in settings.model_fields_set}
    return settings.model_copy(update=kept)


def _read_settings() -> Settings:
    try:
        return load_settings(os.environ)
    except SettingsError as error:
        _refuse(error)


def _refuse(error: SettingsError) -> NoReturn:
    for problem in error.problems:
        print(problem, file=sys.stderr)
    raise typer.Exit(EXIT_USAGE)


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
    except SettingsError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        sys.exit(EXIT_USAGE)
    except OSError as error:
        # Errors of files name them.
        if error.filename is not None or error.errno not in FULL:
            raise
        print(f"cannot write to standard output: {error.strerror}", file=sys.stderr)
        # Python would try once more at its end, and print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_REFUSED)
