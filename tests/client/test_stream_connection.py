"""Clients whose commands come by requests: which are taken, in which order, and what ends their stream."""

import json
from collections.abc import AsyncIterator

import pytest
import structlog
from prometheus_client import CollectorRegistry

from starling.client import stream_connection
from starling.client.authority import Identity
from starling.client.emulation import EmulatedSessions, Forwarding
from starling.client.stream_connection import HttpStreamConnection, ProtobufStreamConnection
from starling.main import Application, build_application
from starling.settings import load_settings
from tests.support.fake_receivers import RecordingTransport
from tests.support.json_transport import JsonTransport
from tests.support.waiting import until

CONNECT = '{"id":1,"connect":{}}'


@pytest.fixture
async def service() -> AsyncIterator[Application]:
    built = build_application(load_settings({"STARLING_DEV": "true"}), CollectorRegistry())
    await built.engine.start()
    await until(lambda: built.engine.readiness.ready)
    yield built
    await built.engine.stop()


@pytest.fixture
def sessions(service: Application) -> EmulatedSessions:
    return EmulatedSessions(service.engine, alone=True)


async def connected(service: Application, sessions: EmulatedSessions) -> tuple[HttpStreamConnection, JsonTransport]:
    client = HttpStreamConnection(service.context.dispatcher, Identity("ann"), sessions, CONNECT)
    transport = JsonTransport()
    client.open(transport)
    client.begin()
    await until(lambda: replies(transport) == [1], "it is connected")
    return client, transport


def replies(transport: JsonTransport) -> list[int]:
    return [line["id"] for line in transport.lines if "id" in line]


def ping(*numbers: int) -> str:
    return "\n".join(json.dumps({"id": number, "ping": {}}) for number in numbers)


async def test_commands_are_carried_out_in_the_order_of_their_ids_and_each_once(
    service: Application, sessions: EmulatedSessions
) -> None:
    client, transport = await connected(service, sessions)
    for number in (3, 4, 2, 3):
        assert sessions.deliver(client.session_secret, ping(number)) is Forwarding.TAKEN
    assert sessions.deliver(client.session_secret, ping(5, 6)) is Forwarding.TAKEN
    await until(lambda: len(replies(transport)) == 6, "all are answered")
    assert replies(transport) == [1, 2, 3, 4, 5, 6]


async def test_a_command_waits_a_moment_for_one_that_never_comes(
    service: Application, sessions: EmulatedSessions
) -> None:
    client, transport = await connected(service, sessions)
    assert client.on_request(ping(9)) is Forwarding.TAKEN
    await until(lambda: replies(transport) == [1, 9], "it is carried out without those before it")


@pytest.mark.parametrize("data", ["{", "[]", '{"id":"x"}', b"\x00"])
async def test_what_are_no_commands_of_its_format_is_refused_and_text_of_them_ends_the_session(
    service: Application, sessions: EmulatedSessions, data: str | bytes
) -> None:
    client, transport = await connected(service, sessions)
    assert client.on_request(data) is Forwarding.MALFORMED
    # Bytes may be of a request that was sent to the wrong session: they end nothing.
    assert (transport.closed_with is None) is isinstance(data, bytes)


async def test_text_is_no_command_of_a_protobuf_stream(service: Application, sessions: EmulatedSessions) -> None:
    client = ProtobufStreamConnection(service.context.dispatcher, Identity("ann"), sessions, b"")
    client.open(RecordingTransport())
    assert client.on_request(ping(2)) is Forwarding.MALFORMED


async def test_a_session_that_has_ended_is_found_no_more(service: Application, sessions: EmulatedSessions) -> None:
    client, transport = await connected(service, sessions)
    client.on_shutdown()
    assert transport.pushes[-1]["disconnect"] == {"code": 3001, "reason": "shutdown", "reconnect": True}
    assert transport.closed_with == (3001, "shutdown")
    assert client.on_request(ping(2)) is Forwarding.GONE
    client.on_close(1006, "")
    assert sessions.deliver(client.session_secret, ping(2)) is Forwarding.GONE


async def test_more_than_may_wait_is_refused_until_what_waits_is_carried_out(
    service: Application, sessions: EmulatedSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_connection, "MOST_WAITING", 100)
    monkeypatch.setattr(stream_connection, "COMMAND_BYTES", 0)
    client, transport = await connected(service, sessions)
    assert client.on_request(ping(3) + "\n" * 60) is Forwarding.TAKEN
    assert client.on_request(ping(4) + "\n" * 60) is Forwarding.BUSY
    await until(lambda: 3 in replies(transport), "what waited is carried out")
    assert client.on_request(ping(4) + "\n" * 60) is Forwarding.TAKEN
    await until(lambda: 4 in replies(transport), "and so is what comes later")


async def test_one_request_may_be_larger_than_what_may_wait(service: Application, sessions: EmulatedSessions) -> None:
    client, transport = await connected(service, sessions)
    assert client.on_request(ping(2) + " " * stream_connection.MOST_WAITING) is Forwarding.TAKEN
    await until(lambda: 2 in replies(transport), "it is carried out")


async def test_commands_that_wait_count_for_the_memory_they_take_and_room_is_back_when_they_are_done(
    service: Application, sessions: EmulatedSessions
) -> None:
    client, transport = await connected(service, sessions)
    transport.replies_wait = True
    number = 1
    outcome = Forwarding.TAKEN
    while outcome is Forwarding.TAKEN:
        outcome = client.on_request(ping(*range(number + 1, number + 101)))
        number += 100
    assert outcome is Forwarding.BUSY
    waiting = stream_connection.MOST_WAITING // stream_connection.COMMAND_BYTES
    assert waiting - 200 < number < waiting + 200
    # The client takes its replies, and sends no request meanwhile.
    transport.replies_wait = False
    client.on_drained()
    assert replies(transport)[-1] == number - 100
    assert client.on_request(ping(number) + " " * (stream_connection.MOST_WAITING - 1000)) is Forwarding.TAKEN


async def test_what_was_carried_out_counts_no_more_though_something_waits_all_the_time(
    service: Application, sessions: EmulatedSessions
) -> None:
    client, transport = await connected(service, sessions)
    last = 2 * stream_connection.MOST_WAITING // stream_connection.COMMAND_BYTES
    outcomes = [client.on_request(ping(3))]
    for number in range(5, last, 2):
        # Before the one that it waits for comes that of the one before.
        outcomes += [client.on_request(ping(number)), client.on_request(ping(number - 3))]
    assert {*outcomes} == {Forwarding.TAKEN}
    assert len(replies(transport)) >= last - 4


async def test_commands_wait_while_the_client_has_replies_to_take(
    service: Application, sessions: EmulatedSessions
) -> None:
    client, transport = await connected(service, sessions)
    transport.replies_wait = True
    assert client.on_request(ping(2)) is Forwarding.TAKEN
    assert replies(transport) == [1]
    transport.replies_wait = False
    client.on_drained()
    await until(lambda: replies(transport) == [1, 2], "it goes on")


@pytest.mark.parametrize("late", [False, True])
async def test_a_mistake_in_a_command_ends_its_session_alone(
    service: Application, sessions: EmulatedSessions, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    client, transport = await connected(service, sessions)
    other, other_transport = await connected(service, sessions)

    def fail(*_: object) -> None:
        raise RuntimeError("a mistake in here")

    with structlog.testing.capture_logs() as logs, monkeypatch.context() as patched:
        patched.setattr(type(client.session), "receive", fail)
        # The later one waits for an id that does not come.
        assert client.on_request(ping(9 if late else 2)) is (Forwarding.TAKEN if late else Forwarding.UNAVAILABLE)
        await until(lambda: transport.closed_with, "it is closed")
    assert "client_failed" in {line["event"] for line in logs}
    assert transport.closed_with is not None
    assert transport.closed_with[0] == 3004
    assert other.on_request(ping(2)) is Forwarding.TAKEN
    await until(lambda: 2 in replies(other_transport), "the other goes on")
