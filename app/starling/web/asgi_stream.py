"""A streamed response over plain ASGI, for Starling on any other server: a writer and a watcher for each client."""

import asyncio
from collections import deque

from starlette.types import Receive, Send

from starling.engine.direct_request import StreamResponse
from starling.engine.transport import Batch, Frame, Handler

_VANISHED = 1006


class AsgiStreams:
    """The streams that are open over plain ASGI, which no server of ours ends."""

    def __init__(self) -> None:
        self._open: set[Handler] = set()

    async def serve(self, response: StreamResponse, receive: Receive, send: Send) -> None:
        """Send `response`, until its connection ends or the client leaves."""
        await send({"type": "http.response.start", "status": 200, "headers": list(response.headers)})
        await send({"type": "http.response.body", "body": response.beginning, "more_body": True})
        connection = response.connection
        transport = AsgiStreamTransport(connection, response.write_limit)
        self._open.add(connection)
        try:
            connection.open(transport, response.address)
            connection.begin()
            await transport.run(receive, send)
        finally:
            self._open.discard(connection)

    def shutdown(self) -> None:
        """Disconnect all clients, because this process stops."""
        for handler in tuple(self._open):
            handler.on_shutdown()


class AsgiStreamTransport:
    """A Transport over plain ASGI."""

    def __init__(self, handler: Handler, write_limit: int) -> None:
        self._handler = handler
        self._write_limit = write_limit
        self._frames: deque[Frame] = deque()
        self._waiting = 0
        self._wake = asyncio.Event()
        self._closing: tuple[int, str] | None = None
        self._overflowed = False

    def send_frame(self, frame: Frame) -> None:
        """Queue a frame for the writer."""
        if self._closing is not None:
            return
        self._frames.append(frame)
        self._waiting += len(frame.payload)
        self._wake.set()
        if self._waiting > self._write_limit and not self._overflowed:
            self._overflowed = True
            # A client that does not read gets nothing of this but the push that ends its stream.
            self._frames.clear()
            self._handler.on_overflow()

    def send_batch(self, batch: Batch) -> None:
        """Queue frames for the writer."""
        self.queue_batch(batch)

    def queue_batch(self, batch: Batch) -> None:
        """Queue frames for the writer."""
        for frame in batch.frames:
            self.send_frame(frame)

    def ping(self) -> None:
        """Do nothing: what keeps a stream alive is a frame of its own."""

    def pause_reading(self) -> None:
        """Do nothing: the client's commands come by other requests."""

    def resume_reading(self) -> None:
        """Have the handler go on, after this tick, with the commands that wait there."""
        asyncio.get_running_loop().call_soon(self._handler.on_drained)

    @property
    def replies_wait(self) -> bool:
        """False: the server that sends bounds what waits."""
        return False

    def takes_replies(self) -> bool:
        """True: the server that sends notices a client that is gone."""
        return True

    def close(self, code: int, reason: str = "") -> None:
        """Let the writer end the response."""
        if self._closing is None:
            self._closing = (code, reason)
            self._wake.set()

    async def run(self, receive: Receive, send: Send) -> None:
        """Serve the response to its end."""
        tasks = {asyncio.create_task(self._watch(receive)), asyncio.create_task(self._write(send))}
        for task in tasks:
            task.add_done_callback(_retrieve)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            self._closing = self._closing or (_VANISHED, "")
            self._handler.on_close(*self._closing)
        await asyncio.wait(tasks)

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def _write(self, send: Send) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._frames:
                frames = list(self._frames)
                self._frames.clear()
                self._waiting = 0
                await send(
                    {
                        "type": "http.response.body",
                        "body": b"".join([frame.payload for frame in frames]),
                        "more_body": True,
                    }
                )
            if self._closing is not None:
                await send({"type": "http.response.body", "body": b""})
                return


def _retrieve(task: asyncio.Task[None]) -> None:
    """Retrieve the exception of a lost client: `on_close` reports every end of a stream."""
    if not task.cancelled():
        task.exception()
