"""A backend of proxies on loopback that keeps what it was asked, and answers as the test says."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.support.services import free_port

Answer = dict[str, Any] | bytes | int


class Asked(NamedTuple):
    """One request as it came; `connection` is the port of its sender."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    connection: int


class DecidingBackend:
    """Answers each request with what `decide(path, body)` returns: JSON, raw bytes, or a status without a body."""

    def __init__(self, decide: Callable[[str, dict[str, Any]], Answer] | None = None) -> None:
        self.port = free_port()
        self.asked: list[Asked] = []
        self.decide = decide or (lambda path, body: {"result": {}})
        self.free = threading.Event()
        """Answers are held back until it is set."""
        self.free.set()
        self._server: ThreadingHTTPServer | None = None

    def url(self, event: str) -> str:
        """The address of an event."""
        return f"http://127.0.0.1:{self.port}/{event}"

    def about(self, event: str) -> list[Asked]:
        """The requests of an event, in order."""
        return [asked for asked in self.asked if asked.path == f"/{event}"]

    def start(self) -> None:
        """Listen; again after `stop`, at the same port."""
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.path, headers, json.loads(raw), self.client_address[1])
                if backend._server is not None:
                    backend.asked.append(asked)
                backend.free.wait(20)
                if backend._server is None:
                    # It was stopped: connections that are open still get nothing more.
                    self.close_connection = True
                    return
                answer = backend.decide(self.path.strip("/"), asked.body)
                status = answer if isinstance(answer, int) else 200
                body = json.dumps(answer).encode() if isinstance(answer, dict) else b""
                body = answer if isinstance(answer, bytes) else body
                self.send_response(status)
                if status in (301, 302):
                    self.send_header("Location", "/login")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that gave up is no fault."""

        for _ in range(100):
            try:
                self._server = Server(("127.0.0.1", self.port), Handler)
                break
            except OSError:
                time.sleep(0.02)
        assert self._server is not None
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self.free.set()
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()
