"""The connections of every node, page by page: who is connected, from where, since when, and in which channels."""

import asyncio
import heapq
import time

import msgspec
from msgspec import UNSET, Struct, UnsetType

from starling.client.client_connection import ClientConnection
from starling.client.connection import Connection
from starling.engine.control import NodeCommand
from starling.engine.engine import Engine

# Names of channels in one entry; `num_channels` counts all.
CHANNELS_SHOWN = 100


class ConnectionsCommand(NodeCommand):
    """Return the connections of the node whose ids follow `after`, the first `limit` in the order of their ids.

    Only those of `user`, where that is given (empty: without a user).
    """

    user: str | UnsetType = UNSET
    limit: int = 100
    after: str = ""


class ConnectionSummary(Struct):
    """One connection. `since` in seconds since 1970; `received` and `sent` count messages from and to the client."""

    client: str
    user: str
    transport: str
    address: str
    node: str
    since: float
    num_channels: int
    channels: list[str]
    received: int
    sent: int


class ConnectionSummaries(Struct):
    """What one node answers."""

    connections: list[ConnectionSummary]


class ConnectionList:
    """Lists the connections of this node, and of all nodes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        engine.control.on_command(ConnectionsCommand, self._here)

    async def page(
        self, user: str | UnsetType, limit: int, after: str
    ) -> tuple[list[ConnectionSummary], bool, list[str]]:
        """The first `limit` connections whose ids follow `after`, whether there are more, and nodes without an answer.

        Raises BrokerUnavailable, and NodeCommandRefused where a node of another version does not know the command.
        """
        known = {info.uid: info.name for info in self._engine.control.nodes()}
        # One more than wanted shows whether there are more.
        answers = await self._engine.control.ask(ConnectionsCommand(user, limit + 1, after))
        found = [
            connection
            for answer in answers.values()
            for connection in msgspec.json.decode(answer, type=ConnectionSummaries).connections
        ]
        found.sort(key=lambda connection: connection.client)
        missing = sorted(name for uid, name in known.items() if uid not in answers)
        return found[:limit], len(found) > limit, missing

    def _here(self, command: ConnectionsCommand) -> ConnectionSummaries:
        hub = self._engine.hub
        candidates = hub.connections if command.user is UNSET else hub.users.of(command.user)
        chosen = heapq.nsmallest(
            command.limit,
            (
                connection
                for connection in candidates
                if isinstance(connection, Connection)
                and connection.id > command.after
                and (command.user is UNSET or connection.user == command.user)
            ),
            key=lambda connection: connection.id,
        )
        node = self._engine.node.describe().name
        return ConnectionSummaries([_summary(connection, node) for connection in chosen])


def _summary(connection: Connection, node: str) -> ConnectionSummary:
    channels = list(connection.memberships) if isinstance(connection, ClientConnection) else []
    return ConnectionSummary(
        client=connection.id,
        user=connection.user,
        transport=connection.kind,
        address=connection.address,
        node=node,
        since=time.time() - (asyncio.get_running_loop().time() - connection.opened_at),
        num_channels=len(channels),
        channels=sorted(channels)[:CHANNELS_SHOWN],
        received=connection.received,
        sent=connection.sent,
    )
