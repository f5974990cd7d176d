"""A consumer of Django Channels' tutorial chat, as it is with Starling: see docs/from-django-channels.md."""

from starling.hooks import Accept, Client


async def on_subscribe(client: Client, channel: str) -> Accept | None:
    """Decide who joins the group: the consumer's `connect` with `group_add`."""
    return Accept() if client.user else None


async def on_publish(client: Client, channel: str, data: dict[str, str]) -> dict[str, str]:
    """Send a client's message to the group: `receive` with `group_send`."""
    return {"message": data["message"], "user": client.user}
