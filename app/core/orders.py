"""What backends ask of connections, carried out by every node on those it holds."""

import fnmatch

from msgspec import Raw

from app.core.control import Params
from app.core.node import Node
from app.core.realtime import RealtimeConnection
from app.protocol.codes import DISCONNECT_FORCE_NO_RECONNECT, UNSUBSCRIBE_SERVER, Disconnect, Unsubscribe
from app.protocol.messages import NO_PAYLOAD, SubscribeRequest


class Orders:
    """Carries out `disconnect`, `subscribe`, `unsubscribe`, `refresh` and `channels` on the connections of one node.

    Connections are chosen by `user`, and where given by `client` or `session` too; `whitelist` spares clients.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        for order, carry_out in (
            ("disconnect", self._disconnect),
            ("subscribe", self._subscribe),
            ("unsubscribe", self._unsubscribe),
            ("refresh", self._refresh),
            ("channels", self._channels),
        ):
            node.control.on_order(order, carry_out)

    def _chosen(self, params: Params) -> list[RealtimeConnection]:
        client, session, spared = params.get("client"), params.get("session"), params.get("whitelist") or ()
        return [
            connection
            for connection in self._node.hub.users.get(params.get("user", ""), ())
            if isinstance(connection, RealtimeConnection)
            and (not client or connection.id == client)
            and (not session or connection.session_id == session)
            and connection.id not in spared
        ]

    def _disconnect(self, params: Params) -> None:
        wanted = params.get("disconnect")
        reason = Disconnect(wanted["code"], wanted["reason"]) if wanted else DISCONNECT_FORCE_NO_RECONNECT
        for connection in self._chosen(params):
            connection.order_disconnect(reason)

    def _subscribe(self, params: Params) -> None:
        since = params.get("recover_since")
        for connection in self._chosen(params):
            request = SubscribeRequest(
                channel=params["channel"],
                data=Raw(params["data"].encode()) if params.get("data") else NO_PAYLOAD,
                recover=since is not None,
                offset=since["offset"] if since else 0,
                epoch=since["epoch"] if since else "",
            )
            connection.order_subscribe(request)

    def _unsubscribe(self, params: Params) -> None:
        for connection in self._chosen(params):
            wanted = params.get("unsubscribe")
            reason = Unsubscribe(wanted["code"], wanted["reason"]) if wanted else UNSUBSCRIBE_SERVER
            connection.order_unsubscribe(params["channel"], reason)

    def _refresh(self, params: Params) -> None:
        for connection in self._chosen(params):
            if params.get("expired"):
                connection.order_refresh(0.0)
            else:
                connection.order_refresh(params.get("expire_at") or None)

    def _channels(self, params: Params) -> Params:
        pattern = params.get("pattern") or "*"
        return {
            channel: sum(len(group) for group in groups.values())
            for channel, groups in self._node.hub.subscribers.channels.items()
            if not channel.startswith(":") and fnmatch.fnmatchcase(channel, pattern)
        }
