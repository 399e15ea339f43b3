"""Rows of several blocks, joined once and kept: dashboards ask for the same series again and again.

Blocks never change, so what matchers choose from some of them doesn't either. A query then cuts its range out of one
piece, instead of matching, unpacking and joining those of each block anew. What is asked for the first time is not
kept: joining whole blocks takes longer than the part of them that a query needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from common.labels import Labels, Matcher
from common.tsdb.block import BEFORE_HEAD, Block, shifted
from common.tsdb.blocks import block_pieces
from common.tsdb.cache import DecodeCache
from common.tsdb.index import LabelCache
from common.tsdb.join import Lines, Piece, join_rows
from common.tsdb.querier import Budget, ValueKind

MAX_CELLS: Final = 1 << 21
SHARE: Final = 64
"""A cell for each so many bytes of the cache: an eighth of it."""
_ROW_BYTES: Final = 200
_MARK_BYTES: Final = 500
_ONCE: Final = "asked for once"
_NOT_KEPT: Final = "not kept"

# Annotations of inner functions are evaluated with each call of the outer one: these took half of `Kept.between`.
_Numbers = NDArray[np.intp]
_Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """Joined rows: `values` float64 [S, W] on `lines`, row s on line `line_of[s]`; no print occurs twice."""

    prints: NDArray[np.uint64]
    labels: list[Labels]
    values: NDArray[np.float64]
    lines: Lines
    line_of: NDArray[np.intp]

    @property
    def size(self) -> int:
        """Bytes, about."""
        return self.values.nbytes + self.lines.times.nbytes + _ROW_BYTES * len(self.labels)

    def between(self, start: int, end: int) -> Piece[Labels]:
        """What lies between two times (inclusive)."""
        lines, skips = self.lines.between(start, end)
        prints, line_of, rows = self.prints, self.line_of, None
        alive = lines.lengths > 0
        if not alive.all():
            rows = np.flatnonzero(alive[line_of])
            prints, line_of = prints[rows], (np.cumsum(alive) - 1)[line_of[rows]]
            lines, skips = lines.only(np.flatnonzero(alive)), skips[alive]
        width, first = lines.times.shape[1], int(skips[0]) if len(skips) else 0
        even = len(skips) == 1 or bool((skips == first).all())

        def values(some: _Numbers) -> _Values:
            at = some if rows is None else rows[some]
            if not even:
                return shifted(self.values[at], skips[line_of[some]], width)
            part = self.values[:, first : first + width]
            every = len(at) == len(part) and (len(at) == 1 or bool((np.diff(at) == 1).all()))
            return part if every else part[at]

        def labels(some: _Numbers) -> list[Labels]:
            return [self.labels[row] for row in (some if rows is None else rows[some]).tolist()]

        return Piece(prints, lines, line_of, values, labels)


def kept(
    blocks: Sequence[Block],
    matchers: Sequence[Matcher],
    cache: DecodeCache,
    labels: LabelCache,
    budget: Budget | None = None,
) -> Sequence[Kept] | None:
    """What matchers choose from blocks (by rank), as it is kept in `cache`: there is at most one.

    None if it isn't: it is asked for the first time, has too many cells, or histograms. `budget` may end the joining.
    """
    key = ("kept", tuple([block.serial for block in blocks]), *matchers)
    found: Sequence[Kept] | str | None = cache.peek(key)
    if found is None:
        cache.put(key, _ONCE, _MARK_BYTES)
        return None
    if found is _ONCE:
        joined = _joined(blocks, matchers, labels, min(MAX_CELLS, cache.limit // SHARE), budget)
        found = _NOT_KEPT if joined is None else joined
        cache.put(key, found, _MARK_BYTES + sum(each.size for each in joined or ()))
    return None if isinstance(found, str) else found


def _joined(
    blocks: Sequence[Block], matchers: Sequence[Matcher], cache: LabelCache, max_cells: int, budget: Budget | None
) -> Sequence[Kept] | None:
    pieces: list[Piece[tuple[int, Labels]]] = []
    cells = 0
    for block in blocks:
        series = block.match(matchers)
        cells += len(series) * (block.footer.samples // max(1, block.series) + 1)
        # Where floats and histograms of a series meet, it matters which block had which.
        mixed = len(block.of_kind(series, ValueKind.HISTOGRAM)) > 0
        if cells > max_cells or mixed:
            return None
        found_in = block_pieces(block, (), matchers, block.min, block.max, cache)
        pieces += [_printed(piece, budget) for piece in found_in]
    found = []
    for batch in join_rows(pieces, None, max_cells=1 << 62):
        if batch.values.size > max_cells:
            return None
        lines = Lines(batch.timelines.times, batch.timelines.lengths, batch.timelines.stale, BEFORE_HEAD)
        prints = np.array([each for each, _ in batch.labels], np.uint64)
        found.append(Kept(prints, [each for _, each in batch.labels], batch.values, lines, batch.timeline_of))
    return found


def _printed(piece: Piece[Labels], budget: Budget | None) -> Piece[tuple[int, Labels]]:
    """The piece with its rows named by print and label set; the budget is asked before each reading."""

    def values(rows: NDArray[np.intp]) -> NDArray[np.float64]:
        if budget is not None:
            budget.charge(0)
        return piece.values(rows)

    def named(rows: NDArray[np.intp]) -> list[tuple[int, Labels]]:
        return list(zip(piece.prints[rows].tolist(), piece.labels(rows), strict=True))

    return Piece(piece.prints, piece.lines, piece.line_of, values, named)
