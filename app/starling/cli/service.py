"""A running service as a command sees it: its address, the key for its API, and how a failure is reported."""

import ipaddress
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Annotated, Any, NoReturn
from urllib.parse import urlsplit, urlunsplit

import typer

from starling.problems import describe_failure
from starling.variables import CLIENT_VARIABLES, DEVELOPER_KEY, PREFIX

# The service answered no: a token is not valid, or the API returned an error.
EXIT_REFUSED = 1
# The command or a setting cannot be used; click's own code for usage.
EXIT_USAGE = 2
# No service answers there.
EXIT_UNREACHABLE = 3
EXIT_CODES = (
    f"Exit codes: 0 done, {EXIT_REFUSED} refused, {EXIT_USAGE} the command or a setting cannot be used, "
    f"{EXIT_UNREACHABLE} no service answers."
)
# gunicorn ends with these, too.
SERVE_EXIT_CODES = (
    f"Exit codes: 0 stopped as asked, 1 a port is taken, {EXIT_USAGE} a setting cannot be used, "
    "3 the application did not start."
)
_TOKEN_SECONDS = 3600
_NO_KEY = "No key: give --key or STARLING_API_KEY, one of the service's STARLING_API_KEYS"


def _option(name: str, variable: str) -> Any:
    """An option that an environment variable of the client side can give too."""
    return typer.Option(name, envvar=variable, help=CLIENT_VARIABLES[variable])


UrlOption = Annotated[str | None, _option("--url", "STARLING_API_URL")]
KeyOption = Annotated[str | None, _option("--key", "STARLING_API_KEY")]
TokenOption = Annotated[str | None, _option("--token", "STARLING_TOKEN")]


def fail(problem: str, code: int) -> NoReturn:
    """End the command with one line on standard error."""
    typer.echo(problem, err=True)
    raise typer.Exit(code)


@contextmanager
def until_interrupted() -> Iterator[None]:
    """Run a block that goes on until Ctrl-C ends it, and the command with exit code 0; SIGTERM ends it in the same way.

    Where SIGINT was ignored from the beginning, as in the background of a script, it stays ignored: SIGTERM is left.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGTERM, before)


class ServiceAddress:
    """A service at `url`, as the options and the environment name it."""

    def __init__(self, url: str | None, key: str | None = None, environment: Mapping[str, str] = os.environ) -> None:
        self._environment = environment
        self._given_key = key
        port = self._variable("port") or "8000"
        text = (url or f"http://localhost:{port}").rstrip("/").removesuffix("/api")
        try:
            parts = urlsplit(text)
            usable = parts.scheme in {"http", "https", "ws", "wss"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
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
        """The key for the server API; ends the command where there is none."""
        found = self._configured_key
        if not found and not self._is_on_this_machine:
            fail(_NO_KEY, EXIT_USAGE)
        return found or DEVELOPER_KEY

    @property
    def _configured_key(self) -> str:
        keys = (self._variable("api_keys") or "").split(",")
        return self._given_key or keys[0].strip()

    @property
    def _is_on_this_machine(self) -> bool:
        host = self._parts.hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")

    def call(self, method: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The result of a method of the server API; ends the command where there is none."""
        # Not at the top: `starling serve` would load it into every worker.
        import httpx2

        address = f"{self.http}/api/{method}"
        try:
            answer = httpx2.post(address, json=body, headers={"X-API-Key": self.key}, timeout=15)
        except UnicodeEncodeError:
            # JSON can name half of a UTF-16 pair.
            fail("the JSON names a character that UTF-8 has not: half of a UTF-16 pair", EXIT_USAGE)
        except httpx2.HTTPError as error:
            fail(f"{address}: {describe_failure(error)}: is the service there? See --url", EXIT_UNREACHABLE)
        return self._result(address, answer)

    def _result(self, address: str, answer: Any) -> dict[str, Any]:
        try:
            content = answer.json()
        except ValueError:
            content = None
        match content:
            case {"error": {"code": code, "message": message}}:
                if answer.status_code == HTTPStatus.UNAUTHORIZED and not self._configured_key:
                    fail(f"{_NO_KEY} ({self.http} is not in developer mode)", EXIT_USAGE)
                unavailable = answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE
                fail(f"{message} (code {code})", EXIT_UNREACHABLE if unavailable else EXIT_REFUSED)
            case {"result": dict(result)}:
                return result
        fail(f"{address} answered {answer.status_code}, and not as Starling does: see --url", EXIT_UNREACHABLE)

    def stream(self, method: str, body: Mapping[str, Any]) -> Iterator[str]:
        """The lines that a method answers with, as they arrive. Ends the command where there are none."""
        import httpx2

        address = f"{self.http}/api/{method}"
        try:
            # The service sends a line every ten seconds at least.
            with httpx2.stream("POST", address, json=body, headers={"X-API-Key": self.key}, timeout=30) as answer:
                if answer.headers.get("content-type") == "application/x-ndjson":
                    yield from filter(None, answer.iter_lines())
                    return
                answer.read()
                self._result(address, answer)
        except httpx2.HTTPError as error:
            fail(f"{address}: {describe_failure(error)}: is the service there? See --url", EXIT_UNREACHABLE)

    def connection_token(self, user: str) -> str:
        """A token for `user`, where there is a secret to make one with; else none."""
        from starling.auth.issue import issue_connection_token

        return self._issued(lambda secret, **claims: issue_connection_token(secret, user, _TOKEN_SECONDS, **claims))

    def subscription_token(self, user: str, channel: str) -> str:
        """A token with which `user` may subscribe to `channel` and recover there; none where there is no secret."""
        from starling.auth.issue import issue_subscription_token

        override = {"force_recovery": True}
        return self._issued(
            lambda secret, **claims: issue_subscription_token(
                secret, user, channel, _TOKEN_SECONDS, override=override, **claims
            )
        )

    def _issued(self, issue: Callable[..., str]) -> str:
        secret = self._variable("token_hmac_secret")
        if not secret:
            return ""
        names = {"aud": "token_audience", "iss": "token_issuer"}
        claims = {claim: value for claim, name in names.items() if (value := self._variable(name))}
        developer = (self._variable("dev") or "").lower() in {"1", "true", "yes", "on", "t", "y"}
        try:
            return issue(secret, allow_weak_secret=developer, **claims)
        except ValueError as error:
            fail(f"STARLING_TOKEN_HMAC_SECRET: {error}", EXIT_USAGE)

    def _variable(self, name: str) -> str | None:
        return read_variable(self._environment, name)


def read_variable(environment: Mapping[str, str], name: str) -> str | None:
    """One setting, unchecked, from the environment or the file that it names. Ends the command for a file unread."""
    variable = f"{PREFIX}{name.upper()}"
    if variable in environment:
        return environment[variable]
    path = environment.get(f"{variable}_FILE")
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8-sig") as file:  # noqa: PTH123 - pathlib is the other import of a fast command
            return file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{variable}_FILE: cannot read {path}: {describe_failure(error)}", EXIT_USAGE)
