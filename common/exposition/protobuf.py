"""Prometheus's protobuf exposition: length-delimited `io.prometheus.client.MetricFamily` messages.

The format is that of client_model's metrics.proto. Classic histograms and summaries come out as the series that the
text format would have, with an empty `text`. Native histograms are read where the caller wants them, in place of their
classic part or beside it; else only the classic part is.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from common.errors import ExpositionError, FormatError
from common.exposition.lines import Exposed
from common.exposition.native import NativeSeries, read_native
from common.exposition.parse import Entry, Exemplar, Help, Series, Type, Unit, format_float, label_set
from common.labels import NAME, Labels
from common.sample import MetricMeta, MetricType
from common.wire import BYTES, FIXED64, VARINT, WireError, fields, need, read_double, read_text, read_varint, signed

_TYPES = (
    MetricType.COUNTER,
    MetricType.GAUGE,
    MetricType.SUMMARY,
    MetricType.UNKNOWN,
    MetricType.HISTOGRAM,
    MetricType.GAUGE_HISTOGRAM,
)
_VALUE_FIELDS = (2, 3, 5)
"""Fields of Metric that hold gauges, counters and untyped values; each has its value in field 1."""

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Bucket:
    bound: float
    count: float
    exemplar: Exemplar | None


def parse(
    data: bytes, native: bool = False, classic: bool = False, keep_empty: bool = False
) -> Iterator[Entry | NativeSeries]:
    """Entries of `data` in order; ExpositionError for what is not this format.

    With `native`, a histogram that has native buckets comes as such; its classic series then only with `classic`.
    `keep_empty` as `label_set` has it.
    """
    at = 0
    try:
        while at < len(data):
            length, at = read_varint(data, at, len(data))
            if at + length > len(data):
                raise ExpositionError(f"metric family at byte {at} is cut off")
            yield from _family(data, at, at + length, native, classic, keep_empty)
            at += length
    except ExpositionError:
        raise
    except FormatError as err:
        raise ExpositionError(f"invalid protobuf exposition: {err}") from None


def expose(data: bytes, native: bool = False, classic: bool = False, keep_empty: bool = False) -> Exposed:
    """A scrape's samples and metadata; of equal label sets at one time the first counts. As `parse`."""
    histograms: list[NativeSeries] = []
    labels: list[Labels] = []
    values: list[float] = []
    timestamps: list[int | None] = []
    starts: list[int] = []
    meta: dict[str, MetricMeta] = {}
    seen: set[tuple[Labels, int | None]] = set()
    duplicates = 0
    for entry in parse(data, native, classic, keep_empty):
        match entry:
            case Series() | NativeSeries():
                key = (entry.labels, entry.timestamp)
                if key in seen:
                    duplicates += 1
                    continue
                seen.add(key)
                if isinstance(entry, NativeSeries):
                    histograms.append(entry)
                    continue
                labels.append(entry.labels)
                values.append(entry.value)
                timestamps.append(entry.timestamp)
                starts.append(entry.start or 0)
            case Type(name, kind):
                meta[name] = MetricMeta(name, kind)
            case Help(name, text):
                meta[name] = MetricMeta(name, meta[name].type, text)
            case Unit(name, unit):
                meta[name] = MetricMeta(name, meta[name].type, meta[name].help, unit)
            case _:
                pass
    stamped = timestamps if any(time is not None for time in timestamps) else None
    known = np.array(starts, np.int64) if any(starts) else None
    return Exposed(labels, np.array(values, np.float64), stamped, list(meta.values()), duplicates, histograms, known)


def _family(
    data: bytes, start: int, end: int, native: bool, classic: bool, keep_empty: bool
) -> Iterator[Entry | NativeSeries]:
    name = text = unit = ""
    kind_of = 0
    metrics: list[tuple[int, int]] = []
    for number, kind, value, at in fields(data, start, end):
        if number == 3:
            need(number, kind, VARINT)
            kind_of = value
        elif number in (1, 2, 4, 5):
            need(number, kind, BYTES)
            if number == 4:
                metrics.append((at, at + value))
            elif number == 1:
                name = read_text(data, at, value)
            elif number == 2:
                text = read_text(data, at, value)
            else:
                unit = read_text(data, at, value)
    if not name:
        raise ExpositionError(f"metric family at byte {start} has no name")
    if kind_of >= len(_TYPES):
        raise ExpositionError(f"metric family {name} has the unknown type {kind_of}")
    yield Type(name, _TYPES[kind_of])
    if text:
        yield Help(name, text)
    if unit:
        yield Unit(name, unit)
    for at, stop in metrics:
        yield from _metric(data, at, stop, name, native, classic, keep_empty, _TYPES[kind_of])


def _metric(
    data: bytes, start: int, end: int, name: str, native: bool, classic: bool, keep_empty: bool, type_: MetricType
) -> Iterator[Series | NativeSeries]:
    pairs: list[tuple[str, str]] = []
    timestamp: int | None = None
    bodies: dict[int, tuple[int, int]] = {}
    for number, kind, value, at in fields(data, start, end):
        if number == 6:
            need(number, kind, VARINT)
            timestamp = signed(value)
        elif kind == BYTES:
            if number == 1:
                pairs.append(_pair(data, at, at + value))
            else:
                bodies[number] = (at, at + value)
    common = tuple(pair for pair in pairs if pair[1] or keep_empty)
    for number, body in bodies.items():
        if number in _VALUE_FIELDS:
            yield _plain(data, *body, name, common, timestamp)
        elif number == 4:
            yield from _summary(data, *body, name, common, timestamp)
        elif number == 7:
            found = _native(data, *body, name, common, timestamp, type_) if native else None
            if found is not None:
                yield found
            if found is None or classic:
                yield from _histogram(data, *body, name, common, timestamp, found is not None)


def _native(
    data: bytes, at: int, end: int, name: str, pairs: Pairs, timestamp: int | None, type_: MetricType
) -> NativeSeries | None:
    labels = label_set(((NAME, name), *pairs), keep_empty=True)
    try:
        histogram = read_native(data, at, end, type_ is MetricType.GAUGE_HISTOGRAM)
    except WireError:
        raise
    except FormatError as err:
        raise ExpositionError(f"invalid native histogram {labels}: {err}") from None
    if histogram is None:
        return None
    start = 0
    for number, kind, value, where in fields(data, at, end):
        if number == 15 and kind == BYTES:
            start = _time(data, where, where + value)
    return NativeSeries(labels, histogram, timestamp, start)


def _series(
    name: str,
    pairs: Pairs,
    value: float,
    timestamp: int | None,
    start: int | None = None,
    exemplar: Exemplar | None = None,
) -> Series:
    return Series(b"", label_set(((NAME, name), *pairs), keep_empty=True), value, timestamp, exemplar, start)


def _plain(data: bytes, at: int, end: int, name: str, pairs: Pairs, timestamp: int | None) -> Series:
    number_value, start, exemplar = 0.0, None, None
    for number, kind, value, where in fields(data, at, end):
        if number == 1:
            need(number, kind, FIXED64)
            number_value = read_double(data, where)
        elif number == 2 and kind == BYTES:
            exemplar = _exemplar(data, where, where + value)
        elif number == 3 and kind == BYTES:
            start = _time(data, where, where + value)
    return _series(name, pairs, number_value, timestamp, start, exemplar)


def _summary(data: bytes, at: int, end: int, name: str, pairs: Pairs, timestamp: int | None) -> Iterator[Series]:
    count, total, start = 0.0, 0.0, None
    quantiles: list[tuple[float, float]] = []
    for number, kind, value, where in fields(data, at, end):
        if number == 1:
            need(number, kind, VARINT)
            count = float(value)
        elif number == 2:
            need(number, kind, FIXED64)
            total = read_double(data, where)
        elif number == 3:
            need(number, kind, BYTES)
            found = _doubles(data, where, where + value)
            quantiles.append((found.get(1, 0.0), found.get(2, 0.0)))
        elif number == 4 and kind == BYTES:
            start = _time(data, where, where + value)
    yield _series(f"{name}_count", pairs, count, timestamp, start)
    yield _series(f"{name}_sum", pairs, total, timestamp, start)
    for quantile, found_value in quantiles:
        yield _series(name, (*pairs, ("quantile", format_float(quantile))), found_value, timestamp, start)


def _histogram(
    data: bytes, at: int, end: int, name: str, pairs: Pairs, timestamp: int | None, is_native: bool
) -> Iterator[Series]:
    """The classic series; none of one that is native, too, and has no classic buckets."""
    count, total, start = 0.0, 0.0, None
    buckets: list[_Bucket] = []
    for number, kind, value, where in fields(data, at, end):
        if number == 1:
            need(number, kind, VARINT)
            count = count or float(value)
        elif number == 4:
            need(number, kind, FIXED64)
            count = read_double(data, where) or count
        elif number == 2:
            need(number, kind, FIXED64)
            total = read_double(data, where)
        elif number == 3:
            need(number, kind, BYTES)
            buckets.append(_bucket(data, where, where + value))
        elif number == 15 and kind == BYTES:
            start = _time(data, where, where + value)
    if is_native and not buckets:
        return
    yield _series(f"{name}_count", pairs, count, timestamp, start)
    yield _series(f"{name}_sum", pairs, total, timestamp, start)
    for bucket in buckets:
        bound = (*pairs, ("le", format_float(bucket.bound)))
        yield _series(f"{name}_bucket", bound, bucket.count, timestamp, start, bucket.exemplar)
    if not buckets or buckets[-1].bound != float("inf"):
        yield _series(f"{name}_bucket", (*pairs, ("le", "+Inf")), count, timestamp, start)


def _bucket(data: bytes, at: int, end: int) -> _Bucket:
    count, bound, exemplar = 0.0, 0.0, None
    for number, kind, value, where in fields(data, at, end):
        if number == 1:
            need(number, kind, VARINT)
            count = count or float(value)
        elif number == 4:
            need(number, kind, FIXED64)
            count = read_double(data, where) or count
        elif number == 2:
            need(number, kind, FIXED64)
            bound = read_double(data, where)
        elif number == 3 and kind == BYTES:
            exemplar = _exemplar(data, where, where + value)
    return _Bucket(bound, count, exemplar)


def _pair(data: bytes, at: int, end: int) -> tuple[str, str]:
    name = value = ""
    for number, kind, length, where in fields(data, at, end):
        if number == 1:
            need(number, kind, BYTES)
            name = read_text(data, where, length)
        elif number == 2:
            need(number, kind, BYTES)
            value = read_text(data, where, length)
    return name, value


def _exemplar(data: bytes, at: int, end: int) -> Exemplar:
    pairs: dict[str, str] = {}
    number_value, timestamp = 0.0, None
    for number, kind, value, where in fields(data, at, end):
        if number == 1 and kind == BYTES:
            name, text = _pair(data, where, where + value)
            pairs[name] = text
        elif number == 2:
            need(number, kind, FIXED64)
            number_value = read_double(data, where)
        elif number == 3 and kind == BYTES:
            timestamp = _time(data, where, where + value)
    return Exemplar(Labels.of(pairs), number_value, timestamp)


def _doubles(data: bytes, at: int, end: int) -> dict[int, float]:
    return {number: read_double(data, where) for number, kind, _, where in fields(data, at, end) if kind == FIXED64}


def _time(data: bytes, at: int, end: int) -> int:
    """Milliseconds of a google.protobuf.Timestamp."""
    numbers = {number: signed(value) for number, kind, value, _ in fields(data, at, end) if kind == VARINT}
    return numbers.get(1, 0) * 1000 + numbers.get(2, 0) // 1_000_000
