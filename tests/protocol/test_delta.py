"""Fossil deltas: small patches, cut at characters, that the format's definition accepts."""

import json
from random import Random
from typing import Any

import pytest
from centrifuge import fossil
from hypothesis import given
from hypothesis import strategies as st

from starling.protocol.delta import checksum, create_patch


def applied(base: bytes, patch: bytes) -> bytes:
    return bytes(fossil.apply_delta(base, patch))


def test_a_patch_is_written_as_the_format_says() -> None:
    base, target = b"the quick brown fox jumps", b"the quick green fox jumps"

    patch = create_patch(base, target)

    # 25 bytes; copy 10 from 0; insert "gree"; copy 11 from 14; the sum of the target's big-endian words.
    words = [int.from_bytes(target[i : i + 4].ljust(4, b"\0"), "big") for i in range(0, 25, 4)]
    assert checksum(target) == sum(words) % 2**32
    assert patch is not None
    assert patch.startswith(b"P\nA@0,4:greeB@E,")


def test_two_changed_fields_of_a_document_of_one_kibibyte_cost_at_most_8_percent() -> None:
    document = {"id": 7, "items": [{"name": f"item {i}", "price": i * 1.25, "stock": i * 3} for i in range(22)]}
    base = json.dumps(document).encode()
    document["items"][2]["price"] = 77.77  # type: ignore[index]
    document["items"][19]["stock"] = 9999  # type: ignore[index]
    target = json.dumps(document).encode()

    patch = create_patch(base, target)

    assert 900 < len(target) < 1200
    assert patch is not None
    assert len(patch) <= 0.08 * len(target)
    assert applied(base, patch) == target


@pytest.mark.parametrize(("base", "target"), [(b"", b""), (b"", b"abc"), (b"abc", b"xyz"), (b"a" * 30, b"b" * 30)])
def test_documents_without_anything_in_common_are_sent_whole(base: bytes, target: bytes) -> None:
    assert create_patch(base, target) is None


def test_the_same_document_again_is_one_copy() -> None:
    text = ("ä" * 50).encode()
    patch = create_patch(text, text)
    assert patch is not None
    assert patch.count(b"@") == 1
    assert applied(text, patch) == text


@pytest.mark.parametrize(
    ("base", "target"),
    [
        # The changed characters share their first byte, or their last, with those in their place.
        ("начало " * 4 + "д" + " конец" * 4, "начало " * 4 + "ж" + " конец" * 4),
        ("漢字仮名" * 8 + "交" + "じり文" * 8, "漢字仮名" * 8 + "亣" + "じり文" * 8),
        ("🎉" * 10 + "😀" + "🎉" * 10, "🎉" * 10 + "😁" + "🎉" * 10),
        ("a" * 40 + "é", "a" * 40 + "è"),
        ("é" + "a" * 40, "è" + "a" * 40),
    ],
)
def test_no_patch_cuts_a_character(base: str, target: str) -> None:
    patch = create_patch(base.encode(), target.encode())
    assert patch is not None
    patch.decode()
    assert applied(base.encode(), patch) == target.encode()


@given(st.text(max_size=200), st.text(max_size=200), st.text(max_size=200), st.text(max_size=40))
def test_any_text_returns_whole_from_its_patch(head: str, body: str, tail: str, new: str) -> None:
    base, target = f"{head}{body}{tail}".encode(errors="ignore"), f"{tail}{new}{body}{head}".encode(errors="ignore")
    patch = create_patch(base, target)
    if patch is not None:
        patch.decode()
        assert len(patch) < len(target)
        assert applied(base, patch) == target


class CountedBytes(bytes):
    """Bytes that count how many of them may have been looked at by searches."""

    looked_at = 0

    def find(self, part: Any, start: Any = 0, end: Any = None) -> int:
        end = len(self) if end is None else end
        self.looked_at += max(0, min(end, len(self)) - start)
        return super().find(part, start, end)


def rows(count: int, changed: set[int]) -> bytes:
    """A table as JSON; the numbers of rows that changed are others."""
    values = [hash((index, index in changed)) % 10**9 for index in range(count)]
    return json.dumps(
        [{"id": index, "name": f"row {index}", "v": value} for index, value in enumerate(values)]
    ).encode()


@pytest.mark.parametrize("count", [500, 2_000, 8_000])
def test_a_table_of_which_each_row_changed_costs_what_its_size_allows(count: int) -> None:
    base, target = CountedBytes(rows(count, set())), rows(count, set(range(count)))

    patch = create_patch(base, target)

    assert base.looked_at <= 200 * len(target) + 9 * 2**20
    assert patch is None or applied(base, patch) == target


def test_a_large_table_in_another_order_costs_what_its_size_allows() -> None:
    lines = rows(8_000, set()).split(b"}, ")
    base = CountedBytes(b"}, ".join(lines))
    Random(1).shuffle(lines)
    target = b"}, ".join(lines)

    patch = create_patch(base, target)

    assert base.looked_at <= 200 * len(target) + 9 * 2**20
    assert patch is None or applied(base, patch) == target


@pytest.mark.parametrize("count", [500, 8_000])
def test_a_table_of_which_one_row_in_ten_changed_is_a_small_patch_at_any_size(count: int) -> None:
    base, target = rows(count, set()), rows(count, set(range(0, count, 10)))

    patch = create_patch(base, target)

    assert patch is not None
    assert len(patch) <= 0.1 * len(target)
    assert applied(base, patch) == target


def test_what_moved_far_in_a_large_document_is_found() -> None:
    random = Random(1)
    head, tail = random.randbytes(40_000).hex().encode(), random.randbytes(40_000).hex().encode()

    patch = create_patch(head + tail, tail + head)

    assert patch is not None
    assert len(patch) < 2000
    assert applied(head + tail, patch) == tail + head
