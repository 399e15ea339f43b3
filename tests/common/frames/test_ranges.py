"""Range sets against Python's sets, and their text form."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-any-generics, no-warn-return-any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FormatError
from common.frames.model import Epoch
from common.frames.ranges import RangeSet, format_have, is_cut, parse_have

numbers = st.sets(st.integers(0, 60))


@given(numbers, numbers)
def test_set_operations_agree_with_python_sets(left, right):
    a, b = RangeSet.of(*left), RangeSet.of(*right)
    assert set(a) == left
    assert set(a.union(b)) == left | right
    assert set(a.missing(b)) == right - left
    assert set(a.intersection(b)) == left & right
    assert list(reversed(a)) == sorted(left, reverse=True)
    assert a.count == len(left)
    assert {n for n in range(62) if n in a} == left


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5))))
def test_adding_ranges_one_by_one_gives_their_union(pairs):
    grown = RangeSet()
    for first, more in pairs:
        grown = grown.add(first, first + more)
    assert set(grown) == {n for first, more in pairs for n in range(first, first + more + 1)}
    assert grown == RangeSet((f, f + m) for f, m in pairs)


def test_a_backward_range_is_refused():
    with pytest.raises(ValueError, match="5-4"):
        RangeSet([(5, 4)])


@given(st.dictionaries(st.integers(0, 2**64 - 1).map(Epoch), numbers.filter(bool).map(lambda s: RangeSet.of(*s))))
def test_text_form_round_trips(have):
    text = format_have(have)
    assert parse_have(text) == have
    assert not is_cut(text)


@given(
    st.dictionaries(st.integers(0, 2**64 - 1).map(Epoch), numbers.filter(bool).map(lambda s: RangeSet.of(*s))),
    st.integers(2, 120),
)
def test_a_limited_text_never_claims_more_and_says_that_it_is_cut(have, limit):
    text = format_have(have, limit)
    assert len(text) <= limit
    parsed = parse_have(text)
    for epoch, ranges in parsed.items():
        assert not have[epoch].missing(ranges)
    assert is_cut(text) == (parsed != have)


def test_the_newest_numbers_of_an_epoch_are_kept_when_text_is_cut():
    have = {Epoch(1): RangeSet.of(*range(0, 200, 2))}
    kept = parse_have(format_have(have, 60))[Epoch(1)]
    assert 198 in kept
    assert 0 not in kept


@pytest.mark.parametrize(
    "text",
    ["x", "12:1", "00000000000000ag:1", "000000000000000a:", "000000000000000a:5-3", "000000000000000a:1,,2",
     "000000000000000a:-1", "000000000000000a:99999999999999999999", "000000000000000a:1-2-3"],
)  # fmt: skip
def test_bad_text_is_refused(text):
    with pytest.raises(FormatError):
        parse_have(text)


def test_a_hostile_number_of_ranges_is_refused():
    text = "000000000000000a:" + ",".join(str(2 * n) for n in range(70_000))
    with pytest.raises(FormatError, match="more than"):
        parse_have(text)


def test_a_hostile_range_costs_nothing():
    have = parse_have("000000000000000a:0-18446744073709551615")
    assert have[Epoch(10)].count == 2**64
