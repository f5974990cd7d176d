"""Backends for the package broadcaster: its `Broadcast` over Starling's own links to Redis, PostgreSQL and memory.

    from broadcaster import Broadcast
    from starling.broadcast import backend_for

    broadcast = Broadcast(backend=backend_for("redis://localhost:6379"))

The links reconnect and subscribe again by themselves, a canary finds a connection that is silent though it stands, and
what waits in the process is bounded. docs/broadcaster.md compares them with the backends that broadcaster ships.
"""

from pathlib import Path

from broadcaster import BroadcastBackend, Event

from starling.brokers.broadcast import LinkBackend, MessageEvent
from starling.brokers.open import open_backend
from starling.brokers.options import BrokerOptions
from starling.options import OptionError

__all__ = ["StarlingBackend", "backend_for"]

TIMEOUT_SECONDS = BrokerOptions().broker_timeout_seconds


class StarlingBackend(BroadcastBackend):
    """One of Starling's links, carrying text as `Broadcast` publishes it. Made by `backend_for`."""

    def __init__(self, link: LinkBackend) -> None:
        self._link = link

    async def connect(self) -> None:
        """Begin to connect and return at once; the link is kept up until `disconnect`."""
        await self._link.connect()

    async def disconnect(self) -> None:
        """Close the connections."""
        await self._link.disconnect()

    async def subscribe(self, group: str) -> None:
        """Receive the channel `group`. Raises BrokerUnavailable if the server does not acknowledge it in time."""
        await self._link.subscribe(group)

    async def unsubscribe(self, group: str) -> None:
        """Receive the channel `group` no longer."""
        await self._link.unsubscribe(group)

    async def publish(self, channel: str, message: str) -> None:
        """Send `message` to every process. Raises BrokerUnavailable, and then it is not known to be sent."""
        await self._link.publish(channel, message.encode())

    async def next_published(self) -> Event:
        """Wait for the next message of a subscribed channel. Messages that are not UTF-8 are not passed on."""
        while True:
            event = await self._link.next_published()
            if isinstance(event, MessageEvent):
                try:
                    return Event(event.channel, event.message.decode())
                except UnicodeDecodeError:
                    continue


def backend_for(
    url: str,
    *,
    prefix: str = "broadcast",
    timeout: float = TIMEOUT_SECONDS,
    ca_file: str | Path | None = None,
    cert_file: str | Path | None = None,
    key_file: str | Path | None = None,
) -> StarlingBackend:
    """A backend for `Broadcast(backend=…)`.

    `url` is memory://, postgresql://, redis://, rediss://, redis+sentinel:// or redis+cluster://. `prefix` begins every
    channel's name on the server: processes with the same prefix share their channels. `timeout` in seconds bounds one
    call. The files are for rediss:// schemes. Raises ValueError for what cannot be right, naming the remedy.
    """
    try:
        link = open_backend(
            url, prefix=prefix, timeout=timeout, ca_file=ca_file, cert_file=cert_file, key_file=key_file
        )
    except OptionError as error:
        # The settings of the service begin with `broker_`; here the arguments have their names.
        field = error.field.removeprefix("broker_").removesuffix("_seconds")
        raise ValueError(f"{field}: {error.message}") from None
    return StarlingBackend(link)
