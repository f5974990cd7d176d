"""The rule that `publish`, `presence` and `history` have in common: may this client do that in this channel?"""

from starling.client.client_connection import ClientConnection
from starling.engine.channels import ChannelOptions, Channels
from starling.engine.rights import Rule, Subject, Verb, may
from starling.protocol import codes
from starling.protocol.codes import CommandRefused
from starling.protocol.decisions import ChannelQuery


def channel_options(client: ClientConnection, action: ChannelQuery, channels: Channels) -> ChannelOptions:
    """The options of the action's channel as they are for this client. Raises CommandRefused for an unknown one."""
    options = client.memberships.options(action.channel) if action.subscription is not None else None
    return channels.options(action.channel) if options is None else options


def require(
    client: ClientConnection, verb: Verb, action: ChannelQuery, options: ChannelOptions, channels: Channels
) -> None:
    """Raise CommandRefused where the client may not do `verb` in the action's channel."""
    asker = Subject(client.user, subscribed=action.subscription is not None)
    decision = may(asker, verb, channels.facts(action.channel, options))
    # The proxy of the namespace is asked before anything is published.
    if not decision.allowed and decision.rule != Rule.PUBLISH_PROXY:
        raise CommandRefused(codes.ERROR_PERMISSION_DENIED)
