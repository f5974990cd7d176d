"""`starling serve`: prepares what the processes need before they start, and says how to begin in developer mode."""

import contextlib
import gc
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from starling.cli.configuration import read_settings, refuse
from starling.cli.env_file import EnvFile, EnvFileOption
from starling.cli.output import print_heading
from starling.cli.service import EXIT_USAGE, fail
from starling.variables import DEVELOPER_KEY, PREFIX

if TYPE_CHECKING:
    from starling.settings import Settings

_USUAL_PORT = 8000


def serve(
    ctx: typer.Context,
    app: Annotated[
        str | None, typer.Argument(help="Your ASGI application, module:name, served with Starling; STARLING_APP.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Public port; STARLING_PORT.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; STARLING_HOST.")] = None,
    dev: Annotated[
        bool | None, typer.Option("--dev/--no-dev", help="Developer mode: no tokens, no permissions; STARLING_DEV.")
    ] = None,
    channels: Annotated[
        Path | None, typer.Option(help="File with the options of channels; STARLING_CHANNELS_FILE.")
    ] = None,
    trial: Annotated[
        bool,
        typer.Option("--trial", help="Generate and print keys where no key and no broker is set; for a first try."),
    ] = False,
    reload: Annotated[
        bool,
        typer.Option("--reload", help="In developer mode: start again when your code or the channels file changes."),
    ] = False,
    env_file: EnvFileOption = None,
) -> None:
    """Run the service until SIGTERM, then disconnect its clients and stop. Options count more than the environment."""
    ctx.ensure_object(EnvFile).use(env_file)
    for name, value in {"APP": app, "PORT": port, "HOST": host, "DEV": dev, "CHANNELS_FILE": channels}.items():
        if value is not None:
            os.environ[PREFIX + name] = str(value)
            os.environ.pop(f"{PREFIX}{name}_FILE", None)
    if trial:
        # It needs what makes tokens, which the usual start does without.
        from starling.cli.trial import prepare_trial

        prepare_trial(os.environ)
    with _start_without_collector():
        settings = read_settings()
        if reload:
            raise typer.Exit(_reload(settings))
        _serve(settings)


@contextlib.contextmanager
def _start_without_collector() -> Iterator[None]:
    """Disable garbage collection: imports and construction leave next to none, and the search is a fifth of the start.

    The server enables it again before it forks workers.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _serve(settings: "Settings") -> None:
    """Build the service and serve it until a signal."""
    runtime_dir, metrics_dir = _prepare_runtime_dir(settings.runtime_dir)
    temporary = None if settings.runtime_dir else runtime_dir
    settings = settings.model_copy(update={"runtime_dir": runtime_dir})
    # prometheus_client chooses at its first import where metrics live, so whatever imports it comes after this line.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_dir)
    from starling.main import run
    from starling.settings import SettingsError

    try:
        if settings.dev:
            settings = _prepare_developer_mode(settings)
        if settings.app is None:
            run(settings)
        else:
            # What only a user's application needs.
            from starling.embed.hosting import serve_application

            serve_application(settings, settings.app)
    except SettingsError as error:
        refuse(error)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _reload(settings: "Settings") -> int:
    """Serve, and again at each change of the user's files; returns the exit code."""
    from starling.cli.reloading import serve_reloading

    if not settings.dev:
        fail("--reload is for developer mode: add --dev, or leave it out", EXIT_USAGE)
    hooks = (settings.hooks_path or Path.cwd(),) if settings.hooks else ()
    code = dict.fromkeys([*hooks, *((Path.cwd(),) if settings.app else ())])
    configuration = (settings.channels_file,) if settings.channels_file else ()
    return serve_reloading(dict(os.environ), (*code, *configuration))


def _prepare_runtime_dir(configured: Path | None) -> tuple[Path, Path]:
    """The directory for the workers' status, a new temporary one where none is configured, and the one for metrics."""
    try:
        runtime_dir = configured or Path(tempfile.mkdtemp(prefix="starling-"))
        metrics_dir = runtime_dir / "metrics"
        metrics_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"cannot use {configured}" if configured else "it is not set, and no temporary directory can be made"
        fail(f"STARLING_RUNTIME_DIR: {what}: {error.strerror}. Name a directory that can be written", EXIT_USAGE)
    return runtime_dir, metrics_dir


def _prepare_developer_mode(settings: "Settings") -> "Settings":
    """Developer mode with a secret of its own where none is set, and with a fast stop; says how to begin."""
    from pydantic import SecretStr

    secret = settings.token_hmac_secret or SecretStr(secrets.token_urlsafe(48))
    settings = settings.model_copy(update={"token_hmac_secret": secret})
    if settings.log_format != "json" and _is_free(settings.listen_host, settings.port):
        _print_banner(settings)
    # No proxy routes clients here, so Ctrl-C need not wait until one has noticed.
    fast = {"drain_delay_seconds": 0.0, "drain_seconds": 1.0}
    unset = {name: value for name, value in fast.items() if name not in settings.model_fields_set}
    return settings.model_copy(update=unset)


def _print_banner(settings: "Settings") -> None:
    from starling import __version__
    from starling.web.guide import ARCHIVE as GUIDE

    host, port = settings.listen_host, settings.port
    local = host in {"127.0.0.1", "::1", "localhost", "0.0.0.0", "::"}  # noqa: S104 - compared
    name = "localhost" if local else f"[{host}]" if ":" in host else host
    address = f"http://{name}:{port}"
    options = "" if local and port == _USUAL_PORT else f" --url {address}"
    options += "" if local else f" --key {DEVELOPER_KEY}"
    print()
    print_heading(f"Starling {__version__} in developer mode: no tokens, no permissions.")
    print()
    if settings.app is not None:
        from starling.embed.service import without_unasked_parts

        settings = without_unasked_parts(settings)
        print(f"  Application {address} ({settings.app})")
    if settings.pages:
        print(f"  Page        {address}")
    if settings.serves_api_docs:
        print(f"  Server API  {address}{'/starling' if settings.app else ''}/docs (key: {DEVELOPER_KEY})")
    if GUIDE.is_file() and settings.app is None:
        print(f"  Guide       {address}/docs/guide")
    if settings.internal_host in {"127.0.0.1", "localhost", "0.0.0.0"}:  # noqa: S104 - compared
        print(f"  Console     http://localhost:{settings.internal_port}/console")
    print(f"  Clients     ws://{name}:{port}/connection/websocket")
    print()
    print("  Try in a second terminal:")
    command = _command()
    print(f"""    {command} publish demo:chat '{{"text": "hello"}}'{options}""")
    print(f"    {command} history demo:chat{options}")
    print(f"    {command} subscribe demo:chat{options.removesuffix(f' --key {DEVELOPER_KEY}')}")
    print(flush=True)


def _command() -> str:
    """This command as any other terminal finds it: by its name where it is installed for all, else by its path."""
    path = Path(sys.executable).with_name("starling")
    if sys.prefix == sys.base_prefix and shutil.which("starling") == str(path):
        return "starling"
    with contextlib.suppress(ValueError, RuntimeError):
        inside = path.relative_to(Path.home())
        if " " not in str(inside):
            return f"~/{inside}"
    return f"'{path}'" if " " in str(path) else str(path)


def _is_free(host: str, port: int) -> bool:
    """Whether this process can listen there; where it cannot, the server reports the reason."""
    from starling.server.ports import try_to_listen

    try:
        try_to_listen(host, port)
    except OSError:
        return False
    return True
