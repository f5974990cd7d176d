"""`send`: a message to the application that wants no answer."""

import time

from starling.client.client_connection import ClientConnection
from starling.client.commands.base import CommandHandler
from starling.client.hook_calls import shown_to_hooks
from starling.engine.hooks import Client, Hooks
from starling.protocol.decisions import Decision, Deliver


class SendHandler(CommandHandler[Deliver, Client]):
    """Gives the message to the hook."""

    action = Deliver
    method = "send"
    traced = True

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks

    def prepare(self, client: ClientConnection, action: Deliver) -> Client:
        """Every client may send; the hook sees who does."""
        return shown_to_hooks(client)

    async def run(self, client: ClientConnection, action: Deliver, prepared: Client) -> list[Decision]:
        """Give it to the application."""
        await self._hooks.message(prepared, action.request.data)
        return client.session.delivered(action, time.monotonic())
