"""Functions of histograms: quantiles and fractions of classic and native ones, counts and sums of native ones."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.histogram import FloatHistogram
from common.histogram_grid import Columns
from common.labels import Labels
from common.promql import buckets, gonumber, nativecolumns, nativehist
from common.promql.ast import Call, Expr
from common.promql.gotext import quote, short_float
from common.promql.labelcache import Numbering, by_number
from common.promql.matrix import Floats, Matrix, concat, merge_same_labels
from common.promql.preprocess import unwrap

if TYPE_CHECKING:
    from common.promql.evaluator import Evaluator, Steps

BUCKET_LABEL = "le"
_BUCKET = frozenset((BUCKET_LABEL,))
_MONOTONICITY = (
    "input to histogram_quantile needed to be fixed for monotonicity (see"
    " https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)"
)

Compute = Callable[[Floats, Floats, NDArray[np.intp]], tuple[Floats, buckets.Forced | None]]
"""(upper bounds, counts [G, B, K'], columns) -> values [G, K'] and what was forced to be monotonic."""


@dataclass(slots=True)
class _Fix:
    """All monotonicity fixes of one metric, told as one annotation."""

    counts: NDArray[np.int64]
    fixes: Floats
    """By step, as in StepNote."""


@dataclass(slots=True)
class Classic:
    """The classic histograms of a vector: rows by label set without `le`, with their upper bounds."""

    matrix: Matrix
    labels: list[Labels] = field(default_factory=list)
    rows: list[NDArray[np.intp]] = field(default_factory=list)
    uppers: list[Floats] = field(default_factory=list)


def with_name(ev: "Evaluator", text: str, labels: Labels) -> str:
    """An annotation's text with the metric's name, which only delayed removal still knows."""
    name = labels.name if ev.setting.delayed_names else ""
    return f"{text} for metric name {quote(name)}" if name else text


def classic(ev: "Evaluator", matrix: Matrix, arg: Expr) -> Classic:
    """Group the bucket series of `matrix`; a series without a usable `le` is left out with a warning."""
    texts = Numbering()
    of = texts.all_of(ev.cache.keep(matrix.labels, _BUCKET))
    bad: list[int] = []
    known = np.zeros(len(texts.labels))
    for number, each in enumerate(texts.labels):
        try:
            known[number] = gonumber.parse(each.get(BUCKET_LABEL))
        except ValueError:
            bad.append(number)
    usable = np.arange(len(of))
    if bad:
        wrong = np.isin(of, bad)
        usable = np.flatnonzero(~wrong)
        for row in np.flatnonzero(wrong & matrix.presence.any(axis=1)).tolist():
            labels = matrix.labels[row]
            what = f'bucket label "le" is missing or has a malformed value of {quote(labels.get(BUCKET_LABEL))}'
            ev.notes.warn(with_name(ev, what, labels), unwrap(arg).span.start)
    groups = Numbering()
    sets = ev.cache.drop([matrix.labels[row] for row in usable.tolist()], _BUCKET)
    bounds, numbers = known[of], groups.all_of(sets)
    # In order of their bounds, so that histograms whose series came in another order are alike.
    rows = [usable[each] for each in by_number(numbers, len(groups.labels), bounds[usable])]
    return Classic(matrix, groups.labels, rows, [bounds[each] for each in rows])


def compute(ev: "Evaluator", source: Classic, function: Compute, arg: Expr) -> Matrix:
    """`function` of every histogram at every step at which it has buckets."""
    matrix = source.matrix
    steps = matrix.presence.shape[1]
    values = np.zeros((len(source.labels), steps))
    presence = np.zeros((len(source.labels), steps), dtype=np.bool_)
    fixes: dict[str, _Fix] = {}
    for members, kept, columns in _alike(source):
        uppers = source.uppers[members[0]][kept]
        counts = matrix.values[np.array([source.rows[m] for m in members])[:, kept]]
        if len(columns) < steps:
            counts = counts[:, :, columns]
        order = np.argsort(uppers, kind="stable")
        uppers, counts = uppers[order], counts[:, order]
        starts = np.flatnonzero(np.concatenate([[True], uppers[1:] != uppers[:-1]]))
        if len(starts) < len(uppers):
            uppers, counts = uppers[starts], np.add.reduceat(counts, starts, axis=1)
        result, forced = function(uppers, counts, columns)
        cells = np.ix_(np.array(members, dtype=np.intp), columns)
        values[cells] = result
        presence[cells] = True
        if forced is not None and forced.where.any():
            _collect(ev, fixes, forced, [source.labels[m] for m in members], columns, steps)
        ev.budget.check()
    for text, fix in fixes.items():
        ev.notes.info_by_step(text, unwrap(arg).span.start, matrix.timestamps, fix.counts, fix.fixes)
    return Matrix(source.labels, values, presence, matrix.timestamps)


def _alike(source: Classic) -> Iterator[tuple[list[int], NDArray[np.intp], NDArray[np.intp]]]:
    """Histograms that can be computed at once: (members, positions of buckets with the same bounds in all, columns)."""
    if not source.rows:
        return
    sizes = np.array([len(rows) for rows in source.rows])
    starts = np.cumsum(sizes) - sizes
    presence = source.matrix.presence[np.concatenate(source.rows)]
    some = np.logical_or.reduceat(presence, starts, axis=0)
    complete = (some == np.logical_and.reduceat(presence, starts, axis=0)).all(axis=1).tolist()
    whole: dict[tuple[bytes, bytes], list[int]] = {}
    for number, rows in enumerate(source.rows):
        if complete[number]:
            whole.setdefault((source.uppers[number].tobytes(), some[number].tobytes()), []).append(number)
            continue
        there = source.matrix.presence[rows]
        patterns, which = np.unique(there, axis=1, return_inverse=True)
        for pattern in range(patterns.shape[1]):
            kept = np.flatnonzero(patterns[:, pattern])
            if len(kept):
                yield [number], kept, np.flatnonzero(which.reshape(-1) == pattern)
    for (_, shown), members in whole.items():
        columns = np.flatnonzero(np.frombuffer(shown, dtype=np.bool_))
        if len(columns):
            yield members, np.arange(len(source.rows[members[0]])), columns


def _collect(
    ev: "Evaluator",
    fixes: dict[str, _Fix],
    forced: buckets.Forced,
    labels: list[Labels],
    columns: NDArray[np.intp],
    steps: int,
) -> None:
    for group in np.flatnonzero(forced.where.any(axis=1)).tolist():
        at = np.flatnonzero(forced.where[group])
        text = with_name(ev, _MONOTONICITY, labels[group])
        fix = fixes.get(text)
        if fix is None:
            fix = fixes[text] = _Fix(np.zeros(steps, np.int64), np.outer([np.inf, -np.inf, 0.0], np.ones(steps)))
        where = columns[at]
        fix.counts[where] += 1
        fix.fixes[0, where] = np.minimum(fix.fixes[0, where], forced.lowest[group, at])
        fix.fixes[1, where] = np.maximum(fix.fixes[1, where], forced.highest[group, at])
        fix.fixes[2, where] = np.maximum(fix.fixes[2, where], forced.largest[group, at])


def _check(ev: "Evaluator", q: Floats, arg: Expr) -> None:
    for bad in np.unique(q[~((q >= 0) & (q <= 1))]).tolist():
        text = f"quantile value should be between 0 and 1, got {short_float(bad)}"
        ev.notes.warn(text, unwrap(arg).span.start)


def quantile(ev: "Evaluator", node: Call, steps: "Steps") -> Iterator[Matrix]:
    """`histogram_quantile(q, v)`."""
    q = ev.scalar(node.args[0], steps)
    matrix = ev.vector(node.args[1], steps)
    _check(ev, q, node.args[0])
    native, source = _both(ev, matrix, node.args[1])
    parts = [native_quantile(ev, native, q, node.args[1])]
    parts.append(compute(ev, source, lambda u, c, at: buckets.quantile(q[at], u, c), node.args[1]))
    yield merge_same_labels(ev.drop_names(concat(parts, steps.times).without_empty()))


def quantiles(ev: "Evaluator", node: Call, steps: "Steps") -> Iterator[Matrix]:
    """`histogram_quantiles(v, label, q, ...)`: one series a quantile, named in `label`."""
    label = ev.string(node.args[1])
    matrix = ev.vector(node.args[0], steps)
    wanted = []
    for arg in node.args[2:]:
        q = ev.scalar(arg, steps)
        _check(ev, q, arg)
        wanted.append(q)
    native, source = _both(ev, matrix, node.args[0])
    parts = []
    for q in wanted:

        def one(u: Floats, c: Floats, at: NDArray[np.intp], q: Floats = q) -> tuple[Floats, buckets.Forced]:
            return buckets.quantile(q[at], u, c)

        found = [native_quantile(ev, native, q, node.args[0]), compute(ev, source, one, node.args[0])]
        result = ev.drop_names(concat(found, steps.times).without_empty())
        for value in np.unique(q).tolist():
            columns = np.isnan(q) if value != value else q == value
            named = [labels.merge({label: gonumber.open_metrics(value)}) for labels in result.labels]
            parts.append(
                Matrix(named, result.values, result.presence & columns, steps.times, drop_name=result.drop_name)
            )
    yield merge_same_labels(concat(parts, steps.times)).without_empty()


def fraction(ev: "Evaluator", node: Call, steps: "Steps") -> Iterator[Matrix]:
    """`histogram_fraction(lower, upper, v)`."""
    lower, upper = ev.scalar(node.args[0], steps), ev.scalar(node.args[1], steps)
    matrix = ev.vector(node.args[2], steps)
    native, source = _both(ev, matrix, node.args[2])

    def one(histogram: FloatHistogram, labels: Labels, k: int) -> float:
        value, missing = nativehist.fraction(float(lower[k]), float(upper[k]), histogram)
        if missing:
            what = "input to histogram_fraction has NaN observations, which are excluded from all fractions"
            ev.notes.info(with_name(ev, what, labels), unwrap(node.args[2]).span.start)
        return value

    def many(columns: Columns, k: NDArray[np.intp]) -> Floats | None:
        return nativecolumns.fraction(lower[k], upper[k], columns)

    parts = [_each(native, one, many)]
    parts.append(
        compute(ev, source, lambda u, c, at: (buckets.fraction(lower[at], upper[at], u, c), None), node.args[2])
    )
    yield merge_same_labels(ev.drop_names(concat(parts, steps.times).without_empty()))


def _both(ev: "Evaluator", matrix: Matrix, arg: Expr) -> tuple[Matrix, Classic]:
    """Native histograms, and classic ones; where both are there for the same labels, neither, with a warning."""
    source = classic(ev, matrix.floats_only(), arg)
    mask = matrix.is_histogram()
    if mask is None:
        return matrix.rows([]), source
    native = replace(matrix, presence=mask)
    number = {labels: group for group, labels in enumerate(source.labels)}
    presence, floats = mask.copy(), source.matrix.presence.copy()
    for row, labels in enumerate(matrix.labels):
        group = number.get(labels)
        if group is None or not mask[row].any():
            continue
        clash = mask[row] & floats[source.rows[group]].any(axis=0)
        if clash.any():
            what = "vector contains a mix of classic and native histograms"
            ev.notes.warn(with_name(ev, what, labels), unwrap(arg).span.start)
            presence[row] &= ~clash
            floats[np.ix_(source.rows[group], np.flatnonzero(clash))] = False
    source.matrix = replace(source.matrix, presence=floats)
    return replace(native, presence=presence).without_empty(), source


def _each(
    matrix: Matrix,
    one: Callable[[FloatHistogram, Labels, int], float],
    many: Callable[[Columns, NDArray[np.intp]], Floats | None],
) -> Matrix:
    """A function of every histogram: `one` (histogram, labels, step) -> value, `many` (histograms, steps) -> values.

    The latter gets what is regular for nativecolumns, and gives None if it leaves that to the former.
    """
    values = np.zeros(matrix.presence.shape)
    mask = matrix.is_histogram()
    if mask is None or matrix.histograms is None:
        return replace(matrix, values=values, presence=np.zeros_like(matrix.presence), histograms=None)
    flat = values.reshape(-1)
    left = mask.copy()
    for block, where, rows in matrix.histograms.parts(mask):
        if not isinstance(block, Columns):
            continue
        columns = block.take(rows)
        fit = np.flatnonzero(nativecolumns.regular(columns))
        with np.errstate(all="ignore"):
            found = many(columns.take(fit), where[fit] % mask.shape[1])
        if found is not None:
            flat[where[fit]] = found
            left.reshape(-1)[where[fit]] = False
    cells = matrix.histograms.only(left).cells
    for s, k in np.argwhere(left).tolist():
        values[s, k] = one(cells[s, k], matrix.labels[s], k)
    return Matrix(matrix.labels, values, mask, matrix.timestamps)


def native_quantile(ev: "Evaluator", matrix: Matrix, q: Floats, arg: Expr) -> Matrix:
    """Quantile `q` [K] of every native histogram."""

    def one(histogram: FloatHistogram, labels: Labels, k: int) -> float:
        value, note = nativehist.quantile(float(q[k]), histogram)
        if note:
            result = "NaN" if note == "result" else "skewed higher"
            what = f"input to histogram_quantile has NaN observations, result is {result}"
            ev.notes.info(with_name(ev, what, labels), unwrap(arg).span.start)
        return value

    return _each(matrix, one, lambda columns, k: nativecolumns.quantile(q[k], columns))


_OF_NATIVE: dict[str, tuple[Callable[[FloatHistogram], float], Callable[[Columns], Floats]]] = {
    "histogram_avg": (lambda h: float(np.float64(h.sum) / h.count), lambda c: c.numbers[:, 1] / c.numbers[:, 0]),
    "histogram_count": (lambda h: h.count, lambda c: c.numbers[:, 0]),
    "histogram_stddev": (
        lambda h: float(np.sqrt(nativehist.variance(h))),
        lambda c: np.sqrt(nativecolumns.variance(c)),
    ),
    "histogram_stdvar": (nativehist.variance, nativecolumns.variance),
    "histogram_sum": (lambda h: h.sum, lambda c: c.numbers[:, 1]),
}
OF_NATIVE = tuple(_OF_NATIVE)


def of_native(ev: "Evaluator", node: Call, steps: "Steps") -> Iterator[Matrix]:
    """`histogram_count`, `_sum`, `_avg`, `_stddev`, `_stdvar` of native histograms; floats give nothing."""
    one, many = _OF_NATIVE[node.func]

    def parts() -> Iterator[Matrix]:
        for part in ev.stream(node.args[0], steps):
            with np.errstate(all="ignore"):
                result = _each(part, lambda histogram, _labels, _k: one(histogram), lambda columns, _k: many(columns))
            yield replace(result, drop_name=part.drop_name).without_empty()

    yield from ev.dropped(node.args[0], parts(), steps)
