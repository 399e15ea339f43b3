"""Blocks: immutable files of samples, metric-major: their parts, and reading them. FORMAT.md draws the bytes."""

import itertools
import os
import struct
import threading
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
from common.tsdb.excerpt import excerpt
from common.tsdb.index import Interner, LabelCache, Name, RowIndex, Target
from common.tsdb.ints import get_ints, put_ints
from common.tsdb.join import Lines, Piece
from common.tsdb.kinds import Pool
from common.tsdb.native import HistogramGroup
from common.tsdb.places import Places
from common.tsdb.querier import Timelines, ValueKind
from common.tsdb.rows import Group
from common.tsdb.shelf import Shelf
from common.tsdb.timelines import Part

MAGIC: Final = b"BRk\xb1"
VERSION: Final = 1
HEADER: Final = struct.Struct("<4sB3xQ")
FOOTER: Final = struct.Struct("<QQqqQQQQQI4s")
PART_SLOTS: Final = 1 << 16
"""Slots of a part's timelines, about: one device's are found without unpacking those of a whole fleet."""
MANY_GROUPS: Final = 4
"""So many are decoded together."""
FEW_LINES: Final = 8
"""So many of a part are decoded without the others."""
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
    row: NDArray[np.signedinteger]
    target: NDArray[np.signedinteger]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    start: NDArray[np.int64]
    series: NDArray[np.signedinteger]
    line: NDArray[np.signedinteger]
    cells: int
    kind: ValueKind = ValueKind.FLOAT


@dataclass(slots=True, eq=False)
class BlockIndex:
    """Everything of a block but samples and timestamps."""

    targets: list[Labels]
    metrics: list[MetricEntry]
    line_first: NDArray[np.int64]
    line_last: NDArray[np.int64]
    part_first: NDArray[np.int64]
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
    for array in (index.line_first, index.line_last, index.part_first, index.part_offset, index.part_length):
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
    lines = [get_ints(reader) for _ in range(5)]
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
    first, offset, length = lines[2:]
    if not len(first) == len(offset) == len(length) or (np.diff(first) <= 0).any() or first[:1].any():
        raise FormatError("index of timelines doesn't add up")
    return BlockIndex(targets, metrics, *lines)


def _within(numbers: NDArray[np.int64], limit: int) -> bool:
    return not len(numbers) or bool(numbers.min() >= 0 and numbers.max() < limit)


def pack_part(body: bytes, level: int) -> bytes:
    """A part as it stands in the file."""
    data = zstandard.ZstdCompressor(level=level).compress(body)
    return data + struct.pack("<I", zlib.crc32(data))


def unpack_part(data: bytes, what: str) -> bytes:
    """The content of a part; FormatError if it is damaged."""
    view = memoryview(data)
    if len(data) < 4 or zlib.crc32(view[:-4]) != int.from_bytes(view[-4:], "little"):
        raise FormatError(f"{what}: checksum does not hold")
    try:
        if zstandard.get_frame_parameters(data).content_size > MAX_PART_BYTES:
            raise FormatError(f"{what}: claims more than {MAX_PART_BYTES} bytes")
        return _decompressor().decompress(view[:-4])
    except zstandard.ZstdError as err:
        raise FormatError(f"{what}: {err}") from None


_LOCAL = threading.local()


def _decompressor() -> zstandard.ZstdDecompressor:
    """One of this thread's: making it takes as long as unpacking a small part."""
    found: zstandard.ZstdDecompressor | None = getattr(_LOCAL, "decompressor", None)
    if found is None:
        found = _LOCAL.decompressor = zstandard.ZstdDecompressor()
    return found


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
        self._interner = interner
        self._shelf: Callable[[], Shelf | None] = _nothing
        self.serial = next(_serials)
        """Unlike that of any other block that was opened."""
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
            self.has_histograms = self._open().native is not None
        except BaseException:
            self.close()
            raise

    def _open(self) -> Shelf:
        """The index: as it was opened before, if it is still there. FormatError if it is damaged."""

        def load() -> tuple[Shelf, int]:
            body = self._part(self.footer.index_offset, self.footer.index_length, "index")
            shelf = Shelf.of(decode_index(body), self._interner)
            return shelf, shelf.size

        # Somebody may use it still, though there was no more room for it.
        found = self._interner.indexes.peek(self.serial) or self._shelf()
        if found is None:
            found = self._interner.indexes.get(self.serial, load)
            self._shelf = weakref.ref(found)
        shelf: Shelf = found
        return shelf

    def opened(self) -> Shelf:
        """Its index, which is not read again while somebody holds it. FormatError if it is damaged."""
        return self._open()

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
        for name, _, cells in self._open().metrics:
            found[name] = found.get(name, 0) + cells
        return found

    def rows(self) -> dict[str, int]:
        """How many series each metric has."""
        shelf = self._open()
        found: dict[str, int] = {}
        for (name, _, _), count in zip(shelf.metrics, np.diff(shelf.series_at).tolist(), strict=True):
            found[name] = found.get(name, 0) + count
        return found

    def meta(self) -> Iterator[MetricMeta]:
        """Metadata stored with the metrics."""
        for _, meta, _ in self._open().metrics:
            yield from meta

    def _part(self, offset: int, length: int, what: str) -> bytes:
        data = self._read(offset, length)
        if len(data) != length:
            raise FormatError(f"{self.path.name}: {what} is cut")
        return unpack_part(data, f"{self.path.name}: {what} at {offset}")

    def _timelines(self, part: int) -> Part:
        def load() -> tuple[bytes, int]:
            index = self._open()
            body = self._part(int(index.part_offset[part]), int(index.part_length[part]), "timelines")
            return body, len(body)

        return Part(self._cache.get((self.serial, "timelines", part), load))

    def _lines(self, part: int, numbers: NDArray[np.intp]) -> Lines:
        """Some lines (ascending) of a part."""

        def load() -> tuple[Lines, int]:
            lines = self._own(self._timelines(part).lines())
            return lines, lines.times.nbytes + (0 if lines.stale is None else lines.stale.nbytes)

        lines: Lines = self._cache.get((self.serial, "lines", part), load)
        return lines if len(numbers) == len(lines) else lines.only(numbers)

    def _own(self, found: Timelines) -> Lines:
        return Lines(found.times, found.lengths, found.stale, BEFORE_HEAD + self.footer.rank)

    def _cut(self, numbers: NDArray[np.intp], start: int, end: int) -> tuple[Lines, NDArray[np.intp]]:
        """Some lines (ascending) between two times (inclusive), and how many slots come before that in each."""
        firsts = self._open().part_first
        parts = np.searchsorted(firsts, numbers, "right") - 1
        start, end = max(start, self.min), min(end, self.max)
        found, skips = [], []
        for part in np.unique(parts).tolist():
            mine = numbers[parts == part] - firsts[part]
            lines, skip = self._part_cut(part, mine, start, end)
            found.append(lines)
            skips.append(skip)
        return (found[0], skips[0]) if len(found) == 1 else (Lines.concatenated(found), np.concatenate(skips))

    def _part_cut(self, part: int, numbers: NDArray[np.intp], start: int, end: int) -> tuple[Lines, NDArray[np.intp]]:
        """As `_cut`, of lines of one part: what is read for the first time is decoded as far as it is wanted."""
        fresh = self._cache.peek((self.serial, "timelines", part)) is None
        whole = start == self.min and end == self.max
        if fresh and len(numbers) <= FEW_LINES:
            lines = self._own(self._timelines(part).lines(numbers))
        elif fresh and not whole:
            found, skips = self._timelines(part).between(numbers, start, end)
            return self._own(found), skips
        else:
            lines = self._lines(part, numbers)
        return (lines, np.zeros(len(lines), np.intp)) if whole else lines.between(start, end)

    def _body(self, group: int) -> bytes:
        """An unpacked row group."""
        index = self._open()
        return self._part(int(index.offset[group]), int(index.length[group]), "row group")

    def _group(self, number: int) -> Group:
        def load() -> tuple[bytes, int]:
            body = self._body(number)
            return body, len(body)

        return Group(self._cache.get((self.serial, "group", number), load))

    def _values(self, number: int, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        def load() -> tuple[NDArray[np.float64], int]:
            values = group.decode()
            return values, values.nbytes

        def few() -> tuple[NDArray[np.float64], int]:
            values = group.decode(rows)
            return values, values.nbytes

        key = (self.serial, "values", number)
        values: NDArray[np.float64] | None = self._cache.peek(key)
        if values is None:
            group = self._group(number)
            if 2 * len(rows) < group.rows:
                some: NDArray[np.float64] = self._cache.get((self.serial, "rows", number, rows.tobytes()), few)
                return some
            values = self._cache.get(key, load)
        return values if len(rows) == len(values) and (np.diff(rows) == 1).all() else values[rows]

    def _cells(self, groups: NDArray[np.intp], members: NDArray[np.intp], low: int, high: int) -> NDArray[np.float64]:
        """Cells of some rows (each a member of a group), as `excerpt`.

        What is read for the first time is decoded as far as it is wanted; after that whole, to be kept.
        """
        used, group_of = np.unique(groups, return_inverse=True)
        keys = [(self.serial, "group", number) for number in used.tolist()]
        fresh = [self._cache.peek(key) is None for key in keys]
        if len(used) >= MANY_GROUPS and all(fresh):
            bodies = [self._body(number) for number in used.tolist()]
            for key, body in zip(keys, bodies, strict=True):
                self._cache.put(key, body, len(body))
            return excerpt(bodies, group_of, members, low, high)
        out = np.zeros((len(members), high - low))
        for at, number in enumerate(used.tolist()):
            mine = np.flatnonzero(group_of == at) if len(used) > 1 else np.arange(len(members))
            if fresh[at]:
                values = self._group(number).decode(members[mine], low, high)
            else:
                values = self._values(number, members[mine])[:, low:high]
            if len(used) == 1:
                return values
            out[mine, : values.shape[1]] = values
        return out

    def _histograms(self, number: int) -> HistogramGroup:
        def load() -> tuple[HistogramGroup, int]:
            group = HistogramGroup(self._body(number))
            return group, group.size

        group: HistogramGroup = self._cache.get((self.serial, "histograms", number), load)
        return group

    def of_kind(self, series: NDArray[np.intp], kind: ValueKind) -> NDArray[np.intp]:
        """Those of some series that hold floats, or histograms."""
        if not self.has_histograms:
            return series if kind is ValueKind.FLOAT else series[:0]
        native = self._open().native
        assert native is not None
        chosen: NDArray[np.bool_] = native[series] == (kind is ValueKind.HISTOGRAM)
        return series[chosen]

    def match(self, matchers: Sequence[Matcher]) -> NDArray[np.intp]:
        """Numbers of the series that satisfy every matcher, ascending."""

        def load() -> tuple[NDArray[np.intp], int]:
            found = self._match(matchers)
            return found, found.nbytes + 500

        series: NDArray[np.intp] = self._cache.get((self.serial, "match", *matchers), load)
        return series

    def _match(self, matchers: Sequence[Matcher]) -> NDArray[np.intp]:
        shelf = self._open()
        named = [m for m in matchers if m.name == "__name__"]
        others = [m for m in matchers if m.name != "__name__"]
        exact = next((m.value for m in named if m.type == "="), None)
        names = shelf.by_name if exact is None else [exact]
        chosen = [
            number for name in names if all(m.matches(name) for m in named) for number in shelf.by_name.get(name, ())
        ]
        if not chosen:
            return np.empty(0, np.intp)
        mask = np.zeros(len(shelf.row), np.bool_)
        if len(chosen) == len(shelf.rows):
            mask[:] = True
        else:
            for number in chosen:
                mask[shelf.series_at[number] : shelf.series_at[number + 1]] = True
        low, high = int(shelf.series_at[min(chosen)]), int(shelf.series_at[max(chosen) + 1])
        for matcher in others:
            hit = shelf.outcomes(matcher)[shelf.target[low:high]]
            for number in chosen:
                column = shelf.rows[number].columns().get(matcher.name)
                if column is not None:
                    mine = slice(int(shelf.series_at[number]), int(shelf.series_at[number + 1]))
                    rows = shelf.row[mine]
                    here = slice(mine.start - low, mine.stop - low)
                    hit[here] = np.where(column.codes[rows] < 0, hit[here], column.match(matcher, False)[rows])
            mask[low:high] &= hit
        return low + np.flatnonzero(mask[low:high])

    def of_metrics(self, names: Container[str]) -> NDArray[np.intp]:
        """Numbers of all series of metrics with these names, ascending."""
        shelf = self._open()
        found = [
            np.arange(shelf.series_at[number], shelf.series_at[number + 1])
            for number, (name, _, _) in enumerate(shelf.metrics)
            if name in names
        ]
        return np.concatenate(found) if found else np.empty(0, np.intp)

    @property
    def targets(self) -> list[Target]:
        """Target labels, numbered by `census`."""
        return self._open().targets

    @property
    def prints(self) -> NDArray[np.uint64]:
        """Prints of all series, in the order of `census`."""
        return self._open().prints

    def census(self) -> Iterator[tuple[RowIndex, NDArray[np.intp], NDArray[np.intp]]]:
        """Of each metric its index, and for each of its series the row in that and the number of its target."""
        shelf = self._open()
        for number, index in enumerate(shelf.rows):
            mine = slice(int(shelf.series_at[number]), int(shelf.series_at[number + 1]))
            yield index, shelf.row[mine].astype(np.intp), shelf.target[mine].astype(np.intp)

    def spans(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First and last timestamp of every series, in the order of `census`."""
        shelf = self._open()
        first, last = np.full(self.series, self.max, np.int64), np.full(self.series, self.min, np.int64)
        series = shelf.series_of(np.arange(len(shelf.line_of)))
        np.minimum.at(first, series, shelf.line_first[shelf.line_of])
        np.maximum.at(last, series, shelf.line_last[shelf.line_of])
        return first, last

    def groups(self) -> Iterator[Group | HistogramGroup]:
        """All row groups, read past the cache; FormatError if one is damaged."""
        shelf = self._open()
        places = zip(shelf.offset.tolist(), shelf.length.tolist(), shelf.native_group.tolist(), strict=True)
        for offset, length, native in places:
            body = self._part(offset, length, "row group")
            yield HistogramGroup(body) if native else Group(body)

    @property
    def series(self) -> int:
        """How many series it has."""
        return self.footer.series

    def names(self, series: NDArray[np.intp]) -> list[Name]:
        """Places of some series."""
        shelf = self._open()
        metrics = (np.searchsorted(shelf.series_at, series, "right") - 1).tolist()
        rows, targets = shelf.row[series].tolist(), shelf.target[series].tolist()
        return [(shelf.rows[m], row, shelf.targets[t]) for m, row, t in zip(metrics, rows, targets, strict=True)]

    def labels(self, series: NDArray[np.intp], cache: LabelCache) -> list[Labels]:
        """Label sets of some series."""
        return cache.numbered(self._open(), self.series, series, self.names)

    def label_names(self, matchers: Sequence[Matcher]) -> set[str]:
        """Names of labels of series that satisfy every matcher."""
        series = self.match(matchers)
        shelf = self._open()
        names: set[str] = set()
        for index, rows in self._rows_of(series):
            names.update(name for row in rows for name, _ in index.rows[row].pairs)
        for target in np.unique(shelf.target[series]).tolist():
            names |= shelf.targets[target].names
        return names

    def label_values(self, name: str, matchers: Sequence[Matcher]) -> set[str]:
        """Values of a label of series that satisfy every matcher ('' where it is missing)."""
        series = self.match(matchers)
        shelf = self._open()
        values = {index.rows[row].get(name) for index, rows in self._rows_of(series) for row in rows}
        if "" in values:
            has = np.zeros(len(shelf.row), np.bool_)
            for number, index in enumerate(shelf.rows):
                column = index.columns().get(name)
                if column is not None:
                    mine = slice(int(shelf.series_at[number]), int(shelf.series_at[number + 1]))
                    has[mine] = column.codes[shelf.row[mine]] >= 0
            for target in np.unique(shelf.target[series[~has[series]]]).tolist():
                values.add(shelf.targets[target].values.get(name, ""))
        return values

    def _rows_of(self, series: NDArray[np.intp]) -> Iterator[tuple[RowIndex, list[int]]]:
        """Distinct rows of each metric that some series have."""
        shelf = self._open()
        metrics = np.searchsorted(shelf.series_at, series, "right") - 1
        for metric in np.unique(metrics).tolist():
            yield shelf.rows[metric], np.unique(shelf.row[series[metrics == metric]]).tolist()

    def places(self, series: NDArray[np.intp]) -> Places:
        """Where some series (ascending) stand."""
        return Places.of(self._open(), series)

    def chosen(self, matchers: Sequence[Matcher], kind: ValueKind) -> Places:
        """Where the series of one kind of values stand that satisfy every matcher."""

        def load() -> tuple[Places, int]:
            places = self.places(self.of_kind(self.match(matchers), kind))
            return places, places.size + 500

        places: Places = self._cache.get((self.serial, "places", kind, *matchers), load)
        return places

    def pieces(
        self, places: Places, start: int, end: int, pool: Pool | None = None
    ) -> Iterator[tuple[NDArray[np.intp], Piece[int]]]:
        """Some series between two times (inclusive): their numbers, and a piece of them whose labels are positions.

        All are of one kind: histograms, numbered by `pool`, if that is given. No series is twice in a piece.
        """
        if not (start <= self.min and end >= self.max):
            places = places.on((places.first <= end) & (places.last >= start))
        if not len(places.series):
            return
        cut, skips = self._cut(places.lines, start, end)
        alive = cut.lengths > 0
        if not alive.all():
            places = places.on(alive)
            if not len(places.series):
                return
            cut, skips = cut.only(np.flatnonzero(alive)), skips[alive]
        skip = skips[places.line_of]
        end_of = skip + cut.lengths[places.line_of]
        for run in places.runs(skip, end_of, together=pool is None):
            low, high = int(skip[run].min()), int(end_of[run].max())
            skipped = None if (skip[run] == low).all() else skip[run] - low
            line_of = places.line_of[run]
            width = int(cut.lengths[line_of].max())
            values = _Values(self, places.group[run], places.member[run], low, high, skipped, width, pool)
            yield places.series[run], Piece(places.prints[run], cut, line_of, values.read, _positions)


def _nothing() -> None:
    """What there is to close of a block in memory."""


def _positions(rows: NDArray[np.intp]) -> list[int]:
    found: list[int] = rows.tolist()
    return found


def shifted(values: NDArray[np.float64], skip: NDArray[np.intp], width: int) -> NDArray[np.float64]:
    """Rows without the first `skip` cells of each: at least `width` cells."""
    if (skip == skip[0]).all():
        return values[:, int(skip[0]) :]
    at = np.minimum(skip[:, None] + np.arange(width), values.shape[1] - 1)
    return np.take_along_axis(values, at, axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class _Values:
    """Reads cells `low` to `high` of rows of some groups, shifted so that each begins where its line begins."""

    block: Block
    groups: NDArray[np.intp]
    members: NDArray[np.intp]
    low: int
    high: int
    skip: NDArray[np.intp] | None
    """By row, from `low` on; None for all 0."""
    width: int
    pool: Pool | None

    def read(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """[len(rows), at least the longest line]."""
        groups, members = self.groups[rows], self.members[rows]
        if self.pool is not None:
            values = self._numbers(int(groups[0]), members, self.pool)
        else:
            values = self.block._cells(groups, members, self.low, self.high)
        return values if self.skip is None else shifted(values, self.skip[rows], self.width)

    def _numbers(self, group: int, members: NDArray[np.intp], pool: Pool) -> NDArray[np.float64]:
        """Numbers of histograms, NaN for staleness markers."""
        opened = self.block._histograms(group)
        found = [opened.lot(member, self.low, self.high) for member in members.tolist()]
        numbers = np.full((len(found), max(len(row) for row in found)), np.nan)
        for out, row in zip(numbers, found, strict=True):
            first = pool.place(row, len(row))
            for _, there in row.parts:
                out[there] = first + there
        return numbers
