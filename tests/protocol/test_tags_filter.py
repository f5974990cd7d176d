"""Filters by tags: what each comparison means, and which trees are refused."""

import pytest

from starling.protocol.tags_filter import FilterInvalid, FilterNode, compile_filter

TAGS = {"team": "red", "size": "10", "price": "9.50", "empty": ""}


def leaf(cmp: str, key: str = "team", val: str = "", vals: tuple[str, ...] = ()) -> FilterNode:
    return FilterNode(key=key, cmp=cmp, val=val, vals=vals)


def group(op: str, *nodes: FilterNode) -> FilterNode:
    return FilterNode(op=op, nodes=nodes)


RED = leaf("eq", val="red")
BLUE = leaf("eq", val="blue")


@pytest.mark.parametrize(
    ("node", "matches"),
    [
        (leaf("eq", val="red"), True),
        (leaf("eq", val="re"), False),
        (leaf("eq", "absent", "x"), False),
        (leaf("neq", val="blue"), True),
        (leaf("neq", val="red"), False),
        (leaf("neq", "absent", "x"), True),
        (leaf("in", vals=("blue", "red")), True),
        (leaf("in", vals=("blue",)), False),
        (leaf("in", "absent", vals=("x",)), False),
        (leaf("in", "absent", vals=("", "x")), True),
        (leaf("nin", vals=("blue",)), True),
        (leaf("nin", vals=("blue", "red")), False),
        (leaf("nin", "absent", vals=("", "x")), True),
        (leaf("ex"), True),
        (leaf("ex", "empty"), True),
        (leaf("ex", "absent"), False),
        (leaf("ex", ""), False),
        (leaf("nex", "absent"), True),
        (leaf("nex"), False),
        (leaf("sw", val="re"), True),
        (leaf("sw", val="ed"), False),
        (leaf("ew", val="ed"), True),
        (leaf("ew", "absent", "x"), False),
        (leaf("ct", val="e"), True),
        (leaf("ct", val="red!"), False),
        (leaf("gt", "size", "9"), True),
        (leaf("gt", "size", "10"), False),
        (leaf("gt", "size", "9.999999999999999999"), True),
        (leaf("gte", "size", "10.0"), True),
        (leaf("lt", "price", "9.5"), False),
        (leaf("lte", "price", "9.5"), True),
        (leaf("lt", "price", "10"), True),
        (leaf("gt", "size", "-1"), True),
        (leaf("lt", "team", "5"), False),
        (leaf("gte", "team", "5"), False),
        (leaf("lt", "absent", "5"), False),
        (leaf("lt", "empty", "5"), False),
        (leaf("lt", "size", "many"), False),
        (leaf("lt", "size", "1e9"), False),
        (leaf("lt", "size", "Infinity"), False),
        (group("and", RED, leaf("ex", "size")), True),
        (group("and", RED, BLUE), False),
        (group("or", BLUE, RED), True),
        (group("or", BLUE), False),
        (group("not", BLUE), True),
        (group("not", group("or", RED, BLUE)), False),
    ],
)
def test_a_filter_matches_by_the_tags_of_a_publication(node: FilterNode, matches: bool) -> None:
    assert compile_filter(node).matches(TAGS) is matches


@pytest.mark.parametrize("digits", ["1" * 64, "-" + "9" * 63])
def test_a_number_of_up_to_64_characters_is_compared(digits: str) -> None:
    assert compile_filter(leaf("lte", "n", digits)).matches({"n": digits})


def test_a_longer_number_matches_nothing() -> None:
    digits = "1" * 65
    assert not compile_filter(leaf("lte", "n", digits)).matches({"n": digits})
    assert not compile_filter(leaf("gt", "n", "0")).matches({"n": digits})


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (FilterNode(), r"tf\.cmp: '' is none of"),
        (leaf("like", val="x"), r"tf\.cmp: 'like' is none of"),
        (FilterNode(op="xor", nodes=(RED,)), r"tf\.op: 'xor' is none of and, or, not"),
        (leaf("eq"), "eq takes val"),
        (leaf("eq", val="a", vals=("b",)), "eq takes val"),
        (leaf("gt", "size"), "gt takes val"),
        (leaf("in"), "in takes vals"),
        (leaf("nin", val="a", vals=("b",)), "nin takes vals"),
        (leaf("ex", val="a"), "ex takes neither"),
        (leaf("nex", vals=("a",)), "nex takes neither"),
        (leaf("eq", "", "a"), r"tf\.key: eq names the tag"),
        (group("and"), "and takes 1 node or more"),
        (group("or"), "or takes 1 node or more"),
        (group("not"), "not takes exactly 1 node"),
        (group("not", RED, BLUE), "not takes exactly 1 node"),
        (group("and", RED, group("or", leaf("eq"))), r"tf\.nodes\[1\]\.nodes\[0\]: eq takes val"),
        (group("and", *[RED] * 256), "at most 256 nodes"),
    ],
)
def test_a_filter_that_breaks_a_rule_is_refused_by_its_path(node: FilterNode, message: str) -> None:
    with pytest.raises(FilterInvalid, match=message):
        compile_filter(node)


def test_a_filter_is_refused_beyond_32_levels_and_taken_within() -> None:
    node = RED
    for _ in range(31):
        node = group("not", node)
    assert compile_filter(node).matches({"team": "blue"})
    with pytest.raises(FilterInvalid, match="at most 32 nodes deep"):
        compile_filter(group("not", node))


def test_a_filter_has_at_most_1000_values_in_all_its_nodes() -> None:
    half = [FilterNode(key="id", cmp="in", vals=tuple(map(str, range(start, start + 500)))) for start in (0, 500)]
    assert compile_filter(group("or", *half)).matches({"id": "999"})
    with pytest.raises(FilterInvalid, match="tf: a filter has at most 1000 vals in all its nodes"):
        compile_filter(group("or", *half, FilterNode(key="id", cmp="nin", vals=("x",))))


def test_equal_filters_share_a_key_and_others_do_not() -> None:
    first, second = compile_filter(group("or", RED, BLUE)), compile_filter(group("or", RED, BLUE))
    assert first == second
    assert len({first, second, compile_filter(group("or", BLUE, RED)), compile_filter(group("and", RED, BLUE))}) == 3


@pytest.mark.parametrize("wider", [leaf("ex", "team"), leaf("neq", val="x"), group("or", RED, BLUE)])
def test_a_forced_filter_is_narrowed_and_never_widened(wider: FilterNode) -> None:
    forced = compile_filter(RED)
    both = forced.narrowed(compile_filter(wider))
    assert both.matches({"team": "red"})
    assert not both.matches({"team": "blue"})
    assert not forced.narrowed(compile_filter(BLUE)).matches({"team": "blue"})
    assert forced.narrowed(None) is forced
