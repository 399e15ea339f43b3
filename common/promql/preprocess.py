"""What is settled before evaluation: `@ start()`, duration expressions, which parts do not depend on the step."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import assert_never

from common.errors import QueryError
from common.promql.ast import (
    Aggregate,
    Binary,
    Call,
    DurationExpr,
    Expr,
    MatrixSelector,
    NumberLiteral,
    Paren,
    Preprocessor,
    Span,
    StringLiteral,
    Subquery,
    Unary,
    VectorSelector,
)

_DEPENDS_ON_STEP = frozenset(
    {"days_in_month", "day_of_month", "day_of_week", "day_of_year", "hour", "minute", "month", "year"}
    | {"predict_linear", "time", "timestamp"}
)
_MAX_DURATION_SECONDS = 2**63 / 1e9


def unwrap(expr: Expr) -> Expr:
    """`expr` without parentheses around it."""
    while isinstance(expr, Paren):
        expr = expr.expr
    return expr


_COUNT_AND_SUM = frozenset({"histogram_avg", "histogram_count", "histogram_sum"})
_WHOLE_HISTOGRAM = frozenset({"histogram_fraction", "histogram_quantile", "histogram_quantiles"})


def counted_selectors(expr: Expr, counted: bool = False) -> Iterator[Span]:
    """Selectors of which only count and sum are wanted: Prometheus answers those with explicit counter resets."""
    match expr:
        case VectorSelector():
            if counted:
                yield expr.span
        case MatrixSelector():
            yield from counted_selectors(expr.selector, counted)
        case Subquery():
            yield from counted_selectors(expr.expr, False)
        case Paren() | Unary() | Aggregate():
            yield from counted_selectors(expr.expr, counted)
        case Binary():
            yield from counted_selectors(expr.lhs, counted)
            yield from counted_selectors(expr.rhs, counted)
        case Call():
            inner = expr.func in _COUNT_AND_SUM or (counted and expr.func not in _WHOLE_HISTOGRAM)
            for arg in expr.args:
                yield from counted_selectors(arg, inner)


def step_invariant(expr: Expr) -> bool:
    """Whether `expr` is the same at every step (all its selectors are fixed by `@`)."""
    match expr:
        case NumberLiteral() | StringLiteral():
            return True
        case VectorSelector():
            return expr.timestamp is not None
        case MatrixSelector():
            return expr.selector.timestamp is not None
        case Subquery():
            return expr.timestamp is not None
        case Paren() | Unary():
            return step_invariant(expr.expr)
        case Binary():
            return step_invariant(expr.lhs) and step_invariant(expr.rhs)
        case Aggregate():
            return step_invariant(expr.expr) and (expr.param is None or step_invariant(expr.param))
        case Call():
            return expr.func not in _DEPENDS_ON_STEP and all(step_invariant(arg) for arg in expr.args)
    assert_never(expr)


class Resolver:
    """Replaces `@ start()`, `@ end()` and duration expressions by numbers; all times in ms."""

    def __init__(self, start: int, end: int, step: int) -> None:
        self._start = start
        self._end = end
        self._step = step

    def __call__(self, expr: Expr) -> Expr:
        """`expr` with every offset, range and `@` as a number; the same object if there was nothing to do."""
        match expr:
            case NumberLiteral() | StringLiteral():
                return expr
            case VectorSelector():
                return self._selector(expr)
            case MatrixSelector():
                selector = self._selector(expr.selector)
                if expr.range_expr is None:
                    return expr if selector is expr.selector else replace(expr, selector=selector)
                span = self._duration(expr.range_expr, positive=True)
                return replace(expr, selector=selector, range=span, range_expr=None)
            case Subquery():
                return self._subquery(expr)
            case Paren() | Unary():
                inner = self(expr.expr)
                return expr if inner is expr.expr else replace(expr, expr=inner)
            case Binary():
                lhs, rhs = self(expr.lhs), self(expr.rhs)
                return expr if lhs is expr.lhs and rhs is expr.rhs else replace(expr, lhs=lhs, rhs=rhs)
            case Aggregate():
                inner, param = self(expr.expr), None if expr.param is None else self(expr.param)
                if inner is expr.expr and param is expr.param:
                    return expr
                return replace(expr, expr=inner, param=param)
            case Call():
                args = tuple(self(arg) for arg in expr.args)
                if all(new is old for new, old in zip(args, expr.args, strict=True)):
                    return expr
                return replace(expr, args=args)
        assert_never(expr)

    def _at(self, timestamp: int | None, preprocessor: Preprocessor | None) -> int | None:
        match preprocessor:
            case None:
                return timestamp
            case Preprocessor.START:
                return self._start
            case Preprocessor.END:
                return self._end
        assert_never(preprocessor)

    def _selector(self, node: VectorSelector) -> VectorSelector:
        if node.offset_expr is None and node.start_or_end is None:
            return node
        offset = node.offset if node.offset_expr is None else self._duration(node.offset_expr, positive=False)
        at = self._at(node.timestamp, node.start_or_end)
        return replace(node, offset=offset, offset_expr=None, timestamp=at, start_or_end=None)

    def _subquery(self, node: Subquery) -> Subquery:
        return replace(
            node,
            expr=self(node.expr),
            range=node.range if node.range_expr is None else self._duration(node.range_expr, positive=True),
            step=node.step if node.step_expr is None else self._duration(node.step_expr, positive=True),
            offset=node.offset if node.offset_expr is None else self._duration(node.offset_expr, positive=False),
            range_expr=None,
            step_expr=None,
            offset_expr=None,
            timestamp=self._at(node.timestamp, node.start_or_end),
            start_or_end=None,
        )

    def _duration(self, expr: DurationExpr, positive: bool) -> int:
        """Milliseconds of a duration expression."""
        seconds = self._seconds(expr)
        where = f"{expr.span.start}:{expr.span.end}"
        if positive and seconds <= 0:
            raise QueryError(f"{where}: duration must be greater than 0")
        if math.isnan(seconds) or abs(seconds) > _MAX_DURATION_SECONDS:
            raise QueryError(f"{where}: duration is out of range")
        return int(seconds * 1000)

    def _seconds(self, expr: "DurationExpr | NumberLiteral") -> float:
        if isinstance(expr, NumberLiteral):
            return expr.value
        if expr.op == "step":
            return self._step / 1000
        if expr.op == "range":
            return (self._end - self._start) / 1000
        assert expr.rhs is not None
        right = self._seconds(expr.rhs)
        if expr.lhs is None:
            return -right if expr.op == "-" else right
        left = self._seconds(expr.lhs)
        match expr.op:
            case "+":
                return left + right
            case "-":
                return left - right
            case "*":
                return left * right
            case "/" | "%" if right == 0:
                raise QueryError("division by zero" if expr.op == "/" else "modulo by zero")
            case "/":
                return left / right
            case "%":
                return math.fmod(left, right)
            case "^":
                return math.pow(left, right)
            case "min":
                return min(left, right)
            case "max":
                return max(left, right)
            case _:
                raise QueryError(f"unexpected duration expression operator {expr.op!r}")
