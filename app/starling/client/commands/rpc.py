"""`rpc`: a call of the application's method."""

import time

from starling.client.client_connection import ClientConnection
from starling.client.commands.base import CommandHandler
from starling.client.hook_calls import shown_to_hooks
from starling.engine.hooks import Client, Hooks
from starling.protocol.decisions import Call, Decision
from starling.protocol.messages import RPCResult


class RpcHandler(CommandHandler[Call, Client]):
    """Calls the hook; which methods there are is for the application."""

    action = Call
    method = "rpc"
    traced = True

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks

    def prepare(self, client: ClientConnection, action: Call) -> Client:
        """Every client may call; the hook sees who does."""
        return shown_to_hooks(client)

    async def run(self, client: ClientConnection, action: Call, prepared: Client) -> list[Decision]:
        """Call it."""
        result = await self._hooks.call(prepared, action.request.method, action.request.data)
        return client.session.answered(action, RPCResult(result), time.monotonic())
