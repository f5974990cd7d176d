"""An issuer of tokens on loopback: a real HTTP server for its key set, that can be slow, broken or away."""

import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

Answer = Callable[[BaseHTTPRequestHandler], None]


class SigningKey:
    """A key pair of the issuer, ES256."""

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        self.private = ec.generate_private_key(ec.SECP256R1())

    @property
    def jwk(self) -> dict[str, Any]:
        """The public half, as the key set shows it."""
        members = jwt.get_algorithm_by_name("ES256").to_jwk(self.private.public_key(), as_dict=True)
        return {**members, "kid": self.key_id, "use": "sig", "alg": "ES256"}

    def token(self, **claims: Any) -> str:
        """A token signed with this key."""
        return jwt.encode({"sub": "alice", **claims}, self.private, algorithm="ES256", headers={"kid": self.key_id})


class Issuer:
    """Serves `keys`, or whatever `answer` writes. `requests` holds the headers of each request so far."""

    def __init__(self, *keys: SigningKey, tls: ssl.SSLContext | None = None) -> None:
        self.keys = list(keys)
        self.answer: Answer | None = None
        self.requests: list[dict[str, str]] = []
        self.port = 0
        self._tls = tls
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/.well-known/jwks.json"

    def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 30

            def do_GET(self) -> None:
                issuer.requests.append(dict(self.headers))
                if issuer.answer is not None:
                    issuer.answer(self)
                else:
                    send(self, json.dumps({"keys": [key.jwk for key in issuer.keys]}).encode())

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """A client that cut the connection is what some tests are about."""

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        if self._tls is not None:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        """Go away: connections to the port are refused."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(10)
            self._server = self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def send(handler: BaseHTTPRequestHandler, body: bytes, *, status: int = 200, **headers: str) -> None:
    """Answer at once and whole."""
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
