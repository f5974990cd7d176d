"""The JavaScript SDK in Node.js, driven through bridge.js."""

import asyncio
import contextlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from tests.sdk.client import Client, ClientOptions, Position, Refused, SubscriptionOptions, Unauthorized
from tests.support.waiting import DEADLINE

FOLDER = Path(__file__).parent


def require_sdk() -> Path:
    """The folder of the SDK's package; skips the test where Node.js or the package is not there."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed, so the JavaScript SDK cannot run; on Debian: apt-get install nodejs")
    package = FOLDER / "node_modules" / "centrifuge"
    if not package.is_dir():
        pytest.skip("the JavaScript SDK is not installed; run: npm ci --prefix tests/sdk")
    return package


class Bridge:
    """One Node.js process for all tests; each test has a connection to it, and with that its own clients."""

    def __init__(self) -> None:
        require_sdk()
        self._folder = tempfile.TemporaryDirectory(prefix="starling-sdk-")
        self.path = str(Path(self._folder.name) / "bridge")
        self._process = subprocess.Popen(
            ["node", str(FOLDER / "bridge.js"), self.path], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", "the bridge did not start"
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._process.communicate(timeout=DEADLINE)
        self._folder.cleanup()


class BridgeConnection:
    """One test's connection to the bridge."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._clients: list[JavaScriptClient] = []
        self._answers: set[asyncio.Task[None]] = set()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, bridge: Bridge) -> Self:
        """Connect to the bridge."""
        return cls(*await asyncio.open_unix_connection(bridge.path, limit=2**24))

    async def close(self) -> None:
        """End every client of this connection."""
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading
        self._writer.close()
        await self._writer.wait_closed()

    async def create(
        self, url: str, options: ClientOptions, *, protobuf: bool, transports: Sequence[str] = ()
    ) -> "JavaScriptClient":
        """A new client of the SDK, not connected yet; over `transports` in their order, without any over WebSocket.

        `refused_websocket` is one that the service refuses before the upgrade.
        """
        service = url.replace("ws://", "http://", 1).removesuffix("/connection/websocket")
        endpoints = [{"transport": each, "endpoint": f"{service}/connection/{each}"} for each in transports]
        for endpoint in endpoints:
            if endpoint["transport"] == "refused_websocket":
                endpoint |= {"transport": "websocket", "endpoint": f"{url}/refused"}
        client = JavaScriptClient(self, len(self._clients), options)
        self._clients.append(client)
        given = {name: getattr(options, name) for name in ("token", "data", "name", "version", "headers")}
        await self.call(
            client.number,
            "create",
            url=url,
            transports=endpoints,
            protobuf=protobuf,
            callbacks=["get_token"] if options.get_token else [],
            mute=options.mute,
            options={name: value for name, value in given.items() if value}
            | {"minReconnectDelay": 50, "maxReconnectDelay": 500, "emulationEndpoint": f"{service}/emulation"},
        )
        return client

    async def call(self, client: int, call: str, **args: Any) -> Any:
        """Let the bridge do something with a client. Raises Refused for what the SDK rejects."""
        number = len(self._calls) + 1
        self._calls[number] = asyncio.get_running_loop().create_future()
        self._write({"id": number, "client": client, "call": call, "args": args})
        async with asyncio.timeout(DEADLINE):
            return await self._calls[number]

    def _write(self, message: Any) -> None:
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def _read(self) -> None:
        while line := await self._reader.readline():
            message = json.loads(line)
            if "event" in message:
                self._clients[message["of"]].report(message["event"])
            elif "ask" in message:
                answering = asyncio.create_task(self._answer(message))
                self._answers.add(answering)
                answering.add_done_callback(self._answers.discard)
            elif message.get("error"):
                self._calls[message["id"]].set_exception(Refused(**message["error"]))
            else:
                self._calls[message["id"]].set_result(message["value"])

    async def _answer(self, message: dict[str, Any]) -> None:
        client, arguments = self._clients[message["of"]], [message[key] for key in ("argument",) if key in message]
        try:
            value = await client.callbacks[message["ask"], *arguments](*arguments)
        except Unauthorized:
            self._write({"question": message["question"], "error": "unauthorized"})
        except RuntimeError as error:
            self._write({"question": message["question"], "error": str(error)})
        else:
            self._write({"question": message["question"], "value": value})


class JavaScriptClient(Client):
    """One client of the JavaScript SDK."""

    def __init__(self, bridge: BridgeConnection, number: int, options: ClientOptions) -> None:
        super().__init__()
        self.number = number
        self.callbacks: dict[tuple[str, ...], Any] = {("get_token",): options.get_token}
        self._bridge = bridge

    async def _do(self, call: str, **args: Any) -> Any:
        return await self._bridge.call(self.number, call, **args)

    async def connect(self) -> None:
        await self._do("connect")

    async def disconnect(self) -> None:
        await self._do("disconnect")

    async def state(self) -> str:
        return str(await self._do("state"))

    async def subscribe(self, channel: str, options: SubscriptionOptions | None = None) -> None:
        options = options or SubscriptionOptions()
        self.callbacks["get_subscription_token", channel] = options.get_token
        self.callbacks["get_state", channel] = options.get_state
        given = {
            "token": options.token,
            "data": options.data,
            "since": options.since,
            "recoverable": options.recoverable,
            "positioned": options.positioned,
            "joinLeave": options.join_leave,
            "delta": "fossil" if options.delta else "",
            "tagsFilter": {"key": "ticker", "cmp": "eq", "val": options.ticker} if options.ticker else None,
        }
        await self._do(
            "subscribe",
            channel=channel,
            callbacks=[name for name in ("get_token", "get_state") if getattr(options, name)],
            options={name: value for name, value in given.items() if value}
            | {"minResubscribeDelay": 50, "maxResubscribeDelay": 500},
        )

    async def resubscribe(self, channel: str) -> None:
        await self._do("resubscribe", channel=channel)

    async def unsubscribe(self, channel: str) -> None:
        await self._do("unsubscribe", channel=channel)

    async def subscription_state(self, channel: str) -> str:
        return str(await self._do("subscription_state", channel=channel))

    async def unsubscribe_on(self, channel: str, event: str) -> None:
        await self._do("unsubscribe_on", channel=channel, event=event)

    async def publish(self, channel: str, data: Any) -> None:
        await self._do("publish", channel=channel, data=data)

    async def rpc(self, method: str, data: Any) -> Any:
        return (await self._do("rpc", method=method, data=data))["data"]

    async def history(
        self, channel: str, limit: int = 0, since: Position | None = None, *, reverse: bool = False
    ) -> dict[str, Any]:
        options = {"since": since} if since else {}
        result: dict[str, Any] = await self._do("history", channel=channel, limit=limit, reverse=reverse, **options)
        return result

    async def presence(self, channel: str) -> dict[str, Any]:
        clients: dict[str, Any] = await self._do("presence", channel=channel)
        return clients

    async def presence_stats(self, channel: str) -> tuple[int, int]:
        stats = await self._do("presence_stats", channel=channel)
        return stats["num_clients"], stats["num_users"]

    async def sent(self) -> int:
        """How many requests of transports over HTTP the client has made, the one that connects among them."""
        return int(await self._do("sent"))

    async def transport(self) -> str:
        """The transport that is in use."""
        return str(await self._do("transport"))

    async def cut(self) -> None:
        await self._do("cut")

    async def inject(self, text: str) -> None:
        await self._do("inject", text=text)

    async def close(self) -> None:
        await self.disconnect()

    # What only this SDK has

    async def send(self, data: Any) -> None:
        """Send without waiting for an answer."""
        await self._do("send", data=data)

    async def publish_batch(self, channel: str, items: list[Any]) -> None:
        """Publish several in one frame."""
        await self._do("publish_batch", channel=channel, items=items)

    async def publish_binary(self, channel: str, data: bytes) -> None:
        """Publish bytes that are no JSON; the client must speak Protobuf."""
        await self._do("publish_binary", channel=channel, hex=data.hex())

    async def freeze(self) -> None:
        """Read no more from the socket."""
        await self._do("freeze")

    async def thaw(self) -> None:
        """Read on."""
        await self._do("thaw")
