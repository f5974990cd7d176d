"""Captures: the frames of one user or one channel, gathered from every node for an operator who watches."""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec
from msgspec import Raw, Struct

from starling.engine.broker import BrokerUnavailable, PublicationTooLarge
from starling.engine.control import NodeCommand
from starling.engine.engine import Engine
from starling.engine.frame_tap import Capture, FrameTap
from starling.protocol.codes import Refused
from starling.protocol.messages import Publication

CAPTURE_SECONDS = 600.0
# Over all nodes at one time.
CAPTURES_LIMIT = 8
# Frames that the nodes reported and the watcher has not read; further ones are dropped and counted.
FRAMES_WAITING = 1000
# In the empty namespace, which no client of the real-time protocol can name.
_CHANNEL = ":capture:"
_FLUSH_SECONDS = 0.1
# A capture is renewed, so that nodes which start later join it, and ends where its watcher has vanished.
_RENEW_SECONDS = 3.0
_LEASE_SECONDS = 10.0
_REPORT_BYTES = 4500
# Seconds without a frame after which an empty line is sent, so that proxies do not end the response.
_KEEP_ALIVE_SECONDS = 10.0
_LOOK_SECONDS = 1.0


class CaptureRefused(Refused):
    """No more captures can be on; the message says how many there may be."""


class CaptureCommand(NodeCommand):
    """Publish the frames of `user`, or of `channel`, to the channel of capture `id`; with `stop`, end that."""

    id: str
    user: str = ""
    channel: str = ""
    payload: bool = False
    stop: bool = False


class CaptureReport(Struct, omit_defaults=True):
    """Frames that a node saw, each as JSON of an Event, and how many it dropped before them."""

    node: str
    events: list[Raw] = []
    dropped: int = 0


class Captures:
    """This node's part in all captures: it reports frames of its own clients, and serves the watchers that it has."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._frame_tap: FrameTap | None = None
        engine.control.on_command(CaptureCommand, self._carry_out)

    @asynccontextmanager
    async def watch(self, *, user: str = "", channel: str = "", payload: bool) -> AsyncIterator["Watching"]:
        """Have every node report the frames of `user` or `channel`, until the context ends.

        Raises CaptureRefused, BrokerUnavailable, and NodeCommandRefused where a node's version has no captures.
        """
        if self._frame_tap is not None and len(self._frame_tap.captures) >= CAPTURES_LIMIT:
            raise CaptureRefused(f"{CAPTURES_LIMIT} captures are on already: wait until one has ended")
        control = self._engine.control
        command = CaptureCommand(secrets.token_hex(8), user, channel, payload)
        watching = Watching(self._engine, command.id)
        async with control.listening(_CHANNEL + command.id, watching.on_report):
            renewing = asyncio.get_running_loop().create_task(self._renew(command))
            try:
                # With answers, because from here on every node that answers sees each frame.
                await control.ask(command)
                yield watching
            finally:
                renewing.cancel()
                with suppress(BrokerUnavailable):
                    await control.send(CaptureCommand(command.id, stop=True))

    async def _renew(self, command: CaptureCommand) -> None:
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            with suppress(BrokerUnavailable):
                await self._engine.control.send(command)

    def _carry_out(self, command: CaptureCommand) -> None:
        if command.stop:
            if self._frame_tap is not None:
                self._frame_tap.captures.pop(command.id, None)
                self._remove_unused()
            return
        if self._frame_tap is None:
            self._frame_tap = frame_tap = FrameTap(self._engine.hub, self._engine.node.name)
            self._engine.hub.frame_tap = frame_tap
            self._engine.tasks.start(self._publish(frame_tap))
        capture = self._frame_tap.captures.setdefault(
            command.id, Capture(command.user, command.channel, payload=command.payload)
        )
        capture.ends_at = time.monotonic() + _LEASE_SECONDS

    def _remove_unused(self) -> None:
        if self._frame_tap is not None and not self._frame_tap.captures:
            self._frame_tap = self._engine.hub.frame_tap = None

    async def _publish(self, frame_tap: FrameTap) -> None:
        """Publish what `frame_tap` has seen, until it has no captures."""
        while self._frame_tap is frame_tap:
            await asyncio.sleep(_FLUSH_SECONDS)
            now = time.monotonic()
            for number, capture in tuple(frame_tap.captures.items()):
                if capture.ends_at < now:
                    # It may have been stopped while the one before it was reported.
                    frame_tap.captures.pop(number, None)
                else:
                    await self._report(number, capture)
            self._remove_unused()

    async def _report(self, number: str, capture: Capture) -> None:
        events, dropped = capture.take()
        while events or dropped:
            report = CaptureReport(self._engine.node.name, dropped=dropped)
            size, dropped = 0, 0
            while events and (not report.events or size + len(bytes(events[0])) < _REPORT_BYTES):
                size += len(bytes(events[0]))
                report.events.append(events.pop(0))
            publication = Publication(data=Raw(msgspec.json.encode(report)))
            try:
                await self._engine.control.publish(_CHANNEL + number, publication)
            except (BrokerUnavailable, PublicationTooLarge):
                capture.dropped += len(report.events) + report.dropped


class Watching:
    """The reports of all nodes about one capture, on their way to its watcher."""

    def __init__(self, engine: Engine, number: str) -> None:
        self.id = number
        self.frames = 0
        self.dropped = 0
        self.ended = ""
        self._engine = engine
        self._waiting: deque[bytes] = deque()
        self._dropped: dict[str, int] = {}
        self._arrived = asyncio.Event()
        self._decode = msgspec.json.Decoder(CaptureReport).decode

    def stop(self, why: str) -> None:
        """Let `lines` end."""
        self.ended = self.ended or why
        self._arrived.set()

    def on_report(self, publication: Publication) -> None:
        """Take the report of a node."""
        report = self._decode(publication.data)
        room = max(0, FRAMES_WAITING - len(self._waiting))
        self._waiting += [bytes(event) for event in report.events[:room]]
        if dropped := report.dropped + max(0, len(report.events) - room):
            self._dropped[report.node] = self._dropped.get(report.node, 0) + dropped
        self._arrived.set()

    async def lines(self, seconds: float) -> AsyncGenerator[bytes, None]:
        """Lines of JSON for `seconds`: the capture itself, each frame, each number of dropped ones, and the end.

        An empty line means that nothing happened.
        """
        nodes = [info.name for info in self._engine.control.nodes()]
        yield _line({"capture": self.id, "seconds": seconds, "nodes": nodes})
        loop = asyncio.get_running_loop()
        ends_at, quiet_since = loop.time() + seconds, loop.time()
        while not self.ended:
            if taken := self._take():
                yield taken
                quiet_since = loop.time()
            now = loop.time()
            if now >= ends_at:
                self.stop("time is over")
            elif self._engine.readiness.draining:
                self.stop("this worker stops")
            elif now - quiet_since >= _KEEP_ALIVE_SECONDS:
                quiet_since = now
                yield b"\n"
            await self._rest(min(_LOOK_SECONDS, ends_at - now))
        if taken := self._take():
            yield taken
        yield _line({"ended": self.ended, "frames": self.frames, "dropped": self.dropped})

    async def _rest(self, seconds: float) -> None:
        """Wait until something arrives, for `seconds` at the most."""
        self._arrived.clear()
        if self._waiting or self.ended:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._arrived.wait()

    def _take(self) -> bytes:
        """The lines that wait."""
        lines = [event + b"\n" for event in self._waiting]
        self.frames += len(lines)
        self._waiting.clear()
        for node, dropped in self._dropped.items():
            self.dropped += dropped
            lines.append(_line({"dropped": dropped, "node": node}))
        self._dropped.clear()
        return b"".join(lines)


def _line(content: object) -> bytes:
    return msgspec.json.encode(content) + b"\n"
