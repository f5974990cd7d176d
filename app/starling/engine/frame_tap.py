"""The frame tap: what a node sees of captured frames. Without a capture the hub has no tap, and nothing is done."""

from collections.abc import Iterable
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from starling.clocks import wall_milliseconds
from starling.engine.hub import Hub, SubscriberIndex
from starling.engine.receiver import Receiver
from starling.protocol.commands import Command
from starling.protocol.messages import Push, Reply
from starling.protocol.shown import shown

# Events that wait to be reported; further ones are dropped and counted.
EVENTS_WAITING = 200
# Frames remembered for later ones: the connect of a client whose user is not known yet, the channel of a reply.
_REMEMBERED = 1000
# A frame whose JSON is larger is reported by its kind alone, so that every broker can carry it.
_EVENT_BYTES = 4000

Key = TypeVar("Key")
Value = TypeVar("Value")


class Event(Struct, omit_defaults=True):
    """One frame, as it is reported. `time` in milliseconds since 1970; `direction` is in, out, or end.

    A push to many clients of the node is reported once, with their number in `clients`.
    """

    time: int
    node: str
    direction: str
    user: str = ""
    client: str = ""
    clients: int = 0
    frame: Raw = Raw(b"{}")


class Capture:
    """One capture in this node: its user or channel, and the events that wait to be reported."""

    def __init__(self, user: str, channel: str, *, payload: bool) -> None:
        self.user = user
        self.channel = channel
        self.payload = payload
        self.events: list[Raw] = []
        self.dropped = 0
        self.ends_at = 0.0
        """When it ends unless it is renewed, on the clock of `time.monotonic`."""

    def take(self) -> tuple[list[Raw], int]:
        """What waits, and how many were dropped since the last time."""
        taken = self.events, self.dropped
        self.events, self.dropped = [], 0
        return taken


class FrameTap:
    """Looks at every frame of this node while some capture is on."""

    def __init__(self, hub: Hub, node: str) -> None:
        """`node` is this node's name."""
        self.captures: dict[str, Capture] = {}
        self._hub = hub
        self._node = node
        self._connecting: dict[str, Command] = {}
        self._asked: dict[tuple[str, int], str] = {}

    def received(self, receiver: Receiver, commands: Iterable[Command]) -> None:
        """Commands came from a client."""
        for command in commands:
            if command.connect is not None and not receiver.user:
                _remember(self._connecting, receiver.id, command)
            channels = _channels_of(command)
            for channel in channels:
                _remember(self._asked, (receiver.id, command.id), channel)
            for capture in self._of(receiver.user, channels):
                self._note(capture, "in", command, receiver)

    def replied(self, receiver: Receiver, reply: Reply) -> None:
        """A reply, a push or a ping goes to one client."""
        channel = self._asked.pop((receiver.id, reply.id), "") if reply.id else ""
        channels = {channel} if channel else set()
        if reply.push is not None:
            channels.add(reply.push.channel)
        if reply.connect is not None:
            channels.update(reply.connect.subs)
        connect = self._connecting.pop(receiver.id, None) if reply.id else None
        for capture in self._of(receiver.user, channels):
            if connect is not None and capture.user:
                # Only now is its user known.
                self._note(capture, "in", connect, receiver)
            self._note(capture, "out", reply, receiver)

    def pushed(self, push: Push, subscribers: SubscriberIndex) -> None:
        """A push goes to all receivers of its channel in `subscribers`."""
        reply = Reply(push=push)
        for capture in self.captures.values():
            if capture.channel == push.channel:
                if clients := subscribers.count(push.channel):
                    self._note(capture, "out", reply, clients=clients)
            elif capture.user:
                for receiver in self._hub.users.of(capture.user):
                    if subscribers.group_of(push.channel, receiver) is not None:
                        self._note(capture, "out", reply, receiver)

    def closed(self, receiver: Receiver, code: int, reason: str) -> None:
        """A client has gone."""
        self._connecting.pop(receiver.id, None)
        for capture in self._of(receiver.user, ()):
            self._add(capture, "end", {"close": {"code": code, "reason": reason}}, receiver)

    def _of(self, user: str, channels: Iterable[str]) -> list[Capture]:
        return [
            capture
            for capture in self.captures.values()
            if (capture.user and capture.user == user) or (capture.channel and capture.channel in channels)
        ]

    def _note(
        self,
        capture: Capture,
        direction: str,
        message: Command | Reply,
        receiver: Receiver | None = None,
        *,
        clients: int = 0,
    ) -> None:
        if len(capture.events) < EVENTS_WAITING:
            self._add(capture, direction, shown(message, payload=capture.payload), receiver, clients=clients)
        else:
            capture.dropped += 1

    def _add(
        self,
        capture: Capture,
        direction: str,
        frame: dict[str, object],
        receiver: Receiver | None,
        *,
        clients: int = 0,
    ) -> None:
        if len(capture.events) >= EVENTS_WAITING:
            capture.dropped += 1
            return
        encoded = msgspec.json.encode(frame)
        if len(encoded) > _EVENT_BYTES:
            kinds = {name: value if name == "id" else "too large to show" for name, value in frame.items()}
            encoded = msgspec.json.encode({**kinds, "bytes": len(encoded)})
        event = Event(wall_milliseconds(), self._node, direction, clients=clients, frame=Raw(encoded))
        if receiver is not None:
            event.user, event.client = receiver.user, receiver.id
        capture.events.append(Raw(msgspec.json.encode(event)))


def _remember(memory: dict[Key, Value], key: Key, value: Value) -> None:
    if len(memory) >= _REMEMBERED:
        del memory[next(iter(memory))]
    memory[key] = value


def _channels_of(command: Command) -> set[str]:
    channels = {channel for request in command.requests() if (channel := getattr(request, "channel", ""))}
    return channels | set(command.connect.subs) if command.connect is not None else channels
