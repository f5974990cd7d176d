"""Ids of events: what is written is read again, nothing else is, and they stay short."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starling.protocol.messages import StreamPosition
from starling.protocol.resume_id import (
    CHANNEL_BYTES,
    ID_BYTES,
    MOST_CHANNELS,
    ResumeId,
    ResumeIdInvalid,
    id_of_one,
    id_of_several,
    parse_resume_id,
    part_of_several,
    with_right,
)

URL_SAFE = string.ascii_letters + string.digits + "-_"
# What brokers make: six random bytes in base 64 for URLs.
epochs = st.text(URL_SAFE, min_size=8, max_size=8)
offsets = st.integers(0, 2**63 - 1)
positions = st.tuples(epochs, offsets)
rights = st.text(URL_SAFE + ".", min_size=1, max_size=300).map("tkr_".__add__)
some = st.dictionaries(st.integers(0, 127), positions, min_size=1, max_size=MOST_CHANNELS)


def written(at: dict[int, tuple[str, int]]) -> str:
    return id_of_several([part_of_several(index, epoch, offset) for index, (epoch, offset) in at.items()])


@given(epochs, offsets, st.one_of(st.just(""), rights))
def test_the_id_of_one_channel_is_read_again(epoch: str, offset: int, right: str) -> None:
    text = with_right(id_of_one(epoch, offset), right)
    assert parse_resume_id(text, 1) == ResumeId({0: StreamPosition(offset, epoch)}, right=right)


@given(some, st.one_of(st.just(""), rights))
def test_the_id_of_several_channels_is_read_again(at: dict[int, tuple[str, int]], right: str) -> None:
    text = with_right(written(at), right)
    expected = {index: StreamPosition(offset, epoch) for index, (epoch, offset) in at.items()}
    assert parse_resume_id(text, 128) == ResumeId(expected, right=right)


@given(some)
def test_the_most_channels_with_the_highest_offsets_fit_into_an_id(at: dict[int, tuple[str, int]]) -> None:
    assert len(written(at)) <= MOST_CHANNELS * CHANNEL_BYTES <= ID_BYTES


@given(some)
def test_the_offset_is_written_in_base_36(at: dict[int, tuple[str, int]]) -> None:
    parts = [part.split(".") for part in written(at).split(",")]
    assert {int(index): int(offset, 36) for index, _, offset in parts} == {
        index: offset for index, (_, offset) in at.items()
    }


@given(st.text(), st.integers(1, 3))
def test_any_text_is_an_id_of_these_channels_or_refused(text: str, channels: int) -> None:
    try:
        found = parse_resume_id(text, channels)
    except ResumeIdInvalid:
        return
    assert all(index < channels for index in found.positions)


@pytest.mark.parametrize(
    ("text", "channels"),
    [
        ("", 1),
        ("7", 1),
        ("-1", 1),
        ("00", 1),
        ("epoch", 1),
        ("epoch:", 1),
        (":7", 1),
        ("epoch:-1", 1),
        ("epoch:7 ", 1),
        ("epoch:\N{ARABIC-INDIC DIGIT SEVEN}", 1),
        ("épo:7", 1),
        ("epoch:9223372036854775808", 1),
        ("epoch:99999999999999999999", 1),
        ("0.epoch.7", 1),
        ("epoch:7", 2),
        ("0.epoch.7,", 2),
        ("0.epoch.7,0.epoch.8", 2),
        ("2.epoch.7", 2),
        ("00.epoch.7", 2),
        ("0.epoch.A", 2),
        ("0.epoch.zzzzzzzzzzzzz", 2),
        ("0.epoch.7.1", 2),
        ("epoch:7~", 1),
        ("epoch:7~a b", 1),
        ("epoch:7~tkr_a~b", 1),
        ("epoch:7" + "0" * ID_BYTES, 1),
    ],
)
def test_what_is_no_id_of_these_channels_is_refused(text: str, channels: int) -> None:
    with pytest.raises(ResumeIdInvalid):
        parse_resume_id(text, channels)


@pytest.mark.parametrize("channels", [1, 3])
def test_zero_asks_for_everything_that_is_kept(channels: int) -> None:
    assert parse_resume_id("0", channels) == ResumeId(from_start=True)


def test_a_right_stands_alone_where_no_channel_keeps_history() -> None:
    assert parse_resume_id(with_right("", "tkr_a.b"), 1) == ResumeId(right="tkr_a.b")


def test_a_channel_without_history_has_no_id() -> None:
    assert (id_of_one("", 0), id_of_several([])) == ("", "")


def test_a_right_is_not_shown() -> None:
    assert "tkr_" not in repr(parse_resume_id("epoch:7~tkr_secret.x", 1))
