"""Classic histograms as native ones with custom buckets."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.exposition.lines import Exposed, LineParser
from common.exposition.native import NativeSeries
from common.exposition.nhcb import Converter
from common.exposition.parse import Format
from common.histogram import CUSTOM_SCHEMA, FloatHistogram
from common.labels import Labels
from common.promql.promqltest_store import custom_histograms

H = Labels.of(__name__="h")


def text(*lines: str, kind: str = "histogram") -> bytes:
    return "\n".join([f"# TYPE h {kind}", *lines, "up 1", ""]).encode()


def converted(body: bytes, keep: bool = False, form: Format = Format.TEXT) -> Exposed:
    return Converter(keep).convert(LineParser().parse(body, form))


def facts(each: NativeSeries) -> tuple[object, ...]:
    histogram = each.histogram
    assert histogram.schema == CUSTOM_SCHEMA
    positive = histogram.positive
    return histogram.count, histogram.sum, histogram.custom, positive.offset, positive.counts.tolist()


WHOLE = ('h_bucket{le="0.5"} 1', 'h_bucket{le="1"} 3', 'h_bucket{le="+Inf"} 7', "h_sum 2.5", "h_count 7")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (WHOLE, (7, 2.5, (0.5, 1.0), 0, [1, 2, 4])),
        (tuple(reversed(WHOLE)), (7, 2.5, (0.5, 1.0), 0, [1, 2, 4])),
        (WHOLE[:2] + WHOLE[3:], (7, 2.5, (0.5, 1.0), 0, [1, 2, 4])),  # no +Inf: the count is there
        (WHOLE[:3], (7, 0, (0.5, 1.0), 0, [1, 2, 4])),  # neither sum nor count
        (WHOLE[:2], (3, 0, (0.5, 1.0), 0, [1, 2])),
        (("h_sum 5",), (0, 5, (), 0, [])),
        (WHOLE[3:], (7, 2.5, (), 0, [7])),
        (('h_bucket{le="-1"} 0', 'h_bucket{le="+Inf"} 0', "h_count 0", "h_sum 0"), (0, 0, (-1.0,), 0, [])),
        (('h_bucket{le="1"} 0.5', 'h_bucket{le="+Inf"} 1.75', "h_count 1.75"), (1.75, 0, (1.0,), 0, [0.5, 1.25])),
        (('h_bucket{le="1"} 1', 'h_bucket{le="x"} 5', 'h_bucket{le="1_0"} 9', "h_count 1"), (1, 0, (1.0,), 0, [1])),
    ],
)
def test_series_of_one_label_set_are_one_histogram(lines: tuple[str, ...], expected: tuple[object, ...]) -> None:
    (found,) = converted(text(*lines)).histograms
    assert found.labels == H
    assert facts(found) == expected


@pytest.mark.parametrize(
    "lines",
    [
        ('h_bucket{le="1"} 3', 'h_bucket{le="+Inf"} 2', "h_count 2"),
        ('h_bucket{le="1"} 1', 'h_bucket{le="+Inf"} 2', "h_count 3"),
        ('h_bucket{le="1"} -1', 'h_bucket{le="+Inf"} 2', "h_count 2"),
        ('h_bucket{le="1"} 1', 'h_bucket{le="+Inf"} NaN', "h_count NaN"),
        ('h_bucket{le="-Inf"} 1', 'h_bucket{le="+Inf"} 2', "h_count 2"),
    ],
)
def test_numbers_and_bounds_that_make_none_are_no_histogram(lines: tuple[str, ...]) -> None:
    found = converted(text(*lines))
    assert list(found.histograms) == []
    assert [labels.name for labels in found.labels] == ["up"]


def test_classic_series_stay_if_they_are_to_be_kept() -> None:
    found = converted(text(*WHOLE), keep=True)
    assert len(found.histograms) == 1
    assert len(found.labels) == len(found.values) == 6


@pytest.mark.parametrize("kind", ["counter", "gauge", "untyped", "summary"])
def test_other_types_are_left_alone(kind: str) -> None:
    found = converted(text(*WHOLE, kind=kind))
    assert (len(found.labels), len(found.histograms)) == (6, 0)


def test_gauge_histograms_and_series_of_other_names_are_left_alone() -> None:
    body = b'# TYPE h gaugehistogram\nh_bucket{le="+Inf"} 1\nh_gcount 1\nh_gsum 1\n# EOF\n'
    assert not converted(body, form=Format.OPENMETRICS).histograms
    found = converted(text(*WHOLE, "h_bucket_count 3", "hh_count 2", "h 4"))
    assert sorted(labels.name for labels in found.labels) == ["h", "h_bucket_count", "hh_count", "up"]


def test_timestamps_tell_histograms_apart_and_are_kept() -> None:
    lines = [f'h_bucket{{le="+Inf"}} {n} {n}000' for n in (1, 2)] + [f"h_count {n} {n}000" for n in (1, 2)]
    found = converted(text(*lines, "g 5 7000"))
    assert [(each.timestamp, each.histogram.count) for each in found.histograms] == [(1000, 1), (2000, 2)]
    assert [labels.name for labels in found.labels] == ["g", "up"]
    assert found.timestamps == [7000, None]


def test_what_is_native_already_is_not_converted_again() -> None:
    parsed = LineParser().parse(text(*WHOLE, 'h_count{x="1"} 2', 'h_bucket{x="1",le="+Inf"} 2'), Format.TEXT)
    native = NativeSeries(H, FloatHistogram(0, 1.0))
    found = Converter(keep=False).convert(replace(parsed, histograms=[native]))
    assert [str(each.labels) for each in found.histograms] == ["h", 'h{x="1"}']
    assert found.histograms[0] is native
    assert len(found.labels) == 6


def test_a_scrape_of_the_same_series_keeps_the_objects_that_name_them() -> None:
    parser, converter = LineParser(), Converter(keep=False)
    first = converter.convert(parser.parse(text(*WHOLE), Format.TEXT))
    grown = [line.replace(" 7", " 9") for line in WHOLE]
    second = converter.convert(parser.parse(text(*grown), Format.TEXT))
    assert second.labels is first.labels
    assert facts(second.histograms[0]) == (9, 2.5, (0.5, 1.0), 0, [1, 2, 6])
    third = converter.convert(parser.parse(text(*WHOLE, 'h_count{x="1"} 2'), Format.TEXT))
    assert [str(each.labels) for each in third.histograms] == ["h", 'h{x="1"}']


BOUNDS = st.lists(st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: x + 0.0), min_size=1, max_size=6, unique=True)


@given(st.lists(st.tuples(BOUNDS, st.lists(st.integers(0, 9), min_size=7, max_size=7)), min_size=1, max_size=4))
def test_random_histograms_are_those_of_the_conversion_cell_by_cell(
    histograms: list[tuple[list[float], list[int]]],
) -> None:
    values: dict[Labels, float] = {}
    for number, (bounds, counts) in enumerate(histograms):
        at = {"x": str(number)}
        cumulative = np.cumsum(counts).tolist()
        for bound, count in zip([*sorted(bounds), math.inf], cumulative, strict=False):
            name = "+Inf" if bound == math.inf else repr(bound)
            values[Labels.of({"__name__": "h_bucket", "le": name, **at})] = float(count)
        values[Labels.of({"__name__": "h_count", **at})] = float(cumulative[len(bounds)])
        values[Labels.of({"__name__": "h_sum", **at})] = 0.5 * number
    lines = [f"{labels} {value!r}" for labels, value in sorted(values.items(), key=lambda item: str(item[0]))]
    found = {each.labels: facts(each) for each in converted(text(*lines)).histograms}
    expected = {}
    for labels, cells in custom_histograms({labels: (value,) for labels, value in values.items()}).items():
        (cell,) = cells
        assert isinstance(cell, FloatHistogram)
        expected[labels] = facts(NativeSeries(labels, cell))
    assert found == expected
