"""Rights: who may do what in a channel, and which rule decides it."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starling.engine.channels import ChannelOptions, Channels, ChannelsError
from starling.engine.channels_document import parse_channels
from starling.engine.rights import Decision, Rule, Subject, Verb, may
from starling.protocol.codes import CommandRefused

RIGHTS = [name for name in ChannelOptions.model_fields if name.startswith("allow_")]
EVERYTHING = dict.fromkeys(RIGHTS, True)


def channels(
    options: Mapping[str, bool | str] | None = None, *, personal: bool = False, personal_namespace: str = ""
) -> Channels:
    default = dict(options or {})
    document = {"default": default, "namespaces": {"news": {}, "letters": default}}
    return parse_channels(document, developer=False, personal=personal, personal_namespace=personal_namespace)


def decide(known: Channels, client: Subject, verb: Verb, channel: str) -> Decision:
    return may(client, verb, known.facts(channel))


@pytest.mark.parametrize("verb", Verb)
@pytest.mark.parametrize("client", [Subject("alice"), Subject("alice", subscribed=True), Subject("")])
def test_nothing_is_allowed_that_was_not_said(verb: Verb, client: Subject) -> None:
    assert decide(channels(), client, verb, "room") == (False, Rule.NO_RULE)


def test_a_verb_without_a_rule_gives_nothing_even_where_every_option_is_on() -> None:
    known = channels(EVERYTHING)

    unknown: Any = "rpc"

    assert decide(known, Subject("alice", subscribed=True, token=True), unknown, "room") == (False, Rule.NO_RULE)


@pytest.mark.parametrize(
    ("options", "user", "decision"),
    [
        ({"allow_subscribe_for_client": True}, "alice", (True, "allow_subscribe_for_client")),
        ({"allow_subscribe_for_client": True}, "", (False, "allow_subscribe_for_anonymous")),
        (
            {"allow_subscribe_for_client": True, "allow_subscribe_for_anonymous": True},
            "",
            (True, "allow_subscribe_for_client"),
        ),
        ({"allow_subscribe_for_anonymous": True}, "", (False, "no_rule")),
    ],
)
def test_who_may_subscribe(options: dict[str, bool], user: str, decision: tuple[bool, str]) -> None:
    assert decide(channels(options), Subject(user), Verb.SUBSCRIBE, "room") == decision


@pytest.mark.parametrize("verb", [Verb.PUBLISH, Verb.PRESENCE, Verb.HISTORY])
@pytest.mark.parametrize(
    ("groups", "client", "decision"),
    [
        (("client",), Subject("alice"), (True, "client")),
        (("client",), Subject("", subscribed=True), (False, "anonymous")),
        (("client", "anonymous"), Subject(""), (True, "client")),
        (("subscriber",), Subject("alice"), (False, "subscriber")),
        (("subscriber",), Subject("alice", subscribed=True), (True, "subscriber")),
        (("subscriber",), Subject("", subscribed=True), (False, "anonymous")),
        (("subscriber", "anonymous"), Subject("", subscribed=True), (True, "subscriber")),
    ],
)
def test_who_may_publish_see_presence_and_read_history(
    verb: Verb, groups: tuple[str, ...], client: Subject, decision: tuple[bool, str]
) -> None:
    known = channels({f"allow_{verb}_for_{group}": True for group in groups})

    assert decide(known, client, verb, "room") == (decision[0], f"allow_{verb}_for_{decision[1]}")


@pytest.mark.parametrize(
    ("channel", "rule"),
    [
        ("$room", Rule.TOKEN_CHANNEL),
        ("$letters:box", Rule.TOKEN_CHANNEL),
        ("$letters:box#mallory", Rule.TOKEN_CHANNEL),
        ("letters:box#alice", Rule.USER_LIMITED_CHANNEL),
        ("letters:box#mallory#alice", Rule.USER_LIMITED_CHANNEL),
        ("letters:#alice,bob", Rule.USER_LIMITED_CHANNEL),
        ("#alice", Rule.PERSONAL_CHANNEL),
        ("#mallory,alice", Rule.PERSONAL_CHANNEL),
    ],
)
def test_a_channel_that_a_client_may_not_enter_is_closed_to_it_as_long_as_it_has_not_entered(
    channel: str, rule: Rule
) -> None:
    known = channels(EVERYTHING, personal=True)

    for verb in Verb:
        assert decide(known, Subject("mallory"), verb, channel) == (False, rule)
        if verb is not Verb.SUBSCRIBE:
            assert decide(known, Subject("mallory", subscribed=True), verb, channel).allowed
    assert decide(known, Subject("mallory", token=True), Verb.SUBSCRIBE, channel) == (True, Rule.SUBSCRIPTION_TOKEN)


USER_IDS = [
    "alice",
    "Doe, John",
    "alice,bob",
    "google:1",
    "auth0|123",
    "a{b}",
    "}",
    "#",
    "#alice",
    "a#b",
    "$alice",
    " ",
    "ålice",
    "عليسة",
    "🐦",
    "a\nb",
    "\x00",
    "100%",
    "x" * 255,
    "x" * 6000,
]


@pytest.mark.parametrize("namespace", ["", "letters"])
@pytest.mark.parametrize("user", USER_IDS)
def test_a_personal_channel_is_for_its_user_alone_whatever_the_id_is(user: str, namespace: str) -> None:
    known = channels({**EVERYTHING, "channel_regex": "^never$"}, personal=True, personal_namespace=namespace)
    name = known.personal_channel(user)

    assert name == (f"{namespace}:#{user}" if namespace else f"#{user}")
    assert decide(known, Subject(user), Verb.SUBSCRIBE, name) == (True, Rule.PERSONAL_CHANNEL)
    others = {"bob", " John", "Doe", "", user + " ", user[:-1], user.upper(), *user.split(","), *user.split("#")} - {
        user
    }
    for other in others:
        for verb in Verb:
            assert not decide(known, Subject(other), verb, name).allowed


@pytest.mark.parametrize("options", [{}, {"allow_user_limited_channels": True}, EVERYTHING])
def test_its_user_enters_a_personal_channel_whatever_the_options_say(options: dict[str, bool]) -> None:
    known = channels(options, personal=True)

    assert decide(known, Subject("alice"), Verb.SUBSCRIBE, "#alice").allowed
    assert not decide(known, Subject("bob"), Verb.SUBSCRIBE, "#alice").allowed


def test_nobody_has_the_personal_channel_of_nobody() -> None:
    known = channels(EVERYTHING, personal=True)

    assert known.personal_channel("") is None
    for verb in Verb:
        assert decide(known, Subject(""), verb, "#") == (False, Rule.PERSONAL_CHANNEL)


def test_a_personal_channel_in_a_namespace_leaves_no_other_name_that_begins_with_the_mark_open() -> None:
    known = channels(EVERYTHING, personal=True, personal_namespace="letters")

    for channel in ("#alice", "letters:#alice"):
        assert decide(known, Subject("alice"), Verb.SUBSCRIBE, channel).allowed
        assert decide(known, Subject("bob"), Verb.SUBSCRIBE, channel) == (False, Rule.PERSONAL_CHANNEL)


def test_while_personal_channels_are_off_the_mark_at_the_start_is_a_character_like_others() -> None:
    known = channels({"allow_subscribe_for_client": True})

    assert known.personal_channel("alice") is None
    assert decide(known, Subject("bob"), Verb.SUBSCRIBE, "#alice") == (True, "allow_subscribe_for_client")
    with pytest.raises(CommandRefused):
        known.options("#google:1")


@pytest.mark.parametrize(
    ("channel", "user", "allowed"),
    [
        ("dialog#alice", "alice", True),
        ("dialog#alice", "bob", False),
        ("dialog#alice,bob", "bob", True),
        ("dialog#alice,bob", "alice,bob", False),
        ("dialog#alice,bob", ",", False),
        ("dialog#alice", "ali", False),
        ("dialog#alice", "Alice", False),
        ("dialog#alice, bob", "bob", False),
        ("dialog#bob#alice", "bob", False),
        ("dialog#bob#alice", "bob#alice", False),
        ("dialog#", "", False),
        ("dialog#,", "", False),
        ("#alice,bob", "bob", True),
        ("letters:#alice", "alice", True),
    ],
)
def test_a_user_limited_channel_is_for_the_users_it_names(channel: str, user: str, allowed: bool) -> None:
    known = channels(EVERYTHING)

    assert decide(known, Subject(user), Verb.SUBSCRIBE, channel) == (allowed, Rule.USER_LIMITED_CHANNEL)


def test_in_developer_mode_everyone_may_do_everything_but_in_the_personal_channels_of_others() -> None:
    known = parse_channels({"namespaces": {"news": {}}}, developer=True, personal=True)

    for verb in Verb:
        assert decide(known, Subject(""), verb, "news:today").allowed
        assert not decide(known, Subject("bob"), verb, "#alice").allowed


def test_a_namespace_for_personal_channels_must_be_there() -> None:
    with pytest.raises(ChannelsError, match=r"namespaces\.mail: it is missing"):
        channels(personal=True, personal_namespace="mail")


# The rules of docs/channels.md, written down a second time: each line is a condition and what follows from it.

NAMES = st.sampled_from(["room", "$room", "letters:box", "$letters:box", "#", "letters:#", "box#", "letters:box#"])
IDS = st.one_of(
    st.sampled_from(["", "alice", "bob", "alice,bob", "a#b", "google:1", "a{b}", " John", "Doe, John"]),
    st.text(alphabet=",#$: ab{}", max_size=6),
)
SEPARATOR_OR_MARK = re.compile(r"[,#]")


def documented(
    name: str, options: dict[str, bool], user: str, verb: str, *, subscribed: bool, token: bool, personal: str | None
) -> bool:
    """Whether the documentation gives the right; `personal` is where personal channels are, None while they are off."""
    belongs_to: set[str] | None = None
    if name.startswith("$"):
        belongs_to = set()
    elif personal is not None and name.startswith("#"):
        belongs_to = {name.split("#", 1)[1]}
    elif personal and name.startswith(personal + ":#"):
        belongs_to = {name.split(":#", 1)[1]}
    elif options["allow_user_limited_channels"] and "#" in name:
        belongs_to = {one for one in name.rsplit("#", maxsplit=1)[-1].split(",") if not SEPARATOR_OR_MARK.search(one)}
    belongs_to = belongs_to and belongs_to - {""}
    if verb == "subscribe":
        if token:
            return True
        if belongs_to is not None:
            return user in belongs_to
        return options["allow_subscribe_for_client"] and (user != "" or options["allow_subscribe_for_anonymous"])
    if user == "" and not options[f"allow_{verb}_for_anonymous"]:
        return False
    inside = subscribed and (options[f"allow_{verb}_for_subscriber"] or options[f"allow_{verb}_for_client"])
    outside = options[f"allow_{verb}_for_client"] and (belongs_to is None or user in belongs_to)
    return inside or outside


@settings(max_examples=700, deadline=None)
@given(
    name=NAMES,
    suffix=IDS,
    user=IDS,
    options=st.fixed_dictionaries({name: st.booleans() for name in (*RIGHTS, "publish_proxy", "subscribe_by_hook")}),
    subscribed=st.booleans(),
    token=st.booleans(),
    personal=st.sampled_from([None, "", "letters"]),
)
def test_nobody_gets_a_right_that_the_documentation_does_not_give(
    name: str,
    suffix: str,
    user: str,
    options: dict[str, bool],
    subscribed: bool,
    token: bool,
    personal: str | None,
) -> None:
    channel = name + suffix
    known = channels(options, personal=personal is not None, personal_namespace=personal or "")
    try:
        facts = known.facts(channel)
    except CommandRefused:
        # A name that cannot be, or in a namespace that is not there, gives nothing.
        assert not (personal is not None and channel.startswith("#"))
        return
    for verb in Verb:
        decision = may(Subject(user, subscribed=subscribed, token=token), verb, facts)
        allowed = documented(channel, options, user, verb, subscribed=subscribed, token=token, personal=personal)
        assert decision.allowed is allowed, (verb, decision)
        # Where a backend has the last word, it is named.
        if not allowed and options["publish_proxy"] and verb is Verb.PUBLISH:
            assert decision.rule == Rule.PUBLISH_PROXY
        # Names that belong to somebody are refused before a hook is asked.
        asked = decision.rule == Rule.SUBSCRIBE_BY_HOOK
        assert not asked or (verb is Verb.SUBSCRIBE and facts.owner is None and not channel.startswith("$"))
