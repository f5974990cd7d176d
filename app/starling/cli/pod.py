"""Commands that query the internal port of this pod, which serves Prometheus and the kubelet."""

import json
import os
import urllib.error
import urllib.request
from enum import StrEnum
from typing import Annotated, Any

import typer

from starling.cli.service import EXIT_REFUSED, EXIT_UNREACHABLE, EXIT_USAGE, fail, read_variable
from starling.problems import describe_failure

_TIMEOUT = 5.0

InternalUrlOption = Annotated[
    str | None,
    typer.Option("--url", help="Where the internal port is. Default: this machine, at STARLING_INTERNAL_PORT or 9090."),
]


class Question(StrEnum):
    """What the internal port is asked of the whole pod."""

    READY = "readyz"
    LIVE = "livez"
    STARTED = "startupz"


def metrics(
    texts: Annotated[
        list[str] | None, typer.Argument(help="Only samples that contain one of these.", show_default=False)
    ] = None,
    url: InternalUrlOption = None,
) -> None:
    """Print this pod's metrics, as Prometheus gets them but without comments. Refused where none contains a text."""
    _, body = _ask(url, "metrics")
    samples = [line for line in body.splitlines() if not line.startswith("#")]
    found = [line for line in samples if not texts or any(text in line for text in texts)]
    for line in found:
        typer.echo(line)
    if not found:
        fail(f"no sample contains {' or '.join(texts or ())}: `starling metrics` prints them all", EXIT_REFUSED)


def probe(
    question: Annotated[Question, typer.Argument(help="What to ask.")] = Question.READY,
    url: InternalUrlOption = None,
) -> None:
    """Show whether this pod is ready, or alive, or started, and the state of each worker."""
    status, body = _ask(url, question.value)
    try:
        report: dict[str, Any] = json.loads(body)
        workers = report.pop("workers")
    except (ValueError, TypeError, AttributeError, KeyError):
        fail(f"The answer ({status}) is not that of Starling's internal port: see --url", EXIT_UNREACHABLE)
    for worker in workers:
        typer.echo(json.dumps(worker))
    typer.echo(json.dumps({question.value: status == 200, **report}))
    if status != 200:
        raise typer.Exit(EXIT_REFUSED)


def _ask(url: str | None, path: str) -> tuple[int, str]:
    """Status and body of `path`; ends the command where nobody answers."""
    host = read_variable(os.environ, "internal_host") or "localhost"
    # Who listens everywhere is asked here.
    host = "localhost" if host in {"0.0.0.0", "::"} else f"[{host}]" if ":" in host else host  # noqa: S104 - compared
    port = read_variable(os.environ, "internal_port") or "9090"
    address = f"{(url or f'http://{host}:{port}').rstrip('/')}/{path}"
    if not address.startswith(("http://", "https://")):
        fail(f"--url: {url!r} is no address; write it like http://localhost:9090", EXIT_USAGE)
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT) as answer:  # noqa: S310 - looked at above
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        fail(f"{address}: {describe_failure(error)}: is the service there? See --url", EXIT_UNREACHABLE)
