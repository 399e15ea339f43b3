"""Binary operators on cells of which at least one is a native histogram."""

from typing import TYPE_CHECKING

import numpy as np

from common.histogram import FloatHistogram, IncompatibleError, ResetHint
from common.histogram_grid import Block, Columns, Grid
from common.promql import nativehist
from common.promql.ast import Binary
from common.promql.matrix import Bools, Floats

if TYPE_CHECKING:
    from common.promql.evaluator import Evaluator

_OPERATION = {"+": "addition", "-": "subtraction"}


def _kind(histogram: FloatHistogram | None) -> str:
    return "float" if histogram is None else "histogram"


def cell(
    ev: "Evaluator",
    expr: Binary,
    left: float,
    right: float,
    one: FloatHistogram | None,
    other: FloatHistogram | None,
) -> tuple[FloatHistogram | None, bool | None]:
    """The result for one pair of cells, and for a comparison whether it holds; (None, None) if there is no result.

    Where one operand has no histogram at all, what a number scales is left to `scaled`.
    """
    op = expr.op
    position = expr.span.start
    if one is not None and other is not None:
        if op in ("==", "!="):
            return one, one.equals(other) is (op == "==")
        if op in _OPERATION:
            try:
                result = one.plus(other, 1.0 if op == "+" else -1.0)
            except IncompatibleError:
                ev.notes.warn(f"incompatible bucket layout encountered for binary operator {op}", position)
                return None, None
            if result.collision:
                ev.notes.warn(f"conflicting counter resets during histogram {_OPERATION[op]}", position)
            if result.reconciled:
                ev.notes.info(f"mismatched custom buckets were reconciled during {_OPERATION[op]}", position)
            histogram = result.histogram
            return (histogram.with_hint(ResetHint.GAUGE) if op == "-" else histogram), None
    elif one is not None:
        match op:
            case "*":
                return one.times(right), None
            case "/":
                return one.divided(right), None
            case "</" | ">/":
                return nativehist.trimmed(one, right, upper=op == "</"), None
    elif other is not None and op == "*":
        return other.times(left), None
    what = f'incompatible sample types encountered for binary operator "{op}": {_kind(one)} {op} {_kind(other)}'
    ev.notes.info(what, position)
    return None, None


def combine(
    ev: "Evaluator",
    expr: Binary,
    left: Floats,
    right: Floats,
    ones: Grid | None,
    others: Grid | None,
    result: tuple[Floats, Bools],
    presence: Bools,
) -> tuple[Floats, Bools, Grid]:
    """Overwrite `result` (computed as if all were floats) where an operand is a histogram; all arrays [S, K]."""
    shape = presence.shape
    values, there = np.array(np.broadcast_to(result[0], shape)), np.array(np.broadcast_to(result[1], shape))
    first = Grid.none(shape) if ones is None else ones.broadcast(shape).only(presence)
    second = Grid.none(shape) if others is None else others.broadcast(shape).only(presence)
    if others is None and expr.op in ("*", "/"):
        return values, there | first.there, scaled(first, right, divide=expr.op == "/")
    if ones is None and expr.op == "*":
        return values, there | second.there, scaled(second, left)
    cells = np.full(shape, None, dtype=object)
    left, right = np.broadcast_to(left, shape), np.broadcast_to(right, shape)
    some = first.there | second.there
    for s, k in np.argwhere(some).tolist():
        one, other = first.cells[s, k], second.cells[s, k]
        histogram, holds = cell(ev, expr, float(left[s, k]), float(right[s, k]), one, other)
        if holds is not None and expr.return_bool:
            values[s, k], there[s, k] = float(holds), True
        elif histogram is None or holds is False:
            there[s, k] = False
        else:
            cells[s, k], there[s, k] = histogram, True
    return values, there, Grid.of(cells)


def scaled(grid: Grid, factors: Floats, divide: bool = False) -> Grid:
    """Each histogram of a grid [S, K] times (or divided by) a number, which broadcasts to it."""
    flat = np.broadcast_to(factors, grid.shape).reshape(-1)
    places = np.full(flat.shape, -1, np.intp)
    blocks: list[Block] = []
    at = 0
    for block, where, rows in grid.parts():
        by = flat[where]
        if isinstance(block, Columns):
            blocks.append(block.take(rows).scaled(by, divide))
        else:
            pairs = zip(block[rows], by.tolist(), strict=True)
            objects = np.empty(len(rows), dtype=object)
            objects[:] = [each.divided(one) if divide else each.times(one) for each, one in pairs]
            blocks.append(objects)
        places[where] = np.arange(at, at + len(where))
        at += len(where)
    return Grid(places.reshape(grid.shape), blocks)
