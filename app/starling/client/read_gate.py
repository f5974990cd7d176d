"""The order of one client's large reads: a few at a time, and none while replies wait for the client."""

import asyncio
from types import TracebackType

from starling.engine.transport import Transport
from starling.protocol.codes import ERROR_INTERNAL, CommandRefused

# A recovery reads up to ANSWER_BYTES of the store, over a connection that the subscriptions of all clients use.
RECOVERIES_AT_ONCE = 8
# As long as they are small, more and more at a time. Bytes.
SMALL_RECOVERY = 16384
SMALL_RECOVERIES_AT_ONCE = 32


class ReadGate:
    """Lets a few reads of a client through at a time, so that its reads delay nobody else's and fill no buffer.

    Entering raises CommandRefused when the client has gone meanwhile.
    """

    def __init__(self, at_once: int = 1, most: int = 1) -> None:
        """`at_once` are the reads that may be under way at a time, until `widen` makes them `most`."""
        self._turn = asyncio.Semaphore(at_once)
        self._at_once = at_once
        self._most = most
        self._drained = asyncio.Event()
        self._closed = False
        self.transport: Transport | None = None

    async def __aenter__(self) -> None:
        """Wait for the turn, and until the client has taken the replies before."""
        await self._turn.acquire()
        try:
            while not self._closed and self.transport is not None and self.transport.replies_wait:
                self._drained.clear()
                await self._drained.wait()
        except BaseException:
            self._turn.release()
            raise
        if self._closed:
            self._turn.release()
            raise CommandRefused(ERROR_INTERNAL)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the next one through, once it shows whether the answer waits: it is written at the end of this tick."""
        try:
            if self._at_once == 1:
                await asyncio.sleep(0)
        finally:
            self._turn.release()

    def widen(self) -> None:
        """Let one more through at a time, since the client's reads are small."""
        if self._at_once < self._most:
            self._at_once += 1
            self._turn.release()

    def drained(self) -> None:
        """The client has taken what waited."""
        self._drained.set()

    def close(self) -> None:
        """The client is gone."""
        self._closed = True
        self._drained.set()


class ReadGates:
    """The gates of one client."""

    __slots__ = ("reading", "recovering")

    def __init__(self) -> None:
        self.reading = ReadGate()
        """What its large reads go through."""
        self.recovering = ReadGate(RECOVERIES_AT_ONCE, SMALL_RECOVERIES_AT_ONCE)
        """What its subscriptions go through that recover publications."""

    def watch(self, transport: Transport) -> None:
        """Let nothing through while replies wait in `transport`."""
        self.reading.transport = self.recovering.transport = transport

    def drained(self) -> None:
        """The client has taken what waited."""
        self.reading.drained()
        self.recovering.drained()

    def close(self) -> None:
        """The client is gone."""
        self.reading.close()
        self.recovering.close()
