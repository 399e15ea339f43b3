"""`anchored` and `smoothed` selectors over series that hold native histograms."""

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from common.histogram import FloatHistogram, ResetHint
from common.histogram_grid import Grid
from common.promql import windows
from common.promql.ast import VectorSelector
from common.promql.functions.mixed_ranges import (
    MIXED,
    MIXED_SCHEMAS,
    NOT_COUNTER,
    NOT_GAUGE,
    Remarks,
    Value,
    combine,
    event_counter,
    merged,
    part_of,
)
from common.promql.matrix import Floats, Matrix, Times
from common.promql.mixed import MixedSeries, Samples

if TYPE_CHECKING:
    from common.promql.evaluator import Evaluator


def interpolated(
    remarks: Remarks, left: FloatHistogram, right: FloatHistogram, share: float, counter: bool
) -> FloatHistogram | None:
    """The histogram `share` of the way from `left` to `right`; a counter that began anew starts from nothing."""
    if share in (0.0, 1.0):
        return right if share else left
    if counter and right.resets_after(left):
        return right.times(share)
    rise = combine(remarks, right, left, -1.0, "subtraction")
    return None if rise is None else combine(remarks, rise.times(share), left, 1.0, "addition")


def _share(times: list[int], at: int, when: int) -> float:
    return (when - times[at]) / (times[at + 1] - times[at])


def smoothed_instant(
    ev: "Evaluator", node: VectorSelector, series: MixedSeries, at: Times, timestamps: Times
) -> Matrix | None:
    """Values at the instants `at`, interpolated between the samples around them, else the one before."""
    series = series.real()
    remarks = Remarks(ev, series.labels.name, node.span.start)
    lookback = ev.setting.lookback
    lo, hi = windows.bounds(series.histograms.times, at - lookback, at + lookback)
    float_lo, float_hi = windows.bounds(series.floats.times, at - lookback, at + lookback)
    values, presence = np.zeros(len(at)), np.zeros(len(at), dtype=np.bool_)
    cells = np.full(len(at), None, dtype=object)
    for k in range(len(at)):
        floats, histograms = part_of(series.floats, float_lo[k], float_hi[k]), part_of(series.histograms, lo[k], hi[k])
        if len(floats.times) and len(histograms.times):
            remarks.warn(MIXED)
            continue
        samples = floats if len(floats.times) else histograms
        value = _at(remarks, samples, int(at[k]))
        presence[k] = value is not None
        if isinstance(value, FloatHistogram):
            cells[k] = value
        elif value is not None:
            values[k] = value
    if not presence.any():
        return None
    return Matrix([series.labels], values[None], presence[None], timestamps, Grid.of(cells[None]))


def _at(remarks: Remarks, samples: Samples, when: int) -> Value:
    times = samples.times.tolist()
    after = int(np.searchsorted(samples.times, when, side="left"))
    found = samples.values.tolist()
    if after < len(times) and times[after] == when:
        return found[after]  # type: ignore[no-any-return]
    if after == 0:
        return None
    if after == len(times):
        return found[-1]  # type: ignore[no-any-return]
    left, right = found[after - 1], found[after]
    share = _share(times, after - 1, when)
    if isinstance(left, FloatHistogram) and isinstance(right, FloatHistogram):
        counter = ResetHint.GAUGE not in (left.hint, right.hint)
        return interpolated(remarks, left, right, share, counter)
    return float(left + (right - left) * share)


def evaluate(
    ev: "Evaluator",
    func: str,
    position: int,
    series: MixedSeries,
    starts: Times,
    ends: Times,
    smoothed: bool,
    timestamps: Times,
    of_floats: Callable[[Samples], tuple[Floats, np.ndarray]],
) -> Matrix | None:
    """`func` over one series at all steps; `of_floats` gives value and presence for floats alone."""
    series = series.real()
    remarks = Remarks(ev, series.labels.name, position)
    lookback = ev.setting.lookback
    first, last = starts - lookback, ends + (lookback if smoothed else 0)
    float_lo, float_hi = windows.bounds(series.floats.times, first, last)
    lo, hi = windows.bounds(series.histograms.times, first, last)
    values, presence = np.zeros(len(ends)), np.zeros(len(ends), dtype=np.bool_)
    cells = np.full(len(ends), None, dtype=object)
    if len(series.floats.times):
        values, presence = (np.array(x) for x in of_floats(series.floats))
    for k in np.flatnonzero(hi > lo).tolist():
        floats, histograms = part_of(series.floats, float_lo[k], float_hi[k]), part_of(series.histograms, lo[k], hi[k])
        value: Value
        if func in ("changes", "resets"):
            value = _events(func, floats, histograms, int(starts[k]))
        elif len(floats.times):
            remarks.warn(MIXED)
            value = None
        else:
            value = _rate(remarks, func, histograms, int(starts[k]), int(ends[k]), smoothed)
        presence[k] = value is not None
        if isinstance(value, FloatHistogram):
            cells[k] = value
        elif value is not None:
            values[k] = value
    if not presence.any():
        return None
    return Matrix([series.labels], values[None], presence[None], timestamps, Grid.of(cells[None]))


def _events(func: str, floats: Samples, histograms: Samples, start: int) -> Value:
    both = merged(floats, histograms)
    if not both or both[-1][0] <= start:
        return None
    anchor = max(0, sum(time <= start for time, _ in both) - 1)
    count = event_counter(func)
    values = [value for _, value in both[anchor:]]
    return float(sum(count(a, b) for a, b in itertools.pairwise(values)))


def _rate(remarks: Remarks, func: str, samples: Samples, start: int, end: int, smoothed: bool) -> Value:
    times, points = samples.times.tolist(), samples.values.tolist()
    counter = func != "delta"
    last = len(times) - 1
    first = max(0, min(int(np.searchsorted(samples.times, start, side="right")), last) - 1)
    if smoothed:
        last = min(int(np.searchsorted(samples.times, end, side="left")), last)
    if times[last] <= start or (smoothed and times[first] > end):
        return None
    for point in points[first : last + 1]:
        if point.is_custom != points[first].is_custom:
            remarks.warn(MIXED_SCHEMAS)
            return None
        if counter and point.hint is ResetHint.GAUGE:
            remarks.warn(NOT_COUNTER)
    left: FloatHistogram | None = points[first]
    right: FloatHistogram | None = points[last]
    if smoothed and times[first] < start:
        share = _share(times, first, start)
        left = interpolated(remarks, points[first], points[first + 1], share, counter)
    if smoothed and last > 0 and times[last] > end:
        share = _share(times, last - 1, end)
        right = interpolated(remarks, points[last - 1], points[last], share, counter)
    if left is None or right is None:
        return None
    if not counter and not (left.hint is ResetHint.GAUGE and right.hint is ResetHint.GAUGE):
        remarks.warn(NOT_GAUGE)
    rise = combine(remarks, right, left, -1.0, "subtraction")
    if rise is not None and counter:
        rise = _corrected(remarks, rise, times, points, first, last, left, right, start, smoothed)
    if rise is None:
        return None
    if func == "rate":
        rise = rise.divided((end - start) / 1000)
    return rise.with_hint(ResetHint.GAUGE)


def _corrected(
    remarks: Remarks,
    rise: FloatHistogram,
    times: list[int],
    points: list[FloatHistogram],
    first: int,
    last: int,
    left: FloatHistogram,
    right: FloatHistogram,
    start: int,
    smoothed: bool,
) -> FloatHistogram | None:
    """`rise` plus what each reset between the edges lost."""
    begin, previous = first + 1, left
    if smoothed and times[first] < start and points[first + 1].resets_after(points[first]):
        # The interpolation at the left edge already took this reset into account.
        previous, begin = points[first + 1], begin + 1
    if begin > last:
        return rise
    result: FloatHistogram | None = rise
    for point in [*points[begin:last], right]:
        if point.resets_after(previous) and result is not None:
            result = combine(remarks, result, previous, 1.0, "addition")
        previous = point
    return result
