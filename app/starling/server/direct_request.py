"""Answers a request for an endpoint of the service without ASGI, and without a task where nothing waits."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import structlog

from starling.engine.direct_request import DirectResponse, Header, StreamResponse, Work

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.server")

# Python 3.11 looks a member of an enumeration up with a function call.
_NO_CONTENT = HTTPStatus.NO_CONTENT

_FAULT = DirectResponse(500, ((b"content-type", b"text/plain; charset=utf-8"),), b"Internal Server Error")


class _NoEvent:
    """Stands where uvicorn keeps the event that an ASGI application waits for."""

    def set(self) -> None:
        """Nothing waits."""


_NO_EVENT = _NoEvent()


def _do_nothing(*_: object) -> None:
    """Stands where a response that has been handed over needs nothing more."""


class DirectCycle:
    """One request and its response, with the members that uvicorn and StarlingHttp use of uvicorn's own cycle."""

    chunked_encoding = False
    message_event = _NO_EVENT

    def __init__(
        self,
        work: Work,
        transport: asyncio.Transport,
        default_headers: Sequence[Header],
        *,
        keep_alive: bool,
        on_response: Callable[[], None],
        open_stream: Callable[[StreamResponse, bytes], None],
    ) -> None:
        """`open_stream` hands the connection to a response that is a stream, with its head."""
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        self.body = bytearray()
        self.more_body = True
        self.work = work
        self._transport = transport
        self._default_headers = default_headers
        self._on_response = on_response
        self._open_stream = open_stream

    def run(self, body: bytes) -> Coroutine[Any, Any, None] | None:
        """Answer the request with this body; what is returned must run in a task, and answers."""
        try:
            waiting = self.work(body, self._respond)
        except Exception:  # noqa: BLE001 - logged there
            self._fail()
            return None
        return None if waiting is None else self._wait(waiting)

    async def _wait(self, waiting: Coroutine[Any, Any, None]) -> None:
        try:
            await waiting
        except Exception:  # noqa: BLE001 - logged there
            self._fail()

    def _fail(self) -> None:
        log.exception("endpoint_failed")
        if not self.response_started:
            self.keep_alive = False
            self._respond(_FAULT)

    def _respond(self, response: DirectResponse | StreamResponse) -> None:
        if self.disconnected or self.response_started:
            return
        self.response_started = True
        if isinstance(response, StreamResponse):
            kept = ((b"connection", b"keep-alive"),) if self.keep_alive else ()
            self._open_stream(response, self._head(HTTPStatus.OK, [*response.headers, *kept]))
            # Endpoints may keep what responds as long as the stream lasts, which must not keep the request.
            self.body, self._open_stream, self._on_response = bytearray(), _do_nothing, _do_nothing
            return
        # RFC 9110 section 8.6: a 204 has no Content-Length.
        length = b"" if response.status == _NO_CONTENT else b"content-length: %d\r\n" % len(response.body)
        self._transport.write(b"%b%b\r\n%b" % (self._head(response.status, response.headers), length, response.body))
        self.response_complete = True
        if not self.keep_alive:
            self._transport.close()
        self._on_response()

    def _head(self, status: int, headers: Sequence[Header]) -> bytes:
        """The status line and the header fields, but for those of the body's length."""
        close = b"" if self.keep_alive else b"connection: close\r\n"
        return _status_line(status) + _lines([*self._default_headers, *headers]) + close


@lru_cache(maxsize=100)
def _status_line(status: int) -> bytes:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()


def _lines(headers: Sequence[Header]) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])
