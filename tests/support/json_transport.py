"""The transport of a client of the real-time protocol over JSON, in the place of a socket: it keeps what is written."""

import json
from typing import Any

from starling.engine.transport import Batch, Frame


class JsonTransport:
    """The lines that were sent, and the code and reason of the first close."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.closed_with: tuple[int, str] | None = None

    def send_frame(self, frame: Frame) -> None:
        self.lines += map(json.loads, frame.payload.splitlines())

    def send_batch(self, batch: Batch) -> None:
        for frame in batch.frames:
            self.send_frame(frame)

    queue_batch = send_batch

    def ping(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    replies_wait = False

    def takes_replies(self) -> bool:
        return False

    def close(self, code: int, reason: str = "") -> None:
        self.closed_with = self.closed_with or (code, reason)

    @property
    def pushes(self) -> list[dict[str, Any]]:
        """What came by itself, in answer to no command."""
        return [line["push"] for line in self.lines if "push" in line]
