"""Clients without a socket that send many commands in one frame, and what is reported of their subscriptions."""

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

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
from tests.support.waiting import until

SECRET = "x" * 32


class Reports(NoLifecycle):
    """Keeps what is reported of `alice`: her clients, and her subscriptions in their order, True where one begins."""

    def __init__(self) -> None:
        self.of: dict[str, list[bool]] = {}
        self.connected_clients: set[str] = set()

    def connected(self, client: str, user: str, address: str = "") -> None:
        self.connected_clients.add(client)

    def disconnected(self, client: str, user: str, code: int, reason: str, address: str = "") -> None:
        self.connected_clients.remove(client)

    def subscribed(self, client: str, user: str, channel: str, address: str = "") -> None:
        assert client in self.connected_clients
        if user == "alice":
            self.of.setdefault(channel, []).append(True)

    def unsubscribed(self, client: str, user: str, channel: str, address: str = "", *, unused: bool = False) -> None:
        assert client in self.connected_clients
        if user == "alice":
            self.of.setdefault(channel, []).append(False)


@asynccontextmanager
async def serving(
    directory: Path, channels: dict[str, Any], reports: Reports, broker_url: str = ""
) -> AsyncIterator[Application]:
    """A service with these namespaces, over the memory broker where no other is named."""
    file = directory / "channels.json"
    file.write_text(json.dumps({"namespaces": channels}))
    environment = {"STARLING_TOKEN_HMAC_SECRET": SECRET, "STARLING_CHANNELS_FILE": str(file)}
    if broker_url:
        environment["STARLING_BROKER_URL"] = broker_url
    service = build_application(load_settings(environment), CollectorRegistry(), lifecycle=reports)
    await service.engine.start()
    await until(lambda: service.engine.readiness.ready, "the node is ready")
    yield service
    await service.engine.stop()


def connected(service: Application) -> tuple[JsonConnection, JsonTransport]:
    """A client of `alice` that has sent its connect command, for tests that write its frames themselves."""
    client = JsonConnection(service.context.dispatcher, Identity("alice", token=TokenFacts("alice")))
    transport = JsonTransport()
    client.open(transport)
    client.on_message('{"id":1,"connect":{}}')
    return client, transport


class FrameClient:
    """A client that keeps what it receives."""

    def __init__(
        self,
        service: Application,
        user: str,
        *commands: dict[str, Any],
        identity: Identity | None = None,
        transport: JsonTransport | None = None,
    ) -> None:
        """Connect, with `commands` in the same frame. `identity` and `transport` None: ordinary ones."""
        identity = identity or Identity(user, token=TokenFacts(user))
        self.connection = JsonConnection(service.context.dispatcher, identity)
        self.transport = transport or JsonTransport()
        self.connection.open(self.transport)
        self._numbers = itertools.count(1)
        self.send({"connect": {}}, *commands)

    @property
    def received(self) -> list[Any]:
        """All replies and pushes so far."""
        return self.transport.lines

    def send(self, *commands: dict[str, Any]) -> list[int]:
        """Send commands in one frame; returns their ids."""
        numbered = [{"id": next(self._numbers), **command} for command in commands]
        self.connection.on_message("\n".join(map(json.dumps, numbered)))
        return [command["id"] for command in numbered]

    async def answered(self, ids: list[int]) -> list[Any]:
        """Wait for the replies to these commands; returns them."""
        replies: dict[int, Any] = {}

        def complete() -> bool:
            replies.update({line["id"]: line for line in self.received if line.get("id")})
            return set(ids) <= set(replies)

        await until(complete, "the commands are answered")
        return [replies[number] for number in ids]

    async def carry_out(self, *commands: dict[str, Any]) -> None:
        """Send commands in one frame, and wait until each is answered without an error."""
        for reply in await self.answered(self.send(*commands)):
            assert "error" not in reply

    def got(self, data: Any) -> int:
        """How often it has received a publication with this data."""
        return sum(line.get("push", {}).get("pub", {}).get("data") == data for line in self.received)


def subscribe(channel: str, **more: Any) -> dict[str, Any]:
    return {"subscribe": {"channel": channel, **more}}


def unsubscribe(channel: str) -> dict[str, Any]:
    return {"unsubscribe": {"channel": channel}}


async def publish(service: Application, channel: str, data: Any, **tags: str) -> None:
    options = service.engine.channels.options(channel).publish_options()
    await service.engine.publisher.publish(
        channel, Publication(data=Raw(json.dumps(data).encode()), tags=tags), options
    )
