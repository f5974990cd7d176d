"""The command `starling`."""

import asyncio
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

from app import __version__
from app.auth.explain import Explanation, explain
from app.auth.issue import issue_connection_token
from app.auth.jwks import Jwks
from app.auth.jwt import JwtVerifier
from app.settings import PREFIX, Settings, SettingsError, load_settings

EXIT_SETTINGS = 2

cli = typer.Typer(
    name="starling",
    help="A real-time WebSocket service for Python teams. Settings come from the environment: see `starling settings`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@cli.command()
def serve() -> None:
    """Run the service until SIGTERM, then let its clients go and stop.

    Example: STARLING_TOKEN_HMAC_SECRET=$(openssl rand -base64 48) starling serve
    """
    settings = _read_settings()
    made = None if settings.runtime_dir else Path(tempfile.mkdtemp(prefix="starling-"))
    runtime_dir = settings.runtime_dir or made or Path()
    metrics_dir = runtime_dir / "metrics"
    try:
        metrics_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _fail(f"STARLING_RUNTIME_DIR: cannot use {runtime_dir}: {error.strerror}. Name a directory that can be written")
    settings = settings.model_copy(update={"runtime_dir": runtime_dir})
    # prometheus_client chooses at its first import where figures live, so whatever imports it comes after this line.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_dir)
    from app.main import run

    try:
        if settings.dev:
            settings = _prepare_developer_mode(settings)
        run(settings)
    except SettingsError as error:
        _refuse(error)
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


@cli.command()
def settings() -> None:
    """List every setting with its default and meaning."""
    table = Table("environment variable", "default", "meaning", title="Each can be read from a file: NAME_FILE")
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = default.get_secret_value() if isinstance(default, SecretStr) else default
        table.add_row(
            PREFIX + name.upper(),
            ",".join(shown) if isinstance(shown, tuple) else "" if shown is None else str(shown),
            field.description or "",
        )
    Console().print(table)


@cli.command()
def check() -> None:
    """Validate the configuration without starting; exit code 2 and one line for each problem if it cannot be used."""
    settings = _read_settings()
    from app.main import create_app

    try:
        create_app(settings)
    except SettingsError as error:
        _refuse(error)
    print(f"The configuration is good: {settings.worker_count} worker(s), broker {settings.broker_scheme}.")


@cli.command()
def token(
    user: Annotated[str, typer.Argument(help="The user that the token is for; an empty one is anonymous.")],
    ttl: Annotated[int, typer.Option(help="Seconds until the token expires.")] = 3600,
) -> None:
    """Print a connection token signed with STARLING_TOKEN_HMAC_SECRET.

    Example: starling token alice --ttl 600
    """
    print(_issue(_read_settings(), user, ttl))


@cli.command()
def verify(token: Annotated[str, typer.Argument(help="The token, or - to read it from standard input.")]) -> None:
    """Say what a token grants, or why it is refused; exit code 1 if it is.

    Example: starling token alice | starling verify -
    """
    from app.main import build_verifier

    text = sys.stdin.read().strip() if token == "-" else token  # noqa: S105 - the usual name of standard input
    try:
        verifier, jwks = build_verifier(_read_settings())
    except SettingsError as error:
        _refuse(error)
    explanation = asyncio.run(_explain(text, verifier, jwks))
    print(explanation)
    if not explanation.accepted:
        raise typer.Exit(1)


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


def _issue(settings: Settings, user: str, ttl: int) -> str:
    secret = settings.token_hmac_secret
    if secret is None:
        _fail("STARLING_TOKEN_HMAC_SECRET is not set: only tokens of an HMAC secret can be made here")
    wanted = {"aud": settings.token_audience, "iss": settings.token_issuer}
    claims: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    try:
        return issue_connection_token(secret.get_secret_value(), user, ttl, allow_weak_secret=settings.dev, **claims)
    except ValueError as error:
        _fail(f"STARLING_TOKEN_HMAC_SECRET: {error}")


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
    raise typer.Exit(EXIT_SETTINGS)


def _fail(problem: str) -> NoReturn:
    print(problem, file=sys.stderr)
    raise typer.Exit(EXIT_SETTINGS)


def main() -> None:
    """Entry point of the command."""
    cli()
