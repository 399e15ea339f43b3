"""Native histograms as the store keeps them: samples of log and head, row groups of blocks. FORMAT.md draws both.

Pure. A side's buckets are kept as spans; what they look like ("layout") repeats and is parsed once.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from common.errors import FormatError
from common.frames.varint import Reader, put_uvarint, put_varint
from common.histogram import CUSTOM_SCHEMA, EMPTY_SIDE, MAX_BUCKETS, FloatHistogram, ResetHint, Side
from common.histogram_grid import HEAD, Columns, Index, Kind, Spread
from common.labels import Labels
from common.tsdb.ints import get_ints, get_many, put_ints
from common.tsdb.rows import Group, encode_rows

MIN_KEPT_SCHEMA: Final = -4
MAX_KEPT_SCHEMA: Final = 8
GAP: Final = 8
"""Empty buckets beyond which a span ends."""
MATRIX_CELLS: Final = 1 << 20
_HINT: Final = 3
_INTEGERS: Final = 1 << 2
_AFTER: Final = 1 << 3
_START: Final = 1 << 4
_LATE: Final = 1 << 5
_EXACT: Final = float(1 << 53)
_DOUBLE = struct.Struct("<d")

Spans = tuple[tuple[int, int], ...]
"""First bucket index and length of each span, ascending."""


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A histogram; `after` > 0: the hint NOT_RESET is about the sample so many ms before; `start` ms, 0 unknown.

    `late`: it came after others of later times. No such hint is about it: it may stand where a deleted one stood.
    """

    histogram: FloatHistogram
    after: int = 0
    start: int = 0
    late: bool = False

    @property
    def words(self) -> int:
        """About how many 8-byte words it takes in memory."""
        histogram = self.histogram
        return 32 + len(histogram.positive.counts) + len(histogram.negative.counts) + len(histogram.custom)


@dataclass(frozen=True, slots=True, eq=False)
class _Layout:
    schema: int
    threshold: float
    custom: tuple[float, ...]
    positive: Spans
    negative: Spans
    buckets: int
    """Of positive spans."""
    numbers: int
    """Count, zero count, and buckets of both sides."""

    def histogram(self, numbers: NDArray[np.float64], total: float, hint: ResetHint) -> FloatHistogram:
        """From count, zero count and buckets; and the sum of observations."""
        middle = 2 + self.buckets
        return FloatHistogram(
            self.schema,
            float(numbers[0]),
            total,
            float(numbers[1]),
            self.threshold,
            _side(self.positive, numbers[2:middle]),
            _side(self.negative, numbers[middle:]),
            self.custom,
            hint,
        )

    @property
    def spread(self) -> Spread:
        """From the first to the last bucket of each side."""
        return Spread(_reach(self.positive), _reach(self.negative))

    def columns(
        self,
        totals: NDArray[np.float64],
        heads: NDArray[np.float64],
        buckets: NDArray[np.float64],
        hints: NDArray[np.uint8],
    ) -> Columns:
        """From sums of observations [N], counts and zero counts [N, 2], and buckets [N, numbers - 2]."""
        spread = self.spread
        if len(self.positive) < 2 and len(self.negative) < 2:
            out = np.empty((len(totals), spread.width))
            out[:, HEAD:] = buckets
        else:
            out = np.zeros((len(totals), spread.width))
            at, to = 0, HEAD
            for spans, (first, end) in ((self.positive, spread.positive), (self.negative, spread.negative)):
                for begin, length in spans:
                    out[:, to + begin - first : to + begin - first + length] = buckets[:, at : at + length]
                    at += length
                to += end - first
        out[:, 0], out[:, 1], out[:, 2] = heads[:, 0], totals, heads[:, 1]
        return Columns(Kind(self.schema, self.threshold, self.custom), spread, out, hints)


def _reach(spans: Spans) -> tuple[int, int]:
    return (spans[0][0], spans[-1][0] + spans[-1][1]) if spans else (0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Lot:
    """Histograms in columns, with their positions among `size` samples, the others of which are staleness markers.

    `after`, `start` int64 [size] and `late` bool [size] are as in Stored.
    """

    parts: Sequence[tuple[Columns, Index]]
    after: NDArray[np.int64]
    start: NDArray[np.int64]
    late: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.after)

    def stored(self) -> list[Stored | None]:
        """The samples as objects, None for a marker."""
        out: list[Stored | None] = [None] * len(self)
        for columns, where in self.parts:
            for at, histogram in zip(where.tolist(), columns.histograms(), strict=True):
                out[at] = Stored(histogram, int(self.after[at]), int(self.start[at]), bool(self.late[at]))
        return out


def _side(spans: Spans, counts: NDArray[np.float64]) -> Side:
    if not spans:
        return EMPTY_SIDE
    first = spans[0][0]
    if len(spans) == 1:
        return Side(first, counts)
    dense = np.zeros(spans[-1][0] + spans[-1][1] - first)
    at = 0
    for begin, length in spans:
        dense[begin - first : begin - first + length] = counts[at : at + length]
        at += length
    return Side(first, dense)


def _spans(side: Side) -> Spans:
    filled = np.flatnonzero(side.counts)
    if not len(filled):
        return ()
    cuts = np.flatnonzero(np.diff(filled) > GAP)
    if not len(cuts):
        return ((side.offset + int(filled[0]), int(filled[-1] - filled[0]) + 1),)
    begins = [int(filled[0]), *filled[cuts + 1].tolist()]
    ends = [*filled[cuts].tolist(), int(filled[-1])]
    return tuple((side.offset + begin, end - begin + 1) for begin, end in zip(begins, ends, strict=True))


def _put_spans(out: bytearray, spans: Spans) -> None:
    put_uvarint(out, len(spans))
    at = 0
    for begin, length in spans:
        put_varint(out, begin - at)
        put_uvarint(out, length)
        at = begin + length


def _get_spans(reader: Reader) -> Spans:
    spans: list[tuple[int, int]] = []
    at = total = 0
    for _ in range(reader.count(2)):
        begin = at + reader.varint()
        length = reader.uvarint()
        if spans and begin < at:
            raise FormatError("spans of a histogram overlap")
        at = begin + length
        spans.append((begin, length))
        total += length
    if spans and (total < len(spans) or at - spans[0][0] > MAX_BUCKETS):
        raise FormatError("spans of a histogram are not usable")
    return tuple(spans)


def _pack_layout(histogram: FloatHistogram) -> tuple[bytes, NDArray[np.float64]]:
    """The layout, and count, zero count, buckets."""
    out = bytearray()
    put_varint(out, histogram.schema)
    positive = _spans(histogram.positive)
    parts = [np.array([histogram.count, histogram.zero_count])]
    parts += _chosen(histogram.positive, positive)
    if histogram.is_custom:
        put_uvarint(out, len(histogram.custom))
        out += struct.pack(f"<{len(histogram.custom)}d", *histogram.custom)
        _put_spans(out, positive)
    else:
        out += _DOUBLE.pack(histogram.zero_threshold)
        negative = _spans(histogram.negative)
        _put_spans(out, positive)
        _put_spans(out, negative)
        parts += _chosen(histogram.negative, negative)
    return bytes(out), np.concatenate(parts)


def _chosen(side: Side, spans: Spans) -> list[NDArray[np.float64]]:
    return [side.counts[begin - side.offset : begin - side.offset + length] for begin, length in spans]


@lru_cache(maxsize=1024)
def _layout(data: bytes) -> _Layout:
    """The inverse; FormatError for anything else."""
    reader = Reader(data)
    schema = reader.varint()
    threshold, custom = 0.0, ()
    negative: Spans = ()
    if schema == CUSTOM_SCHEMA:
        count = reader.count(8)
        custom = struct.unpack(f"<{count}d", reader.take(8 * count))
        positive = _get_spans(reader)
    else:
        threshold = _DOUBLE.unpack(reader.take(8))[0]
        positive, negative = _get_spans(reader), _get_spans(reader)
    reader.end()
    buckets = sum(length for _, length in positive)
    numbers = 2 + buckets + sum(length for _, length in negative)
    return _Layout(schema, threshold, custom, positive, negative, buckets, numbers)


def encode(stored: Stored) -> bytes:
    """Bytes of a sample."""
    histogram = stored.histogram
    layout, numbers = _pack_layout(histogram)
    with np.errstate(invalid="ignore"):
        whole = bool(((np.abs(numbers) < _EXACT) & (np.rint(numbers) == numbers)).all())
    out = bytearray(
        [
            histogram.hint
            | (_INTEGERS if whole else 0)
            | (_AFTER if stored.after else 0)
            | (_START if stored.start else 0)
            | (_LATE if stored.late else 0)
        ]
    )
    if stored.after:
        put_uvarint(out, stored.after)
    if stored.start:
        put_varint(out, stored.start)
    put_uvarint(out, len(layout))
    out += layout
    out += _DOUBLE.pack(histogram.sum)
    if whole:
        put_ints(out, numbers.astype(np.int64))
    else:
        out += numbers.astype("<f8").tobytes()
    return bytes(out)


def decode(data: bytes) -> Stored:
    """The inverse; FormatError for anything else."""
    reader = Reader(data)
    flags, after, start, layout = _head(reader)
    total: float = _DOUBLE.unpack(reader.take(8))[0]
    if flags & _INTEGERS:
        numbers = get_ints(reader).astype(np.float64)
    else:
        numbers = np.frombuffer(reader.take(8 * layout.numbers), "<f8")
    reader.end()
    if len(numbers) != layout.numbers:
        raise FormatError(f"histogram with {len(numbers)} numbers instead of {layout.numbers}")
    return Stored(layout.histogram(numbers, total, ResetHint(flags & _HINT)), after, start, bool(flags & _LATE))


def decode_all(items: Sequence[bytes]) -> Lot:
    """Many samples at once, empty ones for staleness markers; FormatError for anything else."""
    groups: dict[tuple[bytes, int], list[int]] = {}
    prefix, size, mine = b"", 0, list[int]()
    for at, item in enumerate(items):
        # Samples of one series look alike up to their numbers.
        if len(item) != size or not item.startswith(prefix):
            if not item:
                continue
            reader = Reader(item)
            _head(reader)
            prefix, size = item[: reader.at], len(item)
            mine = groups.setdefault((prefix, size), [])
        mine.append(at)
    afters, starts = np.zeros(len(items), np.int64), np.zeros(len(items), np.int64)
    late = np.zeros(len(items), np.bool_)
    shapes: dict[tuple[int, bool, int], list[tuple[int, list[int], int, _Layout]]] = {}
    for (prefix, size), places in groups.items():
        flags, after, start, layout = _head(Reader(prefix))
        where = np.array(places, np.intp)
        afters[where], starts[where], late[where] = after, start, bool(flags & _LATE)
        shape = size - len(prefix), bool(flags & _INTEGERS), layout.numbers
        shapes.setdefault(shape, []).append((len(prefix), places, flags & _HINT, layout))
    parts = []
    for (size, integers, count), alike in shapes.items():
        # Many series with a few samples each would take a call or two for each series else.
        body = b"".join([items[at][skip:] for skip, places, _, _ in alike for at in places])
        if size < _DOUBLE.size:
            raise FormatError("histogram ends before its sum")
        table = np.frombuffer(body, np.uint8).reshape(-1, size)
        totals = np.ascontiguousarray(table[:, :8]).view("<f8")[:, 0]
        numbers = _numbers(table[:, 8:], integers, count)
        at = 0
        for _, places, hint, layout in alike:
            end = at + len(places)
            hints = np.full(len(places), hint, np.uint8)
            columns = layout.columns(totals[at:end], numbers[at:end, :2], numbers[at:end, 2:], hints)
            parts.append((columns, np.array(places, np.intp)))
            at = end
    return Lot(parts, afters, starts, late)


def _head(reader: Reader) -> tuple[int, int, int, _Layout]:
    """What stands before a sample's sum: flags, `after`, start and layout."""
    flags = reader.byte()
    after = reader.uvarint() if flags & _AFTER else 0
    start = reader.varint() if flags & _START else 0
    return flags, after, start, _layout(reader.take(reader.uvarint()))


def _numbers(table: NDArray[np.uint8], integers: bool, count: int) -> NDArray[np.float64]:
    """The numbers of samples that stand in rows of bytes: [N, count]."""
    if not integers:
        if table.shape[1] != 8 * count:
            raise FormatError(f"histograms with {table.shape[1]} bytes for {count} numbers")
        return np.ascontiguousarray(table).view("<f8")
    reader = Reader(table[0].tobytes())
    found, width = reader.uvarint(), reader.byte()
    begin = reader.at
    whole = found == count and table.shape[1] == begin + count * width and width in (1, 2, 4, 8)
    if not whole or (table[:, :begin] != table[0, :begin]).any():
        raise FormatError(f"histograms with {found} numbers instead of {count}")
    return get_many(table[:, begin:], count).astype(np.float64)


def encode_group(rows: Sequence[Sequence[Stored | None]]) -> bytes:
    """A row group: histograms of each row in order of time, None for a staleness marker."""
    bodies = [_encode_row(row) for row in rows]
    out = bytearray()
    put_uvarint(out, len(bodies))
    put_ints(out, np.array([len(body) for body in bodies], np.int64))
    return bytes(out) + b"".join(bodies)


def _encode_row(row: Sequence[Stored | None]) -> bytes:
    numbers: dict[bytes, int] = {}
    columns: list[list[NDArray[np.float64]]] = []
    layout_of: list[int] = []
    flags: list[int] = []
    for each in row:
        if each is None:
            layout_of.append(0)
            flags.append(0)
            continue
        layout, values = _pack_layout(each.histogram)
        number = numbers.setdefault(layout, len(numbers))
        if number == len(columns):
            columns.append([])
        columns[number].append(np.concatenate((values[:2], [each.histogram.sum], values[2:])))
        layout_of.append(number + 1)
        flags.append(each.histogram.hint | (_AFTER if each.after else 0) | (_LATE if each.late else 0))
    out = bytearray()
    for numbers_of_slots in (
        layout_of,
        flags,
        [0 if each is None else each.after for each in row],
        [0 if each is None else each.start for each in row],
    ):
        put_ints(out, np.array(numbers_of_slots, np.int64))
    put_uvarint(out, len(numbers))
    for layout, found in zip(numbers, columns, strict=True):
        put_uvarint(out, len(layout))
        out += layout
        step = max(1, MATRIX_CELLS // len(found[0]))
        put_uvarint(out, -(-len(found) // step))
        for at in range(0, len(found), step):
            body = encode_rows(np.stack(found[at : at + step], axis=1))
            put_uvarint(out, len(body))
            out += body
    return bytes(out)


class HistogramGroup:
    """A row group, opened: rows can be decoded one by one."""

    def __init__(self, body: bytes) -> None:
        """Open what `encode_group` wrote; FormatError if the lengths don't add up."""
        reader = Reader(body)
        rows = reader.uvarint()
        lengths = get_ints(reader)
        self._ends = reader.at + np.cumsum(lengths)
        if len(lengths) != rows or (lengths < 0).any() or (rows and int(self._ends[-1]) != len(body)):
            raise FormatError(f"group of {rows} rows of histograms in {len(body)} bytes")
        self._starts = self._ends - lengths
        self._body = body
        self.rows = rows
        self._opened: dict[int, _Row] = {}

    @property
    def size(self) -> int:
        """Bytes held, at most: rows that were read take about as much again."""
        return 2 * len(self._body) + 16 * self.rows

    def decode(self, row: int) -> list[Stored | None]:
        """The samples of a row; FormatError if they are damaged."""
        return self.lot(row).stored()

    def lot(self, row: int, low: int = 0, high: int | None = None) -> Lot:
        """The same in columns, of the slots from `low` to `high` (exclusive)."""
        opened = self._opened.get(row)
        if opened is None:
            opened = self._opened[row] = self._open(row)
        parts = []
        for layout, slots, hints, groups in opened.parts:
            first, last = np.searchsorted(slots, (low, len(opened.after) if high is None else high)).tolist()
            if first == last:
                continue
            if len(groups) == 1:
                values = groups[0].decode(None, first, last)
            else:
                values = np.concatenate([group.decode() for group in groups], axis=1)[:, first:last]
            columns = layout.columns(values[2], values[:2].T, values[3:].T, hints[first:last])
            parts.append((columns, slots[first:last] - low))
        return Lot(parts, opened.after[low:high], opened.start[low:high], opened.late[low:high])

    def _open(self, row: int) -> "_Row":
        reader = Reader(self._body[int(self._starts[row]) : int(self._ends[row])])
        layout_of, flags, after, start = (get_ints(reader) for _ in range(4))
        parts = []
        if not len(layout_of) == len(flags) == len(after) == len(start):
            raise FormatError("a row of histograms whose lists differ in length")
        for number in range(1, 1 + reader.uvarint()):
            layout = _layout(reader.take(reader.uvarint()))
            slots = np.flatnonzero(layout_of == number)
            groups = [Group(reader.take(reader.uvarint())) for _ in range(reader.uvarint())]
            width = sum(group.slots for group in groups)
            if width != len(slots) or any(group.rows != layout.numbers + 1 for group in groups):
                raise FormatError("a row of histograms whose matrices don't fit")
            if len(slots):
                parts.append((layout, slots, (flags[slots] & _HINT).astype(np.uint8), groups))
        reader.end()
        return _Row(parts, after, start, (flags & _LATE) != 0)


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """A row, opened: each layout with its slots, their hints and their numbers; the rest is as in Lot."""

    parts: Sequence[tuple[_Layout, Index, NDArray[np.uint8], Sequence[Group]]]
    after: NDArray[np.int64]
    start: NDArray[np.int64]
    late: NDArray[np.bool_]


def check_histogram(histogram: FloatHistogram, labels: Labels, most: int) -> None:
    """FormatError unless the store can keep it: a known schema, and at most `most` buckets on each side."""
    if not (MIN_KEPT_SCHEMA <= histogram.schema <= MAX_KEPT_SCHEMA or histogram.is_custom):
        raise FormatError(f"histogram of {labels} has the unknown schema {histogram.schema}")
    for side in (histogram.positive, histogram.negative):
        if abs(side.offset) >= 1 << 31:
            raise FormatError(f"histogram of {labels} has a bucket {side.offset}, which has no bounds")
        if len(side.counts) > most:
            raise FormatError(
                f"histogram of {labels} spans {len(side.counts)} buckets; at most {most} are taken "
                "(limit max_histogram_buckets)"
            )
    if len(histogram.custom) > most:
        raise FormatError(
            f"histogram of {labels} has {len(histogram.custom)} custom bounds; at most {most} are taken "
            "(limit max_histogram_buckets)"
        )
