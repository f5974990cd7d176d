"""The way of a request's commands to the session that they are for, in this process and on other nodes."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from starling.brokers.broadcast import BroadcastBroker
from starling.client import session_memory
from starling.client.emulation import EmulatedCommands, EmulatedOutcome, EmulatedSessions, Forwarding
from starling.client.session_memory import UNKNOWN_AT_ONCE
from starling.engine import control
from starling.engine.control import NodeCommandRefused
from tests.support.engines import memory_engine, started
from tests.support.local_server import LocalServer
from tests.support.waiting import until

HOME = "198.51.100.1"


class Session:
    """Keeps the commands that reach it."""

    id = "c1"
    session_secret = "c1.secret"

    def __init__(self) -> None:
        self.received: list[str | bytes] = []
        self.outcome = Forwarding.TAKEN

    def on_request(self, data: str | bytes) -> Forwarding:
        self.received.append(data)
        return self.outcome


class Node:
    """A worker as far as the commands of sessions go."""

    def __init__(self, broker: BroadcastBroker) -> None:
        self.broker = broker
        self.engine = memory_engine(broker=broker)
        self.sessions = EmulatedSessions(self.engine, alone=False)

    @property
    def id(self) -> str:
        return self.engine.node.id


@pytest.fixture
def server() -> LocalServer:
    return LocalServer()


@pytest.fixture
async def nodes(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Node]]:
    """Two workers that know each other; on a busy machine, too, a budget does not grow while it is spent."""
    monkeypatch.setattr(session_memory, "UNKNOWN_PER_SECOND", 1e-6)
    async with AsyncExitStack() as stack:
        made = [Node(server.broker()) for _ in range(2)]
        for node in made:
            await stack.enter_async_context(started(node.engine))
        await until(lambda: all(len(node.engine.control.nodes()) == 2 for node in made), "they know each other")
        yield made


def test_a_session_gets_the_commands_that_show_its_whole_secret_until_it_has_ended() -> None:
    sessions, session = EmulatedSessions(memory_engine(), alone=True), Session()
    sessions.add(session)
    for wrong in ("", "c1", "c1.", "c1.secre", "c1.secret2", "c2.secret", ".secret"):
        assert sessions.deliver(wrong, "{}") is Forwarding.GONE
    assert sessions.deliver("c1.secret", "{}") is Forwarding.TAKEN
    sessions.remove(session)
    assert sessions.deliver("c1.secret", "{}") is Forwarding.GONE
    assert session.received == ["{}"]


@pytest.mark.parametrize("data", ['{"id":1}\n{"id":2}', b"\x00\xff protobuf"])
async def test_commands_reach_a_session_of_another_node_in_their_format(nodes: list[Node], data: str | bytes) -> None:
    here, there = nodes
    session = Session()
    there.sessions.add(session)
    assert not here.sessions.is_here(there.id)
    assert there.sessions.is_here(there.id)
    assert await here.sessions.forward(there.id, "c1.secret", data, HOME) is Forwarding.TAKEN
    assert session.received == [data]


@pytest.mark.parametrize("outcome", [Forwarding.MALFORMED, Forwarding.BUSY, Forwarding.UNAVAILABLE])
async def test_what_a_session_of_another_node_answers_is_what_the_client_gets(
    nodes: list[Node], outcome: Forwarding
) -> None:
    here, there = nodes
    session = Session()
    session.outcome = outcome
    there.sessions.add(session)
    assert await here.sessions.forward(there.id, "c1.secret", "{}", HOME) is outcome


async def test_a_session_that_its_node_does_not_have_is_asked_for_once(nodes: list[Node]) -> None:
    here, there = nodes
    assert await here.sessions.forward(there.id, "c1.secret", "{}", HOME) is Forwarding.GONE
    # One that begins now cannot have the secret; what reaches it would show that it was asked for again.
    session = Session()
    there.sessions.add(session)
    assert await here.sessions.forward(there.id, "c1.secret", "{}", HOME) is Forwarding.GONE
    assert session.received == []


async def test_an_address_that_guesses_sessions_is_refused_and_its_real_session_goes_on(nodes: list[Node]) -> None:
    here, there = nodes
    there.sessions.add(Session())
    assert await here.sessions.forward(there.id, "c1.secret", "{}", HOME) is Forwarding.TAKEN
    outcomes = {await here.sessions.forward(there.id, f"c{n}.guess", "{}", HOME) for n in range(UNKNOWN_AT_ONCE)}
    assert outcomes == {Forwarding.GONE}
    assert await here.sessions.forward(there.id, "c0.another", "{}", HOME) is Forwarding.FLOOD
    assert await here.sessions.forward(there.id, "c1.secret", "{}", HOME) is Forwarding.TAKEN


async def test_commands_are_refused_and_no_session_is_taken_for_gone_while_the_broker_is_away(
    server: LocalServer, nodes: list[Node]
) -> None:
    here, there = nodes
    there.sessions.add(Session())
    server.stop()
    assert await here.sessions.forward(there.id, "c1.secret", "{}", HOME) is Forwarding.UNAVAILABLE
    server.start()
    await until(lambda: all(node.broker.stats.reconnects for node in nodes), "the links are back")
    assert await here.sessions.forward(there.id, "c1.secret", "{}", HOME) is Forwarding.TAKEN


async def test_a_node_that_does_not_answer_is_asked_again_while_it_is_known_and_then_gone(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = nodes
    # Receives nothing any more and says no goodbye, as after a SIGKILL.
    there.engine.control.listeners.clear()
    ask_node = here.engine.control.ask_node

    async def impatient(uid: str, command: control.NodeCommand) -> object:
        return await ask_node(uid, command, within=0.01)

    monkeypatch.setattr(here.engine.control, "ask_node", impatient)
    assert await here.sessions.forward(there.id, "c1.secret", "{}", HOME) is Forwarding.UNAVAILABLE
    assert await here.sessions.forward(there.id, "c1.secret", "{}", HOME) is Forwarding.GONE


async def test_a_worker_that_runs_long_asks_for_no_session_of_a_node_that_it_does_not_know(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = nodes
    monkeypatch.setattr("starling.client.emulation.GONE_SECONDS", 0.0)
    assert await here.sessions.forward("no node", "c1.secret", "{}", HOME) is Forwarding.GONE


async def test_commands_that_are_too_large_for_the_way_between_nodes_are_refused_as_such(
    server: LocalServer, nodes: list[Node]
) -> None:
    here, there = nodes
    session = Session()
    there.sessions.add(session)
    server.most_bytes = 5_000
    assert await here.sessions.forward(there.id, "c1.secret", "x" * 5_000, HOME) is Forwarding.TOO_LARGE
    assert await here.sessions.forward(there.id, "c1.secret", "x" * 500, HOME) is Forwarding.TAKEN
    assert session.received == ["x" * 500]


async def test_a_node_that_fails_at_it_is_unavailable(nodes: list[Node]) -> None:
    here, there = nodes

    def refuse(_: EmulatedCommands) -> EmulatedOutcome:
        raise NodeCommandRefused("not now")

    there.engine.control.on_command(EmulatedCommands, refuse)
    assert await here.sessions.forward(there.id, "c1.secret", "{}", HOME) is Forwarding.UNAVAILABLE


async def test_a_process_that_is_alone_has_no_other_node_to_ask() -> None:
    async with started(memory_engine()) as engine:
        sessions = EmulatedSessions(engine, alone=True)
        assert await sessions.forward("another", "c1.secret", "{}", HOME) is Forwarding.UNAVAILABLE
