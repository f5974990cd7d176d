"""`WS /connection/websocket`: the real-time protocol, in JSON or Protobuf."""

from typing import Annotated

from fastapi import APIRouter, Depends, WebSocket

from starling.client.authority import Identity
from starling.client.client_connection import ClientConnection, JsonConnection, ProtobufConnection
from starling.protocol.codes import CommandRefused
from starling.web.dependencies import WebContextDependency, admit, presented_token
from starling.web.handoff import hand_off

router = APIRouter(dependencies=[Depends(admit)])

SUBPROTOCOLS = {"centrifuge-json": JsonConnection, "centrifuge-protobuf": ProtobufConnection}


async def find_identity(websocket: WebSocket, web_context: WebContextDependency) -> Identity | CommandRefused | None:
    """Who the handshake's token says it is, or why it is no good; None without one.

    Browsers cannot read why an upgrade was refused, so nothing is refused here: a client whose connect command brings
    no token either is told then.
    """
    presented = presented_token(websocket, web_context)
    if presented is None:
        return None
    try:
        return await web_context.authority.identify_token(presented.token)
    except CommandRefused as refusal:
        return refusal


def choose_format(websocket: WebSocket) -> tuple[type[ClientConnection], str | None]:
    """The wire format a client asks for, and the subprotocol that the upgrade answers."""
    offered = websocket.scope["subprotocols"]
    for subprotocol, kind in SUBPROTOCOLS.items():
        if subprotocol in offered:
            return kind, subprotocol
    query: bytes = websocket.scope["query_string"]
    protobuf = query and websocket.query_params.get("format") == "protobuf"
    return ProtobufConnection if protobuf else JsonConnection, None


@router.websocket("/connection/websocket")
async def connection(
    websocket: WebSocket,
    web_context: WebContextDependency,
    identity: Annotated[Identity | CommandRefused | None, Depends(find_identity)],
) -> None:
    """The real-time door."""
    kind, subprotocol = choose_format(websocket)
    client = kind(web_context.dispatcher, identity)
    await hand_off(websocket, client, web_context, subprotocol)
