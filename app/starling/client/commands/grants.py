"""What a client gets in a channel that it asks to enter: by the rights, by its token, and by hooks."""

from msgspec.structs import replace

from starling.client.authority import Authority, Grant, Identity
from starling.client.client_connection import ClientConnection
from starling.client.hook_calls import granted, shown_to_hooks
from starling.client.refusals import CommandRefusals
from starling.engine.allowances import payer
from starling.engine.channels import ChannelOptions
from starling.engine.engine import Engine
from starling.protocol import codes
from starling.protocol.codes import CommandRefused, Error
from starling.protocol.commands import ConnectRequest, SubscribeRequest
from starling.protocol.decisions import Subscribe


class ChannelGrants:
    """Grants channels to the clients of a worker. Every method may raise CommandRefused."""

    def __init__(self, engine: Engine, authority: Authority, refusals: CommandRefusals) -> None:
        self._engine = engine
        self._authority = authority
        self._refusals = refusals

    def grant_now(self, client: ClientConnection, request: SubscribeRequest) -> Grant | None:
        """What the rights or a subscription token give; None where keys must be fetched to find out."""
        return _refuse_unreadable(client, self._authority.grant_now(client.identity, request))

    async def grant(self, client: ClientConnection, request: SubscribeRequest, found: Grant | None = None) -> Grant:
        """What the client gets in the end. `found` is what `grant_now` gave."""
        grant = found or await self._authority.grant(client.identity, request)
        if found is None:
            _refuse_unreadable(client, grant)
        shown = shown_to_hooks(client, grant.info, has_token=grant.token is not None)
        return granted(grant, await self._engine.hooks.subscribe(shown, request.channel, request.data))

    async def grant_requested(self, client: ClientConnection, request: ConnectRequest) -> None:
        """Let a client that cannot subscribe later into the channels of its request, by its token or by its rights.

        It gets all of them, or none and the reason.
        """
        held = client.identity.subscriptions
        grants: dict[str, Grant] = {} if client.own_channels_only else dict(held)
        for channel, subscribe in request.subs.items():
            subscribe.channel = channel
            if (grant := held.get(channel)) is not None:
                grants[channel] = grant
                continue
            try:
                grants[channel] = await self.grant(client, subscribe)
                self.check_first_use(client, channel, grants[channel].options)
            except CommandRefused as refused:
                reason = self._refusals.report(client, Subscribe(0, subscribe), refused.reason)
                if isinstance(reason, Error):
                    reason = replace(reason, message=f"{reason.message} (channel {channel})")
                raise CommandRefused(reason) from refused
        client.check_grants(grants)
        client.identity = replace(client.identity, subscriptions=grants)

    def requested_now(
        self, client: ClientConnection, identity: Identity, request: ConnectRequest
    ) -> dict[str, Grant] | None:
        """What `grant_requested` gives a client that becomes `identity`, where it enters every channel at once.

        None where it does not, and where a channel is refused, for which `grant_requested` has the reason.
        """
        if self._engine.hooks.sees_subscriptions or client.from_start:
            return None
        grants: dict[str, Grant] = {}
        for channel, subscribe in request.subs.items():
            subscribe.channel = channel
            try:
                grant = _refuse_unreadable(client, self._authority.grant_now(identity, subscribe))
            except CommandRefused:
                return None
            if grant is None or not enters_at_once(subscribe, grant):
                return None
            grants[channel] = grant
        return grants

    def check_first_use(self, client: ClientConnection, channel: str, options: ChannelOptions) -> None:
        """Refuse a channel with history that nobody here is in, to a client that was the first in too many."""
        first_uses = self._engine.admission.clients.first_uses
        excess = options.keeps_history and first_uses.exhausted(payer(client))
        if excess and not self._engine.subscriptions.is_live(channel):
            raise CommandRefused(codes.ERROR_TOO_MANY_REQUESTS)

    def count_first_use(self, client: ClientConnection) -> None:
        """The client was the first that used a channel with history."""
        self._engine.admission.clients.first_uses.spend(payer(client))


def enters_at_once(request: SubscribeRequest, grant: Grant) -> bool:
    """Whether the terms of a subscription need no task: no token, hook, presence and recovery, and no patches."""
    options = grant.options
    if request.recover or grant.needs_hook or grant.token is not None or options.subscribe_proxy:
        return False
    if options.presence or options.join_leave or options.stream is not None:
        return False
    # The newest publication of a cache channel, and the base of patches, must be read.
    return not options.keeps_history or (options.force_recovery_mode != "cache" and not request.delta)


def _refuse_unreadable(client: ClientConnection, grant: Grant | None) -> Grant | None:
    """Raise CommandRefused for a channel that the client cannot read; return `grant`."""
    if grant is not None and not client.reads(grant.options):
        raise CommandRefused(codes.ERROR_NOT_AVAILABLE)
    return grant
