"""Requests over HTTP, up to the WebSocket upgrade: a deadline and a size for every head, a deadline for every body.

Members of uvicorn's HttpToolsProtocol that this module uses, each held by a test in
tests/server/test_uvicorn_members.py, because most are not public:

- attributes `app`, `app_state`, `asgi_version`, `client`, `connections`, `cycle`, `expect_100_continue`,
  `flow.pause_reading`, `flow.read_paused`, `flow.write_paused`, `headers`, `loop`, `parser`, `pipeline`, `root_path`,
  `scheme`, `scope`, `server`, `server_state.default_headers`, `server_state.total_requests`, `tasks`,
  `timeout_keep_alive`, `timeout_keep_alive_task`, `transport`, `url`; of a cycle
  `chunked_encoding`, `disconnected`, `keep_alive`, `message_event`, `response_complete`, `response_started`;
- methods `connection_lost`, `connection_made`, `eof_received`, `on_body`, `on_headers_complete`, `on_message_begin`,
  `on_message_complete`, `on_response_complete`, `shutdown`, `timeout_keep_alive_handler`, `_should_upgrade`,
  `_start_asgi_task`, `_unset_keepalive_if_required`, `pause_writing`, `resume_writing`.
"""

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from starling.engine.direct_request import RequestEndpoint, StreamResponse
from starling.engine.peer_address import unmap_forwarded, unmapped
from starling.engine.upgrade import Rejection, Upgrade, UpgradeEndpoint
from starling.server.client_address import client_address
from starling.server.client_socket import DISCARD_BYTES, Flusher, linger
from starling.server.compression import Agreement, Compression
from starling.server.direct_http import DirectHttp
from starling.server.direct_upgrade import open_directly
from starling.server.handshake import BadHandshake, WrongVersion, check_handshake, subprotocols_of
from starling.server.options import ServerOptions
from starling.server.service import Asgi, RejectReason
from starling.server.stream_transport import StreamTransport
from starling.server.target import BadTarget, normal_target
from starling.server.transport import WebSocketTransport
from starling.server.websocket import StarlingWebSocket
from starling.server.websocket_scope import websocket_scope

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.server")


class HeadTooLargeError(Exception):
    """The request's head is over the limits."""


class HandedOverError(Exception):
    """A request came behind one whose response is a stream, on the same connection; it gets no response."""


class StarlingHttp(DirectHttp):
    """One client's connection until it is a WebSocket, or as long as it keeps to HTTP."""

    def __init__(
        self,
        config: Any,
        server_state: Any,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        options: ServerOptions,
        admit: Callable[[], Rejection | None],
        on_refused: Callable[..., None],
        flusher: Flusher,
        compression: Compression | None,
        endpoints: Mapping[str, UpgradeEndpoint],
        requests: RequestEndpoint | None,
    ) -> None:
        """`endpoints`, by path, answer their upgrades without the ASGI application, `requests` those it accepts."""
        super().__init__(config, server_state, app_state, _loop, flusher, requests)
        self._options = options
        self._admit = admit
        self._on_refused = on_refused
        self._compression = compression
        self._endpoints = endpoints
        self._deadline: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._upgrades: bool | None = None
        self._head_too_large = False
        self._bad_target: BadTarget | None = None
        self._body_left = False
        self._refused = False
        self._discarded = 0
        self._handed_over = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Bound the time until the head of a request is here."""
        super().connection_made(transport)
        if self.client is not None:
            self.client = (unmapped(self.client[0]), self.client[1])
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self._end_deadline()
        self._end_cycles()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio has it
        """Answer a client that sends no more, then close: a half-closed connection may still be read.

        Returns True while the answer is under way. A client that ends in the middle of a request cannot be answered,
        and one that ends its side while a response of unknown length is under way has left.
        """
        if self._refused or self._body_left or not self._busy:
            return False
        running = self._running
        if running is not None and running.response_started and running.chunked_encoding and not self.pipeline:
            return False
        self._end_deadline()
        self.cycle.keep_alive = False
        return True

    def _end_cycles(self) -> None:
        # uvicorn marks the last cycle alone: one before it would go on to write to a closed socket.
        for cycle in (self._running, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()

    def data_received(self, data: bytes) -> None:
        """Take a piece of a request."""
        if self._refused:
            self._discarded += len(data)
            if self._discarded > DISCARD_BYTES:
                self.transport.pause_reading()
            return
        at_rest = self._deadline is None and not (self._body_left or self._busy or self.flow.write_paused)
        if at_rest and self._answer_known(data):
            return
        self._unset_keepalive_if_required()
        self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            if self._handed_over:
                return
            if self._head_too_large:
                self._refuse_head()
            elif self._bad_target is not None:
                self._refuse(HTTPStatus.BAD_REQUEST, RejectReason.MALFORMED_REQUEST, f"{self._bad_target}\n")
            else:
                self._refuse(
                    HTTPStatus.BAD_REQUEST, RejectReason.MALFORMED_REQUEST, "This is not an HTTP/1.1 request.\n"
                )
        else:
            if self._handed_over:
                return
            self._check_progress()
            if at_rest:
                self._remember_head(data)

    def _should_upgrade(self) -> bool:
        # Asked three times of one request.
        if self._upgrades is None:
            self._upgrades = super()._should_upgrade()
        return self._upgrades

    def _upgrade(self, early: bytes) -> None:
        # An upgrade to anything else is served as the plain request that it also is.
        if not self._should_upgrade():
            return
        if self._busy:
            # Frames and the response under way would mix. RFC 9110 section 7.8 has no pipelined upgrade.
            text = "Wait for the responses to the requests before, then upgrade.\n"
            self._refuse(HTTPStatus.BAD_REQUEST, RejectReason.BAD_UPGRADE, text)
            return
        if (rejection := self._admit()) is not None:
            headers = f"Retry-After: {rejection.retry_after}\r\n"
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, rejection.reason, f"{rejection.message}\n", headers)
            return
        try:
            key = check_handshake(self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers)
            agreement = self._compression.agree(self.headers) if self._compression is not None else None
        except WrongVersion as problem:
            # RFC 6455 section 4.4 requires the version in the answer, RFC 9110 section 15.5.22 the protocol.
            headers = "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            self._refuse(HTTPStatus.UPGRADE_REQUIRED, RejectReason.BAD_UPGRADE, f"{problem}\n", headers)
            return
        except BadHandshake as problem:
            self._refuse(HTTPStatus.BAD_REQUEST, RejectReason.BAD_UPGRADE, f"{problem}\n")
            return
        endpoint = self._endpoints.get(unquote(self.url.partition(b"?")[0].decode("ascii")))
        if endpoint is not None and not self.root_path:
            self._open_directly(endpoint, key, early, agreement)
            return
        self.give_up_connection()
        websocket = StarlingWebSocket(
            self.transport,
            websocket_scope(self),
            key,
            early,
            app=cast("Asgi", self.app),
            default_headers=self.server_state.default_headers,
            agreement=agreement,
            **self._shared,
        )
        # The parser and this object refer to each other: nothing else would break the cycle.
        self.parser = None  # type: ignore[assignment]  # as uvicorn does at the end of a connection
        websocket.begin(self.loop, self.tasks)

    def _open_directly(self, endpoint: UpgradeEndpoint, key: bytes, early: bytes, agreement: Agreement | None) -> None:
        """Let an endpoint of the service itself answer the upgrade, without ASGI."""
        address, subprotocols = client_address(self.app, self.client, self.headers), subprotocols_of(self.headers)
        upgrade = Upgrade(self.url.partition(b"?")[2], self.headers, subprotocols, address, self._path)
        deflater = agreement.deflater if agreement is not None else None
        transport = WebSocketTransport(self.transport, lambda: early, deflater=deflater, **self._shared)
        agreed = (agreement.header,) if agreement is not None else ()
        headers = [*agreed, *self.server_state.default_headers]
        if open_directly(endpoint, upgrade, self.transport, transport, key=key, headers=headers):
            self.give_up_connection()
            self.parser = None  # type: ignore[assignment]  # see `_upgrade`
        else:
            self._refused = True
            self._deadline = self.loop.call_later(self._options.close_seconds, self.transport.abort)

    def _check_progress(self) -> None:
        if self._body_left:
            if self._deadline is None:
                self._await_body()
        elif self._deadline is not None:
            if self._head_bytes > self._options.max_head_bytes:
                self._refuse_head()
        elif not self._busy and not self.transport.is_closing() and self.timeout_keep_alive_task is None:
            # Line ends between requests end uvicorn's own keep-alive timer, but are no request.
            self._await_head()

    def on_message_begin(self) -> None:
        """Begin a request. Raises HandedOverError where the response before it is a stream, which takes all."""
        if self._handed_over:
            raise HandedOverError
        super().on_message_begin()
        # The request before may have been answered while the same piece of data was read.
        self._unset_keepalive_if_required()
        self._upgrades = None
        if self._deadline is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        """Begin to serve the request, if its head is within the limits."""
        self._end_deadline()
        size = len(self.url) + sum([len(name) + len(value) + 4 for name, value in self.headers])
        if size > self._options.max_head_bytes or len(self.headers) > self._options.max_header_fields:
            self._head_too_large = True
            raise HeadTooLargeError
        try:
            self.url = normal_target(self.parser.get_http_version(), self.url, self.headers)
        except BadTarget as problem:
            self._bad_target = problem
            raise
        unmap_forwarded(self.headers)
        self._body_left = True
        if self._requests is None or not self._begin_directly(self._requests):
            super().on_headers_complete()
        if not self.pipeline:
            self._running = self.cycle

    def _open_stream(self, chunked: bool, response: StreamResponse, head: bytes) -> None:
        self._handed_over = True
        self._unset_keepalive_if_required()
        self.give_up_connection()
        self.pipeline.clear()
        StreamTransport(self.transport, chunked=chunked, **self._shared).detach(response, head)
        # The parser may have called. It and the cycle refer to this object: nothing else would break these cycles.
        self.loop.call_soon(self._forget)

    def _forget(self) -> None:
        self.parser = self.cycle = self._running = None  # type: ignore[assignment]  # as uvicorn does at the end of a connection

    @property
    def _shared(self) -> dict[str, Any]:
        """What every object is made with that takes this connection over."""
        return {
            "loop": self.loop,
            "connections": self.connections,
            "flusher": self._flusher,
            "options": self._options,
            "on_refused": self._on_refused,
        }

    def on_message_complete(self) -> None:
        """Take the end of a request's body."""
        self._body_left = False
        self._end_deadline()
        super().on_message_complete()

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._deadline = self.loop.call_later(self._options.handshake_seconds, self._give_up_head)

    def _await_body(self) -> None:
        self._deadline = self.loop.call_later(self._options.body_seconds, self._give_up_body)

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up_head(self) -> None:
        self._deadline = None
        self._on_refused(RejectReason.HANDSHAKE_TIMEOUT, address=self._address)
        self.transport.abort()

    def _give_up_body(self) -> None:
        if self.flow.read_paused:  # the client is not to blame: what it sent waits for the application
            self._await_body()
            return
        cycle: RequestResponseCycle = self.cycle
        if cycle.response_started or self.pipeline:
            self._on_refused(RejectReason.BODY_TIMEOUT, address=self._address, path=self._path)
            self._end_cycles()
            self.transport.abort()
            return
        cycle.disconnected = True
        cycle.message_event.set()
        text = f"The request's body did not come within {self._options.body_seconds:g} s.\n"
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, RejectReason.BODY_TIMEOUT, text)

    def _refuse_head(self) -> None:
        limits = self._options
        self._refuse(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            RejectReason.HEAD_TOO_LARGE,
            f"The request's head may have {limits.max_head_bytes} bytes in {limits.max_header_fields} fields.\n",
        )

    @property
    def _address(self) -> str:
        """The peer's address for the log."""
        return self.client[0] if self.client else ""

    @property
    def _path(self) -> str:
        """The path for the log, without its query; empty where the head was not read so far."""
        target: bytes = getattr(self, "url", None) or b""
        return target.partition(b"?")[0].decode("latin-1")

    def _refuse(self, status: HTTPStatus, refusal: str, text: str, headers: str = "") -> None:
        self._refused = True
        self._end_deadline()
        self._on_refused(refusal, address=self._address, path=self._path, status=status.value)
        if self._busy and not self.cycle.disconnected:  # an answer would be taken for a part of the one under way
            self._end_cycles()
            self.transport.abort()
            return
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
            f"{headers}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(text)}\r\n\r\n"
        )
        self.transport.write((head + text).encode())
        linger(self.transport)
        self._deadline = self.loop.call_later(self._options.close_seconds, self.transport.abort)
