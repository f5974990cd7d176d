"""`rpc`: a call of the application's method."""

import time

from starling.client.client_connection import ClientConnection
from starling.client.commands.base import Command
from starling.engine.hooks import Hooks
from starling.protocol.decisions import Call, Decision
from starling.protocol.messages import ClientInfo, RPCResult


class Rpc(Command):
    """Calls the hook; which methods there are is for the application."""

    action = Call
    method = "rpc"
    traced = True

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks

    def prepare(self, client: ClientConnection, action: Call) -> ClientInfo:
        """Every client may call; the hook sees who does."""
        return client.info()

    async def run(self, client: ClientConnection, action: Call, prepared: ClientInfo) -> list[Decision]:
        """Call it."""
        result = await self._hooks.call(prepared, action.request.method, action.request.data)
        return client.session.answered(action, RPCResult(result), time.monotonic())
