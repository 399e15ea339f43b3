"""Quantiles and fractions of classic histograms: pure functions on cumulative counts.

`uppers` float64 [B] are sorted, distinct upper bounds; `counts` float64 [G, B, K] the cumulative counts of G histograms
at K steps.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_TOLERANCE = 1e-12
_MIN_NORMAL = 2.2250738585072014e-308
_MAX = 1.7976931348623157e308


@dataclass(frozen=True, slots=True, eq=False)
class Forced:
    """What had to be made monotonic: where [G, K], between which upper bounds, the largest decrease."""

    where: Bools
    lowest: Floats
    highest: Floats
    largest: Floats


def coalesce(uppers: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Sort by upper bound and add up buckets that share one; `counts` [B, K]."""
    order = np.argsort(uppers, kind="stable")
    uppers, counts = uppers[order], counts[order]
    starts = np.flatnonzero(np.concatenate([[True], uppers[1:] != uppers[:-1]]))
    if len(starts) == len(uppers):
        return uppers, counts
    return uppers[starts], np.add.reduceat(counts, starts, axis=0)


def monotonic(uppers: Floats, counts: Floats) -> tuple[Floats, Forced]:
    """Counts that never fall: tiny differences are ignored, larger falls are lifted and reported."""
    groups, _, steps = counts.shape
    out = counts.copy()
    shape = (groups, steps)
    forced = np.zeros(shape, dtype=np.bool_)
    lowest, highest = np.full(shape, np.inf), np.full(shape, -np.inf)
    largest = np.zeros(shape)
    previous = counts[:, 0]
    if not len(uppers) or _rises(counts):
        return out, Forced(forced, lowest, highest, largest)
    with np.errstate(all="ignore"):
        for b in range(1, len(uppers)):
            current = counts[:, b]
            gap = np.abs(previous - current)
            size = np.abs(previous) + np.abs(current)
            tiny = (previous == 0) | (current == 0) | (size < _MIN_NORMAL)
            near = np.where(tiny, gap < _TOLERANCE * _MIN_NORMAL, gap / np.minimum(size, _MAX) < _TOLERANCE)
            fell = (current < previous) & ~near
            out[:, b] = np.where(near | fell, previous, current)
            forced |= fell
            lowest = np.where(fell, np.minimum(lowest, uppers[b]), lowest)
            highest = np.where(fell, np.maximum(highest, uppers[b]), highest)
            largest = np.where(fell, np.maximum(largest, gap), largest)
            previous = out[:, b]
    return out, Forced(forced, lowest, highest, largest)


def _rises(counts: Floats) -> bool:
    """Whether all counts are as the one before or clearly above it; False if in doubt."""
    before, after = counts[:, :-1], counts[:, 1:]
    with np.errstate(all="ignore"):
        rise = after - before
        return bool(((rise == 0) | (rise > np.abs(after) * (4 * _TOLERANCE) + _MIN_NORMAL)).all())


def quantile(q: Floats, uppers: Floats, counts: Floats) -> tuple[Floats, Forced]:
    """Quantile `q` [K], interpolated within its bucket; NaN without observations or without a +Inf bucket.

    The lowest bucket starts at 0 if its bound is positive; in the highest the second highest bound is the answer.
    """
    groups, size, steps = counts.shape
    counts, forced = monotonic(uppers, counts)
    usable = (q >= 0) & (q <= 1) & bool(np.isposinf(uppers[-1]))
    forced = Forced(forced.where & usable, forced.lowest, forced.highest, forced.largest)
    if size < 2 or not np.isposinf(uppers[-1]):
        out = np.full((groups, steps), np.nan)
    else:
        total = counts[:, -1]
        with np.errstate(all="ignore"):
            rank = q * total
            reached = counts[:, :-1] >= rank[:, None]
            bucket = np.where(reached.any(axis=1), np.argmax(reached, axis=1), size - 1)
            at = np.minimum(bucket, size - 2)
            below = np.maximum(at - 1, 0)
            count = np.take_along_axis(counts, at[:, None], axis=1)[:, 0]
            before = np.where(at > 0, np.take_along_axis(counts, below[:, None], axis=1)[:, 0], 0.0)
            start = np.where(at > 0, uppers[below], 0.0)
            end = uppers[at]
            out = start + (end - start) * ((rank - before) / (count - before))
        out = np.where((bucket == 0) & (uppers[0] <= 0), uppers[0], out)
        out = np.where(bucket == size - 1, uppers[-2], out)
        out = np.where((total == 0) | np.isnan(total), np.nan, out)
    out = np.where(q < 0, -np.inf, np.where(q > 1, np.inf, out))
    return np.where(np.isnan(q), np.nan, out), forced


def fraction(lower: Floats, upper: Floats, uppers: Floats, counts: Floats) -> Floats:
    """The share of observations between `lower` and `upper` [K], interpolated within buckets."""
    groups, _size, steps = counts.shape
    if not np.isposinf(uppers[-1]):
        return np.full((groups, steps), np.nan)
    total = counts[:, -1]
    low, high = _rank(lower, uppers, counts), _rank(upper, uppers, counts)
    with np.errstate(all="ignore"):
        out = (np.minimum(high, total) - np.minimum(low, total)) / total
    out = np.where(lower >= upper, 0.0, out)
    return np.where((total == 0) | np.isnan(lower) | np.isnan(upper), np.nan, out)


def _rank(value: Floats, uppers: Floats, counts: Floats) -> Floats:
    """How many observations lie below `value` [K], [G, K]; all if it is beyond the last bound."""
    groups, size, steps = counts.shape
    starts = np.concatenate([[0.0 if uppers[0] > 0 else -np.inf], uppers[:-1]])
    out = counts[:, -1].copy()
    found = np.zeros((groups, steps), dtype=np.bool_)
    before = np.zeros((groups, steps))
    with np.errstate(all="ignore"):
        for b in range(size):
            begins = (starts[b] >= value) & ~found
            out = np.where(begins, before, out)
            found |= begins
            inside = (starts[b] < value) & (uppers[b] > value) & ~found
            if np.isneginf(starts[b]):
                part = counts[:, b]
            else:
                part = before + (counts[:, b] - before) * (value - starts[b]) / (uppers[b] - starts[b])
            out = np.where(inside, part, out)
            found |= inside
            before = counts[:, b]
    return out
