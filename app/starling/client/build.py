"""Builds the dispatcher of a worker with the handlers of all commands."""

from starling.client.authority import Authority
from starling.client.commands.connect import Connect
from starling.client.commands.history import History
from starling.client.commands.presence import Presence, PresenceStats
from starling.client.commands.publish import Publish
from starling.client.commands.refresh import Refresh, SubRefresh
from starling.client.commands.rpc import Rpc
from starling.client.commands.send import Send
from starling.client.commands.subscribe import Subscribe, Unsubscribe
from starling.client.dispatcher import Dispatcher
from starling.client.refusals import CommandRefusals
from starling.client.user_limit import UserLimit
from starling.engine.engine import Engine
from starling.protocol.session import SessionLimits


def build_dispatcher(
    engine: Engine, authority: Authority, limits: SessionLimits, *, developer: bool = False
) -> Dispatcher:
    """Build what carries out the decisions of all sessions of a worker.

    In developer mode errors that refuse a command name the option that would allow it.
    """
    channels, hooks = engine.channels, engine.hooks
    user_limit = UserLimit(engine.presence, engine.options.connections_per_user)
    commands = (
        Connect(engine, authority, user_limit),
        Subscribe(engine, authority),
        Unsubscribe(engine),
        Publish(channels, hooks, engine.publisher, engine.admission.clients.first_uses),
        Presence(channels, engine.presence),
        PresenceStats(channels, engine.presence),
        History(channels, engine.history, engine.options.recovery_limit, engine.admission.clients.first_uses),
        Rpc(hooks),
        Send(hooks),
        Refresh(authority, engine.presence),
        SubRefresh(authority, engine.presence),
    )
    refusals = CommandRefusals(channels, engine.metrics.refusal_log, developer=developer)
    return Dispatcher(engine, limits, commands, user_limit, refusals)
