"""Histograms as bytes: what goes in comes out, and anything else is refused."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from common.errors import FormatError
from common.histogram import CUSTOM_SCHEMA, EMPTY_SIDE, FloatHistogram, ResetHint, Side, side
from common.labels import Labels
from common.tsdb.native import HistogramGroup, Stored, check_histogram, decode, decode_all, encode, encode_group

COUNTS = st.one_of(
    st.integers(0, 1000).map(float), st.just(0.0), st.floats(0, 1e300), st.sampled_from([math.inf, math.nan, 5e-324])
)
NUMBERS = st.one_of(COUNTS, st.floats())


@st.composite
def sides(draw: st.DrawFn) -> Side:
    runs = draw(st.lists(st.tuples(st.integers(0, 40), st.lists(COUNTS, min_size=1, max_size=4)), max_size=3))
    dense = [count for gap, counts in runs for count in ([0.0] * gap + counts)]
    return side(draw(st.integers(-500, 500)), dense)


@st.composite
def histograms(draw: st.DrawFn) -> FloatHistogram:
    hint = draw(st.sampled_from(list(ResetHint)))
    if draw(st.booleans()):
        custom = tuple(sorted(set(draw(st.lists(st.floats(-100, 100), max_size=5)))))
        counts = draw(st.lists(COUNTS, max_size=len(custom) + 1))
        return FloatHistogram(
            CUSTOM_SCHEMA, draw(COUNTS), draw(NUMBERS), positive=side(0, counts), custom=custom, hint=hint
        )
    return FloatHistogram(
        draw(st.integers(-4, 8)), draw(COUNTS), draw(NUMBERS), draw(COUNTS), draw(st.floats(0, 1)),
        draw(sides()), draw(sides()), (), hint,
    )  # fmt: skip


STORED = st.builds(Stored, histograms(), st.sampled_from([0, 1, 15_000]), st.sampled_from([0, -5, 1_700_000_000_000]))


def same_number(left: float, right: float) -> bool:
    return left == right or (math.isnan(left) and math.isnan(right))


def same(left: Stored, right: Stored) -> bool:
    one, other = left.histogram, right.histogram
    return (
        (left.after, left.start, one.schema, one.zero_threshold, one.custom, one.hint)
        == (right.after, right.start, other.schema, other.zero_threshold, other.custom, other.hint)
        and all(same_number(getattr(one, name), getattr(other, name)) for name in ("count", "sum", "zero_count"))
        and all(
            a.offset == b.offset and np.array_equal(a.counts, b.counts, equal_nan=True)
            for a, b in ((one.positive, other.positive), (one.negative, other.negative))
        )
    )


@given(STORED)
def test_a_sample_comes_back_as_it_was(stored: Stored) -> None:
    assert same(decode(encode(stored)), stored)


@settings(deadline=None)
@given(st.lists(st.lists(st.none() | STORED, min_size=1, max_size=6), min_size=1, max_size=4))
def test_a_group_gives_each_row_back_alone(rows: list[list[Stored | None]]) -> None:
    group = HistogramGroup(encode_group(rows))
    assert group.rows == len(rows)
    for number in reversed(range(len(rows))):
        found = group.decode(number)
        assert [each is None for each in found] == [each is None for each in rows[number]]
        for low, high in ((1, len(found)), (0, len(found) - 1), (len(found) // 2, len(found) // 2 + 1)):
            some = group.lot(number, low, high).stored()
            assert [each is None for each in some] == [each is None for each in found[low:high]]
            pairs = zip(some, found[low:high], strict=True)
            assert all(one is None or other is None or same(one, other) for one, other in pairs)
        assert all(
            one is None or other is None or same(one, other) for one, other in zip(found, rows[number], strict=True)
        )


@settings(deadline=None)
@given(st.lists(st.none() | STORED, max_size=8))
def test_many_samples_come_back_as_each_was(samples: list[Stored | None]) -> None:
    samples = samples * 2
    found = decode_all([b"" if each is None else encode(each) for each in samples]).stored()
    for one, other in zip(found, samples, strict=True):
        assert (one is None) == (other is None)
        assert one is None or other is None or same(one, other)


@settings(deadline=None)
@given(STORED, st.data())
def test_damaged_bytes_give_a_histogram_or_a_named_error(stored: Stored, data: st.DataObject) -> None:
    for body, read in (
        (encode(stored), decode),
        (encode(stored), lambda body: decode_all([encode(stored), b"x" * (not body) + body, encode(stored)])),
        (encode_group([[stored, None, stored]]), lambda body: HistogramGroup(body).decode(0)),
    ):
        broken = bytearray(body)
        broken[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
        end = data.draw(st.integers(0, len(body)))
        for each in (bytes(broken), body[:end]):
            try:
                read(each)
            except FormatError:
                continue


def test_a_counter_takes_few_bytes_in_a_group() -> None:
    rows = [
        [
            Stored(FloatHistogram(3, 20.0 * at, 1.5 * at, 0.0, 1e-128, side(5, [float(at)] * 20), EMPTY_SIDE))
            for at in range(1, 481)
        ]
    ]
    assert len(encode_group(rows)) < 480 * 40
    assert sum(len(encode(each)) for each in rows[0]) < 480 * 100


@pytest.mark.parametrize(
    ("histogram", "text"),
    [
        (FloatHistogram(schema=9), "unknown schema 9"),
        (FloatHistogram(positive=Side(1 << 31, np.ones(1))), "a bucket 2147483648, which has no bounds"),
        (FloatHistogram(positive=side(0, [1.0] * 101)), "spans 101 buckets; at most 100"),
        (FloatHistogram(negative=side(0, [1.0, *[0.0] * 200, 1.0])), "spans 202 buckets"),
        (FloatHistogram(schema=CUSTOM_SCHEMA, custom=tuple(map(float, range(101)))), "101 custom bounds"),
    ],
)
def test_what_the_store_does_not_keep_is_named(histogram: FloatHistogram, text: str) -> None:
    with pytest.raises(FormatError, match=text):
        check_histogram(histogram, Labels.of(__name__="a"), 100)
