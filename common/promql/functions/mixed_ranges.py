"""Functions of range vectors that hold native histograms: window by window."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.histogram import Accumulator, FloatHistogram, IncompatibleError, ResetHint
from common.histogram_grid import Grid, columns_of, in_columns
from common.promql import column_ranges, windows
from common.promql.gotext import quote
from common.promql.matrix import Bools, Floats, Matrix, Times
from common.promql.mixed import MixedSeries, Samples

if TYPE_CHECKING:
    from common.promql.evaluator import Evaluator

Value = float | FloatHistogram | None
Kernel = Callable[[Samples], tuple[Floats, int]]
"""From the floats of a series: the function's values at all steps, and how many samples it wants at least."""

MIXED = "encountered a mix of histograms and floats for metric name"
MIXED_SCHEMAS = "vector contains a mix of histograms with exponential and custom buckets schemas for metric name"
NOT_COUNTER = "this native histogram metric is not a counter:"
NOT_GAUGE = "this native histogram metric is not a gauge:"
COLLISION = "conflicting counter resets during histogram"
RECONCILED = "mismatched custom buckets were reconciled during"
IGNORED = "ignored histograms in a range containing both floats and histograms for metric name"
OVERLAP = "sample has start time that overlaps with previous sample timestamp for metric"


@dataclass(slots=True)
class Remarks:
    """Where annotations of one series go."""

    ev: "Evaluator"
    name: str
    position: int

    def warn(self, text: str) -> None:
        """A warning that names the metric."""
        self.ev.notes.warn(f"{text} {quote(self.name)}", self.position)

    def info(self, text: str) -> None:
        """An info that names the metric."""
        self.ev.notes.info(f"{text} {quote(self.name)}", self.position)

    def collision(self, operation: str) -> None:
        """Contradicting counter reset hints."""
        self.ev.notes.warn(f"{COLLISION} {operation}", self.position)

    def reconciled(self, operation: str) -> None:
        """Custom bounds that had to be brought together."""
        self.ev.notes.info(f"{RECONCILED} {operation}", self.position)


def evaluate(
    ev: "Evaluator",
    func: str,
    position: int,
    group: Sequence[MixedSeries],
    starts: Times,
    ends: Times,
    timestamps: Times,
    kernel: Kernel,
) -> Matrix | None:
    """`func` over the series of a group at all steps; None if it gives nothing. `kernel` is for the floats of one."""
    shape = len(group), len(ends)
    values, presence = np.zeros(shape), np.zeros(shape, dtype=np.bool_)
    floats, alone = group[0].floats, len(group[0].floats.times) > 0
    float_lo, float_hi = windows.bounds(floats.times, starts, ends)
    if alone:
        result, least = kernel(floats)
        presence[0] = float_hi - float_lo >= least
        values[0] = np.where(presence[0], result, 0.0)
    lo, hi = np.zeros(shape, np.intp), np.zeros(shape, np.intp)
    for row, series in enumerate(group):
        lo[row], hi[row] = windows.bounds(series.histograms.times, starts, ends)
    left = hi > lo
    handler = _HANDLERS[func]
    grid = Grid.none(shape)
    if not alone:
        if handler is _floats_only or not left.any():
            return None
        found = _in_columns(func, group, lo, hi, left, starts, ends)
        if found is not None:
            where = left.copy()
            left[where] = ~found.done
            values[where] = found.values
            presence[where] = found.there | found.grid.there
            grid.places[where] = found.grid.places
            grid = Grid(grid.places, found.grid.blocks)
            if found.collision:
                Remarks(ev, "", position).collision("aggregation")
    if left.any():
        grid = grid.filled(_one_by_one(ev, handler, position, group, lo, hi, left, starts, ends, values, presence))
    kept = np.flatnonzero(presence.any(axis=1))
    if not len(kept):
        return None
    flags = np.array([series.drop_name for series in group])
    matrix = Matrix(
        [series.labels for series in group], values, presence, timestamps, grid, flags if flags.any() else None
    )
    return matrix if len(kept) == len(group) else matrix.rows(kept)


def _in_columns(
    func: str,
    group: Sequence[MixedSeries],
    lo: NDArray[np.intp],
    hi: NDArray[np.intp],
    where: Bools,
    starts: Times,
    ends: Times,
) -> column_ranges.Found | None:
    """The windows `where` [S, K] of series without floats, as far as columns go."""
    parts = [series.histograms for series in group]
    first = np.cumsum([0, *(len(part.times) for part in parts)])[:-1, None]
    samples = Samples(
        np.concatenate([part.times for part in parts]),
        Grid(np.concatenate([part.grid.places for part in parts]), parts[0].grid.blocks),
        np.concatenate([part.stale for part in parts]),
        np.concatenate([part.starts for part in parts]),
    )
    limits = (np.broadcast_to(each, where.shape)[where] for each in (starts, ends))
    return column_ranges.evaluate(func, samples, (lo + first)[where], (hi + first)[where], *limits)


def _one_by_one(
    ev: "Evaluator",
    handler: "Callable[[Window], Value]",
    position: int,
    group: Sequence[MixedSeries],
    lo: NDArray[np.intp],
    hi: NDArray[np.intp],
    left: Bools,
    starts: Times,
    ends: Times,
    values: Floats,
    presence: Bools,
) -> Grid:
    """The windows `left` [S, K]: fills in values and presence, and gives the histograms."""
    places: list[int] = []
    found: list[FloatHistogram] = []
    for row in np.flatnonzero(left.any(axis=1)).tolist():
        series = group[row]
        remarks = Remarks(ev, series.labels.name, position)
        float_lo, float_hi = windows.bounds(series.floats.times, starts, ends)
        steps = np.flatnonzero(left[row])
        first = int(lo[row, steps].min())
        histograms = part_of(series.histograms, first, int(hi[row, steps].max()))
        # Made once, not once a window.
        _ = histograms.values
        for k in steps.tolist():
            window = Window(
                remarks,
                part_of(series.floats, float_lo[k], float_hi[k]),
                part_of(histograms, lo[row, k] - first, hi[row, k] - first),
                int(starts[k]),
                int(ends[k]),
                float(values[row, k]) if presence[row, k] else None,
            )
            value = handler(window)
            presence[row, k] = value is not None
            if isinstance(value, FloatHistogram):
                places.append(row * left.shape[1] + k)
                found.append(value)
            elif value is not None:
                values[row, k] = value
    at = np.array(places, np.intp)
    grid = in_columns([(columns, at[mine]) for columns, mine in columns_of(found)], left.size)
    return Grid(grid.places.reshape(left.shape), grid.blocks)


def part_of(samples: Samples, lo: int, hi: int) -> Samples:
    window = slice(int(lo), int(hi))
    return Samples(samples.times[window], samples.source[window], samples.stale[window], samples.starts[window])


@dataclass(slots=True)
class Window:
    """One window: its samples, its limits in ms, and what the function gives for the floats alone."""

    remarks: Remarks
    floats: Samples
    histograms: Samples
    start: int
    end: int
    of_floats: float | None

    @property
    def seconds(self) -> float:
        """The length of the window."""
        return (self.end - self.start) / 1000.0


def _floats_only(w: Window) -> Value:
    """Histograms are ignored, with an info where there are floats."""
    if len(w.floats.times):
        w.remarks.info(IGNORED)
    return w.of_floats


def _count(w: Window) -> Value:
    return float(len(w.floats.times) + len(w.histograms.times))


def _one(w: Window) -> Value:
    return 1.0


def merged(floats: Samples, histograms: Samples) -> list[tuple[int, float | FloatHistogram]]:
    """All samples in order of time."""
    both = [*zip(floats.times.tolist(), floats.values.tolist(), strict=True)]
    both += zip(histograms.times.tolist(), histograms.values.tolist(), strict=True)
    return sorted(both, key=lambda sample: sample[0])


def _merged(w: Window) -> list[tuple[int, float | FloatHistogram]]:
    return merged(w.floats, w.histograms)


def _last(w: Window) -> Value:
    return _merged(w)[-1][1]


def _first(w: Window) -> Value:
    return _merged(w)[0][1]


def _time_of_first(w: Window) -> Value:
    return _merged(w)[0][0] / 1000.0


def _time_of_last(w: Window) -> Value:
    return _merged(w)[-1][0] / 1000.0


def _accumulated(w: Window) -> Accumulator | None:
    if len(w.floats.times):
        w.remarks.warn(MIXED)
        return None
    total = Accumulator(w.histograms.values[0])
    try:
        for histogram in w.histograms.values[1:]:
            total.add(histogram)
    except IncompatibleError:
        w.remarks.warn(MIXED_SCHEMAS)
        return None
    if total.collision:
        w.remarks.collision("aggregation")
    if total.reconciled:
        w.remarks.reconciled("aggregation")
    return total


def _sum(w: Window) -> Value:
    total = _accumulated(w)
    return None if total is None else total.sum()


def _mean(w: Window) -> Value:
    total = _accumulated(w)
    return None if total is None else total.mean()


def resets_by_start(before_start: int, before: int, start: int, time: int) -> bool:
    """Whether a start timestamp says that the counter began anew after the sample before (0: unknown)."""
    if start == 0 or start >= time or start < before:
        return False
    return start > before or (before_start != 0 and before_start < before)


def _changes(w: Window) -> Value:
    values = [value for _, value in _merged(w)]
    return float(sum(_changed(a, b) for a, b in itertools.pairwise(values)))


def event_counter(func: str) -> Callable[[float | FloatHistogram, float | FloatHistogram], bool]:
    """What `changes` or `resets` counts between one sample and the next."""
    return _changed if func == "changes" else _fell


def _changed(before: float | FloatHistogram, now: float | FloatHistogram) -> bool:
    if isinstance(before, FloatHistogram) and isinstance(now, FloatHistogram):
        return not now.equals(before)
    if isinstance(before, FloatHistogram) or isinstance(now, FloatHistogram):
        return True
    return before != now and not (before != before and now != now)


def _fell(before: float | FloatHistogram, now: float | FloatHistogram) -> bool:
    if isinstance(before, FloatHistogram) and isinstance(now, FloatHistogram):
        return now.resets_after(before)
    if isinstance(before, FloatHistogram) or isinstance(now, FloatHistogram):
        return True
    return now < before


def _resets(w: Window) -> Value:
    both = _merged(w)
    starts = dict(zip(w.histograms.times.tolist(), w.histograms.starts.tolist(), strict=True))
    starts.update(zip(w.floats.times.tolist(), w.floats.starts.tolist(), strict=True))
    total = 0
    for (before_time, before), (time, now) in itertools.pairwise(both):
        total += _fell(before, now) or resets_by_start(starts[before_time], before_time, starts[time], time)
    return float(total)


def _rate(counter: bool, per_second: bool) -> Callable[[Window], Value]:
    def compute(w: Window) -> Value:
        if len(w.floats.times):
            w.remarks.warn(MIXED)
            return None
        return _extrapolated(w, counter, per_second)

    return compute


def _extrapolated(w: Window, counter: bool, per_second: bool) -> Value:
    samples = w.histograms
    times, points, since = samples.times.tolist(), samples.values.tolist(), samples.starts.tolist()
    gaps = len(points) - 1
    rise = _increase(w.remarks, times, points, since, counter) if gaps else None
    if gaps and rise is None:
        return None
    to_start, to_end = (times[0] - w.start) / 1000, (w.end - times[-1]) / 1000
    sampled = (times[-1] - times[0]) / 1000
    gap = sampled / gaps if gaps else 0.0
    if counter and since[0] != 0 and w.start < since[0] < times[0]:
        # The first sample's start lies in the window: the counter was zero then.
        to_start, sampled = 0.0, (times[-1] - since[0]) / 1000
        rise = points[0] if rise is None else combine(w.remarks, rise, points[0], 1.0, "addition")
    elif rise is not None:
        if to_start >= gap * 1.1:
            to_start = gap / 2
        if counter and rise.count > 0 and points[0].count >= 0:
            to_start = min(to_start, sampled * (points[0].count / rise.count))
    if rise is None:
        return None
    if to_end >= gap * 1.1:
        to_end = gap / 2
    factor = (sampled + to_start + to_end) / sampled if sampled else 1.0
    if per_second:
        factor /= w.seconds
    return rise.times(factor).with_hint(ResetHint.GAUGE)


def combine(
    remarks: Remarks, left: FloatHistogram, right: FloatHistogram, sign: float, operation: str
) -> FloatHistogram | None:
    try:
        combined = left.plus(right, sign)
    except IncompatibleError:
        remarks.warn(MIXED_SCHEMAS)
        return None
    if combined.reconciled:
        remarks.reconciled(operation)
    return combined.histogram


def _increase(
    remarks: Remarks, times: list[int], points: list[FloatHistogram], since: list[int], counter: bool
) -> FloatHistogram | None:
    """Last minus first of at least two histograms, for a counter plus what each reset lost; None with a warning."""
    previous, last = points[0], points[-1]
    gauge = ResetHint.GAUGE
    if counter and (previous.hint is gauge or last.hint is gauge):
        remarks.warn(NOT_COUNTER)

    def reset(at: int, before: FloatHistogram) -> bool:
        return resets_by_start(since[at - 1], times[at - 1], since[at], times[at]) or points[at].resets_after(before)

    if counter and reset(1, previous):
        # What was before the reset does not matter, nor does its layout.
        previous = FloatHistogram(schema=points[1].schema, custom=points[1].custom)
    if last.is_custom != previous.is_custom:
        remarks.warn(MIXED_SCHEMAS)
        return None
    if counter:
        for point in points[1:-1]:
            if point.hint is gauge:
                remarks.warn(NOT_COUNTER)
            if point.is_custom != previous.is_custom:
                remarks.warn(MIXED_SCHEMAS)
                return None
    elif points[0].hint is not gauge or last.hint is not gauge:
        remarks.warn(NOT_GAUGE)
    if not last.is_custom:
        # The resolution goes down before zero buckets are brought together, not after as otherwise.
        schema = min(point.schema for point in (previous, last, *(points[1:-1] if counter else ())))
        last = last.laid_out(schema, last.zero_threshold, ())
    rise = combine(remarks, last, previous, -1.0, "subtraction")
    if rise is None or not counter:
        return None if rise is None else rise.with_hint(gauge)
    told = False
    for at in range(1, len(points)):
        if not told and since[at] != 0 and since[at] < times[at - 1] and since[at] != since[at - 1]:
            remarks.warn(OVERLAP)
            told = True
        if reset(at, previous):
            rise = combine(remarks, rise, previous, 1.0, "addition")
            if rise is None:
                return None
        previous = points[at]
    return rise.with_hint(gauge)


def _instant(counter: bool) -> Callable[[Window], Value]:
    def compute(w: Window) -> Value:
        both = _merged(w)
        if len(both) < 2:
            return None
        (before_time, before), (time, now) = both[-2:]
        if not isinstance(before, FloatHistogram) and not isinstance(now, FloatHistogram):
            return w.of_floats
        if not isinstance(before, FloatHistogram) or not isinstance(now, FloatHistogram):
            w.remarks.warn(MIXED)
            return None
        gauge = ResetHint.GAUGE
        if counter and gauge in (before.hint, now.hint):
            w.remarks.warn(NOT_COUNTER)
        if not counter and not (before.hint is gauge and now.hint is gauge):
            w.remarks.warn(NOT_GAUGE)
        starts = w.histograms.starts
        result: FloatHistogram | None = now
        reset = counter and (
            resets_by_start(int(starts[-2]), before_time, int(starts[-1]), time) or now.resets_after(before)
        )
        if not reset:
            result = combine(w.remarks, now, before, -1.0, "subtraction")
        if result is None:
            return None
        result = result.with_hint(gauge)
        return result.divided((time - before_time) / 1000) if counter else result

    return compute


_HANDLERS: dict[str, Callable[[Window], Value]] = {
    **dict.fromkeys(("min_over_time", "max_over_time", "stddev_over_time", "stdvar_over_time"), _floats_only),
    **dict.fromkeys(("mad_over_time", "quantile_over_time", "ts_of_min_over_time"), _floats_only),
    **dict.fromkeys(("ts_of_max_over_time", "deriv", "predict_linear"), _floats_only),
    "double_exponential_smoothing": _floats_only,
    "count_over_time": _count,
    "present_over_time": _one,
    "absent_over_time": _one,
    "last_over_time": _last,
    "first_over_time": _first,
    "ts_of_first_over_time": _time_of_first,
    "ts_of_last_over_time": _time_of_last,
    "sum_over_time": _sum,
    "avg_over_time": _mean,
    "changes": _changes,
    "resets": _resets,
    "rate": _rate(counter=True, per_second=True),
    "increase": _rate(counter=True, per_second=False),
    "delta": _rate(counter=False, per_second=False),
    "irate": _instant(counter=True),
    "idelta": _instant(counter=False),
}
