"""Decodes remote read requests and encodes their answers of samples (prompb/remote.proto of Prometheus)."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from common.histogram import FloatHistogram
from common.histogram_spans import to_spans
from common.labels import Labels, Matcher, MatchType
from common.sample import STALE_NAN, Millis
from common.tsdb.querier import SelectHints
from common.wire import (
    BYTES,
    VARINT,
    WireError,
    fields,
    need,
    packed_varints,
    read_text,
    signed,
    write_bytes,
    write_double,
    write_int,
    write_text,
    write_varint,
)

_MATCH_TYPES = (MatchType.EQ, MatchType.NE, MatchType.RE, MatchType.NRE)
MAX_QUERIES = 100
"""Queries that one request may hold."""

_EXACT = float(1 << 53)
_DIGIT_LIMITS = [1 << (7 * digits) for digits in range(1, 10)]


@dataclass(frozen=True, slots=True)
class ReadQuery:
    """One query: samples with start <= timestamp <= end (ms) of the series that satisfy all matchers."""

    start: Millis
    end: Millis
    matchers: tuple[Matcher, ...]
    hints: SelectHints


class ResponseType(IntEnum):
    """How samples may be answered; numbers as in the protocol."""

    SAMPLES = 0
    STREAMED_XOR_CHUNKS = 1


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """Queries, and how their answers may come, in the reader's order; types that are unknown here are left out."""

    queries: list[ReadQuery]
    accepted: tuple[ResponseType, ...] = (ResponseType.SAMPLES,)


def decode_request(data: bytes) -> ReadRequest:
    """A `prometheus.ReadRequest`; WireError, or FormatError for a bad regular expression or no type that is known."""
    queries = []
    accepted: list[int] = []
    for number, kind, length, at in fields(data, 0, len(data)):
        if number == 1:
            need(number, kind, BYTES)
            queries.append(_query(data, at, at + length))
            if len(queries) > MAX_QUERIES:
                raise WireError(f"more than {MAX_QUERIES} queries in a request")
        elif number == 2:
            accepted += packed_varints(data, at, length) if kind == BYTES else [length]
    known = tuple(ResponseType(each) for each in accepted if each in list(ResponseType))
    if accepted and not known:
        raise WireError(f"none of the response types {accepted} is supported; those are {[*map(int, ResponseType)]}")
    return ReadRequest(queries, known or (ResponseType.SAMPLES,))


def _query(data: bytes, at: int, end: int) -> ReadQuery:
    start = stop = 0
    matchers = []
    hints = SelectHints()
    for number, kind, value, where in fields(data, at, end):
        if number == 1:
            need(number, kind, VARINT)
            start = signed(value)
        elif number == 2:
            need(number, kind, VARINT)
            stop = signed(value)
        elif number == 3:
            need(number, kind, BYTES)
            matchers.append(_matcher(data, where, where + value))
        elif number == 4:
            need(number, kind, BYTES)
            hints = _hints(data, where, where + value)
    return ReadQuery(Millis(start), Millis(stop), tuple(matchers), hints)


def _matcher(data: bytes, at: int, end: int) -> Matcher:
    which, name, text = 0, "", ""
    for number, kind, value, where in fields(data, at, end):
        if number == 1:
            need(number, kind, VARINT)
            which = value
        elif number == 2:
            need(number, kind, BYTES)
            name = read_text(data, where, value)
        elif number == 3:
            need(number, kind, BYTES)
            text = read_text(data, where, value)
    if which >= len(_MATCH_TYPES):
        raise WireError(f"unknown matcher type {which}")
    return Matcher(_MATCH_TYPES[which], name, text)


def _hints(data: bytes, at: int, end: int) -> SelectHints:
    integers: dict[int, int] = {}
    func = ""
    grouping = []
    for number, kind, value, where in fields(data, at, end):
        if kind == VARINT:
            integers[number] = signed(value)
        elif number == 2:
            need(number, kind, BYTES)
            func = read_text(data, where, value)
        elif number == 5:
            need(number, kind, BYTES)
            grouping.append(read_text(data, where, value))
    return SelectHints(integers.get(1, 0), integers.get(7, 0), func, tuple(grouping), bool(integers.get(6, 0)))


def encode_series(
    labels: Labels,
    timestamps: NDArray[np.int64],
    values: NDArray[np.float64],
    histograms: Iterable[tuple[int, FloatHistogram | None]] = (),
    *,
    integers: bool = False,
) -> bytes:
    """A `prometheus.TimeSeries` with these samples, and native histograms with their times, as `encode_histogram`."""
    parts = [write_bytes(1, write_text(1, name) + write_text(2, value)) for name, value in labels]
    parts.append(_encode_samples(timestamps, values))
    parts += [write_bytes(4, encode_histogram(ms, each, integers)) for ms, each in histograms]
    return b"".join(parts)


def encode_histogram(ms: int, histogram: FloatHistogram | None, integers: bool = False) -> bytes:
    """A `prometheus.Histogram`; None is a staleness marker.

    It is one of floats, or with `integers` one of integers wherever its counts allow that.
    """
    shown = histogram or FloatHistogram(sum=STALE_NAN)
    whole = integers and _is_whole(shown)
    # The kinds of count and zero count are a oneof each.
    parts = [write_int(1, int(shown.count)) if whole else write_double(2, shown.count), write_double(3, shown.sum)]
    if histogram is not None:
        parts += [write_int(4, shown.schema << 1 ^ shown.schema >> 31), write_double(5, shown.zero_threshold)]
        parts.append(write_int(6, int(shown.zero_count)) if whole else write_double(7, shown.zero_count))
        for number, side in ((8, shown.negative), (11, shown.positive)):
            spans, counts = to_spans(side)
            for offset, length in spans:
                parts.append(write_bytes(number, write_int(1, offset << 1 ^ offset >> 63) + write_int(2, length)))
            if counts and whole:
                deltas = [int(count - before) for before, count in pairwise([0.0, *counts])]
                packed = b"".join(write_varint(delta << 1 ^ delta >> 63) for delta in deltas)
                parts.append(write_bytes(number + 1, packed))
            elif counts:
                parts.append(write_bytes(number + 2, struct.pack(f"<{len(counts)}d", *counts)))
        parts.append(write_int(14, shown.hint))
        if shown.custom:
            parts.append(write_bytes(16, struct.pack(f"<{len(shown.custom)}d", *shown.custom)))
    return b"".join((*parts, write_int(15, ms)))


def _is_whole(histogram: FloatHistogram) -> bool:
    """Whether it could have come as a histogram of integers."""
    counts = np.concatenate([histogram.positive.counts, histogram.negative.counts, [histogram.zero_count]])
    whole = bool(((counts >= 0) & (counts < _EXACT) & (np.rint(counts) == counts)).all())
    total, found = float(histogram.count), float(counts.sum())
    return whole and total.is_integer() and (total == found or (total > found and histogram.sum != histogram.sum))


def encode_result(series: Iterable[bytes]) -> bytes:
    """A `prometheus.QueryResult` of series made by `encode_series`."""
    return b"".join(write_bytes(1, each) for each in series)


def encode_response(results: Sequence[bytes]) -> bytes:
    """A `prometheus.ReadResponse`, one result a query, in their order."""
    return b"".join(write_bytes(1, each) for each in results)


def _encode_samples(timestamps: NDArray[np.int64], values: NDArray[np.float64]) -> bytes:
    """Field 2 for every sample, whole runs of timestamps with equally long varints at once."""
    if not len(timestamps):
        return b""
    # A negative number takes ten bytes.
    digits = np.where(timestamps < 0, 10, 1 + np.searchsorted(_DIGIT_LIMITS, timestamps, side="right"))
    starts = [0, *(np.flatnonzero(np.diff(digits)) + 1).tolist(), len(digits)]
    unsigned = timestamps.astype(np.uint64)
    parts = []
    for begin, end in pairwise(starts):
        width = int(digits[begin])
        table = np.empty((end - begin, 12 + width), np.uint8)
        table[:, 0] = 0x12
        table[:, 1] = 10 + width
        table[:, 2] = 0x09
        table[:, 3:11] = np.ascontiguousarray(values[begin:end], "<f8").view(np.uint8).reshape(-1, 8)
        table[:, 11] = 0x10
        for digit in range(width):
            piece = (unsigned[begin:end] >> np.uint64(7 * digit)) & np.uint64(0x7F)
            table[:, 12 + digit] = piece | (0x80 if digit < width - 1 else 0)
        parts.append(table.tobytes())
    return b"".join(parts)


def write_request(queries: Iterable[ReadQuery], accepted: Iterable[ResponseType] = ()) -> bytes:
    """A `prometheus.ReadRequest` that accepts these types, or says nothing of them (for tools and tests)."""
    out = [write_int(2, each) for each in accepted]
    for query in queries:
        body = [write_varint(0x08), write_varint(query.start), write_varint(0x10), write_varint(query.end)]
        for matcher in query.matchers:
            which = write_varint(0x08) + write_varint(_MATCH_TYPES.index(matcher.type))
            body.append(write_bytes(3, which + write_text(2, matcher.name) + write_text(3, matcher.value)))
        out.append(write_bytes(1, b"".join(body)))
    return b"".join(out)
