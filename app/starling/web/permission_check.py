"""Answers whether a user may do something in a channel, and by which rule: for `POST /api/can` and `starling can`."""

from msgspec import Struct

from starling.auth.tickets import is_ticket
from starling.auth.tokens import Credentials, TokenRefused, TokenVerifier
from starling.engine.channels import DEFAULT_NAMESPACE, ChannelOptions, Channels, namespace_of
from starling.engine.rights import Decision, Rule, Subject, Verb, may, missing

CONNECTION_TOKEN = "connection_token"  # noqa: S105 - a rule's name
REFUSED_TOKEN = "refused_token"  # noqa: S105 - a rule's name

_SENTENCES = {
    (Rule.NO_RULE, False): "no option of the {where} allows it to anybody",
    (Rule.SUBSCRIPTION_TOKEN, True): "the subscription token is for this user and this channel",
    (CONNECTION_TOKEN, True): "the connection token names the channel, so the client is subscribed when it connects",
    (Rule.TOKEN_CHANNEL, False): "the name begins with $, so it takes a subscription token",
    (Rule.PERSONAL_CHANNEL, True): "it is the user's personal channel",
    (Rule.PERSONAL_CHANNEL, False): "it is the personal channel of another user",
    (Rule.USER_LIMITED_CHANNEL, True): "the name lists the user",
    (Rule.USER_LIMITED_CHANNEL, False): "the name lists other users only",
    (
        Rule.SUBSCRIBE_BY_HOOK,
        False,
    ): "no option allows it: the hook on_subscribe, or the proxy of the namespace, decides when the client subscribes",
    (Rule.PUBLISH_PROXY, False): "no option allows it: the proxy of the namespace decides when the client publishes",
}


# What clients get where the channel has not what a verb is about.
_WITHOUT = {
    Verb.HISTORY: "it keeps no history, so clients get error 108",
    Verb.PRESENCE: "it keeps no presence, so clients get error 108",
    Verb.APPEND: "it has no append-only streams",
    Verb.CANCEL: "it has no append-only streams",
}


class Permission(Struct):
    """The answer: `rule` decides, `namespace` is where its options are, and `sentence` says it to people."""

    allowed: bool
    rule: str
    namespace: str
    sentence: str


class _Presented(Struct, frozen=True):
    """By which rule a token lets its user into a channel, or why it is refused; `client`: only that connection."""

    rule: str = ""
    problem: str = ""
    client: str = ""


class PermissionCheck:
    """Asks starling.engine.rights for a user that need not be connected."""

    def __init__(self, verifier: TokenVerifier, channels: Channels) -> None:
        self._verifier = verifier
        self._channels = channels

    async def decide(
        self, user: str, verb: Verb, channel: str, *, token: str = "", subscribed: bool = False
    ) -> Permission:
        """Whether `user` (empty: an anonymous client) may do `verb` in `channel`.

        `token` is one that the client presents, for the subscription or for its connection. `subscribed` is whether the
        client is in the channel already; one with a valid token is, and every user is in its personal channel.
        Raises CommandRefused for a channel that cannot be.
        """
        # Before the token, which may have to wait for keys.
        self._channels.options(channel)
        presented = await self._read(token, user, channel) if token else _Presented()
        return self._decide(user, verb, channel, presented, subscribed=subscribed)

    def decide_by(self, user: str, credentials: Credentials | None, verb: Verb, channel: str) -> Permission:
        """As `decide`, with what its token says, or its ticket, which is spent; None: it has none."""
        presented = _Presented() if credentials is None else _connection(credentials, channel)
        return self._decide(user, verb, channel, presented)

    def _decide(
        self, user: str, verb: Verb, channel: str, presented: _Presented, *, subscribed: bool = False
    ) -> Permission:
        facts = self._channels.facts(channel)
        namespace = namespace_of(channel)
        if presented.problem:
            return Permission(allowed=False, rule=REFUSED_TOKEN, namespace=namespace, sentence=presented.problem)
        if presented.rule == CONNECTION_TOKEN and verb is Verb.SUBSCRIBE:
            decision = Decision(allowed=True, rule=CONNECTION_TOKEN)
        else:
            there = subscribed or bool(presented.rule) or channel == self._channels.personal_channel(user)
            client = Subject(user, subscribed=there, token=presented.rule == Rule.SUBSCRIPTION_TOKEN)
            decision = may(client, verb, facts)
        sentence = _sentence(decision, namespace) + _condition(decision, verb, facts.options, presented.client)
        return Permission(decision.allowed, str(decision.rule), namespace, sentence)

    async def _read(self, token: str, user: str, channel: str) -> _Presented:
        if is_ticket(token):
            return _Presented(problem="A ticket counts once, when a client connects: a check would spend it.")
        try:
            subscription = await self._verifier.subscription(token)
        except TokenRefused as refused:
            return await self._read_connection(token, user, channel, refused)
        if subscription.user != user or subscription.channel != channel:
            return _Presented(problem="The subscription token is for another user or channel.")
        return _Presented(Rule.SUBSCRIPTION_TOKEN, client=subscription.client)

    async def _read_connection(self, token: str, user: str, channel: str, refused: TokenRefused) -> _Presented:
        try:
            credentials = await self._verifier.connection(token)
        except TokenRefused as connection_refused:
            # A claim at fault says which kind of token it is not: then the other reading has the reason.
            reason = refused if connection_refused.claim == "channel" else connection_refused
            return _Presented(problem=reason.sentence)
        if credentials.user != user:
            return _Presented(problem="The connection token is for another user.")
        return _connection(credentials, channel)


def _connection(credentials: Credentials, channel: str) -> _Presented:
    return _Presented(CONNECTION_TOKEN if channel in credentials.subs else "")


def _sentence(decision: Decision, namespace: str) -> str:
    where = "default namespace" if namespace == DEFAULT_NAMESPACE else f"namespace {namespace}"
    sentence = _SENTENCES.get((decision.rule, decision.allowed))
    if sentence is None:
        sentence = _option_sentence(decision)
    return sentence.format(where=where)


def _condition(decision: Decision, verb: Verb, options: ChannelOptions, client: str) -> str:
    """What else a client needs, beyond a right, to get an answer other than an error; empty where it needs nothing."""
    if not decision.allowed:
        appends = verb is Verb.PUBLISH and options.stream is not None
        return "; in append-only streams clients append and cancel" if appends else ""
    if client and verb is Verb.SUBSCRIBE:
        return f", and for the connection {client} alone"
    if option := missing(verb, options):
        return f", but {_WITHOUT[verb]}: set {option}"
    by_token = decision.rule in (Rule.SUBSCRIPTION_TOKEN, CONNECTION_TOKEN)
    if (verb is Verb.SUBSCRIBE and options.subscribe_proxy and not by_token) or (
        verb is Verb.PUBLISH and options.publish_proxy
    ):
        return ", if the proxy of the namespace agrees"
    if verb in (Verb.SUBSCRIBE, Verb.HISTORY) and options.publication_data_format == "binary":
        return ", but JSON clients get error 108, since publication_data_format is binary"
    return ""


def _option_sentence(decision: Decision) -> str:
    if decision.allowed:
        return f"{decision.rule} is on in the {{where}}"
    if decision.rule.endswith("_for_subscriber"):
        return f"{decision.rule} of the {{where}} allows it to clients in the channel only"
    return f"{decision.rule} is off in the {{where}}, and the client has no user id"
