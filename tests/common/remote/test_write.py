"""Remote write requests: decoded columns, refused series, broken bytes."""

import contextlib
import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import FormatError, LimitError
from common.histogram import ResetHint
from common.labels import Labels
from common.remote import snappy
from common.remote.write import Decoder, HistogramSample
from common.sample import STALE_NAN, STALE_NAN_BITS, MetricMeta, MetricType, Millis
from common.wire import WireError, write_bytes, write_double, write_int, write_text, write_varint


def label(name, value):
    return write_bytes(1, write_text(1, name) + write_text(2, value))


def sample(value, timestamp, start=0):
    body = b""
    if value or math.copysign(1, value) < 0:
        body += write_double(1, value)
    if timestamp:
        body += write_int(2, timestamp)
    if start:
        body += write_int(3, start)
    return write_bytes(2, body)


def series(labels, *parts):
    return write_bytes(1, b"".join(label(*pair) for pair in labels.items()) + b"".join(parts))


def decode(*parts):
    return Decoder().decode_v1(b"".join(parts))


def columns(request):
    return {
        labels: list(zip(request.timestamps[a:b].tolist(), request.values[a:b].tolist(), strict=True))
        for labels, a, b in zip(request.series, request.bounds, request.bounds[1:], strict=False)
    }


UP = {"__name__": "up", "job": "node"}
# Timestamps whose varints have every length, some negative.
TIMES = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**21), st.integers(1_700_000_000_000, 1_800_000_000_000)
)
VALUES = st.floats(allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(TIMES, st.one_of(VALUES, st.just(0.0))), max_size=40), max_size=4))
def test_samples_come_out_as_they_went_in(found):
    parts = [
        series({"__name__": f"m{at}"}, *(sample(value, time) for time, value in samples))
        for at, samples in enumerate(found)
    ]
    request = decode(*parts)
    assert columns(request) == {Labels.of({"__name__": f"m{at}"}): samples for at, samples in enumerate(found)}


def test_long_runs_of_samples_come_out_in_order():
    samples = [(1_700_000_000_000 + 15_000 * at, float(at % 7)) for at in range(5000)]
    request = decode(series(UP, *(sample(value, time) for time, value in samples)))
    assert columns(request) == {Labels.of(UP): samples}


def test_the_staleness_marker_keeps_its_bits():
    request = decode(series(UP, *[sample(STALE_NAN, 1000 + at) for at in range(20)]))
    assert set(request.values.view(np.uint64).tolist()) == {STALE_NAN_BITS}


def test_labels_are_sorted_and_empty_ones_left_out():
    request = decode(series({"z": "1", "__name__": "up", "a": ""}, sample(1, 1)))
    assert request.series == [Labels.of({"__name__": "up", "z": "1"})]


def test_labels_behind_the_samples_count_too():
    request = decode(write_bytes(1, label("__name__", "up") + sample(1, 1) + label("a", "b")))
    assert request.series == [Labels.of({"__name__": "up", "a": "b"})]


@pytest.mark.parametrize(
    ("labels", "message"),
    [({"job": "x"}, "no metric name"), ({"__name__": "up", "": "x"}, "empty label name")],
)
def test_a_series_with_bad_labels_is_left_out_and_named(labels, message):
    request = decode(series(labels, sample(1, 1)), series(UP, sample(2, 2)))
    assert columns(request) == {Labels.of(UP): [(2, 2.0)]}
    assert len(request.refused) == 1
    assert message in request.refused[0]


def test_a_label_given_twice_is_refused():
    request = decode(write_bytes(1, label("__name__", "up") + label("a", "1") + label("a", "2") + sample(1, 1)))
    assert request.series == []
    assert "occurs twice" in request.refused[0]


def test_metadata_is_read():
    body = write_int(1, 1) + write_text(2, "http_requests") + write_text(4, "Requests.") + write_text(5, "requests")
    meta = decode(write_bytes(3, body)).metadata
    assert meta == [MetricMeta("http_requests", MetricType.COUNTER, "Requests.", "requests")]


def test_a_histogram_with_integer_counts_becomes_one_with_float_counts():
    body = b"".join(
        (
            write_int(1, 21),
            write_double(3, 18.5),
            write_int(4, 2),  # zigzag: schema 1
            write_double(5, 0.001),
            write_int(6, 2),
            write_bytes(11, write_int(1, 0) + write_int(2, 2)),
            write_bytes(11, write_int(1, 3) + write_int(2, 1)),  # zigzag: offset -2
            write_bytes(12, write_varint(2) + write_varint(4) + write_varint(1)),  # deltas 1 2 -1
            write_int(14, 3),
            write_int(15, 5000),
        )
    )
    request = decode(series(UP, write_bytes(4, body)))
    assert request.histograms == {
        0: [
            HistogramSample(
                timestamp=Millis(5000),
                count=21.0,
                sum=18.5,
                schema=1,
                zero_threshold=0.001,
                zero_count=2.0,
                positive_spans=((0, 2), (-2, 1)),
                positive_counts=(1.0, 3.0, 2.0),
                negative_spans=(),
                negative_counts=(),
                custom_values=(),
                reset_hint=ResetHint.GAUGE,
                integer=True,
            )
        ]
    }


def test_exemplars_are_read():
    body = label("trace_id", "abc") + write_double(2, 0.5) + write_int(3, 7)
    (exemplar,) = decode(series(UP, sample(1, 1), write_bytes(3, body))).exemplars[0]
    assert (exemplar.labels, exemplar.value, exemplar.timestamp) == (Labels.of(trace_id="abc"), 0.5, 7)


def v2(symbols, *parts):
    return b"".join(write_bytes(4, symbol.encode()) for symbol in symbols) + b"".join(parts)


SYMBOLS = ["", "__name__", "http_requests_total", "job", "node", "Requests.", "requests"]


def v2_series(refs, *parts):
    return write_bytes(5, write_bytes(1, b"".join(write_varint(ref) for ref in refs)) + b"".join(parts))


def test_version_2_refers_to_symbols():
    meta = write_bytes(5, write_int(1, 1) + write_int(3, 5) + write_int(4, 6))
    request = Decoder().decode_v2(v2(SYMBOLS, v2_series([1, 2, 3, 4], sample(3, 1000), sample(4, 2000), meta)))
    labels = Labels.of({"__name__": "http_requests_total", "job": "node"})
    assert columns(request) == {labels: [(1000, 3.0), (2000, 4.0)]}
    assert request.metadata == [MetricMeta("http_requests_total", MetricType.COUNTER, "Requests.", "requests")]
    assert request.starts is None


def test_version_2_has_start_timestamps():
    request = Decoder().decode_v2(v2(SYMBOLS, v2_series([1, 2], sample(3, 1000, start=500), sample(4, 2000))))
    assert request.starts is not None
    assert request.starts.tolist() == [500, 0]


@pytest.mark.parametrize("refs", [[1], [1, 99]])
def test_version_2_with_bad_references_is_refused(refs):
    with pytest.raises(WireError):
        Decoder().decode_v2(v2(SYMBOLS, v2_series(refs, sample(1, 1))))


def test_a_decoder_remembers_label_sets_up_to_its_limit():
    decoder = Decoder(max_series=4)
    for name in ("a", "b", "c", "a", "d", "d", "e", "a"):
        request = decoder.decode_v1(series({"__name__": name}, sample(1, 1)))
        assert request.series == [Labels.of(__name__=name)]
        assert len(decoder._labels) + len(decoder._old) <= 4


def test_a_decoder_gives_out_the_label_set_that_it_remembers():
    decoder = Decoder()
    data = series(UP, sample(1, 1))
    assert decoder.decode_v1(data).series[0] is decoder.decode_v1(data).series[0]


GOOD = series(UP, sample(1.5, 1_700_000_000_000), sample(2.5, 1_700_000_015_000)) + series({"__name__": "b"})


@pytest.mark.parametrize("length", range(1, len(GOOD)))
def test_a_request_that_was_cut_off_is_refused_or_has_whole_series_only(length):
    try:
        request = decode(GOOD[:length])
    except WireError:
        return
    assert len(request.series) == 1
    assert columns(request)[Labels.of(UP)] == [(1_700_000_000_000, 1.5), (1_700_000_015_000, 2.5)]


def test_labels_that_are_not_utf_8_are_refused():
    with pytest.raises(WireError, match="not UTF-8"):
        decode(write_bytes(1, write_bytes(1, write_bytes(1, b"\xff") + write_text(2, "x"))))


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.integers(0, len(GOOD) - 1).flatmap(
            lambda at: st.binary(min_size=1, max_size=3).map(lambda junk: GOOD[:at] + junk + GOOD[at + len(junk) :])
        ),
    )
)
def test_any_bytes_decode_or_are_refused(data):
    for decode_any in (Decoder().decode_v1, Decoder().decode_v2):
        with contextlib.suppress(WireError):
            decode_any(data)


NAMED = [{"__name__": "up", "job": "node", "instance": f"pi-{i}:9100", "x": "y" * (60 * i)} for i in range(3)]
REQUESTS = st.lists(
    st.tuples(
        st.sampled_from([*NAMED, {"job": "nameless"}]),
        st.lists(
            st.tuples(
                st.sampled_from([0.0, 1.5, -0.0, float("inf"), 1e300]),
                st.sampled_from([0, 1, -5, 1_700_000_000_000, 1_700_000_015_001, 2**34, 2**35, 2**42 - 1, 2**42]),
            ),
            max_size=3,
        ),
    ),
    max_size=12,
)


def body(request):
    return b"".join(series(labels, *(sample(*each) for each in samples)) for labels, samples in request)


def read_by(decoder, data):
    """What a request holds, or that it is refused."""
    try:
        found = decoder.decode_v1(data)
    except WireError:
        return None
    return (found.series, found.bounds.tolist(), found.timestamps.tolist(), found.values.tobytes(), found.refused)


@settings(max_examples=200, deadline=None)
@given(REQUESTS, REQUESTS, st.integers(0, 400), st.binary(max_size=3))
def test_a_decoder_that_remembers_reads_the_same_as_a_new_one(first, second, at, junk):
    decoder = Decoder()
    for request in (first, second, [(labels, [(1.5, 1_700_000_000_000)]) for labels in NAMED]):
        assert read_by(decoder, body(request)) == read_by(Decoder(), body(request))
    data = body(second) + body([(labels, [(2.5, 1_700_000_000_000)]) for labels in NAMED * 2])
    data = data[:at] + junk + data[at + len(junk) :]
    assert read_by(decoder, data) == read_by(Decoder(), data)


def test_known_series_with_a_usual_sample_each_are_taken_at_once(monkeypatch):
    request = [(labels, [(i + 0.5, 1_700_000_000_000 + i)]) for i, labels in enumerate(NAMED * 40)]
    decoder = Decoder()
    decoder.decode_v1(body(request))
    monkeypatch.setattr(decoder, "_series_v1", None)
    found = decoder.decode_v1(body(request))
    assert found.series == [Labels.of(labels) for labels, _ in request]
    assert found.timestamps.tolist() == [1_700_000_000_000 + i for i in range(len(request))]
    assert found.values.tolist() == [i + 0.5 for i in range(len(request))]


def test_a_label_set_is_checked_once_and_refused_ever_after():
    asked = []

    def check(labels):
        asked.append(labels)
        return "too long" if labels.get("job") == "node" else ""

    decoder = Decoder(check=check)
    for _ in range(3):
        found = decoder.decode_v1(series(NAMED[0], sample(1, 1)) + series({"__name__": "b"}, sample(2, 2)))
        assert (found.series, found.refused, found.values.tolist()) == ([Labels.of(__name__="b")], ["too long"], [2.0])
    assert asked == [Labels.of(NAMED[0]), Labels.of(__name__="b")]
    refs = v2(SYMBOLS, v2_series([1, 2], sample(3, 1000)))
    assert Decoder(check=lambda labels: "no").decode_v2(refs).refused == ["no"]


def test_a_snappy_block_round_trips():
    assert snappy.decompress(snappy.compress(GOOD * 50), 10_000) == GOOD * 50


def test_a_snappy_block_over_the_limit_is_not_unpacked():
    with pytest.raises(LimitError, match="limit is 100"):
        snappy.decompress(snappy.compress(bytes(101)), 100)
    with pytest.raises(LimitError):
        snappy.decompress(b"\xff\xff\xff\xff\x0f" + b"abc", 1 << 20)


@pytest.mark.parametrize("data", [b"", b"\xff" * 12, b"\x05\xfe\x00\x00", struct.pack("<Q", 77)])
def test_what_is_no_snappy_block_is_refused(data):
    with pytest.raises(FormatError):
        snappy.decompress(data, 1 << 20)


@pytest.mark.parametrize("together", [True, False])
def test_more_buckets_than_a_request_may_have_are_refused(monkeypatch: pytest.MonkeyPatch, together: bool) -> None:
    monkeypatch.setattr("common.remote.write.MAX_BUCKETS", 10)
    one = write_bytes(4, write_bytes(12, bytes(8)) + write_bytes(9, bytes(1)))
    assert decode(series(UP, one)).histograms
    many = write_bytes(4, write_bytes(12, bytes(100)))
    with pytest.raises(WireError, match="more than 10 buckets in one request"):
        decode(series(UP, one * 2 if together else many))


@pytest.mark.parametrize("field", [9, 10, 12, 13, 16])
def test_counts_of_another_wire_type_are_refused(field: int) -> None:
    other = write_int(field, 5) if field in (10, 13, 16) else write_double(field, 5.0)
    with pytest.raises(WireError, match=f"field {field} has wire type"):
        decode(series(UP, write_bytes(4, other)))


def test_labels_of_their_own_are_not_remembered_without_end(monkeypatch):
    monkeypatch.setattr("common.remote.write.MAX_PAIRS", 10)
    decoder = Decoder()
    for number in range(100):
        labels = {"__name__": "a", "path": str(number), "long": "x" * 200 * (number % 2)}
        assert decoder.decode_v1(series(labels, sample(1, 1_700_000_000_000))).series == [Labels.of(labels)]
        assert len(decoder._pairs) <= 13
