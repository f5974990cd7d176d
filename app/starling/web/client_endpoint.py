"""`WS /connection/websocket`: the client endpoint, which speaks the client protocol in JSON or Protobuf."""

from http import HTTPStatus

from msgspec import json
from starlette.responses import Response
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from starling.auth.handshake import select_subprotocol
from starling.client.client_connection import ClientConnection, JsonConnection, ProtobufConnection
from starling.engine.upgrade import Accepted, Denied, Rejection, Upgrade
from starling.web.dependencies import (
    FAILED_TOO_OFTEN,
    FOREIGN_ORIGIN,
    WebContext,
    keeps_requests,
    own_socket,
    upgrade_of,
)
from starling.web.handoff import converse
from starling.web.request_id import given_id

PATH = "/connection/websocket"
SUBPROTOCOLS = {"centrifuge-json": JsonConnection, "centrifuge-protobuf": ProtobufConnection}


class ClientEndpoint:
    """The endpoint as one function of the handshake: the server calls it, and so does the route of an ASGI server."""

    path = PATH

    def __init__(self, context: WebContext) -> None:
        self._context = context

    def __call__(self, upgrade: Upgrade) -> Accepted | Denied:
        """Accept a client, unless its page is foreign.

        Browsers cannot read why an upgrade was refused, so a token is refused later: in the answer to `connect`.
        """
        request_id = given_id(upgrade.headers)
        if self._context.failed_too_often(upgrade):
            retry = (b"retry-after", b"60")
            return denied(HTTPStatus.TOO_MANY_REQUESTS, FAILED_TOO_OFTEN, retry, request_id=request_id)
        if self._context.is_foreign(upgrade):
            return denied(HTTPStatus.FORBIDDEN, FOREIGN_ORIGIN, request_id=request_id)
        opened = self.open(upgrade)
        if isinstance(opened, Denied):
            return opened._replace(request_id=request_id)
        client, subprotocol = opened
        if keeps_requests(self._context.engine.hooks):
            client.request = self._context.request_for_hooks(upgrade)
        return Accepted(client, subprotocol, self._context.options.write_buffer_bytes, request_id)

    def open(self, upgrade: Upgrade) -> tuple[ClientConnection, str | None] | Denied:
        """The connection of a client, and the subprotocol that the upgrade answers."""
        kind, subprotocol = choose_format(upgrade)
        return kind(self._context.dispatcher, self._context.handshake(upgrade)), subprotocol

    def rejected(self, rejection: Rejection) -> Denied:
        """The answer to a client that admission rejects; it is counted here."""
        self._context.engine.metrics.refuse(rejection.reason)
        retry = (b"retry-after", b"%d" % rejection.retry_after)
        return denied(HTTPStatus.SERVICE_UNAVAILABLE, rejection.message, retry)

    @property
    def route(self) -> WebSocketRoute:
        """The same for an ASGI server, which has not asked admission."""

        async def serve(websocket: WebSocket) -> None:
            admission = self._context.engine.admission
            rejection = admission.refusal() if own_socket(websocket) is None else None
            upgrade = upgrade_of(websocket)
            answer = self(upgrade) if rejection is None else self.rejected(rejection)
            if isinstance(answer, Denied):
                headers = {name.decode(): value.decode() for name, value in answer.headers}
                await websocket.send_denial_response(Response(answer.body, answer.status, headers))
            else:
                await converse(websocket, answer.connection, answer.subprotocol, answer.write_limit)

        return WebSocketRoute(self.path, serve)


def choose_format(upgrade: Upgrade) -> tuple[type[ClientConnection], str | None]:
    """The wire format a client asks for, and the subprotocol that the upgrade answers."""
    for subprotocol, kind in SUBPROTOCOLS.items():
        if subprotocol in upgrade.subprotocols:
            return kind, subprotocol
    # RFC 6455 section 4.2.2: the handshake's token may travel next to the service's own subprotocol.
    own = select_subprotocol(upgrade.subprotocols)
    protobuf = upgrade.parameter(b"format") == "protobuf"
    return ProtobufConnection if protobuf else JsonConnection, own


def choose_subprotocol(upgrade: Upgrade) -> str | None:
    """The subprotocol that the upgrade of a client answers which has no choice of formats."""
    return select_subprotocol(upgrade.subprotocols)


def denied(status: HTTPStatus, detail: str, *headers: tuple[bytes, bytes], request_id: str = "") -> Denied:
    """The answer to a client that is not accepted."""
    body = json.encode({"detail": detail})
    return Denied(status, [(b"content-type", b"application/json"), *headers], body, request_id)
