"""Opens an endpoint of the service straight from its upgrade request: no ASGI, no task, no hand-off."""

import asyncio

import structlog

from starling.engine.upgrade import Accepted, Denied, Upgrade, UpgradeEndpoint
from starling.server.client_socket import linger
from starling.server.handshake import Header, accept_response, refuse_response
from starling.server.transport import WebSocketTransport

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.server")

_REQUEST_ID = b"x-request-id"
_FAULT = Denied(500, (), b"Internal Server Error")


def open_directly(
    endpoint: UpgradeEndpoint,
    upgrade: Upgrade,
    socket: asyncio.Transport,
    transport: WebSocketTransport,
    *,
    key: bytes,
    headers: list[Header],
) -> bool:
    """Answer an upgrade as `endpoint` decides; False where it is denied, and the caller must end `socket`.

    `key` is that of the handshake; `headers` go into either answer.
    """
    try:
        answer = endpoint(upgrade)
    except Exception:
        log.exception("endpoint_failed")
        answer = _FAULT
    if answer.request_id:
        headers = [*headers, (_REQUEST_ID, answer.request_id.encode())]
    if isinstance(answer, Denied):
        socket.write(refuse_response(answer.status, [*headers, *answer.headers], answer.body))
        linger(socket)
        return False
    socket.write(accept_response(key, answer.subprotocol, headers))
    if answer.request_id:
        with structlog.contextvars.bound_contextvars(request_id=answer.request_id):
            _hand_over(answer, upgrade.address, transport)
    else:
        _hand_over(answer, upgrade.address, transport)
    return True


def _hand_over(accepted: Accepted, address: str, transport: WebSocketTransport) -> None:
    accepted.connection.open(transport, address)
    transport.detach(accepted.connection, write_limit=accepted.write_limit)
