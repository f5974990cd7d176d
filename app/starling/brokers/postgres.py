"""The broker over PostgreSQL: LISTEN on one connection, pg_notify in order over another; it keeps nothing."""

import asyncio
import base64
import binascii
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import asyncpg

from starling.brokers.broadcast import BroadcastBroker
from starling.brokers.envelope import original_name, stored_name
from starling.brokers.link import Link, LinkLost, Receive
from starling.brokers.outbox import Outbox
from starling.brokers.supervised import SupervisedBackend, in_words
from starling.engine.broker import BrokerUnavailable, PublicationTooLarge

# https://www.postgresql.org/docs/current/sql-notify.html: "must be specified as a simple string literal ... shorter
# than 8000 bytes". The index in the batch precedes the base64: at most three digits and a dot.
_PAYLOAD_LIMIT = 7999
_INDEX_LIMIT = 4
_MESSAGE_LIMIT = (_PAYLOAD_LIMIT - _INDEX_LIMIT) // 4 * 3

_NOTIFY = "SELECT pg_notify(channel, payload) FROM unnest($1::text[], $2::text[]) AS notice(channel, payload)"
_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


def identifier(prefix: str, channel: str) -> str:
    """The name PostgreSQL knows a channel by: its own end at 63 bytes, and a prefix is at most 40."""
    return f"{prefix}_{blake2b(channel.encode(), digest_size=11).hexdigest()}"


def encode(channel: str, message: bytes) -> bytes:
    """The bytes of a notice. They name the channel, because two channels may share an identifier."""
    return b"%b\n%b" % (stored_name(channel).encode(), message)


def decode(payload: str) -> tuple[str, bytes] | None:
    """The channel and the message of a notice; None for a notice of somebody else's."""
    try:
        channel, message = base64.b64decode(payload.partition(".")[2], validate=True).split(b"\n", 1)
        return original_name(channel.decode()), message
    except (ValueError, binascii.Error):
        return None


class PostgresLink(Link):
    """One listening connection."""

    batch = 100

    def __init__(self, url: str, prefix: str) -> None:
        self._url = url
        self._prefix = prefix
        self._connection: asyncpg.Connection[Any] | None = None
        self._receive: Receive | None = None
        self._lost = asyncio.Event()
        self._listening: set[str] = set()

    async def open(self) -> None:
        """Connect and log in."""
        try:
            # Every LISTEN is a statement of its own, and none comes twice: a cache would only fill.
            self._connection = await asyncpg.connect(
                self._url, statement_cache_size=0, server_settings={"application_name": "starling-listener"}
            )
        except _ERRORS as error:
            raise LinkLost(in_words(error)) from None
        self._connection.add_termination_listener(lambda _: self._lost.set())

    async def read(self, receive: Receive) -> None:
        """Hand over what comes, until the connection is lost."""
        self._receive = receive
        await self._lost.wait()
        raise LinkLost("PostgreSQL closed the connection")

    async def subscribe(self, channels: Sequence[str]) -> None:
        """Return when PostgreSQL has acknowledged all of them."""
        connection = self._open_connection()
        try:
            for channel in channels:
                name = identifier(self._prefix, channel)
                await connection.add_listener(name, self._on_notice)
                self._listening.add(name)
        except _ERRORS as error:
            raise LinkLost(in_words(error)) from None

    async def unsubscribe(self, channels: Sequence[str]) -> None:
        """Return when PostgreSQL has acknowledged all of them."""
        connection = self._open_connection()
        try:
            for channel in channels:
                name = identifier(self._prefix, channel)
                await connection.remove_listener(name, self._on_notice)
                self._listening.discard(name)
        except _ERRORS as error:
            raise LinkLost(in_words(error)) from None

    async def check_count(self) -> None:
        """Ask PostgreSQL how many channels this connection listens on."""
        try:
            counted = await self._open_connection().fetchval("SELECT count(*) FROM pg_listening_channels()")
        except _ERRORS as error:
            raise LinkLost(in_words(error)) from None
        if counted != len(self._listening):
            raise LinkLost(f"PostgreSQL counts {counted} subscriptions where {len(self._listening)} are")

    async def close(self) -> None:
        """Cut the connection."""
        self._receive = None
        if self._connection is not None:
            self._connection.terminate()

    def _open_connection(self) -> "asyncpg.Connection[Any]":
        if self._connection is None:
            raise LinkLost("the connection is not open")
        return self._connection

    def _on_notice(self, _connection: object, _process: int, _identifier: str, payload: object) -> None:
        if self._receive is not None and (notice := decode(str(payload))):
            self._receive(*notice)


class PostgresBackend(SupervisedBackend):
    """Channels of one PostgreSQL database, under one prefix."""

    def __init__(self, url: str, *, prefix: str, timeout: float, address: str) -> None:
        """`url` is checked by starling.brokers.open."""
        super().__init__(address, timeout=timeout)
        self._url = url
        self._prefix = prefix
        self._sending: asyncpg.Connection[Any] | None = None
        # One connection and not a pool: PostgreSQL lets notices commit one after the other anyhow, and a pool would
        # lose the order in which this process published.
        self._outbox: Outbox[tuple[str, str], None] = Outbox(self._transmit, timeout=timeout)

    def make_link(self) -> PostgresLink:
        """A listening connection that is not open yet."""
        return PostgresLink(self._url, self._prefix)

    async def publish(self, channel: str, message: bytes) -> None:
        """Send to every process, after all that was published here before. Raises BrokerUnavailable."""
        payload = base64.b64encode(encode(channel, message)).decode()
        await self._outbox.send((identifier(self._prefix, channel), payload), len(payload))

    async def publish_apart(self, channel: str, message: bytes) -> None:
        """Send over a connection that is opened for it. Raises BrokerUnavailable."""
        try:
            connection = await asyncpg.connect(self._url, server_settings={"application_name": "starling-probe"})
        except _ERRORS as error:
            raise BrokerUnavailable(in_words(error)) from None
        try:
            payload = "0." + base64.b64encode(encode(channel, message)).decode()
            await connection.execute("SELECT pg_notify($1, $2)", identifier(self._prefix, channel), payload)
        except _ERRORS as error:
            raise BrokerUnavailable(in_words(error)) from None
        finally:
            connection.terminate()

    async def open_publishing(self) -> None:
        """Begin to send."""
        self._outbox.start()

    async def close_publishing(self) -> None:
        """End sending."""
        await self._outbox.stop()
        self._discard()

    async def _transmit(self, batch: list[tuple[str, str]]) -> list[None]:
        try:
            if self._sending is None or self._sending.is_closed():
                # Notices outlive no crash, so waiting for the disk would only cost time.
                self._sending = await asyncpg.connect(
                    self._url,
                    server_settings={"application_name": "starling-publisher", "synchronous_commit": "off"},
                )
            # PostgreSQL sends equal notices of one transaction once: the index in the batch makes them unequal.
            payloads = [f"{index}.{payload}" for index, (_, payload) in enumerate(batch)]
            await self._sending.execute(_NOTIFY, [name for name, _ in batch], payloads)
        except _ERRORS as error:
            self._discard()
            raise BrokerUnavailable(in_words(error)) from None
        except BaseException:
            self._discard()
            raise
        return [None] * len(batch)

    def _discard(self) -> None:
        if self._sending is not None:
            self._sending.terminate()
            self._sending = None


class PostgresBroker(BroadcastBroker):
    """Implements starling.engine.broker.Broker over PostgreSQL's LISTEN and NOTIFY."""

    def check_size(self, channel: str, size: int, data_size: int) -> None:
        """Raise PublicationTooLarge beyond what a notice carries."""
        room = _MESSAGE_LIMIT - len(encode(channel, b"")) - (size - data_size)
        if data_size > room:
            raise PublicationTooLarge(
                f"the data has {data_size} bytes, and PostgreSQL carries at most {room} here: send less, or use Redis"
            )
