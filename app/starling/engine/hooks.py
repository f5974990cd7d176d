"""The contract of hooks: where the application of a user of Starling decides and answers."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Protocol

from msgspec import Raw, Struct

from starling.engine.hook_request import Request
from starling.engine.override import NO_OVERRIDE, ChannelOverride
from starling.protocol.codes import DISCONNECT_NOT_AVAILABLE, ERROR_NOT_AVAILABLE, CommandRefused, Refused
from starling.protocol.messages import NO_PAYLOAD
from starling.protocol.tags_filter import TagsFilter


class Refuse(Refused):
    """Raised by a hook to refuse what a client asks; the client gets `code` and `message` as the error's.

    103, permission denied, is usual. Codes of the application's own begin at 400; for those under 100, which are the
    SDKs', this raises ValueError. With a code from 3000 to 4999 the client is disconnected: 3507 is permission denied
    for good; from 4000 on the codes are the application's own: up to 4499 the client reconnects, from 4500 on it does
    not.
    """

    def __init__(self, message: str = "permission denied", code: int = 103) -> None:
        if not issubclass(type(message), str) or not issubclass(type(code), int) or isinstance(code, bool):
            raise TypeError("Refuse(message, code): give a text and a whole number")
        if not 100 <= code < 2**32:
            raise ValueError(f"code {code}: give one from 100 on, those below are the SDKs' own")
        # Half of a UTF-16 pair, as the json module makes of what a client sent, cannot be sent back.
        self.message = message.encode(errors="backslashreplace").decode()
        super().__init__(self.message)
        self.code = code


class Client(Struct, frozen=True):
    """A client as hooks see it; `user` is empty while nobody has authenticated it, and for an anonymous one.

    `client` is the id of its connection. `conn_info` and `chan_info` are raw JSON that others see. `meta` is raw JSON
    that stays on the server, empty without any. `transport` is the label of its connection in metrics: `json` and
    `protobuf` are the client endpoint's over WebSocket. `has_token`: it brought a valid token with this request, a
    connect or a subscription. `request` holds the headers that `Hooks.keeps_headers` names; None without any.
    """

    user: str = ""
    client: str = ""
    conn_info: Raw = NO_PAYLOAD
    chan_info: Raw = NO_PAYLOAD
    meta: bytes = b""
    transport: str = ""
    has_token: bool = False
    request: Request | None = None


class SubscribeDecision(Struct, frozen=True):
    """A hook grants a channel. `info` is shown to others there, `data` goes to the client with the subscription.

    `expires_at` in seconds since 1970; None never ends. With `filter` the client gets only publications whose tags
    match. `override` sets options of the channel for this subscription.
    """

    info: Raw = NO_PAYLOAD
    data: Raw = NO_PAYLOAD
    expires_at: float | None = None
    filter: TagsFilter | None = None
    override: ChannelOverride = NO_OVERRIDE


class ConnectDecision(Struct, frozen=True):
    """What a hook says of a client that connects. `data` goes to the client with the reply.

    `user` None: the hook authenticates nobody, and the other fields but `data` do not count. Else the client is that
    user (empty: an anonymous one) until `expires_at`, in seconds since 1970 (None: for ever), with public `info`,
    `meta` for hooks alone, and `channels` that it is subscribed to. `renewable`: `Hooks.refresh` may give it another
    end.
    """

    data: Raw = NO_PAYLOAD
    user: str | None = None
    info: Raw = NO_PAYLOAD
    meta: bytes = b""
    expires_at: float | None = None
    channels: Mapping[str, SubscribeDecision] = {}
    renewable: bool = False


class RefreshDecision(Struct, frozen=True):
    """A hook lets a connection, or a subscription, go on until `expires_at`; `info` None leaves the info as it is.

    `expired`: it ends now.
    """

    expires_at: float | None = None
    info: Raw | None = None
    expired: bool = False


class Hooks(Protocol):
    """Called while a client waits; each may raise CommandRefused, whose reason the client gets. Payloads are raw.

    The properties are whether each method does anything: where it does not, no client waits for it. They are complete
    before the first client connects.
    """

    @property
    def sees_clients(self) -> bool:
        """Whether `connect` is called for clients with a token."""

    @property
    def authenticates(self) -> bool:
        """Whether `connect` is called for clients without a token."""

    @property
    def sees_subscriptions(self) -> bool:
        """Whether `subscribe` is called where the rights already give a channel."""

    @property
    def sees_publications(self) -> bool:
        """Whether `publish` does anything; it may change when channels are read again."""

    @property
    def sees_unsubscribes(self) -> bool:
        """Whether `unsubscribed` does anything."""

    @property
    def sees_disconnects(self) -> bool:
        """Whether `disconnected` does anything."""

    @property
    def keeps_headers(self) -> frozenset[str]:
        """The header fields of the handshake, in lower case, that all methods see."""

    @property
    def keeps_client_headers(self) -> frozenset[str]:
        """As `keeps_headers`, of those that clients write into their connect command."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """What the hooks need while the worker serves, such as pools; entered before the first client connects."""

    async def connect(self, client: Client, request: Request, data: Raw) -> ConnectDecision:
        """A client with a valid token, or with none, connects; `client.user` is the token's."""

    async def refresh(self, client: Client) -> RefreshDecision | None:
        """A connection that `connect` made renewable is about to end; None: nothing is known of it here."""

    async def subscribe(self, client: Client, channel: str, data: Raw) -> SubscribeDecision | None:
        """A client asks to enter a channel that the rights give it, or that hooks may grant; None grants nothing."""

    async def sub_refresh(self, client: Client, channel: str) -> RefreshDecision | None:
        """A subscription that `subscribe` granted with an end is about to end; None: nothing is known of it here."""

    async def publish(self, client: Client, channel: str, data: Raw) -> Raw:
        """A client that may publish does; returns what is published in its place."""

    async def cancel(self, client: Client, channel: str, reason: str) -> None:
        """A client that may cancel an append-only stream does; raising CommandRefused lets it go on."""

    async def call(self, client: Client, method: str, data: Raw) -> Raw:
        """A client calls a method by name; returns its result."""

    async def message(self, client: Client, data: Raw) -> None:
        """A client sent something that wants no answer."""

    async def unsubscribed(self, client: Client, channel: str) -> None:
        """A client is in a channel no longer. Raises nothing."""

    async def disconnected(self, client: Client, code: int, reason: str) -> None:
        """A client that was connected is gone. Raises nothing."""


class NoHooks:
    """The hooks of a service without an application: everything that is permitted passes, and no method exists."""

    sees_clients = False
    sees_subscriptions = False
    sees_publications = False
    authenticates = False
    sees_disconnects = False
    sees_unsubscribes = False
    keeps_headers: frozenset[str] = frozenset()
    keeps_client_headers: frozenset[str] = frozenset()

    def running(self) -> AbstractAsyncContextManager[None]:
        """Need nothing."""
        return nullcontext()

    async def connect(self, client: Client, request: Request, data: Raw) -> ConnectDecision:
        """Authenticate nobody."""
        return ConnectDecision()

    async def refresh(self, client: Client) -> RefreshDecision | None:
        """Know nothing."""
        return None

    async def subscribe(self, client: Client, channel: str, data: Raw) -> SubscribeDecision | None:
        """Grant nothing."""
        return None

    async def sub_refresh(self, client: Client, channel: str) -> RefreshDecision | None:
        """Know nothing."""
        return None

    async def publish(self, client: Client, channel: str, data: Raw) -> Raw:
        """Publish what it sent."""
        return data

    async def cancel(self, client: Client, channel: str, reason: str) -> None:
        """Let it be cancelled."""

    async def call(self, client: Client, method: str, data: Raw) -> Raw:
        """Have no methods at all: 108, while 104 is for one that is unknown among others."""
        raise CommandRefused(ERROR_NOT_AVAILABLE)

    async def message(self, client: Client, data: Raw) -> None:
        """Disconnect the client, because nobody takes it: 3508."""
        raise CommandRefused(DISCONNECT_NOT_AVAILABLE)

    async def unsubscribed(self, client: Client, channel: str) -> None:
        """Do nothing."""

    async def disconnected(self, client: Client, code: int, reason: str) -> None:
        """Do nothing."""
