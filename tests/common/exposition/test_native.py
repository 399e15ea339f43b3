"""Native histograms over protobuf: read from what client libraries send, written for those who federate."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ExpositionError
from common.exposition.protobuf import expose
from common.exposition.protobuf_encode import exposition
from common.histogram import CUSTOM_SCHEMA, FloatHistogram, ResetHint, side
from common.labels import Labels
from common.wire import write_bytes, write_double, write_int, write_text, write_varint

HISTOGRAM, GAUGE_HISTOGRAM = 4, 5
H = Labels.of(__name__="h", a="1")


def zigzag(value: int) -> int:
    return value << 1 ^ value >> 63


def span(number: int, offset: int, length: int) -> bytes:
    return write_bytes(number, write_int(1, zigzag(offset)) + write_int(2, length))


def family(body: bytes, kind: int = HISTOGRAM, more: bytes = b"") -> bytes:
    label = write_bytes(1, write_text(1, "a") + write_text(2, "1"))
    data = write_text(1, "h") + write_int(3, kind) + write_bytes(4, label + write_bytes(7, body) + more)
    return write_varint(len(data)) + data


CLASSIC = write_bytes(3, write_int(1, 4) + write_double(2, 1.0))
INTEGER = (
    write_int(1, 10)
    + write_double(2, 12.5)
    + write_int(5, zigzag(3))
    + write_double(6, 0.001)
    + write_int(7, 2)
    + span(12, -2, 2)
    + span(12, 3, 1)
    + write_bytes(13, write_varint(zigzag(3)) + write_varint(zigzag(-2)) + write_varint(zigzag(1)))
    + span(9, 1, 1)
    + write_int(10, zigzag(2))
    + write_bytes(15, write_int(1, 1_700_000_000))
)
FLOAT = write_double(4, 3.5) + write_double(2, 1.0) + write_int(5, 0) + span(12, 0, 2) + write_double(14, 1.5) * 2


def test_a_histogram_of_integers_is_read() -> None:
    found = expose(family(INTEGER), native=True)
    assert not found.labels
    (each,) = found.histograms
    assert (each.labels, each.timestamp, each.start) == (H, None, 1_700_000_000_000)
    wanted = FloatHistogram(3, 10, 12.5, 2, 0.001, side(-2, [3, 1, 0, 0, 0, 2]), side(1, [2]))
    assert each.histogram.equals(wanted)


def test_a_histogram_of_floats_and_of_gauges_is_read() -> None:
    (each,) = expose(family(FLOAT, GAUGE_HISTOGRAM, write_int(6, 99)), native=True).histograms
    assert each.histogram.equals(FloatHistogram(0, 3.5, 1.0, positive=side(0, [1.5, 1.5])))
    assert (each.histogram.hint, each.timestamp) == (ResetHint.GAUGE, 99)


@pytest.mark.parametrize(
    ("native", "classic", "both"), [(True, False, (1, 0)), (True, True, (1, 4)), (False, False, (0, 4))]
)
def test_the_classic_part_comes_where_it_is_wanted(native: bool, classic: bool, both: tuple[int, int]) -> None:
    found = expose(family(INTEGER + CLASSIC), native, classic)
    assert (len(found.histograms), len(found.labels)) == both


def test_one_without_any_bucket_has_that_of_all_where_it_is_classic() -> None:
    # As Prometheus: no part of a native one that has no classic buckets is classic.
    bare = expose(family(write_int(1, 4) + write_double(2, 1.0)), native=True)
    assert {labels.name: labels.get("le") for labels in bare.labels} == {"h_count": "", "h_sum": "", "h_bucket": "+Inf"}
    assert bare.values.tolist() == [4.0, 1.0, 4.0]
    assert len(expose(family(INTEGER), native=False).labels) == 3
    assert len(expose(family(INTEGER), native=True, classic=True).labels) == 0


def test_one_without_native_buckets_stays_classic() -> None:
    found = expose(family(write_int(1, 4) + write_double(2, 1.0) + CLASSIC), native=True)
    assert (len(found.histograms), len(found.labels)) == (0, 4)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (FLOAT + span(12, 0, 1), "spans need 3 buckets, have 2"),
        (INTEGER + write_int(1, 3), "Count field is 3"),
        (FLOAT + write_int(5, zigzag(CUSTOM_SCHEMA)), "invalid schema: -53"),
    ],
)
def test_one_that_does_not_add_up_is_named(body: bytes, text: str) -> None:
    with pytest.raises(ExpositionError, match=f'invalid native histogram h{{a="1"}}: .*{text}'):
        expose(family(body), native=True)


def test_what_is_written_reads_back() -> None:
    samples = [
        FloatHistogram(-2, 9.5, -1.0, 1.5, 0.25, side(3, [1.0, 0, 0, 0, 0, 0, 2.0]), side(-7, [4.0])),
        FloatHistogram(1, 2, 1.0, positive=side(0, [2.0]), hint=ResetHint.GAUGE),
        FloatHistogram(),
        FloatHistogram(CUSTOM_SCHEMA, 1, 1.0, positive=side(0, [1.0]), custom=(1.0,)),
    ]
    shown = [("h", (("i", str(number)),), 1000 * number, each) for number, each in enumerate(samples)]
    data = b"".join(exposition([("a", (), 5, 1.5), *shown]))
    found = expose(data, native=True)
    assert (found.labels, found.values.tolist(), found.timestamps) == ([Labels.of(__name__="a")], [1.5], [5])
    assert [each.timestamp for each in found.histograms] == [0, 1000, 2000]
    assert all(each.histogram.equals(samples[number]) for number, each in enumerate(found.histograms))
    assert [each.histogram.hint for each in found.histograms] == [samples[number].hint for number in range(3)]


@settings(deadline=None)
@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 255))
def test_garbage_gives_histograms_or_a_named_error(more: bytes, at: int, byte: int) -> None:
    body = bytearray(INTEGER + more)
    body[at % len(body)] = byte
    with contextlib.suppress(ExpositionError):
        for each in expose(family(bytes(body)), native=True).histograms:
            assert each.labels == H
