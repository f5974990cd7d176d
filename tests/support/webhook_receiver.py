"""A webhook receiver on loopback that keeps what it got, and answers as the test says."""

import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.support.services import free_port


@dataclass(frozen=True)
class Request:
    """One request as it came; `connection` is the port of its sender, `taken` whether it was answered with 2xx."""

    path: str
    headers: dict[str, str]
    body: bytes
    connection: int
    taken: bool

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events in it."""
        events: list[dict[str, Any]] = json.loads(self.body)["events"]
        return events


class WebhookReceiver:
    """Answers each request with the next of `statuses`, then with 204; holds every answer back while `slow`."""

    def __init__(self, statuses: tuple[int, ...] = ()) -> None:
        self.port = free_port()
        self.requests: list[Request] = []
        self.most_at_once = 0
        self._statuses = list(statuses)
        self._at_once = 0
        self._lock = threading.Lock()
        self._go = threading.Event()
        self._go.set()
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """Where it listens, with what no log line may show."""
        return f"http://user:pass-word@127.0.0.1:{self.port}/hooks/path-word?key=query-word"

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of the requests that were taken, in order."""
        return [event for request in self.requests if request.taken for event in request.events]

    def reported(self, *kinds: str) -> list[tuple[str, str]]:
        """Kind and channel of the events of these kinds."""
        return [(event["event"], event.get("channel", "")) for event in self.events if event["event"] in kinds]

    def hold(self) -> None:
        """Answer nothing until `release`."""
        self._go.clear()

    def release(self) -> None:
        """Answer again."""
        self._go.set()

    def start(self) -> Self:
        """Listen."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver._take(self)

            def log_message(self, *_args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Listen no more."""
        self.release()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _take(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            status = self._statuses.pop(0) if self._statuses else 204
        self._go.wait(30)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        with self._lock:
            self._at_once -= 1
            taken = 200 <= status < 300
            self.requests.append(Request(handler.path, headers, body, handler.client_address[1], taken))
        try:
            handler.send_response(status)
            if status in range(300, 400):
                handler.send_header("Location", "/elsewhere")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
        except OSError:
            handler.close_connection = True

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
