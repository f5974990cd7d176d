"""The busiest channels of one node and over all: what is delivered is what counts."""

import pytest
from msgspec import Raw

from starling.engine.broker import PublishOptions
from starling.engine.engine import Engine
from starling.engine.hub import Hub
from starling.engine.top_channels import TopChannels
from starling.protocol.messages import ClientInfo, Join, Publication, Push
from tests.support.fake_receivers import FakeReceiver


async def enter(engine: Engine, channel: str, clients: int) -> None:
    for _ in range(clients):
        await engine.subscriptions.wait_in(FakeReceiver(), channel)


async def publish(engine: Engine, channel: str, messages: int) -> None:
    for _ in range(messages):
        await engine.publisher.publish(channel, Publication(data=Raw(b"0123456789")), PublishOptions())


async def test_the_busiest_channel_is_the_one_with_the_most_deliveries(engine: Engine) -> None:
    await enter(engine, "many listen", 30)
    await enter(engine, "much is said", 2)
    await enter(engine, "nothing is said", 100)
    top_channels = TopChannels(engine.hub, engine.control)
    await publish(engine, "many listen", 10)
    await publish(engine, "much is said", 50)
    await publish(engine, "nobody listens", 500)
    engine.hub.traffic.turn(1.0)

    many, much = await top_channels.everywhere(10)

    assert [many.channel, much.channel] == ["many listen", "much is said"]
    assert [many.subscribers, much.subscribers] == [30, 2]
    assert many.deliveries_per_second == pytest.approx(30 * many.messages_per_second)
    assert many.bytes_per_second == pytest.approx(300 * many.messages_per_second)
    assert many.deliveries_per_second == pytest.approx(3 * much.deliveries_per_second)
    assert [found.channel for found in await top_channels.everywhere(1)] == ["many listen"]


def test_joins_and_leaves_count_as_messages_of_their_channel() -> None:
    hub = Hub()
    for _ in range(3):
        hub.watchers.add("room", FakeReceiver())

    hub.push_to_watchers(Push("room", join=Join(ClientInfo(user="u", client="c"))))
    hub.traffic.turn(1.0)

    (room,) = hub.traffic.busiest(10)
    assert room.deliveries_per_second == pytest.approx(3 * room.messages_per_second)
