"""Aggregation over groups of rows, fed batch by batch: pure functions and accumulators on arrays.

Conventions: `values` float64 [S, K], `presence` bool [S, K], `group` intp [S] in 0..G-1. Results are [G, K].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.promql.window_ranks import quantile_of_sorted
from common.promql.window_sums import neumaier_step

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Index = NDArray[np.intp]

_SAFE_RANGE = 1e9
_ORDINARY = 1e30
_HUGE = 1e290


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows in order of their group; `starts` [H] is the first row of each of the groups `ids` [H]."""

    values: Floats
    presence: Bools
    group: Index
    starts: Index
    ids: Index
    full: bool


def arrange(values: Floats, presence: Bools, group: Index) -> Batch:
    """Order the rows by group (stable), as the accumulators want them; at least one row."""
    if len(group) > 1 and (group[1:] < group[:-1]).any():
        order = np.argsort(group, kind="stable")
        values, presence, group = values[order], presence[order], group[order]
    starts = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]])).astype(np.intp)
    return Batch(values, presence, group, starts, group[starts], bool(presence.all()))


def _reduce(ufunc: np.ufunc, rows: NDArray, starts: Index) -> NDArray:  # type: ignore[type-arg]
    """`ufunc` over the rows of each group, [H, K]."""
    if len(starts) == 1:
        out: NDArray = ufunc.reduce(rows, axis=0, keepdims=True)  # type: ignore[type-arg]
        return out
    if len(starts) == len(rows):
        return rows
    result: NDArray = ufunc.reduceat(rows, starts, axis=0)  # type: ignore[type-arg]
    return result


def _grown(array: NDArray, groups: int, fill: float) -> NDArray:  # type: ignore[type-arg]
    """`array` [G, K] with rows of `fill` added up to `groups`."""
    more = np.full((groups - len(array), array.shape[1]), fill, dtype=array.dtype)
    return np.concatenate([array, more])


class Fold(Protocol):
    """An aggregation that sees its rows batch by batch."""

    def resize(self, groups: int) -> None:
        """Make room for more groups."""
        ...

    def add(self, batch: Batch) -> None:
        """Take one batch into account."""
        ...

    def result(self) -> tuple[Floats, Bools]:
        """Values and presence of every group, [G, K]."""
        ...


class Seen:
    """How many samples each group has at each step."""

    def __init__(self, groups: int, steps: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((groups, steps), dtype=np.int64)

    def resize(self, groups: int) -> None:
        self.counts = _grown(self.counts, groups, 0)

    def add(self, batch: Batch) -> None:
        if batch.full:
            size = np.diff(np.append(batch.starts, len(batch.group)))
            self.counts[batch.ids] += size[:, None]
        else:
            self.counts[batch.ids] += _reduce(np.add, batch.presence.astype(np.int64), batch.starts)


class Counting:
    """`count` and, with `ones`, `group`."""

    def __init__(self, groups: int, steps: int, ones: bool = False) -> None:
        self._seen = Seen(groups, steps)
        self._ones = ones

    def resize(self, groups: int) -> None:
        self._seen.resize(groups)

    def add(self, batch: Batch) -> None:
        self._seen.add(batch)

    def result(self) -> tuple[Floats, Bools]:
        present = self._seen.counts > 0
        return (np.ones(present.shape) if self._ones else self._seen.counts.astype(np.float64)), present


class Extreme:
    """`max` or `min`; NaN only where all samples are."""

    def __init__(self, groups: int, steps: int, largest: bool) -> None:
        self._seen = np.zeros((groups, steps), dtype=np.bool_)
        self._best = np.full((groups, steps), np.nan)
        self._pick = np.fmax if largest else np.fmin

    def resize(self, groups: int) -> None:
        self._seen = _grown(self._seen, groups, False)
        self._best = _grown(self._best, groups, np.nan)

    def add(self, batch: Batch) -> None:
        rows = batch.values if batch.full else np.where(batch.presence, batch.values, np.nan)
        self._best[batch.ids] = self._pick(self._best[batch.ids], _reduce(self._pick, rows, batch.starts))
        self._seen[batch.ids] |= True if batch.full else _reduce(np.logical_or, batch.presence, batch.starts)

    def result(self) -> tuple[Floats, Bools]:
        return self._best, self._seen


class Summing:
    """`sum` and, with `mean`, `avg`: compensated as in Prometheus.

    Groups whose samples are finite and of moderate range, or of one sign and of the size that something measured has,
    are summed in any order without rounding (see window_sums.split_high); the others row by row, exactly in
    Prometheus's order: a later batch may cancel what is huge, and leave what is small.
    """

    def __init__(self, groups: int, steps: int, mean: bool) -> None:
        shape = (groups, steps)
        self._mean = mean
        self._seen = Seen(groups, steps)
        self._total = np.zeros(shape)
        self._lost = np.zeros(shape)
        self._incremental = np.zeros(shape, dtype=np.bool_)
        self._average = np.zeros(shape)

    def resize(self, groups: int) -> None:
        self._seen.resize(groups)
        self._total = _grown(self._total, groups, 0.0)
        self._lost = _grown(self._lost, groups, 0.0)
        self._incremental = _grown(self._incremental, groups, False)
        self._average = _grown(self._average, groups, 0.0)

    def add(self, batch: Batch) -> None:
        rows = batch.values if batch.full else np.where(batch.presence, batch.values, 0.0)
        smooth = self._smooth(rows, batch)
        before = self._seen.counts[batch.ids] if self._mean and not smooth.all() else None
        self._seen.add(batch)
        if smooth.any():
            self._add_smooth(rows, batch, smooth)
        if not smooth.all():
            self._add_exact(rows, batch, smooth, before)

    def _smooth(self, rows: Floats, batch: Batch) -> Bools:
        """Which groups of the batch can be summed in any order."""
        low, top = rows.min(axis=1), rows.max(axis=1)
        low, top = np.minimum.reduceat(low, batch.starts), np.maximum.reduceat(top, batch.starts)
        with np.errstate(all="ignore"):
            size = np.maximum(top, -low) * len(rows)
            ok: Bools = (size < _ORDINARY) & ((low >= 0) | (top <= 0))
            mixed = np.flatnonzero(~ok & np.isfinite(size) & (size < _HUGE))
        if len(mixed):
            part = np.isin(batch.group, batch.ids[mixed])
            absolute = np.abs(rows[part])
            smallest = np.where(absolute > 0, absolute, np.inf).min(axis=1)
            cuts = np.flatnonzero(np.concatenate([[True], batch.group[part][1:] != batch.group[part][:-1]]))
            ok[mixed] = np.maximum(top, -low)[mixed] < np.minimum.reduceat(smallest, cuts) * _SAFE_RANGE
        # What a group gathered before must not be of another order of magnitude, or not finite.
        carried = self._total[batch.ids]
        with np.errstate(all="ignore"):
            ok &= (np.abs(carried) < _HUGE).all(axis=1) & ~self._incremental[batch.ids].any(axis=1)
        return ok

    def _add_smooth(self, rows: Floats, batch: Batch, smooth: Bools) -> None:
        ids, starts = batch.ids, batch.starts
        if not smooth.all():
            part = smooth[np.searchsorted(ids, batch.group)]
            rows, group = rows[part], batch.group[part]
            starts = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]])).astype(np.intp)
            ids = group[starts]
        total, lost = self._total[ids], self._lost[ids]
        if len(starts) == len(rows):
            high = rows
        else:
            high, low = _common_split(rows, starts)
            # Put together again: a remainder that is large would swallow a small one of before.
            high, low = neumaier_step(_reduce(np.add, low, starts), _reduce(np.add, high, starts), np.zeros_like(total))
            lost = lost + low
        self._total[ids], self._lost[ids] = neumaier_step(high, total, lost)

    def _add_exact(self, rows: Floats, batch: Batch, smooth: Bools, before: NDArray[np.int64] | None) -> None:
        ends = np.append(batch.starts[1:], len(rows))
        groups = np.flatnonzero(~smooth)
        ids = batch.ids[groups]
        total, lost = self._total[ids], self._lost[ids]
        average, incremental = self._average[ids], self._incremental[ids]
        count = (before[groups] if before is not None else np.zeros(total.shape)).astype(np.float64)
        longest = int((ends - batch.starts)[groups].max())
        with np.errstate(all="ignore"):
            for rank in range(longest):
                at = batch.starts[groups] + rank
                inside = at < ends[groups]
                at = np.minimum(at, len(rows) - 1)
                here = batch.presence[at] & inside[:, None]
                value = np.where(here, rows[at], 0.0)
                count += here
                new, rest = neumaier_step(value, total, lost)
                if self._mean:
                    first = here & (count == 1)
                    overflow = here & np.isinf(new) & ~incremental & ~first
                    if overflow.any():
                        average = np.where(overflow, total / (count - 1), average)
                        lost = np.where(overflow, lost / (count - 1), lost)
                        incremental |= overflow
                    if incremental.any():
                        size = np.maximum(count, 1)
                        share = (size - 1) / size
                        next_average, next_lost = neumaier_step(value / size, share * average, share * lost)
                        moving = incremental & here
                        average = np.where(moving, next_average, average)
                        lost = np.where(moving, next_lost, lost)
                direct = here & ~incremental
                total = np.where(direct, new, total)
                lost = np.where(direct, rest, lost)
        self._total[ids], self._lost[ids] = total, lost
        self._average[ids], self._incremental[ids] = average, incremental

    def result(self) -> tuple[Floats, Bools]:
        present = self._seen.counts > 0
        with np.errstate(all="ignore"):
            # Rounded once from what is mostly the exact sum: how it came together does not show.
            sums = np.where(np.isinf(self._total), self._total, self._total + self._lost)
            if not self._mean:
                return sums, present
            direct = sums / np.maximum(self._seen.counts, 1)
            return np.where(self._incremental, self._average + self._lost, direct), present


def _common_split(rows: Floats, starts: Index) -> tuple[Floats, Floats]:
    """As window_sums.split_high, but with one scale a group: the high parts of its rows add up without rounding."""
    top = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    of_group = np.maximum.reduceat(top, starts)
    size = np.diff(np.append(starts, len(rows)))
    scale = np.exp2(np.ceil(np.log2(np.maximum(of_group, 1e-290))) + np.ceil(np.log2(size + 2)) + 1)
    each = np.repeat(scale, size)[:, None]
    high = (rows + each) - each
    return high, rows - high


class Spread:
    """`stdvar` and, with `root`, `stddev` (population)."""

    def __init__(self, groups: int, steps: int, root: bool) -> None:
        shape = (groups, steps)
        self._root = root
        self._count = np.zeros(shape)
        self._mean = np.zeros(shape)
        self._squares = np.zeros(shape)

    def resize(self, groups: int) -> None:
        self._count = _grown(self._count, groups, 0.0)
        self._mean = _grown(self._mean, groups, 0.0)
        self._squares = _grown(self._squares, groups, 0.0)

    def add(self, batch: Batch) -> None:
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            finite = np.isfinite(batch.values)
            rows = np.where(batch.presence & finite, batch.values, np.inf)
            # Deviations from one of the group's own values: equal values have variance 0 to the last bit.
            anchor = _reduce(np.minimum, rows, batch.starts)
            anchor = np.where(np.isfinite(anchor), anchor, 0.0)
            size = np.diff(np.append(batch.starts, len(batch.group)))
            shifted = np.where(batch.presence, batch.values, np.repeat(anchor, size, axis=0))
            shifted = np.where(np.isinf(shifted), np.nan, shifted) - np.repeat(anchor, size, axis=0)
            count = _reduce(np.add, batch.presence.astype(np.float64), batch.starts)
            some = np.maximum(count, 1)
            mean = _reduce(np.add, shifted, batch.starts) / some
            centred = np.where(batch.presence, shifted - np.repeat(mean, size, axis=0), 0.0)
            squares = _reduce(np.add, centred * centred, batch.starts)
            # Chan, Golub, LeVeque: pairwise update of mean and sum of squares.
            ids = batch.ids
            total = np.maximum(self._count[ids] + count, 1)
            gap = np.where(self._count[ids] > 0, anchor + mean - self._mean[ids], 0.0)
            joined = self._mean[ids] + gap * count / total
            self._squares[ids] += squares + gap * gap * self._count[ids] * count / total
            self._mean[ids] = np.where(
                count > 0, np.where(self._count[ids] > 0, joined, anchor + mean), self._mean[ids]
            )
            self._count[ids] += count

    def result(self) -> tuple[Floats, Bools]:
        with np.errstate(all="ignore"):
            variance = self._squares / np.maximum(self._count, 1)
            return (np.sqrt(variance) if self._root else variance), self._count > 0


def quantile(values: Floats, presence: Bools, group: Index, groups: int, q: Floats) -> tuple[Floats, Bools]:
    """Quantile `q` [K] over the samples of each group, interpolated; NaN counts as smallest."""
    out = np.zeros((groups, values.shape[1]))
    seen = np.zeros(out.shape, dtype=np.bool_)
    for g, rows in enumerate(members(group, groups)):
        if not len(rows):
            continue
        here, inside = values[rows], presence[rows]
        n = inside.sum(axis=0)
        nan = np.isnan(here) & inside
        ordered = np.sort(np.where(inside & ~nan, here, np.inf), axis=0)
        missing = nan.sum(axis=0)
        if missing.any():
            at = np.arange(len(rows))[:, None] - missing[None, :]
            ordered = np.where(at < 0, np.nan, np.take_along_axis(ordered, np.maximum(at, 0), axis=0))
        out[g] = quantile_of_sorted(ordered.T, np.maximum(n, 1), q)
        seen[g] = n > 0
    return out, seen


def members(group: Index, groups: int) -> list[Index]:
    """The rows of each group, in order."""
    order = np.argsort(group, kind="stable")
    return np.split(order, np.searchsorted(group[order], np.arange(1, groups)))


def chosen_best(
    values: Floats,
    presence: Bools,
    k: NDArray[np.int64],
    largest: bool,
    rank: Callable[[], Index] | None = None,
) -> Bools:
    """As the first result of `best`, cheaper where all steps have the same `k` and no sample is NaN.

    Of equal samples the first rows win, or those of the lowest `rank()` [S], asked for only if there are any.
    """
    few = int(k[0])
    if not (k == few).all() or np.isnan(np.where(presence, values, 0.0).sum()):
        order = np.arange(len(values)) if rank is None else np.argsort(rank())
        picked = np.empty_like(presence)
        picked[order] = best(values[order], presence[order], k, largest)[0]
        return picked
    if few <= 0:
        return np.zeros_like(presence)
    if few >= len(values):
        return presence.copy()
    key = np.where(presence, -values if largest else values, np.inf)
    limit = np.partition(key, few - 1, axis=0)[few - 1]
    chosen: Bools = presence & (key < limit)
    ties = presence & (key == limit)
    room = few - chosen.sum(axis=0)
    if rank is None or (ties.sum(axis=0) <= room).all():
        chosen |= ties & (np.cumsum(ties, axis=0) <= room)
        return chosen
    order = np.argsort(rank())
    chosen[order] |= ties[order] & (np.cumsum(ties[order], axis=0) <= room)
    return chosen


def best(values: Floats, presence: Bools, k: NDArray[np.int64], largest: bool) -> tuple[Bools, Index]:
    """Which samples of one group are among the `k` [K] largest (or smallest), and all rows in that order.

    NaN comes last either way; of equal samples the first rows win. The order is [S, K].
    """
    key = np.where(np.isnan(values), np.inf, -values if largest else values)
    # Absent after NaN after numbers: two keys, least important first.
    last = np.where(presence, np.where(np.isnan(values), 1, 0), 2)
    order = np.argsort(key, axis=0, kind="stable")
    order = np.take_along_axis(
        order, np.argsort(np.take_along_axis(last, order, axis=0), axis=0, kind="stable"), axis=0
    )
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(len(values))[:, None], order.shape), axis=0)
    return presence & (rank < k[None, :]), order.astype(np.intp)
