"""Window functions over rows that share their timestamps: pure functions on arrays, no Python objects inside.

Conventions: `values` float64 [S, T]; `times` int64 ms [T], strictly increasing; window k holds the samples
`lo[k] <= i < hi[k]` (intp [K]). Results are float64 [S, K]; columns whose window is too small hold garbage, the
caller masks them (see `counts`). What must be exact follows Prometheus's arithmetic (Kahan-Neumaier sums).
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Times = NDArray[np.int64]
Index = NDArray[np.intp]
Bools = NDArray[np.bool_]

BLOCK_CELLS = 1 << 20
_SAFE_RANGE = 1e9
_HUGE = 1e290
_SHORT_WINDOW = 12
_SPREAD_LIMIT = 1e-6


def bounds(times: Times, starts: Times, ends: Times) -> tuple[Index, Index]:
    """First and one-past-last index of samples with start < timestamp <= end, for every window."""
    lo: Index = np.searchsorted(times, starts, side="right")
    hi: Index = np.searchsorted(times, ends, side="right")
    return lo, hi


def take(values: Floats, index: Index) -> Floats:
    """Columns of `values`: a view where `index` is an arithmetic progression, else a copy. Clips the index."""
    last = values.shape[1] - 1
    count = len(index)
    if count > 1:
        first, step = int(index[0]), int(index[1]) - int(index[0])
        end = first + step * (count - 1)
        if step > 0 and first >= 0 and end <= last and int(index[-1]) == end:
            strides = np.arange(first, end + 1, step)
            if np.array_equal(strides, index):
                return values[:, first : end + 1 : step]
    if count == 1:
        at = min(max(int(index[0]), 0), last)
        return values[:, at : at + 1]
    return np.take(values, index, axis=1, mode="clip")


def at_times(times: Times, index: Index) -> Times:
    """Times of samples: [K] from shared `times` [T], [S, K] from times [S, T] of each row."""
    index = np.clip(index, 0, times.shape[-1] - 1)
    out: Times = times[..., index]
    return out


def last(values: Floats, lo: Index, hi: Index) -> Floats:
    """The last sample of each window."""
    return take(values, hi - 1)


def first(values: Floats, lo: Index, hi: Index) -> Floats:
    """The first sample of each window."""
    return take(values, lo)


def counts(values: Floats, lo: Index, hi: Index) -> Floats:
    """The number of samples."""
    return np.broadcast_to((hi - lo).astype(np.float64), (len(values), len(lo)))


def _prefix(steps: Floats | NDArray[np.int32]) -> NDArray[np.float64]:
    """`out[:, i]` is the sum of `steps[:, :i]`; one column more than `steps`."""
    out = np.zeros((steps.shape[0], steps.shape[1] + 1))
    np.cumsum(steps, axis=1, out=out[:, 1:])
    return out


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


def reset_corrections(values: Floats, lo: Index, hi: Index, forced: Bools | None = None) -> Floats | None:
    """Sum of the values before each counter reset inside each window; None if no row has a reset."""
    if values.shape[1] < 2:
        return None
    events = values[:, 1:] < values[:, :-1]
    if forced is not None:
        events = events | forced
    rows = np.flatnonzero(events.any(axis=1))
    if not len(rows):
        return None
    out = np.zeros((len(values), len(lo)))
    out[rows] = sums(np.where(events[rows], values[rows, :-1], 0.0), lo, np.maximum(hi - 1, lo))
    return out


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
) -> Floats:
    """Increase over each window, extrapolated to its ends as Prometheus does (at least two samples a window).

    `starts` and `ends` are the windows' limits, ms. `counter` corrects for resets and never extrapolates below zero.
    `per` divides: the window's seconds for a rate. It divides the factor, not the result, to round as Prometheus does.
    """
    n = hi - lo
    last_at = np.maximum(hi - 1, 0)
    first_time, last_time = at_times(times, lo), at_times(times, last_at)
    head = take(values, lo)
    result = take(values, last_at) - head
    if counter:
        lost = reset_corrections(values, lo, hi, forced)
        if lost is not None:
            result += lost
    sampled = (last_time - first_time) / 1000.0
    mean_gap = sampled / np.maximum(n - 1, 1)
    threshold = mean_gap * 1.1
    to_start = (first_time - starts) / 1000.0
    to_end = (ends - last_time) / 1000.0
    to_start = np.where(to_start >= threshold, mean_gap / 2, to_start)
    to_end = np.where(to_end >= threshold, mean_gap / 2, to_end)
    sampled = np.where(sampled > 0, sampled, 1.0)
    if not counter:
        result *= (sampled + to_start + to_end) / sampled / per
        return result
    # A counter cannot have been below zero: where the line through the window meets zero before the
    # extrapolated start, the series is taken to begin there.
    near_zero = (head * sampled < result * to_start) & (head >= 0) & (result > 0)
    rows, cols = np.nonzero(near_zero)
    exact = None
    if len(rows):
        rise, base = result[rows, cols], head[rows, cols]
        if times.ndim > 1:
            span, begin, end = sampled[rows, cols], to_start[rows, cols], to_end[rows, cols]
        else:
            span, begin, end = sampled[cols], to_start[cols], to_end[cols]
        to_zero = span * (base / rise)
        exact = rise * ((span + np.minimum(to_zero, begin) + end) / span / per)
    result *= (sampled + to_start + to_end) / sampled / per
    if exact is not None:
        result[rows, cols] = exact
    return result


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
    corrections = reset_corrections(values, lo, hi, start_resets(since, times))
    head = values[rows, first]
    rise = values[rows, last_at] - head
    if corrections is not None:
        rise = rise + corrections[rows, cols]
    rise = rise + head
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


def _extreme(
    values: Floats, lo: Index, hi: Index, plain: Callable[..., Floats], ignoring_nan: Callable[..., Floats]
) -> Floats:
    n = hi - lo
    longest = int(n.max(initial=0))
    if longest <= 0:
        return np.zeros((len(values), len(lo)))
    if len(lo) == 1:
        part = values[:, int(lo[0]) : int(hi[0])]
        return ignoring_nan.reduce(part, axis=1)[:, None]  # type: ignore[attr-defined,no-any-return]
    # NaN only shows in the sum of a row that holds one (or both infinities): a cheap test for the fast path.
    combine = plain if np.isfinite(values.sum(axis=1)).all() else ignoring_nan
    level = values
    out: Floats | None = None
    power = 1
    levels = np.maximum(n, 1).astype(np.int64)
    depth = np.frexp(levels.astype(np.float64))[1] - 1
    for step in range(int(depth.max()) + 1):
        at = np.flatnonzero(depth == step)
        if len(at):
            if len(at) == len(lo):
                return combine(take(level, lo), take(level, hi - power))
            if out is None:
                out = np.empty((len(values), len(lo)))
            out[:, at] = combine(take(level, lo[at]), take(level, hi[at] - power))
        if level.shape[1] > power and step < int(depth.max()):
            level = combine(level[:, :-power], level[:, power:])
        power *= 2
    assert out is not None
    return out


def maximum(values: Floats, lo: Index, hi: Index) -> Floats:
    """The largest sample; NaN only where all are."""
    return _extreme(values, lo, hi, np.maximum, np.fmax)


def minimum(values: Floats, lo: Index, hi: Index) -> Floats:
    """The smallest sample; NaN only where all are."""
    return _extreme(values, lo, hi, np.minimum, np.fmin)


def neumaier_step(value: Floats, total: Floats, lost: Floats) -> tuple[Floats, Floats]:
    """One step of Kahan's summation as improved by Neumaier: the new sum and the new compensation."""
    new = total + value
    big = np.abs(total) >= np.abs(value)
    with np.errstate(all="ignore"):
        rest = np.where(big, (total - new) + value, (value - new) + total)
    rest = np.where(np.isinf(new), 0.0, rest)
    return new, np.where(np.isinf(new), 0.0, lost + rest)


def exact_sums(values: Floats, lo: Index, hi: Index) -> Floats:
    """Sum of each window, sample after sample with compensation, exactly in Prometheus's order."""
    total = np.zeros((len(values), len(lo)))
    lost = np.zeros_like(total)
    n = hi - lo
    with np.errstate(all="ignore"):
        for j in range(int(n.max(initial=0))):
            inside = n > j
            value = np.where(inside, take(values, lo + j), 0.0)
            new, rest = neumaier_step(value, total, lost)
            total = np.where(inside, new, total)
            lost = np.where(inside, rest, lost)
        return np.where(np.isinf(total), total, total + lost)


def exact_means(values: Floats, lo: Index, hi: Index) -> Floats:
    """Mean of each window as Prometheus computes it: compensated sum, incremental once the sum overflows."""
    shape = (len(values), len(lo))
    n = hi - lo
    total = take(values, lo).copy()
    lost = np.zeros(shape)
    mean = np.zeros(shape)
    incremental = np.zeros(shape, dtype=np.bool_)
    with np.errstate(all="ignore"):
        for j in range(1, int(n.max(initial=0))):
            inside = n > j
            value = take(values, lo + j)
            count = float(j + 1)
            new, rest = neumaier_step(value, total, lost)
            overflow = np.isinf(new) & inside & ~incremental
            if overflow.any():
                mean = np.where(overflow, total / (count - 1), mean)
                lost = np.where(overflow, lost / (count - 1), lost)
                incremental |= overflow
            direct = inside & ~incremental
            total = np.where(direct, new, total)
            if incremental.any():
                share = (count - 1) / count
                next_mean, next_lost = neumaier_step(value / count, share * mean, share * lost)
                moving = incremental & inside
                mean = np.where(moving, next_mean, mean)
                lost = np.where(moving, next_lost, lost)
            lost = np.where(direct, rest, lost)
        size = np.maximum(n, 1)
        return np.where(incremental, mean + lost, total / size + lost / size)


def split_high(values: Floats, terms: int) -> tuple[Floats, Floats]:
    """Each row as `high + low`: sums of up to `terms` of a row's `high` parts are free of rounding in any order.

    Rows must be finite and below 1e290. (Rump, Ogita, Oishi: Accurate floating-point summation, 2008.)
    """
    top = np.maximum(values.max(axis=1, initial=0.0), -values.min(axis=1, initial=0.0))
    scale = np.exp2(np.ceil(np.log2(np.maximum(top, 1e-290))) + np.ceil(np.log2(terms + 2)) + 1)[:, None]
    high = (values + scale) - scale
    return high, values - high


def smooth_rows(values: Floats) -> Bools:
    """Rows whose sums can be had from prefix sums: finite, of one sign and of a moderate dynamic range."""
    low = values.min(axis=1, initial=np.inf)
    top = values.max(axis=1, initial=-np.inf)
    with np.errstate(all="ignore"):
        ok: Bools = (low > 0) & (top < np.minimum(low * _SAFE_RANGE, _HUGE))
        ok |= (top < 0) & (low > np.maximum(top * _SAFE_RANGE, -_HUGE))
        rest = np.flatnonzero(~ok & np.isfinite(low) & np.isfinite(top) & (top < _HUGE) & (low > -_HUGE))
    if len(rest):
        size = np.abs(values[rest])
        smallest = np.where(size > 0, size, np.inf).min(axis=1, initial=np.inf)
        ok[rest] = size.max(axis=1, initial=0.0) < smallest * _SAFE_RANGE
    return ok


def _sums_by(
    values: Floats, lo: Index, hi: Index, exact: Callable[[Floats, Index, Index], Floats], mean: bool
) -> Floats:
    if not values.shape[1]:
        return np.zeros((len(values), len(lo)))
    left, right = int(lo.min()), int(hi.max())
    if right <= left:
        return np.zeros((len(values), len(lo)))
    values, lo, hi = values[:, left:right], lo - left, hi - left
    smooth = smooth_rows(values)
    if smooth.all():
        out = _prefix_sums(values, lo, hi)
        if mean:
            out /= np.maximum(hi - lo, 1)
        rough: Index = np.empty(0, dtype=np.intp)
    else:
        out = np.empty((len(values), len(lo)))
        at = np.flatnonzero(smooth)
        if len(at):
            part = _prefix_sums(values[at], lo, hi)
            out[at] = part / np.maximum(hi - lo, 1) if mean else part
        rough = np.flatnonzero(~smooth)
    # Where values of both signs nearly cancel, the prefix sums are not good enough either.
    mixed = np.flatnonzero(smooth & (values.min(axis=1) < 0) & (values.max(axis=1) > 0))
    if len(mixed):
        size = np.abs(values[mixed]).max(axis=1)[:, None]
        bad = ((np.abs(out[mixed]) < size / _SAFE_RANGE) & (out[mixed] != 0)).any(axis=1)
        rough = np.concatenate([rough, mixed[bad]])
    if len(rough):
        out[rough] = exact(values[rough], lo, hi)
    return out


def _prefix_sums(values: Floats, lo: Index, hi: Index) -> Floats:
    high, low = split_high(values, values.shape[1])
    if len(lo) == 1:
        window = slice(int(lo[0]), int(hi[0]))
        whole: Floats = high[:, window].sum(axis=1, keepdims=True) + low[:, window].sum(axis=1, keepdims=True)
        return whole
    high, low = _prefix(high), _prefix(low)
    top = np.maximum(hi, lo)
    out = take(high, top) - take(high, lo)
    out += take(low, top) - take(low, lo)
    return out


def sums(values: Floats, lo: Index, hi: Index) -> Floats:
    """The sum of each window, as good as compensated summation."""
    return _sums_by(values, lo, hi, exact_sums, mean=False)


def means(values: Floats, lo: Index, hi: Index) -> Floats:
    """The mean of each window, as good as compensated summation."""
    return _sums_by(values, lo, hi, exact_means, mean=True)


def blocks(
    values: Floats, lo: Index, hi: Index, cells: int = BLOCK_CELLS
) -> Iterator[tuple[slice, slice, Floats, Bools]]:
    """Windows spelled out, in blocks of at most about `cells`: (rows, steps, samples [s, k, w], inside [k, w]).

    Windows shorter than w are padded by repeating their last sample; `inside` is False there.
    """
    n = hi - lo
    rows, steps = len(values), len(lo)
    width = int(n.max(initial=0))
    if width == 0 or rows == 0:
        return
    per_step = max(1, min(steps, cells // width))
    per_row = max(1, cells // (width * per_step))
    offsets = np.arange(width)
    for k in range(0, steps, per_step):
        part = slice(k, min(k + per_step, steps))
        inside = offsets[None, :] < n[part, None]
        at = np.minimum(lo[part, None] + offsets[None, :], np.maximum(hi[part, None] - 1, 0))
        for s in range(0, rows, per_row):
            band = slice(s, min(s + per_row, rows))
            yield band, part, np.take(values[band], at, axis=1, mode="clip"), inside


def variances(values: Floats, lo: Index, hi: Index) -> Floats:
    """Population variance of each window; NaN where a sample is not finite."""
    n = hi - lo
    if len(lo) < 4 or int(n.max(initial=0)) < _SHORT_WINDOW:
        return exact_variances(values, lo, hi)
    # Prefix sums of deviations from the row's mean, where they are precise enough: windows whose own spread is
    # tiny beside the row's are computed from their samples.
    with np.errstate(all="ignore"):
        shifted = values - values.mean(axis=1, keepdims=True)
        first, second = _prefix(shifted), _prefix(shifted * shifted)
        top = np.maximum(hi, lo)
        size = np.maximum(n, 1)
        total = take(first, top) - take(first, lo)
        spread = take(second, top) - take(second, lo) - total * total / size
        good = spread > second[:, -1:] * _SPREAD_LIMIT
        out: Floats = spread / size
    bad = np.flatnonzero(~good.all(axis=1))
    if len(bad):
        out[bad] = exact_variances(values[bad], lo, hi)
    return out


def exact_variances(values: Floats, lo: Index, hi: Index) -> Floats:
    """As `variances`, each window from its own samples in two passes."""
    out = np.empty((len(values), len(lo)))
    n = np.maximum(hi - lo, 1)
    with np.errstate(invalid="ignore", over="ignore"):
        for band, part, window, inside in blocks(values, lo, hi):
            size = n[part]
            # Deviations from the first sample: a constant window has variance 0 to the last bit.
            shifted = window - window[:, :, :1]
            whole = bool(inside.all())
            if not whole:
                shifted = np.where(inside, shifted, 0.0)
            mean = shifted.sum(axis=2) / size
            shifted -= mean[:, :, None]
            if not whole:
                shifted *= inside
            out[band, part] = np.einsum("skw,skw->sk", shifted, shifted) / size
    return out


def deviations(values: Floats, lo: Index, hi: Index) -> Floats:
    """Population standard deviation of each window."""
    return np.sqrt(variances(values, lo, hi))


def quantile_of_sorted(ordered: Floats, n: NDArray[np.intp], q: Floats) -> Floats:
    """Interpolated quantile `q` [...] of the first `n` [...] entries along the last axis, sorted, NaN first.

    Outside [0, 1] it is -Inf or +Inf, for NaN it is NaN, as in Prometheus.
    """
    rank = np.clip(np.where(np.isnan(q), 0.0, q), 0.0, 1.0) * (n - 1)
    lower = np.maximum(0, np.floor(rank)).astype(np.intp)
    upper = np.minimum(n - 1, lower + 1)
    weight = rank - np.floor(rank)
    left = np.take_along_axis(ordered, lower[..., None], axis=-1)[..., 0]
    right = np.take_along_axis(ordered, np.maximum(upper, 0)[..., None], axis=-1)[..., 0]
    with np.errstate(all="ignore"):
        out = left * (1 - weight) + right * weight
    out = np.where(q < 0, -np.inf, np.where(q > 1, np.inf, out))
    return np.where(np.isnan(q), np.nan, out)


def _sort_nan_first(window: Floats, inside: Bools) -> tuple[Floats, NDArray[np.intp]]:
    """Windows sorted along the last axis with NaN before all numbers, and how many samples each holds."""
    n = np.broadcast_to(inside.sum(axis=1), window.shape[:2])
    width = window.shape[2]
    nan = np.isnan(window) & inside
    missing = nan.sum(axis=2)
    filled = np.where(inside, window, np.inf) if not inside.all() else window
    if not missing.any():
        return np.sort(filled, axis=2), n
    # numpy sorts NaN last: sort what is a number, then shift by the number of NaN.
    ordered = np.sort(np.where(nan, np.inf, filled), axis=2)
    at = np.arange(width)[None, None, :] - missing[:, :, None]
    shifted = np.take_along_axis(ordered, np.maximum(at, 0), axis=2)
    return np.where(at < 0, np.nan, shifted), n


def quantiles(values: Floats, lo: Index, hi: Index, q: Floats) -> Floats:
    """Quantile `q` [K] of each window, interpolated between samples; NaN counts as smallest."""
    out = np.empty((len(values), len(lo)))
    fixed = bool((q == q[0]).all()) and 0 <= q[0] <= 1
    for band, part, window, inside in blocks(values, lo, hi):
        if fixed and inside.all() and not np.isnan(window.sum()):
            out[band, part] = _selected(window, float(q[0]))
            continue
        ordered, n = _sort_nan_first(window, inside)
        out[band, part] = quantile_of_sorted(ordered, n, np.broadcast_to(q[part], ordered.shape[:2]))
    return out


def _selected(window: Floats, q: float) -> Floats:
    """Quantile `q` in [0, 1] of full windows without NaN, by selection instead of sorting."""
    rank = q * (window.shape[2] - 1)
    lower = int(np.floor(rank))
    upper = min(window.shape[2] - 1, lower + 1)
    weight = rank - np.floor(rank)
    chosen = np.partition(window, (lower, upper), axis=2)
    out: Floats = chosen[:, :, lower] * (1 - weight) + chosen[:, :, upper] * weight
    return out


def median_deviations(values: Floats, lo: Index, hi: Index) -> Floats:
    """Median of the absolute deviations from the median; NaN where a sample is NaN."""
    out = np.empty((len(values), len(lo)))
    with np.errstate(all="ignore"):
        for band, part, window, inside in blocks(values, lo, hi):
            ordered, n = _sort_nan_first(window, inside)
            half = np.full(ordered.shape[:2], 0.5)
            median = quantile_of_sorted(ordered, n, half)
            again, n = _sort_nan_first(np.abs(window - median[:, :, None]), inside)
            broken = (np.isnan(window) & inside).any(axis=2)
            out[band, part] = np.where(broken, np.nan, quantile_of_sorted(again, n, half))
    return out


def regressions(values: Floats, times: Times, lo: Index, hi: Index, at: Times | None) -> tuple[Floats, Floats]:
    """Least-squares slope (per second) and value at time `at` (ms [K]; None: at the first sample) of each window."""
    shape = (len(values), len(lo))
    slope, intercept = np.empty(shape), np.empty(shape)
    own = times.ndim > 1
    with np.errstate(all="ignore"):
        for band, part, window, inside in blocks(values, lo, hi):
            index = np.minimum(lo[part, None] + np.arange(window.shape[2])[None, :], times.shape[-1] - 1)
            here = times[band] if own else times[None]
            origin = at_times(here, lo[part])
            size = np.maximum(hi[part] - lo[part], 1)
            seconds = np.where(inside, (here[:, index] - origin[:, :, None]) / 1000.0, 0.0)
            mean_time = seconds.sum(axis=2) / size
            centred = np.where(inside, seconds - mean_time[:, :, None], 0.0)
            head = window[:, :, 0]
            rise = window - head[:, :, None]
            if not inside.all():
                rise = np.where(inside, rise, 0.0)
            constant = (rise == 0).all(axis=2)
            if own:
                products = np.einsum("skw,skw->sk", rise, centred)
            else:
                products = np.einsum("skw,kw->sk", rise, centred[0])
            part_slope = products / np.einsum("skw,skw->sk", centred, centred)
            mean_rise = rise.sum(axis=2) / size
            when = (0.0 if at is None else (at[part] - origin) / 1000.0) - mean_time
            part_value = head + (mean_rise + part_slope * when)
            # An infinite sample makes the sums of which slope and value are made NaN.
            wild = ~np.isfinite(rise).all(axis=2) | np.isinf(head)
            slope[band, part] = np.where(wild, np.nan, np.where(constant, 0.0, part_slope))
            intercept[band, part] = np.where(wild, np.nan, np.where(constant, head, part_value))
    return slope, intercept


def double_exponential(values: Floats, lo: Index, hi: Index, smoothing: Floats, trend: Floats) -> Floats:
    """Holt's double exponential smoothing with factors [K]; the last smoothed value (two samples at least)."""
    n = hi - lo
    before = np.zeros((len(values), len(lo)))
    smoothed = take(values, lo).copy()
    slope = take(values, lo + 1) - smoothed
    with np.errstate(invalid="ignore", over="ignore"):
        for j in range(1, int(n.max(initial=0))):
            inside = n > j
            if j > 1:
                slope = np.where(inside, trend * (smoothed - before) + (1 - trend) * slope, slope)
            new = smoothing * take(values, lo + j) + (1 - smoothing) * (smoothed + slope)
            before, smoothed = np.where(inside, smoothed, before), np.where(inside, new, smoothed)
    return smoothed


def time_of_extreme(values: Floats, times: Times, lo: Index, hi: Index, largest: bool) -> Floats:
    """Seconds at which the largest (or smallest) sample of each window was taken; of equal ones the last."""
    out = np.empty((len(values), len(lo)))
    for band, part, window, inside in blocks(values, lo, hi):
        best = np.where(inside, window if largest else -window, -np.inf)
        best = np.where(np.isnan(best), -np.inf, best)
        nan_tail = np.isnan(window) & inside
        top = best.max(axis=2)
        hit = inside & ~nan_tail & (best == top[:, :, None])
        width = window.shape[2]
        at = width - 1 - np.argmax(hit[:, :, ::-1], axis=2)
        # All NaN: each sample replaces the one before, the last one stays.
        at = np.where(hit.any(axis=2), at, (hi - lo)[part][None, :] - 1)
        index = np.minimum(lo[part][None, :] + np.maximum(at, 0), times.shape[-1] - 1)
        when = np.take_along_axis(times[band], index, axis=1) if times.ndim > 1 else times[index]
        out[band, part] = when / 1000.0
    return out
