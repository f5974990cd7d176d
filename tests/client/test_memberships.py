"""The channels of one client: what is left of one that it did not get into, and of all when it is not let in."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import Raw
from prometheus_client import CollectorRegistry

from starling.brokers.memory.history import MemoryHistory
from starling.client.authority import Grant
from starling.client.client_connection import JsonConnection
from starling.client.memberships import Memberships
from starling.engine.broker import BrokerUnavailable
from starling.engine.channels import DEFAULT_NAMESPACE
from starling.engine.channels_document import parse_channels
from starling.engine.engine import Engine
from starling.engine.follower import Joined
from starling.engine.receiver import TokenFacts
from starling.engine.subscriptions import Subscriber
from starling.main import Application, build_application
from starling.protocol.messages import ClientInfo, Publication
from starling.settings import load_settings
from tests.support.json_transport import JsonTransport
from tests.support.waiting import DEADLINE, until

SHOWN = parse_channels({"default": {"presence": True}}, developer=False)
KEPT = parse_channels({"default": {"history_size": 10, "history_ttl": "1m"}}, developer=False)


@pytest.fixture
async def service() -> AsyncIterator[Application]:
    settings = load_settings({"STARLING_TOKEN_HMAC_SECRET": "x" * 32})
    service = build_application(settings, CollectorRegistry())
    await service.engine.start()
    await until(lambda: service.engine.readiness.ready, "the node is ready")
    yield service
    await service.engine.stop()


def opened(service: Application) -> JsonConnection:
    client = JsonConnection(service.context.dispatcher, None)
    client.open(JsonTransport())
    return client


@pytest.fixture
async def client(service: Application) -> JsonConnection:
    return opened(service)


async def enter(
    memberships: Memberships, client: JsonConnection, channel: str = "news", *, answer: bool = True
) -> None:
    """Ask for a channel; the client's own answer to being in it is `answer`."""

    def answered(subscriber: Subscriber, joined: Joined) -> bool:
        return answer

    subscriber = Subscriber(client, channel, answered)
    await memberships.enter(subscriber, Grant(SHOWN.options(channel)), ClientInfo("alice", client.id), None)


def counted(engine: Engine) -> int:
    return engine.metrics.subscriptions[DEFAULT_NAMESPACE]


async def shown(engine: Engine, channel: str = "news") -> list[str]:
    return list(await engine.presence.members(channel, SHOWN.options(channel)))


async def nobody_is_shown(engine: Engine, channel: str = "news") -> None:
    async with asyncio.timeout(DEADLINE):
        while await shown(engine, channel):
            await asyncio.sleep(0.01)


async def test_who_is_in_a_channel_is_counted_and_shown_until_it_leaves(
    service: Application, client: JsonConnection
) -> None:
    memberships = Memberships(service.engine)
    await enter(memberships, client)

    assert list(memberships) == ["news"]
    assert counted(service.engine) == 1
    assert await shown(service.engine) == [client.id]

    dropped = memberships.drop("news")
    assert dropped is not None
    # At once: until the broker has been notified, more may be published.
    assert client not in service.engine.hub.subscribers.of("news")
    await memberships.leave(dropped)
    assert memberships.drop("news") is None
    assert list(memberships) == []
    assert counted(service.engine) == 0
    await nobody_is_shown(service.engine)


async def test_the_broker_learns_when_the_last_one_leaves_and_not_before(
    service: Application, client: JsonConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[str] = []
    unsubscribe = service.broker.unsubscribe

    async def noted(channel: str) -> None:
        left.append(channel)
        await unsubscribe(channel)

    monkeypatch.setattr(service.broker, "unsubscribe", noted)
    other = opened(service)
    in_it = [(Memberships(service.engine), who) for who in (client, other)]
    for memberships, who in in_it:
        await enter(memberships, who)
    reported = []
    for memberships, _ in in_it:
        dropped = memberships.drop("news")
        assert dropped is not None
        await memberships.leave(dropped)
        reported.append(list(left))

    assert reported == [[], ["news"]]


async def test_nothing_is_left_of_a_channel_that_the_broker_did_not_open(
    service: Application, client: JsonConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The memory broker is never away, and another would be away for everything at once.
    async def away(channel: str) -> None:
        raise BrokerUnavailable("away")

    monkeypatch.setattr(service.broker, "subscribe", away)
    memberships = Memberships(service.engine)
    with pytest.raises(BrokerUnavailable):
        await enter(memberships, client)

    assert list(memberships) == []
    assert memberships.options("news") is None
    assert counted(service.engine) == 0
    assert "news" not in service.engine.hub.subscribers.channels
    await nobody_is_shown(service.engine)


async def test_nothing_is_left_of_a_channel_that_the_client_refused(
    service: Application, client: JsonConnection
) -> None:
    memberships = Memberships(service.engine)
    await enter(memberships, client, answer=False)

    assert list(memberships) == []
    assert counted(service.engine) == 0
    assert "news" not in service.engine.hub.subscribers.channels
    await nobody_is_shown(service.engine)


async def test_who_left_before_this_process_was_where_it_stands_is_not_let_in_later(
    service: Application, client: JsonConnection
) -> None:
    engine, options = service.engine, KEPT.options("news")
    first, memberships = Memberships(engine), Memberships(engine)
    await first.enter(
        Subscriber(client, "news", lambda subscriber, joined: True),
        Grant(options),
        ClientInfo("first", client.id),
        None,
    )
    history = service.broker.history
    assert isinstance(history, MemoryHistory)
    kept = options.publish_options()
    # In the store already, while this process has not known it.
    history.append_next("news", Publication(Raw(b"1")), kept, history.sweep())
    since = (await history.positions({"news": 60.0}))["news"]
    ahead = opened(service)
    await memberships.enter(
        Subscriber(ahead, "news", lambda subscriber, joined: True), Grant(options), ClientInfo("ahead", ahead.id), since
    )
    assert ahead not in engine.hub.subscribers.of("news")

    assert memberships.drop("news") is not None
    await engine.publisher.publish("news", Publication(Raw(b"2")), kept)
    await until(lambda: engine.subscriptions.stats[DEFAULT_NAMESPACE].healed, "this process has caught up")
    await engine.publisher.publish("news", Publication(Raw(b"3")), kept)
    transport: Any = client.transport
    await until(lambda: transport.pushes and transport.pushes[-1]["pub"]["data"] == 3, "what came later is delivered")

    assert engine.hub.subscribers.of("news") == [client]


async def test_a_renewed_subscription_stands_by_its_new_token(service: Application, client: JsonConnection) -> None:
    memberships = Memberships(service.engine)
    await enter(memberships, client)

    def granted(token_id: str) -> Grant:
        return Grant(service.engine.channels.options("news"), token=TokenFacts("alice", token_id))

    memberships.renew("news", granted("first"))
    memberships.renew("news", granted("second"))
    memberships.renew("sport", granted("second"))

    assert memberships.refused(lambda token: token.token_id == "first") == []
    assert memberships.refused(lambda token: token.token_id == "second") == ["news"]


async def test_who_is_not_let_in_after_all_leaves_every_channel(service: Application, client: JsonConnection) -> None:
    memberships = Memberships(service.engine)
    for channel in ("news", "sport"):
        await enter(memberships, client, channel)

    memberships.leave_all()

    assert list(memberships) == []
    assert counted(service.engine) == 0
    for channel in ("news", "sport"):
        await nobody_is_shown(service.engine, channel)
    await until(lambda: not {"news", "sport"} & set(service.engine.hub.subscribers.channels), "nobody listens")
