"""A TCP proxy of the test's own between a client and a server: it cuts, refuses, holds back and injects."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

CHUNK = 65536


class Passage:
    """One connection through the proxy.

    `said` is the beginning of what its client sent, `answered` whether the server sent something after the client did,
    `undelivered` what came for the client when it had gone.
    """

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.said = b""
        self.answered = True
        self.undelivered = b""

    def cut(self) -> None:
        """End both sides at once."""
        self.client.transport.abort()
        self.server.transport.abort()


class Proxy:
    """Passes connections on to a loopback port, `upstream`, which may change for those that come.

    `refuse` is asked with the beginning of what a client said, each time it says more, and cuts it when true; `swallow`
    is asked with each piece that the server sends, and keeps it when true. Each piece takes `delay` seconds longer.
    `questions` counts how often a client sent something after its server had answered: the round trips.
    """

    def __init__(self, port: int) -> None:
        self.passages: list[Passage] = []
        self.away = False
        self.refuse: Callable[[bytes], bool] = lambda said: False
        self.swallow: Callable[[bytes], bool] = lambda piece: False
        self.delay = 0.0
        self.questions = 0
        self.port = 0
        self.upstream = port
        self._server: asyncio.Server
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """For a Redis client."""
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self) -> None:
        """Cut every connection now."""
        for passage in tuple(self.passages):
            passage.cut()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()
        self._ended.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            if self.away:
                raise ConnectionRefusedError
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self.upstream)
        except OSError:
            writer.transport.abort()
            return
        passage = Passage(writer, to_server)
        self.passages.append(passage)
        try:
            await asyncio.gather(self._forth(passage, reader), self._back(passage, from_server))
        except OSError:
            pass
        finally:
            passage.cut()
            self.passages.remove(passage)

    async def _forth(self, passage: Passage, reader: asyncio.StreamReader) -> None:
        while piece := await reader.read(CHUNK):
            passage.said = (passage.said + piece)[:CHUNK]
            self.questions += passage.answered
            passage.answered = False
            if self.refuse(passage.said):
                break
            passage.server.write(piece)
            await passage.server.drain()
        passage.cut()

    async def _back(self, passage: Passage, reader: asyncio.StreamReader) -> None:
        while piece := await reader.read(CHUNK):
            passage.answered = True
            if not self.swallow(piece):
                await self._hold_back()
                if passage.client.is_closing():
                    passage.undelivered += piece
                passage.client.write(piece)
                await passage.client.drain()
        passage.cut()

    async def _hold_back(self) -> None:
        """Wait for `delay` seconds, or until the proxy ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.delay):
                await self._ended.wait()
