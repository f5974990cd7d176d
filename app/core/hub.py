"""This process's connections and who of them listens to what: the local half of every fan-out."""

from collections.abc import Callable

from app.core.connection import Connection
from app.core.transport import Frame
from app.protocol.codes import Refusal
from app.protocol.messages import Publication, Push

Encode = Callable[[Push], Frame]


class Audience:
    """Who listens to each channel, grouped by how they encode, so that a frame is made once a group."""

    def __init__(self) -> None:
        self.channels: dict[str, dict[Encode, set[Connection]]] = {}

    def add(self, channel: str, connection: Connection) -> bool:
        """Add a listener; True when it is the channel's first."""
        groups = self.channels.get(channel)
        first = groups is None
        if groups is None:
            groups = self.channels[channel] = {}
        groups.setdefault(connection.encode, set()).add(connection)
        return first

    def remove(self, channel: str, connection: Connection) -> bool:
        """Take a listener out; True when it was the channel's last. One that does not listen is no error."""
        groups = self.channels.get(channel)
        group = groups.get(connection.encode) if groups else None
        if groups is None or group is None or connection not in group:
            return False
        group.remove(connection)
        if group:
            return False
        del groups[connection.encode]
        if groups:
            return False
        del self.channels[channel]
        return True

    def of(self, channel: str) -> list[Connection]:
        """Everyone who listens to a channel."""
        return [connection for group in self.channels.get(channel, {}).values() for connection in group]

    def tell(self, push: Push) -> None:
        """Hand a push to everyone who listens to its channel. Never waits: a slow socket's frames queue there."""
        groups = self.channels.get(push.channel)
        if groups is None:
            return
        for encode, connections in groups.items():
            try:
                frame = encode(push)
            except Refusal as refusal:
                for connection in tuple(connections):
                    connection.refuse(refusal.reason)
                continue
            figures = None
            for connection in connections:
                connection.send(frame)
                figures = connection.figures
            if figures is not None:
                figures.messages_out += len(connections)
                figures.bytes_out += len(frame.payload) * len(connections)


class Hub:
    """All connections of this process, the subscribers of channels, and those who are told who comes and goes."""

    def __init__(self) -> None:
        self.connections: set[Connection] = set()
        self.subscribers = Audience()
        self.watchers = Audience()
        self.users: dict[str, set[Connection]] = {}

    def identify(self, connection: Connection) -> None:
        """Note whose connection this is, now that it is known."""
        self.users.setdefault(connection.user, set()).add(connection)

    def forget(self, connection: Connection) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        if (of_user := self.users.get(connection.user)) is not None:
            of_user.discard(connection)
            if not of_user:
                del self.users[connection.user]

    def broadcast(self, channel: str, publication: Publication) -> None:
        """Hand a publication to every subscriber here."""
        self.subscribers.tell(Push(channel, pub=publication))
