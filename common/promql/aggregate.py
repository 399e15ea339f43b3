"""Aggregation operators: groups of label sets, folded batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.errors import QueryError
from common.labels import EMPTY, NAME, Labels
from common.order import in_order
from common.promql import folding
from common.promql.ast import Aggregate
from common.promql.gotext import plain_float, quote, short_float
from common.promql.histogram_fold import HistogramFold
from common.promql.labelcache import LabelCache, Numbering
from common.promql.matrix import Bools, Floats, Matrix, concat, empty, sort_by_labels
from common.promql.preprocess import unwrap
from common.promql.xxhash import label_hashes

if TYPE_CHECKING:
    from common.promql.evaluator import Evaluator, Steps

Index = NDArray[np.intp]

_FOLDS: dict[str, Callable[[int, int], folding.Fold]] = {
    "sum": lambda groups, steps: folding.Summing(groups, steps, mean=False),
    "avg": lambda groups, steps: folding.Summing(groups, steps, mean=True),
    "count": folding.Counting,
    "group": lambda groups, steps: folding.Counting(groups, steps, ones=True),
    "max": lambda groups, steps: folding.Extreme(groups, steps, largest=True),
    "min": lambda groups, steps: folding.Extreme(groups, steps, largest=False),
    "stddev": lambda groups, steps: folding.Spread(groups, steps, root=True),
    "stdvar": lambda groups, steps: folding.Spread(groups, steps, root=False),
}
CHOOSING = frozenset({"topk", "bottomk", "limitk", "limit_ratio"})
"""Aggregations that give some of the series which they are of."""
MAX_INT64 = 2.0**63
FOLD_CELLS = 1 << 18
"""Cells that are gathered before they are folded."""


class Groups:
    """Numbers the groups of label sets as they come."""

    def __init__(self, cache: LabelCache, grouping: tuple[str, ...], without: bool) -> None:
        self._cache = cache
        self._names = frozenset(grouping) | ({NAME} if without else frozenset())
        self._without = without
        self._numbering = Numbering()
        self.labels = self._numbering.labels

    def all_of(self, labels: Sequence[Labels]) -> Index:
        """The number of the group of each."""
        if not self._without and not self._names:
            if not self.labels:
                self.labels.append(EMPTY)
            return np.zeros(len(labels), dtype=np.intp)
        if self._without:
            keys = self._cache.drop(labels, self._names)
        else:
            keys = self._cache.keep(labels, self._names)
        return self._numbering.all_of(keys)


def evaluate(ev: "Evaluator", expr: Aggregate, steps: "Steps") -> Matrix:
    """The aggregation `expr` at `steps`."""
    if expr.op in CHOOSING:
        return _pick(ev, expr, steps)
    match expr.op:
        case "quantile":
            return _quantile(ev, expr, steps)
        case "count_values":
            return _count_values(ev, expr, steps)
        case _:
            return _fold(ev, expr, steps)


def _fold(ev: "Evaluator", expr: Aggregate, steps: "Steps") -> Matrix:
    groups = Groups(ev.cache, expr.grouping, expr.without)
    fold: folding.Fold | None = None
    histograms = HistogramFold(ev, expr, steps.count)
    room = 0
    drop: set[int] = set()
    for part in _coalesced(ev.stream(expr.expr, steps), steps):
        number = groups.all_of(part.labels)
        if part.drop_name is not None:
            drop.update(number[part.drop_name].tolist())
        # How many groups there are is known only at the end: accumulators grow by doubling.
        if fold is None:
            room = len(groups.labels)
            ev.budget.hold(room * steps.count)
            fold = _FOLDS[expr.op](room, steps.count)
        elif len(groups.labels) > room:
            wider = max(len(groups.labels), 2 * room)
            ev.budget.hold((wider - room) * steps.count)
            room = wider
            fold.resize(room)
        part = histograms.take(part, number)
        fold.add(folding.arrange(part.values, part.presence, number))
        ev.budget.check()
    if fold is None:
        return empty(steps.times)
    values, presence = fold.result()
    count = len(groups.labels)
    values, presence = values[:count], presence[:count]
    presence, cells = histograms.result(presence)
    result = Matrix(groups.labels, values, presence, steps.times, cells, drop_name=_flags(drop, count))
    return result.without_empty()


def _without_histograms(
    ev: "Evaluator", expr: Aggregate, matrix: Matrix, position: int, steps: Bools | None = None
) -> Matrix:
    """The floats; of histograms at `steps` [K] (all without it) there is an info."""
    mask = matrix.is_histogram()
    if mask is not None and (mask if steps is None else mask & steps).any():
        ev.notes.info(f"ignored histogram in {expr.op} aggregation", position)
    return matrix.floats_only()


def _coalesced(parts: Iterator[Matrix], steps: "Steps") -> Iterator[Matrix]:
    """`parts` joined to a size at which the cost of a fold's calls does not count."""
    waiting: list[Matrix] = []
    cells = 0
    for part in parts:
        if not len(part.labels):
            continue
        waiting.append(part)
        cells += part.cells
        if cells >= FOLD_CELLS:
            yield concat(waiting, steps.times)
            waiting, cells = [], 0
    if waiting:
        yield concat(waiting, steps.times)


def _flags(drop: set[int], count: int) -> Bools | None:
    """`drop_name` of groups: set where any member's is."""
    if not drop:
        return None
    flags = np.zeros(count, dtype=np.bool_)
    flags[list(drop)] = True
    return flags


def _group_flags(matrix: Matrix, number: Index, count: int) -> Bools | None:
    return _flags(set(number[matrix.flags()].tolist()), count)


def _quantile(ev: "Evaluator", expr: Aggregate, steps: "Steps") -> Matrix:
    assert expr.param is not None
    q = ev.scalar(expr.param, steps)
    matrix = ev.vector(expr.expr, steps)
    for bad in _outside(q, 0.0, 1.0):
        ev.notes.warn(
            f"quantile value should be between 0 and 1, got {short_float(bad)}", unwrap(expr.param).span.start
        )
    matrix = _without_histograms(ev, expr, matrix, unwrap(expr.expr).span.start)
    if not len(matrix.labels):
        return matrix
    groups = Groups(ev.cache, expr.grouping, expr.without)
    number = groups.all_of(matrix.labels)
    values, presence = folding.quantile(matrix.values, matrix.presence, number, len(groups.labels), q)
    flags = _group_flags(matrix, number, len(groups.labels))
    return Matrix(groups.labels, values, presence, steps.times, drop_name=flags).without_empty()


def _outside(values: Floats, low: float, high: float) -> list[float]:
    """What to warn about: NaN and nothing else, or the largest above `high` and the smallest below `low`."""
    bad: list[float] = []
    if np.isnan(values).any():
        return [float("nan")]
    top, bottom = float(values.max()), float(values.min())
    if top > high:
        bad.append(top)
    if bottom < low:
        bad.append(bottom)
    return bad


def _checked(ev: "Evaluator", expr: Aggregate, param: Floats) -> Floats:
    """The parameter as it is applied, all 0 if nothing is chosen; QueryError for what is no number of series."""
    assert expr.param is not None
    if expr.op == "limit_ratio":
        if not param.any():
            return param
        if np.isnan(param).any():
            raise QueryError("Ratio value is NaN")
        for bad in _outside(param, -1.0, 1.0):
            to = "1" if bad > 0 else "-1"
            text = f"ratio value should be between -1 and 1, got {short_float(bad)}, capping to {to}"
            ev.notes.warn(text, unwrap(expr.param).span.start)
        return np.clip(param, -1.0, 1.0)
    if np.isnan(param).any():
        raise QueryError("Parameter value is NaN")
    if not (param >= 1).any():
        return np.zeros_like(param)
    if param.min() <= -MAX_INT64:
        raise QueryError(f"Scalar value {short_float(float(param.min()))} underflows int64")
    if param.max() >= MAX_INT64:
        raise QueryError(f"Scalar value {short_float(float(param.max()))} overflows int64")
    return np.trunc(param)


def _pick(ev: "Evaluator", expr: Aggregate, steps: "Steps") -> Matrix:
    assert expr.param is not None
    param = ev.scalar(expr.param, steps)
    matrix = ev.vector(expr.expr, steps)
    param = _checked(ev, expr, param)
    if not len(matrix.labels) or not param.any():
        return empty(steps.times)
    if expr.op in ("topk", "bottomk"):
        matrix = _without_histograms(ev, expr, matrix, expr.span.start, param >= 1)
    if expr.op == "limitk":
        # Storage gives series in no certain order: the same query shall pick the same ones.
        matrix = sort_by_labels(matrix)
    groups = Groups(ev.cache, expr.grouping, expr.without)
    rows_of = folding.members(groups.all_of(matrix.labels), len(groups.labels))
    presence = np.zeros_like(matrix.presence)
    order: list[Index] = []
    k = np.clip(param, 0, len(matrix.labels)).astype(np.int64)
    for rows in rows_of:
        here = matrix.presence[rows]
        if expr.op == "limitk":
            presence[rows] = here & (np.cumsum(here, axis=0) <= k[None, :])
        elif expr.op == "limit_ratio":
            offset = ratio_offsets([matrix.labels[row] for row in rows.tolist()])[:, None]
            presence[rows] = here & np.where(param >= 0, offset < param, offset >= 1.0 + param)
        else:
            largest = expr.op == "topk"
            rank = partial(_label_ranks, [matrix.labels[row] for row in rows.tolist()])
            presence[rows] = chosen = folding.chosen_best(matrix.values[rows], here, k, largest, rank)
            if steps.count == 1:
                rows = _in_order_of_values(matrix, rows[chosen[:, 0]], largest)
        order.append(rows)
    result = replace(matrix, presence=presence)
    # An instant query shows the values of each group in order.
    return (result.rows(np.concatenate(order)) if steps.count == 1 else result).without_empty()


def _in_order_of_values(matrix: Matrix, rows: Index, largest: bool) -> Index:
    """The rows of an instant vector, all present, by value, equal ones by labels."""
    values = matrix.values[rows]
    if len(np.unique(values)) < len(rows):
        rows = rows[np.argsort(_label_ranks([matrix.labels[row] for row in rows.tolist()]))]
        values = matrix.values[rows]
    _, ranked = folding.best(values, np.ones_like(values, np.bool_), np.array([len(rows)]), largest)
    return rows[ranked[:, 0]]


def _label_ranks(labels: Sequence[Labels]) -> Index:
    """Each row's place in the order of label sets: equal samples are chosen by it, not by how storage came on them."""
    order = in_order(range(len(labels)), key=lambda row: labels[row].pairs)
    ranks = np.empty(len(labels), dtype=np.intp)
    ranks[order] = np.arange(len(labels))
    return ranks


def ratio_offsets(series: Sequence[Labels]) -> Floats:
    """For limit_ratio a number from 0 to 1 for each label set, which depends on that alone: Prometheus has the same."""
    return label_hashes(series).astype(np.float64) / 2.0**64


def _count_values(ev: "Evaluator", expr: Aggregate, steps: "Steps") -> Matrix:
    assert expr.param is not None
    label = ev.string(expr.param)
    if not label or any("\udc80" <= char <= "\udcff" for char in label):
        raise QueryError(f"invalid label name {quote(label)}")
    matrix = ev.vector(expr.expr, steps)
    rows, columns = np.nonzero(matrix.presence)
    if not len(rows):
        return empty(steps.times)
    if expr.without:
        gone = frozenset((*expr.grouping, NAME))
        rests = [labels.drop(gone | {label}) for labels in matrix.labels]
        shown = label not in gone
    else:
        kept = frozenset(expr.grouping) - {label}
        rests = [labels.keep(kept) for labels in matrix.labels]
        shown = True
    groups: dict[Labels, int] = {}
    group_of = np.array([groups.setdefault(rest, len(groups)) for rest in rests], np.int64)
    texts, text_of = _texts(matrix, rows, columns)
    pairs, pair_of = np.unique(group_of[rows] * len(texts) + text_of, return_inverse=True)
    slots: dict[Labels, int] = {}
    slot_of = np.empty(len(pairs), np.intp)
    keys = list(groups)
    for pair, number in enumerate(pairs.tolist()):
        rest = keys[number // len(texts)]
        key = rest.merge({label: texts[number % len(texts)]}) if shown else rest
        slot_of[pair] = slots.setdefault(key, len(slots))
    shape = len(slots), steps.count
    counts = np.bincount(slot_of[pair_of] * steps.count + columns, minlength=shape[0] * shape[1]).reshape(shape)
    return Matrix(list(slots), counts.astype(np.float64), counts > 0, steps.times)


def _texts(matrix: Matrix, rows: Index, columns: Index) -> tuple[list[str], Index]:
    """The texts of some cells' values, and which of them each cell has."""
    # By their bits: 0 and -0 are equal, but not the same text.
    bits, of = np.unique(matrix.values[rows, columns].view(np.int64), return_inverse=True)
    texts = [plain_float(value) for value in bits.view(np.float64).tolist()]
    if matrix.histograms is not None:
        grid = matrix.histograms[rows, columns]
        for at in np.flatnonzero(grid.there).tolist():
            of[at] = len(texts)
            texts.append(str(grid.cells[at]))
    return texts, of
