"""Rows of many timelines worked on together: targets scraped at the same pace differ in phase, seldom in anything else.

Windows are found by comparing timestamps with the instants. For most lines the outcome is the same, whatever their
phase: sample 4k is the first of window k, sample 4k+20 the first behind it. Lines that agree share a pattern, and a
kernel runs once for all their rows. Rows of other lines (gaps, an outage, a jump of the clock) are worked out apart and
put in their places.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.labels import Labels
from common.promql.matrix import Bools, Floats, Times
from common.promql.windows import Index, bounds
from common.tsdb.querier import FAR, RowBatch, Timelines

BLOCK_CELLS = 1 << 19
"""Rows are worked on in blocks of about this many cells: large enough for numpy, small enough for the cache."""
MAX_ROUNDS = 4
"""Patterns that are compared with all lines; lines that have none of them are looked at one by one."""


@dataclass(frozen=True, slots=True, eq=False)
class Pattern:
    """Windows by index: window k holds the samples lo[k] <= i < hi[k]; intp [K]."""

    lo: Index
    hi: Index


def patterns(lines: Timelines, starts: Times, ends: Times) -> tuple[list[Pattern], NDArray[np.intp]]:
    """The distinct patterns of windows start < timestamp <= end (ms [K], ascending), and which one each line has."""
    found: list[Pattern] = []
    of = np.full(len(lines), -1, np.intp)
    rounds = 0
    while True:
        waiting = np.flatnonzero(of < 0)
        if not len(waiting):
            return found, of
        lengths = lines.lengths[waiting]
        typical = int(waiting[0])
        if rounds < MAX_ROUNDS and len(waiting) > 1:
            _, where, counts = np.unique(lengths, return_index=True, return_counts=True)
            typical = int(waiting[where[int(counts.argmax())]])
        pattern = Pattern(*bounds(lines.times[typical, : lines.lengths[typical]], starts, ends))
        of[typical] = len(found)
        if rounds < MAX_ROUNDS and len(waiting) > 1:
            times = lines.times if len(waiting) == len(lines) else lines.times[waiting]
            same = _is_bound(times, pattern.lo, starts) & _is_bound(times, pattern.hi, ends)
            of[waiting[same]] = len(found)
            rounds += 1
        found.append(pattern)


def _is_bound(times: Times, index: Index, limits: Times) -> Bools:
    """For which lines `index` [K] are the numbers of timestamps up to `limits`; bool [L]."""
    width = times.shape[1]
    before = np.take(times, np.maximum(index - 1, 0), axis=1) <= limits
    after = np.take(times, np.minimum(index, width - 1), axis=1) > limits
    before |= index == 0
    after |= index == width
    out: Bools = (before & after).all(axis=1)
    return out


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Neighbouring rows of a batch: values [S, W], each row's line in `lines` [S] and pattern [S]; see `Timelines`."""

    labels: Sequence[Labels]
    values: Floats
    lines: Timelines
    line_of: NDArray[np.intp]
    pattern_of: NDArray[np.intp]

    def fill(self, count: int, kernel: Callable[[Floats, NDArray[np.intp], int], Floats]) -> Floats:
        """Results [S, count] of `kernel(values [s, W], line_of [s], pattern)`, called once per pattern.

        The most frequent pattern's kernel runs over all rows, so that they need not be gathered.
        """
        first = int(self.pattern_of[0])
        if (self.pattern_of == first).all():
            return kernel(self.values, self.line_of, first)
        numbers, counts = np.unique(self.pattern_of, return_counts=True)
        common = int(numbers[counts.argmax()])
        if 2 * int(counts.max()) > len(self.pattern_of):
            out = kernel(self.values, self.line_of, common)
            if out.base is not None or not out.flags.writeable:
                out = np.array(out)
        else:
            out = np.empty((len(self.pattern_of), count))
            common = -1
        for number in numbers.tolist():
            if number != common:
                rows = np.flatnonzero(self.pattern_of == number)
                out[rows] = kernel(self.values[rows], self.line_of[rows], number)
        return out


def stacks(batch: RowBatch, pattern_of: NDArray[np.intp], steps: int) -> Iterator[Stack]:
    """The rows of a batch, in blocks that suit the cache for `steps` columns of results."""
    lines = Timelines.of(batch.timelines)
    of_row = pattern_of[batch.timeline_of]
    size = max(1, BLOCK_CELLS // max(batch.values.shape[1], steps))
    for at in range(0, len(batch.labels), size):
        part = slice(at, min(at + size, len(batch.labels)))
        mine = batch.timeline_of[part]
        width = int(lines.lengths[mine].max())
        yield Stack(batch.labels[part], batch.values[part, :width], lines, mine, of_row[part])


def real(batch: RowBatch) -> RowBatch:
    """The batch without staleness markers; its values are changed in place. Lines may be empty then."""
    lines = Timelines.of(batch.timelines)
    if lines.stale is None:
        return batch
    marked = np.flatnonzero(lines.stale.any(axis=1))
    if not len(marked):
        return RowBatch(batch.labels, batch.values, Timelines(lines.times, lines.lengths), batch.timeline_of)
    times, lengths = lines.times.copy(), lines.lengths.copy()
    at = np.argsort(batch.timeline_of, kind="stable")
    cuts = np.searchsorted(batch.timeline_of[at], np.arange(len(lines) + 1))
    for line in marked.tolist():
        kept = np.flatnonzero(~lines.stale[line, : lengths[line]])
        times[line] = FAR
        times[line, : len(kept)] = lines.times[line, kept]
        lengths[line] = len(kept)
        rows = at[cuts[line] : cuts[line + 1]]
        batch.values[rows, : len(kept)] = batch.values[rows].take(kept, axis=1)
    return RowBatch(batch.labels, batch.values, Timelines(times, lengths), batch.timeline_of)
