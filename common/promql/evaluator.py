"""The walk over the syntax tree: every node yields a Matrix, or a stream of matrices over distinct series."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import assert_never

import numpy as np

from common.errors import QueryError
from common.labels import NAME, Labels, MatchType
from common.promql import aggregate, binary, selectors
from common.promql.ast import (
    Aggregate,
    Binary,
    Call,
    Expr,
    MatrixSelector,
    NumberLiteral,
    Paren,
    Span,
    StringLiteral,
    Subquery,
    Unary,
    ValueType,
    VectorSelector,
)
from common.promql.budget import QueryBudget
from common.promql.column_ranges import with_resets
from common.promql.labelcache import LabelCache
from common.promql.matrix import (
    SAME_LABELSET,
    Floats,
    Matrix,
    Notes,
    Times,
    concat,
    empty,
    has_duplicates,
    merge_same_labels,
    scalar,
)
from common.promql.mixed import MixedSeries, groups, instant_seconds, instants, loads, split
from common.promql.mixed_extended import smoothed_instant
from common.promql.preprocess import step_invariant, unwrap
from common.promql.typecheck import value_type
from common.sample import Millis
from common.tsdb.querier import Querier, RowBatch, SelectHints, ValueKind


@dataclass(frozen=True)
class Steps:
    """The instants of an evaluation: `start`, `start + step`, ... up to `end`, ms; one if start equals end."""

    start: int
    end: int
    step: int

    @cached_property
    def times(self) -> Times:
        """All instants, ms, int64 [K]."""
        if self.start == self.end:
            return np.array([self.start], dtype=np.int64)
        return np.arange(self.start, self.end + 1, self.step, dtype=np.int64)

    @property
    def count(self) -> int:
        """How many instants."""
        return 1 if self.start == self.end else (self.end - self.start) // self.step + 1

    def first(self) -> "Steps":
        """Only the first instant."""
        return Steps(self.start, self.start, self.step)

    @cached_property
    def loaded(self) -> Times:
        """Samples that were looked at for each instant, int64 [K]: see `engine.Result.loaded`."""
        return np.zeros(self.count, dtype=np.int64)

    def load(self, counts: Times | int) -> None:
        """Count samples looked at for each instant (int64 [K], or one number for all)."""
        np.add(self.loaded, counts, out=self.loaded)


@dataclass(frozen=True, slots=True)
class Setting:
    """What holds for a whole query: limits and defaults (ms), features, and its own start, end and step."""

    lookback: int
    default_step: Callable[[int], int]
    delayed_names: bool
    type_and_unit: bool
    start: int
    end: int
    step: int
    is_range: bool
    counted: frozenset[Span] = frozenset()


Handler = Callable[["Evaluator", Call, Steps], Iterator[Matrix]]


@dataclass(slots=True)
class Evaluator:
    """Evaluates expressions of one query; `functions` holds the handler of every function."""

    querier: Querier
    setting: Setting
    notes: Notes
    budget: QueryBudget
    functions: dict[str, Handler] = field(repr=False)
    cache: LabelCache = field(repr=False)

    def vector(self, expr: Expr, steps: Steps) -> Matrix:
        """All series of an instant vector expression."""
        before = self.budget.held
        parts = []
        for part in self.stream(expr, steps):
            self.budget.hold(part.cells)
            parts.append(part)
        matrix = concat(parts, steps.times)
        self.budget.settle(before, matrix.cells)
        return matrix

    def scalar(self, expr: Expr, steps: Steps) -> Floats:
        """The values of a scalar expression, float64 [K]."""
        expr = unwrap(expr)
        match expr:
            case NumberLiteral():
                return np.full(steps.count, expr.value)
            case Unary():
                value = self.scalar(expr.expr, steps)
                return -value if expr.op == "-" else value
            case Binary():
                return binary.scalars(expr.op, self.scalar(expr.lhs, steps), self.scalar(expr.rhs, steps))
            case Call():
                (result,) = self.stream(expr, steps)
                (values,) = result.values
                return values if len(values) == steps.count else np.broadcast_to(values, (steps.count,))
        raise QueryError(f"expected a scalar, got {type(expr).__name__}")

    def string(self, expr: Expr) -> str:
        """The value of a string literal."""
        expr = unwrap(expr)
        if not isinstance(expr, StringLiteral):
            raise QueryError(f"expected a string literal, got {type(expr).__name__}")
        return expr.value

    def stream(self, expr: Expr, steps: Steps) -> Iterator[Matrix]:
        """The series of an expression in batches; no label set occurs in two of them, unless names go later."""
        self.budget.check()
        expr = unwrap(expr)
        if steps.count > 1 and not isinstance(expr, NumberLiteral | StringLiteral) and step_invariant(expr):
            once = steps.first()
            for part in self.stream(expr, once):
                yield part.broadcast(steps.times)
            # Counted at every step, though looked at once: so does Prometheus.
            steps.load(once.loaded)
            return
        match expr:
            case NumberLiteral():
                yield scalar(self.scalar(expr, steps), steps.times)
            case VectorSelector():
                yield from self._instant_selector(expr, steps)
            case Unary():
                yield from self._unary(expr, steps)
            case Binary():
                yield from self._binary(expr, steps)
            case Aggregate():
                yield aggregate.evaluate(self, expr, steps)
            case Call():
                yield from self.functions[expr.func](self, expr, steps)
            case MatrixSelector() | Subquery() | StringLiteral() | Paren():
                raise QueryError(f"cannot evaluate {type(expr).__name__} here")
            case _:
                assert_never(expr)

    # Selectors

    def reference_times(self, offset: int, timestamp: int | None, steps: Steps) -> Times:
        """The instants, ms [K], that a selector with `offset` and `@ timestamp` looks at."""
        if timestamp is not None:
            return np.full(steps.count, timestamp - offset, dtype=np.int64)
        return steps.times - offset if offset else steps.times

    def select(self, node: VectorSelector, start: int, end: int, hints: SelectHints) -> Iterator[RowBatch]:
        """Batches from storage with start <= timestamp <= end, each charged to the budget while it is in hand."""
        counted = node.span in self.setting.counted
        for batch in self.querier.select(node.matchers, Millis(start), Millis(end), hints, self.budget):
            self.notes.native |= batch.kind is not ValueKind.FLOAT
            yield with_resets(batch) if counted and batch.kind is ValueKind.HISTOGRAM else batch
            self.budget.release_batch()

    def instant_batches(
        self, node: VectorSelector, steps: Steps, mixed: dict[Labels, MixedSeries]
    ) -> tuple[Iterator[RowBatch], Times]:
        """Batches of floats for an instant selector, and the instants it looks at; other series go to `mixed`."""
        at = self.reference_times(node.offset, node.timestamp, steps)
        behind = self.setting.lookback if node.smoothed else 0
        begin, end = int(at[0]) - self.setting.lookback + 1, int(at[-1]) + behind
        hints = SelectHints(step=steps.step, newest=at[0] == at[-1] and not node.smoothed)
        return split(self.select(node, begin, end, hints), mixed), at

    def _instant_selector(self, node: VectorSelector, steps: Steps) -> Iterator[Matrix]:
        mixed: dict[Labels, MixedSeries] = {}
        batches, at = self.instant_batches(node, steps, mixed)
        lookback = self.setting.lookback
        single = at[0] == at[-1] and not node.smoothed
        for batch in batches:
            if single:
                part = selectors.newest(batch, steps.times)
                if part is not None:
                    steps.load(int(np.count_nonzero(part.presence[:, 0])))
                    yield part
                continue
            if not node.smoothed:
                for part in selectors.instants(batch, at, lookback, steps):
                    self.budget.check()
                    yield part
                continue
            for rows in selectors.uniform(batch, steps.count):
                self.budget.check()
                part = selectors.smoothed(rows, at, lookback, steps.times)
                if part is not None:
                    steps.load(part.presence.sum(axis=0))
                    yield part
        if node.smoothed:
            parts = (smoothed_instant(self, node, series, at, steps.times) for series in mixed.values())
        else:
            parts = (instants(group, at, lookback, steps.times) for group in groups(mixed.values()))
        for part in parts:
            self.budget.check()
            if part is not None:
                steps.load(loads(part))
                yield part

    def instant_seconds(self, node: VectorSelector, steps: Steps, starts: bool) -> Iterator[Matrix]:
        """The time of each sample of an instant selector, or its start timestamp, in seconds."""
        mixed: dict[Labels, MixedSeries] = {}
        batches, at = self.instant_batches(node, steps, mixed)
        lookback = self.setting.lookback
        value = selectors.instant_starts if starts else selectors.instant_times
        for batch in batches:
            for rows in selectors.uniform(batch, steps.count):
                self.budget.check()
                part = value(rows, at, lookback, steps.times)
                if part is not None:
                    steps.load(part.presence.sum(axis=0))
                    yield part
        for series in mixed.values():
            part = instant_seconds(series, at, lookback, steps.times, starts)
            if part is not None:
                steps.load(part.presence[0])
                yield part

    # Names

    def drop_names(self, matrix: Matrix) -> Matrix:
        """Mark the metric names for removal at the end, or remove them now without that feature."""
        if self.setting.delayed_names:
            return replace(matrix, drop_name=np.ones(len(matrix.labels), dtype=np.bool_))
        return replace(matrix, labels=self.cache.without_metadata(matrix.labels))

    def dropped(self, expr: Expr, parts: Iterator[Matrix], steps: Steps, merge: bool = True) -> Iterator[Matrix]:
        """`parts` with their names dropped; `expr` is what they came from.

        Without delayed removal series may become equal: those are merged, or refused if not `merge`.
        """
        if self.setting.delayed_names or single_name(expr):
            for part in parts:
                yield self.drop_names(part)
            return
        whole = self.drop_names(concat(parts, steps.times))
        if not merge and has_duplicates(whole.labels):
            raise QueryError(SAME_LABELSET)
        yield merge_same_labels(whole)

    # Operators

    def _unary(self, expr: Unary, steps: Steps) -> Iterator[Matrix]:
        if expr.op != "-":
            yield from self.stream(expr.expr, steps)
            return
        if value_type(expr) is ValueType.SCALAR:
            yield scalar(self.scalar(expr, steps), steps.times)
            return
        parts = (binary.negated(part) for part in self.stream(expr.expr, steps))
        yield from self.dropped(expr.expr, parts, steps)

    def _binary(self, expr: Binary, steps: Steps) -> Iterator[Matrix]:
        left = value_type(expr.lhs) is ValueType.SCALAR
        right = value_type(expr.rhs) is ValueType.SCALAR
        if left and right:
            yield scalar(self.scalar(expr, steps), steps.times)
        elif left or right:
            yield from self._with_scalar(expr, steps, swapped=left)
        else:
            yield binary.vectors(self, expr, self.vector(expr.lhs, steps), self.vector(expr.rhs, steps))

    def _with_scalar(self, expr: Binary, steps: Steps, swapped: bool) -> Iterator[Matrix]:
        other = self.scalar(expr.lhs if swapped else expr.rhs, steps)
        side = expr.rhs if swapped else expr.lhs
        parts = (binary.with_scalar(self, expr, part, other, swapped) for part in self.stream(side, steps))
        if expr.op in binary.CHANGES_METRIC or expr.return_bool:
            yield from self.dropped(side, parts, steps)
        else:
            yield from parts


def single_name(expr: Expr) -> bool:
    """Whether all series of `expr` have the same metric name, so that dropping it leaves them distinct."""
    expr = unwrap(expr)
    match expr:
        case VectorSelector():
            return any(m.name == NAME and m.type is MatchType.EQ for m in expr.matchers) and not any(
                m.name in ("__type__", "__unit__") for m in expr.matchers
            )
        case MatrixSelector():
            return single_name(expr.selector)
        case Unary() | Subquery():
            return single_name(expr.expr)
        case Aggregate() if expr.op in aggregate.CHOOSING:
            return single_name(expr.expr)
        case Aggregate():
            named = (*expr.grouping, expr.param.value) if isinstance(expr.param, StringLiteral) else expr.grouping
            return not expr.without and not set(named) & {NAME, "__type__", "__unit__"}
        case Binary():
            return value_type(expr.lhs) is ValueType.SCALAR and single_name(expr.rhs)
    return False


def nothing(steps: Steps) -> Matrix:
    """No series over `steps`."""
    return empty(steps.times)
