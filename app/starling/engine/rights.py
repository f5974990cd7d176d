"""Rights: what one client may do in one channel, and which rule decides it; for every transport alike."""

from enum import StrEnum
from typing import NamedTuple

from starling.engine.channels import ChannelFacts, ChannelOptions


class Verb(StrEnum):
    """What a client may ask to do in a channel. A verb without a rule in `may` gives nothing to anybody."""

    SUBSCRIBE = "subscribe"
    PUBLISH = "publish"
    PRESENCE = "presence"
    HISTORY = "history"
    APPEND = "append"
    CANCEL = "cancel"


class Rule(StrEnum):
    """The rules that are no option's; every other decision names the option, such as `allow_publish_for_client`."""

    NO_RULE = "no_rule"
    SUBSCRIPTION_TOKEN = "subscription_token"  # noqa: S105 - a rule's name
    TOKEN_CHANNEL = "token_channel"  # noqa: S105 - a rule's name
    PERSONAL_CHANNEL = "personal_channel"
    USER_LIMITED_CHANNEL = "user_limited_channel"
    SUBSCRIBE_BY_HOOK = "subscribe_by_hook"
    PUBLISH_PROXY = "publish_proxy"


class Decision(NamedTuple):
    """Whether a client may, and the rule that decides: a Rule, or the name of an option of the channel's namespace.

    By SUBSCRIBE_BY_HOOK it may not, unless the hook `on_subscribe` or the proxy of the namespace grants it, and by
    PUBLISH_PROXY not, unless the proxy does.
    """

    allowed: bool
    rule: str


class Subject(NamedTuple):
    """A client as decisions about rights see it: `user` is empty for an anonymous one.

    `subscribed` is whether it is in the channel, `token` whether it presents a good subscription token for it.
    """

    user: str
    subscribed: bool = False
    token: bool = False


class _OptionNames(NamedTuple):
    """The options that give a verb."""

    for_client: str
    for_subscriber: str
    for_anonymous: str


_BY_OPTIONS = {
    verb: _OptionNames(*(f"allow_{verb}_for_{group}" for group in ("client", "subscriber", "anonymous")))
    for verb in (Verb.PUBLISH, Verb.PRESENCE, Verb.HISTORY, Verb.APPEND, Verb.CANCEL)
}
_SUBSCRIBE_FOR_CLIENT = "allow_subscribe_for_client"
_SUBSCRIBE_FOR_ANONYMOUS = "allow_subscribe_for_anonymous"


def may(client: Subject, verb: Verb, channel: ChannelFacts) -> Decision:
    """Whether `client` may do `verb` in `channel`: the one place where this is decided.

    docs/channels.md has the same rules in the same order, for people.
    """
    if verb is Verb.SUBSCRIBE:
        return _may_subscribe(client, channel)
    options = _BY_OPTIONS.get(verb)
    if options is None:
        return Decision(allowed=False, rule=Rule.NO_RULE)
    decision = _may_by_options(client, options, channel)
    if verb is Verb.PUBLISH and channel.options.publish_proxy and not decision.allowed:
        return Decision(allowed=False, rule=Rule.PUBLISH_PROXY)
    return decision


def missing(verb: Verb, options: ChannelOptions) -> str:
    """The options without which a channel has nothing that `verb` is about; empty where it has."""
    if verb is Verb.HISTORY and not options.keeps_history:
        return "history_size and history_ttl"
    if verb is Verb.PRESENCE and not options.presence:
        return "presence"
    return "stream" if verb in (Verb.APPEND, Verb.CANCEL) and options.stream is None else ""


def _may_subscribe(client: Subject, channel: ChannelFacts) -> Decision:
    if client.token:
        return Decision(allowed=True, rule=Rule.SUBSCRIPTION_TOKEN)
    restriction = _restriction(client.user, channel)
    if restriction is not None:
        return restriction
    options = channel.options
    if options.allow_subscribe_for_client and (client.user or options.allow_subscribe_for_anonymous):
        return Decision(allowed=True, rule=_SUBSCRIBE_FOR_CLIENT)
    if options.subscribe_by_hook or options.subscribe_proxy:
        return Decision(allowed=False, rule=Rule.SUBSCRIBE_BY_HOOK)
    rule = _SUBSCRIBE_FOR_ANONYMOUS if options.allow_subscribe_for_client else Rule.NO_RULE
    return Decision(allowed=False, rule=rule)


def _restriction(user: str, channel: ChannelFacts) -> Decision | None:
    """What the name of a channel says of `user`, whatever the options say; None for a name that says nothing."""
    if channel.needs_token:
        return Decision(allowed=False, rule=Rule.TOKEN_CHANNEL)
    if (owner := channel.owner) is not None:
        return Decision(allowed=bool(user) and user == owner, rule=Rule.PERSONAL_CHANNEL)
    if (listed := channel.listed_users) is not None:
        return Decision(allowed=user in listed, rule=Rule.USER_LIMITED_CHANNEL)
    return None


def _may_by_options(client: Subject, names: _OptionNames, channel: ChannelFacts) -> Decision:
    options = channel.options
    for_client: bool = getattr(options, names.for_client)
    for_subscriber: bool = getattr(options, names.for_subscriber)
    if not for_client and not for_subscriber:
        return Decision(allowed=False, rule=Rule.NO_RULE)
    if not client.user and not getattr(options, names.for_anonymous):
        return Decision(allowed=False, rule=names.for_anonymous)
    if client.subscribed:
        return Decision(allowed=True, rule=names.for_client if for_client else names.for_subscriber)
    if not for_client:
        return Decision(allowed=False, rule=names.for_subscriber)
    restriction = _restriction(client.user, channel)
    if restriction is not None and not restriction.allowed:
        return restriction
    return Decision(allowed=True, rule=names.for_client)
