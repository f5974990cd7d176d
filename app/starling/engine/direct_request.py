"""An HTTP request as an endpoint sees it that the server calls by itself, without ASGI: the request, and its answer."""

from collections.abc import Callable, Coroutine, Sequence
from typing import NamedTuple, Protocol

from starling.engine.upgrade import EndpointConnection

Header = tuple[bytes, bytes]


class DirectRequest(NamedTuple):
    """The head of a request. Header names are in lower case; `address` is the client's, empty if unknown."""

    method: str
    path: str
    headers: Sequence[Header]
    address: str
    query: bytes = b""


class DirectResponse(NamedTuple):
    """The whole response; its length is the server's to state."""

    status: int
    headers: Sequence[Header]
    body: bytes


class StreamConnection(EndpointConnection, Protocol):
    """A connection whose client reads a streamed response. `open` and then `begin` are called once, in one tick."""

    def begin(self) -> None:
        """Do what the request asks for: its transport writes now, and reports its end."""


class StreamResponse(NamedTuple):
    """The response is a stream of the StreamFrames that `connection` sends, until it closes its transport.

    `address` is that of the request, `beginning` the first of the body. More than `write_limit` bytes waiting for the
    client make it too slow a reader. The connection of a client that has left meanwhile is not opened.
    """

    headers: Sequence[Header]
    connection: StreamConnection
    write_limit: int
    address: str
    beginning: bytes = b""


Respond = Callable[[DirectResponse | StreamResponse], None]
Work = Callable[[bytes, Respond], Coroutine[object, None, None] | None]
"""Gets a request's body. It responds once, now or later, and returns None; or it returns what the server must run in
a task, and that responds."""


class RequestEndpoint(Protocol):
    """An endpoint of the service that the server calls by itself."""

    @property
    def max_body_bytes(self) -> int:
        """How large the body of a request may be that is accepted."""

    @property
    def version(self) -> int:
        """Another number whenever `accept` may decide otherwise about a request than before."""

    def accept(self, request: DirectRequest) -> Work | None:
        """What answers the request, whose `content-length` bounds its body; None where the ASGI application must.

        The answer holds for all requests of this connection with the same head, whatever the length of their bodies, as
        long as `version` stays.
        """
