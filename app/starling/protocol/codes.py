"""The codes of the protocol: errors that answer a command, ends of a subscription, ends of the connection.

2000-2499  unsubscribed for good          3000-3499  disconnected, the SDK reconnects
2500-2999  the SDK subscribes again       3500-3999  disconnected for good
                                          4000-4499  the application's own, the SDK reconnects
                                          4500-4999  the application's own, for good
"""

from msgspec import Struct

# RFC 6455 section 5.5: a control frame carries 125 bytes, two of them the code.
REASON_BYTES = 123
DISCONNECT_CODES = range(3000, 5000)


class Error(Struct, frozen=True, omit_defaults=True):
    """The answer to a command that was not carried out; the connection lives on.

    `temporary`: the same command may succeed later, and the SDK repeats it.
    Codes under 100 are the SDKs' own: ValueError.
    """

    code: int
    message: str
    temporary: bool = False

    def __post_init__(self) -> None:
        if not 100 <= self.code < 2**32:
            raise ValueError(f"error code {self.code}: give one from 100 on, those below are the SDKs' own")


class Unsubscribe(Struct, frozen=True):
    """Why the server ended a subscription. The SDKs need a reason, so an empty one is a ValueError."""

    code: int
    reason: str

    def __post_init__(self) -> None:
        if not 2000 <= self.code <= 2999:
            raise ValueError(f"unsubscribe code {self.code}: give one from 2000 to 2999")
        if not self.reason:
            raise ValueError("unsubscribe reason: give one, client libraries cannot read an empty one")

    @property
    def resubscribe(self) -> bool:
        """Whether the SDK subscribes again by itself."""
        return self.code >= 2500


def reconnects(code: int) -> bool:
    """Whether the SDK connects again by itself after this code of a disconnect, or of a WebSocket (under 3000)."""
    return code not in DISCONNECT_CODES or code % 1000 < 500


class Disconnect(Struct, frozen=True):
    """Why the connection ends; it travels in the WebSocket close frame.

    Raises ValueError for codes outside the ranges and for reasons that do not fit a close frame.
    """

    code: int
    reason: str

    def __post_init__(self) -> None:
        if self.code not in DISCONNECT_CODES:
            raise ValueError(f"disconnect code {self.code}: give one from 3000 to 4999")
        if len(self.reason.encode()) > REASON_BYTES:
            raise ValueError(f"disconnect reason: shorten it to {REASON_BYTES} bytes, the room in a close frame")

    @property
    def reconnect(self) -> bool:
        """Whether the SDK connects again by itself."""
        return reconnects(self.code)


class Refused(Exception):
    """The family of exceptions that refuse what was asked; no other failure is one of them."""


class CommandRefused(Refused):
    """Raised where a command is refused; the client gets `reason`: an error, or the end of its connection."""

    def __init__(self, reason: Error | Disconnect) -> None:
        super().__init__(reason.code, reason.message if isinstance(reason, Error) else reason.reason)
        self.reason = reason


ERROR_INTERNAL = Error(100, "internal server error", temporary=True)
ERROR_UNAUTHORIZED = Error(101, "unauthorized")
ERROR_UNKNOWN_CHANNEL = Error(102, "unknown channel")
ERROR_PERMISSION_DENIED = Error(103, "permission denied")
ERROR_METHOD_NOT_FOUND = Error(104, "method not found")
ERROR_ALREADY_SUBSCRIBED = Error(105, "already subscribed")
ERROR_LIMIT_EXCEEDED = Error(106, "limit exceeded")
ERROR_BAD_REQUEST = Error(107, "bad request")
ERROR_NOT_AVAILABLE = Error(108, "not available")
ERROR_TOKEN_EXPIRED = Error(109, "token expired")
ERROR_EXPIRED = Error(110, "expired")
ERROR_TOO_MANY_REQUESTS = Error(111, "too many requests", temporary=True)
ERROR_UNRECOVERABLE_POSITION = Error(112, "unrecoverable position")

UNSUBSCRIBE_SERVER = Unsubscribe(2000, "server unsubscribe")
UNSUBSCRIBE_INSUFFICIENT_STATE = Unsubscribe(2500, "insufficient state")
UNSUBSCRIBE_EXPIRED = Unsubscribe(2501, "expired")
UNSUBSCRIBE_STATE_INVALIDATED = Unsubscribe(2502, "state invalidated")

DISCONNECT_CONNECTION_CLOSED = Disconnect(3000, "connection closed")
DISCONNECT_SHUTDOWN = Disconnect(3001, "shutdown")
DISCONNECT_INTERNAL = Disconnect(3004, "internal server error")
DISCONNECT_EXPIRED = Disconnect(3005, "connection expired")
DISCONNECT_SUBSCRIPTION_EXPIRED = Disconnect(3006, "subscription expired")
DISCONNECT_SLOW = Disconnect(3008, "slow")
DISCONNECT_WRITE_ERROR = Disconnect(3009, "write error")
DISCONNECT_INSUFFICIENT_STATE = Disconnect(3010, "insufficient state")
DISCONNECT_FORCE_RECONNECT = Disconnect(3011, "force reconnect")
DISCONNECT_NO_PONG = Disconnect(3012, "no pong")
DISCONNECT_TOO_MANY_REQUESTS = Disconnect(3013, "too many requests")
DISCONNECT_STATE_INVALIDATED = Disconnect(3014, "state invalidated")

DISCONNECT_INVALID_TOKEN = Disconnect(3500, "invalid token")
DISCONNECT_BAD_REQUEST = Disconnect(3501, "bad request")
DISCONNECT_STALE = Disconnect(3502, "stale")
DISCONNECT_FORCE_NO_RECONNECT = Disconnect(3503, "force disconnect")
DISCONNECT_CONNECTION_LIMIT = Disconnect(3504, "connection limit")
DISCONNECT_CHANNEL_LIMIT = Disconnect(3505, "channel limit")
DISCONNECT_INAPPROPRIATE_PROTOCOL = Disconnect(3506, "inappropriate protocol")
DISCONNECT_PERMISSION_DENIED = Disconnect(3507, "permission denied")
DISCONNECT_NOT_AVAILABLE = Disconnect(3508, "not available")
DISCONNECT_TOO_MANY_ERRORS = Disconnect(3509, "too many errors")
