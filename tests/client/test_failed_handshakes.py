"""Clients that bring an invalid token and are let in as anonymous: they count as failed connects of their address."""

from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from starling.client.authority import Handshake, Identity
from starling.client.client_connection import JsonConnection
from starling.engine.receiver import TokenFacts
from starling.main import Application, build_application
from starling.protocol import codes
from starling.protocol.codes import CommandRefused
from starling.settings import load_settings
from tests.support.json_transport import JsonTransport
from tests.support.waiting import until

ADDRESS = "192.0.2.1"
SETTINGS = {
    "STARLING_TOKEN_HMAC_SECRET": "x" * 32,
    "STARLING_ALLOW_ANONYMOUS": "true",
    "STARLING_FAILED_CONNECTS_PER_MINUTE": "1",
}


@pytest.fixture
async def service() -> AsyncIterator[Application]:
    service = build_application(load_settings(SETTINGS), CollectorRegistry())
    await service.engine.start()
    await until(lambda: service.engine.readiness.ready, "the node is ready")
    yield service
    await service.engine.stop()


@pytest.mark.parametrize(
    ("handshake", "fails"),
    [
        (CommandRefused(codes.DISCONNECT_INVALID_TOKEN), True),
        # A cookie that was good once is no guess.
        (CommandRefused(codes.ERROR_TOKEN_EXPIRED), False),
        (None, False),
        (Identity("alice", token=TokenFacts("alice")), False),
    ],
)
async def test_a_token_that_is_invalid_counts_also_where_anonymous_clients_may_connect(
    service: Application, handshake: Handshake, fails: bool
) -> None:
    client = JsonConnection(service.context.dispatcher, handshake)
    transport = JsonTransport()
    client.open(transport, ADDRESS)
    client.on_message('{"id":1,"connect":{}}')
    await until(lambda: transport.lines, "it is answered")
    assert "connect" in transport.lines[0]
    assert service.engine.admission.clients.failed_connects.exhausted(ADDRESS) is fails
