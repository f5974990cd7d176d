"""Server-sent events as a strict reader of the standard understands them, however the network cuts them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starling.protocol.event_stream import KEEP_ALIVE, data_fields, event, opening
from tests.support.event_reader import Event, EventReader

texts = st.text(st.characters(exclude_categories=["Cs"]))
names = texts.filter(lambda text: "\n" not in text and "\r" not in text)
ids = names.filter(lambda text: "\0" not in text)


def as_read(text: str) -> str:
    """A line end of any kind reaches a page as a line feed."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


@given(texts, names, ids)
def test_any_text_comes_through(data: str, name: str, event_id: str) -> None:
    reader = EventReader()
    reader.feed(event(data.encode(), name=name, event_id=event_id))
    assert reader.events == [Event(name or "message", as_read(data), event_id)]
    assert not reader.unknown_fields


@given(st.lists(st.tuples(texts, names, ids), max_size=4), st.data())
def test_events_come_one_by_one_and_in_order_wherever_they_are_cut(
    parts: list[tuple[str, str, str]], data: st.DataObject
) -> None:
    stream = opening(1500) + KEEP_ALIVE.join(event(text.encode(), name=name, event_id=id_) for text, name, id_ in parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reader = EventReader()
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        reader.feed(stream[start:end])

    last, expected = "", []
    for text, name, id_ in parts:
        last = id_ or last
        expected.append(Event(name or "message", as_read(text), last))
    assert reader.events == expected
    assert reader.retry == 1500


def test_the_opening_leaves_an_id_without_an_event() -> None:
    reader = EventReader()
    reader.feed(opening(2000, "epoch:7"))
    assert (reader.events, reader.last_event_id, reader.retry) == ([], "epoch:7", 2000)


def test_a_keep_alive_is_neither_an_event_nor_a_change_of_the_id() -> None:
    reader = EventReader()
    reader.feed(opening(2000, "epoch:7") + KEEP_ALIVE)
    assert (reader.events, reader.last_event_id, reader.comments) == ([], "epoch:7", [""])


@pytest.mark.parametrize("data", ["", "\n", "a\n", "\na", "a\r\nb", "a\rb", "a\n\nb", " a", ":a", "data: a", "\ufeffa"])
def test_line_ends_and_leading_characters_of_data_are_kept(data: str) -> None:
    reader = EventReader()
    reader.feed(opening(1) + event(data.encode()))
    assert [each.data for each in reader.events] == [as_read(data)]


@pytest.mark.parametrize("name", ["a\nb", "a\rdata: x", "\n"])
def test_a_name_cannot_smuggle_a_field(name: str) -> None:
    with pytest.raises(ValueError, match="type"):
        event(b"x", name=name)


@pytest.mark.parametrize("event_id", ["a\nb", "a\rb", "a\0b"])
def test_an_id_that_readers_would_ignore_or_cut_is_refused(event_id: str) -> None:
    with pytest.raises(ValueError, match="id"):
        event(b"x", event_id=event_id)


def test_each_line_of_data_is_a_field() -> None:
    assert data_fields(b"a\r\nb\nc") == b"data: a\ndata: b\ndata: c\n"
