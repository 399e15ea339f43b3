"""What a query's value at a step depends on: which samples, and whether on anything but them. Pure.

A result cache needs both: the reach says which steps a late sample changes, and only the value of a local expression
is, to the last bit, the same in whatever range it is evaluated.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import assert_never

from common.promql.ast import (
    Aggregate,
    Binary,
    Call,
    DurationExpr,
    Expr,
    MatrixSelector,
    NumberLiteral,
    Paren,
    StringLiteral,
    Subquery,
    Unary,
    VectorSelector,
)
from common.promql.binary import CHANGES_METRIC
from common.promql.evaluator import single_name
from common.promql.preprocess import unwrap


@dataclass(frozen=True, slots=True)
class Reach:
    """Times (ms) of the samples that a value at step t depends on: t - behind < time <= t + ahead, and `fixed`.

    Without selectors that move with the step, `behind` and `ahead` are None; `fixed` holds intervals (inclusive) that
    `@` fixes.
    """

    behind: int | None = None
    ahead: int | None = None
    fixed: tuple[tuple[int, int], ...] = ()

    def union(self, other: "Reach") -> "Reach":
        """What either reaches."""
        fixed = self.fixed + other.fixed
        if self.behind is None or self.ahead is None:
            return replace(other, fixed=fixed)
        if other.behind is None or other.ahead is None:
            return replace(self, fixed=fixed)
        return Reach(max(self.behind, other.behind), max(self.ahead, other.ahead), fixed)

    def times(self, start: int, end: int) -> list[tuple[int, int]]:
        """Intervals (inclusive) of samples that the values at steps from `start` to `end` depend on."""
        found = list(self.fixed)
        if self.behind is not None and self.ahead is not None:
            found.append((start - self.behind + 1, end + self.ahead))
        return found

    def steps(self, first: int, last: int) -> tuple[int, int]:
        """Steps (inclusive) whose moving windows reach samples with first <= time <= last; reversed for none."""
        if self.behind is None or self.ahead is None:
            return 1, 0
        return first - self.ahead, last + self.behind - 1


def reach(expr: Expr, lookback: int) -> Reach:
    """What `expr` reaches, its durations and `@ start()` resolved; `lookback` in ms."""
    match expr:
        case NumberLiteral() | StringLiteral():
            return Reach()
        case VectorSelector():
            return _window(expr.offset, expr.timestamp, lookback, lookback if expr.smoothed else 0)
        case MatrixSelector():
            selector = expr.selector
            extended = selector.anchored or selector.smoothed
            behind = expr.range + (lookback if extended else 0)
            return _window(selector.offset, selector.timestamp, behind, lookback if selector.smoothed else 0)
        case Subquery():
            inner = reach(expr.expr, lookback)
            if inner.behind is None or inner.ahead is None:
                return inner
            window = _window(expr.offset, expr.timestamp, expr.range + inner.behind, inner.ahead)
            return replace(window, fixed=window.fixed + inner.fixed)
        case Paren() | Unary() | Aggregate() | Binary() | Call():
            found = Reach()
            for part in _operands(expr):
                found = found.union(reach(part, lookback))
            return found
    assert_never(expr)


def _window(offset: int, timestamp: int | None, behind: int, ahead: int) -> Reach:
    if timestamp is None:
        return Reach(offset + behind, ahead - offset)
    return Reach(fixed=((timestamp - offset - behind + 1, timestamp - offset + ahead),))


def _operands(expr: Expr) -> Iterator[Expr]:
    match expr:
        case Paren() | Unary() | Subquery():
            yield expr.expr
        case MatrixSelector():
            yield expr.selector
        case Aggregate():
            if expr.param is not None:
                yield expr.param
            yield expr.expr
        case Binary():
            yield expr.lhs
            yield expr.rhs
        case Call():
            yield from expr.args


def nodes(expr: Expr) -> Iterator[Expr]:
    """`expr` and all its parts."""
    yield expr
    for part in _operands(expr):
        yield from nodes(part)


def is_knowable(expr: Expr) -> bool:
    """Whether `reach` knows all that `expr` looks at: `info` chooses series of its own accord."""
    return not any(isinstance(node, Call) and node.func == "info" for node in nodes(expr))


_FAITHFUL = frozenset(
    {"abs", "absent", "ceil", "clamp", "clamp_max", "clamp_min", "deg", "floor", "histogram_fraction"}
    | {"histogram_quantile", "label_join", "label_replace", "max_of", "min_of", "pi", "rad", "round", "scalar", "sgn"}
    | {"sort", "sort_by_label", "sort_by_label_desc", "sort_desc", "sqrt", "step", "time", "timestamp", "vector"}
    | {"day_of_month", "day_of_week", "day_of_year", "days_in_month", "hour", "minute", "month", "year"}
    | {"avg_over_time", "changes", "count_over_time", "delta", "double_exponential_smoothing", "first_over_time"}
    | {"idelta", "increase", "irate", "last_over_time", "mad_over_time", "max_over_time", "min_over_time"}
    | {"absent_over_time", "present_over_time", "quantile_over_time", "rate", "resets", "sum_over_time"}
    | {"ts_of_first_over_time", "ts_of_last_over_time", "ts_of_max_over_time", "ts_of_min_over_time"}
)
"""Functions whose result for a window is rounded the same whatever is computed beside it.

Left out: `start`, `end` and `range`; variances and regressions (sums over arrays whose shape follows the query); what
numpy computes by other code for other memory layouts (logarithms, powers, trigonometry).
"""
_UNFAITHFUL_OPERATORS = frozenset({"^", "atan2"})
_UNFAITHFUL_AGGREGATES = frozenset({"stddev", "stdvar"})
_KEEP_NAMES = frozenset({"first_over_time", "last_over_time"})
_MAY_KEEP_NAMES = _KEEP_NAMES | {"label_join", "label_replace"}
_MAY_KEEP_NAMES |= {"sort", "sort_by_label", "sort_by_label_desc", "sort_desc"}


def is_local(expr: Expr, delayed_names: bool = False) -> bool:
    """Whether the value at a step is, to the bit, a function of the samples that `reach` names and of nothing else.

    Then results of neighbouring ranges may be joined. That excludes what looks at the query's own range, and errors
    that two series cause without being there at the same step (`delayed_names` reports those by step).
    """
    return all(_node_is_local(node, delayed_names) for node in nodes(expr))


def _node_is_local(node: Expr, delayed_names: bool) -> bool:
    match node:
        case NumberLiteral() | StringLiteral() | Paren() | Unary():
            return True
        case VectorSelector():
            moves = node.start_or_end is not None or _of_range(node.offset_expr)
            return not (moves or node.anchored or node.smoothed)
        case MatrixSelector():
            return not _of_range(node.range_expr)
        case Subquery():
            moves = node.start_or_end is not None
            return not moves and not any(map(_of_range, (node.offset_expr, node.range_expr, node.step_expr)))
        case Binary():
            return node.op not in _UNFAITHFUL_OPERATORS
        case Aggregate():
            return node.op not in _UNFAITHFUL_AGGREGATES
        case Call():
            if node.func not in _FAITHFUL:
                return False
            ranged = [unwrap(arg) for arg in node.args if isinstance(unwrap(arg), MatrixSelector | Subquery)]
            return delayed_names or node.func in _KEEP_NAMES or all(map(_stays_distinct, ranged))
    assert_never(node)


def _stays_distinct(expr: Expr) -> bool:
    """Whether the series of `expr` certainly stay apart without their metric names."""
    expr = unwrap(expr)
    if single_name(expr):
        return True
    match expr:
        case Subquery():
            return _stays_distinct(expr.expr)
        case Call():
            # What drops names reports series that become equal by step, or was checked itself.
            return expr.func not in _MAY_KEEP_NAMES
        case Binary():
            return expr.op in CHANGES_METRIC
    return False


def _of_range(expr: "DurationExpr | NumberLiteral | None") -> bool:
    """Whether a duration expression asks for the length of the query's range."""
    if not isinstance(expr, DurationExpr):
        return False
    return expr.op == "range" or _of_range(expr.lhs) or _of_range(expr.rhs)
