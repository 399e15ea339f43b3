"""The directory of blocks: opening, cutting, compacting and dropping them."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import FormatError
from common.files import Files
from common.labels import Labels, Matcher
from common.sample import MetricMeta
from common.tsdb.block import Block, Name
from common.tsdb.build import Origin, Shape, build
from common.tsdb.cache import DecodeCache
from common.tsdb.index import Interner, LabelCache
from common.tsdb.join import Piece

HOUR = 3_600_000
WINDOW = 2 * HOUR
DAY = 24 * HOUR
DAY_SHAPE = Shape(rows=32, slots=1920)


class Blocks:
    """All blocks of a store. `current` is a snapshot; changing it needs `lock`."""

    def __init__(self, directory: Path, files: Files, lock: threading.RLock, cache: DecodeCache) -> None:
        self._directory = directory
        self._files = files
        self._lock = lock
        self.cache = cache
        self.interner = Interner()
        self.labels = LabelCache()
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
        temporary = build(
            self._files, self._directory, self.number, origins, rank=rank, log=log, meta=meta, shape=shape
        )
        paths = []
        for path in temporary:
            self.bytes_written += path.stat().st_size
            final = path.with_suffix("")
            self._files.replace(path, final)
            paths.append(final)
        if paths:
            self._files.sync_dir(self._directory)
        return paths

    def swap(self, add: Iterable[Path], remove: Sequence[Block], then: Callable[[], None] = lambda: None) -> None:
        """Make new blocks readable in place of others, at one instant with `then()`; the others' files go."""
        new = [Block(path, self.cache, self.interner) for path in add]
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
            chosen = [self.current[i] for i in group]
            origins = [BlockOrigin(block) for block in chosen]
            rank = min(block.footer.rank for block in chosen)
            log = min(block.footer.log for block in chosen)
            self.swap(self.write(origins, meta, log=log, rank=rank, shape=shape), chosen)
            return True
        return False

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

    Blocks of one window that overlap in time are merged; then all blocks of a day that ends before `before`, unless
    all but one are few and small. Nothing is merged beyond 1 GiB.
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
    for members in windows.values():
        overlapping = [
            i
            for i in members
            if any(i != j and blocks[i][0] <= blocks[j][1] and blocks[j][0] <= blocks[i][1] for j in members)
        ]
        if len(overlapping) > 1:
            yield overlapping, Shape()


@dataclass(frozen=True, slots=True, eq=False)
class BlockOrigin:
    """All rows of a block, for a merge."""

    block: Block

    def metrics(self) -> Mapping[str, int]:
        """As Origin.metrics."""
        return self.block.metrics()

    def pieces(self, metrics: frozenset[str]) -> Iterator[Piece[Name]]:
        """As Origin.pieces."""
        for metric, series in self.block.all(metrics):
            for members, piece in self.block.pieces(metric, series, self.block.min, self.block.max):
                yield _renamed(piece, self.block.names(metric, members))


def _renamed(piece: Piece[int], names: list[Name]) -> Piece[Name]:
    return Piece(
        piece.prints, piece.lines, piece.line_of, piece.values, lambda rows: [names[row] for row in rows.tolist()]
    )


def block_pieces(
    block: Block, matchers: Sequence[Matcher], start: int, end: int, cache: LabelCache, lock: threading.RLock
) -> Iterator[Piece[Labels]]:
    """What a query reads from a block."""
    for metric, series in block.match(matchers):
        for members, piece in block.pieces(metric, series, start, end):
            yield Piece(
                piece.prints,
                piece.lines,
                piece.line_of,
                piece.values,
                _Labelled(block, metric, members, cache, lock).read,
            )


@dataclass(frozen=True, slots=True, eq=False)
class _Labelled:
    block: Block
    metric: int
    members: NDArray[np.intp]
    cache: LabelCache
    lock: threading.RLock

    def read(self, rows: NDArray[np.intp]) -> list[Labels]:
        with self.lock:
            return self.block.labels(self.metric, self.members[rows], self.cache)
