"""The base of endpoints over HTTP that answer on our own server directly, and by ASGI on any other."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from operator import attrgetter
from types import MappingProxyType
from typing import Any

import structlog
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from starling.engine.direct_request import DirectRequest, DirectResponse, RequestEndpoint, Respond, StreamResponse, Work
from starling.engine.upgrade import Header, Upgrade
from starling.protocol import codes
from starling.protocol.codes import Disconnect, Error
from starling.web.accepted_types import accepts
from starling.web.cross_origin import request_of, response_headers
from starling.web.dependencies import FAILED_TOO_OFTEN, FOREIGN_ORIGIN, WebContext
from starling.web.head_requests import IS_HEAD
from starling.web.refusals import error_body
from starling.web.request_id import HEADER as REQUEST_ID
from starling.web.request_id import given_id, new_id

JSON: Header = (b"content-type", b"application/json")
NO_ENDPOINTS: Mapping[str, RequestEndpoint] = MappingProxyType({})


_version = attrgetter("version")


class RequestPaths:
    """What answers requests directly, by path; a path that ends with `/` stands for all paths that begin with it."""

    def __init__(self, endpoints: Mapping[str, RequestEndpoint] = NO_ENDPOINTS) -> None:
        self.max_body_bytes = 0
        self._exact: dict[str, RequestEndpoint] = {}
        self._beginnings: dict[str, RequestEndpoint] = {}
        self.add(endpoints)

    def add(self, endpoints: Mapping[str, RequestEndpoint]) -> None:
        """Have these answer too."""
        self._exact |= endpoints
        self._beginnings |= {path: endpoint for path, endpoint in endpoints.items() if path.endswith("/")}
        self.max_body_bytes = max((endpoint.max_body_bytes for endpoint in self._exact.values()), default=0)

    @property
    def version(self) -> int:
        """The number of changes of all endpoints."""
        # In C: it is asked for with every request.
        return sum(map(_version, self._exact.values()))

    def accept(self, request: DirectRequest) -> Work | None:
        """What answers a request; None where the ASGI application must."""
        if (endpoint := self._exact.get(request.path)) is not None:
            return endpoint.accept(request)
        for beginning, endpoint in self._beginnings.items():
            if request.path.startswith(beginning):
                return endpoint.accept(request)
        return None


class HttpEndpoint(ABC):
    """An endpoint at `path`; subclasses answer a request whose method and size are as they should be."""

    path: str
    methods: Sequence[str]
    version = 0

    def __init__(self, context: WebContext, max_body_bytes: int) -> None:
        self._context = context
        self.max_body_bytes = max_body_bytes

    @abstractmethod
    def answer(self, request: Upgrade, method: str, body: bytes, respond: Respond) -> Coroutine[Any, Any, None] | None:
        """Respond once, now or later, or return what responds; see starling.engine.direct_request.Work."""

    def head(self, request: Upgrade) -> DirectResponse:
        """The response to HEAD, where `methods` has GET."""
        return DirectResponse(HTTPStatus.OK, (), b"")

    def rejection(self, request: Upgrade) -> DirectResponse | None:
        """Why a client may not open a stream, whatever its token; it is counted then. Ask once for each."""
        context, admission = self._context, self._context.engine.admission
        if (rejected := admission.refusal()) is not None:
            context.engine.metrics.refuse(rejected.reason)
            retry = (b"retry-after", b"%d" % rejected.retry_after)
            return refusal(HTTPStatus.SERVICE_UNAVAILABLE, codes.ERROR_NOT_AVAILABLE, rejected.message, retry)
        if context.failed_too_often(request):
            error, retry = codes.ERROR_TOO_MANY_REQUESTS, (b"retry-after", b"60")
            return refusal(HTTPStatus.TOO_MANY_REQUESTS, error, FAILED_TOO_OFTEN, retry)
        if context.is_foreign(request):
            return refusal(HTTPStatus.FORBIDDEN, codes.ERROR_PERMISSION_DENIED, FOREIGN_ORIGIN)
        return None

    def not_acceptable(self, request: Upgrade, content_type: str) -> DirectResponse | None:
        """The response to a client that does not take `content_type`; it is counted and logged."""
        if accepts(request.header(b"accept"), content_type):
            return None
        words = f"the response is {content_type}, which the field Accept leaves out"
        self._context.engine.metrics.refuse("parameters", path=request.path, address=request.address, remedy=words)
        return refusal(HTTPStatus.NOT_ACCEPTABLE, codes.ERROR_BAD_REQUEST, words)

    # On our own server

    def accept(self, request: DirectRequest) -> Work | None:
        """What answers a request without ASGI; None for what is refused by its head."""
        if request.method not in self.methods or self._is_too_large(request.headers):
            return None
        if any(name == b"transfer-encoding" for name, _ in request.headers):
            # Its size is not known before it is read.
            return None
        upgrade = Upgrade(request.query, request.headers, (), request.address, request.path)
        return partial(self._answer_directly, upgrade, request.method)

    def _answer_directly(
        self, request: Upgrade, method: str, body: bytes, respond: Respond
    ) -> Coroutine[Any, Any, None] | None:
        request_id = given_id(request.headers) or new_id()
        added = [*response_headers(self._context, request), (REQUEST_ID, request_id.encode())]

        def respond_with_headers(response: DirectResponse | StreamResponse) -> None:
            respond(response._replace(headers=[*response.headers, *added]))

        if len(body) > self.max_body_bytes:
            # Its head was known from a request before, with a smaller body.
            respond_with_headers(self._too_large(request))
            return None
        # What a context manager does, which costs more than the rest of a small request.
        bound = structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            return self.answer(request, method, body, respond_with_headers)
        finally:
            structlog.contextvars.reset_contextvars(**bound)

    def _is_too_large(self, headers: Sequence[Header]) -> bool:
        length = next((value for name, value in headers if name == b"content-length"), b"0")
        # int() refuses a number of thousands of digits; the server has checked that these are digits.
        return len(length) > 18 or int(length) > self.max_body_bytes

    # On any other

    @property
    def route(self) -> Route:
        """Where an ASGI application finds it."""
        return Route(self.path, self, include_in_schema=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request by ASGI."""
        request = request_of(scope)
        response = await self._response(request, scope, receive)
        if isinstance(response, StreamResponse):
            await self._context.asgi_streams.serve(response, receive, send)
        elif response is not None:
            # The length of a stream is not known; RFC 9110 section 8.6: a 204 has none.
            unknown = response.status == HTTPStatus.NO_CONTENT or (scope.get(IS_HEAD) and not response.body)
            length = [] if unknown else [(b"content-length", b"%d" % len(response.body))]
            headers = [*response.headers, *length]
            await send({"type": "http.response.start", "status": response.status, "headers": headers})
            await send({"type": "http.response.body", "body": response.body})

    async def _response(
        self, request: Upgrade, scope: Scope, receive: Receive
    ) -> DirectResponse | StreamResponse | None:
        """The response; None where the client has left before its request was whole."""
        if scope.get(IS_HEAD) or scope["method"] == "HEAD":
            return self.head(request) if "GET" in self.methods else self._wrong_method()
        if scope["method"] not in self.methods:
            return self._wrong_method()
        body = b"" if self._is_too_large(request.headers) else await self._read_body(receive)
        if body is None:
            return None
        if len(body) > self.max_body_bytes or self._is_too_large(request.headers):
            return self._too_large(request)
        future: asyncio.Future[DirectResponse | StreamResponse] = asyncio.get_running_loop().create_future()
        waiting = self.answer(request, scope["method"], body, future.set_result)
        if waiting is not None:
            await waiting
        return await future

    async def _read_body(self, receive: Receive) -> bytes | None:
        """The body, or a part that is too large already; None where the client has left."""
        body = bytearray()
        while len(body) <= self.max_body_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        return bytes(body)

    def _wrong_method(self) -> DirectResponse:
        allowed = ", ".join([*self.methods, *(["HEAD"] if "GET" in self.methods else []), "OPTIONS"])
        words, allow = f"use {' or '.join(self.methods)}", (b"allow", allowed.encode())
        return refusal(HTTPStatus.METHOD_NOT_ALLOWED, codes.ERROR_BAD_REQUEST, words, allow)

    def _too_large(self, request: Upgrade) -> DirectResponse:
        self._context.engine.metrics.refuse("message_too_large", path=request.path, address=request.address)
        words = f"the request has over {self.max_body_bytes} bytes: see STARLING_MAX_MESSAGE_BYTES"
        return refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, codes.ERROR_LIMIT_EXCEEDED, words)


def refusal(status: HTTPStatus, reason: Error | Disconnect, detail: str, *headers: Header) -> DirectResponse:
    """A refusal in the form of the server API."""
    return DirectResponse(status, [JSON, *headers], error_body(reason, detail))
