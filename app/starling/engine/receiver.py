"""What hub, fan-out, streams and revocation know about a client: a small protocol, which connections implement."""

from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

from starling.engine.transport import Transport
from starling.protocol.messages import Frame, Push
from starling.telemetry.metrics import TransportStats


class TokenFacts(Struct, frozen=True):
    """What identifies a verified token.

    `user` is empty for an anonymous one, `session` is the login session that it belongs to, by its claim `sid` (OpenID
    Connect Front-Channel Logout 1.0, section 3). `issued_at` is in seconds since 1970. `channel` is empty for a
    connection token.
    """

    user: str = ""
    token_id: str = ""
    session: str = ""
    issued_at: float | None = None
    channel: str = ""


class PushEncoder(Protocol):
    """Encodes pushes in one wire format. The hub groups receivers by their encoder, so there is one object a format."""

    def encode_push(self, push: Push) -> Frame:
        """Return the frame for a push. Raises CommandRefused for a push that this format cannot carry."""


class Receiver(Protocol):
    """A client of this process. `sent` counts its frames; `slot` belongs to the timer wheel."""

    id: str
    user: str
    sent: int
    slot: int
    stats: TransportStats

    @property
    def transport(self) -> Transport:
        """What takes the frames of a fan-out."""

    @property
    def encoder(self) -> PushEncoder:
        """The wire format in which this client gets pushes."""

    def send(self, frame: Frame) -> None:
        """Queue a frame whose messages and bytes the caller counts."""

    async def catch_up(self, frames: Sequence[Frame], left: Callable[[], bool]) -> bool:
        """Queue frames for this client alone, once it has taken those before; False when it has gone, or has `left`."""

    def tick(self, now: float) -> float:
        """Do what is due at `now` and return when to tick next, in seconds of `time.monotonic`."""

    def lose_state(self, channel: str) -> None:
        """End the subscription to `channel`: publications that the client must get there are no longer available."""

    def drop_revoked(self, refuses: Callable[[TokenFacts], bool]) -> TokenFacts | None:
        """End what depends on a token that `refuses` returns true for; return the token if it was the connection's."""
