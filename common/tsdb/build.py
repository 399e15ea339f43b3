"""Writes blocks: takes rows of any origin, joins them, sorts them by metric and target, and encodes them in groups."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from common.frames.model import SubSchema
from common.labels import Labels
from common.sample import MetricMeta
from common.tsdb.block import (
    HEADER,
    MAGIC,
    PART_SLOTS,
    VERSION,
    BlockIndex,
    Footer,
    MetricEntry,
    encode_index,
    pack_footer,
    pack_part,
)
from common.tsdb.index import Name
from common.tsdb.join import Joined, Lines, Piece
from common.tsdb.kinds import JoinedHistograms, Pool, as_objects, join_kinds, only
from common.tsdb.native import Stored, encode_group
from common.tsdb.querier import ValueKind
from common.tsdb.rows import encode_rows
from common.tsdb.timelines import Times, encode_timelines

ROWS: Final = 128
SLOTS: Final = 480
BATCH_CELLS: Final = 1 << 20
"""Cells that are joined at once: 8 MB of values and of what names their rows."""
ROW_CELLS: Final = 64
"""Cells that a row counts for beside its own: what names it takes half a kilobyte."""
GROUP_WORDS: Final = 1 << 20
"""Words of a group of histograms, unless one alone has more."""
MAX_BLOCK_BYTES: Final = 1 << 30


class Sink(Protocol):
    """Where the bytes of a block go: a part of `common.files.Appender`."""

    @property
    def size(self) -> int:
        """Bytes written."""
        ...

    def write(self, data: bytes) -> None:
        """Append all of `data`."""
        ...

    def sync(self) -> None:
        """Make everything written durable."""
        ...

    def close(self) -> None:
        """Release it; idempotent."""
        ...


class Output(Protocol):
    """Where blocks come into being: a part of `common.files.Files`."""

    def create(self, path: Path) -> Sink:
        """A new, empty one."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove one; a missing one is no error."""
        ...


class Origin(Protocol):
    """Where rows for a block come from."""

    def metrics(self) -> Mapping[str, int]:
        """Metric names with bounds of their cells."""
        ...

    def rows(self) -> Mapping[str, int]:
        """How many rows there are of each metric."""
        ...

    def pieces(self, metrics: frozenset[str]) -> Iterator[Piece[Name]]:
        """Rows of these metrics, in the block's time range."""
        ...

    def histograms(self, metrics: frozenset[str], pool: Pool) -> Iterator[Piece[Name]]:
        """The same of native histograms, numbered by `pool`."""
        ...


@dataclass(frozen=True, slots=True)
class Shape:
    """How samples are cut into groups: rows and slots of a group, and zstd's level."""

    rows: int = ROWS
    slots: int = SLOTS
    level: int = 3


_TARGET_LABELS: Final = ("instance", "job")


class BlockWriter:
    """Writes one block, metric by metric. Use `build`."""

    def __init__(self, files: Output, path: Path, number: int, shape: Shape) -> None:
        self._shape = shape
        self._header = HEADER.pack(MAGIC, VERSION, number)
        self._file = files.create(path)
        self._file.write(self._header)
        self._targets: dict[Labels, int] = {}
        self._metrics: list[MetricEntry] = []
        self._lines: dict[bytes, int] = {}
        self._waiting: list[Times] = []
        self._line_first: list[int] = []
        self._line_last: list[int] = []
        self._waiting_slots = 0
        self._parts: list[tuple[int, int, int]] = []
        self.samples = 0
        self.series = 0

    @property
    def size(self) -> int:
        """Bytes written."""
        return self._file.size

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _part(self, body: bytes) -> tuple[int, int]:
        data = pack_part(body, self._shape.level)
        at = self._file.size
        self._file.write(data)
        return at, len(data)

    def _line(self, times: NDArray[np.int64], stale: NDArray[np.bool_] | None) -> int:
        if stale is not None and not stale.any():
            stale = None
        digest = hashlib.blake2b(times.tobytes(), digest_size=16, salt=b"" if stale is None else b"stale")
        if stale is not None:
            digest.update(stale.tobytes())
        number = self._lines.setdefault(digest.digest(), len(self._lines))
        if number == len(self._line_first):
            self._waiting.append((times.copy(), None if stale is None else stale.copy()))
            self._line_first.append(int(times[0]))
            self._line_last.append(int(times[-1]))
            self._waiting_slots += len(times)
            if self._waiting_slots >= PART_SLOTS:
                self._flush_lines()
        return number

    def _flush_lines(self) -> None:
        if self._waiting:
            first = len(self._line_first) - len(self._waiting)
            self._parts.append((first, *self._part(encode_timelines(self._waiting))))
            self._waiting.clear()
            self._waiting_slots = 0

    def add(self, metric: str, kind: ValueKind, rows: list["_Row"], meta: Sequence[MetricMeta]) -> None:
        """Write all rows of one metric and kind, in the order given."""
        places: dict[Labels, int] = {}
        row_of, target_of = [], []
        for row in rows:
            labels, target = row.split()
            row_of.append(places.setdefault(labels, len(places)))
            target_of.append(self._targets.setdefault(target, len(self._targets)))
        groups: list[tuple[int, int, int, int]] = []
        series: list[int] = []
        lines: list[int] = []
        start = [0]
        widths = np.array([row.width for row in rows])
        slots = self._shape.slots
        if kind is ValueKind.HISTOGRAM:
            largest = max(row.words(at, at + 1) for row in rows for at in range(row.width))
            slots = max(1, min(slots, GROUP_WORDS // largest))
        for window in range(0, int(widths.max()), slots):
            long = np.flatnonzero(widths > window)
            for members in self._members(kind, rows, long.tolist(), window, slots):
                chosen = [rows[m] for m in members]
                if kind is ValueKind.FLOAT:
                    body, numbers = self._group(chosen, window)
                else:
                    body, numbers = self._histograms(chosen, window, slots)
                first = min(self._line_first[n] for n in numbers)
                groups.append((*self._part(body), first, max(self._line_last[n] for n in numbers)))
                series += members
                lines += numbers
                start.append(len(series))
        offset, length, first, last = np.array(groups, np.int64).T.copy()
        self._metrics.append(
            MetricEntry(
                SubSchema(metric, tuple(places), tuple(meta)),
                np.array(row_of, np.int32),
                np.array(target_of, np.int32),
                offset,
                length,
                first,
                last,
                np.array(start, np.int64),
                np.array(series, np.int32),
                np.array(lines, np.int32),
                sum(row.words(0, row.width) for row in rows) if kind is ValueKind.HISTOGRAM else int(widths.sum()),
                kind,
            )
        )
        self.series += len(rows)

    def _members(
        self, kind: ValueKind, rows: list["_Row"], chosen: list[int], window: int, slots: int
    ) -> Iterator[list[int]]:
        """Rows that go into one group."""
        if kind is ValueKind.FLOAT:
            for at in range(0, len(chosen), self._shape.rows):
                yield chosen[at : at + self._shape.rows]
            return
        group: list[int] = []
        words = 0
        for member in chosen:
            more = rows[member].words(window, window + slots)
            if group and (words + more > GROUP_WORDS or len(group) >= max(1, self._shape.rows // 8)):
                yield group
                group, words = [], 0
            group.append(member)
            words += more
        yield group

    def _histograms(self, rows: list["_Row"], window: int, slots: int) -> tuple[bytes, list[int]]:
        """As `_group`, for histograms."""
        lines: list[int] = []
        cells: list[list[Stored | None]] = []
        for row in rows:
            line = row.joined.timelines[row.timeline]
            end = min(window + slots, row.width)
            stale = None if line.stale is None else line.stale[window:end]
            lines.append(self._line(line.timestamps[window:end], stale))
            cells.append(row.cells(window, end))
            self.samples += end - window
        return encode_group(cells), lines

    def _group(self, rows: list["_Row"], window: int) -> tuple[bytes, list[int]]:
        """Encoded values of rows from slot `window` on, and the numbers of their lines."""
        lines: list[int] = []
        width = max(min(row.width - window, self._shape.slots) for row in rows)
        values = np.zeros((len(rows), width))
        void = np.zeros((len(rows), width), np.bool_)
        known: dict[tuple[int, int], tuple[int, NDArray[np.bool_] | None]] = {}
        for r, row in enumerate(rows):
            line = row.joined.timelines[row.timeline]
            end = min(window + width, row.width)
            key = (id(row.joined), row.timeline)
            if key not in known:
                stale = None if line.stale is None else line.stale[window:end]
                known[key] = self._line(line.timestamps[window:end], stale), stale
            number, stale = known[key]
            assert isinstance(row.joined, Joined)
            values[r, : end - window] = row.joined.values[row.row, window:end]
            void[r, end - window :] = True
            if stale is not None:
                void[r, : end - window] = stale
            lines.append(number)
            self.samples += end - window
        if void.any():
            where = np.where(void, 0, np.arange(1, width + 1))
            np.maximum.accumulate(where, axis=1, out=where)
            values = np.take_along_axis(np.concatenate((np.zeros((len(rows), 1)), values), axis=1), where, axis=1)
        return encode_rows(values), lines

    def finish(self, rank: int, log: int) -> Footer:
        """Write timelines, index and footer, and make the file durable."""
        self._flush_lines()
        index = BlockIndex(
            list(self._targets),
            self._metrics,
            np.array(self._line_first, np.int64),
            np.array(self._line_last, np.int64),
            *np.array(self._parts, np.int64).reshape(-1, 3).T,
        )
        offset, length = self._part(encode_index(index))
        low, high = min(self._line_first), max(self._line_last)
        footer = Footer(offset, length, low, high, self.samples, self.series, rank, log)
        self._file.write(pack_footer(footer, self._header))
        self._file.sync()
        return footer


@dataclass(slots=True, eq=False)
class _Row:
    joined: Joined[Name] | JoinedHistograms[Name]
    row: int
    timeline: int
    width: int
    name: Name

    def cells(self, begin: int, end: int) -> list[Stored | None]:
        """Its histograms in some slots."""
        assert isinstance(self.joined, JoinedHistograms)
        found: list[Stored | None] = self.joined.cells[self.row, begin:end].tolist()
        return found

    def words(self, begin: int, end: int) -> int:
        """What these take in memory."""
        return sum(32 if each is None else each.words for each in self.cells(begin, min(end, self.width)))

    def split(self) -> tuple[Labels, Labels]:
        """Row labels, and those target labels that the row doesn't name itself."""
        index, row, target = self.name
        labels = index.rows[row]
        if not target.names:
            # A label set that came whole: parted like the others, its rows are shared by many targets.
            return labels.drop(_TARGET_LABELS), labels.keep(_TARGET_LABELS)
        if target.names.isdisjoint(index.columns()):
            return labels, target.labels
        return labels, target.labels.drop([name for name, _ in labels])


def build(
    files: Output,
    directory: Path,
    number: Callable[[], int],
    origins: Sequence[Origin],
    *,
    rank: int | None,
    log: int,
    meta: Callable[[str], Sequence[MetricMeta]],
    shape: Shape,
    dropped: Callable[[int], None] = lambda count: None,
) -> list[Path]:
    """Write all rows of `origins` to new blocks in `directory` (more than one only beyond 1 GiB); their paths.

    Rows of one label set are joined, first arrival first. Files have the suffix `.tmp`: rename them once all are there.
    OSError leaves nothing behind. `rank` None: the block's own number. `dropped` is told of samples that were left out
    because another one of their timestamp came first.
    """
    sizes: dict[str, int] = {}
    for origin in origins:
        for name, cells in origin.metrics().items():
            sizes[name] = sizes.get(name, 0) + cells
        for name, many in origin.rows().items():
            sizes[name] = sizes.get(name, 0) + ROW_CELLS * many
    written: list[Path] = []
    writer: BlockWriter | None = None
    current = 0
    of_rows: list[NDArray[np.intp]] = []
    try:
        for names, share, shares in _batches(sizes):
            by_metric: dict[tuple[str, ValueKind], list[_Row]] = {}
            pool = Pool()
            pieces = [piece for origin in origins for piece in origin.pieces(names)]
            native = [piece for origin in origins for piece in origin.histograms(names, pool)]
            if shares > 1:
                if not share:
                    of_rows = _shares([*pieces, *native], shares)
                chosen = [np.flatnonzero(each == share) for each in of_rows]
                pieces = [only(*each) for each in zip(pieces, chosen, strict=False)]
                native = [only(*each) for each in zip(native, chosen[len(pieces) :], strict=True)]
            for joined in join_kinds(pieces, native, pool, None, as_objects):
                _collect(joined, by_metric)
                dropped(joined.dropped)
            for metric, kind in sorted(by_metric):
                rows = by_metric[metric, kind]
                rows.sort(key=_place)
                if writer is None:
                    current = number()
                    path = directory / f"{current:08d}.blk.tmp"
                    files.unlink(path)
                    writer = BlockWriter(files, path, current, shape)
                    written.append(path)
                writer.add(metric, kind, rows, meta(metric))
                if writer.size > MAX_BLOCK_BYTES:
                    writer.finish(current if rank is None else rank, log)
                    writer.close()
                    writer = None
        if writer is not None:
            writer.finish(current if rank is None else rank, log)
    except BaseException:
        if writer is not None:
            writer.close()
        for path in written:
            with contextlib.suppress(OSError):
                files.unlink(path)
        raise
    if writer is not None:
        writer.close()
    return written


def _batches(sizes: Mapping[str, int]) -> Iterator[tuple[frozenset[str], int, int]]:
    """Metric names in batches of bounded cells; one that is larger alone comes in several shares of its series."""
    batch: list[str] = []
    cells = 0
    for name in sorted(sizes):
        if batch and cells + sizes[name] > BATCH_CELLS:
            yield frozenset(batch), 0, 1
            batch, cells = [], 0
        if sizes[name] > BATCH_CELLS:
            shares = -(-sizes[name] // BATCH_CELLS)
            for share in range(shares):
                yield frozenset([name]), share, shares
            continue
        batch.append(name)
        cells += sizes[name]
    if batch:
        yield frozenset(batch), 0, 1


def _shares(pieces: Sequence[Piece[Name]], shares: int) -> list[NDArray[np.intp]]:
    """The share of each row of some pieces, of about as many cells each: device by device, a label set in one only."""
    names = [name for piece in pieces for name in piece.labels(np.arange(len(piece.prints)))]
    if not names:
        return [np.empty(0, np.intp) for _ in pieces]
    of_names = [_device(name) for name in names]
    number = {device: at for at, device in enumerate(sorted(set(of_names)))}
    devices = np.array([number[device] for device in of_names], np.intp)
    prints = np.concatenate([piece.prints for piece in pieces])
    lengths = [Lines.of(piece.lines).lengths[piece.line_of] for piece in pieces]
    cells = np.concatenate(lengths, dtype=np.int64) + ROW_CELLS
    order = np.lexsort((prints, devices))
    ends = np.cumsum(cells[order])
    first = np.diff(prints[order], prepend=~prints[order[0]]) != 0
    begins = np.maximum.accumulate(np.where(first, ends - cells[order], 0))
    found = np.empty(len(names), np.intp)
    found[order] = begins * shares // ends[-1]
    return np.split(found, np.cumsum([len(piece.prints) for piece in pieces])[:-1])


def _device(name: Name) -> tuple[str, ...]:
    """What tells whose a series is, however its labels are parted."""
    index, row, target = name
    labels = index.rows[row]
    return tuple([labels.get(label) or target.values.get(label, "") for label in _TARGET_LABELS])


def _collect(joined: Joined[Name] | JoinedHistograms[Name], by_metric: dict[tuple[str, ValueKind], list[_Row]]) -> None:
    kind = ValueKind.FLOAT if isinstance(joined, Joined) else ValueKind.HISTOGRAM
    widths = [len(line.timestamps) for line in joined.timelines]
    for row, (name, timeline) in enumerate(zip(joined.labels, joined.timeline_of.tolist(), strict=True)):
        metric = name[0].rows[name[1]].name
        by_metric.setdefault((metric, kind), []).append(_Row(joined, row, timeline, widths[timeline], name))


def _place(row: _Row) -> tuple[int, int, int]:
    index, at, target = row.name
    return target.serial, index.serial, at
