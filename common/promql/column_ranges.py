"""Functions of windows of native histograms in columns: all windows at once whose histograms are of one kind.

Everything comes out as `functions.mixed_ranges` has it, to the bit; what this module leaves out is for that one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from common.histogram import ResetHint
from common.histogram_grid import HEAD, Block, Columns, Grid, Index, Spread, in_columns
from common.promql.matrix import Bools, Floats, Times
from common.promql.mixed import MixedSeries, Samples
from common.tsdb.querier import RowBatch

_EXACT = float(1 << 53)


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Results of the windows `done` [K]: histograms of `grid` [K], values [K] where `there` [K], else nothing."""

    done: Bools
    values: Floats
    there: Bools
    grid: Grid
    collision: bool = False
    """Whether hints contradict each other."""


@dataclass(frozen=True, eq=False)
class Windows:
    """The histograms of one series, markers left out, and windows of them: lo <= i < hi, none empty; limits in ms."""

    samples: Samples
    lo: Index
    hi: Index
    starts: Times
    ends: Times
    known: Index | None = None
    """Where it is known: `resets`."""

    @cached_property
    def block_of(self) -> Index:
        """The block of each sample."""
        return np.searchsorted(self.samples.grid.starts, self.samples.grid.places, "right") - 1

    @cached_property
    def row_of(self) -> Index:
        """Each sample's row in its block."""
        return self.samples.grid.places - self.samples.grid.starts[self.block_of]

    @cached_property
    def hints(self) -> NDArray[np.uint8]:
        """The samples' hints."""
        out = np.zeros(len(self.samples.times), np.uint8)
        for block, where, rows in self.samples.grid.parts():
            out[where] = block.hints[rows] if isinstance(block, Columns) else [each.hint for each in block[rows]]
        return out

    def any_of(self, marks: Bools) -> Bools:
        """Which windows hold a sample that is marked."""
        sums = np.concatenate(([0], np.cumsum(marks)))
        found: Bools = sums[self.hi] > sums[self.lo]
        return found

    @cached_property
    def uniform(self) -> Bools:
        """Which windows have columns of one kind only."""
        changes = np.concatenate(([0], np.cumsum(self.block_of[1:] != self.block_of[:-1])))
        columns = np.array([isinstance(block, Columns) for block in self.samples.grid.blocks], np.bool_)
        found: Bools = (changes[self.hi - 1] == changes[self.lo]) & columns[self.block_of[self.lo]]
        return found

    def pairs(self, differ: Callable[[Floats, Floats], Bools], otherwise: Callable[[int], bool], which: Index) -> Bools:
        """Of samples `which` (none is the first) what holds between each and the one before it.

        `differ(now, before)` tells it of rows of numbers, `otherwise(i)` of a sample whose kind is another one.
        """
        out = np.zeros(len(which), np.bool_)
        before, now = self.block_of[which - 1], self.block_of[which]
        for number in np.unique(now).tolist():
            block = self.samples.grid.blocks[number]
            mine = np.flatnonzero((now == number) & (before == number))
            if isinstance(block, Columns):
                at = which[mine]
                out[mine] = differ(block.numbers[self.row_of[at]], block.numbers[self.row_of[at - 1]])
                mine = np.flatnonzero((now == number) & (before != number))
            else:
                mine = np.flatnonzero(now == number)
            out[mine] = [otherwise(i) for i in which[mine].tolist()]
        return out

    @cached_property
    def resets(self) -> Index:
        """Samples that begin anew after the one before them."""
        if self.known is not None:
            return self.known
        flags = self.hints == ResetHint.RESET
        flags[:1] = False
        asked = 1 + np.flatnonzero((self.hints[1:] == ResetHint.UNKNOWN) | (self.hints[1:] == ResetHint.GAUGE))
        flags[asked] = self.fell(asked)
        return np.flatnonzero(flags)

    def fell(self, which: Index) -> Bools:
        """Which of some samples, whose hints don't tell, have lower counts than the one before them."""

        def differ(now: Floats, before: Floats) -> Bools:
            less: Bools = now < before
            # What was summed up may fall.
            less[:, 1] = False
            fallen: Bools = np.logical_or.reduce(less, axis=1)
            return fallen

        return self.pairs(differ, self._began, which)

    @cached_property
    def coarse(self) -> "tuple[Windows, Bools] | None":
        """The same with the coarsest resolution of all, and windows which it is right for; None if that is for none."""
        blocks = self.samples.grid.blocks
        kinds = [block.kind for block in blocks if isinstance(block, Columns)]
        if len(kinds) < max(2, len(blocks)) or len({(kind.zero_threshold, kind.custom) for kind in kinds}) > 1:
            return None
        if kinds[0].custom or self.uniform.all():
            return None
        schemas = np.array([kind.schema for kind in kinds])[self.block_of]
        least = int(schemas.min())
        anew = np.isin(self.lo + 1, self.resets)
        # What is before a reset between the first two does not count.
        sums = np.concatenate(([0], np.cumsum(schemas == least)))
        fit = ~self.uniform & (sums[self.hi] > sums[np.minimum(self.lo + anew, self.hi)])
        marks = np.zeros(len(schemas) + 1, np.int64)
        np.add.at(marks, self.lo[fit], 1)
        np.add.at(marks, self.hi[fit], -1)
        grid = self.samples.grid.only(np.cumsum(marks[:-1]) > 0)
        parts = [
            (block.take(rows).coarser(least), where)
            for block, where, rows in grid.parts()
            if isinstance(block, Columns)
        ]
        if not parts:
            return None
        samples = replace(self.samples, source=in_columns(parts, len(schemas)))
        return Windows(samples, self.lo, self.hi, self.starts, self.ends, self.resets), fit

    def _began(self, at: int) -> bool:
        before, now = self.samples.grid[at - 1 : at + 1].cells
        return bool(now.resets_after(before))

    def by_block(self, which: Bools) -> "list[tuple[Columns, Index]]":
        """Windows `which` (uniform ones) by the block of their histograms."""
        out = []
        block_of = self.block_of[self.lo]
        for number in np.unique(block_of[which]).tolist():
            block = self.samples.grid.blocks[number]
            assert isinstance(block, Columns)
            out.append((block, np.flatnonzero(which & (block_of == number))))
        return out


def _grid(blocks: list[Columns], where: list[Index], size: int) -> Grid:
    places = np.full(size, -1, np.intp)
    at = 0
    for block, mine in zip(blocks, where, strict=True):
        places[mine] = np.arange(at, at + len(block))
        at += len(block)
    found: list[Block] = [*blocks]
    return Grid(places, found)


def _histograms(w: Windows, done: Bools, found: list[tuple[Columns, Index]]) -> Found:
    size = len(w.lo)
    grid = _grid([columns for columns, _ in found], [where for _, where in found], size)
    return Found(done, np.zeros(size), np.zeros(size, np.bool_), grid)


def _gauges(like: Columns, numbers: Floats) -> Columns:
    return Columns(like.kind, like.spread, numbers, np.full(len(numbers), ResetHint.GAUGE, np.uint8))


def _rate(w: Windows, counter: bool, per_second: bool) -> Found | None:
    if w.samples.starts.any():
        return None
    many = w.hi - w.lo > 1
    gauge = w.hints == ResetHint.GAUGE
    if counter:
        fit = w.uniform & ~w.any_of(gauge)
    else:
        fit = w.uniform & gauge[w.lo] & gauge[w.hi - 1]
    found = [(_rise(w, block, mine, counter, per_second), mine) for block, mine in w.by_block(fit & many)]
    if counter and w.coarse is not None:
        coarse, mixed = w.coarse
        mixed &= many & ~w.any_of(gauge)
        found += [(_rise(coarse, block, mine, counter, per_second), mine) for block, mine in coarse.by_block(mixed)]
        fit = fit | mixed
    return _histograms(w, fit | ~many, found)


def _rise(w: Windows, block: Columns, mine: Index, counter: bool, per_second: bool) -> Columns:
    """What histograms of a block rose by in the windows `mine` of at least two."""
    lo, hi = w.lo[mine], w.hi[mine]
    rise = block.numbers[w.row_of[hi - 1]]
    first = block.numbers[w.row_of[lo]]
    if counter:
        resets = w.resets
        at, end = np.searchsorted(resets, lo + 1), np.searchsorted(resets, hi)
        # What was before a reset between the first two does not matter.
        anew = np.isin(lo + 1, resets)
        rise -= np.where(anew[:, None], 0.0, first) if anew.any() else first
        at = at + anew
        while (some := np.flatnonzero(at < end)).size:
            rise[some] += block.numbers[w.row_of[resets[at[some]] - 1]]
            at = at + 1
    else:
        rise -= first
    return _gauges(block, rise).scaled(_factors(w, mine, first[:, 0], rise[:, 0], counter, per_second))


def _factors(w: Windows, mine: Index, first: Floats, rise: Floats, counter: bool, per_second: bool) -> Floats:
    """By what the rise between first and last sample is extrapolated to the window."""
    times, lo, hi = w.samples.times, w.lo[mine], w.hi[mine]
    to_start, to_end = (times[lo] - w.starts[mine]) / 1000, (w.ends[mine] - times[hi - 1]) / 1000
    sampled = (times[hi - 1] - times[lo]) / 1000
    gap = sampled / (hi - 1 - lo)
    to_start = np.where(to_start >= gap * 1.1, gap / 2, to_start)
    if counter:
        with np.errstate(all="ignore"):
            zero = sampled * (first / rise)
            to_start = np.where((rise > 0) & (first >= 0) & (zero < to_start), zero, to_start)
    to_end = np.where(to_end >= gap * 1.1, gap / 2, to_end)
    factors: Floats = (sampled + to_start + to_end) / sampled
    return factors / ((w.ends[mine] - w.starts[mine]) / 1000.0) if per_second else factors


def _instant(w: Windows, counter: bool) -> Found | None:
    if w.samples.starts.any():
        return None
    many = w.hi - w.lo > 1
    now, before = w.hi - 1, np.maximum(w.hi - 2, 0)
    gauge = w.hints == ResetHint.GAUGE
    last_two = Windows(w.samples, np.where(many, before, now), w.hi, w.starts, w.ends)
    fit = last_two.uniform & (~gauge[now] & ~gauge[before] if counter else gauge[now] & gauge[before])
    found = []
    for block, mine in last_two.by_block(fit & many):
        at = now[mine]
        rise = block.numbers[w.row_of[at]]
        first = block.numbers[w.row_of[at - 1]]
        if counter:
            rise -= np.where(np.isin(at, w.resets)[:, None], 0.0, first)
            seconds = (w.samples.times[at] - w.samples.times[at - 1]) / 1000
            found.append((_gauges(block, rise).scaled(seconds, divide=True), mine))
        else:
            found.append((_gauges(block, rise - first), mine))
    return _histograms(w, fit | ~many, found)


def _over_time(w: Windows, mean: bool) -> Found | None:
    resets, holds = w.any_of(w.hints == ResetHint.RESET), w.any_of(w.hints == ResetHint.NOT_RESET)
    gauges, unknown = w.any_of(w.hints == ResetHint.GAUGE), w.any_of(w.hints == ResetHint.UNKNOWN)
    hints = np.where(
        unknown | (resets & holds), ResetHint.UNKNOWN, np.where(resets, ResetHint.RESET, ResetHint.NOT_RESET)
    )
    hints = np.where(gauges, ResetHint.GAUGE, hints).astype(np.uint8)
    done = np.zeros(len(w.lo), np.bool_)
    found = []
    for view, fit in ((w, w.uniform), *(() if w.coarse is None else (w.coarse,))):
        for block, mine in view.by_block(fit):
            if view is not w and not (np.rint(block.numbers[:, HEAD:]) == block.numbers[:, HEAD:]).all():
                # Buckets that are joined before they are summed up lose something else.
                continue
            lo, count = w.lo[mine], (w.hi - w.lo)[mine]
            rows = np.where(view.block_of == view.block_of[lo[0]], view.row_of, 0)
            total, lost = _sums(block.numbers[rows[lo[0] : int((lo + count).max())]], lo - lo[0], count)
            if mean:
                # Of what overflows the mean is taken otherwise.
                kept = np.flatnonzero(~np.isinf(total).any(axis=1))
                mine, count = mine[kept], count[kept]
                total, lost = total[kept] / count[:, None], lost[kept] / count[:, None]
            total = np.where(count[:, None] > 1, total + lost, total)
            found.append((Columns(block.kind, block.spread, total, hints[mine]), mine))
            done[mine] = True
    return replace(_histograms(w, done, found), collision=bool((done & resets & holds).any()))


def _sums(used: Floats, lo: Index, count: Index) -> tuple[Floats, Floats]:
    """Compensated sums of `count` rows from `lo` on, one after the other, and what they lost."""
    total, lost = np.empty((len(lo), used.shape[1])), np.zeros((len(lo), used.shape[1]))
    with np.errstate(all="ignore"):
        whole = (np.rint(used) == used).all(axis=0) & (np.abs(used).sum(axis=0) < _EXACT)
    # Sums of whole numbers lose nothing, in whatever order.
    columns = np.flatnonzero(whole)
    sums = np.concatenate((np.zeros((1, len(columns))), np.cumsum(used[:, columns], axis=0)))
    total[:, columns] = sums[lo + count] - sums[lo]
    columns = np.flatnonzero(~whole)
    part = used[:, columns]
    one = part[lo]
    comp = np.zeros_like(one)
    for at in range(1, int(count.max())):
        mine = np.flatnonzero(count > at)
        one[mine], comp[mine] = compensated(one[mine], part[lo[mine] + at], comp[mine])
    total[:, columns], lost[:, columns] = one, comp
    return total, lost


def compensated(one: Floats, two: Floats, lost: Floats) -> tuple[Floats, Floats]:
    """`one` + `two`, and what such sums lost till now, as Accumulator.add."""
    with np.errstate(all="ignore"):
        total = one + two
        # What rounding took is the same in this order of operations, in which it does not matter which is larger.
        part = total - one
        rest = two - part
        np.subtract(total, part, out=part)
        np.subtract(one, part, out=part)
        rest += part
        if np.isfinite(rest.sum()):
            rest += lost
            return total, rest
        rest = np.where(np.abs(one) >= np.abs(two), (one - total) + two, (two - total) + one)
        return total, np.where(np.isinf(total), 0.0, lost + rest)


def _values(w: Windows, values: Floats) -> Found:
    every = np.ones(len(w.lo), np.bool_)
    return Found(every, values, every, Grid.none(w.lo.shape))


def _chosen(w: Windows, at: Index) -> Found:
    every = np.ones(len(w.lo), np.bool_)
    return Found(every, np.zeros(len(w.lo)), ~every, w.samples.grid[at])


def _resets(w: Windows) -> Found | None:
    if w.samples.starts.any():
        return None
    counts = np.searchsorted(w.resets, w.hi) - np.searchsorted(w.resets, w.lo + 1)
    return _values(w, np.maximum(counts, 0).astype(np.float64))


def _changes(w: Windows) -> Found:
    def differ(now: Floats, before: Floats) -> Bools:
        bits: Bools = (now.view(np.int64) != before.view(np.int64)).any(axis=1)
        return bits

    def otherwise(at: int) -> bool:
        before, now = w.samples.grid[at - 1 : at + 1].cells
        return not now.equals(before)

    changed = w.pairs(differ, otherwise, np.arange(1, len(w.samples.times)))
    sums = np.concatenate(([0, 0], np.cumsum(changed)))
    return _values(w, (sums[w.hi] - sums[w.lo + 1]).astype(np.float64))


_FUNCTIONS: dict[str, Callable[[Windows], Found | None]] = {
    "rate": lambda w: _rate(w, counter=True, per_second=True),
    "increase": lambda w: _rate(w, counter=True, per_second=False),
    "delta": lambda w: _rate(w, counter=False, per_second=False),
    "irate": lambda w: _instant(w, counter=True),
    "idelta": lambda w: _instant(w, counter=False),
    "sum_over_time": lambda w: _over_time(w, mean=False),
    "avg_over_time": lambda w: _over_time(w, mean=True),
    "resets": _resets,
    "changes": _changes,
    "last_over_time": lambda w: _chosen(w, w.hi - 1),
    "first_over_time": lambda w: _chosen(w, w.lo),
    "count_over_time": lambda w: _values(w, (w.hi - w.lo).astype(np.float64)),
    "present_over_time": lambda w: _values(w, np.ones(len(w.lo))),
    "absent_over_time": lambda w: _values(w, np.ones(len(w.lo))),
    "ts_of_first_over_time": lambda w: _values(w, w.samples.times[w.lo] / 1000.0),
    "ts_of_last_over_time": lambda w: _values(w, w.samples.times[w.hi - 1] / 1000.0),
}


def evaluate(func: str, samples: Samples, lo: Index, hi: Index, starts: Times, ends: Times) -> Found | None:
    """`func` of windows of a series that has no floats; None if it has to be computed window by window."""
    function = _FUNCTIONS.get(func)
    with np.errstate(all="ignore"):
        return None if function is None else function(Windows(samples, lo, hi, starts, ends))


def without_buckets(group: Sequence[MixedSeries]) -> list[MixedSeries]:
    """Series of a group of `mixed_ranges`, of whose results only counts and sums are asked, without what needs not be.

    All must be known to begin anew or not, or their buckets tell it.
    """
    blocks: list[Block] = []
    for block in group[0].histograms.grid.blocks:
        if not isinstance(block, Columns):
            return [*group]
        blocks.append(Columns(block.kind, Spread(), block.numbers[:, :HEAD], block.hints))
    out = []
    known = (ResetHint.RESET, ResetHint.NOT_RESET)
    for series in group:
        grid = Grid(series.histograms.grid.places, blocks)
        samples = replace(series.histograms, source=grid)
        none = np.zeros(0, np.intp)
        if not np.isin(Windows(samples, none, none, none, none).hints[1:], known).all():
            return [*group]
        out.append(replace(series, histograms=samples))
    return out


def with_resets(batch: RowBatch) -> RowBatch:
    """A batch of histograms that say whether they begin anew, unless they follow none of a counter."""
    grid = batch.histograms
    assert grid is not None
    flat = Grid(grid.places.reshape(-1), grid.blocks)
    none = np.zeros(0, np.intp)
    samples = Samples(np.zeros(len(flat), np.int64), flat, flat.there, np.zeros(len(flat), np.int64))
    w = Windows(samples, none, none, none, none)
    hints = np.where(flat.there, w.hints, ResetHint.GAUGE).reshape(grid.shape)
    asked = np.zeros(grid.shape, np.bool_)
    asked[:, 1:] = (hints[:, 1:] == ResetHint.UNKNOWN) & (hints[:, :-1] != ResetHint.GAUGE)
    which = np.flatnonzero(asked)
    with np.errstate(all="ignore"):
        fell = w.fell(which)
    told = flat.hinted(which, np.where(fell, np.uint8(ResetHint.RESET), np.uint8(ResetHint.NOT_RESET)))
    return replace(batch, histograms=Grid(grid.places, told.blocks))
