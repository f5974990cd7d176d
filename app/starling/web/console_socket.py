"""The console's socket of a worker: a line of JSON asks, lines of JSON answer.

The internal process connects to it, and has found out who asks. Only the owner of the runtime directory can connect.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol

import msgspec
import structlog
from msgspec import Raw, Struct

from starling.web.api_errors import invalid

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.console")

# Of a body of 1 MiB, whose characters may be written in several bytes each here.
REQUEST_BYTES = 2**23
# starling.server.console.link has it too: the two layers share no code.
SUFFIX = ".console"


class ConsoleRequest(Struct):
    """What a user of the console asks: a method with its fields."""

    method: str
    body: Raw = Raw(b"{}")


class ConsoleHandler(Protocol):
    """What answers; starling.web.console has it."""

    def answer(self, request: ConsoleRequest) -> AsyncGenerator[bytes]:
        """The answers, a line of JSON each."""


@asynccontextmanager
async def console_socket(path: Path, handler: ConsoleHandler) -> AsyncIterator[None]:
    """Answer at `path` while the context lasts."""
    decode = msgspec.json.Decoder(ConsoleRequest).decode

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await reader.readuntil(b"\n")
            try:
                request = decode(line)
            except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
                writer.write(msgspec.json.encode({"error": invalid(error)}) + b"\n")
                return
            async with aclosing(handler.answer(request)) as lines:
                async for answer in lines:
                    # uvloop raises RuntimeError where something is written to a closed socket.
                    if reader.at_eof() or writer.is_closing():
                        break
                    writer.write(answer + b"\n")
                    await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError) as error:
            log.debug("console_request_failed", error=str(error))
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    _remove(path)
    # Files of the runtime directory are its owner's alone.
    server = await asyncio.start_unix_server(serve, path, limit=REQUEST_BYTES)
    try:
        yield
    finally:
        server.close()
        _remove(path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
