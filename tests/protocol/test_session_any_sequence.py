"""Whatever a client says, whatever becomes of it, in whatever order: the promises of a session hold."""

import json
from itertools import count
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import Raw

from starling.protocol import codes
from starling.protocol.codec_json import JsonCodec
from starling.protocol.codec_protobuf import ProtobufCodec
from starling.protocol.commands import SubscribeRequest
from starling.protocol.decisions import (
    Action,
    Authenticate,
    Call,
    Close,
    Decision,
    Deliver,
    EndSubscription,
    History,
    Ping,
    Presence,
    PresenceStats,
    Publish,
    Refresh,
    SubRefresh,
    Subscribe,
    Write,
)
from starling.protocol.messages import (
    ConnectResult,
    HistoryResult,
    PresenceResult,
    PresenceStatsResult,
    PublishResult,
    Reply,
    RPCResult,
    SubscribeResult,
)
from starling.protocol.options import SessionLimits
from starling.protocol.session import QueryResult, Session
from starling.protocol.session_core import SessionState

CODECS = (JsonCodec(), ProtobufCodec())
LIMITS = SessionLimits(max_channels=3, pending=6, errors_per_minute=20, messages_per_second=3, message_burst=40)
RESULTS: dict[type, QueryResult] = {
    Publish: PublishResult(),
    Presence: PresenceResult(),
    PresenceStats: PresenceStatsResult(1, 1),
    History: HistoryResult(),
    Call: RPCResult(Raw(b"1")),
}

channels = st.sampled_from(["a", "b", "c", "d"])
# Mostly what lets a conversation go on, so that sequences grow long.
ttls = st.sampled_from([None] * 12 + [-1.0, 0.0, 5.0, 40.0])
of_a_channel = st.sampled_from(["subscribe", "subscribe", "unsubscribe", "presence", "presence_stats", "history"])
requests = st.one_of(
    st.builds(lambda name, channel: {name: {"channel": channel}}, of_a_channel, channels),
    st.builds(lambda name, channel: {name: {"channel": channel}}, of_a_channel, channels),
    st.builds(lambda channel: {"publish": {"channel": channel, "data": 1}}, channels),
    st.builds(lambda channel: {"sub_refresh": {"channel": channel, "token": "S"}}, channels),
    st.just({"refresh": {"token": "T"}}),
    st.just({"rpc": {"method": "m"}}),
    st.just({"ping": {}}),
    st.just({"publish": {"channel": ""}}),
)
reasons = st.sampled_from(
    [codes.ERROR_PERMISSION_DENIED, codes.ERROR_INTERNAL, codes.ERROR_TOKEN_EXPIRED] * 5
    + [codes.DISCONNECT_PERMISSION_DENIED]
)


class Conversation(RuleBasedStateMachine):
    """A client, a connection that carries out decisions in any order it likes, and a model of what must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 50.0
        self.session = Session(LIMITS, self.now)
        self.ids = count(1)
        self.unanswered: set[int] = set()
        self.running: list[Action] = []
        self.entered: set[str] = set()
        self.closed = 0

    # --- what goes on ---

    def say(self, command: dict[str, Any]) -> None:
        """The client says one command."""
        decoded = CODECS[0].decode(json.dumps(command))
        assert isinstance(decoded, list)
        if command.get("id") and self.session.state is not SessionState.CLOSED:
            self.unanswered.add(command["id"])
        self.carry_out(self.session.receive(decoded[0], self.now))

    def carry_out(self, decisions: list[Decision]) -> None:
        """Do what was decided, and check that it may be."""
        for decision in decisions:
            match decision:
                case Write(reply):
                    self.check_reply(reply)
                case Ping():
                    assert not self.closed
                case Close(disconnect):
                    assert not self.closed
                    assert 3000 <= disconnect.code < 4000
                    self.closed = 1
                case Action():
                    self.check_action(decision)
                    self.running.append(decision)

    def check_reply(self, reply: Reply) -> None:
        """A reply answers one command that is open, can be written, and comes before the end."""
        assert not self.closed
        assert all(codec.encode(reply) for codec in CODECS)
        if reply.push is None:
            assert reply.id in self.unanswered
            self.unanswered.remove(reply.id)

    def check_action(self, action: Action) -> None:
        """A channel is entered once and left once, and never both at a time."""
        in_flight = [each for each in self.running if each.channel == action.channel is not None]
        if isinstance(action, Subscribe):
            assert not in_flight
            assert action.channel not in self.entered
        if isinstance(action, EndSubscription):
            assert action.channel in self.entered
            self.entered.remove(action.channel)
            assert not any(isinstance(each, Subscribe | EndSubscription) for each in in_flight)

    # --- the client ---

    @initialize(subs=st.lists(channels, max_size=2, unique=True), refused=st.sampled_from([False] * 9 + [True]))
    def connect(self, subs: list[str], refused: bool) -> None:
        self.say({"id": next(self.ids), "connect": {}})
        self.say({"id": next(self.ids), "subscribe": {"channel": "a"}})
        [action] = self.running
        self.running = []
        assert isinstance(action, Authenticate)
        if refused:
            self.carry_out(self.session.refused(action, codes.ERROR_TOKEN_EXPIRED, self.now))
        else:
            self.entered.update(subs)
            result = ConnectResult(client="c1", subs={channel: SubscribeResult() for channel in subs})
            self.carry_out(self.session.connected(action, result, self.now))

    @rule(request=requests)
    def command(self, request: dict[str, Any]) -> None:
        self.say({"id": next(self.ids)} | request)

    @rule(nameless=st.sampled_from([{}, {"send": {"data": 1}}]))
    def say_something_without_an_id(self, nameless: dict[str, Any]) -> None:
        self.say(nameless)

    @rule(chance=st.integers(0, 60), command=st.sampled_from([{"id": 4_000_000_000, "connect": {}}, {"ping": {}}]))
    def break_the_rules(self, chance: int, command: dict[str, Any]) -> None:
        if chance == 0:
            self.say(command)

    # --- what becomes of actions ---

    @precondition(lambda self: self.running)
    @rule(data=st.data(), ttl=ttls)
    def succeed(self, data: st.DataObject, ttl: float | None) -> None:
        action = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        if isinstance(action, EndSubscription):
            self.carry_out(self.session.ended(action, self.now))
        elif isinstance(action, Subscribe):
            self.entered.add(action.channel)
            self.carry_out(self.session.subscribed(action, SubscribeResult(), self.now, ttl=ttl))
        elif isinstance(action, Refresh):
            self.carry_out(self.session.refreshed(action, self.now, ttl=ttl))
        elif isinstance(action, SubRefresh):
            self.carry_out(self.session.sub_refreshed(action, self.now, ttl=ttl))
        elif isinstance(action, Deliver):
            self.carry_out(self.session.delivered(action, self.now))
        else:
            assert isinstance(action, Publish | Presence | PresenceStats | History | Call)
            self.carry_out(self.session.answered(action, RESULTS[type(action)], self.now))

    @precondition(lambda self: any(not isinstance(action, EndSubscription) for action in self.running))
    @rule(data=st.data(), reason=reasons)
    def fail(self, data: st.DataObject, reason: codes.Error | codes.Disconnect) -> None:
        able = [action for action in self.running if not isinstance(action, EndSubscription)]
        action = able[data.draw(st.integers(0, len(able) - 1))]
        self.running.remove(action)
        self.carry_out(self.session.refused(action, reason, self.now))

    # --- the server and the time ---

    @rule(channel=channels)
    def server_subscribes(self, channel: str) -> None:
        self.carry_out(self.session.subscribe(SubscribeRequest(channel), self.now))

    @rule(channel=channels, reason=st.sampled_from([codes.UNSUBSCRIBE_SERVER, codes.UNSUBSCRIBE_INSUFFICIENT_STATE]))
    def server_unsubscribes(self, channel: str, reason: codes.Unsubscribe) -> None:
        self.carry_out(self.session.unsubscribe(channel, reason, self.now))
        assert channel not in self.entered or self.session.state is SessionState.CLOSED or self.subscribing(channel)

    def subscribing(self, channel: str) -> bool:
        return any(isinstance(action, Subscribe) and action.channel == channel for action in self.running)

    @rule(ttl=ttls)
    def server_refreshes(self, ttl: float | None) -> None:
        self.carry_out(self.session.refresh(self.now, ttl=ttl))

    @rule(seconds=st.sampled_from([0.1, 1.0, 4.0, 7.0] * 4 + [20.0]), silent=st.sampled_from([False] * 9 + [True]))
    def time_passes(self, seconds: float, silent: bool) -> None:
        self.now += seconds
        self.carry_out(self.session.tick(self.now))
        assert self.session.deadline > self.now
        if not silent and self.session.state is SessionState.CONNECTED:
            self.say({})

    @rule(chance=st.integers(0, 40))
    def connection_is_lost(self, chance: int) -> None:
        if chance == 0:
            self.carry_out(self.session.lost())

    # --- what always holds ---

    @invariant()
    def the_session_knows_what_the_client_is_in(self) -> None:
        if self.session.state is SessionState.CLOSED:
            # What a closed session still had to leave was reported with the end, or comes with the late outcome.
            assert not self.session.subscriptions
            assert not self.entered
        else:
            assert set(self.session.subscriptions) == self.entered
        assert len(self.entered) <= LIMITS.max_channels

    @invariant()
    def every_command_is_answered_or_its_action_is_on_its_way(self) -> None:
        if self.session.state is SessionState.CONNECTED and not self.running:
            assert not self.unanswered
            assert not self.session.busy

    def teardown(self) -> None:
        """Every action has its outcome at last, and nothing is left."""
        while self.running:
            action = self.running.pop(0)
            if isinstance(action, EndSubscription):
                self.carry_out(self.session.ended(action, self.now))
            elif isinstance(action, Subscribe):
                self.entered.add(action.channel)
                self.carry_out(self.session.subscribed(action, SubscribeResult(), self.now))
            else:
                self.carry_out(self.session.refused(action, codes.ERROR_INTERNAL, self.now))
        self.the_session_knows_what_the_client_is_in()
        self.every_command_is_answered_or_its_action_is_on_its_way()


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)
