"""The directory of blocks: opening, cutting, compacting and dropping them."""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import FormatError, StorageError
from common.files import Files, write_atomic
from common.frames.varint import Reader, put_uvarint
from common.labels import Labels, Matcher
from common.sample import MetricMeta
from common.tsdb.block import Block, pack_part, unpack_part
from common.tsdb.build import Origin, Shape, build
from common.tsdb.cache import DecodeCache
from common.tsdb.deletion import Deletion, punched
from common.tsdb.index import Interner, LabelCache, Name
from common.tsdb.join import L, Piece
from common.tsdb.kinds import Pool
from common.tsdb.querier import ValueKind

HOUR = 3_600_000
WINDOW = 2 * HOUR
DAY = 24 * HOUR
MAX_PER_WINDOW = 8
"""Blocks of two hours, cut early for want of memory, before they are merged."""
MAX_PER_ENDED_WINDOW = 2
"""The same once the two hours are over: each block has an index of its own, which queries want in memory."""
MAX_HELD = 12
"""Blocks whose indexes stay open while they are merged."""
DELETIONS = "deletions"
DAY_SHAPE = Shape(rows=32, slots=1920)


class Blocks:
    """All blocks of a store. `current` is a snapshot; changing it needs `lock`."""

    def __init__(
        self, directory: Path, files: Files, lock: threading.RLock, cache: DecodeCache, interner: Interner
    ) -> None:
        self._directory = directory
        self._files = files
        self._lock = lock
        self.cache = cache
        self.interner = interner
        self.deletions: tuple[Deletion, ...] = ()
        self.duplicates = 0
        """Samples found to be repeats of another's timestamp when blocks were written."""
        self._next = 1
        self.current: tuple[Block, ...] = ()
        self.quarantined: list[str] = []
        self.bytes_written = 0

    def open(self, quarantine: Path) -> None:
        """Open all that are there: damaged ones move to `quarantine`, unfinished ones are removed."""
        for path in self._directory.glob("*.tmp"):
            self._files.unlink(path)
        found: list[Block] = []
        for path in sorted(self._directory.glob("*.blk")):
            if path.stem.isdigit():
                self._next = max(self._next, int(path.stem) + 1)
            try:
                found.append(Block(path, self.cache, self.interner))
            except FormatError:
                self._files.replace(path, quarantine / path.name)
                self.quarantined.append(path.name)
        self.current = tuple(sorted(found, key=lambda block: block.footer.rank))
        self._load_deletions(quarantine)

    def _load_deletions(self, quarantine: Path) -> None:
        path = self._directory / DELETIONS
        if not path.exists():
            return
        try:
            reader = Reader(unpack_part(path.read_bytes(), DELETIONS))
            for _ in range(reader.count()):
                self.delete(Deletion.unpack(reader.take(reader.uvarint())))
            reader.end()
        except FormatError:
            self._files.replace(path, quarantine / DELETIONS)
            self.quarantined.append(DELETIONS)

    def delete(self, deletion: Deletion) -> None:
        """Leave samples out of what is read from blocks that are there now."""
        # Numbers that no block got are given again after a restart, but none that a deletion is meant for.
        self._next = max(self._next, deletion.blocks)
        if deletion not in self.deletions and self._affected(deletion):
            self.deletions = (*self.deletions, deletion)

    def _affected(self, deletion: Deletion) -> list[Block]:
        return [
            block
            for block in self.current
            if block.number < deletion.blocks and block.min <= deletion.end and block.max >= deletion.start
        ]

    def save_deletions(self) -> None:
        """Make deletions durable, without those that no block is left for. OSError as usual."""
        with self._lock:
            self.deletions = tuple(each for each in self.deletions if self._affected(each))
            out = bytearray()
            put_uvarint(out, len(self.deletions))
            for each in self.deletions:
                body = each.pack()
                put_uvarint(out, len(body))
                out += body
        write_atomic(self._directory / DELETIONS, pack_part(bytes(out), 3), self._files)

    def deleted_from(self, block: Block) -> list[Deletion]:
        """Deletions that concern a block."""
        return [each for each in self.deletions if block in self._affected(each)]

    def clean(self, meta: Callable[[str], Sequence[MetricMeta]]) -> int:
        """Write blocks with deletions anew, without what is gone; how many."""
        marked = [block for block in self.current if self.deleted_from(block)]
        for block in marked:
            self._rewrite([block], meta, Shape())
        self.save_deletions()
        return len(marked)

    def between(self, start: int, end: int) -> "list[tuple[Block, list[Deletion]]]":
        """Blocks with samples between two times (inclusive), and what was deleted from each."""
        return [(b, self.deleted_from(b)) for b in self.current if b.min <= end and b.max >= start]

    def number(self) -> int:
        """A number that no block has had."""
        with self._lock:
            self._next += 1
            return self._next - 1

    def covers(self, segment: int, first: int, last: int) -> list[tuple[int, int]]:
        """Time ranges (inclusive) inside first..last for which blocks hold all that WAL segment `segment` holds."""
        return [
            (block.min, block.max)
            for block in self.current
            if block.footer.log > segment and block.min <= last and block.max >= first
        ]

    def write(
        self,
        origins: Sequence[Origin],
        meta: Callable[[str], Sequence[MetricMeta]],
        *,
        log: int,
        rank: int | None = None,
        shape: Shape,
    ) -> list[Path]:
        """Write blocks and give them their names, durably; they are read only after `swap`. OSError leaves nothing."""
        dropped: list[int] = []
        temporary = build(
            self._files, self._directory, self.number, origins,
            rank=rank, log=log, meta=meta, shape=shape, dropped=dropped.append,
        )  # fmt: skip
        paths = [path.with_suffix("") for path in temporary]
        try:
            for path, final in zip(temporary, paths, strict=True):
                self.bytes_written += path.stat().st_size
                self._files.replace(path, final)
            if paths:
                self._files.sync_dir(self._directory)
        except OSError:
            self.discard([*temporary, *paths])
            raise
        self.duplicates += sum(dropped)
        return paths

    def discard(self, paths: Sequence[Path]) -> None:
        """Remove blocks that were written and are not wanted, later ones first; never fails."""
        for path in reversed(paths):
            with contextlib.suppress(OSError):
                self._files.unlink(path)

    def swap(self, add: Iterable[Path], remove: Sequence[Block], then: Callable[[], None] = lambda: None) -> None:
        """Make new blocks readable in place of others, at one instant with `then()`; the others' files go."""
        add = list(add)
        try:
            new = [Block(path, self.cache, self.interner) for path in add]
        except (OSError, FormatError) as err:
            self.discard(add)
            raise StorageError(f"cannot read back a block that was just written: {err}") from err
        with self._lock:
            kept = [block for block in self.current if block not in remove]
            self.current = tuple(sorted([*kept, *new], key=lambda block: block.footer.rank))
            then()
        for block in remove:
            self._files.unlink(block.path)
        if remove:
            self._files.sync_dir(self._directory)

    def compact(self, before: int, meta: Callable[[str], Sequence[MetricMeta]]) -> bool:
        """Do the most pressing merge, if there is one: overlapping blocks first, then days that end before `before`."""
        for group, shape in plan([(b.min, b.max, b.size) for b in self.current], before):
            self._rewrite([self.current[i] for i in group], meta, shape)
            return True
        return False

    def _rewrite(self, chosen: list[Block], meta: Callable[[str], Sequence[MetricMeta]], shape: Shape) -> None:
        origins = [BlockOrigin(block, self.deleted_from(block)) for block in chosen]
        rank = min(block.footer.rank for block in chosen)
        last = max(block.max for block in chosen)
        # What one block says of the log up to its own last time, it says of all blocks that end before.
        log = max(block.footer.log for block in self.current if block.max >= last)
        # Each batch of metrics asks all of them: the first stay open, be there room for all or not.
        held = [block.opened() for block in chosen[:MAX_HELD]]
        paths = self.write(origins, meta, log=log, rank=rank, shape=shape)
        held.clear()
        self.swap(paths, chosen)

    def drop(self, unneeded: Callable[[Block], bool]) -> int:
        """Remove blocks; how many."""
        gone = [block for block in self.current if unneeded(block)]
        if gone:
            self.swap((), gone)
        return len(gone)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(block.size for block in self.current)

    def close(self) -> None:
        """Release all files."""
        for block in self.current:
            block.close()


def plan(blocks: Sequence[tuple[int, int, int]], before: int) -> Iterator[tuple[list[int], Shape]]:
    """Merges worth doing, most pressing first: positions in `blocks` (min, max, bytes) and the shape of the result.

    `blocks` stand in order of rank, and what is merged has the lowest one. Blocks of one window that overlap in time,
    or are many (fewer are once it ends before `before`), are merged; then all of a day that ends before `before`,
    unless all but one are few and small. Nothing is merged beyond 1 GiB.
    """
    windows: dict[int, list[int]] = {}
    days: dict[int, list[int]] = {}
    for i, (low, high, _) in enumerate(blocks):
        if low // WINDOW == high // WINDOW:
            windows.setdefault(low // WINDOW, []).append(i)
        if low // DAY == high // DAY:
            days.setdefault(low // DAY, []).append(i)
    for day, members in sorted(days.items()):
        sizes = sorted(blocks[i][2] for i in members)
        # A little that came late doesn't have a whole day written again.
        worth = len(members) > 4 or sum(sizes[:-1]) * 8 > sizes[-1]
        if len(members) > 1 and worth and (day + 1) * DAY <= before and sum(sizes) < 1 << 30:
            yield members, DAY_SHAPE
    for window, members in ((window, run) for window, each in windows.items() for run in _runs(each, blocks)):
        most = MAX_PER_ENDED_WINDOW if (window + 1) * WINDOW <= before else MAX_PER_WINDOW
        overlapping = [
            i
            for i in members
            if any(i != j and blocks[i][0] <= blocks[j][1] and blocks[j][0] <= blocks[i][1] for j in members)
        ]
        if len(overlapping) > 1:
            yield overlapping, Shape()
        elif len(members) > most and sum(blocks[i][2] for i in members) < 1 << 30:
            yield members, Shape()


def _runs(members: Sequence[int], blocks: Sequence[tuple[int, int, int]]) -> Iterator[list[int]]:
    """Blocks of a window (ascending), parted where a merge would put samples before those of a larger block's rank."""
    run: list[int] = []
    for each in members:
        low, high, _ = blocks[each]
        if run and any(
            between not in members and blocks[between][0] <= high and blocks[between][1] >= low
            for between in range(run[0] + 1, each)
        ):
            yield run
            run = []
        run.append(each)
    yield run


@dataclass(frozen=True, slots=True, eq=False)
class BlockOrigin:
    """All rows of a block, for a merge, less what was deleted; between two times (inclusive), if they are given."""

    block: Block
    deletions: Sequence[Deletion] = ()
    start: int | None = None
    end: int | None = None

    def metrics(self) -> Mapping[str, int]:
        """As Origin.metrics."""
        return self.block.metrics()

    def rows(self) -> Mapping[str, int]:
        """As Origin.rows."""
        return self.block.rows()

    def pieces(self, metrics: frozenset[str]) -> Iterator[Piece[Name]]:
        """As Origin.pieces."""
        return self._pieces(metrics, None)

    def histograms(self, metrics: frozenset[str], pool: Pool) -> Iterator[Piece[Name]]:
        """As Origin.histograms."""
        return self._pieces(metrics, pool) if self.block.has_histograms else iter(())

    def _pieces(self, metrics: frozenset[str], pool: Pool | None) -> Iterator[Piece[Name]]:
        block = self.block
        gone = _gone(block, self.deletions)
        series = block.of_kind(block.of_metrics(metrics), ValueKind.FLOAT if pool is None else ValueKind.HISTOGRAM)
        start = block.min if self.start is None else self.start
        end = block.max if self.end is None else self.end
        for members, piece in block.pieces(block.places(series), start, end, pool):
            yield _punch(_renamed(piece, block.names(members)), members, gone)


def _renamed(piece: Piece[int], names: list[Name]) -> Piece[Name]:
    return Piece(
        piece.prints, piece.lines, piece.line_of, piece.values, lambda rows: [names[row] for row in rows.tolist()]
    )


def block_pieces(
    block: Block,
    deletions: Sequence[Deletion],
    matchers: Sequence[Matcher],
    start: int,
    end: int,
    cache: LabelCache,
    pool: Pool | None = None,
) -> Iterator[Piece[Labels]]:
    """What a query reads from a block: floats, or with `pool`, by which they are then numbered, histograms."""
    gone = _gone(block, deletions)
    places = block.chosen(matchers, ValueKind.FLOAT if pool is None else ValueKind.HISTOGRAM)
    for members, piece in block.pieces(places, start, end, pool):
        labels = _Labelled(block, members, cache).read
        named = Piece(piece.prints, piece.lines, piece.line_of, piece.values, labels)
        yield _punch(named, members, gone) if gone else named


Gone = list[tuple[NDArray[np.bool_], int, int]]


def _gone(block: Block, deletions: Sequence[Deletion]) -> Gone:
    """For each deletion: which series of the block it concerns (bool), from when to when."""
    found = []
    for each in deletions:
        mask = np.zeros(block.series, np.bool_)
        mask[block.match(each.matchers)] = True
        found.append((mask, each.start, each.end))
    return found


def _punch(piece: Piece[L], members: NDArray[np.intp], gone: Gone) -> Piece[L]:
    mine = [(mask[members], start, end) for mask, start, end in gone if mask[members].any()]
    return punched(piece, mine) if mine else piece


@dataclass(frozen=True, slots=True, eq=False)
class _Labelled:
    block: Block
    members: NDArray[np.intp]
    cache: LabelCache

    def read(self, rows: NDArray[np.intp]) -> list[Labels]:
        return self.block.labels(self.members[rows], self.cache)
