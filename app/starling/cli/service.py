"""A running service as a command sees it: where it is, what opens it, and how a failure is told."""

import os
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Annotated, Any, NoReturn
from urllib.parse import urlsplit, urlunsplit

import typer

from starling.auth.issue import issue_connection_token, issue_subscription_token
from starling.settings import CLIENT_VARIABLES, read_variable

# The answer was no: a token is refused, an error was told.
EXIT_REFUSED = 1
# The command, or a setting, cannot be meant like this; click's own code for usage.
EXIT_USAGE = 2
# Nobody answers there.
EXIT_UNREACHABLE = 3
EXIT_CODES = (
    f"Exit codes: 0 done, {EXIT_REFUSED} refused, {EXIT_USAGE} the command or a setting cannot be used, "
    f"{EXIT_UNREACHABLE} no service answers."
)
# What gunicorn ends with, too.
SERVE_EXIT_CODES = (
    f"Exit codes: 0 stopped as asked, 1 a port is taken, {EXIT_USAGE} a setting cannot be used, "
    "3 the application did not start."
)
_TOKEN_SECONDS = 3600


def _option(name: str, variable: str) -> Any:
    """An option that an environment variable of the client side can give too."""
    return typer.Option(name, envvar=variable, help=CLIENT_VARIABLES[variable])


UrlOption = Annotated[str | None, _option("--url", "STARLING_API_URL")]
KeyOption = Annotated[str | None, _option("--key", "STARLING_API_KEY")]
TokenOption = Annotated[str | None, _option("--token", "STARLING_TOKEN")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line, for other programs.")]


def fail(problem: str, code: int) -> NoReturn:
    """End the command with one line on standard error."""
    typer.echo(problem, err=True)
    raise typer.Exit(code)


def duration(seconds: int) -> str:
    """How long, for people."""
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


class ServiceAddress:
    """A service at `url`, as options and the environment tell it."""

    def __init__(self, url: str | None, key: str | None = None, environment: Mapping[str, str] = os.environ) -> None:
        self._environment = environment
        self._key = key
        port = read_variable(environment, "port") or "8000"
        text = (url or f"http://localhost:{port}").rstrip("/").removesuffix("/api")
        parts = urlsplit(text)
        if parts.scheme not in {"http", "https", "ws", "wss"} or not parts.hostname:
            fail(f"--url: {text!r} is no address; write it like https://realtime.example.com", EXIT_USAGE)
        self._parts = parts
        self._secure = parts.scheme in {"https", "wss"}

    @property
    def http(self) -> str:
        """Its address for requests."""
        return urlunsplit(self._parts._replace(scheme="https" if self._secure else "http"))

    @property
    def websocket(self) -> str:
        """Its address for WebSockets."""
        return urlunsplit(self._parts._replace(scheme="wss" if self._secure else "ws"))

    @property
    def key(self) -> str:
        """What opens the server API; ends the command where there is none."""
        keys = (read_variable(self._environment, "api_keys") or "").split(",")
        developer = "dev" if self._is_true("dev") else ""
        found = self._key or keys[0].strip() or developer
        if not found:
            fail("No key: give --key or STARLING_API_KEY, one of the service's STARLING_API_KEYS", EXIT_USAGE)
        return found

    def call(self, method: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The result of a method of the server API; ends the command where there is none."""
        # Not at the top: `starling serve` would carry it along in every worker.
        import httpx2

        address = f"{self.http}/api/{method}"
        try:
            answer = httpx2.post(address, json=body, headers={"X-API-Key": self.key}, timeout=15)
        except httpx2.HTTPError as error:
            fail(f"{address}: {str(error) or type(error).__name__}: is the service there? See --url", EXIT_UNREACHABLE)
        return self._result(address, answer)

    def _result(self, address: str, answer: Any) -> dict[str, Any]:
        try:
            told = answer.json()
        except ValueError:
            told = None
        match told:
            case {"error": {"code": code, "message": message}}:
                away = answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE
                fail(f"{message} (code {code})", EXIT_UNREACHABLE if away else EXIT_REFUSED)
            case {"result": dict(result)}:
                return result
        fail(f"{address} answered {answer.status_code}, and not as Starling does: see --url", EXIT_UNREACHABLE)

    def stream(self, method: str, body: Mapping[str, Any]) -> Iterator[str]:
        """The lines that a method answers with, as they come. Ends the command where there are none."""
        import httpx2

        address = f"{self.http}/api/{method}"
        try:
            # The service says something every ten seconds.
            with httpx2.stream("POST", address, json=body, headers={"X-API-Key": self.key}, timeout=30) as answer:
                if answer.headers.get("content-type") == "application/x-ndjson":
                    yield from filter(None, answer.iter_lines())
                    return
                answer.read()
                self._result(address, answer)
        except httpx2.HTTPError as error:
            fail(f"{address}: {str(error) or type(error).__name__}: is the service there? See --url", EXIT_UNREACHABLE)

    def connection_token(self, user: str) -> str:
        """A token for `user`, where there is a secret to make one with; else none."""
        return self._issued(lambda secret, **claims: issue_connection_token(secret, user, _TOKEN_SECONDS, **claims))

    def subscription_token(self, user: str, channel: str) -> str:
        """A token that lets `user` into `channel` and recover there, where there is a secret to make one with."""
        override = {"force_recovery": True}
        return self._issued(
            lambda secret, **claims: issue_subscription_token(
                secret, user, channel, _TOKEN_SECONDS, override=override, **claims
            )
        )

    def _issued(self, issue: Callable[..., str]) -> str:
        secret = read_variable(self._environment, "token_hmac_secret")
        if not secret:
            return ""
        names = {"aud": "token_audience", "iss": "token_issuer"}
        claims = {claim: value for claim, name in names.items() if (value := read_variable(self._environment, name))}
        try:
            return issue(secret, allow_weak_secret=self._is_true("dev"), **claims)
        except ValueError as error:
            fail(f"STARLING_TOKEN_HMAC_SECRET: {error}", EXIT_USAGE)

    def _is_true(self, name: str) -> bool:
        return (read_variable(self._environment, name) or "").lower() in {"1", "true", "yes", "on", "t", "y"}
