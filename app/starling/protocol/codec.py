"""The seam between frames and messages: one interface, a codec for each wire format."""

from collections.abc import Iterable
from typing import Protocol

from starling.protocol.codes import Disconnect
from starling.protocol.commands import Command
from starling.protocol.messages import Reply

# A client that reconnects sends the subscriptions of all its channels in one frame, and some commands of its own.
COMMANDS_PER_FRAME = 1000
COMMANDS_BEYOND_CHANNELS = 100


def commands_per_frame(channels: int) -> int:
    """Return how many commands a frame may hold where a connection may be in `channels` channels."""
    return max(COMMANDS_PER_FRAME, channels + COMMANDS_BEYOND_CHANNELS)


class Codec(Protocol):
    """Turns frames into commands and replies into frames; keeps no state, so one serves every connection."""

    name: str
    """`json` or `protobuf`: what is encoded once per wire format is kept under this."""

    subprotocol: str
    """The WebSocket subprotocol that asks for this format."""

    text: bool
    """Whether its frames are text frames."""

    def decode(self, frame: str | bytes, limit: int = COMMANDS_PER_FRAME) -> list[Command] | Disconnect:
        """The commands of one frame in their order, 1 to `limit`, or the 3501 that ends the connection.

        Never raises, whatever the bytes. Whether a command is legal is the session's question.
        """

    def encode(self, reply: Reply) -> bytes:
        """One reply, push or ping (`Reply()`), which is also a whole frame by itself.

        Raises CommandRefused with 3506 where the format cannot carry a payload: binary data to a JSON client.
        """

    def leave_out_unreadable(self, reply: Reply) -> int:
        """Take out of `reply` what other clients brought and this format cannot carry; returns how many there were.

        Publications are left out, and members of presence lose their info.
        """

    def join(self, replies: Iterable[bytes]) -> bytes:
        """Several encoded replies as one frame."""
