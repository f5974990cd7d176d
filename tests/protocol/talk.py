"""A client's conversation with a session, written as the JSON that travels."""

import json
from typing import Any, TypeVar

from msgspec import Raw

from starling.protocol.codec_json import JsonCodec
from starling.protocol.decisions import Action, Authenticate, Close, Decision, EndSubscription, Ping, Subscribe, Write
from starling.protocol.messages import NO_PAYLOAD, ConnectResult, SubscribeResult
from starling.protocol.options import SessionLimits
from starling.protocol.session import Session

A = TypeVar("A", bound=Action)

START = 1000.0

codec = JsonCodec()


def plain(decision: Decision) -> Any:
    """A decision as a value to compare: JSON of what is written, the code of a close, the name of an action."""
    match decision:
        case Write(reply):
            return json.loads(codec.encode(reply))
        case Close(disconnect):
            return disconnect.code
        case Ping():
            return "ping"
        case EndSubscription():
            return f"end {decision.channel}"
        case _:
            return type(decision).__name__


class Talk:
    """One session and its clock. `said` is what the last step led to, as plain values; `decisions` are the same."""

    def __init__(self, limits: SessionLimits | None = None, *, publish_in_turn: bool = False) -> None:
        self.now = START
        self.session = Session(limits or SessionLimits(), self.now, publish_in_turn=publish_in_turn)
        self.decisions: list[Decision] = []

    @property
    def said(self) -> list[Any]:
        """What the last step led to."""
        return [plain(decision) for decision in self.decisions]

    def send(self, *commands: dict[str, Any]) -> list[Any]:
        """The client sends a frame of commands."""
        frame = codec.decode("\n".join(json.dumps(command) for command in commands))
        assert isinstance(frame, list), f"refused: {frame}"
        self.decisions = [decision for command in frame for decision in self.session.receive(command, self.now)]
        return self.said

    def then(self, decisions: list[Decision]) -> list[Any]:
        """Something else led to these decisions."""
        self.decisions = decisions
        return self.said

    def action(self, kind: type[A]) -> A:
        """The one action of this kind that the last step led to."""
        [action] = [decision for decision in self.decisions if isinstance(decision, kind)]
        return action

    def pass_time(self, seconds: float) -> list[Any]:
        """Time goes by, and the session is asked whenever it wants to be."""
        end = self.now + seconds
        decisions: list[Decision] = []
        while self.session.deadline <= end:
            self.now = self.session.deadline
            decisions += self.session.tick(self.now)
        self.now = end
        decisions += self.session.tick(end)
        return self.then(decisions)

    def connect(self, ttl: float | None = None, **subs: SubscribeResult) -> "Talk":
        """The client connects and is known."""
        self.send({"id": 1, "connect": {}})
        self.then(
            self.session.connected(self.action(Authenticate), ConnectResult(client="c1", subs=subs), self.now, ttl=ttl)
        )
        return self

    def subscribe(self, channel: str, ttl: float | None = None, chan_info: Raw = NO_PAYLOAD) -> "Talk":
        """The client enters a channel."""
        self.send({"id": 2, "subscribe": {"channel": channel}})
        action = self.action(Subscribe)
        self.then(self.session.subscribed(action, SubscribeResult(), self.now, ttl=ttl, chan_info=chan_info))
        return self
