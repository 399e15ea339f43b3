"""Changes, counter resets and increases of windows, extrapolated as Prometheus does; arrays are as in `windows`."""

import numpy as np

from common.promql.windows import Bools, Floats, Index, Times, at_times, take


def window_events(events: Bools, lo: Index, hi: Index) -> Floats:
    """How many of `events` [S, T-1] (event i lies between samples i and i+1) fall inside each window."""
    total = np.zeros((events.shape[0], events.shape[1] + 1), dtype=np.int32)
    np.cumsum(events, axis=1, out=total[:, 1:])
    top = np.take(total, np.maximum(hi - 1, lo), axis=1, mode="clip")
    out: Floats = (top - np.take(total, lo, axis=1, mode="clip")).astype(np.float64)
    return out


def changes(values: Floats, lo: Index, hi: Index) -> Floats:
    """How often the value changes from one sample to the next; NaN to NaN is no change."""
    left, right = values[:, :-1], values[:, 1:]
    events = left != right
    nan = np.isnan(left) & np.isnan(right)
    return window_events(events & ~nan, lo, hi)


def resets(values: Floats, lo: Index, hi: Index, forced: Bools | None = None) -> Floats:
    """How often the value falls from one sample to the next; `forced` [S, T-1] adds known resets."""
    events = values[:, 1:] < values[:, :-1]
    if forced is not None:
        events = events | forced
    return window_events(events, lo, hi)


def add_before_resets(result: Floats, values: Floats, lo: Index, hi: Index, forced: Bools | None = None) -> None:
    """Add to each window of `result` [S, K] the values before the counter resets inside it, the earliest first."""
    if values.shape[1] < 2:
        return
    events = values[:, 1:] < values[:, :-1]
    if forced is not None:
        events = events | forced
    rows = np.flatnonzero(events.any(axis=1))
    if not len(rows):
        return
    which, at = np.nonzero(events[rows])
    # The reset between samples i and i+1 is in the windows with lo <= i and i + 1 < hi; bounds ascend.
    first = np.searchsorted(hi, at + 1, side="right")
    count = np.maximum(np.searchsorted(lo, at, side="right") - first, 0)
    total = int(count.sum(dtype=np.int64))
    if total > len(rows) * len(lo):
        # Many falls, as of a gauge: sample after sample of all windows of these rows. The order, and so the rounding,
        # is the same: what a window's value is must not depend on how many others fall.
        part, lost = result[rows], np.where(events[rows], values[rows, :-1], 0.0)
        for j in range(int((hi - lo).max()) - 1):
            part += np.where(lo + j < hi - 1, take(lost, lo + j), 0.0)
        result[rows] = part
        return
    column = np.arange(total) - np.repeat(np.cumsum(count) - count - first, count)
    row = rows[which]
    np.add.at(result, (np.repeat(row, count), column), np.repeat(values[row, at], count))


def extrapolated(
    values: Floats,
    times: Times,
    lo: Index,
    hi: Index,
    starts: Times,
    ends: Times,
    counter: bool,
    forced: Bools | None = None,
    per: float = 1.0,
    line_of: Index | None = None,
) -> Floats:
    """Increase over each window, extrapolated to its ends as Prometheus does (at least two samples a window).

    `starts` and `ends` are the windows' limits, ms. `counter` corrects for resets and never extrapolates below zero.
    `per` divides: the window's seconds for a rate. It divides the factor, not the result, to round as Prometheus does.
    With `line_of` [S], `times` [L, T] are those of lines, and row s has the times of line `line_of[s]`.
    """
    n = hi - lo
    last_at = np.maximum(hi - 1, 0)
    if line_of is not None:
        used, line_of = np.unique(line_of, return_inverse=True)
        times = times[used] if len(used) < len(times) else times
    first_time, last_time = at_times(times, lo), at_times(times, last_at)
    head = take(values, lo)
    result = take(values, last_at) - head
    if counter:
        add_before_resets(result, values, lo, hi, forced)
    sampled = (last_time - first_time) / 1000.0
    mean_gap = sampled / np.maximum(n - 1, 1)
    threshold = mean_gap * 1.1
    to_start = (first_time - starts) / 1000.0
    to_end = (ends - last_time) / 1000.0
    to_start = np.where(to_start >= threshold, mean_gap / 2, to_start)
    to_end = np.where(to_end >= threshold, mean_gap / 2, to_end)
    sampled = np.where(sampled > 0, sampled, 1.0)
    factor = (sampled + to_start + to_end) / sampled / per
    if not counter:
        _scale(result, factor, line_of)
        return result
    # A counter cannot have been below zero: where the line through the window meets zero before the
    # extrapolated start, the series is taken to begin there. Few rows can: only those that are ever so low.
    low = np.flatnonzero(~(head.min(axis=1) * sampled.min() >= result.max(axis=1) * to_start.max()))
    rows, cols = np.empty(0, np.intp), np.empty(0, np.intp)
    if len(low):
        of = slice(None) if sampled.ndim == 1 else low if line_of is None else line_of[low]
        rise, base = result[low], head[low]
        near_zero = (base * sampled[of] < rise * to_start[of]) & (base >= 0) & (rise > 0)
        rows, cols = np.nonzero(near_zero)
    exact = None
    if len(rows):
        rise, base = rise[rows, cols], base[rows, cols]
        rows = low[rows]
        at = (cols,) if sampled.ndim == 1 else (rows if line_of is None else line_of[rows], cols)
        span, begin, end = sampled[at], to_start[at], to_end[at]
        to_zero = span * (base / rise)
        exact = rise * ((span + np.minimum(to_zero, begin) + end) / span / per)
    _scale(result, factor, line_of)
    if exact is not None:
        result[rows, cols] = exact
    return result


def _scale(result: Floats, factor: Floats, line_of: Index | None) -> None:
    """Multiply in place by factors of windows [K], of rows and windows [S, K], or of lines and windows [L, K]."""
    if line_of is None or len(factor) == 1:
        result *= factor
    else:
        result *= factor[line_of]


def start_resets(since: Times, times: Times) -> Bools:
    """Where a sample's start timestamp says that its counter began anew after the sample before, [S, T-1]."""
    now, before = since[:, 1:], since[:, :-1]
    left, right = times[:-1], times[1:]
    known = (now != 0) & (now < right) & (now >= left)
    # Equal to the sample before: a delta, unless that one's own start is unknown or not valid.
    out: Bools = known & ((now > left) | ((before != 0) & (before < left)))
    return out


def born_inside(since: Times, times: Times, lo: Index, hi: Index, starts: Times) -> Bools:
    """Whether the first sample of each window started inside it, [S, K]."""
    limit = len(times) - 1
    head = np.take(since, lo, axis=1, mode="clip")
    out: Bools = (hi > lo) & (head != 0) & (head > starts) & (head < times[np.minimum(lo, limit)])
    return out


def from_start_timestamps(
    out: Floats,
    values: Floats,
    since: Times,
    times: Times,
    lo: Index,
    hi: Index,
    starts: Times,
    ends: Times,
    per: float = 1.0,
) -> None:
    """Replace increases of windows whose first sample started inside them: from zero at that time, no extrapolation."""
    rows, cols = np.nonzero(born_inside(since, times, lo, hi, starts))
    if not len(rows):
        return
    first, last_at = lo[cols], hi[cols] - 1
    corrections = np.zeros((len(values), len(lo)))
    add_before_resets(corrections, values, lo, hi, start_resets(since, times))
    head = values[rows, first]
    rise = values[rows, last_at] - head + corrections[rows, cols] + head
    gaps = last_at - first
    mean_gap = np.where(gaps > 0, (times[last_at] - times[first]) / 1000.0 / np.maximum(gaps, 1), 0.0)
    to_end = (ends[cols] - times[last_at]) / 1000.0
    to_end = np.where(to_end >= mean_gap * 1.1, mean_gap / 2, to_end)
    sampled = (times[last_at] - since[rows, first]) / 1000.0
    out[rows, cols] = rise * ((sampled + to_end) / sampled / per)


def instant_delta(values: Floats, lo: Index, hi: Index, counter: bool, forced: Bools | None = None) -> Floats:
    """Difference of the last two samples; for a `counter` that fell, the last value."""
    right = take(values, hi - 1)
    left = take(values, hi - 2)
    delta: Floats = right - left
    if not counter:
        return delta
    fell = right < left
    if forced is not None:
        fell = fell | np.take(forced, np.maximum(hi - 2, 0), axis=1, mode="clip")
    return np.where(fell, right, delta)
