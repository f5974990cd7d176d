"""The Python SDK, in the process of the test."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import asdict, is_dataclass
from typing import Any

import centrifuge
from websockets.asyncio.client import ClientConnection

from tests.sdk.client import (
    Client,
    ClientOptions,
    GetState,
    Position,
    Refused,
    SubscriptionOptions,
    Unauthorized,
)
from tests.support.waiting import DEADLINE

Handler = Callable[[Any], Coroutine[Any, Any, None]]

CLIENT_EVENTS = ("connecting", "connected", "disconnected", "error")
SERVER_SUBSCRIPTION_EVENTS = ("subscribed", "subscribing", "unsubscribed", "publication", "join", "leave")
SUBSCRIPTION_EVENTS = (*SERVER_SUBSCRIPTION_EVENTS, "error")


class PythonClient(Client):
    """One client of the Python SDK."""

    def __init__(self, url: str, options: ClientOptions, *, protobuf: bool) -> None:
        super().__init__()
        self._protobuf = protobuf
        get_token = options.get_token

        async def ask_token() -> str:
            assert get_token is not None
            try:
                return await get_token()
            except Unauthorized as refusal:
                raise centrifuge.UnauthorizedError from refusal

        headers = {"Authorization": f"Bearer {options.handshake_token}"} if options.handshake_token else {}
        self.sdk = centrifuge.Client(
            url,
            token=options.token,
            get_token=ask_token if get_token else None,
            data=self._write(options.data) if options.data else None,
            name=options.name or "python",
            version=options.version,
            headers=headers,
            use_protobuf=protobuf,
            min_reconnect_delay=0.05,
            max_reconnect_delay=0.5,
        )
        for event in (*CLIENT_EVENTS, *SERVER_SUBSCRIPTION_EVENTS):
            setattr(self.sdk.events, f"on_{event}", self._reporter(event))

    def _reporter(self, event: str, channel: str = "") -> Handler:
        async def report(context: Any) -> None:
            values = {name: self._read(value) for name, value in vars(context).items()}
            values |= values.pop("pub", {})
            self.report({**({"channel": channel} if channel else {}), **values, "event": event})

        return report

    def _write(self, value: Any) -> Any:
        return json.dumps(value).encode() if self._protobuf else value

    def _read(self, value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return {name: self._read(item) for name, item in asdict(value).items() if item is not None}
        if isinstance(value, centrifuge.ReplyError):
            return {"code": value.code, "message": value.message}
        if isinstance(value, Exception):
            return {"message": str(value)}
        if isinstance(value, dict):
            return {name: self._read(item) for name, item in value.items()}
        if isinstance(value, bytes):
            return json.loads(value)
        return value

    def _subscription(self, channel: str) -> centrifuge.Subscription:
        subscription = self.sdk.get_subscription(channel)
        assert subscription is not None
        return subscription

    async def _ask(self, question: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await question
        except centrifuge.ReplyError as error:
            raise Refused(error.code, error.message) from error

    async def connect(self) -> None:
        await self.sdk.connect()

    async def disconnect(self) -> None:
        await self.sdk.disconnect()

    async def state(self) -> str:
        return str(self.sdk.state.value)

    async def subscribe(self, channel: str, options: SubscriptionOptions | None = None) -> None:
        options = options or SubscriptionOptions()
        get_token = options.get_token

        async def ask_token(channel: str) -> str:
            assert get_token is not None
            try:
                return await get_token(channel)
            except Unauthorized as refusal:
                raise centrifuge.UnauthorizedError from refusal

        get_state = options.get_state
        if get_state is None and options.since is not None:
            # This SDK has no `since`: the application's state is what it has for it.
            given = options.since

            async def get_state(channel: str) -> Position:
                return given

        subscription = self.sdk.new_subscription(
            channel,
            token=options.token,
            get_token=ask_token if get_token else None,
            get_state=_positions(get_state) if get_state else None,
            data=self._write(options.data) if options.data else None,
            recoverable=options.recoverable,
            positioned=options.positioned,
            join_leave=options.join_leave,
            delta=centrifuge.DeltaType.FOSSIL if options.delta else None,
            tags_filter=centrifuge.Filter.eq("ticker", options.ticker) if options.ticker else None,
            min_resubscribe_delay=0.05,
            max_resubscribe_delay=0.5,
        )
        for event in SUBSCRIPTION_EVENTS:
            setattr(subscription.events, f"on_{event}", self._reporter(event, channel))
        await subscription.subscribe()

    async def resubscribe(self, channel: str) -> None:
        await self._subscription(channel).subscribe()

    async def unsubscribe(self, channel: str) -> None:
        await self._subscription(channel).unsubscribe()

    async def subscription_state(self, channel: str) -> str:
        return str(self._subscription(channel).state.value)

    async def unsubscribe_on(self, channel: str, event: str) -> None:
        subscription = self._subscription(channel)
        report = getattr(subscription.events, f"on_{event}")

        async def leave(context: Any) -> None:
            setattr(subscription.events, f"on_{event}", report)
            await report(context)
            await subscription.unsubscribe()

        setattr(subscription.events, f"on_{event}", leave)

    async def publish(self, channel: str, data: Any) -> None:
        await self._ask(self.sdk.publish(channel, self._write(data)))

    async def rpc(self, method: str, data: Any) -> Any:
        return self._read((await self._ask(self.sdk.rpc(method, self._write(data)))).data)

    async def history(
        self, channel: str, limit: int = 0, since: Position | None = None, *, reverse: bool = False
    ) -> dict[str, Any]:
        position = centrifuge.StreamPosition(**since) if since else None
        result = await self._ask(self.sdk.history(channel, limit=limit, since=position, reverse=reverse))
        return {
            "publications": [self._read(publication) for publication in result.publications],
            "offset": result.offset,
            "epoch": result.epoch,
        }

    async def presence(self, channel: str) -> dict[str, Any]:
        clients = (await self._ask(self.sdk.presence(channel))).clients
        return {client: self._read(info) for client, info in clients.items()}

    async def presence_stats(self, channel: str) -> tuple[int, int]:
        stats = await self._ask(self.sdk.presence_stats(channel))
        return stats.num_clients, stats.num_users

    @property
    def _websocket(self) -> ClientConnection:
        # The SDK keeps its socket to itself; only what happens to a socket needs it.
        websocket: ClientConnection = self.sdk._conn
        return websocket

    async def cut(self) -> None:
        self._websocket.transport.abort()

    async def inject(self, text: str) -> None:
        await self._websocket.send(text)

    async def close(self) -> None:
        await disconnect(self.sdk)


async def disconnect(client: centrifuge.Client) -> None:
    """Disconnect, and wait for the socket, which the SDK closes in the background: the loop is to outlive that."""
    await client.disconnect()
    await asyncio.wait_for(asyncio.gather(*client._background_tasks, return_exceptions=True), DEADLINE)


def _positions(get_state: GetState) -> Callable[[str], Coroutine[Any, Any, centrifuge.StreamPosition]]:
    async def positions(channel: str) -> centrifuge.StreamPosition:
        return centrifuge.StreamPosition(**await get_state(channel))

    return positions
