"""The internal port: metrics and probes of the whole pod, served by a process of its own.

It is forked before the master has any thread, and the master never starts one: a fork while threads run may copy a
lock that no thread of the new process unlocks.
"""

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any, NoReturn
from urllib.parse import parse_qs

import msgspec
import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector

from starling.engine.local_names import is_local_name, without_port
from starling.server.console.requests import PREFIX as CONSOLE
from starling.server.console.requests import ConsoleRequests
from starling.server.console.sessions import Sessions
from starling.server.options import ServerOptions
from starling.server.pod import TOP_CHANNELS, Pod
from starling.server.target import BadTarget, normal_target
from starling.telemetry.metric_files import merge_ended

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.server")

# The clients are machines in the same network: no request takes long, and few are concurrent.
REQUEST_SECONDS = 5.0
REQUESTS_AT_ONCE = 64
# A live view of the console begins anew after this.
CONSOLE_SECONDS = 310.0
FOREIGN_HOST = "This port is for this machine: ask for localhost or an address. A proxy in front of it must do so, too."
PR_SET_PDEATHSIG = 1
# What a terminal or an operator sends to all processes of the service is meant for the master.
IGNORED_SIGNALS = (
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGWINCH,
)


class InternalServer(ThreadingHTTPServer):
    """Listens from its construction on, OSError if it cannot."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, options: ServerOptions, pod: Pod) -> None:
        self.pod = pod
        registry = CollectorRegistry()
        registry.register(pod)
        MultiProcessCollector(registry, path=str(options.metrics_dir))  # type: ignore[no-untyped-call]
        self._metrics_dir = options.metrics_dir
        self._merged_of: set[int] | None = None
        self.metrics = make_wsgi_app(registry)
        self.metric_files = threading.Lock()
        """Held while the files of metrics are read, and while those of workers that have ended are merged."""
        self.console = ConsoleRequests(options, options.trusted_proxies, options.status_dir, pod, Sessions(options))
        self.master = os.getpid()
        self._open: dict[socket.socket, float] = {}
        self.address_family, _, _, _, address = socket.getaddrinfo(
            options.internal_host, options.internal_port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        super().__init__(address[:2], InternalRequest)  # type: ignore[arg-type]  # host and port in every family
        self.is_local = ip_address(address[0]).is_loopback
        """Whether only this machine reaches the port; a page in a browser here could, by a name that points here."""

    def server_bind(self) -> None:
        """Bind without looking up the host's name, as HTTPServer would."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own; where there are too many, the oldest is cut for it."""
        if len(self._open) >= REQUESTS_AT_ONCE:
            cut(next(iter(self._open)))
        self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End one connection."""
        self._open.pop(request, None)
        super().shutdown_request(request)

    def allow(self, request: Any, seconds: float) -> None:
        """Let this one request take longer than others."""
        if request in self._open:
            self._open[request] = time.monotonic() + seconds

    def service_actions(self) -> None:
        """Cut who takes too long, twice a second."""
        limit = time.monotonic() - REQUEST_SECONDS
        for request, since in list(self._open.items()):
            if since < limit:
                cut(request)
        if os.getppid() != self.master:
            log.warning("master_gone")
            sys.exit(0)
        self._merge_ended()

    def _merge_ended(self) -> None:
        """Merge the metrics of workers that have ended, so that their files do not add up."""
        running = {self.master, os.getpid(), *self.pod.pids()}
        if running == self._merged_of:
            return
        with self.metric_files, suppress(OSError):
            merge_ended(self._metrics_dir, running)
            self._merged_of = running

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note what went wrong with one request; mostly its client has left."""
        log.debug("internal_request_failed", exc_info=True)


def cut(request: socket.socket) -> None:
    """End a connection whose thread waits for it; the thread closes it."""
    with suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


class InternalProcess:
    """The process that answers on the internal port; the master starts it again where it ends."""

    def __init__(self, server: InternalServer) -> None:
        self._server = server
        self._pid = 0

    def ensure(self, inherited: Iterable[socket.socket] = ()) -> None:
        """Fork the process unless it runs; it closes the `inherited` sockets, which are for workers."""
        if self._pid and _runs(self._pid):
            return
        if self._pid:
            log.error("internal_port_restarted")
        self._pid = os.fork()
        if self._pid == 0:
            self._serve(inherited)

    def _serve(self, inherited: Iterable[socket.socket]) -> NoReturn:
        status = 1
        try:
            die_with_parent()
            for sig in IGNORED_SIGNALS:
                signal.signal(sig, signal.SIG_IGN)
            for sig in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(sig, signal.SIG_DFL)
            for listener in inherited:
                listener.close()
            self._server.serve_forever()
            status = 0
        except Exception:
            log.exception("internal_port_failed")
        finally:
            logging.shutdown()
            os._exit(status)

    def leave_to_master(self) -> None:
        """Close, in a worker, the socket that it inherited."""
        self._server.socket.close()

    def end(self) -> None:
        """End the process where the kernel does not end it with the master, as late as that."""
        if self._pid and not sys.platform.startswith("linux"):
            with suppress(OSError):
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends (prctl(2), Linux alone)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


class InternalRequest(BaseHTTPRequestHandler):
    """One request on the internal port."""

    server: InternalServer
    protocol_version = "HTTP/1.1"
    timeout = REQUEST_SECONDS

    def parse_request(self) -> bool:
        """Read the head of a request, and check its target and its Host field as on the public port."""
        if not super().parse_request():
            return False
        hosts = [(b"host", value.encode("latin-1")) for value in self.headers.get_all("Host", ())]
        version = self.request_version.removeprefix("HTTP/")
        try:
            self.path = normal_target(version, self.path.encode("latin-1"), hosts).decode("latin-1")
        except BadTarget as problem:
            self.send_error(HTTPStatus.BAD_REQUEST, str(problem))
            return False
        host = hosts[0][1].decode("latin-1") if hosts else ""
        # The console has its own check, and may be behind a proxy that keeps the name it is called by.
        if self.server.is_local and not self._is_for_console and not is_local_name(without_port(host)):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, FOREIGN_HOST)
            return False
        return True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what http.server, too, refuses; in words, and with a status line for every version of HTTP."""
        self.close_connection = True
        self.request_version = self.protocol_version
        self._answer(HTTPStatus(code), f"{message or explain or HTTPStatus(code).phrase}\n".encode())

    def do_GET(self) -> None:
        """Answer a probe or a scrape."""
        pod, path = self.server.pod, self._parts[0]
        if self._is_for_console:
            self.server.console.get(self, path)
            return
        match path:
            case "/livez":
                self._answer_probe(good=pod.alive)
            case "/startupz":
                self._answer_probe(good=pod.started)
            case "/readyz":
                self._answer_probe(good=pod.ready)
            case "/metrics":
                self._answer_metrics()
            case "/channels/top":
                self._answer_top_channels()
            case _:
                self._answer(
                    HTTPStatus.NOT_FOUND,
                    b"Here are /metrics, /channels/top, /console, /livez, /startupz and /readyz.\n",
                )

    def do_POST(self) -> None:
        """Answer a request of the console."""
        path, _ = self._parts
        if not path.startswith(f"{CONSOLE}/"):
            self._refuse_method()
            return
        # The worker may ask all nodes, and a live view lasts.
        self.server.allow(self.connection, CONSOLE_SECONDS)
        self.connection.settimeout(CONSOLE_SECONDS)
        self.server.console.post(self, path)

    do_HEAD = do_GET  # noqa: N815 - http.server's naming

    def __getattr__(self, name: str) -> Any:
        # http.server looks for do_METHOD, and would answer 501 for those that are known but not for here.
        if name.startswith("do_"):
            return self._refuse_method
        raise AttributeError(name)

    @property
    def _is_for_console(self) -> bool:
        path, _ = self._parts
        return path == CONSOLE or path.startswith(f"{CONSOLE}/")

    @property
    def _parts(self) -> tuple[str, str]:
        """The path and the query."""
        path, _, query = self.path.partition("?")
        return path, query

    def _refuse_method(self) -> None:
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, b"Ask with GET.\n", [("Allow", "GET, HEAD")])

    def _answer_probe(self, *, good: bool) -> None:
        status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
        self._answer(status, msgspec.json.encode(self.server.pod.report()), [("Content-Type", "application/json")])

    def _answer_top_channels(self) -> None:
        limit = parse_qs(self._parts[1]).get("limit", [str(TOP_CHANNELS)])[-1]
        if not limit.isdecimal() or not 1 <= int(limit[:10]) <= TOP_CHANNELS:
            self._answer(HTTPStatus.BAD_REQUEST, f"limit: give a number from 1 to {TOP_CHANNELS}\n".encode())
            return
        body = msgspec.json.encode({"channels": self.server.pod.top_channels(int(limit))})
        self._answer(HTTPStatus.OK, body, [("Content-Type", "application/json")])

    def _answer_metrics(self) -> None:
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/metrics",
            "QUERY_STRING": self._parts[1],
            "HTTP_ACCEPT": self.headers.get("Accept"),
            "HTTP_ACCEPT_ENCODING": self.headers.get("Accept-Encoding"),
        }
        headers: list[tuple[str, str]] = []
        with self.server.metric_files:
            body = b"".join(self.server.metrics(environ, lambda _, found: headers.extend(found)))
        self._answer(HTTPStatus.OK, body, headers)

    def _answer(self, status: HTTPStatus, body: bytes, headers: list[tuple[str, str]] | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers or [("Content-Type", "text/plain; charset=utf-8")]:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name for it
        """Say nothing: probes come all the time."""
