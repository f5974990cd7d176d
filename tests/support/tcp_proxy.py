"""A TCP proxy of the test's own between a client and a server: it cuts, refuses, holds back and injects."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

CHUNK = 65536


class ProxiedConnection:
    """One connection through the proxy.

    `sent` is the beginning of what its client sent, `answered` whether the server sent something after the client did,
    `undelivered` what came for the client when it had gone.
    """

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.sent = b""
        self.answered = True
        self.undelivered = b""

    def cut(self) -> None:
        """End both sides at once."""
        self.client.transport.abort()
        self.server.transport.abort()


class TcpProxy:
    """Passes connections on to a loopback port, `upstream`, which may change for those that come.

    `refuse` is asked with the beginning of what a client sent, each time it sends more, and cuts it when true.
    `swallow` is asked with each piece that the server sends, and keeps it when true. Each piece takes `delay` seconds
    longer. `round_trips` counts how often a client sent something after its server had answered.
    """

    def __init__(self, port: int) -> None:
        self.connections: list[ProxiedConnection] = []
        self.away = False
        self.refuse: Callable[[bytes], bool] = lambda sent: False
        self.swallow: Callable[[bytes], bool] = lambda piece: False
        self.delay = 0.0
        self.round_trips = 0
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
        for connection in tuple(self.connections):
            connection.cut()

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
        connection = ProxiedConnection(writer, to_server)
        self.connections.append(connection)
        try:
            await asyncio.gather(self._to_server(connection, reader), self._to_client(connection, from_server))
        except OSError:
            pass
        finally:
            connection.cut()
            self.connections.remove(connection)

    async def _to_server(self, connection: ProxiedConnection, reader: asyncio.StreamReader) -> None:
        while piece := await reader.read(CHUNK):
            connection.sent = (connection.sent + piece)[:CHUNK]
            self.round_trips += connection.answered
            connection.answered = False
            if self.refuse(connection.sent):
                break
            connection.server.write(piece)
            await connection.server.drain()
        connection.cut()

    async def _to_client(self, connection: ProxiedConnection, reader: asyncio.StreamReader) -> None:
        while piece := await reader.read(CHUNK):
            connection.answered = True
            if not self.swallow(piece):
                await self._hold_back()
                if connection.client.is_closing():
                    connection.undelivered += piece
                connection.client.write(piece)
                await connection.client.drain()
        connection.cut()

    async def _hold_back(self) -> None:
        """Wait for `delay` seconds, or until the proxy ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.delay):
                await self._ended.wait()
