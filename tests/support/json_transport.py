"""The transport of a client of the real-time protocol over JSON, in the place of a socket: it keeps what is written."""

import json
from typing import Any

from starling.protocol.messages import Batch, Frame
from tests.support.fake_receivers import RecordingTransport


class JsonTransport(RecordingTransport):
    """The lines that were sent, and the code and reason of the first close."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []

    def send_frame(self, frame: Frame) -> None:
        super().send_frame(frame)
        self.lines += map(json.loads, frame.payload.splitlines())

    def send_batch(self, batch: Batch) -> None:
        for frame in batch.frames:
            self.send_frame(frame)

    queue_batch = send_batch

    def close(self, code: int, reason: str = "") -> None:
        self.closed_with = self.closed_with or (code, reason)

    @property
    def pushes(self) -> list[dict[str, Any]]:
        """What came by itself, in answer to no command."""
        return [line["push"] for line in self.lines if "push" in line]
