"""`anchored` and `smoothed` range selectors: windows that reach beyond their range to find their boundary values."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.errors import QueryError
from common.labels import Labels
from common.promql import mixed_extended, selectors, window_rates, windows
from common.promql.ast import Call, MatrixSelector, VectorSelector
from common.promql.matrix import Bools, Floats, Matrix, Series, Times
from common.promql.mixed import MixedSeries, Samples, split, window_loads
from common.promql.preprocess import unwrap
from common.tsdb.querier import SelectHints

if TYPE_CHECKING:
    from common.promql.evaluator import Evaluator, Steps

Index = NDArray[np.intp]

ANCHORED = ("changes", "delta", "increase", "rate", "resets")
SMOOTHED = ("delta", "increase", "rate")


def check(node: Call, selector: VectorSelector) -> None:
    """Refuse functions that make no sense over such a selector."""
    for name, given, allowed in (
        ("anchored", selector.anchored, ANCHORED),
        ("smoothed", selector.smoothed, SMOOTHED),
    ):
        if given and node.func not in allowed:
            raise QueryError(f"{name} modifier can only be used with: {', '.join(allowed)} - not with {node.func}")


def reach(selector: VectorSelector, lookback: int) -> tuple[int, int]:
    """How far, ms, the samples looked at reach before and behind the range."""
    return lookback, lookback if selector.smoothed else 0


def apply(ev: "Evaluator", node: Call, source: MatrixSelector, steps: "Steps") -> Iterator[Matrix]:
    """A function of an anchored or smoothed range vector; names are left alone."""
    selector = source.selector
    ends = ev.reference_times(selector.offset, selector.timestamp, steps)
    starts = ends - source.range
    before, behind = reach(selector, ev.setting.lookback)
    hints = SelectHints(step=steps.step, range=source.range, func=node.func)
    mixed: dict[Labels, MixedSeries] = {}
    batches = split(ev.select(selector, int(starts.min()) - before + 1, int(ends.max()) + behind, hints), mixed)

    def compute(values: Floats, times: Times) -> tuple[Floats, Bools]:
        lo, hi = windows.bounds(times, starts - before, ends + behind)
        span = Span(times, lo, hi, starts, ends, selector.smoothed)
        with np.errstate(all="ignore"):
            if node.func == "changes":
                result = window_rates.changes(values, span.first, hi)
            elif node.func == "resets":
                result = window_rates.resets(values, span.first, hi)
            else:
                result = span.increase(values, counter=node.func != "delta")
                if node.func == "rate":
                    result /= source.range / 1000.0
        return result, np.broadcast_to(span.there, result.shape)

    for batch in batches:
        for raw in selectors.uniform(batch, steps.count):
            ev.budget.check()
            rows = raw.without_stale()
            if not len(rows.times):
                continue
            lo, hi = windows.bounds(rows.times, starts - before, ends + behind)
            steps.load(len(rows.labels) * (hi - lo))
            values, there = compute(rows.values, rows.times)
            if there.any():
                yield Matrix(rows.labels, values, there, steps.times)
    position = unwrap(node.args[0]).span.start
    for series in mixed.values():
        ev.budget.check()
        steps.load(window_loads([series.real()], starts - before, ends + behind))

        def of_floats(floats: Samples) -> tuple[Floats, Bools]:
            values, there = compute(np.asarray(floats.values, dtype=np.float64)[None], floats.times)
            return values[0], there[0]

        part = mixed_extended.evaluate(
            ev, node.func, position, series, starts, ends, selector.smoothed, steps.times, of_floats
        )
        if part is not None:
            yield part


class Span:
    """First and last sample of each window, the one before its start included (`first`, `last`: intp [K])."""

    def __init__(self, times: Times, lo: Index, hi: Index, starts: Times, ends: Times, smoothed: bool) -> None:
        self._times, self._lo, self._starts, self._ends, self._smoothed = times, lo, starts, ends, smoothed
        last = np.maximum(hi - 1, 0)
        after_start = np.minimum(np.searchsorted(times, starts, side="right"), last)
        self.first: Index = np.maximum(lo, after_start - 1)
        self.last: Index = last
        if smoothed:
            self.last = np.minimum(np.searchsorted(times, ends, side="left"), last)
        self.there: Bools = (hi > lo) & (times[self.last] > starts)
        if smoothed:
            self.there &= times[np.minimum(self.first, len(times) - 1)] <= ends
        self.first = np.minimum(self.first, len(times) - 1)

    def edges(self, values: Floats, counter: bool) -> tuple[Floats, Floats]:
        """The values at the start and at the end of each window."""
        left, right = windows.take(values, self.first), windows.take(values, self.last)
        if self._smoothed:
            inside = self._times[self.first] < self._starts
            left = np.where(inside, self._between(values, self.first, self._starts, counter), left)
            beyond = (self.last > self._lo) & (self._times[self.last] > self._ends)
            right = np.where(beyond, self._between(values, self.last - 1, self._ends, counter), right)
        return left, right

    def _between(self, values: Floats, at: Index, when: Times, counter: bool) -> Floats:
        return selectors.interpolate(values, self._times, at, when, counter)

    def inner(self) -> tuple[Index, Index]:
        """First and last index of the samples strictly inside each window."""
        first = self.first + (self._times[self.first] <= self._starts)
        last = self.last - (self._times[self.last] >= self._ends)
        return first, last

    def increase(self, values: Floats, counter: bool) -> Floats:
        """The difference of the edges, for a `counter` corrected for resets."""
        left, right = self.edges(values, counter)
        out = right - left
        if not counter:
            return out
        first, last = self.inner()
        some = first <= last
        window_rates.add_before_resets(out, values, first, last + 1)
        head = windows.take(values, first)
        out += np.where(some & (head < left), left, 0.0)
        tail = np.where(some, windows.take(values, last), left)
        out += np.where(right < tail, tail, 0.0)
        return out


def extended_series(rows: selectors.Rows, start: int, end: int, lookback: int, smoothed: bool) -> Iterator[Series]:
    """The samples of an anchored or smoothed range vector at one instant, with values at both its limits."""
    rows = rows.without_stale()
    if not len(rows.times):
        return
    starts, ends = np.array([start], np.int64), np.array([end], np.int64)
    lo, hi = windows.bounds(rows.times, starts - lookback, ends + (lookback if smoothed else 0))
    span = Span(rows.times, lo, hi, starts, ends, smoothed)
    if not span.there[0]:
        return
    with np.errstate(all="ignore"):
        left, right = span.edges(rows.values, counter=False)
    first, last = (int(index[0]) for index in span.inner())
    inside = slice(first, last + 1)
    times = np.concatenate([starts, rows.times[inside], ends])
    for labels, head, middle, tail in zip(rows.labels, left, rows.values[:, inside], right, strict=True):
        yield Series(labels, times, np.concatenate([head, middle, tail]))
