"""Channel names as brokers store them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starling.brokers.envelope import original_name, stored_name, stored_names


@pytest.mark.parametrize("channel", ["room", "news:today", "sale:50%", "#alice", "news:#alice,bob", ":canary:1"])
def test_a_name_without_a_user_id_of_a_strange_kind_is_stored_as_it_is(channel: str) -> None:
    assert stored_name(channel) == channel


@pytest.mark.parametrize(
    ("channel", "stored"),
    [("#a{b}", "#a%7Bb%7D"), ("mail:#a%7Bb%7D", "mail:#a%257Bb%257D"), (":user:}\n", ":user:%7D%0A")],
)
def test_a_name_with_a_user_id_is_stored_without_what_a_broker_gives_a_meaning_to(channel: str, stored: str) -> None:
    assert stored_name(channel) == stored


@given(
    st.text(alphabet=st.one_of(st.sampled_from("%{}#:7BD\n"), st.characters(exclude_categories=["Cs"])), max_size=20)
)
def test_every_personal_channel_is_stored_under_a_name_of_its_own(user: str) -> None:
    for channel in (f"#{user}", f"mail:#{user}", f":user:{user}"):
        stored = stored_name(channel)

        assert not re.search(r"[{}\x00-\x1f\x7f]", stored)
        assert original_name(stored) == channel


@pytest.mark.parametrize(
    "channels", [["news", "room:1"], ["news", "news#42"], ["news", ":room"], [":room", "news"], []]
)
def test_many_names_are_stored_as_each_is_alone(channels: list[str]) -> None:
    assert [*stored_names(channels)] == [stored_name(channel) for channel in channels]
