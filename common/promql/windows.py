"""Bounds, edges and extremes of windows: pure functions on arrays, no Python objects inside.

Conventions: `values` float64 [S, T]; `times` int64 ms [T], strictly increasing; window k holds the samples
`lo[k] <= i < hi[k]` (intp [K]). Results are float64 [S, K]; columns whose window is too small hold garbage, the
caller masks them.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Times = NDArray[np.int64]
Index = NDArray[np.intp]
Bools = NDArray[np.bool_]


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
            if (strides == index).all():
                return values[:, first : end + 1 : step]
    if count == 1:
        at = min(max(int(index[0]), 0), last)
        return values[:, at : at + 1]
    return np.take(values, index, axis=1, mode="clip")


def at_times(times: Times, index: Index) -> Times:
    """Times of samples: [K] from shared `times` [T], [S, K] from times [S, T] of each row."""
    return times.take(index, axis=-1, mode="clip")


def last(values: Floats, lo: Index, hi: Index) -> Floats:
    """The last sample of each window."""
    return take(values, hi - 1)


def first(values: Floats, lo: Index, hi: Index) -> Floats:
    """The first sample of each window."""
    return take(values, lo)


def counts(values: Floats, lo: Index, hi: Index) -> Floats:
    """The number of samples."""
    return np.broadcast_to((hi - lo).astype(np.float64), (len(values), len(lo)))


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
