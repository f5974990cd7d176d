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

    __slots__ = ("_at_once", "_closed", "_drained", "_most", "_turn", "transport")

    def __init__(self, at_once: int = 1, most: int = 1) -> None:
        """`at_once` are the reads that may be under way at a time, until `widen` makes them `most`."""
        self._turn = asyncio.Semaphore(at_once)
        self._at_once = at_once
        self._most = most
        # Only while a read waits for the client: it takes a kilobyte.
        self._drained: asyncio.Event | None = None
        self._closed = False
        self.transport: Transport | None = None

    async def enter(self) -> None:
        """Wait for the turn, and until the client has taken the replies before."""
        await self._turn.acquire()
        try:
            while not self._closed and self.transport is not None and self.transport.replies_wait:
                self._drained = self._drained or asyncio.Event()
                await self._drained.wait()
        except BaseException:
            self._turn.release()
            raise
        if self._closed:
            self._turn.release()
            raise CommandRefused(ERROR_INTERNAL)

    def leave(self) -> None:
        """Let the next one through."""
        self._turn.release()

    async def __aenter__(self) -> None:
        """See `enter`."""
        await self.enter()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the next one through, once it shows whether the answer waits: it is written at the end of this tick."""
        try:
            await asyncio.sleep(0)
        finally:
            self.leave()

    def widen(self) -> None:
        """Let one more through at a time, since the client's reads are small."""
        if self._at_once < self._most:
            self._at_once += 1
            self._turn.release()

    def drained(self) -> None:
        """The client has taken what waited."""
        waited, self._drained = self._drained, None
        if waited is not None:
            waited.set()

    def close(self) -> None:
        """The client is gone."""
        self._closed = True
        self.drained()


class RecoveryTurn:
    """The turn of one subscription at a gate, or at none, until it is answered or its context ends.

    What follows its answer comes as fast as the client takes it, and may last as long as a stream does.
    """

    __slots__ = ("_gate", "_lasts")

    def __init__(self, gate: ReadGate | None) -> None:
        """`gate` None: the subscription reads little, and waits for no other."""
        self._gate = gate
        self._lasts = False

    async def __aenter__(self) -> None:
        """Wait for the turn. Raises CommandRefused when the client has gone meanwhile."""
        if self._gate is not None:
            await self._gate.enter()
            self._lasts = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, where it lasts yet."""
        self.end()

    def answered(self, size: int) -> None:
        """End it with an answer of `size` bytes; while these are small, more and more go at a time."""
        if self._gate is not None and size <= SMALL_RECOVERY:
            self._gate.widen()
        self.end()

    def end(self) -> None:
        """Let the next one through, once the answer is written at the end of this tick, and shows whether it waits."""
        if self._gate is not None and self._lasts:
            self._lasts = False
            asyncio.get_running_loop().call_soon(self._gate.leave)


class ReadGates:
    """The gates of one client, each from its first use on."""

    __slots__ = ("_closed", "_reading", "_recovering", "transport")

    def __init__(self, *, closed: bool) -> None:
        """`closed`: the client is gone already, and what it waited for comes too late."""
        self._closed = closed
        self._reading: ReadGate | None = None
        self._recovering: ReadGate | None = None
        self.transport: Transport | None = None
        """Nothing is let through while replies wait in it."""

    @property
    def reading(self) -> ReadGate:
        """What large reads go through, one at a time."""
        if self._reading is None:
            self._reading = self._made(ReadGate())
        self._reading.transport = self.transport
        return self._reading

    @property
    def recovering(self) -> ReadGate:
        """What subscriptions go through that may bring much, a few at a time."""
        if self._recovering is None:
            self._recovering = self._made(ReadGate(RECOVERIES_AT_ONCE, SMALL_RECOVERIES_AT_ONCE))
        self._recovering.transport = self.transport
        return self._recovering

    def _made(self, gate: ReadGate) -> ReadGate:
        if self._closed:
            gate.close()
        return gate

    def drained(self) -> None:
        """The client has taken what waited."""
        for gate in (self._reading, self._recovering):
            if gate is not None:
                gate.drained()

    def close(self) -> None:
        """The client is gone."""
        self._closed = True
        for gate in (self._reading, self._recovering):
            if gate is not None:
                gate.close()
