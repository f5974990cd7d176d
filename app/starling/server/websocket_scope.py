"""The ASGI scope of a WebSocket, from the upgrade request that uvicorn's protocol has read."""

from typing import Any
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from starling.server.handshake import subprotocols_of


def websocket_scope(protocol: HttpToolsProtocol) -> dict[str, Any]:
    """What an ASGI application gets of the upgrade that `protocol` has read."""
    raw_path, _, query_string = protocol.url.partition(b"?")
    return {
        "type": "websocket",
        "asgi": {"version": protocol.asgi_version, "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "wss" if protocol.scheme == "https" else "ws",
        "server": protocol.server,
        "client": protocol.client,
        "root_path": protocol.root_path,
        "path": protocol.root_path + unquote(raw_path.decode("ascii")),
        "raw_path": protocol.root_path.encode("ascii") + raw_path,
        "query_string": query_string,
        "headers": protocol.headers,
        "subprotocols": subprotocols_of(protocol.headers),
        "state": protocol.app_state.copy(),
        "extensions": {"websocket.http.response": {}},
    }
