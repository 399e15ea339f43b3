"""The protobuf exposition: the same series as the text format has, and nothing but its own error for other bytes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ExpositionError
from common.exposition.lines import LineParser
from common.exposition.parse import Exemplar, Format, Series
from common.exposition.protobuf import expose, parse
from common.labels import Labels
from common.sample import MetricMeta, MetricType
from common.wire import write_bytes, write_double, write_int, write_text, write_varint

COUNTER, GAUGE, SUMMARY, UNTYPED, HISTOGRAM = range(5)


def label(name, value):
    return write_bytes(1, write_text(1, name) + write_text(2, value))


def family(name, kind, *metrics, text="", unit=""):
    body = write_text(1, name) + write_int(3, kind) + b"".join(write_bytes(4, metric) for metric in metrics)
    body += (write_text(2, text) if text else b"") + (write_text(5, unit) if unit else b"")
    return write_varint(len(body)) + body


def bucket(count, bound, exemplar=b""):
    return write_bytes(3, write_int(1, count) + write_double(2, bound) + exemplar)


EVERYTHING = b"".join(
    (
        family("c_total", COUNTER, label("a", "1") + write_bytes(3, write_double(1, 3.5)), text="A counter."),
        family("g", GAUGE, write_bytes(2, write_double(1, -1)), label("b", "ü") + write_bytes(2, b""), unit="bytes"),
        family("u", UNTYPED, write_bytes(5, write_double(1, 7)) + write_int(6, 1500)),
        family(
            "s",
            SUMMARY,
            write_bytes(
                4, write_int(1, 4) + write_double(2, 9.5) + write_bytes(3, write_double(1, 0.5) + write_double(2, 2))
            ),
        ),
        family("h", HISTOGRAM, write_bytes(7, write_int(1, 5) + write_double(2, 2.5) + bucket(2, 0.1) + bucket(4, 1))),
    )
)
AS_TEXT = b"""# TYPE c_total counter
# HELP c_total A counter.
c_total{a="1"} 3.5
# TYPE g gauge
g -1
g{b="\xc3\xbc"} 0
# TYPE u untyped
u 7 1500
# TYPE s summary
s_count 4
s_sum 9.5
s{quantile="0.5"} 2
# TYPE h histogram
h_count 5
h_sum 2.5
h_bucket{le="0.1"} 2
h_bucket{le="1"} 4
h_bucket{le="+Inf"} 5
"""


def test_every_type_gives_the_series_of_the_text_format():
    found, text = expose(EVERYTHING), LineParser().parse(AS_TEXT, Format.TEXT)
    assert (found.labels, found.values.tolist(), found.timestamps) == (
        text.labels,
        text.values.tolist(),
        text.timestamps,
    )


def test_metadata_is_read():
    meta = {each.name: each for each in expose(EVERYTHING).meta}
    assert meta["c_total"] == MetricMeta("c_total", MetricType.COUNTER, "A counter.")
    assert meta["g"] == MetricMeta("g", MetricType.GAUGE, "", "bytes")
    assert [each.type for each in meta.values()] == ["counter", "gauge", "unknown", "summary", "histogram"]


def test_start_times_and_exemplars_are_read():
    time = write_int(1, 12) + write_int(2, 345_000_000)
    example = write_bytes(2, label("trace", "x") + write_double(2, 1) + write_bytes(3, time))
    data = family("c_total", COUNTER, write_bytes(3, write_double(1, 2) + example + write_bytes(3, time)))
    (series,) = [entry for entry in parse(data) if isinstance(entry, Series)]
    assert series.start == 12_345
    assert series.exemplar == Exemplar(Labels.of(trace="x"), 1.0, 12_345)


def test_equal_label_sets_count_once():
    metric = write_bytes(2, write_double(1, 1))
    found = expose(family("g", GAUGE, metric, write_bytes(2, write_double(1, 2))))
    assert (found.values.tolist(), found.duplicates) == ([1.0], 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (EVERYTHING[:-1], "cut off"),
        (family("", GAUGE), "has no name"),
        (family("g", 9), "unknown type 9"),
        (b"\x02\x0a\x05", "longer than its message"),
        (write_varint(4) + write_bytes(1, b"\xff\xff"), "not UTF-8"),
    ],
)
def test_what_is_not_this_format_is_refused(data, message):
    with pytest.raises(ExpositionError, match=message):
        expose(data)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(EVERYTHING) - 1), st.binary(max_size=3))
def test_damaged_bytes_are_read_or_refused(at, junk):
    for data in (EVERYTHING[:at] + junk + EVERYTHING[at + len(junk) :], junk):
        try:
            expose(data)
        except ExpositionError as error:
            assert str(error)
