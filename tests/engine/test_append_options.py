"""The options of append-only streams: what goes with them, and what is refused by its name."""

from typing import Any

import pytest

from starling.engine.channels import ChannelsError
from starling.engine.channels_document import parse_channels


def problem(options: dict[str, Any], *, developer: bool = False) -> str:
    with pytest.raises(ChannelsError) as caught:
        parse_channels({"namespaces": {"answers": options}}, developer=developer)
    (found,) = caught.value.problems
    return found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("history_size", 10),
        ("history_ttl", "60s"),
        ("history_meta_ttl", "1h"),
        ("allowed_delta_types", ["fossil"]),
        ("delta_publish", True),
        ("allow_tags_filter", True),
        ("publication_data_format", "binary"),
        ("allow_publish_for_client", True),
        ("allow_publish_for_subscriber", True),
        ("publish_proxy", "http://backend/publish"),
        ("auto_cache_recover", True),
        ("force_recovery_mode", "cache"),
    ],
)
def test_what_makes_no_sense_in_a_stream_is_refused_by_name(name: str, value: Any) -> None:
    found = problem({"stream": "text", name: value})
    assert found.startswith("namespaces.answers")
    assert f"{name}" in found
    assert "does not go with stream" in found


@pytest.mark.parametrize(
    ("name", "value"),
    [("stream_max_bytes", 10), ("stream_ttl", "1h"), ("append_window", "10ms"), ("producer_timeout", "5s")],
)
def test_what_belongs_to_streams_needs_one(name: str, value: Any) -> None:
    assert f"{name} is for append-only streams: set stream" in problem({name: value})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("stream", "texts", "namespaces.answers.stream"),
        ("stream_max_bytes", 0, "namespaces.answers.stream_max_bytes"),
        ("stream_max_bytes", 2**30, "namespaces.answers.stream_max_bytes"),
        ("append_window", "2s", "namespaces.answers.append_window"),
        ("stream_ttl", 60, "namespaces.answers.stream_ttl: write a duration"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(name: str, value: Any, words: str) -> None:
    assert words in problem({"stream": "text", name: value})


def test_developer_mode_gives_the_rights_that_streams_know() -> None:
    channels = parse_channels({"namespaces": {"answers": {"stream": "any", "append_window": "25ms"}}}, developer=True)
    options = channels.options("answers:1")
    assert (options.allow_append_for_subscriber, options.allow_cancel_for_client) == (True, True)
    assert (options.allow_publish_for_client, options.allow_tags_filter) == (False, False)
    assert (options.append_window, options.keeps_history) == (0.025, True)
