"""The connections of all nodes, page by page, and the number of them that one user may have."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import UNSET
from prometheus_client import CollectorRegistry

from starling.client.authority import Identity
from starling.client.client_connection import JsonConnection
from starling.client.connection_list import ConnectionList
from starling.main import Application, build_application
from starling.settings import load_settings
from tests.support.json_transport import JsonTransport
from tests.support.waiting import until

CHANNELS = {"default": {"allow_subscribe_for_client": True}}
SECRET = "x" * 32
MOST = 2


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Application]:
    """A node on which a user may have two connections."""
    channels = tmp_path / "channels.json"
    channels.write_text(json.dumps(CHANNELS))
    environment = {
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_CHANNELS_FILE": str(channels),
        "STARLING_MAX_CONNECTIONS_PER_USER": str(MOST),
    }
    built = build_application(load_settings(environment), CollectorRegistry())
    await built.engine.start()
    await until(lambda: built.engine.readiness.ready)
    yield built
    await built.engine.stop()


async def enter(service: Application, user: str, *channels: str) -> tuple[JsonConnection, JsonTransport]:
    client, transport = JsonConnection(service.context.dispatcher, Identity(user)), JsonTransport()
    client.open(transport, "192.0.2.1")
    client.on_message('{"id":1,"connect":{}}')
    await until(lambda: transport.lines or transport.closed_with, "it is answered")
    if transport.closed_with is not None:
        # As the socket would.
        client.on_close(*transport.closed_with)
    for number, channel in enumerate(channels, 2):
        client.on_message(json.dumps({"id": number, "subscribe": {"channel": channel}}))
        await until(lambda number=number: any(line.get("id") == number for line in transport.lines))  # type: ignore[misc]
    return client, transport


async def test_connections_are_listed_page_by_page_in_the_order_of_their_ids(service: Application) -> None:
    listed = ConnectionList(service.engine)
    ids = sorted([(await enter(service, f"user-{number}", "room"))[0].id for number in range(5)])
    found: list[str] = []
    more = True
    while more:
        page, more, missing = await listed.page(UNSET, 2, found[-1] if found else "")
        assert missing == []
        assert 0 < len(page) <= 2
        found += [each.client for each in page]
    assert found == ids


async def test_a_connection_is_described_and_found_by_its_user(service: Application) -> None:
    listed = ConnectionList(service.engine)
    client, _ = await enter(service, "ann", "b", "a")
    await enter(service, "bob")
    await enter(service, "")
    ((found,), more, _) = await listed.page("ann", 10, "")
    assert not more
    assert (found.client, found.user, found.transport, found.address) == (client.id, "ann", client.kind, "192.0.2.1")
    assert (found.channels, found.num_channels) == (["a", "b"], 2)
    assert found.received == 3
    assert found.sent >= 3
    ((anonymous,), _, _) = await listed.page("", 10, "")
    assert anonymous.user == ""
    assert await listed.page("nobody", 10, "") == ([], False, [])


async def test_a_user_has_no_more_connections_than_it_may_and_others_and_users_without_a_name_do_not_count(
    service: Application,
) -> None:
    first, _ = await enter(service, "ann")
    await enter(service, "ann")
    _, refused = await enter(service, "ann")
    assert refused.closed_with == (3504, "connection limit")
    for user in ("bob", "", "", ""):
        _, transport = await enter(service, user)
        assert transport.closed_with is None

    first.on_close(1000, "")
    await until(lambda: len(service.engine.hub.users.of("ann")) < MOST, "one has left")
    _, transport = await enter(service, "ann")
    assert transport.closed_with is None
