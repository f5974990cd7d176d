"""Clients that end a subscription and begin it again at once, as a page does whose component is shown again."""

import itertools
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from prometheus_client import CollectorRegistry

from starling.client.authority import Identity
from starling.client.client_connection import JsonConnection
from starling.engine.lifecycle import NoLifecycle
from starling.engine.receiver import TokenFacts
from starling.main import Application, build_application
from starling.protocol.messages import Publication
from starling.settings import load_settings
from tests.support.json_transport import JsonTransport
from tests.support.services import RedisServer
from tests.support.waiting import until

HISTORY = {"history_size": 10, "history_ttl": "60s"}
PRESENCE = {"presence": True, "join_leave": True}
OPEN = {"allow_subscribe_for_client": True, "allow_publish_for_client": True, "allow_tags_filter": True}
CHANNELS = {
    "namespaces": {
        "plain": OPEN,
        "kept": OPEN | HISTORY,
        "watched": OPEN | PRESENCE,
        "both": OPEN | HISTORY | PRESENCE,
    }
}


class Reports(NoLifecycle):
    """Keeps what is reported of subscriptions of `alice`, in its order: True where one begins."""

    def __init__(self) -> None:
        self.of: dict[str, list[bool]] = {}

    def subscribed(self, client: str, user: str, channel: str, address: str = "") -> None:
        if user == "alice":
            self.of.setdefault(channel, []).append(True)

    def unsubscribed(self, client: str, user: str, channel: str, address: str = "", *, unused: bool = False) -> None:
        if user == "alice":
            self.of.setdefault(channel, []).append(False)


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.processes)])
async def service(request: pytest.FixtureRequest, tmp_path: Path, reports: Reports) -> AsyncIterator[Application]:
    channels = tmp_path / "channels.json"
    channels.write_text(json.dumps(CHANNELS))
    environment = {"STARLING_TOKEN_HMAC_SECRET": "x" * 32, "STARLING_CHANNELS_FILE": str(channels)}
    if request.param == "redis":
        redis: RedisServer = request.getfixturevalue("redis_server")
        environment["STARLING_BROKER_URL"] = redis.url
    service = build_application(load_settings(environment), CollectorRegistry(), lifecycle=reports)
    await service.engine.start()
    await until(lambda: service.engine.readiness.ready, "the node is ready")
    yield service
    await service.engine.stop()


class Client:
    """A connected client that keeps what it receives."""

    def __init__(self, service: Application, user: str) -> None:
        self._connection = JsonConnection(service.context.dispatcher, Identity(user, token=TokenFacts(user)))
        self._transport = JsonTransport()
        self._connection.open(self._transport)
        self._numbers = itertools.count(1)
        self.send({"connect": {}})

    @property
    def received(self) -> list[Any]:
        """All replies and pushes so far."""
        return self._transport.lines

    def send(self, *commands: dict[str, Any]) -> list[int]:
        """Send commands in one frame; returns their ids."""
        numbered = [{"id": next(self._numbers), **command} for command in commands]
        self._connection.on_message("\n".join(map(json.dumps, numbered)))
        return [command["id"] for command in numbered]

    async def carry_out(self, *commands: dict[str, Any]) -> None:
        """Send commands in one frame, and wait until each is answered without an error."""
        wanted = set(self.send(*commands))
        await until(lambda: wanted <= {line.get("id") for line in self.received}, "the commands are answered")
        assert "error" not in str(self.received)

    def got(self, data: str) -> int:
        """How often it has received a publication with this data."""
        return sum(line.get("push", {}).get("pub", {}).get("data") == data for line in self.received)


def subscribe(channel: str, **more: Any) -> dict[str, Any]:
    return {"subscribe": {"channel": channel, **more}}


def unsubscribe(channel: str) -> dict[str, Any]:
    return {"unsubscribe": {"channel": channel}}


async def publish(service: Application, channel: str, data: str, **tags: str) -> None:
    options = service.engine.channels.options(channel).publish_options()
    await service.engine.publisher.publish(
        channel, Publication(data=Raw(json.dumps(data).encode()), tags=tags), options
    )


@pytest.mark.parametrize("others", [True, False])
@pytest.mark.parametrize("channel", ["plain:a", "kept:a", "watched:a", "both:a"])
async def test_the_last_subscription_of_a_frame_receives_what_follows(
    service: Application, reports: Reports, channel: str, others: bool
) -> None:
    other, alice = Client(service, "bob"), Client(service, "alice")
    if others:
        await other.carry_out(subscribe(channel))
    await alice.carry_out(*[subscribe(channel), unsubscribe(channel)] * 3, subscribe(channel))
    await publish(service, channel, "once")
    await until(lambda: alice.got("once") == 1, "the publication is received")
    await alice.carry_out(unsubscribe(channel))
    assert reports.of[channel] == [True, False] * 4


async def test_commands_of_one_frame_in_any_order_leave_a_client_where_the_last_ones_put_it(
    service: Application, reports: Reports
) -> None:
    randomness, names = random.Random(15), ["plain:a", "kept:a", "watched:a", "both:a"]
    other, alice = Client(service, "bob"), Client(service, "alice")
    await other.carry_out(*map(subscribe, names))
    inside: set[str] = set()
    for number in range(40):
        commands = []
        for channel in randomness.choices(names, k=randomness.randrange(1, 12)):
            commands.append(unsubscribe(channel) if channel in inside else subscribe(channel))
            inside ^= {channel}
        await alice.carry_out(*commands)
        for channel in names:
            await publish(service, channel, f"{channel} {number}")
        expected = {f"{channel} {number}" for channel in inside}
        await until(lambda: all(other.got(f"{channel} {number}") for channel in names), "all is delivered")  # noqa: B023 - called here
        await until(lambda: all(alice.got(data) == 1 for data in expected), "what is subscribed to is received")  # noqa: B023
        assert not any(alice.got(f"{channel} {number}") for channel in set(names) - inside)
    for channel in names:
        assert reports.of[channel] == [True, False] * (len(reports.of[channel]) // 2) + [True] * (channel in inside)


@pytest.mark.parametrize("channel", ["plain:a", "kept:a", "both:a"])
async def test_the_filter_of_the_last_subscription_of_a_frame_is_the_one_that_counts(
    service: Application, channel: str
) -> None:
    other, alice = Client(service, "bob"), Client(service, "alice")
    await other.carry_out(subscribe(channel))
    red = subscribe(channel, tf={"key": "color", "cmp": "eq", "val": "red"})
    await alice.carry_out(subscribe(channel), unsubscribe(channel), red)
    await publish(service, channel, "blue", color="blue")
    await publish(service, channel, "red", color="red")
    await until(lambda: alice.got("red") == 1, "what passes the filter is received")
    assert alice.got("blue") == 0
    await alice.carry_out(unsubscribe(channel), red, unsubscribe(channel), subscribe(channel))
    await publish(service, channel, "green", color="green")
    await until(lambda: alice.got("green") == 1, "everything is received without a filter")
