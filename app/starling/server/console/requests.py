"""Requests for `/console` on the internal port: its files, log-in, and what is asked of a worker."""

import ipaddress
import json
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import structlog

from starling.engine.local_names import without_port
from starling.engine.peer_address import unmapped, unmapped_network
from starling.server.console.link import NoWorker, WorkerLink, encode_request
from starling.server.console.options import ConsoleOptions
from starling.server.console.sessions import SESSION_SECONDS, ConsoleUser, Role, Sessions, TooManyAttempts
from starling.server.pod import Pod

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.console")

PREFIX = "/console"
STATIC = Path(__file__).parent / "static"
COOKIE = "starling_console"
BODY_BYTES = 2**20
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# Methods that change nothing, which readers may call too; all others are actions, each with a line in the log.
READS = frozenset(
    {
        "overview",
        "settings",
        "channel_options",
        "verify_token",
        "can",
        "channels",
        "connections",
        "history",
        "info",
        "presence",
        "presence_stats",
        "stream_info",
        "stream_list",
        "top",
    }
)
# What an action is on, in its line of the log; never data.
_OBJECTS = ("channel", "channels", "user", "client", "session", "uid", "code", "payload")


class ConsoleRequests:
    """Answers the requests of one internal process."""

    def __init__(
        self, options: ConsoleOptions, trusted_proxies: tuple[str, ...], sockets: Path, pod: Pod, sessions: Sessions
    ) -> None:
        self._options = options
        self._trusted = [ipaddress.ip_network(unmapped_network(proxy), strict=False) for proxy in trusted_proxies]
        self._pod = pod
        self._link = WorkerLink(sockets)
        self._sessions = sessions

    def get(self, request: BaseHTTPRequestHandler, path: str) -> None:
        """Answer with a file of the console."""
        if not self._options.serves_console:
            text = "The console is off: set STARLING_CONSOLE_PASSWORD.\n"
            _answer(request, HTTPStatus.NOT_FOUND, text.encode(), "text/plain; charset=utf-8")
            return
        if path == PREFIX:
            # Its files are named relative to the page.
            _answer(request, HTTPStatus.PERMANENT_REDIRECT, b"", "text/plain", {"Location": f"{PREFIX}/"})
            return
        file = STATIC / (path.removeprefix(f"{PREFIX}/") or "index.html")
        if file.parent != STATIC or file.suffix not in TYPES or not file.is_file():
            _answer(request, HTTPStatus.NOT_FOUND, b"There is no such file.\n", "text/plain; charset=utf-8")
            return
        _answer(request, HTTPStatus.OK, file.read_bytes(), TYPES[file.suffix])

    def post(self, request: BaseHTTPRequestHandler, path: str) -> None:
        """Log in or out, or carry a request to a worker."""
        problem = None if self._options.serves_console else (HTTPStatus.NOT_FOUND, "the console is off")
        problem = problem or self._foreign(request)
        body, unread = _read_body(request)
        if problem := problem or unread:
            _fail(request, *problem)
            return
        name = path.removeprefix(f"{PREFIX}/")
        if name == "log_in":
            self._log_in(request, body)
            return
        user = self._user(request)
        if name == "me":
            _send(request, {"result": user and {"name": user.name, "role": user.role}})
        elif user is None:
            _fail(request, HTTPStatus.UNAUTHORIZED, "log in first")
        elif name == "log_out":
            self._sessions.log_out(_cookie(request))
            log.info("console_log_out", by=user.name, address=_address(request))
            _send(request, {"result": {}}, {"Set-Cookie": f"{COOKIE}=; Path={PREFIX}; Max-Age=0"})
        elif name.startswith("api/"):
            self._carry(request, user, name.removeprefix("api/"), body)
        else:
            _fail(request, HTTPStatus.NOT_FOUND, "there is no such request")

    def _log_in(self, request: BaseHTTPRequestHandler, body: Mapping[str, Any]) -> None:
        address = _address(request)
        try:
            found = self._sessions.log_in(str(body.get("password", "")))
        except TooManyAttempts as refused:
            log.warning("console_log_in_refused", reason="too_many_attempts", address=address)
            retry = {"Retry-After": str(int(refused.seconds) + 1)}
            _fail(request, HTTPStatus.TOO_MANY_REQUESTS, str(refused), retry)
            return
        if found is None:
            log.warning("console_log_in_refused", reason="wrong_password", address=address)
            _fail(request, HTTPStatus.UNAUTHORIZED, "the password is wrong")
            return
        session, user = found
        log.info("console_log_in", by=user.name, role=user.role, address=address)
        cookie = f"{COOKIE}={session}; Path={PREFIX}; HttpOnly; SameSite=Strict; Max-Age={SESSION_SECONDS:.0f}"
        _send(request, {"result": {"name": user.name, "role": user.role}}, {"Set-Cookie": cookie})

    def _carry(self, request: BaseHTTPRequestHandler, user: ConsoleUser, method: str, body: dict[str, Any]) -> None:
        try:
            asked = encode_request(method, body)
        except RecursionError:
            _fail(request, HTTPStatus.BAD_REQUEST, "the JSON is nested too deeply")
            return
        action = method not in READS
        allowed = user.role is Role.OPERATOR or not action
        if action:
            on = {name: body[name] for name in _OBJECTS if _is_plain(body.get(name))}
            log.info("console_action", by=user.name, method=method, allowed=allowed, on=on, address=_address(request))
        if not allowed:
            _fail(request, HTTPStatus.FORBIDDEN, "readers may look and change nothing")
            return
        try:
            if method == "live":
                _stream(request, self._link.stream(self._pod.pids(), asked))
            else:
                _answer(request, HTTPStatus.OK, self._link.ask(self._pod.pids(), asked), "application/json")
        except NoWorker as problem:
            _fail(request, HTTPStatus.SERVICE_UNAVAILABLE, str(problem))

    def _user(self, request: BaseHTTPRequestHandler) -> ConsoleUser | None:
        header = self._options.console_user_header
        if header is not None and self._from_trusted_proxy(request) and (name := request.headers.get(header)):
            operators = self._options.console_operators
            return ConsoleUser(name, Role.OPERATOR if not operators or name in operators else Role.READER)
        if (user := self._sessions.user(_cookie(request))) is not None:
            return user
        if self._options.dev and self._options.console_password is None:
            return ConsoleUser("developer", Role.OPERATOR)
        return None

    def _from_trusted_proxy(self, request: BaseHTTPRequestHandler) -> bool:
        try:
            address = ipaddress.ip_address(_address(request))
        except ValueError:
            return False
        return any(address in network for network in self._trusted)

    def _foreign(self, request: BaseHTTPRequestHandler) -> tuple[HTTPStatus, str] | None:
        """Why the request may come from a page of others."""
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin", "")
        if request.headers.get_content_type() != "application/json":
            return HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send application/json"
        if not host or origin.lower().partition("://")[2] != host.lower():
            return HTTPStatus.FORBIDDEN, "the Origin is not the console's own"
        # Without a password a name that is made to lead here could stand in both.
        if self._options.dev and self._options.console_password is None and not _is_own_machine(host):
            return HTTPStatus.FORBIDDEN, "developer mode answers at localhost only"
        return None


def _is_plain(value: object) -> bool:
    """Whether a member can name what an action is on: a text, a number or a list of texts; others are no part of it."""
    if isinstance(value, list):
        return all(isinstance(each, str) for each in value)
    return isinstance(value, (str, int, float))


def _is_own_machine(host: str) -> bool:
    name = without_port(host)
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _address(request: BaseHTTPRequestHandler) -> str:
    return unmapped(request.client_address[0])


def _cookie(request: BaseHTTPRequestHandler) -> str:
    try:
        found = SimpleCookie(request.headers.get("Cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _read_body(request: BaseHTTPRequestHandler) -> tuple[dict[str, Any], tuple[HTTPStatus, str] | None]:
    length = request.headers.get("Content-Length", "")
    # int() refuses a number of thousands of digits.
    if not length.isdecimal() or len(length) > len(str(BODY_BYTES)) or int(length) > BODY_BYTES:
        return {}, (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"send at most {BODY_BYTES} bytes with their Content-Length")
    try:
        body = json.loads(request.rfile.read(int(length)) or b"{}", parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return {}, (HTTPStatus.BAD_REQUEST, "this is no JSON")
    if not isinstance(body, dict):
        return {}, (HTTPStatus.BAD_REQUEST, "send a JSON object")
    return body, None


def _no_constant(name: str) -> None:
    """Refuse NaN and infinities, which the json module takes and RFC 8259 has not. Raises ValueError."""
    raise ValueError(name)


def _send(request: BaseHTTPRequestHandler, content: object, headers: Mapping[str, str] | None = None) -> None:
    _answer(request, HTTPStatus.OK, json.dumps(content).encode(), "application/json", headers)


def _fail(
    request: BaseHTTPRequestHandler, status: HTTPStatus, message: str, headers: Mapping[str, str] | None = None
) -> None:
    body = json.dumps({"error": {"code": status.value, "message": message}}).encode()
    _answer(request, status, body, "application/json", headers)


def _answer(
    request: BaseHTTPRequestHandler,
    status: HTTPStatus,
    body: bytes,
    content_type: str,
    headers: Mapping[str, str] | None = None,
) -> None:
    _head(request, status, {"Content-Type": content_type, "Content-Length": str(len(body)), **(headers or {})})
    if request.command != "HEAD":
        request.wfile.write(body)


def _stream(request: BaseHTTPRequestHandler, lines: Iterator[bytes]) -> None:
    """Pass lines on until the worker or the reader ends."""
    first = next(lines)
    _head(request, HTTPStatus.OK, {"Content-Type": "application/x-ndjson"})
    request.wfile.write(first)
    request.wfile.flush()
    for line in lines:
        request.wfile.write(line)
        request.wfile.flush()


def _head(request: BaseHTTPRequestHandler, status: HTTPStatus, headers: Mapping[str, str]) -> None:
    request.send_response_only(status)
    for name, value in {**HEADERS, **headers, "Connection": "close"}.items():
        request.send_header(name, value)
    request.end_headers()
    request.close_connection = True
