"""Refused commands in the log, and in developer mode in the client's error: what would have allowed them."""

import structlog

from starling.client.client_connection import ClientConnection
from starling.engine.channels import DEFAULT_NAMESPACE, Channels, namespace_of
from starling.engine.rights import Rule, Subject, Verb, may, missing
from starling.protocol import codes
from starling.protocol.codes import CommandRefused, Disconnect, Error
from starling.protocol.decisions import Action, Authenticate, History, Presence, PresenceStats, Publish, Subscribe
from starling.telemetry.refusals import RefusalLog

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.client")

_EXPLAINED = frozenset(
    {codes.ERROR_UNKNOWN_CHANNEL.code, codes.ERROR_PERMISSION_DENIED.code, codes.ERROR_NOT_AVAILABLE.code}
)
_VERBS: dict[type[Action], Verb] = {
    Subscribe: Verb.SUBSCRIBE,
    Publish: Verb.PUBLISH,
    Presence: Verb.PRESENCE,
    PresenceStats: Verb.PRESENCE,
    History: Verb.HISTORY,
}
_BY_NAME = {
    Rule.TOKEN_CHANNEL: "a channel that begins with $ needs a subscription token",
    Rule.PERSONAL_CHANNEL: "it is the personal channel of another user",
    Rule.USER_LIMITED_CHANNEL: "its name does not list this user",
    Rule.SUBSCRIBE_BY_HOOK: "no hook grants it: return Accept() from on_subscribe",
    Rule.PUBLISH_PROXY: "the proxy does not permit it: answer with a result",
}


class CommandRefusals:
    """Reports errors 102, 103 and 108: at debug, in developer mode at info, where the client gets the remedy too."""

    def __init__(self, channels: Channels, refusal_log: RefusalLog, *, developer: bool) -> None:
        self._channels = channels
        self._refusal_log = refusal_log
        self._developer = developer
        self._log = log.info if developer else log.debug

    def report(self, client: ClientConnection, action: Action, reason: Error | Disconnect) -> Error | Disconnect:
        """Log why `action` was refused; returns what the client gets."""
        if isinstance(reason, Disconnect):
            # A token that was refused has a line of its own, token_refused.
            if isinstance(action, Authenticate) and not action.request.token:
                self._refusal_log.write(
                    reason.reason.replace(" ", "_"),
                    code=reason.code,
                    connection_id=client.id,
                    remedy=_connect_remedy(reason),
                )
            return reason
        channel: str = getattr(action, "channel", "")
        if reason.code not in _EXPLAINED or not channel or getattr(action, "server_side", False):
            return reason
        option, remedy = self._explain(client, action, channel, reason)
        self._log(
            "command_refused",
            connection_id=client.id,
            user=client.user,
            command=_VERBS[type(action)].value if type(action) in _VERBS else type(action).__name__.lower(),
            channel=channel,
            code=reason.code,
            option=option,
            remedy=remedy,
        )
        if self._developer and remedy:
            return Error(reason.code, f"{reason.message}: {remedy}", reason.temporary)
        return reason

    def _explain(self, client: ClientConnection, action: Action, channel: str, reason: Error) -> tuple[str, str]:
        """The options that would allow it, and a sentence that names them."""
        namespace = namespace_of(channel)
        where = "default" if namespace == DEFAULT_NAMESPACE else f"namespaces.{namespace}"
        if reason.code == codes.ERROR_UNKNOWN_CHANNEL.code:
            if namespace == DEFAULT_NAMESPACE:
                return "", "the name of its namespace, before the colon, is empty"
            return where, f"add {where} to the file of STARLING_CHANNELS_FILE"
        verb = self._verb(action, channel)
        if verb is None:
            return "", ""
        try:
            if reason.code == codes.ERROR_NOT_AVAILABLE.code:
                options = self._channels.options(channel)
                if not client.reads(options):
                    name = "publication_data_format"
                    return name, f"{name} under {where} is binary: connect with Protobuf, or set another"
                option = missing(verb, options)
                return option, f"set {option} under {where}" if option else ""
            return self._needed(client, action, verb, channel, where)
        except CommandRefused:
            return "", ""

    def _verb(self, action: Action, channel: str) -> Verb | None:
        verb = _VERBS.get(type(action))
        if isinstance(action, Publish):
            try:
                stream = self._channels.options(channel).stream
            except CommandRefused:
                return verb
            return verb if stream is None else Verb.CANCEL if b'"cancel"' in bytes(action.request.data) else Verb.APPEND
        return verb

    def _needed(
        self, client: ClientConnection, action: Action, verb: Verb, channel: str, where: str
    ) -> tuple[str, str]:
        facts = self._channels.facts(channel)
        subscribed = channel in client.session.subscriptions
        decision = may(Subject(client.user, subscribed=subscribed), verb, facts)
        if decision.allowed:
            return "", "the options allow it: a hook or the token refuses it"
        if decision.rule in _BY_NAME:
            return "", _BY_NAME[Rule(decision.rule)]
        group = "subscriber" if subscribed and verb is not Verb.SUBSCRIBE else "client"
        needed = [f"allow_{verb}_for_{group}", *(() if client.user else (f"allow_{verb}_for_anonymous",))]
        missing = [name for name in needed if not getattr(facts.options, name)]
        option = " and ".join(missing or needed)
        return option, f"set {option} under {where}" + (
            ", or use a subscription token" if verb is Verb.SUBSCRIBE else ""
        )


def _connect_remedy(reason: Disconnect) -> str:
    if reason == codes.DISCONNECT_INVALID_TOKEN:
        return "connect with a valid token: `starling verify TOKEN` explains one, `starling token USER` makes one"
    return f"see `starling explain {reason.code}`"
