"""The contract of lifecycle events: which clients connect and disconnect, subscribe and unsubscribe."""

from typing import Protocol


class Lifecycle(Protocol):
    """Gets each event of a client when it happens, in order; the calls between `start` and `stop` return at once.

    `client` is the connection's id, `user` is empty for an anonymous one, `address` is where it connected from. Every
    `disconnected` follows a `connected`, and every `unsubscribed` a `subscribed`, of the same client.
    """

    def start(self, node: str) -> None:
        """Begin to work as node `node`, on the running event loop."""

    async def stop(self) -> None:
        """Send what is left, within seconds."""

    def connected(self, client: str, user: str, address: str = "") -> None:
        """A client is connected and has its answer."""

    def disconnected(self, client: str, user: str, code: int, reason: str, address: str = "") -> None:
        """A client is gone, and is in no channel any more."""

    def subscribed(self, client: str, user: str, channel: str, address: str = "") -> None:
        """A client is in a channel and has its answer."""

    def unsubscribed(self, client: str, user: str, channel: str, address: str = "", *, unused: bool = False) -> None:
        """A client is in a channel no longer, for any reason; `unused`: it got nothing in between."""


class NoLifecycle:
    """Reports to nobody."""

    def start(self, node: str) -> None:
        """Do nothing."""

    async def stop(self) -> None:
        """Do nothing."""

    def connected(self, client: str, user: str, address: str = "") -> None:
        """Do nothing."""

    def disconnected(self, client: str, user: str, code: int, reason: str, address: str = "") -> None:
        """Do nothing."""

    def subscribed(self, client: str, user: str, channel: str, address: str = "") -> None:
        """Do nothing."""

    def unsubscribed(self, client: str, user: str, channel: str, address: str = "", *, unused: bool = False) -> None:
        """Do nothing."""
