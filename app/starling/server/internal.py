"""The internal port: metrics and probes of the whole pod, answered by a thread of the master."""

import socket
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector

from starling.server.options import ServerOptions
from starling.server.pod import TOP_CHANNELS, Pod

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.server")

# Whoever asks here is a machine in the same network: no request takes long, and few come at once.
REQUEST_SECONDS = 5.0
REQUESTS_AT_ONCE = 64


class InternalServer(ThreadingHTTPServer):
    """Listens from its construction on (OSError if it cannot) and answers from `start` on."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, options: ServerOptions, pod: Pod) -> None:
        self.pod = pod
        registry = CollectorRegistry()
        registry.register(pod)
        MultiProcessCollector(registry, path=str(options.metrics_dir))  # type: ignore[no-untyped-call]
        self.metrics = make_wsgi_app(registry)
        self._open: dict[socket.socket, float] = {}
        self.address_family, _, _, _, address = socket.getaddrinfo(
            options.internal_host, options.internal_port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        super().__init__(address[:2], Probe)  # type: ignore[arg-type]  # host and port in every family

    def server_bind(self) -> None:
        """Bind without looking up the host's name, as HTTPServer would."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)

    def start(self) -> None:
        """Answer, in a thread that ends with the process."""
        threading.Thread(target=self.serve_forever, name="internal-port", daemon=True).start()

    def leave_to_master(self) -> None:
        """Close, in a worker, the sockets that it got from the master."""
        self.socket.close()
        for request in list(self._open):
            request.close()

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

    def service_actions(self) -> None:
        """Cut who takes too long, twice a second."""
        limit = time.monotonic() - REQUEST_SECONDS
        for request, since in list(self._open.items()):
            if since < limit:
                cut(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note what went wrong with one request; mostly its client has left."""
        log.debug("internal_request_failed", exc_info=True)


def cut(request: socket.socket) -> None:
    """End a connection whose thread waits for it; the thread closes it."""
    with suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


class Probe(BaseHTTPRequestHandler):
    """One request on the internal port."""

    server: InternalServer
    protocol_version = "HTTP/1.1"
    timeout = REQUEST_SECONDS

    def do_GET(self) -> None:
        """Answer a probe or a scrape."""
        pod = self.server.pod
        match urlsplit(self.path).path:
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
                    HTTPStatus.NOT_FOUND, b"Here are /metrics, /channels/top, /livez, /startupz and /readyz.\n"
                )

    do_HEAD = do_GET  # noqa: N815 - http.server's naming

    def __getattr__(self, name: str) -> Any:
        # http.server looks for do_METHOD, and would answer 501 for those that are known but not for here.
        if name.startswith("do_"):
            return self._refuse_method
        raise AttributeError(name)

    def _refuse_method(self) -> None:
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, b"Ask with GET.\n", [("Allow", "GET, HEAD")])

    def _answer_probe(self, *, good: bool) -> None:
        status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
        self._answer(status, msgspec.json.encode(self.server.pod.report()), [("Content-Type", "application/json")])

    def _answer_top_channels(self) -> None:
        limit = parse_qs(urlsplit(self.path).query).get("limit", [str(TOP_CHANNELS)])[-1]
        if not limit.isdecimal() or not 1 <= int(limit) <= TOP_CHANNELS:
            self._answer(HTTPStatus.BAD_REQUEST, f"limit: give a number from 1 to {TOP_CHANNELS}\n".encode())
            return
        body = msgspec.json.encode({"channels": self.server.pod.top_channels(int(limit))})
        self._answer(HTTPStatus.OK, body, [("Content-Type", "application/json")])

    def _answer_metrics(self) -> None:
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/metrics",
            "QUERY_STRING": urlsplit(self.path).query,
            "HTTP_ACCEPT": self.headers.get("Accept"),
            "HTTP_ACCEPT_ENCODING": self.headers.get("Accept-Encoding"),
        }
        headers: list[tuple[str, str]] = []
        body = b"".join(self.server.metrics(environ, lambda _, told: headers.extend(told)))
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
