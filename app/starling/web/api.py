"""`POST /api/METHOD`: the server API of backends. Guarded by keys and networks; JSON in, JSON out.

Plain ASGI below FastAPI's routing: requests are decoded straight into structs, and published data passes without being
parsed. starling.web.api_docs describes the methods to OpenAPI.
"""

import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from starling.engine.broker import StoredPositions
from starling.engine.direct_request import DirectRequest, DirectResponse, Respond, Work
from starling.protocol import codes
from starling.protocol.codes import Error
from starling.protocol.json_nulls import NULL
from starling.telemetry.metrics import Metrics
from starling.telemetry.tracing import Tracer
from starling.variables import variable
from starling.web.api_batch import named_result, read_command, run_batch
from starling.web.api_batch_models import BatchCommand, BatchFrame, EnvelopeCommand
from starling.web.api_batch_publishing import Published, published_replies
from starling.web.api_capture import CaptureEndpoint
from starling.web.api_errors import Unavailable, invalid
from starling.web.api_guard import ApiGuard, header_of
from starling.web.api_members import read_plain_batch, read_request
from starling.web.api_methods import ApiMethods
from starling.web.api_models import BATCH_COMMANDS, CaptureBody
from starling.web.api_results import Answer
from starling.web.options import ApiOptions
from starling.web.request_id import HEADER as REQUEST_ID
from starling.web.request_id import given_id, new_id

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.api")

# RFC 9110 sections 11.6.1 and 15.5.6 ask for these.
_HEADERS = {
    HTTPStatus.UNAUTHORIZED: [(b"www-authenticate", b"apikey")],
    HTTPStatus.METHOD_NOT_ALLOWED: [(b"allow", b"POST")],
}
# More digits than any size of a body that could be allowed.
_LENGTH_DIGITS = 18
_BROKEN_OFF = Error(codes.ERROR_BAD_REQUEST.code, "bad request: the body breaks off")
# Python 3.11 looks a member of an enumeration up with a function call.
_OK = HTTPStatus.OK

# Name in metrics of requests to `/api`, whose commands name their method.
ENVELOPE = "(envelope)"

Begin = Callable[[Any, Callable[[Answer | Error], None]], bool]

PREFIX = "/api/"
"""How the paths of all methods begin."""
_JSON = (b"content-type", b"application/json")

_encode = msgspec.json.Encoder().encode
_decode_batch = msgspec.json.Decoder(BatchFrame).decode
_decode_envelope = msgspec.json.Decoder(EnvelopeCommand).decode
_decode_capture = msgspec.json.Decoder(CaptureBody).decode


class _BodyError(Exception):
    """A body that cannot be read, and how that is answered."""

    def __init__(self, status: HTTPStatus, error: Error) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error


class Api:
    """The ASGI application of `/api/{method}`."""

    def __init__(
        self,
        methods: ApiMethods,
        capture: CaptureEndpoint,
        options: ApiOptions,
        metrics: Metrics,
        tracer: Tracer,
        guard: ApiGuard,
    ) -> None:
        self._methods = methods
        # Methods that need no task where nothing waits; False where something does.
        self._begins: Mapping[str, Callable[[bytes, Callable[[HTTPStatus, bytes], None]], bool]] = {
            "publish": partial(self._begin, "publish", methods.publishing.begin),
            "broadcast": partial(self._begin, "broadcast", methods.publishing.begin_broadcast),
            "stream_append": partial(self._begin, "stream_append", methods.begin_append),
            "batch": self._begin_batch,
        }
        self._known = frozenset({*methods.by_name, "batch", "capture"})
        self._tracer = tracer
        self._capture = capture
        self.guard = guard
        self.max_body_bytes = options.api_max_body_bytes
        self.version = 0
        limit, setting = options.api_max_body_bytes, variable("api_max_body_bytes")
        self._too_large = Error(
            codes.ERROR_LIMIT_EXCEEDED.code, f"limit exceeded: the body has over {limit} bytes, see {setting}"
        )
        self._metrics = metrics

    def replace_keys(self, keys: Sequence[str]) -> None:
        """Let these keys open the API from now on."""
        self.guard.replace_keys(keys)
        self.version += 1

    @property
    def routes(self) -> list[Route]:
        """Where it is found; `/api` alone takes commands that name their method."""
        return [
            Route("/api/{method:path}", self, include_in_schema=False),
            Route("/api", self, include_in_schema=False),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        name: str = scope["path_params"].get("method", ENVELOPE)
        refusal = self._refusal(name, scope)
        if refusal is not None:
            status, error = refusal
            known = name if name in self._known else "unknown"
            self._metrics.count_api(known, status, 0.0)
            _, _, remedy = error.message.partition(": ")
            self._metrics.refusal_log.write_as(
                "api_request_refused",
                f"api_{status.value}",
                reason=status.phrase.lower().replace(" ", "_"),
                status=status.value,
                method=known,
                address=scope["client"][0] if scope.get("client") else "",
                remedy=remedy,
            )
            await _send(send, status, _encode({"error": error}), _HEADERS.get(status, ()))
            return
        try:
            body = await self._read_body(receive)
        except _BodyError as failed:
            self._metrics.count_api(name, failed.status, 0.0)
            await _send(send, failed.status, _encode({"error": failed.error}))
            return
        if name == "capture":
            await self._answer_capture(body, scope, receive, send)
        elif self._tracer.on:
            with self._tracer.received(header_of(scope, b"traceparent"), header_of(scope, b"tracestate")):
                await _send(send, *await self._answer(name, body))
        else:
            await _send(send, *await self._answer(name, body))

    def accept(self, request: DirectRequest) -> Work | None:
        """What answers a request without ASGI; None where that must do it: what is refused, streamed or traced.

        Implements starling.engine.direct_request.RequestEndpoint.
        """
        beginning, _, name = request.path.partition(PREFIX)
        if beginning or not name or name == "capture" or self._tracer.on:
            return None
        # A body whose length is not known before it is read.
        if any(header == b"transfer-encoding" for header, _ in request.headers):
            return None
        scope = {
            "method": request.method,
            "headers": request.headers,
            "client": (request.address, 0),
            "path_params": {"method": name},
        }
        if self._refusal(name, scope) is not None:
            return None
        return partial(self._answer_directly, name, given_id(request.headers))

    def _answer_directly(
        self, name: str, given: str, body: bytes, respond: Respond
    ) -> Coroutine[Any, Any, None] | None:
        request_id = given or new_id()
        headers = (_JSON, (REQUEST_ID, request_id.encode()))

        def send(status: HTTPStatus, content: bytes) -> None:
            respond(DirectResponse(status, headers, content))

        if (begin := self._begins.get(name)) is not None:
            # As `bound_contextvars` does, without looking at all other variables.
            tokens = structlog.contextvars.bind_contextvars(request_id=request_id)
            try:
                if begin(body, send):
                    return None
            finally:
                structlog.contextvars.reset_contextvars(**tokens)

        async def answer() -> None:
            with structlog.contextvars.bound_contextvars(request_id=request_id):
                send(*await self._answer(name, body))

        return answer()

    def _begin(self, name: str, begin: Begin, body: bytes, send: Callable[[HTTPStatus, bytes], None]) -> bool:
        """Run a method without a task; False where it may have to wait."""
        method = self._methods.by_name[name]
        try:
            request = read_request(body or b"{}", method.decode, method.request)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            send(*self._bad_request(name, error))
            return True
        return begin(request, lambda outcome: send(*_answer_of(outcome)))

    def _begin_batch(self, body: bytes, send: Callable[[HTTPStatus, bytes], None]) -> bool:
        """Do a batch of plain publications without a task; False where it is another batch, or must wait."""
        started = time.perf_counter()
        requests = read_plain_batch(body)
        if requests is None:
            return False

        def finish(found: Published) -> None:
            self._metrics.count_api("batch", 0, time.perf_counter() - started)
            stored = isinstance(found, StoredPositions)
            away = bool(found) and not stored and all(isinstance(each, Unavailable) for each in found)
            status = HTTPStatus.SERVICE_UNAVAILABLE if away else HTTPStatus.OK
            send(status, _encode({"replies": published_replies(found)}))

        return self._methods.batches.begin_plain(requests, finish)

    async def _answer(self, name: str, body: bytes) -> tuple[HTTPStatus, bytes]:
        if name == "batch":
            return await self._answer_batch(body)
        if name == ENVELOPE:
            return await self._answer_envelope(body)
        method = self._methods.by_name[name]
        try:
            request = read_request(body or b"{}", method.decode, method.request)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            return self._bad_request(name, error)
        return _answer_of(await self._methods.call(name, request))

    async def _answer_batch(self, body: bytes) -> tuple[HTTPStatus, bytes]:
        started = time.perf_counter()
        try:
            request = read_request(body or b"{}", _decode_batch, BatchFrame)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            return self._bad_request("batch", error)
        replies = await run_batch(self._methods, [*map(read_command, request.commands)], parallel=request.parallel)
        self._metrics.count_api("batch", 0, time.perf_counter() - started)
        away = bool(replies) and all(isinstance(reply.get("error"), Unavailable) for reply in replies)
        return HTTPStatus.SERVICE_UNAVAILABLE if away else HTTPStatus.OK, _encode({"replies": replies})

    async def _answer_envelope(self, body: bytes) -> tuple[HTTPStatus, bytes]:
        """Answer commands in the form that clients of older servers send: an object a line, each with its reply."""
        started = time.perf_counter()
        lines = [line for line in body.split(b"\n") if line.strip()]
        if not 0 < len(lines) <= BATCH_COMMANDS:
            problem = msgspec.ValidationError(f"send 1 to {BATCH_COMMANDS} commands, an object a line: method, params")
            return self._bad_request(ENVELOPE, problem)
        commands = [self._read_envelope(line) for line in lines]
        replies = await run_batch(self._methods, [command for _, command in commands], parallel=False)
        self._metrics.count_api(ENVELOPE, 0, time.perf_counter() - started)
        away = all(isinstance(reply.get("error"), Unavailable) for reply in replies)
        answers = (
            _encode({**({"id": number} if number else {}), **named_result(reply)})
            for (number, _), reply in zip(commands, replies, strict=True)
        )
        return HTTPStatus.SERVICE_UNAVAILABLE if away else HTTPStatus.OK, b"\n".join(answers)

    def _read_envelope(self, line: bytes) -> tuple[int, BatchCommand | Error]:
        try:
            envelope = read_request(line, _decode_envelope, EnvelopeCommand)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            return 0, invalid(error)
        method = self._methods.by_name.get(envelope.method)
        if method is None:
            return envelope.id, Error(codes.ERROR_METHOD_NOT_FOUND.code, f"method not found: {self._methods_in_words}")
        try:
            params = bytes(envelope.params)
            request = read_request(b"{}" if params in (b"", NULL) else params, method.decode, method.request)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            return envelope.id, invalid(error)
        command = BatchCommand()
        setattr(command, envelope.method, request)
        return envelope.id, command

    @property
    def _methods_in_words(self) -> str:
        return f"the methods are {', '.join(sorted(self._methods.by_name))}"

    async def _answer_capture(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            request = read_request(body or b"{}", _decode_capture, CaptureBody)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            await _send(send, *self._bad_request("capture", error))
            return
        address = scope["client"][0] if scope.get("client") else ""
        refused = await self._capture.answer(request, address, self.guard.key_number(scope), receive, send)
        self._metrics.count_api("capture", refused.code if refused is not None else 0, 0.0)
        if refused is not None:
            away = isinstance(refused, Unavailable)
            await _send(send, HTTPStatus.SERVICE_UNAVAILABLE if away else HTTPStatus.OK, _encode({"error": refused}))

    def _bad_request(self, name: str, problem: Exception) -> tuple[HTTPStatus, bytes]:
        self._metrics.count_api(name, codes.ERROR_BAD_REQUEST.code, 0.0)
        return HTTPStatus.OK, _encode({"error": invalid(problem)})

    # Before the body is read

    def _refusal(self, name: str, scope: Mapping[str, Any]) -> tuple[HTTPStatus, Error] | None:
        if (refused := self.guard.refusal(scope)) is not None:
            return refused
        if name not in self._known and "method" in scope["path_params"]:
            known = ", ".join(sorted(self._known))
            return HTTPStatus.NOT_FOUND, Error(
                codes.ERROR_METHOD_NOT_FOUND.code, f"method not found: the methods are {known}"
            )
        if scope["method"] != "POST":
            return HTTPStatus.METHOD_NOT_ALLOWED, Error(codes.ERROR_BAD_REQUEST.code, "bad request: use POST")
        length = next((value for header, value in scope["headers"] if header == b"content-length"), b"")
        digits = length.lstrip(b"0")
        # int() refuses a number of thousands of digits.
        if digits.isdigit() and (len(digits) > _LENGTH_DIGITS or int(digits) > self.max_body_bytes):
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._too_large
        return None

    async def _read_body(self, receive: Receive) -> bytes:
        """The whole body; the server bounds its time. Raises _BodyError."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _BodyError(HTTPStatus.BAD_REQUEST, _BROKEN_OFF)
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > self.max_body_bytes:
                raise _BodyError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._too_large)
            if not message.get("more_body", False):
                return b"".join([*parts, part]) if parts else part
            parts.append(part)


def _answer_of(outcome: Answer | Error) -> tuple[HTTPStatus, bytes]:
    if not isinstance(outcome, Error):
        return _OK, b'{"result":%b}' % _encode(outcome)
    status = HTTPStatus.OK
    if outcome.code == codes.ERROR_INTERNAL.code:
        away = isinstance(outcome, Unavailable)
        status = HTTPStatus.SERVICE_UNAVAILABLE if away else HTTPStatus.INTERNAL_SERVER_ERROR
    return status, _encode({"error": outcome})


async def _send(send: Send, status: HTTPStatus, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    length = b"%d" % len(body)
    lines = [_JSON, (b"content-length", length), *headers]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})
