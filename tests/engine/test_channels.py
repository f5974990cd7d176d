"""Channel names, namespaces and rights."""

from typing import Any

import pytest

from starling.engine.channels import Channels, ChannelsError
from starling.engine.channels_document import parse_channels
from starling.protocol.codes import CommandRefused


def channels(**default: Any) -> Channels:
    return parse_channels({"default": default, "namespaces": {"news": {}}}, developer=False)


def code_for(known: Channels, channel: str) -> int:
    with pytest.raises(CommandRefused) as caught:
        known.options(channel)
    return caught.value.reason.code


@pytest.mark.parametrize(
    "name",
    [
        "{a}",
        "a}",
        "a\x00b",
        "a\nb",
        "\x7f",
        "a\x85b",
        "a\x9fb",
        "a\u2028b",
        "a\u202eb",
        "a\u2066b",
        "a\u200fb",
        "a\u061cb",
        "a\ud800",
        "\udfffb",
        "",
        "a" * 256,
    ],
)
def test_a_name_that_cannot_be_is_a_bad_request(name: str) -> None:
    assert code_for(channels(), name) == 107


def test_a_name_of_255_characters_fits() -> None:
    channels().options("a" * 255)


def test_an_unknown_namespace_is_an_unknown_channel() -> None:
    assert code_for(channels(), "sport:football") == 102


@pytest.mark.parametrize("name", [":chat", ":", ":canary:1"])
def test_the_empty_namespace_is_nobodys(name: str) -> None:
    assert code_for(channels(), name) == 102


def test_the_token_mark_stands_before_the_namespace() -> None:
    known = parse_channels({"namespaces": {"news": {"presence": True}}}, developer=False)

    assert known.options("$news:today").presence


def test_a_channel_regex_bounds_the_rest_of_the_name() -> None:
    known = parse_channels({"namespaces": {"user": {"channel_regex": "^[0-9]+$"}}}, developer=False)

    known.options("user:42")
    assert code_for(known, "user:me") == 107


def test_durations_are_written_with_a_unit() -> None:
    known = channels(history_size=10, history_ttl="5m", history_meta_ttl="24h")

    assert known.default.history_ttl == 300
    assert known.default.history_meta_ttl == 86400


def test_every_mistake_is_named_by_its_path() -> None:
    document = {
        "default": {"presense": True, "history_size": -1},
        "namespaces": {
            "news": {"history_ttl": "5 minutes", "presence": "yes", True: 1},
            "a b": {},
            "x": {"history_size": 3},
            "y": ["presence"],
            "z": {"channel_regex": "[a-"},
        },
        "extra": {},
    }

    with pytest.raises(ChannelsError) as caught:
        parse_channels(document, developer=False)

    text = str(caught.value)
    for part in (
        "default.presense: not an option; the options are presence, join_leave",
        "default.history_size: must be 0 or more (it is -1)",
        "namespaces.news.history_ttl: write a duration as a number and a unit",
        "namespaces.news.presence: must be true or false (it is 'yes')",
        "namespaces.a b: a name has 1 to 64 letters",
        "namespaces.x: history_size and history_ttl go together",
        "namespaces.y: must be a mapping of options to values",
        "namespaces.z: channel_regex is not a regular expression",
        "extra: not known here; the keys are default and namespaces",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (["news"], "the document must be a mapping with the keys default and namespaces"),
        ({"namespaces": ["news"]}, "namespaces: must be a mapping of names to options"),
        ({"default": "presence"}, "default: must be a mapping of options to values"),
    ],
)
def test_what_is_no_mapping_is_named(document: Any, problem: str) -> None:
    with pytest.raises(ChannelsError) as caught:
        parse_channels(document, developer=False)

    assert caught.value.problems == [problem]


@pytest.mark.parametrize(
    ("options", "personal", "count"),
    [
        ({"allow_subscribe_for_client": True}, False, 1),
        ({"allow_history_for_client": True}, False, 1),
        ({"stream": "text", "allow_append_for_client": True}, False, 1),
        ({"stream": "text", "allow_cancel_for_client": True}, False, 1),
        ({"allow_subscribe_for_client": True}, True, 0),
        ({"allow_subscribe_for_client": True, "allow_user_limited_channels": True}, False, 0),
        ({"allow_publish_for_subscriber": True}, False, 0),
        ({}, False, 0),
    ],
)
def test_names_that_look_personal_and_are_not_are_warned_of(
    options: dict[str, Any], personal: bool, count: int
) -> None:
    known = parse_channels({"default": options}, developer=False, personal=personal)

    assert len([surprise for surprise in known.surprises() if "such as #alice" in surprise]) == count


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"history_size": 10}, "history_size and history_ttl go together"),
        ({"force_recovery": True}, "force_recovery needs history"),
        ({"force_positioning": True}, "force_positioning needs history"),
        ({"allowed_delta_types": ["fossil"]}, "allowed_delta_types needs history"),
        ({"delta_publish": True}, "delta_publish needs readers that may have patches"),
        ({"auto_cache_recover": True}, "auto_cache_recover is for cache channels"),
        ({"subscribe_proxy_cache": "5s"}, "subscribe_proxy_cache keeps answers of a proxy"),
        (
            {"history_size": 1, "history_ttl": "60s", "history_meta_ttl": "59s"},
            "history_meta_ttl must not be shorter than history_ttl",
        ),
        ({"channel_regex": "("}, "channel_regex"),
    ],
)
def test_options_that_need_others_are_refused_with_the_remedy(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ChannelsError, match=words):
        channels(**options)


@pytest.mark.parametrize("name", ["#\ud800", "#alice\udfff", "#" + "x" * 10_000])
def test_a_personal_name_that_no_broker_can_carry_is_a_bad_request(name: str) -> None:
    known = parse_channels({"default": {}}, developer=False, personal=True)
    assert code_for(known, name) == 107
    assert known.options("#alice") is not None
