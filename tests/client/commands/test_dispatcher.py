"""What the dispatcher does for every command alike: counting, errors, faults, tasks and the order of its work."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from starling.client.authority import Authority, Grant, Identity
from starling.client.client_connection import ClientConnection, JsonConnection
from starling.client.commands.base import CommandHandler, Later, Work
from starling.client.commands.connect import ConnectHandler
from starling.client.commands.grants import ChannelGrants
from starling.client.commands.rpc import RpcHandler
from starling.client.dispatcher import Dispatcher
from starling.client.refusals import CommandRefusals
from starling.client.shared_recoveries import SharedRecoveries
from starling.client.user_limit import UserLimit
from starling.engine.broker import BrokerUnavailable, PublicationTooLarge
from starling.engine.engine import Engine
from starling.protocol import codes
from starling.protocol.codes import CommandRefused
from starling.protocol.decisions import Call, Decision
from starling.protocol.messages import RPCResult
from starling.protocol.options import SessionLimits
from tests.support.engines import memory_engine, started
from tests.support.json_transport import JsonTransport
from tests.support.waiting import until


class Everyone:
    """An authority that knows every client: the rules of a command are the test's here."""

    def identify_now(self, request: object, handshake: object) -> Identity | None:
        return Identity("alice")

    async def identify(self, request: object, handshake: object) -> Identity:
        return Identity("alice")

    def grant_now(self, identity: object, request: object) -> Grant | None:
        return None


class Scripted(CommandHandler[Call, str]):
    """Does what the test says, in the place of `rpc`."""

    action = Call
    method = "rpc"

    def __init__(self) -> None:
        self.refusal: Exception | None = None
        self.now: list[Work] | Exception | None = None
        self.outcome: Exception | None = None
        self.later: Later | None = None
        self.ran = 0

    def prepare(self, client: ClientConnection, action: Call) -> str:
        if self.refusal is not None:
            raise self.refusal
        return "prepared"

    def try_now(self, client: ClientConnection, action: Call, prepared: str, later: Later) -> list[Work] | None:
        assert prepared == "prepared"
        self.later = later
        if isinstance(self.now, Exception):
            raise self.now
        return self.now

    async def run(self, client: ClientConnection, action: Call, prepared: str) -> list[Decision]:
        assert prepared == "prepared"
        self.ran += 1
        await asyncio.sleep(0)
        if self.outcome is not None:
            raise self.outcome
        return client.session.answered(action, RPCResult(action.request.data), 0.0)


class Setup:
    """One connected client whose `rpc` is scripted."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.command = Scripted()
        authority: Any = Everyone()
        limit = UserLimit(engine.presence, 0)
        refusals = CommandRefusals(engine.channels, engine.metrics.refusal_log, developer=False)
        grants = ChannelGrants(engine, authority, refusals)
        commands = (ConnectHandler(engine, authority, limit, SharedRecoveries(), grants), self.command)
        self.client = JsonConnection(Dispatcher(engine, SessionLimits(), commands, limit, refusals), None)
        self.transport = JsonTransport()
        self.client.open(self.transport)
        self.client.on_message('{"id":1,"connect":{}}')
        self.transport.lines.clear()

    def call(self, number: int = 2) -> None:
        self.client.on_message(json.dumps({"id": number, "rpc": {"method": "m", "data": number}}))

    @property
    def counted(self) -> int:
        return self.engine.metrics.commands["rpc"]


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    async with started(memory_engine()) as engine:
        yield Setup(engine)


ERRORS = [
    (CommandRefused(codes.ERROR_PERMISSION_DENIED), 103),
    (BrokerUnavailable("away"), 100),
    (PublicationTooLarge("large"), 106),
]


@pytest.mark.parametrize("where", ["refusal", "now", "outcome"])
@pytest.mark.parametrize(("error", "code"), ERRORS)
async def test_an_error_has_the_same_answer_wherever_it_is_raised(
    setup: Setup, where: str, error: Exception, code: int
) -> None:
    setattr(setup.command, where, error)

    setup.call()
    await until(lambda: setup.transport.lines, "the answer is written")

    assert [(line["id"], line["error"]["code"]) for line in setup.transport.lines] == [(2, code)]
    assert setup.counted == 1
    assert setup.engine.metrics.errors[code] == 1
    assert setup.transport.closed_with is None


@pytest.mark.parametrize("where", ["refusal", "now", "outcome"])
async def test_a_fault_is_logged_once_and_answered_with_100(setup: Setup, where: str) -> None:
    setattr(setup.command, where, RuntimeError("a fault of the test"))

    with capture_logs() as lines:
        setup.call()
        await until(lambda: setup.transport.lines, "the answer is written")

    assert setup.transport.lines[0]["error"]["code"] == 100
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["command_failed"]


async def test_what_finishes_at_once_runs_in_no_task(setup: Setup) -> None:
    setup.command.now = []
    setup.call()

    assert setup.command.ran == 0
    assert setup.transport.lines == []
    assert setup.counted == 1


async def test_what_is_under_way_is_answered_when_its_outcome_comes(setup: Setup) -> None:
    setup.command.now = []
    setup.call()
    assert setup.command.later is not None

    setup.command.later(BrokerUnavailable("away"))

    assert setup.transport.lines[0]["error"]["code"] == 100


async def test_what_cannot_finish_at_once_runs_in_a_task_and_is_counted_once(setup: Setup) -> None:
    setup.call()
    await until(lambda: setup.transport.lines, "the answer is written")

    assert setup.transport.lines == [{"id": 2, "rpc": {"data": 2}}]
    assert (setup.command.ran, setup.counted) == (1, 1)


async def test_steps_of_a_handler_run_between_its_decisions_and_a_fault_in_one_ends_the_connection(
    setup: Setup,
) -> None:
    order: list[str] = []

    def fail() -> None:
        order.append("second")
        raise RuntimeError("a fault of the test")

    setup.command.now = [lambda: order.append("first"), fail]
    with capture_logs():
        setup.call()

    assert order == ["first", "second"]
    assert setup.transport.closed_with == (3004, "internal server error")


async def test_a_client_that_sends_too_much_is_read_on_once_its_commands_are_done(setup: Setup) -> None:
    reading: list[str] = []
    setup.transport.pause_reading = lambda: reading.append("paused")  # type: ignore[method-assign]
    setup.transport.resume_reading = lambda: reading.append("resumed")  # type: ignore[method-assign]
    setup.command.now = []
    laters: list[Later] = []
    for number in range(2, 400):
        setup.call(number)
        assert setup.command.later is not None
        laters.append(setup.command.later)
        if reading:
            break
    assert reading == ["paused"]

    for later in laters:
        later(BrokerUnavailable("away"))

    assert reading == ["paused", "resumed"]


COMMANDS = 500
FRAME = "\n".join(
    json.dumps({"id": number, "rpc": {"method": "m", "data": number}}) for number in range(2, COMMANDS + 2)
)


async def test_of_a_large_frame_no_more_is_begun_than_may_be_pending_and_all_is_carried_out(setup: Setup) -> None:
    go_on = asyncio.Event()

    async def run(client: ClientConnection, action: Call, prepared: str) -> list[Decision]:
        await go_on.wait()
        return client.session.answered(action, RPCResult(action.request.data), 0.0)

    setup.command.run = run  # type: ignore[method-assign]
    setup.client.on_message(FRAME)
    # What comes before the client's transport has stopped reading waits too.
    setup.call(COMMANDS + 2)
    assert 64 <= setup.counted < 128

    go_on.set()
    await until(lambda: len(setup.transport.lines) == COMMANDS + 1, "all are answered")
    assert [line["id"] for line in setup.transport.lines] == list(range(2, COMMANDS + 3))
    assert not setup.client.paused


async def test_of_a_large_frame_nothing_is_begun_while_the_client_has_replies_to_take(setup: Setup) -> None:
    setup.transport.replies_wait = True
    setup.client.on_message(FRAME)
    assert setup.counted == 0

    setup.transport.replies_wait = False
    setup.client.on_drained()
    await until(lambda: len(setup.transport.lines) == COMMANDS, "all are answered")


async def test_what_waits_of_a_frame_ends_with_its_client(setup: Setup) -> None:
    setup.transport.replies_wait = True
    setup.client.on_message(FRAME)
    setup.client.on_close(1006, "")
    setup.client.on_drained()
    assert setup.counted == 0


def test_a_handler_of_the_test_stands_for_the_real_one() -> None:
    assert (Scripted.action, Scripted.method) == (RpcHandler.action, RpcHandler.method)
    assert hasattr(Authority, "identify_now")
