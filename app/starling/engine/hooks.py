"""The contract of hooks: where the application of a user of Starling decides and answers."""

from typing import Protocol

from msgspec import Raw

from starling.protocol.codes import DISCONNECT_NOT_AVAILABLE, ERROR_NOT_AVAILABLE, CommandRefused
from starling.protocol.messages import NO_PAYLOAD, ClientInfo


class Refuse(Exception):
    """Raised by a hook to refuse what a client asks; the client gets `code` and `message` as the error's.

    103, permission denied, is usual. Codes of the application's own begin at 400; for those under 100, which are the
    SDKs', this raises ValueError. With a code from 3000 to 4999 the client is disconnected: 3507 is permission denied
    for good; from 4000 on the codes are the application's own, up to 4499 to come back, from 4500 on for good.
    """

    def __init__(self, message: str = "permission denied", code: int = 103) -> None:
        if not 100 <= code < 2**32:
            raise ValueError(f"code {code}: give one from 100 on, those below are the SDKs' own")
        super().__init__(message)
        self.message = message
        self.code = code


class Hooks(Protocol):
    """Called while a client waits; each may raise CommandRefused, which is what the client is told. Payloads are raw.

    `sees_clients`, `sees_subscriptions` and `sees_publications` are whether `connect`, `subscribe` and `publish` do
    anything: where one does not, nobody waits for it.
    """

    sees_clients: bool
    sees_subscriptions: bool
    sees_publications: bool

    async def connect(self, client: ClientInfo, data: Raw) -> Raw:
        """A client with good credentials comes; returns what the connect result carries as `data`."""

    async def subscribe(self, client: ClientInfo, channel: str, data: Raw) -> None:
        """A client that may enter a channel is about to."""

    async def publish(self, client: ClientInfo, channel: str, data: Raw) -> Raw:
        """A client that may publish does; returns what is published in its place."""

    async def call(self, client: ClientInfo, method: str, data: Raw) -> Raw:
        """A client calls a method by name; returns its result."""

    async def message(self, client: ClientInfo, data: Raw) -> None:
        """A client sent something that wants no answer."""


class NoHooks:
    """The hooks of a service without an application: everything that is permitted passes, and no method exists."""

    sees_clients = False
    sees_subscriptions = False
    sees_publications = False

    async def connect(self, client: ClientInfo, data: Raw) -> Raw:
        """Let it come."""
        return NO_PAYLOAD

    async def subscribe(self, client: ClientInfo, channel: str, data: Raw) -> None:
        """Let it enter."""

    async def publish(self, client: ClientInfo, channel: str, data: Raw) -> Raw:
        """Publish what it sent."""
        return data

    async def call(self, client: ClientInfo, method: str, data: Raw) -> Raw:
        """Have no methods at all: 108, while 104 is for one that is unknown among others."""
        raise CommandRefused(ERROR_NOT_AVAILABLE)

    async def message(self, client: ClientInfo, data: Raw) -> None:
        """Tell the client that nobody takes it: 3508."""
        raise CommandRefused(DISCONNECT_NOT_AVAILABLE)
