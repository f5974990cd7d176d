"""Receivers that record what a client would get: what the engine sees of a connection, without a socket."""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from starling.engine.receiver import PushEncoder, TokenFacts
from starling.protocol.codes import Disconnect, Error
from starling.protocol.messages import Batch, Frame, Push
from starling.telemetry.metrics import TransportStats

_ids = count(1)


class RecordingTransport:
    """Keeps what would be written to a socket."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.closed_with: tuple[int, str] | None = None
        self.reading = True

    def send_frame(self, frame: Frame) -> None:
        self.frames.append(frame)

    def send_batch(self, batch: Batch) -> None:
        self.frames += batch.frames

    queue_batch = send_batch

    @property
    def payloads(self) -> list[bytes]:
        return [frame.payload for frame in self.frames]

    def ping(self) -> None: ...

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    replies_wait = False

    def takes_replies(self) -> bool:
        return False

    def close(self, code: int, reason: str = "") -> None:
        self.closed_with = (code, reason)


class DataEncoder:
    """Encodes the data of a publication alone, and `left` for everything else."""

    def encode_push(self, push: Push) -> Frame:
        return Frame(bytes(push.pub.data) if push.pub else b"left", text=True)


DATA = DataEncoder()


class FakeReceiver:
    """Implements starling.engine.receiver.Receiver."""

    encoder: PushEncoder = DATA

    def __init__(self, user: str = "", *, transport: Any = None, stats: TransportStats | None = None) -> None:
        self.id = f"receiver-{next(_ids)}"
        self.user = user
        self.sent = 0
        self.slot = -1
        self.stats = stats or TransportStats(slow_code=1013)
        self.transport: Any = transport or RecordingTransport()
        self.refused: Error | Disconnect | None = None
        self.lost: list[str] = []
        self.revoked: TokenFacts | None = None
        self.token: TokenFacts | None = None

    @property
    def frames(self) -> list[Frame]:
        frames: list[Frame] = self.transport.frames
        return frames

    def send(self, frame: Frame) -> None:
        self.sent += 1
        self.transport.send_frame(frame)

    async def catch_up(self, frames: Sequence[Frame], left: Callable[[], bool]) -> bool:
        for frame in frames:
            self.send(frame)
        return True

    def tick(self, now: float) -> float:
        return now + 60

    def refuse(self, reason: Error | Disconnect) -> None:
        self.refused = reason

    def lose_state(self, channel: str) -> None:
        self.lost.append(channel)

    def drop_revoked(self, refuses: Callable[[TokenFacts], bool]) -> TokenFacts | None:
        if self.token is None or not refuses(self.token):
            return None
        self.revoked = self.token
        return self.token
