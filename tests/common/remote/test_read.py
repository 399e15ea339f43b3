"""Remote read: requests to queries, samples to answers."""

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import FormatError
from common.histogram import CUSTOM_SCHEMA, FloatHistogram, ResetHint, side
from common.labels import Labels, Matcher, MatchType
from common.remote.read import (
    MAX_QUERIES,
    ReadQuery,
    ResponseType,
    decode_request,
    encode_response,
    encode_result,
    encode_series,
    write_request,
)
from common.remote.write import Decoder
from common.sample import Millis
from common.tsdb.querier import SelectHints
from common.wire import BYTES, WireError, fields, write_bytes, write_int, write_text

QUERY = ReadQuery(
    Millis(-5),
    Millis(1_700_000_000_000),
    (Matcher(MatchType.EQ, "__name__", "up"), Matcher(MatchType.NRE, "job", "a.*")),
    SelectHints(),
)


def test_a_request_gives_its_queries():
    assert decode_request(write_request([QUERY, QUERY])).queries == [QUERY, QUERY]


def test_hints_are_read():
    hints = (
        write_int(1, 15_000) + write_text(2, "rate") + write_text(5, "job") + write_int(6, 1) + write_int(7, 300_000)
    )
    (query,) = decode_request(write_bytes(1, write_bytes(4, hints))).queries
    assert query.hints == SelectHints(15_000, 300_000, "rate", ("job",), True)


def test_an_unknown_matcher_type_is_refused():
    with pytest.raises(WireError, match="unknown matcher type 9"):
        decode_request(write_bytes(1, write_bytes(3, write_int(1, 9))))


def test_a_bad_regular_expression_is_refused():
    with pytest.raises(FormatError, match="missing closing"):
        decode_request(write_bytes(1, write_bytes(3, write_int(1, 2) + write_text(2, "a") + write_text(3, "("))))


def test_too_many_queries_are_refused():
    with pytest.raises(WireError, match=f"more than {MAX_QUERIES} queries"):
        decode_request(write_request([QUERY] * (MAX_QUERIES + 1)))


def test_a_response_has_one_result_a_query():
    one = encode_result([encode_series(Labels.of(a="b"), np.array([1]), np.array([2.0]))])
    response = encode_response([one, b""])
    assert [length for _, kind, length, _ in fields(response, 0, len(response)) if kind == BYTES] == [len(one), 0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False)), max_size=50))
def test_encoded_samples_decode_to_the_same(samples):
    # A result is a list of series in field 1, which is what a write request is.
    labels = Labels.of(__name__="up", job="node")
    times = np.array([time for time, _ in samples], np.int64)
    values = np.array([value for _, value in samples], np.float64)
    request = Decoder().decode_v1(encode_result([encode_series(labels, times, values)]))
    assert request.series == [labels]
    assert request.timestamps.tolist() == times.tolist()
    assert request.values.tolist() == values.tolist()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_request_or_are_refused(data):
    with contextlib.suppress(FormatError):
        decode_request(data)


@pytest.mark.parametrize("integers", [True, False])
@pytest.mark.parametrize(
    "histogram",
    [
        FloatHistogram(
            -1, 10, 2.5, 3, 0.25, side(-4, [1.0, 0, 0, 0, 0, 2.0]), side(7, [4.0]), hint=ResetHint.NOT_RESET
        ),
        FloatHistogram(2, 1.5, 2.5, 0.5, 0.0, side(0, [1.0])),
        FloatHistogram(CUSTOM_SCHEMA, 3, 1.0, positive=side(1, [3.0]), custom=(1.0, 2.0)),
        FloatHistogram(0, 5, math.nan, positive=side(0, [2.0])),
        FloatHistogram(),
        None,
    ],
)
def test_a_histogram_reads_back(histogram: FloatHistogram | None, integers: bool) -> None:
    none = np.empty(0, np.int64)
    encoded = encode_series(Labels.of(__name__="h"), none, np.empty(0), [(5, histogram)], integers=integers)
    ((sample,),) = Decoder().decode_v1(encode_result([encoded])).histograms.values()
    back = sample.histogram()
    assert sample.timestamp == 5
    assert (back is None) is (histogram is None)
    assert sample.integer is (integers and (histogram is None or histogram.zero_count != 0.5))
    if back is not None and histogram is not None:
        assert back.equals(histogram)
        assert back.hint is histogram.hint


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", (ResponseType.SAMPLES,)),
        (write_request([], [ResponseType.STREAMED_XOR_CHUNKS, ResponseType.SAMPLES]), tuple(ResponseType)[::-1]),
        (write_bytes(2, b"\x01\x00"), tuple(ResponseType)[::-1]),
        (write_bytes(2, b"\x07\x01"), (ResponseType.STREAMED_XOR_CHUNKS,)),
    ],
)
def test_a_reader_says_how_it_wants_its_answer(data: bytes, expected: tuple[ResponseType, ...]) -> None:
    assert decode_request(data).accepted == expected


def test_who_accepts_nothing_that_is_known_is_refused() -> None:
    with pytest.raises(FormatError, match=r"none of the response types \[7, 8\] is supported"):
        decode_request(write_bytes(2, b"\x07\x08"))
