"""Blocks: immutable files of samples, metric-major: their parts, and reading them. FORMAT.md draws the bytes."""

import itertools
import os
import struct
import weakref
import zlib
from collections.abc import Container, Iterator, Sequence
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
from common.tsdb.index import Interner, LabelCache, Name, RowIndex
from common.tsdb.ints import get_ints, put_ints
from common.tsdb.join import Line, Piece
from common.tsdb.rows import Group
from common.tsdb.timelines import Times, decode_timelines

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

    `cells` bounds its samples. Arrays `offset`, `length`, `first`, `last` are per group; group g has the entries
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
        row, target, offset, length, first, last, start, series, line = (get_ints(reader) for _ in range(9))
        cells = reader.uvarint()
        metrics.append(MetricEntry(schema, row, target, offset, length, first, last, start, series, line, cells))
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


def read_footer(descriptor: int, size: int, what: str) -> tuple[int, Footer]:
    """Block number and footer; FormatError if the file is no whole block."""
    header = os.pread(descriptor, HEADER.size, 0)
    tail = os.pread(descriptor, FOOTER.size, max(0, size - FOOTER.size))
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


@dataclass(frozen=True, slots=True, eq=False)
class _Metric:
    """A metric ready to be searched: prints of its series, uint64 [series]."""

    entry: MetricEntry
    index: RowIndex
    prints: NDArray[np.uint64]


class Block:
    """A block opened for reading; its file may be unlinked meanwhile. Safe for many threads."""

    def __init__(self, path: Path, cache: DecodeCache, interner: Interner) -> None:
        """Open; FormatError if the footer or the index is damaged (groups are checked when read), OSError as usual."""
        self.path = path
        self._cache = cache
        self._serial = next(_serials)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._descriptor = descriptor
        self._closer = weakref.finalize(self, os.close, descriptor)
        try:
            self.size = os.fstat(descriptor).st_size
            self.number, self.footer = read_footer(descriptor, self.size, path.name)
            body = self._part(self.footer.index_offset, self.footer.index_length, "index")
            self.index = decode_index(body)
        except BaseException:
            self.close()
            raise
        self._targets = [interner.target(labels) for labels in self.index.targets]
        target_prints = np.array([target.print for target in self._targets], np.uint64)
        self._metrics: list[_Metric] = []
        self._by_name: dict[str, list[int]] = {}
        nothing = interner.target(Labels())
        for entry in self.index.metrics:
            rows = interner.rows(entry.schema)
            prints = rows.prints(nothing)[entry.row] + target_prints[entry.target]
            self._by_name.setdefault(entry.schema.name, []).append(len(self._metrics))
            self._metrics.append(_Metric(entry, rows, prints))

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
        for metric in self._metrics:
            found[metric.entry.schema.name] = found.get(metric.entry.schema.name, 0) + metric.entry.cells
        return found

    def meta(self) -> Iterator[MetricMeta]:
        """Metadata stored with the metrics."""
        for metric in self._metrics:
            yield from metric.entry.schema.meta

    def _part(self, offset: int, length: int, what: str) -> bytes:
        data = os.pread(self._descriptor, length, offset)
        if len(data) != length:
            raise FormatError(f"{self.path.name}: {what} is cut")
        return unpack_part(data, f"{self.path.name}: {what} at {offset}")

    def _lines(self, part: int) -> list[Times]:
        def load() -> tuple[list[Times], int]:
            index = self.index
            body = self._part(int(index.part_offset[part]), int(index.part_length[part]), "timelines")
            lines = decode_timelines(body)
            return lines, sum(times.nbytes + 100 for times, _ in lines)

        lines: list[Times] = self._cache.get((self._serial, "lines", part), load)
        return lines

    def _line(self, number: int) -> Times:
        return self._lines(number // LINES_PER_PART)[number % LINES_PER_PART]

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

    def match(self, matchers: Sequence[Matcher]) -> Iterator[tuple[int, NDArray[np.intp]]]:
        """Entries of the index and their series (ascending) that satisfy every matcher."""
        outcomes = np.array([target.outcomes(matchers) for target in self._targets], np.bool_).reshape(
            len(self._targets), len(matchers)
        )
        named = [m for m in matchers if m.name == "__name__"]
        exact = next((m.value for m in named if m.type == "="), None)
        candidates = self._by_name if exact is None else [exact]
        numbers = [number for name in candidates for number in self._by_name.get(name, ())]
        for number in numbers:
            metric = self._metrics[number]
            if not all(m.matches(metric.entry.schema.name) for m in named):
                continue
            chosen = np.ones(len(metric.entry.row), np.bool_)
            for k, matcher in enumerate(matchers):
                if matcher.name == "__name__":
                    continue
                hit = outcomes[metric.entry.target, k]
                column = metric.index.columns().get(matcher.name)
                if column is not None:
                    rows = column.match(matcher, False)
                    hit = np.where(column.codes[metric.entry.row] < 0, hit, rows[metric.entry.row])
                chosen &= hit
            series = np.flatnonzero(chosen)
            if len(series):
                yield number, series

    def label_names(self, matchers: Sequence[Matcher]) -> set[str]:
        """Names of labels of series that satisfy every matcher."""
        names: set[str] = set()
        for number, series in self.match(matchers):
            metric = self._metrics[number]
            for row in np.unique(metric.entry.row[series]).tolist():
                names.update(name for name, _ in metric.index.rows[row].pairs)
            for target in np.unique(metric.entry.target[series]).tolist():
                names |= self._targets[target].names
        return names

    def label_values(self, name: str, matchers: Sequence[Matcher]) -> set[str]:
        """Values of a label of series that satisfy every matcher ('' where it is missing)."""
        values: set[str] = set()
        for number, series in self.match(matchers):
            metric = self._metrics[number]
            column = metric.index.columns().get(name)
            has = np.zeros(len(series), np.bool_) if column is None else column.codes[metric.entry.row[series]] >= 0
            for row in np.unique(metric.entry.row[series[has]]).tolist():
                values.add(metric.index.rows[row].get(name))
            for target in np.unique(metric.entry.target[series[~has]]).tolist():
                values.add(self._targets[target].values.get(name, ""))
        return values

    def all(self, names: Container[str]) -> Iterator[tuple[int, NDArray[np.intp]]]:
        """Entries of the index and all their series, of metrics with these names."""
        for number, metric in enumerate(self._metrics):
            if metric.entry.schema.name in names:
                yield number, np.arange(len(metric.entry.row), dtype=np.intp)

    def mask(self, metric: int, series: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Which of all series of an entry are among `series`."""
        out = np.zeros(len(self._metrics[metric].entry.row), np.bool_)
        out[series] = True
        return out

    def names(self, metric: int, series: NDArray[np.intp]) -> list[Name]:
        """Places of some series of a metric."""
        found = self._metrics[metric]
        rows, targets = found.entry.row[series].tolist(), found.entry.target[series].tolist()
        return [(found.index, row, self._targets[target]) for row, target in zip(rows, targets, strict=True)]

    def labels(self, metric: int, series: NDArray[np.intp], cache: LabelCache) -> list[Labels]:
        """Label sets of some series of a metric."""
        return cache.many(self.names(metric, series))

    def pieces(
        self, metric: int, series: NDArray[np.intp], start: int, end: int
    ) -> Iterator[tuple[NDArray[np.intp], Piece[int]]]:
        """Series of each group between two times (inclusive), and the group as a piece whose labels are positions."""
        found = self._metrics[metric]
        entry = found.entry
        wanted = np.zeros(len(entry.row), np.bool_)
        wanted[series] = True
        for g in np.flatnonzero((entry.first <= end) & (entry.last >= start)).tolist():
            low, high = int(entry.start[g]), int(entry.start[g + 1])
            members, lines = entry.series[low:high], entry.line[low:high]
            keep = np.flatnonzero(
                wanted[members] & (self.index.line_first[lines] <= end) & (self.index.line_last[lines] >= start)
            )
            if not len(keep):
                continue
            used, line_of = np.unique(lines[keep], return_inverse=True)
            cut = [self._cut(int(number), start, end) for number in used]
            number = np.cumsum([bool(len(line.timestamps)) for line, _ in cut]) - 1
            alive = np.array([bool(len(line.timestamps)) for line, _ in cut])[line_of]
            keep, line_of = keep[alive], number[line_of[alive]]
            if not len(keep):
                continue
            kept = [(line, skip) for line, skip in cut if len(line.timestamps)]
            reader = _GroupValues(
                self, int(entry.offset[g]), int(entry.length[g]), keep, line_of,
                np.array([skip for _, skip in kept], np.intp), max(len(line.timestamps) for line, _ in kept),
            )  # fmt: skip
            chosen = members[keep].astype(np.intp)
            yield (
                chosen,
                Piece(
                    found.prints[chosen], [line for line, _ in kept], line_of, reader.read, lambda rows: rows.tolist()
                ),
            )

    def _cut(self, number: int, start: int, end: int) -> tuple[Line, int]:
        times, stale = self._line(number)
        low, high = int(np.searchsorted(times, start, "left")), int(np.searchsorted(times, end, "right"))
        if stale is not None:
            stale = stale[low:high]
            stale = stale if stale.any() else None
        return Line(times[low:high], stale, BEFORE_HEAD + self.footer.rank), low

    def verify(self) -> None:
        """Read every part; FormatError at the first that is damaged."""
        for metric in self.index.metrics:
            for offset, length in zip(metric.offset.tolist(), metric.length.tolist(), strict=True):
                Group(self._part(offset, length, "row group")).decode()
        for part in range(len(self.index.part_offset)):
            self._part(int(self.index.part_offset[part]), int(self.index.part_length[part]), "timelines")


@dataclass(frozen=True, slots=True, eq=False)
class _GroupValues:
    """Reads rows of one group, shifted so that each begins where its line begins."""

    block: Block
    offset: int
    length: int
    members: NDArray[np.intp]
    line_of: NDArray[np.intp]
    skip: NDArray[np.intp]
    width: int

    def read(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """[len(rows), at least the longest line]."""
        values = self.block._values(self.offset, self.length, self.members[rows])
        skip = self.skip[self.line_of[rows]]
        if (skip == skip[0]).all():
            return values[:, int(skip[0]) :]
        at = np.minimum(skip[:, None] + np.arange(self.width), values.shape[1] - 1)
        return np.take_along_axis(values, at, axis=1)
