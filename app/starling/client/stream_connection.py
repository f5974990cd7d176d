"""Connections of the client protocol over a streamed response: their commands come by requests of their own."""

import secrets

from starling.client.authority import Handshake
from starling.client.client_connection import JSON, ClientConnection, Executor, JsonPushes
from starling.engine.transport import NO_CLOSE_FRAME, Frame, StreamFrame
from starling.protocol.codes import Disconnect
from starling.protocol.messages import DisconnectPush, Push, Reply

# Bytes of the secret that a client shows with each of its commands.
SECRET_BYTES = 24


class EmulatedConnection(ClientConnection):
    """A client that reads a stream and sends its commands by requests; subclasses name the format of the stream.

    Nothing is expected of an idle client: the transport notices one that is gone.
    """

    __slots__ = ("_first",)

    def __init__(self, executor: Executor, handshake: Handshake, first: str | bytes) -> None:
        """`first` holds the connect command."""
        super().__init__(executor, handshake, secret=secrets.token_urlsafe(SECRET_BYTES))
        self._first = first

    def begin(self) -> None:
        """Take the commands that came with the request."""
        first, self._first = self._first, b""
        self.on_message(first)

    def close(self, code: int, reason: str = "") -> None:
        """End the stream; a push says why, because there is no close frame."""
        self.engine.hub.flush(self)
        if code != NO_CLOSE_FRAME and self.close_code is None:
            self.transport.send_frame(self.goodbye(code, reason))
        self.transport.close(code, reason)

    def goodbye(self, code: int, reason: str) -> Frame:
        """The push that ends the stream."""
        reconnect = Disconnect(code, reason).reconnect if code >= 3000 else True
        push = Push(disconnect=DisconnectPush(code, reason, reconnect))
        return self.encoder.encode_push(push)


class JsonLines(JsonPushes):
    """Encodes pushes as lines of JSON in a stream."""

    def encode_push(self, push: Push) -> Frame:
        """One push as a line."""
        return StreamFrame(JSON.encode(Reply(push=push)) + b"\n")

    def encode_replies(self, replies: list[bytes]) -> Frame:
        """Encoded replies to one client, a line each."""
        return StreamFrame(JSON.join(replies) + b"\n")


class HttpStreamConnection(EmulatedConnection):
    """A client that reads a line of JSON for each reply and push."""

    __slots__ = ()

    kind = "http_stream"
    codec = JSON
    encoder = JsonLines()
