"""`POST /emulation`: the commands of clients whose replies come in a stream, for whatever worker of whatever pod.

The body names the session, its node, and the commands: in JSON their text, in Protobuf their messages.
"""

from collections.abc import Coroutine, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from google.protobuf.message import DecodeError
from msgspec import Struct

from starling.client.emulation import EmulatedSessions, Forwarding
from starling.engine.direct_request import DirectResponse, Respond
from starling.engine.upgrade import Upgrade
from starling.protocol import client_pb2, codes
from starling.protocol.codes import Error
from starling.web.api_errors import describe
from starling.web.dependencies import FOREIGN_ORIGIN, WebContext
from starling.web.http_endpoint import HttpEndpoint, refusal
from starling.web.http_stream import PROTOBUF

# In a string of JSON each quote and backslash of the commands has two bytes; and what stands around the string.
_ENVELOPE_BYTES = 4096


class EmulatedRequest(Struct):
    """Commands of one session."""

    session: str
    data: str
    node: str = ""


_decode = msgspec.json.Decoder(EmulatedRequest).decode

_REFUSALS: dict[Forwarding, tuple[HTTPStatus, Error, str]] = {
    Forwarding.GONE: (HTTPStatus.NOT_FOUND, codes.ERROR_UNAUTHORIZED, "there is no such session: connect again"),
    Forwarding.MALFORMED: (
        HTTPStatus.BAD_REQUEST,
        codes.ERROR_BAD_REQUEST,
        "data: no commands in the session's format",
    ),
    Forwarding.TOO_LARGE: (
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        codes.ERROR_LIMIT_EXCEEDED,
        "data: the broker does not carry so much between two nodes",
    ),
    Forwarding.BUSY: (HTTPStatus.TOO_MANY_REQUESTS, codes.ERROR_TOO_MANY_REQUESTS, "too much of this session waits"),
    Forwarding.FLOOD: (
        HTTPStatus.TOO_MANY_REQUESTS,
        codes.ERROR_TOO_MANY_REQUESTS,
        "this address sends commands of too many sessions that do not exist: connect again, and wait a second",
    ),
    Forwarding.UNAVAILABLE: (
        HTTPStatus.SERVICE_UNAVAILABLE,
        codes.ERROR_NOT_AVAILABLE,
        "the session is on another node, which cannot be asked now",
    ),
}


class EmulationEndpoint(HttpEndpoint):
    """Gives commands to the session that they are for; the response is empty, and the replies come in its stream."""

    path = "/emulation"
    methods: Sequence[str] = ("POST",)

    def __init__(self, context: WebContext, sessions: EmulatedSessions, max_message_bytes: int) -> None:
        super().__init__(context, 2 * max_message_bytes + _ENVELOPE_BYTES)
        self._sessions = sessions
        self._max_message_bytes = max_message_bytes

    def answer(self, request: Upgrade, method: str, body: bytes, respond: Respond) -> Coroutine[Any, Any, None] | None:
        """Deliver the commands at once where their session is of this process; else ask its node."""
        if self._context.is_foreign(request):
            respond(refusal(HTTPStatus.FORBIDDEN, codes.ERROR_PERMISSION_DENIED, FOREIGN_ORIGIN))
            return None
        try:
            node, session, data = _read(request, body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError, DecodeError) as error:
            words = "the body is no EmulationRequest" if isinstance(error, DecodeError) else describe(error)
            self._count(request, Forwarding.MALFORMED, detail=words)
            respond(refusal(HTTPStatus.BAD_REQUEST, codes.ERROR_BAD_REQUEST, words))
            return None
        if len(data) > self._max_message_bytes:
            respond(self._too_large(request))
        elif self._sessions.is_here(node):
            respond(self._outcome(request, self._sessions.deliver(session, data)))
        else:
            return self._forward(request, node, session, data, respond)
        return None

    async def _forward(self, request: Upgrade, node: str, session: str, data: str | bytes, respond: Respond) -> None:
        respond(self._outcome(request, await self._sessions.forward(node, session, data, request.address)))

    def _outcome(self, request: Upgrade, outcome: Forwarding) -> DirectResponse:
        if outcome is Forwarding.TAKEN:
            return DirectResponse(HTTPStatus.NO_CONTENT, (), b"")
        self._count(request, outcome)
        status, error, words = _REFUSALS[outcome]
        return refusal(status, error, words)

    def _count(self, request: Upgrade, outcome: Forwarding, detail: str = "") -> None:
        """Count and log commands that are refused."""
        reason = "message_too_large" if outcome is Forwarding.TOO_LARGE else f"emulation_{outcome.value}"
        seen = {"detail": detail} if detail else {}
        self._context.engine.metrics.refuse(reason, path=request.path, address=request.address, **seen)


def _read(request: Upgrade, body: bytes) -> tuple[str, str, str | bytes]:
    """Node, session and commands. Raises MsgspecError, UnicodeError or DecodeError."""
    if (request.header(b"content-type") or "").partition(";")[0].strip().lower() == PROTOBUF:
        message = client_pb2.EmulationRequest.FromString(body)
        return message.node, message.session, message.data
    envelope = _decode(body)
    return envelope.node, envelope.session, envelope.data
