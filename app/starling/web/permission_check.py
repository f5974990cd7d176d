"""Answers whether a user may do something in a channel, and by which rule: for `POST /api/can` and `starling can`."""

from msgspec import Struct

from starling.auth.tickets import is_ticket
from starling.auth.tokens import TokenRefused, TokenVerifier
from starling.engine.channels import DEFAULT_NAMESPACE, Channels, namespace_of
from starling.engine.rights import Decision, Rule, Subject, Verb, may

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


class Permission(Struct):
    """The answer: `rule` decides, `namespace` is where its options are, and `sentence` says it to people."""

    allowed: bool
    rule: str
    namespace: str
    sentence: str


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
        facts = self._channels.facts(channel)
        namespace = namespace_of(channel)
        granted = ""
        if token:
            granted, problem = await self._read(token, user, channel)
            if problem:
                return Permission(allowed=False, rule=REFUSED_TOKEN, namespace=namespace, sentence=problem)
        if granted == CONNECTION_TOKEN and verb is Verb.SUBSCRIBE:
            decision = Decision(allowed=True, rule=CONNECTION_TOKEN)
        else:
            there = subscribed or bool(granted) or channel == self._channels.personal_channel(user)
            client = Subject(user, subscribed=there, token=granted == Rule.SUBSCRIPTION_TOKEN)
            decision = may(client, verb, facts)
        return Permission(decision.allowed, str(decision.rule), namespace, _sentence(decision, namespace))

    async def _read(self, token: str, user: str, channel: str) -> tuple[str, str]:
        """By which rule a token lets the user into the channel, and why it is refused; one or both are empty."""
        if is_ticket(token):
            return "", "A ticket counts once, when a client connects: a check would spend it."
        try:
            subscription = await self._verifier.subscription(token)
        except TokenRefused as refused:
            return await self._read_connection(token, user, channel, refused)
        if subscription.user != user or subscription.channel != channel:
            return "", "The subscription token is for another user or channel."
        return Rule.SUBSCRIPTION_TOKEN, ""

    async def _read_connection(self, token: str, user: str, channel: str, refused: TokenRefused) -> tuple[str, str]:
        try:
            credentials = await self._verifier.connection(token)
        except TokenRefused as connection_refused:
            # A claim at fault says which kind of token it is not: then the other reading has the reason.
            return "", (refused if connection_refused.claim == "channel" else connection_refused).sentence
        if credentials.user != user:
            return "", "The connection token is for another user."
        return (CONNECTION_TOKEN if channel in credentials.subs else ""), ""


def _sentence(decision: Decision, namespace: str) -> str:
    where = "default namespace" if namespace == DEFAULT_NAMESPACE else f"namespace {namespace}"
    sentence = _SENTENCES.get((decision.rule, decision.allowed))
    if sentence is None:
        sentence = _option_sentence(decision)
    return sentence.format(where=where)


def _option_sentence(decision: Decision) -> str:
    if decision.allowed:
        return f"{decision.rule} is on in the {{where}}"
    if decision.rule.endswith("_for_subscriber"):
        return f"{decision.rule} of the {{where}} allows it to clients in the channel only"
    return f"{decision.rule} is off in the {{where}}, and the client has no user id"
