"""The opening handshake of a WebSocket, and its hand-off from ASGI to the engine.

Members of uvicorn's WebSocketsSansIOProtocol that this module uses, each held by a test in
tests/server/test_uvicorn_members.py, because most are not public:

- attributes `app`, `conn` (websockets' parser), `connections`, `handshake_complete`, `handshake_initiated`,
  `close_sent`, `close_timer`, `disconnected`, `loop`, `response`, `scope`, `transport`;
- methods `data_received`, `receive`, `run_asgi`, `send`, `send_500_response`, `shutdown`.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Any, cast

import structlog
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

from app.server.options import ServerOptions
from app.server.refusal import Refusal
from app.server.transport import Flusher, WebSocketTransport, linger

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.server")

EXTENSION = "starling.websocket"
# A client refused while this process stops comes back within so many seconds, at random.
RETRY_AFTER_SECONDS = (1, 5)
NO_HANDSHAKE = b"This is not a WebSocket handshake (RFC 6455 section 4.2.1).\n"
BAD_REQUEST = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(NO_HANDSHAKE), NO_HANDSHAKE)
)


class StarlingWebSocket(WebSocketsSansIOProtocol):
    """Accepts or refuses one client; the ASGI scope's extension `starling.websocket` takes it over from there.

    Nothing a client sends is read between its request and the hand-off, or the first `receive` of an endpoint that
    keeps to plain ASGI.
    """

    def __init__(
        self,
        config: Any,
        server_state: Any,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        options: ServerOptions,
        on_refused: Callable[[str], None],
        flusher: Flusher,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._options = options
        self._on_refused = on_refused
        self._flusher = flusher
        self._refused = False
        self._reading = False
        self._early = b""
        self._detached = False
        self._endpoint: asyncio.Task[None] | None = None

    def data_received(self, data: bytes) -> None:
        """Take the request, then hold back what follows until someone reads."""
        if self._refused:
            return
        if not self.handshake_initiated:
            self._take_request(data)
        elif self._reading:
            super().data_received(data)
        else:
            self._early += data

    def _take_request(self, request: bytes) -> None:
        super().data_received(request)
        if self.handshake_initiated and self.response.status_code == 101:
            self.transport.pause_reading()
            return
        self._refused = True
        self._on_refused(Refusal.BAD_UPGRADE)
        if not self.handshake_initiated:
            # uvicorn looks at failures of frames only; without this the client would wait for ever.
            answer = b"".join(self.conn.data_to_send())
            self.transport.write(answer or BAD_REQUEST)
            linger(self.transport)
            self._abort_later()

    async def run_asgi(self) -> None:
        """Run the endpoint; a socket it detached outlives it, any other ends with it."""
        self._endpoint = asyncio.current_task()
        socket = WebSocketTransport(
            self.transport,
            self._release,
            loop=self.loop,
            connections=self.connections,  # type: ignore[arg-type]  # uvicorn lists its own classes only
            flusher=self._flusher,
            options=self._options,
            on_refused=self._on_refused,
        )
        extensions = cast("dict[str, object]", self.scope["extensions"])
        extensions[EXTENSION] = socket
        code = 1000
        try:
            await self.app(self.scope, self.receive, self.send)
        except Exception as error:
            if not _tells_of_disconnect(error):
                log.exception("asgi_application_failed", path=self.scope["path"])
            code = 1011
            if self._detached:
                socket.close(1011, "internal server error")
        finally:
            if not self._detached:
                self._end(code)

    def _release(self) -> bytes:
        if not self.handshake_complete or self.close_sent:
            raise RuntimeError("detach was called before accept: only an accepted WebSocket can be handed off")
        self._detached = True
        self.connections.discard(self)
        early, self._early = self._early, b""
        return early

    async def receive(self) -> Any:
        """Give the endpoint the next event, reading from the client from the first message on."""
        if self.handshake_complete and not self._reading:
            self._reading = True
            self.transport.resume_reading()
            if self._early:
                super().data_received(self._early)
        return await super().receive()

    async def send(self, message: Any) -> None:
        """Send what the endpoint says, until it has detached."""
        if self._detached:
            raise RuntimeError("this WebSocket was handed off: write through the handler's transport")
        await super().send(message)

    def _end(self, code: int) -> None:
        """Close what the endpoint left open, by a close frame where that is still possible."""
        if self.disconnected:
            return
        if not self.handshake_complete:
            self.send_500_response()
        elif not self.close_sent and not self.transport.is_closing():
            self._send_close(code)
        if self.close_timer is None:
            self.transport.close()
        self._abort_later()

    def shutdown(self) -> None:
        """Let the client go because this process stops: 1012, or 503 if it has not been accepted yet."""
        if self.transport.is_closing():
            return
        if not self.handshake_complete:
            self._refuse_draining()
        elif not self.close_sent:
            super().shutdown()
        self._abort_later()

    def _refuse_draining(self) -> None:
        if self.handshake_initiated:
            self._on_refused(Refusal.DRAINING)
            response = self.conn.reject(503, "This server is stopping.\n")
            response.headers["Retry-After"] = str(random.randint(*RETRY_AFTER_SECONDS))  # noqa: S311 - spreads load
            self.conn.send_response(response)
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.disconnected = True
            if self._endpoint is not None:
                self._endpoint.cancel()
        self.transport.close()

    def _send_close(self, code: int) -> None:
        try:
            self.conn.send_close(code)
        except InvalidState:  # the client's own close came first
            return
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True

    def _abort_later(self) -> None:
        self.loop.call_later(self._options.close_seconds, self.transport.abort)


def _tells_of_disconnect(error: BaseException | None) -> bool:
    """Whether `error` is, or was raised because of, a client that has left: no fault of the endpoint's."""
    while error is not None and not isinstance(error, ClientDisconnected):
        error = error.__cause__ or error.__context__
    return error is not None
