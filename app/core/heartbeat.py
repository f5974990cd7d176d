"""One timer wheel for all connections: who is pinged in which second, and who did not answer."""

from app.core.connection import Connection


class Heartbeat:
    """Pings every connection once in `ping` seconds, spread evenly, and checks the answer `pong` seconds later.

    `pong` is less than `ping`. Driven by `tick`, once a second.
    """

    def __init__(self, ping: int, pong: int) -> None:
        self.pong = pong
        self.slots: list[set[Connection]] = [set() for _ in range(ping)]
        self._now = 0
        self._next = 0

    def add(self, connection: Connection) -> None:
        """Begin to ping a connection."""
        self._next = (self._next + 1) % len(self.slots)
        connection.slot = self._next
        self.slots[self._next].add(connection)

    def remove(self, connection: Connection) -> None:
        """Ping a connection no longer."""
        self.slots[connection.slot].discard(connection)

    def tick(self) -> None:
        """Ping who is due, and give up who did not answer in time."""
        self._now = (self._now + 1) % len(self.slots)
        for connection in list(self.slots[(self._now - self.pong) % len(self.slots)]):
            connection.check_pong()
        for connection in self.slots[self._now]:
            connection.ping()
