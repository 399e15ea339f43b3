"""Decodes remote write requests, 1.0 and 2.0, into columns of samples.

Formats: prompb/remote.proto and prompb/io/prometheus/write/v2/types.proto of Prometheus. A request is decoded as a
whole before anything of it is used: bytes that are broken anywhere give a WireError and nothing else.
"""

import operator
import struct
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from common.errors import FormatError
from common.histogram import FloatHistogram, ResetHint
from common.histogram_spans import from_spans
from common.labels import NAME, Labels
from common.sample import MetricMeta, MetricType, Millis, is_stale
from common.wire import (
    BYTES,
    FIXED64,
    VARINT,
    WireError,
    fields,
    need,
    packed_doubles,
    packed_varints,
    read_double,
    read_text,
    read_varint,
    signed,
    zigzag,
)

MAX_BUCKETS = 1 << 22
"""Buckets of all native histograms of a request."""
MAX_CACHED_SERIES = 100_000
"""Label sets that a Decoder remembers by a digest of their bytes; those not asked for lately go first."""
MAX_PAIRS = 1 << 16
"""Labels that it remembers by their bytes; beyond, as where each series has one of its own, it starts over."""

# Samples are taken in runs of equal layout, at most _MAX_RUN looked at together so that time stays linear whatever
# comes; a run shorter than _MIN_RUN isn't worth it, and _SINGLES samples are then taken one by one before the next try.
_MIN_RUN = 32
_MIN_RUN_BYTES = 16 * _MIN_RUN
_MAX_RUN = 2048
_SINGLES = 64
_USUAL = 18
"""Bytes of a usual sample of our days, with tag and length."""
_DOUBLE = struct.Struct("<d")
_TYPES = (
    MetricType.UNKNOWN,
    MetricType.COUNTER,
    MetricType.GAUGE,
    MetricType.HISTOGRAM,
    MetricType.GAUGE_HISTOGRAM,
    MetricType.SUMMARY,
    MetricType.INFO,
    MetricType.STATESET,
)


def _key(encoded: bytes) -> bytes:
    """By what a label set is remembered: two sets of one key would be one series unnoticed, so it is no short hash."""
    return blake2b(encoded, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class HistogramSample:
    """A native histogram with float counts (integer ones are converted); spans are (offset, length) pairs.

    `timestamp` and `start` (0 for none) are ms, so is `created`, the start that the series tells (2.0). Counts are per
    bucket, not cumulative; `integer` says how they came.
    """

    timestamp: Millis
    count: float
    sum: float
    schema: int
    zero_threshold: float
    zero_count: float
    positive_spans: tuple[tuple[int, int], ...]
    positive_counts: tuple[float, ...]
    negative_spans: tuple[tuple[int, int], ...]
    negative_counts: tuple[float, ...]
    custom_values: tuple[float, ...]
    reset_hint: ResetHint
    integer: bool = False
    start: Millis = Millis(0)
    created: Millis = Millis(0)

    def histogram(self) -> FloatHistogram | None:
        """The histogram, None for a staleness marker; FormatError says what is wrong with it."""
        if is_stale(self.sum):
            return None
        return from_spans(
            schema=self.schema,
            count=self.count,
            total=self.sum,
            zero_threshold=self.zero_threshold,
            zero_count=self.zero_count,
            positive=(self.positive_spans, self.positive_counts),
            negative=(self.negative_spans, self.negative_counts),
            custom=self.custom_values,
            hint=self.reset_hint,
            integer=self.integer,
        )


@dataclass(frozen=True, slots=True)
class Exemplar:
    """An example of what a sample counts; timestamp in ms."""

    labels: Labels
    value: float
    timestamp: Millis


@dataclass(frozen=True, slots=True, eq=False)
class WriteRequest:
    """Samples by series: series s has the samples `bounds[s]:bounds[s + 1]` of `timestamps` (ms) and `values`.

    `starts` are start timestamps in ms, 0 for none; None if no sample has one. `histograms` and `exemplars` are by
    index of the series. A series occurs as often as the request has it. `refused` are messages about series that
    were left out because their labels are not valid.
    """

    series: list[Labels]
    bounds: NDArray[np.int64]
    timestamps: NDArray[np.int64]
    values: NDArray[np.float64]
    starts: NDArray[np.int64] | None = None
    histograms: dict[int, list[HistogramSample]] = field(default_factory=dict)
    exemplars: dict[int, list[Exemplar]] = field(default_factory=dict)
    metadata: list[MetricMeta] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


class Decoder:
    """Decodes the requests of one or more senders; remembers label sets, since senders repeat them. Not thread-safe."""

    def __init__(self, max_series: int = MAX_CACHED_SERIES, check: Callable[[Labels], str] = lambda labels: "") -> None:
        """`check` says what else is wrong with a label set: it is asked when one is met that is not remembered."""
        # Two generations: what is asked for moves to the young one, and once that is full the old one goes.
        self._labels: dict[bytes, Labels | str] = {}
        self._old: dict[bytes, Labels | str] = {}
        self._pairs: dict[bytes, tuple[str, str]] = {}
        """Labels by their bytes: a fleet's series have most of them in common."""
        self._max = max_series
        self._check = check

    def _remembered(self, key: bytes) -> "Labels | str | None":
        known = self._labels.get(key)
        if known is None:
            known = self._old.get(key)
            if known is not None:
                self._remember(key, known)
        return known

    def _remember(self, key: bytes, known: "Labels | str") -> None:
        self._labels[key] = known
        if len(self._labels) * 2 >= self._max:
            self._old, self._labels, self._pairs = self._labels, {}, {}

    def _known(self, data: bytes, start: int, at: int) -> "Labels | str":
        """The label set in data[start:at], or what is wrong with it."""
        key = _key(data[start:at])
        known = self._remembered(key)
        if known is None:
            known = self._checked(_valid_labels(self._read_pairs(data, start, at)))
            self._remember(key, known)
        return known

    def _met(self, data: bytes, at: int, end: int, key: bytes) -> "Labels | str | None":
        """The label set in data[at:end], or what is wrong with it; None if something else or no whole label is there.

        WireError, as whoever reads the labels one after the other finds it.
        """
        pairs: list[tuple[str, str]] = []
        get = self._pairs.get
        while at < end and data[at] == 0x0A and data[at + 1] < 0x80:
            body = at + 2
            at = body + data[at + 1]
            if at > end:
                return None
            encoded = data[body:at]
            pair = get(encoded)
            if pair is None:
                pair = self._pairs[encoded] = _label(data, body, at)
            pairs.append(pair)
        if at < end:
            return None
        known = self._checked(_valid_labels(pairs))
        self._remember(key, known)
        if len(self._pairs) > MAX_PAIRS:
            self._pairs = {}
        return known

    def _checked(self, labels: "Labels | str") -> "Labels | str":
        return labels if isinstance(labels, str) else self._check(labels) or labels

    def _read_pairs(self, data: bytes, at: int, end: int) -> list[tuple[str, str]]:
        """Labels in data[at:end], where nothing but labels stands."""
        if len(self._pairs) > MAX_PAIRS:
            self._pairs = {}
        pairs: list[tuple[str, str]] = []
        get = self._pairs.get
        while at < end:
            length, body = data[at + 1], at + 2
            if length >= 0x80:
                length, body = read_varint(data, at + 1, end)
            at = body + length
            encoded = data[body:at]
            pair = get(encoded)
            if pair is None:
                pair = self._pairs[encoded] = _label(data, body, at)
            pairs.append(pair)
        return pairs

    def decode_v1(self, data: bytes) -> WriteRequest:
        """A `prometheus.WriteRequest`."""
        build = _Build()
        start = self._lead_v1(data, build)
        for number, kind, length, at in fields(data, start, len(data)):
            if number == 1:
                need(number, kind, BYTES)
                self._series_v1(data, at, at + length, build)
            elif number == 3:
                need(number, kind, BYTES)
                build.metadata.append(_metadata_v1(data, at, at + length))
        return build.finish()

    def decode_v2(self, data: bytes) -> WriteRequest:
        """An `io.prometheus.write.v2.Request`."""
        build = _Build()
        symbols: list[str] = []
        series: list[tuple[int, int]] = []
        for number, kind, length, at in fields(data, 0, len(data)):
            if number == 4:
                need(number, kind, BYTES)
                symbols.append(read_text(data, at, length))
            elif number == 5:
                need(number, kind, BYTES)
                series.append((at, at + length))
        if symbols and symbols[0]:
            raise WireError("the first symbol of a request must be the empty string")
        seen: dict[bytes, Labels | str] = {}
        known: dict[MetricMeta, None] = {}
        for at, end in series:
            _series_v2(data, at, end, symbols, seen, known, build, self._checked)
        build.metadata.extend(known)
        return build.finish()

    def _lead_v1(self, data: bytes, build: "_Build") -> int:
        """Decode the series that the request begins with, and give where something else is."""
        at, end = 0, len(data)
        singles, again = 0, 1
        while end - at >= 4 and data[at] == 0x0A:
            if not singles:
                quick = self._usual(data, at, build)
                # Where it finds nothing, it is asked ever less often.
                again = 1 if quick > at else min(2 * again, _SINGLES)
                singles = again
                if quick > at:
                    at = quick
                    continue
            singles -= 1
            length = data[at + 1]
            body = at + 2
            if length >= 0x80:
                if data[body] >= 0x80:
                    return at
                length = length & 0x7F | data[body] << 7
                body += 1
            if body + length > end:
                return at
            self._series_v1(data, body, body + length, build)
            at = body + length
        return at

    def _usual(self, data: bytes, at: int, build: "_Build") -> int:
        """Take series with one usual sample each; gives where the first other one begins.

        A usual sample is the last of its series' bytes: 12 10 09 <double> 10 <varint of six bytes>. That a label set is
        remembered shows that labels and nothing else stand before it.
        """
        size, begin = len(data), at
        labels: list[Labels] = []
        ends: list[int] = []
        young = self._labels.get
        while size - at > 3 + _USUAL and data[at] == 0x0A:
            length, body = data[at + 1], at + 2
            if length >= 0x80:
                if data[body] >= 0x80:
                    break
                length = length & 0x7F | data[body] << 7
                body += 1
            end = body + length
            if end > size or length < _USUAL:
                break
            key = _key(data[body : end - _USUAL])
            known = young(key)
            if known is None:
                known = self._remembered(key)
                if known is None and data[end - _USUAL] == 0x12:
                    known = self._met(data, body, end - _USUAL, key)
                young = self._labels.get
            if known is None or isinstance(known, str):
                break
            labels.append(known)
            ends.append(end)
            at = end
        if not labels:
            return begin
        places = np.array(ends, np.intp)[:, None] + np.arange(-_USUAL, 0)
        tails = np.frombuffer(data, np.uint8)[places]
        fits = (tails[:, :3] == (0x12, 0x10, 0x09)).all(axis=1) & (tails[:, 11] == 0x10)
        fits &= (tails[:, 12:17] >= 0x80).all(axis=1) & (tails[:, 17] < 0x80)
        if not fits.all():
            count = int(fits.argmin())
            if not count:
                return begin
            labels, tails, at = labels[:count], tails[:count], ends[count - 1]
        digits = (tails[:, 12:] & 0x7F).astype(np.int64) << np.arange(0, 42, 7)
        first = len(build.timestamps) + 1
        build.values.frombytes(tails[:, 3:11].tobytes())
        build.timestamps.frombytes(digits.sum(axis=1).tobytes())
        build.series += labels
        build.bounds.extend(range(first, first + len(labels)))
        return at

    def _series_v1(self, data: bytes, start: int, end: int, build: "_Build") -> None:
        # Every known writer puts the labels first; what stands there is the key of the label set.
        at = start
        while at < end and data[at] == 0x0A:
            if at + 1 < end and data[at + 1] < 0x80:
                at += 2 + data[at + 1]
            else:
                length, at = read_varint(data, at + 1, end)
                at += length
        if at > end:
            raise WireError(f"label at byte {start} is longer than its series")
        labels_end = at
        known = self._known(data, start, at)
        histograms: list[HistogramSample] = []
        exemplars: list[Exemplar] = []
        late: list[tuple[str, str]] = []
        mark = len(build.timestamps)
        while at < end:
            at = _bulk_samples(data, at, end, build)
            singles = 0
            while at < end and data[at] == 0x12 and end - at > 1 and data[at + 1] < 0x80 and singles < _SINGLES:
                stop = at + 2 + data[at + 1]
                if stop > end:
                    raise WireError(f"sample at byte {at} is longer than its series")
                _sample(data, at + 2, stop, build)
                at = stop
                singles += 1
            if at == end:
                break
            if singles == _SINGLES:
                continue
            for number, kind, length, where in fields(data, at, end):
                if number == 2:
                    need(number, kind, BYTES)
                    _sample(data, where, where + length, build)
                elif number == 1:
                    need(number, kind, BYTES)
                    late.append(_label(data, where, where + length))
                elif number == 3:
                    need(number, kind, BYTES)
                    exemplars.append(_exemplar_v1(data, where, where + length))
                elif number == 4:
                    need(number, kind, BYTES)
                    histograms.append(_histogram(data, where, where + length))
            break
        if late:
            known = self._checked(_valid_labels([*self._read_pairs(data, start, labels_end), *late]))
        build.add(known, mark, histograms, exemplars)


class _Build:
    """A request in the making."""

    def __init__(self) -> None:
        self.series: list[Labels] = []
        self.bounds = array("q", (0,))
        self.timestamps = array("q")
        self.values = array("d")
        self.starts: dict[int, int] = {}
        self.histograms: dict[int, list[HistogramSample]] = {}
        self.buckets = 0
        self.exemplars: dict[int, list[Exemplar]] = {}
        self.metadata: list[MetricMeta] = []
        self.refused: list[str] = []

    def add(
        self, labels: Labels | str, mark: int, histograms: list[HistogramSample], exemplars: list[Exemplar]
    ) -> None:
        """Close a series whose samples begin at `mark`; a text instead of labels says what is wrong with them."""
        if isinstance(labels, str):
            self.refused.append(labels)
            del self.timestamps[mark:], self.values[mark:]
            for index in [index for index in self.starts if index >= mark]:
                del self.starts[index]
            return
        if histograms:
            self.histograms[len(self.series)] = histograms
            self.buckets += sum(len(each.positive_counts) + len(each.negative_counts) for each in histograms)
            if self.buckets > MAX_BUCKETS:
                raise _too_many()
        if exemplars:
            self.exemplars[len(self.series)] = exemplars
        self.series.append(labels)
        self.bounds.append(len(self.timestamps))

    def finish(self) -> WriteRequest:
        """The request."""
        starts = None
        if self.starts:
            starts = np.zeros(len(self.timestamps), np.int64)
            starts[list(self.starts)] = list(self.starts.values())
        return WriteRequest(
            self.series,
            np.frombuffer(self.bounds, np.int64),
            np.frombuffer(self.timestamps, np.int64) if self.timestamps else np.zeros(0, np.int64),
            np.frombuffer(self.values, np.float64) if self.values else np.zeros(0),
            starts,
            self.histograms,
            self.exemplars,
            self.metadata,
            self.refused,
        )


def _bulk_samples(data: bytes, at: int, end: int, build: _Build) -> int:
    """Take runs of equally long samples at once; gives where the first other byte is.

    A usual sample is 12 L 09 <double> 10 <varint>; a value of 0 is left out: 12 L 10 <varint>.
    """
    while end - at >= _MIN_RUN_BYTES and data[at] == 0x12:
        width = data[at + 1] + 2
        lead = 12 if data[at + 2] == 0x09 else 3
        if not 1 <= width - lead <= 9:
            break
        count = min((end - at) // width, _MAX_RUN)
        table = np.frombuffer(data, np.uint8, count * width, at).reshape(count, width)
        fits = (table[:, 0] == 0x12) & (table[:, 1] == width - 2) & (table[:, lead - 1] == 0x10)
        if lead == 12:
            fits &= table[:, 2] == 0x09
        fits &= (table[:, lead : width - 1] >= 0x80).all(axis=1) & (table[:, width - 1] < 0x80)
        run = count if fits.all() else int(fits.argmin())
        if run < _MIN_RUN:
            break
        table = table[:run]
        build.values.frombytes(table[:, 3:11].tobytes() if lead == 12 else bytes(8 * run))
        timestamps = np.zeros(run, np.int64)
        for digit in range(width - lead):
            timestamps |= (table[:, lead + digit].astype(np.int64) & 0x7F) << (7 * digit)
        build.timestamps.frombytes(timestamps.tobytes())
        at += run * width
    return at


def _sample(data: bytes, at: int, end: int, build: _Build) -> None:
    if end - at == 16 and data[at] == 0x09 and data[at + 9] == 0x10:
        # A value and a timestamp of our days, whose varint has six bytes.
        a, b, c, d, e, f = data[at + 10 : end]
        if f < 0x80 <= a & b & c & d & e:
            build.values.append(_DOUBLE.unpack_from(data, at + 1)[0])
            build.timestamps.append(
                a & 0x7F | (b & 0x7F) << 7 | (c & 0x7F) << 14 | (d & 0x7F) << 21 | (e & 0x7F) << 28 | f << 35
            )
            return
    value, timestamp, start = 0.0, 0, 0
    for number, kind, varint, where in fields(data, at, end):
        if number == 1:
            need(number, kind, FIXED64)
            value = read_double(data, where)
        elif number == 2:
            need(number, kind, VARINT)
            timestamp = signed(varint)
        elif number == 3:
            need(number, kind, VARINT)
            start = signed(varint)
    if start:
        build.starts[len(build.timestamps)] = start
    build.values.append(value)
    build.timestamps.append(timestamp)


def _label(data: bytes, at: int, end: int) -> tuple[str, str]:
    # The usual form, fast: 0A n NAME 12 m VALUE with one-byte lengths.
    if end - at >= 4 and data[at] == 0x0A:
        second = at + 2 + data[at + 1]
        short = second + 2 <= end and data[at + 1] < 0x80 and data[second] == 0x12 and data[second + 1] < 0x80
        if short and second + 2 + data[second + 1] == end:
            try:
                return data[at + 2 : second].decode(), data[second + 2 : end].decode()
            except UnicodeDecodeError:
                raise WireError(f"label at byte {at} is not UTF-8") from None
    name = value = ""
    for number, kind, length, where in fields(data, at, end):
        if number == 1:
            need(number, kind, BYTES)
            name = read_text(data, where, length)
        elif number == 2:
            need(number, kind, BYTES)
            value = read_text(data, where, length)
    return name, value


def _valid_labels(pairs: list[tuple[str, str]]) -> Labels | str:
    """The label set, or what is wrong with it."""
    names = [name for name, _ in pairs]
    if (
        NAME in names
        and names[0]
        and all(map(operator.lt, names, names[1:]))
        and "" not in [value for _, value in pairs]
    ):
        return Labels.from_sorted(tuple(pairs))
    try:
        labels = Labels(pairs)
    except FormatError as err:
        return f"invalid labels {dict(pairs)}: {err}"
    if not labels.name:
        return f"invalid labels {labels}: no metric name"
    if not labels.pairs[0][0]:
        return f"invalid labels {labels}: empty label name"
    return labels


def _exemplar_v1(data: bytes, at: int, end: int) -> Exemplar:
    pairs: list[tuple[str, str]] = []
    value, timestamp = 0.0, 0
    for number, kind, varint, where in fields(data, at, end):
        if number == 1:
            need(number, kind, BYTES)
            pairs.append(_label(data, where, where + varint))
        elif number == 2:
            need(number, kind, FIXED64)
            value = read_double(data, where)
        elif number == 3:
            need(number, kind, VARINT)
            timestamp = signed(varint)
    return _exemplar(pairs, value, timestamp)


def _exemplar(pairs: list[tuple[str, str]], value: float, timestamp: int) -> Exemplar:
    # Of a label that occurs twice the last holds: an exemplar is never worth a request.
    return Exemplar(Labels.of(dict(pairs)), value, Millis(timestamp))


def _metadata_v1(data: bytes, at: int, end: int) -> MetricMeta:
    kind_of, name, text, unit = 0, "", "", ""
    for number, kind, length, where in fields(data, at, end):
        if number == 1:
            need(number, kind, VARINT)
            kind_of = length
        elif number == 2:
            need(number, kind, BYTES)
            name = read_text(data, where, length)
        elif number == 4:
            need(number, kind, BYTES)
            text = read_text(data, where, length)
        elif number == 5:
            need(number, kind, BYTES)
            unit = read_text(data, where, length)
    return MetricMeta(name, _metric_type(kind_of), text, unit)


def _metric_type(number: int) -> MetricType:
    return _TYPES[number] if number < len(_TYPES) else MetricType.UNKNOWN


def _series_v2(
    data: bytes,
    start: int,
    end: int,
    symbols: list[str],
    seen: dict[bytes, Labels | str],
    metadata: dict[MetricMeta, None],
    build: _Build,
    checked: Callable[[Labels | str], Labels | str],
) -> None:
    refs = b""
    histograms: list[HistogramSample] = []
    exemplars: list[Exemplar] = []
    meta: MetricMeta | None = None
    created = 0
    mark = len(build.timestamps)
    for number, kind, length, at in fields(data, start, end):
        if number == 1:
            # The specification has them packed; one by one is the other way of encoding them.
            refs += data[at : at + length] if kind == BYTES else _encoded_ref(number, kind, length)
        elif number == 2:
            need(number, kind, BYTES)
            _sample(data, at, at + length, build)
        elif number == 3:
            need(number, kind, BYTES)
            histograms.append(_histogram(data, at, at + length))
        elif number == 4:
            need(number, kind, BYTES)
            exemplars.append(_exemplar_v2(data, at, at + length, symbols))
        elif number == 5:
            need(number, kind, BYTES)
            meta = _metadata_v2(data, at, at + length, symbols)
        elif number == 6:
            need(number, kind, VARINT)
            created = signed(length)
    labels = seen.get(refs)
    if labels is None:
        labels = seen[refs] = checked(_valid_labels(_resolve(packed_varints(refs, 0, len(refs)), symbols)))
    if created:
        for index in range(mark, len(build.timestamps)):
            build.starts.setdefault(index, created)
        histograms = [replace(each, created=Millis(created)) for each in histograms]
    build.add(labels, mark, histograms, exemplars)
    if meta is not None and isinstance(labels, Labels) and (meta.type is not MetricType.UNKNOWN or meta.help):
        metadata[MetricMeta(_family(labels.get(NAME), meta.type), meta.type, meta.help, meta.unit)] = None


def _encoded_ref(number: int, kind: int, value: int) -> bytes:
    need(number, kind, VARINT)
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _family(name: str, kind: MetricType) -> str:
    if kind in (MetricType.HISTOGRAM, MetricType.SUMMARY, MetricType.GAUGE_HISTOGRAM):
        for suffix in ("_bucket", "_count", "_sum"):
            if name.endswith(suffix):
                return name.removesuffix(suffix)
    return name


def _symbol(symbols: list[str], ref: int) -> str:
    if ref >= len(symbols):
        raise WireError(f"reference {ref} to one of {len(symbols)} symbols")
    return symbols[ref]


def _resolve(refs: list[int], symbols: list[str]) -> list[tuple[str, str]]:
    if len(refs) % 2:
        raise WireError("odd number of label references")
    names = [_symbol(symbols, ref) for ref in refs]
    return list(zip(names[::2], names[1::2], strict=True))


def _exemplar_v2(data: bytes, at: int, end: int, symbols: list[str]) -> Exemplar:
    refs: list[int] = []
    value, timestamp = 0.0, 0
    for number, kind, varint, where in fields(data, at, end):
        if number == 1:
            refs += packed_varints(data, where, varint) if kind == BYTES else [varint]
        elif number == 2:
            need(number, kind, FIXED64)
            value = read_double(data, where)
        elif number == 3:
            need(number, kind, VARINT)
            timestamp = signed(varint)
    return _exemplar(_resolve(refs, symbols), value, timestamp)


def _metadata_v2(data: bytes, at: int, end: int, symbols: list[str]) -> MetricMeta:
    numbers = {number: value for number, kind, value, _ in fields(data, at, end) if kind == VARINT}
    return MetricMeta(
        "",
        _metric_type(numbers.get(1, 0)),
        _symbol(symbols, numbers.get(3, 0)) if symbols else "",
        _symbol(symbols, numbers.get(4, 0)) if symbols else "",
    )


def _histogram(data: bytes, at: int, end: int) -> HistogramSample:
    integers: dict[int, int] = {}
    floats: dict[int, float] = {}
    spans: dict[int, list[tuple[int, int]]] = {8: [], 11: []}
    deltas: dict[int, list[int]] = {9: [], 12: []}
    counts: dict[int, list[float]] = {10: [], 13: [], 16: []}
    for number, kind, value, where in fields(data, at, end):
        if number in spans:
            need(number, kind, BYTES)
            spans[number].append(_span(data, where, where + value))
        elif kind == BYTES and value > (3 if number in deltas else 8) * MAX_BUCKETS:
            raise _too_many()
        elif number in deltas:
            if kind != BYTES:
                need(number, kind, VARINT)
            deltas[number] += packed_varints(data, where, value) if kind == BYTES else [value]
        elif number in counts:
            if kind != BYTES:
                need(number, kind, FIXED64)
            counts[number] += packed_doubles(data, where, value) if kind == BYTES else (read_double(data, where),)
        elif kind == VARINT:
            integers[number] = value
        elif kind == FIXED64:
            floats[number] = read_double(data, where)
    hint = integers.get(14, 0)
    return HistogramSample(
        timestamp=Millis(signed(integers.get(15, 0))),
        count=float(integers[1]) if 1 in integers else floats.get(2, 0.0),
        sum=floats.get(3, 0.0),
        schema=zigzag(integers.get(4, 0)),
        zero_threshold=floats.get(5, 0.0),
        zero_count=float(integers[6]) if 6 in integers else floats.get(7, 0.0),
        positive_spans=tuple(spans[11]),
        positive_counts=_counts(deltas[12], counts[13]),
        negative_spans=tuple(spans[8]),
        negative_counts=_counts(deltas[9], counts[10]),
        custom_values=tuple(counts[16]),
        reset_hint=ResetHint(hint) if hint <= 3 else ResetHint.UNKNOWN,
        integer=1 in integers or bool(deltas[12] or deltas[9]),
        start=Millis(signed(integers.get(17, 0))),
    )


def _too_many() -> WireError:
    return WireError(f"native histograms with more than {MAX_BUCKETS} buckets in one request: send fewer at a time")


def _span(data: bytes, at: int, end: int) -> tuple[int, int]:
    numbers = {number: value for number, kind, value, _ in fields(data, at, end) if kind == VARINT}
    return zigzag(numbers.get(1, 0)), numbers.get(2, 0)


def _counts(deltas: list[int], counts: list[float]) -> tuple[float, ...]:
    if not deltas:
        return tuple(counts)
    found, total = [], 0
    for delta in deltas:
        total += zigzag(delta)
        found.append(float(total))
    return tuple(found)
