"""Sums, means and variances of windows: exact where it matters, by prefix sums where those are as good.

Arrays are as in `windows`. What must be exact follows Prometheus's arithmetic (Kahan-Neumaier sums).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from common.promql.window_ranks import blocks
from common.promql.windows import Bools, Floats, Index, take

_SAFE_RANGE = 1e9
_HUGE = 1e290
_SHORT_WINDOW = 12
_SPREAD_LIMIT = 1e-6


def _prefix(steps: Floats | NDArray[np.int32]) -> NDArray[np.float64]:
    """`out[:, i]` is the sum of `steps[:, :i]`; one column more than `steps`."""
    out = np.zeros((steps.shape[0], steps.shape[1] + 1))
    np.cumsum(steps, axis=1, out=out[:, 1:])
    return out


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
        return np.where(incremental, mean + lost, np.where(np.isinf(total), total, total + lost) / size)


def split_high(values: Floats, terms: int) -> tuple[Floats, Floats]:
    """Each row as `high + low`: sums of up to `terms` of a row's `high` parts are free of rounding in any order.

    Rows must be finite and below 1e290. (Rump, Ogita, Oishi: Accurate floating-point summation, 2008.)
    """
    top = np.maximum(values.max(axis=1, initial=0.0), -values.min(axis=1, initial=0.0))
    scale = np.exp2(np.ceil(np.log2(np.maximum(top, 1e-290))) + np.ceil(np.log2(terms + 2)) + 1)[:, None]
    high = (values + scale) - scale
    return high, values - high


def smooth_rows(values: Floats) -> Bools:
    """Rows whose sums can be had from prefix sums: finite, of a dynamic range at which those have no rounding.

    `split_high` leaves less than `top * 4T * 2^-53` of each value, in units of at least `smallest * 2^-53`: T of those
    add up exactly below a range of 2^51 / T^2. A window's sum is then its samples' exact sum, rounded once, whatever
    else the row holds; compensated summation (`exact_sums`) gives the same for such a window.
    """
    low = values.min(axis=1, initial=np.inf)
    top = values.max(axis=1, initial=-np.inf)
    span = min(_SAFE_RANGE, 2.0**50 / max(1, values.shape[1]) ** 2)
    with np.errstate(all="ignore"):
        ok: Bools = (low > 0) & (top < np.minimum(low * span, _HUGE))
        ok |= (top < 0) & (low > np.maximum(top * span, -_HUGE))
        rest = np.flatnonzero(~ok & np.isfinite(low) & np.isfinite(top) & (top < _HUGE) & (low > -_HUGE))
    if len(rest):
        size = np.abs(values[rest])
        smallest = np.where(size > 0, size, np.inf).min(axis=1, initial=np.inf)
        ok[rest] = size.max(axis=1, initial=0.0) < smallest * span
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
