"""Construction of a worker's dispatcher with the handlers of all commands."""

from starling.client.authority import Authority
from starling.client.commands.connect import ConnectHandler
from starling.client.commands.grants import ChannelGrants
from starling.client.commands.history import HistoryHandler
from starling.client.commands.presence import PresenceHandler, PresenceStatsHandler
from starling.client.commands.publish import PublishHandler
from starling.client.commands.refresh import RefreshHandler, SubRefreshHandler
from starling.client.commands.renew import RenewHandler, RenewSubHandler
from starling.client.commands.rpc import RpcHandler
from starling.client.commands.send import SendHandler
from starling.client.commands.subscribe import SubscribeHandler, UnsubscribeHandler
from starling.client.dispatcher import Dispatcher
from starling.client.refusals import CommandRefusals
from starling.client.shared_recoveries import SharedRecoveries
from starling.client.user_limit import UserLimit
from starling.engine.engine import Engine
from starling.protocol.options import SessionLimits


def build_dispatcher(
    engine: Engine,
    authority: Authority,
    limits: SessionLimits,
    *,
    connections_per_user: int = 0,
    developer: bool = False,
) -> Dispatcher:
    """Build what carries out the decisions of all sessions of a worker.

    A user may have `connections_per_user` connections in all workers; 0: any number.
    In developer mode errors that refuse a command name the option that would allow it, and hints are logged.
    """
    channels, hooks = engine.channels, engine.hooks
    user_limit = UserLimit(engine.presence, connections_per_user)
    recoveries = SharedRecoveries()
    refusals = CommandRefusals(channels, engine.metrics.refusal_log, developer=developer)
    grants = ChannelGrants(engine, authority, refusals)
    commands = (
        ConnectHandler(engine, authority, user_limit, recoveries, grants),
        SubscribeHandler(engine, grants, recoveries),
        UnsubscribeHandler(engine),
        PublishHandler(channels, hooks, engine.publisher, engine.append_streams, engine.admission.clients.first_uses),
        PresenceHandler(channels, engine.presence),
        PresenceStatsHandler(channels, engine.presence),
        HistoryHandler(
            channels,
            engine.history,
            engine.options.recovery_limit,
            engine.admission.clients.first_uses,
            developer=developer,
        ),
        RpcHandler(hooks),
        SendHandler(hooks),
        RefreshHandler(authority, engine.presence),
        SubRefreshHandler(authority, engine.presence),
        RenewHandler(hooks, engine.presence, engine.metrics),
        RenewSubHandler(hooks, engine.presence, engine.metrics),
    )
    return Dispatcher(engine, limits, commands, user_limit, refusals)
