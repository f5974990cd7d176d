"""Send fuzzed input to a running service, and judge what the service did with it."""

import asyncio
import contextlib
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psutil

from tests.fuzz.inputs import BODY, FRAME, HEAD, KINDS, Inputs
from tests.server.serving import handshake
from tests.support.running import Starling

API_KEY = "a key of the fuzzing client alone"
CONNECTIONS = 12
# Inputs of one connection: few where the service closes it at the first wrong one, and does not read the rest.
INPUTS_OF_A_CONNECTION = {FRAME: 8, HEAD: 2, BODY: 40}
WARMING_INPUTS = 1500
ANSWER_SECONDS = 10.0
SETTLE_SECONDS = 60.0
# Memory that did not fall for this long is taken as it is.
STILL_SECONDS = 3.0
MOST_GROWTH = 1.10
TRACEBACK_CHARACTERS = 1200

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
# Of heads: a transfer coding that is not known (RFC 9112 section 6.1), and an HTTP version that is not served.
INTENDED = frozenset({"501", "505"})


@dataclass(slots=True)
class Outcome:
    """What was sent and what came of it; memory in bytes."""

    sent: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    closes: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    """Connections that the service neither answered to the end nor closed in time."""
    memory_before: int = 0
    memory_after: int = 0
    workers_lost: int = 0
    errors: list[str] = field(default_factory=list)
    """Lines of level error or critical in the log: the event, and the end of what was raised."""
    seconds: float = 0.0

    def faults(self) -> list[str]:
        """What must not be, in words; none where the service passed."""
        faults = [
            f"{count} answers have the status {status}"
            for status, count in sorted(self.statuses.items())
            if status.startswith("5") and status not in INTENDED
        ]
        if self.workers_lost:
            faults.append(f"{self.workers_lost} workers ended")
        if self.unanswered:
            faults.append(f"{self.unanswered} connections were neither answered nor closed in {ANSWER_SECONDS:g} s")
        if self.memory_after > self.memory_before * MOST_GROWTH:
            faults.append(f"memory grew from {self.memory_before} to {self.memory_after} bytes")
        return faults + [f"the log has {event}" for event in sorted(set(self.errors))]

    def text(self) -> str:
        """Lines for people."""
        return "\n".join(
            [
                f"{self.sent.total()} inputs in {self.seconds:.0f} s: "
                + ", ".join(f"{count} {kind}" for kind, count in sorted(self.sent.items())),
                "statuses: " + ", ".join(f"{status} {count}" for status, count in sorted(self.statuses.items())),
                "close codes: " + ", ".join(f"{code} {count}" for code, count in sorted(self.closes.items())),
                f"memory in MiB: {self.memory_before / 2**20:.1f} before, {self.memory_after / 2**20:.1f} after",
            ]
        )


class Fuzzer:
    """Sends inputs over several connections at once."""

    def __init__(self, starling: Starling, seed: int) -> None:
        self._starling = starling
        self._inputs = Inputs(seed)
        self._left = 0
        self.outcome = Outcome()

    async def run(self, inputs: int) -> Outcome:
        """Warm the service up, send that many inputs, and judge; memory is measured before and after."""
        outcome, workers = self.outcome, self._starling.workers
        started = time.monotonic()
        # Caches, code and buffers that every service has after its first clients.
        await self._send(WARMING_INPUTS + inputs // 20)
        outcome.memory_before = await self._settled(0)
        await self._send(inputs)
        outcome.memory_after = await self._settled(int(outcome.memory_before * MOST_GROWTH))
        outcome.seconds = time.monotonic() - started
        outcome.workers_lost = len(set(workers) - set(self._starling.workers))
        lines = self._starling.lines
        outcome.errors = [_described(line) for line in lines if line.get("level") in ("error", "critical")]
        return outcome

    async def _send(self, inputs: int) -> None:
        self._left = inputs
        async with asyncio.TaskGroup() as group:
            for number in range(CONNECTIONS):
                group.create_task(self._connections(KINDS[number % len(KINDS)]))

    async def _connections(self, kind: str) -> None:
        while self._left > 0:
            count = min(self._left, INPUTS_OF_A_CONNECTION[kind])
            self._left -= count
            with contextlib.suppress(ConnectionError):
                await self._connection(kind, count)
            self.outcome.sent[kind] += count

    async def _connection(self, kind: str, count: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._starling.port)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                if kind == FRAME:
                    writer.write(handshake("/connection/websocket"))
                    await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._inputs.connect())
                    writer.write(b"".join(self._inputs.frame() for _ in range(count)))
                elif kind == HEAD:
                    writer.write(b"".join(self._inputs.head() for _ in range(count)))
                else:
                    writer.write(b"".join(self._request(*self._inputs.body()) for _ in range(count)))
                writer.write_eof()
                answer = await reader.read(-1)
        except TimeoutError:
            self.outcome.unanswered += 1
        except asyncio.IncompleteReadError as refused:
            self.outcome.statuses.update(_statuses(refused.partial))
        else:
            if kind == FRAME:
                self.outcome.closes[_close_code(answer)] += 1
            else:
                self.outcome.statuses.update(_statuses(answer))
        finally:
            writer.transport.abort()

    def _request(self, method: str, body: bytes) -> bytes:
        head = f"POST /api/{method} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {API_KEY}\r\nContent-Length: {len(body)}"
        return f"{head}\r\n\r\n".encode() + body

    async def _settled(self, enough: int) -> int:
        """Memory of the workers, once it is at most `enough`, or no longer falls."""
        end = time.monotonic() + SETTLE_SECONDS
        least = self._memory()
        lowest_at = time.monotonic()
        while least > enough and time.monotonic() < end and time.monotonic() - lowest_at < STILL_SECONDS:
            await asyncio.sleep(0.5)
            if (now := self._memory()) < least:
                least, lowest_at = now, time.monotonic()
        return least

    def _memory(self) -> int:
        return sum(psutil.Process(worker).memory_info().rss for worker in self._starling.workers)


def _described(line: dict[str, Any]) -> str:
    return f"{line['event']}: {str(line.get('exception', line))[-TRACEBACK_CHARACTERS:]}"


def _statuses(answer: bytes) -> list[str]:
    return [status.decode() for status in _STATUS.findall(answer)]


def _close_code(answer: bytes) -> str:
    """The code of the close frame that ends the answer, or `none`."""
    at = answer.rfind(b"\x88")
    if at < 0 or at + 4 > len(answer) or len(answer) != at + 2 + answer[at + 1]:
        return "none"
    return str(int.from_bytes(answer[at + 2 : at + 4]))
