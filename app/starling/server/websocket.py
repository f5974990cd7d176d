"""A WebSocket from its request to its hand-off from ASGI to the engine.

The request was parsed once, by httptools: see server/http.py. What is used of uvicorn here: the application that it
has configured, the sets of connections and tasks that its server waits for, and ClientDisconnected.
"""

import asyncio
import random
from collections.abc import Callable, MutableMapping
from enum import Enum
from typing import Any, cast

import structlog
from uvicorn.protocols.utils import ClientDisconnected

from starling.engine.tasks import ends_this_task
from starling.engine.transport import EXTENSION, VANISHED
from starling.server.client_socket import Flusher
from starling.server.compression import Agreement
from starling.server.handshake import Header, accept_response, refuse_response
from starling.server.options import ServerOptions
from starling.server.plain import WRITE_LIMIT, PlainConversation
from starling.server.service import Asgi, RejectReason
from starling.server.transport import READ_BYTES, WebSocketTransport

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.server")

# A client refused while this process stops retries after a random delay between these. Seconds.
RETRY_AFTER_SECONDS = (1, 5)


class Phase(Enum):
    """How far the handshake is."""

    ASKED = "asked"
    REFUSING = "refusing"
    ACCEPTED = "accepted"
    DETACHED = "detached"
    OVER = "over"


class StarlingWebSocket(asyncio.Protocol):
    """Accepts or refuses one client; the ASGI scope's extension `starling.websocket` takes it over from there.

    Bytes that arrive between the request and the hand-off, or the first `receive` of an endpoint of plain ASGI, are
    kept for the reader that follows.
    """

    __slots__ = (
        "_agreement",
        "_app",
        "_connect_sent",
        "_connections",
        "_conversation",
        "_early",
        "_endpoint",
        "_headers",
        "_key",
        "_lost",
        "_on_refused",
        "_options",
        "_phase",
        "_refusal",
        "_scope",
        "_socket",
        "_transport",
    )

    def __init__(
        self,
        socket: asyncio.Transport,
        scope: MutableMapping[str, Any],
        key: bytes,
        early: bytes,
        *,
        app: Asgi,
        default_headers: list[Header],
        connections: set[object],
        loop: asyncio.AbstractEventLoop,
        options: ServerOptions,
        on_refused: Callable[..., None],
        flusher: Flusher,
        agreement: Agreement | None,
    ) -> None:
        """`early` came behind the request already. What `agreement` says is answered when the client is accepted."""
        self._socket = socket
        self._scope = scope
        self._key = key
        self._early = early
        self._app = app
        self._headers = default_headers
        self._agreement = agreement
        self._connections = connections
        self._options = options
        self._on_refused = on_refused
        self._phase = Phase.ASKED
        self._connect_sent = False
        self._lost: asyncio.Event | None = None
        self._refusal: tuple[int, list[Header], bytes] = (403, [], b"")
        self._conversation: PlainConversation | None = None
        self._endpoint: asyncio.Task[None] | None = None
        self._transport = WebSocketTransport(
            socket,
            self._release,
            loop=loop,
            connections=connections,
            flusher=flusher,
            options=options,
            on_refused=on_refused,
            deflater=agreement.deflater if agreement is not None else None,
        )

    def begin(self, loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[None]]) -> None:
        """Take the socket over from HTTP, and run the endpoint in one of `tasks`."""
        self._connections.add(self)
        self._socket.set_protocol(self)
        self._endpoint = loop.create_task(self._run())
        tasks.add(self._endpoint)
        self._endpoint.add_done_callback(tasks.discard)

    # Events of the socket

    def data_received(self, data: bytes) -> None:
        """Keep bytes that arrive before a reader is attached."""
        self._early += data
        if len(self._early) > READ_BYTES:
            self._socket.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone before the hand-off."""
        self._connections.discard(self)
        self._phase = Phase.OVER
        if self._lost is not None:
            self._lost.set()

    # The endpoint

    async def _run(self) -> None:
        """Run the endpoint; a socket it detached outlives it, any other ends with it."""
        extensions = cast("dict[str, object]", self._scope["extensions"])
        extensions[EXTENSION] = self._transport
        code = 1000
        try:
            await self._app(self._scope, self._receive, self._send)
        # An exit, too, is a fault of this endpoint alone.
        except BaseException as error:
            if ends_this_task(error):
                raise
            if not _caused_by_disconnect(error):
                log.exception("asgi_application_failed", path=self._scope["path"])
            code = 1011
            if self._phase is Phase.DETACHED:
                self._transport.close(1011, "internal server error")
        finally:
            self._endpoint = None
            self._end(code)

    async def _receive(self) -> MutableMapping[str, Any]:
        if not self._connect_sent:
            self._connect_sent = True
            return {"type": "websocket.connect"}
        if self._phase is Phase.ACCEPTED:
            self._conversation = PlainConversation(self._transport)
            self._transport.detach(self._conversation, write_limit=WRITE_LIMIT)
        if self._conversation is not None:
            return await self._conversation.receive()
        if self._phase is not Phase.OVER:
            self._lost = asyncio.Event()
            await self._lost.wait()
        return {"type": "websocket.disconnect", "code": VANISHED}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        kind = message["type"]
        if self._phase is Phase.ACCEPTED:
            self._conversation = PlainConversation(self._transport)
            self._transport.detach(self._conversation, write_limit=WRITE_LIMIT)
        if self._conversation is not None:
            self._conversation.send(message)
        elif self._phase is Phase.DETACHED:
            raise RuntimeError("this WebSocket was handed off: write through the handler's transport")
        elif self._phase is Phase.OVER or self._socket.is_closing():
            raise ClientDisconnected
        elif kind == "websocket.accept" and self._phase is Phase.ASKED:
            agreed = (self._agreement.header,) if self._agreement is not None else ()
            headers = [*agreed, *self._headers, *message.get("headers", ())]
            self._socket.write(accept_response(self._key, message.get("subprotocol"), headers))
            self._phase = Phase.ACCEPTED
        elif kind == "websocket.close" and self._phase is Phase.ASKED:
            self._refuse(403, [])
        elif kind == "websocket.http.response.start" and self._phase is Phase.ASKED:
            self._phase = Phase.REFUSING
            self._refusal = (message["status"], list(message.get("headers", ())), b"")
        elif kind == "websocket.http.response.body" and self._phase is Phase.REFUSING:
            status, headers, body = self._refusal
            self._refusal = (status, headers, body + message.get("body", b""))
            if not message.get("more_body", False):
                self._refuse(*self._refusal)
        else:
            raise RuntimeError(f"{kind!r} does not follow here")

    def _release(self) -> bytes:
        if self._phase is not Phase.ACCEPTED:
            raise RuntimeError("detach was called before accept: only an accepted WebSocket can be handed off")
        self._phase = Phase.DETACHED
        self._connections.discard(self)
        early, self._early = self._early, b""
        return early

    # Ends

    def _end(self, code: int) -> None:
        """Close what the endpoint left open, by a close frame where that is still possible."""
        if self._phase in {Phase.ASKED, Phase.REFUSING}:
            self._refuse(500, [], b"Internal Server Error")
        elif self._phase is Phase.ACCEPTED:
            self._conversation = PlainConversation(self._transport)
            self._transport.detach(self._conversation, write_limit=WRITE_LIMIT)
        if self._conversation is not None:
            self._transport.close(code)

    def shutdown(self) -> None:
        """Close because this process stops: with 1012, or 503 if the client has not been accepted yet."""
        if self._phase is Phase.ACCEPTED:
            self._end(1012)
        elif self._phase in {Phase.ASKED, Phase.REFUSING}:
            self._on_refused(RejectReason.DRAINING, path=self._scope["path"])
            wait = random.randint(*RETRY_AFTER_SECONDS)  # noqa: S311 - spreads load
            self._refuse(503, [(b"Retry-After", b"%d" % wait)], b"This server is stopping.\n")
            if self._endpoint is not None:
                self._endpoint.cancel()

    def _refuse(self, status: int, headers: list[Header], body: bytes = b"") -> None:
        self._phase = Phase.OVER
        if not self._socket.is_closing():
            self._socket.write(refuse_response(status, [*self._headers, *headers], body))
            self._socket.close()
        self._transport.abort_later()


def _caused_by_disconnect(error: BaseException | None) -> bool:
    """Whether `error` is, or was raised because of, a client that has left: no fault of the endpoint's."""
    while error is not None and not isinstance(error, ClientDisconnected):
        error = error.__cause__ or error.__context__
    return error is not None
