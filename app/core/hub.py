"""This process's connections and who of them subscribes to what: the local half of every fan-out."""

from collections.abc import Callable

from app.core.connection import Connection
from app.core.transport import Frame
from app.protocol.messages import Publication

Encode = Callable[[str, Publication], Frame]


class Hub:
    """Connections, and channel to subscribers grouped by how they encode, so that a frame is made once a group."""

    def __init__(self) -> None:
        self.connections: set[Connection] = set()
        self.channels: dict[str, dict[Encode, set[Connection]]] = {}

    def subscribe(self, channel: str, connection: Connection) -> bool:
        """Add a subscriber; True when it is the channel's first here."""
        groups = self.channels.get(channel)
        first = groups is None
        if groups is None:
            groups = self.channels[channel] = {}
        groups.setdefault(connection.encode, set()).add(connection)
        return first

    def unsubscribe(self, channel: str, connection: Connection) -> bool:
        """Take a subscriber out; True when it was the channel's last here."""
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

    def broadcast(self, channel: str, publication: Publication) -> None:
        """Hand a publication to every subscriber here. Never waits: a slow socket's frames queue in its transport."""
        groups = self.channels.get(channel)
        if groups is None:
            return
        for encode, subscribers in groups.items():
            frame = encode(channel, publication)
            figures = None
            for connection in subscribers:
                connection.send(frame)
                figures = connection.figures
            if figures is not None:
                figures.messages_out += len(subscribers)
                figures.bytes_out += len(frame.payload) * len(subscribers)
