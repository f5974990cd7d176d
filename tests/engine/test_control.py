"""What nodes send each other: announcements, commands that reach all, and answers that come or do not."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
from msgspec import Raw, Struct

from starling.brokers.broadcast import BroadcastBroker
from starling.brokers.open import open_broker
from starling.engine import control as control_module
from starling.engine.broker import BrokerUnavailable, LinkState, StreamEntry
from starling.engine.control import CHANNEL, Control, NodeCommand, NodeCommandRefused, NodeInfo, own_channel
from starling.protocol.messages import ClientInfo, Publication
from tests.support.local_server import LocalServer
from tests.support.waiting import DEADLINE, StepClock, until

NewBroker = Callable[[], BroadcastBroker]


class Count(NodeCommand):
    """Asks each node for its number."""

    least: int = 0


class Shout(NodeCommand):
    """Asks for something that no answer is wanted to."""

    text: str = ""


class Number(Struct):
    """An answer."""

    number: int


class Member:
    """A node as far as control goes: a broker, and control on top of it."""

    def __init__(self, broker: BroadcastBroker, uid: str) -> None:
        self.uid = uid
        self.broker = broker
        self.tasks: set[asyncio.Task[None]] = set()
        self.received: list[str] = []
        self.up = asyncio.Event()
        self.control = Control(broker, start_task=self.start_task, describe=lambda: NodeInfo(uid, name=f"node-{uid}"))
        self.control.on_command(Shout, lambda command: self.received.append(command.text))
        self._clock: asyncio.Task[None] | None = None

    def start_task(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.add(asyncio.create_task(work))

    def on_publication(self, channel: str, entry: StreamEntry, received_at: float) -> None:
        assert channel in (CHANNEL, own_channel(self.uid))
        self.control.on_publication(entry.publication)

    def on_join(self, channel: str, info: ClientInfo) -> None: ...

    def on_leave(self, channel: str, info: ClientInfo) -> None: ...

    def on_link(self, state: LinkState) -> None:
        if state is LinkState.UP:
            self.up.set()

    async def start(self) -> None:
        await self.broker.start(self)
        self._clock = asyncio.create_task(self.control.run(self.uid))
        await self.up.wait()

    def vanish(self) -> None:
        """Receive and send nothing more, as after a SIGKILL."""
        self.control._handlers.clear()
        if self._clock is not None:
            self._clock.cancel()
        self.control.on_publication = lambda publication: None  # type: ignore[method-assign]

    async def stop(self) -> None:
        self.vanish()
        for task in self.tasks:
            task.cancel()
        await self.broker.stop()


@asynccontextmanager
async def cluster(new_broker: NewBroker, *uids: str) -> AsyncIterator[list[Member]]:
    """Nodes that know each other."""
    async with AsyncExitStack() as stack:
        members = [Member(new_broker(), uid) for uid in uids]
        for member in members:
            stack.push_async_callback(member.stop)
            await member.start()
        for member in members:
            await until(lambda member=member: len(member.control.nodes()) == len(uids))  # type: ignore[misc]
        yield members


async def test_nodes_know_each_other_long_before_the_next_announcement(
    new_broker: NewBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_module, "ANNOUNCE_SECONDS", 3600.0)
    async with cluster(new_broker, "a", "b", "c") as members:
        for member in members:
            assert {info.uid for info in member.control.nodes()} == {"a", "b", "c"}


async def test_a_command_reaches_every_node_the_one_that_sends_it_included(new_broker: NewBroker) -> None:
    async with cluster(new_broker, "a", "b", "c") as members:
        await members[1].control.send(Shout("now"))

        await until(lambda: all(member.received == ["now"] for member in members))


async def test_answers_of_all_nodes_are_gathered(new_broker: NewBroker) -> None:
    async with cluster(new_broker, "a", "b", "c") as members:
        for number, member in enumerate(members):
            member.control.on_command(Count, lambda command, number=number: Number(command.least + number))  # type: ignore[misc]

        answers = await members[0].control.ask(Count(10), within=10)

        found = {uid: msgspec.json.decode(answer, type=Number).number for uid, answer in answers.items()}
        assert found == {"a": 10, "b": 11, "c": 12}


async def test_questions_at_one_time_get_each_their_own_answers(new_broker: NewBroker) -> None:
    async with cluster(new_broker, "a", "b") as members:
        for member in members:
            member.control.on_command(Count, lambda command: Number(command.least))

        gathered = await asyncio.gather(*(members[n % 2].control.ask(Count(n), within=10) for n in range(20)))

        for n, answers in enumerate(gathered):
            assert [msgspec.json.decode(answer, type=Number).number for answer in answers.values()] == [n, n]


async def test_a_node_that_is_gone_holds_a_question_up_once_and_no_longer_than_said(new_broker: NewBroker) -> None:
    async with cluster(new_broker, "a", "b", "c") as (one, two, gone):
        for member in (one, two):
            member.control.on_command(Count, lambda command: Number(1))
        gone.vanish()

        began = time.monotonic()
        with StepClock() as clock:
            assert (await one.control.ask(Count(), within=1.0)).keys() == {"a", "b"}
        assert time.monotonic() - began > 0.9
        assert clock.seconds < 5

        answers = await asyncio.wait_for(one.control.ask(Count(), within=3600.0), DEADLINE)
        assert answers.keys() == {"a", "b"}


async def test_a_node_that_says_goodbye_is_not_waited_for_at_all(new_broker: NewBroker) -> None:
    async with cluster(new_broker, "a", "b") as (one, leaving):
        one.control.on_command(Count, lambda command: Number(1))
        await leaving.control.stop()
        leaving.vanish()
        await until(lambda: [info.uid for info in one.control.nodes()] == ["a"])

        assert (await one.control.ask(Count(), within=30.0)).keys() == {"a"}


async def test_a_node_that_vanished_is_forgotten_after_its_time(
    new_broker: NewBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(new_broker, "a", "b") as (one, gone):
        gone.vanish()
        monkeypatch.setattr(control_module, "GONE_SECONDS", 0.2)

        await until(lambda: [info.uid for info in one.control.nodes()] == ["a"])


async def test_a_node_that_refuses_is_reported_to_the_caller_at_once(new_broker: NewBroker) -> None:
    def refuse(command: Count) -> None:
        raise NodeCommandRefused("there are too many")

    async with cluster(new_broker, "a", "b") as (one, two):
        one.control.on_command(Count, lambda command: Number(1))
        two.control.on_command(Count, refuse)

        with pytest.raises(NodeCommandRefused, match="there are too many"):
            await one.control.ask(Count(), within=30.0)


async def test_a_node_of_another_version_says_so_instead_of_nothing(new_broker: NewBroker) -> None:
    async with cluster(new_broker, "a", "b") as (one, _):
        one.control.on_command(Count, lambda command: Number(1))

        with pytest.raises(NodeCommandRefused, match="does not know count"):
            await one.control.ask(Count(), within=30.0)


async def test_a_fault_in_one_node_is_reported_and_it_receives_on(new_broker: NewBroker) -> None:
    def fail(command: Count) -> None:
        raise RuntimeError("a mistake of that node's")

    async with cluster(new_broker, "a", "b") as (one, two):
        one.control.on_command(Count, lambda command: Number(1))
        two.control.on_command(Count, fail)

        with pytest.raises(NodeCommandRefused, match="a node failed"):
            await one.control.ask(Count(), within=30.0)
        await one.control.send(Shout("still there?"))

        await until(lambda: two.received == ["still there?"])


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"null", b'"text"', b"[1]", b'{"sender":1}', b"\xff\xfe", b'{"sender":"x","node":{}}', b"[" * 5000],
)
def test_what_is_no_control_message_harms_nothing(data: bytes) -> None:
    member = Member(open_broker("memory://"), "a")

    member.control.on_publication(Publication(Raw(data)))

    assert [info.uid for info in member.control.nodes()] == ["a"]


async def test_an_answer_that_nobody_here_waits_for_is_nothing(new_broker: NewBroker) -> None:
    async with cluster(new_broker, "a", "b") as (one, two):
        for to in ("a", "nobody"):
            await two.control._send(control_module.ControlMessage("b", to=to, question="0"))
        await two.control.send(Shout("after"))

        await until(lambda: one.received == ["after"])


async def test_an_answer_that_is_too_large_for_the_broker_is_reported_as_that_nodes_problem() -> None:
    server = LocalServer()
    async with cluster(server.broker, "a", "b") as (one, two):
        server.most_bytes = 5_000
        for member in (one, two):
            member.control.on_command(Count, lambda command: Shout("x" * 10_000))

        with pytest.raises(NodeCommandRefused, match="too large for this broker"):
            await one.control.ask(Count(), within=30.0)


async def test_a_node_alone_can_be_asked() -> None:
    async with cluster(LocalServer().broker, "a", "b") as (one, two):
        for number, member in enumerate((one, two)):
            member.control.on_command(Count, lambda command, number=number: Number(number))  # type: ignore[misc]

        answer = await one.control.ask_node("b", Count(), within=30.0)

        assert answer is not None
        assert msgspec.json.decode(answer, type=Number).number == 1
        assert await one.control.ask_node("nobody", Count(), within=0.01) is None


async def test_a_broker_that_is_away_ends_no_announcement() -> None:
    server = LocalServer()
    async with cluster(server.broker, "a", "b") as (one, _):
        server.stop()
        await one.control.stop()
        with pytest.raises(BrokerUnavailable):
            await one.control.send(Shout("lost"))
        server.start()
        await until(lambda: one.broker.stats.reconnects)
        await one.control.send(Shout("after"))

        await until(lambda: one.received == ["after"])
