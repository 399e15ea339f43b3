"""Binary operators on cells of which at least one is a native histogram."""

from typing import TYPE_CHECKING

import numpy as np

from common.histogram import FloatHistogram, IncompatibleError, ResetHint
from common.promql import nativehist
from common.promql.ast import Binary
from common.promql.matrix import Bools, Cells, Floats

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
    """The result for one pair of cells, and for a comparison whether it holds; (None, None) if there is no result."""
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
    ones: Cells | None,
    others: Cells | None,
    result: tuple[Floats, Bools],
    presence: Bools,
) -> tuple[Floats, Bools, Cells]:
    """Overwrite `result` (computed as if all were floats) where an operand is a histogram; all arrays [S, K]."""
    shape = presence.shape
    values, there = np.array(np.broadcast_to(result[0], shape)), np.array(np.broadcast_to(result[1], shape))
    cells = np.full(shape, None, dtype=object)
    left, right = np.broadcast_to(left, shape), np.broadcast_to(right, shape)
    some = np.zeros(shape, dtype=np.bool_)
    for operand in (ones, others):
        if operand is not None:
            some |= np.broadcast_to(operand.astype(np.bool_), shape)
    none = np.full((1, 1), None, dtype=object)
    first = np.broadcast_to(none if ones is None else ones, shape)
    second = np.broadcast_to(none if others is None else others, shape)
    for s, k in np.argwhere(some & presence).tolist():
        histogram, holds = cell(ev, expr, float(left[s, k]), float(right[s, k]), first[s, k], second[s, k])
        if holds is not None and expr.return_bool:
            values[s, k], there[s, k] = float(holds), True
        elif histogram is None or holds is False:
            there[s, k] = False
        else:
            cells[s, k], there[s, k] = histogram, True
    return values, there, cells
