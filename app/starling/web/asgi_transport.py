"""The base of Transports over plain ASGI, for Starling on any other server: a queue, a reader and a writer."""

import asyncio
from abc import ABC, abstractmethod
from collections import deque

from starling.engine.transport import VANISHED, Handler
from starling.protocol.messages import Batch, Frame


class AsgiTransport(ABC):
    """A Transport whose subclasses read and write by ASGI messages; it has two tasks while it runs."""

    def __init__(self, handler: Handler, write_limit: int) -> None:
        """More than `write_limit` bytes waiting for the client make it too slow a reader."""
        self._handler = handler
        self._write_limit = write_limit
        self._frames: deque[Frame] = deque()
        self._waiting = 0
        self._wake = asyncio.Event()
        self._closing: tuple[int, str] | None = None
        self._overflowed = False

    # What subclasses define

    @abstractmethod
    def ping(self) -> None:
        """Ping the client; see starling.engine.transport.Transport."""

    @abstractmethod
    def pause_reading(self) -> None:
        """Take no more input of the client."""

    @abstractmethod
    def resume_reading(self) -> None:
        """Take input again."""

    @abstractmethod
    def takes_replies(self) -> bool:
        """Whether the client lives though it is not read from; see starling.engine.transport.Transport."""

    @abstractmethod
    async def _read(self) -> None:
        """Take what the client sends, until it has left."""

    @abstractmethod
    async def _send(self) -> None:
        """Take frames from the queue, at least one, and send them; this lasts while the client reads slowly."""

    @abstractmethod
    async def _end(self, code: int, reason: str) -> None:
        """Send the end."""

    # What the engine asks

    def send_frame(self, frame: Frame) -> None:
        """Queue a frame for the writer; after an overflow what was queued before it is dropped."""
        if self._closing is not None:
            return
        self._frames.append(frame)
        self._waiting += len(frame.payload)
        self._wake.set()
        if self._waiting > self._write_limit and not self._overflowed:
            self._overflowed = True
            self._drop()
            self._handler.on_overflow()

    def send_batch(self, batch: Batch) -> None:
        """Queue frames for the writer."""
        self.queue_batch(batch)

    def queue_batch(self, batch: Batch) -> None:
        """Queue frames for the writer."""
        for frame in batch.frames:
            self.send_frame(frame)

    @property
    def replies_wait(self) -> bool:
        """False: the server that sends bounds what waits."""
        return False

    def close(self, code: int, reason: str = "") -> None:
        """Have the writer end the conversation behind what is queued."""
        if self._closing is None:
            self._closing = (code, reason)
            self._wake.set()

    async def run(self) -> None:
        """Serve the client to its end."""
        tasks = {asyncio.create_task(self._read()), asyncio.create_task(self._write())}
        for task in tasks:
            task.add_done_callback(_retrieve)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            self._closing = self._closing or (VANISHED, "")
            self._handler.on_close(*self._closing)
        await asyncio.wait(tasks)

    # What subclasses use

    def _take(self) -> Frame:
        """The next frame to send, which no longer waits; raises IndexError where none does."""
        frame = self._frames.popleft()
        self._waiting -= len(frame.payload)
        return frame

    def _drop(self) -> None:
        """Forget what is queued."""
        self._frames.clear()
        self._waiting = 0

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._frames:
                await self._send()
            if self._closing is not None:
                await self._end(*self._closing)
                return


def _retrieve(task: asyncio.Task[None]) -> None:
    """Retrieve the exception of a lost client: `on_close` reports every end."""
    if not task.cancelled():
        task.exception()
