"""Blocks: immutable files of samples, metric-major: their parts, and reading them. FORMAT.md draws the bytes."""

import itertools
import os
import struct
import weakref
import zlib
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from common.errors import FormatError
from common.frames.schema import SubSchema, decode_subschema
from common.frames.varint import Reader, put_text, put_uvarint
from common.labels import Labels, Matcher
from common.sample import MetricMeta
from common.tsdb.cache import DecodeCache
from common.tsdb.index import Interner, LabelCache, Name, RowIndex, Target
from common.tsdb.ints import get_ints, put_ints
from common.tsdb.join import Lines, Piece
from common.tsdb.kinds import Pool
from common.tsdb.native import HistogramGroup
from common.tsdb.querier import ValueKind
from common.tsdb.rows import Group
from common.tsdb.timelines import decode_timelines

MAGIC: Final = b"BRk\xb1"
VERSION: Final = 1
HEADER: Final = struct.Struct("<4sB3xQ")
FOOTER: Final = struct.Struct("<QQqqQQQQQI4s")
LINES_PER_PART: Final = 256
MAX_PART_BYTES: Final = 1 << 28
BEFORE_HEAD: Final = -(1 << 62)

_serials = itertools.count()


@dataclass(frozen=True, slots=True)
class Footer:
    """What stands at a block's end; see FORMAT.md."""

    index_offset: int
    index_length: int
    min: int
    max: int
    samples: int
    series: int
    rank: int
    log: int


@dataclass(slots=True, eq=False)
class MetricEntry:
    """One metric of a block, or a share of one: its series (row, target), and its groups with their series and lines.

    `cells` bounds its samples (of histograms: the words they take in memory).
    Arrays `offset`, `length`, `first`, `last` are per group; group g has the entries
    start[g]:start[g+1] of `series` (indexes of `row` and `target`) and `line` (indexes of the block's timelines).
    """

    schema: SubSchema
    row: NDArray[np.int64]
    target: NDArray[np.int64]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    start: NDArray[np.int64]
    series: NDArray[np.int64]
    line: NDArray[np.int64]
    cells: int
    kind: ValueKind = ValueKind.FLOAT


@dataclass(slots=True, eq=False)
class BlockIndex:
    """Everything of a block but samples and timestamps."""

    targets: list[Labels]
    metrics: list[MetricEntry]
    line_first: NDArray[np.int64]
    line_last: NDArray[np.int64]
    part_offset: NDArray[np.int64]
    part_length: NDArray[np.int64]


def encode_index(index: BlockIndex) -> bytes:
    """Bytes of an index."""
    out = bytearray()
    put_uvarint(out, len(index.targets))
    for labels in index.targets:
        put_uvarint(out, len(labels))
        for pair in labels:
            for text in pair:
                put_text(out, text)
    put_uvarint(out, len(index.metrics))
    for metric in index.metrics:
        put_uvarint(out, len(metric.schema.encoded))
        out += metric.schema.encoded
        put_uvarint(out, metric.kind)
        for array in (metric.row, metric.target, metric.offset, metric.length, metric.first, metric.last):
            put_ints(out, array)
        for array in (metric.start, metric.series, metric.line):
            put_ints(out, array)
        put_uvarint(out, metric.cells)
    for array in (index.line_first, index.line_last, index.part_offset, index.part_length):
        put_ints(out, array)
    return bytes(out)


def decode_index(body: bytes) -> BlockIndex:
    """The inverse; FormatError for anything else."""
    reader = Reader(body)
    targets = [Labels([(reader.text(), reader.text()) for _ in range(reader.count(2))]) for _ in range(reader.count())]
    metrics = []
    for _ in range(reader.count()):
        schema = decode_subschema(reader.take(reader.uvarint()))
        kind = reader.uvarint()
        if kind not in list(ValueKind):
            raise FormatError(f"index of metric {schema.name!r} names the unknown kind of values {kind}")
        row, target, offset, length, first, last, start, series, line = (get_ints(reader) for _ in range(9))
        cells = reader.uvarint()
        places = row, target, offset, length, first, last, start, series, line
        metrics.append(MetricEntry(schema, *places, cells, ValueKind(kind)))
    lines = [get_ints(reader) for _ in range(4)]
    reader.end()
    for m in metrics:
        if (
            len(m.row) != len(m.target)
            or len({len(m.offset), len(m.length), len(m.first), len(m.last), len(m.start) - 1}) != 1
            or len(m.series) != len(m.line)
            or m.start[-1] != len(m.series)
            or not _within(m.row, len(m.schema.rows))
            or not _within(m.target, len(targets))
            or not _within(m.series, len(m.row))
            or not _within(m.line, len(lines[0]))
        ):
            raise FormatError(f"index of metric {m.schema.name!r} doesn't add up")
    return BlockIndex(targets, metrics, *lines)


def _within(numbers: NDArray[np.int64], limit: int) -> bool:
    return not len(numbers) or bool(numbers.min() >= 0 and numbers.max() < limit)


def pack_part(body: bytes, level: int) -> bytes:
    """A part as it stands in the file."""
    data = zstandard.ZstdCompressor(level=level).compress(body)
    return data + struct.pack("<I", zlib.crc32(data))


def unpack_part(data: bytes, what: str) -> bytes:
    """The content of a part; FormatError if it is damaged."""
    if len(data) < 4 or zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise FormatError(f"{what}: checksum does not hold")
    try:
        if zstandard.get_frame_parameters(data).content_size > MAX_PART_BYTES:
            raise FormatError(f"{what}: claims more than {MAX_PART_BYTES} bytes")
        return zstandard.ZstdDecompressor().decompress(data[:-4])
    except zstandard.ZstdError as err:
        raise FormatError(f"{what}: {err}") from None


def pack_footer(footer: Footer, header: bytes) -> bytes:
    """The last bytes of a block."""
    body = FOOTER.pack(
        footer.index_offset, footer.index_length, footer.min, footer.max, footer.samples, footer.series,
        footer.rank, footer.log, 0, 0, MAGIC,
    )[:-8]  # fmt: skip
    return body + struct.pack("<I", zlib.crc32(header, zlib.crc32(body))) + MAGIC


Read = Callable[[int, int], bytes]
"""Bytes at (offset, length); fewer where they end."""


def read_footer(read: Read, size: int, what: str) -> tuple[int, Footer]:
    """Block number and footer; FormatError if it is no whole block."""
    header = read(0, HEADER.size)
    tail = read(max(0, size - FOOTER.size), FOOTER.size)
    if len(header) < HEADER.size or len(tail) < FOOTER.size or header[:4] != MAGIC or tail[-4:] != MAGIC:
        raise FormatError(f"{what}: not a whole block")
    _, version, number = HEADER.unpack(header)
    if version != VERSION:
        raise FormatError(f"{what}: block of version {version}; this program reads version {VERSION}")
    if zlib.crc32(header, zlib.crc32(tail[:-8])) != FOOTER.unpack(tail)[9]:
        raise FormatError(f"{what}: checksum of the footer does not hold")
    footer = Footer(*FOOTER.unpack(tail)[:8])
    if footer.index_offset + footer.index_length + FOOTER.size != size:
        raise FormatError(f"{what}: is cut or has grown")
    return number, footer


class Block:
    """A block opened for reading; its file may be unlinked meanwhile. Safe for many threads."""

    def __init__(self, path: Path, cache: DecodeCache, interner: Interner, data: bytes | None = None) -> None:
        """Open; FormatError if the footer or the index is damaged (groups are checked when read), OSError as usual.

        `data` holds all of it if it is in memory; `path` then is but a name.
        """
        self.path = path
        self._cache = cache
        self._serial = next(_serials)
        self._closer: Callable[[], object] = _nothing
        if data is None:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._closer = weakref.finalize(self, os.close, descriptor)
            self.size = os.fstat(descriptor).st_size
            self._read: Read = lambda offset, length: os.pread(descriptor, length, offset)
        else:
            self.size = len(data)
            self._read = lambda offset, length: data[offset : offset + length]
        try:
            self.number, self.footer = read_footer(self._read, self.size, path.name)
            body = self._part(self.footer.index_offset, self.footer.index_length, "index")
            self.index = decode_index(body)
        except BaseException:
            self.close()
            raise
        self._targets = [interner.target(labels) for labels in self.index.targets]
        self._rows = [interner.rows(entry.schema) for entry in self.index.metrics]
        self._by_name: dict[str, list[int]] = {}
        for number, entry in enumerate(self.index.metrics):
            self._by_name.setdefault(entry.schema.name, []).append(number)
        self._arrange(interner.target(Labels()))

    def _arrange(self, nothing: Target) -> None:
        """Put series and groups of all metrics side by side: matchers then cost a few array calls for all of them."""
        entries = self.index.metrics
        target_prints = np.array([target.print for target in self._targets], np.uint64)
        self._series_at = np.cumsum([0, *(len(entry.row) for entry in entries)])
        self._row = _short([entry.row for entry in entries])
        self._target = _short([entry.target for entry in entries])
        prints = [rows.prints(nothing)[entry.row] for rows, entry in zip(self._rows, entries, strict=True)]
        self._prints = (np.concatenate(prints) if prints else np.empty(0, np.uint64)) + target_prints[self._target]
        self._offset = _joined([entry.offset for entry in entries])
        self._length = _joined([entry.length for entry in entries])
        places = np.cumsum([0, *(len(entry.series) for entry in entries)])
        self._place_at = places
        self._series = _short(
            [entry.series + first for entry, first in zip(entries, self._series_at.tolist(), strict=False)]
        )
        self._line_of = _short([entry.line for entry in entries])
        self._start = _joined(
            [entry.start[:-1] + first for entry, first in zip(entries, places.tolist(), strict=False)]
        )
        sizes = np.diff(self._start, append=len(self._series)).astype(np.intp)
        kinds = np.array([entry.kind is ValueKind.HISTOGRAM for entry in entries], np.bool_)
        self.has_histograms = bool(kinds.any())
        self._native = np.repeat(kinds, [len(entry.row) for entry in entries])
        self._native_group = np.repeat(kinds, [len(entry.offset) for entry in entries])
        self._group_of = np.repeat(np.arange(len(self._start), dtype=np.int32), sizes)
        # The arrays of each metric are not needed any more, nor its rows: the index over them may be another block's.
        self._metrics = [(entry.schema.name, entry.schema.meta, entry.cells) for entry in entries]
        self.index.metrics = []

    def close(self) -> None:
        """Release the file at once (else with the last reference); idempotent."""
        self._closer()

    @property
    def min(self) -> int:
        """The lowest timestamp."""
        return self.footer.min

    @property
    def max(self) -> int:
        """The highest timestamp."""
        return self.footer.max

    def metrics(self) -> dict[str, int]:
        """Metric names with a bound of their cells (samples)."""
        found: dict[str, int] = {}
        for name, _, cells in self._metrics:
            found[name] = found.get(name, 0) + cells
        return found

    def meta(self) -> Iterator[MetricMeta]:
        """Metadata stored with the metrics."""
        for _, meta, _ in self._metrics:
            yield from meta

    def _part(self, offset: int, length: int, what: str) -> bytes:
        data = self._read(offset, length)
        if len(data) != length:
            raise FormatError(f"{self.path.name}: {what} is cut")
        return unpack_part(data, f"{self.path.name}: {what} at {offset}")

    def _lines(self, part: int) -> Lines:
        def load() -> tuple[Lines, int]:
            index = self.index
            body = self._part(int(index.part_offset[part]), int(index.part_length[part]), "timelines")
            found = decode_timelines(body)
            lines = Lines(found.times, found.lengths, found.stale, BEFORE_HEAD + self.footer.rank)
            return lines, found.times.nbytes + (0 if found.stale is None else found.stale.nbytes)

        lines: Lines = self._cache.get((self._serial, "lines", part), load)
        return lines

    def _cut(self, numbers: NDArray[np.intp], start: int, end: int) -> tuple[Lines, NDArray[np.intp]]:
        """Some lines (ascending) between two times (inclusive), and how many slots come before that in each."""
        parts = numbers // LINES_PER_PART
        found = []
        for part in np.unique(parts).tolist():
            lines, mine = self._lines(part), numbers[parts == part] - part * LINES_PER_PART
            if len(mine) == len(lines.lengths):
                found.append(lines)
            else:
                stale = None if lines.stale is None else lines.stale[mine]
                found.append(Lines(lines.times[mine], lines.lengths[mine], stale, lines.arrival))
        lines = found[0] if len(found) == 1 else Lines.concatenated(found)
        if start <= self.min and end >= self.max:
            return lines, np.zeros(len(numbers), np.intp)
        return lines.between(start, end)

    def _group(self, offset: int, length: int) -> Group:
        def load() -> tuple[Group, int]:
            group = Group(self._part(offset, length, "row group"))
            return group, group.size

        group: Group = self._cache.get((self._serial, "group", offset), load)
        return group

    def _values(self, offset: int, length: int, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        def load() -> tuple[NDArray[np.float64], int]:
            values = self._group(offset, length).decode()
            return values, values.nbytes

        key = (self._serial, "values", offset)
        whole: NDArray[np.float64] | None = self._cache.peek(key)
        group = self._group(offset, length) if whole is None else None
        if group is not None and 2 * len(rows) < group.rows:
            return group.decode(rows)
        values: NDArray[np.float64] = self._cache.get(key, load)
        return values if len(rows) == len(values) and (np.diff(rows) == 1).all() else values[rows]

    def _histograms(self, offset: int, length: int) -> HistogramGroup:
        def load() -> tuple[HistogramGroup, int]:
            group = HistogramGroup(self._part(offset, length, "row group"))
            return group, group.size

        group: HistogramGroup = self._cache.get((self._serial, "histograms", offset), load)
        return group

    def of_kind(self, series: NDArray[np.intp], kind: ValueKind) -> NDArray[np.intp]:
        """Those of some series that hold floats, or histograms."""
        if not self.has_histograms:
            return series if kind is ValueKind.FLOAT else series[:0]
        chosen: NDArray[np.bool_] = self._native[series] == (kind is ValueKind.HISTOGRAM)
        return series[chosen]

    def match(self, matchers: Sequence[Matcher]) -> NDArray[np.intp]:
        """Numbers of the series that satisfy every matcher, ascending."""

        def load() -> tuple[NDArray[np.intp], int]:
            found = self._match(matchers)
            return found, found.nbytes + 500

        series: NDArray[np.intp] = self._cache.get((self._serial, "match", *matchers), load)
        return series

    def _match(self, matchers: Sequence[Matcher]) -> NDArray[np.intp]:
        named = [m for m in matchers if m.name == "__name__"]
        others = [m for m in matchers if m.name != "__name__"]
        exact = next((m.value for m in named if m.type == "="), None)
        names = self._by_name if exact is None else [exact]
        chosen = [
            number for name in names if all(m.matches(name) for m in named) for number in self._by_name.get(name, ())
        ]
        if not chosen:
            return np.empty(0, np.intp)
        mask = np.zeros(len(self._row), np.bool_)
        if len(chosen) == len(self._rows):
            mask[:] = True
        else:
            for number in chosen:
                mask[self._series_at[number] : self._series_at[number + 1]] = True
        low, high = int(self._series_at[min(chosen)]), int(self._series_at[max(chosen) + 1])
        outcomes = [target.outcomes(others) for target in self._targets]
        for k, matcher in enumerate(others):
            hit = np.array([each[k] for each in outcomes], np.bool_)[self._target[low:high]]
            for number in chosen:
                column = self._rows[number].columns().get(matcher.name)
                if column is not None:
                    mine = slice(int(self._series_at[number]), int(self._series_at[number + 1]))
                    rows = self._row[mine]
                    here = slice(mine.start - low, mine.stop - low)
                    hit[here] = np.where(column.codes[rows] < 0, hit[here], column.match(matcher, False)[rows])
            mask[low:high] &= hit
        return low + np.flatnonzero(mask[low:high])

    def of_metrics(self, names: Container[str]) -> NDArray[np.intp]:
        """Numbers of all series of metrics with these names, ascending."""
        found = [
            np.arange(self._series_at[number], self._series_at[number + 1])
            for number, (name, _, _) in enumerate(self._metrics)
            if name in names
        ]
        return np.concatenate(found) if found else np.empty(0, np.intp)

    @property
    def targets(self) -> list[Target]:
        """Target labels, numbered by `census`."""
        return self._targets

    @property
    def prints(self) -> NDArray[np.uint64]:
        """Prints of all series, in the order of `census`."""
        return self._prints

    def census(self) -> Iterator[tuple[RowIndex, NDArray[np.intp], NDArray[np.intp]]]:
        """Of each metric its index, and for each of its series the row in that and the number of its target."""
        for number, index in enumerate(self._rows):
            mine = slice(int(self._series_at[number]), int(self._series_at[number + 1]))
            yield index, self._row[mine].astype(np.intp), self._target[mine].astype(np.intp)

    def spans(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First and last timestamp of every series, in the order of `census`."""
        first, last = np.full(self.series, self.max, np.int64), np.full(self.series, self.min, np.int64)
        np.minimum.at(first, self._series, self.index.line_first[self._line_of])
        np.maximum.at(last, self._series, self.index.line_last[self._line_of])
        return first, last

    def groups(self) -> Iterator[Group | HistogramGroup]:
        """All row groups, read past the cache; FormatError if one is damaged."""
        places = zip(self._offset.tolist(), self._length.tolist(), self._native_group.tolist(), strict=True)
        for offset, length, native in places:
            body = self._part(offset, length, "row group")
            yield HistogramGroup(body) if native else Group(body)

    @property
    def series(self) -> int:
        """How many series it has."""
        return len(self._row)

    def names(self, series: NDArray[np.intp]) -> list[Name]:
        """Places of some series."""
        metrics = (np.searchsorted(self._series_at, series, "right") - 1).tolist()
        rows, targets = self._row[series].tolist(), self._target[series].tolist()
        return [(self._rows[m], row, self._targets[t]) for m, row, t in zip(metrics, rows, targets, strict=True)]

    def labels(self, series: NDArray[np.intp], cache: LabelCache) -> list[Labels]:
        """Label sets of some series."""
        return cache.numbered(self, self.series, series, self.names)

    def label_names(self, matchers: Sequence[Matcher]) -> set[str]:
        """Names of labels of series that satisfy every matcher."""
        series = self.match(matchers)
        names: set[str] = set()
        for index, rows in self._rows_of(series):
            names.update(name for row in rows for name, _ in index.rows[row].pairs)
        for target in np.unique(self._target[series]).tolist():
            names |= self._targets[target].names
        return names

    def label_values(self, name: str, matchers: Sequence[Matcher]) -> set[str]:
        """Values of a label of series that satisfy every matcher ('' where it is missing)."""
        series = self.match(matchers)
        values = {index.rows[row].get(name) for index, rows in self._rows_of(series) for row in rows}
        if "" in values:
            has = np.zeros(len(self._row), np.bool_)
            for number, index in enumerate(self._rows):
                column = index.columns().get(name)
                if column is not None:
                    mine = slice(int(self._series_at[number]), int(self._series_at[number + 1]))
                    has[mine] = column.codes[self._row[mine]] >= 0
            for target in np.unique(self._target[series[~has[series]]]).tolist():
                values.add(self._targets[target].values.get(name, ""))
        return values

    def _rows_of(self, series: NDArray[np.intp]) -> Iterator[tuple[RowIndex, list[int]]]:
        """Distinct rows of each metric that some series have."""
        metrics = np.searchsorted(self._series_at, series, "right") - 1
        for metric in np.unique(metrics).tolist():
            yield self._rows[metric], np.unique(self._row[series[metrics == metric]]).tolist()

    def pieces(
        self, series: NDArray[np.intp], start: int, end: int, pool: Pool | None = None
    ) -> Iterator[tuple[NDArray[np.intp], Piece[int]]]:
        """Series of each group between two times (inclusive), and the group as a piece whose labels are positions.

        All series are of one kind: histograms, numbered by `pool`, if that is given.
        """
        if not len(series):
            return
        # Entries stand in order of metric, so the first and the last series bound them.
        first_metric, last_metric = (np.searchsorted(self._series_at, series[[0, -1]], "right") - 1).tolist()
        low, high = int(self._place_at[first_metric]), int(self._place_at[last_metric + 1])
        wanted = np.zeros(len(self._row), np.bool_)
        wanted[series] = True
        keep = wanted[self._series[low:high]]
        whole = start <= self.min and end >= self.max
        if not whole:
            lines = self._line_of[low:high]
            keep &= (self.index.line_first[lines] <= end) & (self.index.line_last[lines] >= start)
        places = low + np.flatnonzero(keep)
        if not len(places):
            return
        numbers, line_of = np.unique(self._line_of[places], return_inverse=True)
        cut, skips = self._cut(numbers.astype(np.intp), start, end)
        alive = cut.lengths > 0
        if not alive.all():
            kept = alive[line_of]
            places = places[kept]
            if not len(places):
                return
            line_of = (np.cumsum(alive) - 1)[line_of[kept]]
            cut, skips = cut.only(np.flatnonzero(alive)), skips[alive]
        groups = self._group_of[places]
        chosen = self._series[places].astype(np.intp)
        prints, members, skip = self._prints[chosen], places - self._start[groups], skips[line_of]
        begins = np.flatnonzero(np.diff(groups, prepend=-1))
        widths = np.maximum.reduceat(cut.lengths[line_of], begins)
        ragged = np.maximum.reduceat(skip, begins) != np.minimum.reduceat(skip, begins)
        of_group = zip(
            begins.tolist(),
            [*begins[1:].tolist(), len(places)],
            self._offset[groups[begins]].tolist(),
            self._length[groups[begins]].tolist(),
            widths.tolist(),
            ragged.tolist(),
            strict=True,
        )
        for begin, stop, offset, length, width, uneven in of_group:
            skipped = skip[begin:stop] if uneven else int(skip[begin])
            reader = _GroupValues(self, offset, length, members[begin:stop], skipped, width, pool)
            yield chosen[begin:stop], Piece(prints[begin:stop], cut, line_of[begin:stop], reader.read, _positions)


def _nothing() -> None:
    """What there is to close of a block in memory."""


def _positions(rows: NDArray[np.intp]) -> list[int]:
    found: list[int] = rows.tolist()
    return found


def _joined(arrays: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(arrays) if arrays else np.empty(0, np.int64)


def _short(arrays: list[NDArray[np.int64]]) -> NDArray[np.int32]:
    return _joined(arrays).astype(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class _GroupValues:
    """Reads rows of one group, shifted so that each begins where its line begins."""

    block: Block
    offset: int
    length: int
    members: NDArray[np.intp]
    skip: NDArray[np.intp] | int
    width: int
    pool: Pool | None

    def read(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """[len(rows), at least the longest line]."""
        if self.pool is None:
            values = self.block._values(self.offset, self.length, self.members[rows])
        else:
            values = self._numbers(self.members[rows], self.pool)
        if isinstance(self.skip, int):
            return values[:, self.skip :]
        skip = self.skip[rows]
        if (skip == skip[0]).all():
            return values[:, int(skip[0]) :]
        at = np.minimum(skip[:, None] + np.arange(self.width), values.shape[1] - 1)
        return np.take_along_axis(values, at, axis=1)

    def _numbers(self, members: NDArray[np.intp], pool: Pool) -> NDArray[np.float64]:
        """Numbers of histograms, NaN for staleness markers."""
        group = self.block._histograms(self.offset, self.length)
        found = [group.decode(member) for member in members.tolist()]
        numbers = np.full((len(found), max(len(row) for row in found)), np.nan)
        for out, row in zip(numbers, found, strict=True):
            first = pool.place(row, len(row))
            there = np.flatnonzero([each is not None for each in row])
            out[there] = first + there
        return numbers
