"""The busiest channels of one node and over all: what is delivered is what counts."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import Raw
from prometheus_client import CollectorRegistry

from starling.engine.broker import PublishOptions
from starling.engine.connection import Connection
from starling.engine.node import Node
from starling.engine.transport import Batch, Frame
from starling.main import create_app
from starling.protocol.messages import ClientInfo, Join, Publication, Push
from starling.settings import load_settings


class Transport:
    """Takes everything and keeps nothing."""

    def send_frame(self, frame: Frame) -> None: ...

    def send_batch(self, batch: Batch) -> None: ...

    queue_batch = send_batch


class Client(Connection):
    """One who only listens."""

    kind = "chat"

    def __init__(self, node: Node) -> None:
        super().__init__(node, "")
        self.transport = Transport()  # type: ignore[assignment]

    @staticmethod
    def encode(push: Push) -> Frame:
        return Frame(bytes(push.pub.data) if push.pub else b"came", text=True)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    application: Any = create_app(load_settings({"STARLING_DEV": "true"}), CollectorRegistry())
    node: Node = application.state.web_context.node
    await node.start()
    while not node.readiness.ready:
        await asyncio.sleep(0.01)
    yield node
    await node.stop()


async def enter(node: Node, channel: str, clients: int) -> None:
    for _ in range(clients):
        await node.subscriptions.wait_in(Client(node), channel)


async def publish(node: Node, channel: str, messages: int) -> None:
    for _ in range(messages):
        await node.publish(channel, Publication(data=Raw(b"0123456789")), PublishOptions())


async def test_the_busiest_channel_is_the_one_with_the_most_deliveries(node: Node) -> None:
    await enter(node, "many listen", 30)
    await enter(node, "much is said", 2)
    await enter(node, "nothing is said", 100)
    began = time.monotonic()
    await publish(node, "many listen", 10)
    await publish(node, "much is said", 50)
    await publish(node, "nobody listens", 500)
    while not node.top_channels.here(1):
        await asyncio.sleep(0.05)
    await asyncio.sleep(1.1)
    assert time.monotonic() - began < 8, "else the counts have faded too far"

    many, much = await node.top_channels.everywhere(10)

    assert [many.channel, much.channel] == ["many listen", "much is said"]
    assert [many.subscribers, much.subscribers] == [30, 2]
    assert many.deliveries_per_second == pytest.approx(30 * many.messages_per_second)
    assert many.bytes_per_second == pytest.approx(300 * many.messages_per_second)
    assert many.deliveries_per_second == pytest.approx(3 * much.deliveries_per_second)
    assert [found.channel for found in await node.top_channels.everywhere(1)] == ["many listen"]


def test_joins_and_leaves_count_as_messages_of_their_channel() -> None:
    application: Any = create_app(load_settings({"STARLING_DEV": "true"}), CollectorRegistry())
    node: Node = application.state.web_context.node
    for _ in range(3):
        node.hub.watchers.add("room", Client(node))

    node.hub.tell_watchers(Push("room", join=Join(ClientInfo(user="u", client="c"))))
    node.hub.traffic.turn(1.0)

    (room,) = node.hub.traffic.busiest(10)
    assert room.deliveries_per_second == pytest.approx(3 * room.messages_per_second)
