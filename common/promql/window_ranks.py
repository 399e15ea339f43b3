"""Quantiles, medians, trends and other functions that look at every sample of each window; arrays as in `windows`."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from common.promql.windows import Bools, Floats, Index, Times, at_times, take

BLOCK_CELLS = 1 << 20


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


def regressions(
    values: Floats, table: Times, lo: Index, hi: Index, at: Times | None, line_of: NDArray[np.intp] | None = None
) -> tuple[Floats, Floats]:
    """Least-squares slope (per second) and value at time `at` (ms [K]; None: at the first sample) of each window.

    Rows share the times `table` [T], or have times [S, T] of their own, or row s has `table[line_of[s]]` [L, T].
    """
    shape = (len(values), len(lo))
    slope, intercept = np.empty(shape), np.empty(shape)
    shared = table.ndim == 1
    with np.errstate(invalid="ignore"):
        calm = np.abs(values).max(axis=1, initial=0.0) < _CALM
        head = take(values, lo[:1])
        calm &= (np.abs((values - head) + head - values) <= _LOST * np.abs(values)).all(axis=1)
    wild = np.flatnonzero(~calm)
    if len(wild):
        times = table if shared else table[wild if line_of is None else line_of[wild]]
        slope[wild], intercept[wild] = _wild_regressions(values[wild], times, lo, hi, at)
    lines = np.zeros(len(values), np.intp) if shared else np.arange(len(values)) if line_of is None else line_of
    # Weights depend on times alone: rows of one line share them.
    order = np.argsort(np.where(calm, lines, -1), kind="stable")[len(wild) :]
    begins = np.flatnonzero(np.diff(lines[order], prepend=-1))
    if not shared and len(order) < _ROWS_A_LINE * len(begins):
        times = table[order if line_of is None else line_of[order]]
        slope[order], intercept[order] = _regressions_apart(values[order], times, lo, hi, at)
        return slope, intercept
    for rows in np.split(order, begins[1:]) if len(order) else ():
        times = table if shared else table[lines[rows[0]]]
        slope[rows], intercept[rows] = _calm_regressions(values[rows], times, lo, hi, at)
    return slope, intercept


_CALM = 1e300
"""Rows that are finite and smaller than this have no sum or difference that overflows."""
APART_CELLS = 1 << 16
"""Samples of windows of rows with times of their own that are worked on at once."""
_LOST = 1e-9
"""Part of each sample that may be lost in its distance from the first one of its row."""
_ROWS_A_LINE = 16
"""From so many rows a line on, on average, lines are taken one by one."""
_LINE_CELLS = 1 << 15
"""Weights are computed for about this many samples at once, so that they stay in the cache."""


def _calm_regressions(values: Floats, times: Times, lo: Index, hi: Index, at: Times | None) -> tuple[Floats, Floats]:
    """As `regressions`, for rows below _CALM, whose samples lose no more than _LOST, with the times [T]."""
    shape = (len(values), len(lo))
    slope, intercept = np.empty(shape), np.empty(shape)
    # Relative to a sample of the row, so that large values with small changes keep their digits.
    risen = values - take(values, lo[:1])
    changed = np.zeros(values.shape)
    np.cumsum(values[:, 1:] != values[:, :-1], axis=1, dtype=np.float64, out=changed[:, 1:])
    size = np.maximum(hi - lo, 1)
    width = int(size.max())
    offsets = np.arange(width)
    per_step = max(1, _LINE_CELLS // width)
    with np.errstate(all="ignore"):
        for k in range(0, len(lo), per_step):
            part = slice(k, k + per_step)
            n = size[part]
            index = np.minimum(lo[part, None] + offsets, values.shape[1] - 1)
            origin = at_times(times, lo[part])
            weights = np.empty((len(n), width, 2))
            seconds, ones = weights[:, :, 0], weights[:, :, 1]
            np.divide(times[index] - origin[:, None], 1000.0, out=seconds)
            ones[:] = 1.0
            short = np.flatnonzero(n < width)
            if len(short):
                weights[short] *= (offsets < n[short, None])[:, :, None]
            mean_time = seconds.sum(axis=1) / n
            spread = np.einsum("kw,kw->k", seconds, seconds) - n * mean_time * mean_time
            # [k, s, w] @ [k, w, 2]: sums of the samples times their seconds, and of the samples.
            sums = np.matmul(np.take(risen, index, axis=1).transpose(1, 0, 2), weights).transpose(2, 1, 0)
            part_slope = (sums[0] - mean_time * sums[1]) / spread
            mean_rise = sums[1] / n - take(risen, lo[part])
            when = (0.0 if at is None else (at[part] - origin) / 1000.0) - mean_time
            head = take(values, lo[part])
            constant = take(changed, lo[part] + n - 1) == take(changed, lo[part])
            slope[:, part] = np.where(constant, 0.0, part_slope)
            intercept[:, part] = np.where(constant, head, head + (mean_rise + part_slope * when))
    return slope, intercept


def _regressions_apart(values: Floats, times: Times, lo: Index, hi: Index, at: Times | None) -> tuple[Floats, Floats]:
    """As `_calm_regressions`, for rows with times [S, T] of their own."""
    shape = (len(values), len(lo))
    slope, intercept = np.empty(shape), np.empty(shape)
    start = take(values, lo[:1])
    with np.errstate(all="ignore"):
        for band, part, window, inside in blocks(values, lo, hi, APART_CELLS):
            n = np.maximum(hi[part] - lo[part], 1)
            origin = at_times(times[band], lo[part])
            index = np.minimum(lo[part, None] + np.arange(window.shape[2]), times.shape[1] - 1)
            seconds = (times[band][:, index] - origin[:, :, None]) / 1000.0
            head, risen = window[:, :, 0], window - start[band, :, None]
            constant = (window == head[:, :, None]).all(axis=2)
            if not inside.all():
                seconds, risen = np.where(inside, seconds, 0.0), np.where(inside, risen, 0.0)
            mean_time = seconds.sum(axis=2) / n
            spread = np.einsum("skw,skw->sk", seconds, seconds) - n * mean_time * mean_time
            total = risen.sum(axis=2)
            part_slope = (np.einsum("skw,skw->sk", risen, seconds) - mean_time * total) / spread
            mean_rise = total / n - (head - start[band])
            when = (0.0 if at is None else (at[part] - origin) / 1000.0) - mean_time
            slope[band, part] = np.where(constant, 0.0, part_slope)
            intercept[band, part] = np.where(constant, head, head + (mean_rise + part_slope * when))
    return slope, intercept


def _wild_regressions(values: Floats, times: Times, lo: Index, hi: Index, at: Times | None) -> tuple[Floats, Floats]:
    """As `regressions`, for rows of any values with times [T] or [S, T]: an infinite sample's sums are NaN."""
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
