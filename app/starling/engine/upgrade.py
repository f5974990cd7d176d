"""The upgrade of a WebSocket as an endpoint sees it, whatever server received it: the request, and its two answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

from starling.engine.transport import Handler, Transport

Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a client is rejected, and after how many seconds it should try again."""

    reason: str
    message: str
    retry_after: int


class Upgrade(NamedTuple):
    """A valid WebSocket handshake. Header names are in lower case; `address` is the client's, empty if unknown."""

    query: bytes
    headers: Sequence[Header]
    subprotocols: Sequence[str]
    address: str
    path: str

    def header(self, name: bytes) -> str | None:
        """The first header field of a lower-case `name`."""
        for key, value in self.headers:
            if key == name:
                return str(value, "latin-1")
        return None

    def parameter(self, name: bytes) -> str | None:
        """The last value of a parameter in the query; None where it has none."""
        value = None
        for part in self.query.split(b"&"):
            key, _, found = part.partition(b"=")
            if key == name or ((b"%" in key or b"+" in key) and _decoded(key) == name.decode()):
                value = found
        return None if value is None else _decoded(value)


def _decoded(text: bytes) -> str:
    """What stands in the query in the form of the URL standard, section 5.1 (application/x-www-form-urlencoded)."""
    return unquote_to_bytes(text.replace(b"+", b" ")).decode(errors="replace")


class EndpointConnection(Handler, Protocol):
    """A connection that an endpoint has made, not open yet."""

    def open(self, transport: Transport, address: str = "") -> None:
        """Take over `transport`, the socket of the client at `address`."""


class Accepted(NamedTuple):
    """The upgrade is answered with 101 and `subprotocol`, and `connection` gets the socket.

    More than `write_limit` bytes waiting for the client make it too slow a reader. `request_id` is answered as
    `X-Request-ID` and bound to the log lines of the opening, empty where the request had none.
    """

    connection: EndpointConnection
    subprotocol: str | None
    write_limit: int
    request_id: str = ""


class Denied(NamedTuple):
    """The upgrade is refused with this response; the endpoint has counted and logged it."""

    status: int
    headers: Sequence[Header]
    body: bytes
    request_id: str = ""


UpgradeEndpoint = Callable[[Upgrade], Accepted | Denied]
