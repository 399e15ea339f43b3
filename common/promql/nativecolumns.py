"""What nativehist says of one native histogram, of many of one kind at once, to the bit. Pure.

What is not `regular` (custom bounds, observations of NaN) is for nativehist.
"""

import math
from functools import lru_cache

import numpy as np

from common.histogram_grid import Columns, Kind, Spread
from common.promql.matrix import Bools, Floats

MOST_LIMITS = 16
"""Different limits of fractions that are looked at at once."""


def regular(columns: Columns) -> Bools:
    """Which of them this module is for."""
    numbers = columns.numbers
    # Of NaN only sums are: a NaN anywhere makes that of all numbers NaN.
    found: Bools = np.isfinite(numbers[:, 0]) & np.isfinite(numbers[:, 1]) & np.isfinite(numbers[:, 2:].sum(axis=1))
    return np.zeros(len(columns), np.bool_) if columns.kind.custom else found


@lru_cache(maxsize=256)
def _logs(kind: Kind, spread: Spread) -> tuple[Floats, Floats]:
    """Binary logarithms of the bounds' magnitudes, 0 for bounds that are zero."""
    found = []
    for bounds in Columns(kind, spread, np.empty((0, spread.width)), np.empty(0, np.uint8)).edges():
        magnitudes = np.abs(bounds).tolist()
        found.append(np.array([math.log2(each) if each > 0 else 0.0 for each in magnitudes]))
    return found[0], found[1]


def _sided(columns: Columns) -> tuple[Bools, Bools]:
    """Whether the zero bucket begins at zero, and whether it ends there: the other side has no buckets."""
    below: Bools = np.logical_or.reduce(columns.negative != 0, axis=1)
    above: Bools = np.logical_or.reduce(columns.positive != 0, axis=1)
    return ~below & above, ~above & below


def quantile(q: Floats, columns: Columns) -> Floats:
    """Quantile `q` [N] of each, all of them regular."""
    counts = columns.upwards()
    out = np.empty(len(columns))
    inside = np.where((q >= 0) & (q <= 1), q, 0.0)
    forward = inside < 0.5
    for ahead in (True, False):
        rows = np.flatnonzero(forward == ahead)
        if len(rows):
            out[rows] = _quantile(inside[rows], columns.take(rows), counts[rows], ahead)
    out[(columns.numbers[:, 0] == 0) | np.isnan(q)] = math.nan
    out[q > 1] = math.inf
    out[q < 0] = -math.inf
    return out


def _quantile(q: Floats, columns: Columns, counts: Floats, forward: bool) -> Floats:
    total = columns.numbers[:, 0]
    rank = (q if forward else 1 - q) * total
    ordered = counts if forward else counts[:, ::-1]
    sums = np.cumsum(ordered, axis=1)
    filled = ordered != 0
    hit = (sums >= rank[:, None]) & filled
    width = counts.shape[1]
    last = width - 1 - filled[:, ::-1].argmax(axis=1)
    at = np.where(hit.any(axis=1), hit.argmax(axis=1), last)
    every = np.arange(len(columns))
    count = np.minimum(sums[every, at], total)
    at = at if forward else width - 1 - at
    inside = counts[every, at]
    lowers, uppers = columns.edges()
    low_logs, high_logs = _logs(columns.kind, columns.spread)
    lower, upper = lowers[at], uppers[at]
    around = (lower < 0) & (upper > 0)
    begins, ends = _sided(columns)
    lower = np.where(around & begins, 0.0, lower)
    upper = np.where(around & ends, 0.0, upper)
    rest = rank - (count - inside) if forward else count - rank
    share = rest / inside
    straight = lower + (upper - lower) * share
    low, high = low_logs[at], high_logs[at]
    positive = lower > 0
    powers = np.where(positive, low + (high - low) * share, high + (low - high) * (1 - share))
    linear = (lower <= 0) & (upper >= 0)
    curved = np.flatnonzero(~linear)
    out: Floats = straight
    # Not numpy's power, whose last bit may differ.
    out[curved] = [2.0**each for each in powers[curved].tolist()]
    out[curved[~positive[curved]]] *= -1
    short = count < rank
    out[short] = upper[short]
    # Without any bucket there is nothing to tell but zero.
    empty = ~filled.any(axis=1)
    out[empty] = np.where(rank[empty] > 0, 0.0, math.nan)
    return out


def fraction(lower: Floats, upper: Floats, columns: Columns) -> Floats | None:
    """The share of observations between `lower` and `upper` [N] of each, all regular; None for too many limits."""
    pairs = np.stack((lower, upper), axis=1)
    # By their bits, so that NaN is one.
    limits = np.unique(np.ascontiguousarray(pairs).view(np.int64).reshape(-1, 2), axis=0)
    if len(limits) > MOST_LIMITS:
        return None
    total = columns.numbers[:, 0]
    counts = columns.upwards()
    before = np.zeros((len(columns), counts.shape[1] + 1))
    np.cumsum(counts, axis=1, out=before[:, 1:])
    out = np.empty(len(columns))
    for low, high in limits.view(np.float64).tolist():
        mine = np.flatnonzero(_same(lower, low) & _same(upper, high))
        if math.isnan(low) or math.isnan(high):
            out[mine] = math.nan
        elif low >= high:
            out[mine] = 0.0
        else:
            some = columns.take(mine)
            ranks = [_rank(value, some, counts[mine], before[mine]) for value in (low, high)]
            out[mine] = (ranks[1] - ranks[0]) / total[mine]
    out[total == 0] = math.nan
    return out


def _same(values: Floats, value: float) -> Bools:
    return np.isnan(values) if math.isnan(value) else np.equal(values, value)


def _rank(value: float, columns: Columns, counts: Floats, before: Floats) -> Floats:
    """How many observations lie below a value."""
    total = columns.numbers[:, 0]
    lowers, uppers = columns.edges()
    low_logs, high_logs = _logs(columns.kind, columns.spread)
    width = counts.shape[1]
    last = width - 1 - (counts != 0)[:, ::-1].argmax(axis=1)
    last = np.where(counts.any(axis=1), last, -1)
    begins, ends = _sided(columns)
    zero = columns.spread.negative[1] - columns.spread.negative[0]
    out = np.empty(len(columns))
    for mine, first, end in (
        (np.flatnonzero(~begins & ~ends), lowers[zero], uppers[zero]),
        (np.flatnonzero(begins), 0.0, uppers[zero]),
        (np.flatnonzero(ends), lowers[zero], 0.0),
    ):
        if not len(mine):
            continue
        lower, upper = lowers.copy(), uppers.copy()
        lower[zero], upper[zero] = first, end
        found = np.flatnonzero((lower >= value) | ((lower < value) & (value < upper)))
        at = int(found[0]) if len(found) else width
        if at == width:
            rank = total[mine]
        elif lower[at] >= value:
            rank = before[mine, at]
        else:
            share = counts[mine, at]
            if lowers[at] <= 0 <= uppers[at]:
                share = share * (value - lower[at]) / (upper[at] - lower[at])
            else:
                low, high, where = float(low_logs[at]), float(high_logs[at]), math.log2(abs(value))
                share = share * ((where - low) / (high - low) if value > 0 else 1 - (where - high) / (low - high))
            rank = before[mine, at] + share
        # Beyond the last populated bucket there is none.
        rank = np.where(last[mine] < at, total[mine], rank)
        out[mine] = np.where(rank > total[mine], total[mine], rank)
    return out


def variance(columns: Columns) -> Floats:
    """Estimated population variance of each, all regular."""
    counts = columns.upwards()
    number = columns.numbers[:, 0]
    mean = columns.numbers[:, 1] / number
    total, lost = np.zeros(len(columns)), np.zeros(len(columns))
    for at, (lower, upper) in enumerate(zip(*(each.tolist() for each in columns.edges()), strict=True)):
        value = 0.0
        if not lower <= 0 <= upper:
            value = math.copysign(math.sqrt(upper * lower), upper)
        term = counts[:, at] * (value - mean) * (value - mean)
        new = total + term
        rest = np.where(np.abs(total) >= np.abs(term), (total - new) + term, (term - new) + total)
        filled = counts[:, at] != 0
        lost = np.where(filled & ~np.isinf(new), lost + rest, lost)
        total = np.where(filled, new, total)
    out = (total + lost) / number
    out[number == 0] = math.nan
    return out
