"""The query engine: PromQL over a Querier, at an instant or over steps. Synchronous: run it off the event loop."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from common.clock import Clock, SystemClock
from common.errors import QueryError
from common.labels import Labels
from common.promql import selectors
from common.promql.ast import Expr, MatrixSelector, Subquery, ValueType
from common.promql.budget import QueryBudget
from common.promql.evaluator import Evaluator, Setting, Steps
from common.promql.functions import extended
from common.promql.functions.ranges import subquery_steps
from common.promql.functions.registry import HANDLERS
from common.promql.labelcache import LabelCache
from common.promql.matrix import (
    SAME_LABELSET,
    Matrix,
    Notes,
    Series,
    Times,
    has_duplicates,
    remove_names,
    sort_by_labels,
)
from common.promql.mixed import MixedSeries, split, window_loads
from common.promql.parser import parse
from common.promql.preprocess import Resolver, counted_selectors, unwrap
from common.promql.stepnotes import StepNote
from common.promql.typecheck import value_type
from common.tsdb.querier import Querier, SelectHints

DELAYED_NAME_REMOVAL = "promql-delayed-name-removal"
TYPE_AND_UNIT_LABELS = "type-and-unit-labels"
PER_STEP_STATS = "promql-per-step-stats"
"""Switches nothing in the engine, which always counts; the API tells samples by step if it is on."""

_TYPE_NAMES = {
    ValueType.MATRIX: "range vector",
    ValueType.VECTOR: "instant vector",
    ValueType.STRING: "string",
    ValueType.SCALAR: "scalar",
    ValueType.NONE: "none",
}


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Limits and defaults of every query.

    `lookback_ms` (Prometheus: --query.lookback-delta), `max_samples` in memory (--query.max-samples), `timeout` in
    seconds (--query.timeout), `max_steps` of a range query, `default_step_ms` of subqueries without a step (the
    global evaluation interval), `features` as given to --enable-feature.
    """

    lookback_ms: int = 300_000
    max_samples: int = 50_000_000
    timeout: float = 120.0
    max_steps: int = 11_000
    default_step_ms: int = 60_000
    features: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds of preparing a query (parsing, settling `@` and durations), evaluating it, sorting its result."""

    preparing: float = 0.0
    evaluating: float = 0.0
    sorting: float = 0.0

    def __add__(self, other: "Took") -> "Took":
        return Took(self.preparing + other.preparing, self.evaluating + other.evaluating, self.sorting + other.sorting)


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a query gave: `type` says which field holds it.

    SCALAR: `scalar` (at `timestamp`); STRING: `string`; VECTOR: `matrix` with one step, in order; MATRIX: `matrix`
    sorted by labels for a range query, `series` with the samples for a range vector at an instant.
    """

    type: ValueType
    timestamp: int
    matrix: Matrix | None = None
    scalar: float = 0.0
    string: str = ""
    series: tuple[Series, ...] = ()
    warnings: list[str] = field(default_factory=list)
    infos: list[str] = field(default_factory=list)
    samples_read: int = 0
    """Samples that storage gave, each once."""
    peak_samples: int = 0
    """The most samples and cells held at once: what --query.max-samples limits."""
    loaded: Times = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Samples looked at for each step, int64 [K], as Prometheus counts them (totalQueryableSamplesPerStep).

    A sample counts at every step whose value or window it is in, a histogram as often as its size has room for floats;
    what a subquery looks at does not count, but its results in each window do.
    """
    took: Took = field(default_factory=Took)
    native: bool = False
    """Whether native histograms were looked at."""
    step_note: StepNote | None = None
    """The only annotation, if it is known at which steps it arises."""

    @property
    def samples(self) -> int:
        """Samples looked at for all steps (totalQueryableSamples)."""
        return int(self.loaded.sum())


REMEMBERED_LENGTH = 4096
"""Characters of a query whose tree is remembered."""
RECURSION_LIMIT = 4000
"""Nested calls that an evaluation may need."""


class Engine:
    """Evaluates queries, from several threads if need be; between them it remembers only derived label sets."""

    def __init__(self, options: EngineOptions | None = None, clock: Clock | None = None) -> None:
        self.options = options or EngineOptions()
        self._clock = clock or SystemClock()
        self._cache = LabelCache()
        # Up to twelve calls a level of the tree, and the parser lets trees of typecheck.MAX_DEPTH levels pass.
        sys.setrecursionlimit(max(sys.getrecursionlimit(), RECURSION_LIMIT))

    def instant(
        self,
        querier: Querier,
        query: Expr | str,
        time_ms: int,
        *,
        timeout: float | None = None,
        lookback_ms: int | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Result:
        """The value of `query` at `time_ms`; QueryError and its kin say why there is none.

        `cancel` is asked now and then whether the query was given up.
        """
        return self._run(querier, query, time_ms, time_ms, 1, timeout, lookback_ms, cancel)

    def range(
        self,
        querier: Querier,
        query: Expr | str,
        start_ms: int,
        end_ms: int,
        step_ms: int,
        *,
        timeout: float | None = None,
        lookback_ms: int | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Result:
        """The values of `query` at start, start + step, ... up to end: a matrix, sorted by labels."""
        if step_ms <= 0:
            raise QueryError("zero or negative query resolution step widths are not accepted. Try a positive integer")
        if end_ms < start_ms:
            raise QueryError("end timestamp must not be before start time")
        # One point more than the limit, as in Prometheus: 11,000 steps of a second from 0 are answered.
        if (end_ms - start_ms) // step_ms > self.options.max_steps:
            raise QueryError(
                f"exceeded maximum resolution of {self.options.max_steps:,} points per timeseries. "
                "Try decreasing the query resolution (?step=XX)"
            )
        return self._run(querier, query, start_ms, end_ms, step_ms, timeout, lookback_ms, cancel, matrix=True)

    def _run(
        self,
        querier: Querier,
        query: Expr | str,
        start: int,
        end: int,
        step: int,
        timeout: float | None,
        lookback: int | None,
        cancel: Callable[[], bool] | None,
        matrix: bool = False,
    ) -> Result:
        options, now = self.options, self._clock.monotonic
        began = now()
        expr = _parsed(query, options.features) if isinstance(query, str) else query
        kind = value_type(expr)
        if matrix and kind not in (ValueType.SCALAR, ValueType.VECTOR):
            name = _TYPE_NAMES[kind]
            raise QueryError(f'invalid expression type "{name}" for range query, must be Scalar or instant Vector')
        limit = options.timeout if timeout is None else min(timeout, options.timeout)
        budget = QueryBudget(options.max_samples, self._clock, limit, cancel)
        setting = Setting(
            lookback=lookback or options.lookback_ms,
            default_step=lambda _range: options.default_step_ms,
            delayed_names=DELAYED_NAME_REMOVAL in options.features,
            type_and_unit=TYPE_AND_UNIT_LABELS in options.features,
            start=start,
            end=end,
            step=step,
            is_range=matrix and start != end,
            counted=frozenset(counted_selectors(expr)),
        )
        ev = Evaluator(querier, setting, Notes(query if isinstance(query, str) else ""), budget, HANDLERS, self._cache)
        expr = unwrap(Resolver(start, end, step if matrix else 0)(expr))
        steps = Steps(start, end, step)
        prepared = now()
        unsorted = _evaluate(ev, expr, kind, steps, matrix)
        evaluated = now()
        result = _sorted(unsorted)
        return replace(
            result,
            timestamp=end,
            warnings=list(ev.notes.warnings.values()),
            infos=list(ev.notes.infos.values()),
            samples_read=budget.read,
            peak_samples=budget.peak,
            loaded=steps.loaded,
            took=Took(prepared - began, evaluated - prepared, now() - evaluated),
            native=ev.notes.native,
            step_note=_only_note(ev.notes, steps.count),
        )


def _parsed(query: str, features: frozenset[str]) -> Expr:
    return _remembered(query, features) if len(query) <= REMEMBERED_LENGTH else parse(query, features)


@lru_cache(maxsize=512)
def _remembered(query: str, features: frozenset[str]) -> Expr:
    """The tree of a query, which never changes: dashboards and rules repeat themselves."""
    return parse(query, features)


def _only_note(notes: Notes, count: int) -> StepNote | None:
    if notes.warnings or len(notes.infos) != 1:
        return None
    note = notes.by_step.get(next(iter(notes.infos)))
    return note if note is not None and len(note.counts) == count else None


def _evaluate(ev: Evaluator, expr: Expr, kind: ValueType, steps: Steps, matrix: bool) -> Result:
    """The value of `expr`, a matrix not sorted yet."""
    if kind is ValueType.STRING:
        return Result(ValueType.STRING, steps.start, string=ev.string(expr))
    if kind is ValueType.MATRIX:
        return Result(ValueType.MATRIX, steps.start, series=_raw(ev, expr, steps))
    if kind is ValueType.SCALAR and not matrix:
        return Result(ValueType.SCALAR, steps.start, scalar=float(ev.scalar(expr, steps)[0]))
    result = remove_names(ev.vector(expr, steps)).without_empty()
    if has_duplicates(result.labels):
        raise QueryError(SAME_LABELSET)
    return Result(ValueType.MATRIX if matrix else ValueType.VECTOR, steps.start, matrix=result)


def _sorted(result: Result) -> Result:
    """The result, its series sorted by labels if it is a matrix."""
    if result.type is not ValueType.MATRIX:
        return result
    if result.matrix is not None:
        matrix = sort_by_labels(result.matrix)
        return result if matrix is result.matrix else replace(result, matrix=matrix)
    return replace(result, series=tuple(sorted(result.series, key=_by_labels)))


def _raw(ev: Evaluator, expr: Expr, steps: Steps) -> tuple[Series, ...]:
    """A range vector at one instant."""
    found: list[Series] = []
    if isinstance(expr, Subquery):
        ends = ev.reference_times(expr.offset, expr.timestamp, steps)
        inner = subquery_steps(ev, expr, steps, ends)
        if inner is None:
            return ()
        result = remove_names(ev.vector(expr.expr, inner)).without_empty()
        # Here the samples behind a subquery's results count, not these.
        steps.load(int(inner.loaded.sum()))
        for row, (labels, values, there) in enumerate(zip(result.labels, result.values, result.presence, strict=True)):
            cells = None if result.histograms is None else result.histograms[row, there]
            found.append(Series(labels, result.timestamps[there], values[there], cells))
    elif isinstance(expr, MatrixSelector):
        end = int(ev.reference_times(expr.selector.offset, expr.selector.timestamp, steps)[0])
        extends = expr.selector.anchored or expr.selector.smoothed
        before, behind = extended.reach(expr.selector, ev.setting.lookback) if extends else (0, 0)
        start = end - expr.range
        mixed: dict[Labels, MixedSeries] = {}
        batches = ev.select(expr.selector, start - before + 1, end + behind, SelectHints(range=expr.range))
        for batch in split(batches, mixed):
            for part in selectors.uniform(batch, 1):
                if extends:
                    ev.budget.hold(part.values.size)
                    steps.load(part.without_stale().values.size)
                    lookback, smoothed = ev.setting.lookback, expr.selector.smoothed
                    found.extend(extended.extended_series(part, start, end, lookback, smoothed))
                    continue
                rows = part.without_stale()
                ev.budget.hold(rows.values.size)
                steps.load(rows.values.size)
                found.extend(
                    Series(labels, rows.times, np.array(values))
                    for labels, values in zip(rows.labels, rows.values, strict=True)
                    if len(rows.times)
                )
        for series in mixed.values():
            steps.load(window_loads([series.real()], np.array([start]), np.array([end])))
            found.append(series.raw(start, end))
    return tuple(series for series in found if len(series.timestamps))


def _by_labels(series: Series) -> tuple[tuple[str, str], ...]:
    labels: Labels = series.labels
    return labels.pairs
