"""Functions of a range vector: one kernel each, applied to rows that share their timestamps."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.errors import QueryError
from common.labels import Labels
from common.promql import column_ranges, selectors, stacks, window_ranks, window_rates, window_sums, windows
from common.promql.ast import Call, MatrixSelector, Subquery
from common.promql.functions import extended, mixed_ranges
from common.promql.gotext import quote, short_float
from common.promql.matrix import Bools, Floats, Matrix, Times, of_each
from common.promql.mixed import MixedSeries, Samples, from_matrix, gathered, groups, split, window_loads
from common.promql.preprocess import unwrap
from common.tsdb.querier import RowBatch, SelectHints, Timelines

if TYPE_CHECKING:
    from common.promql.evaluator import Evaluator, Steps


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """What a kernel sees: rows [S, T], bounds and limits of windows [K], scalar arguments [K].

    The rows share `table` [T], or have times [S, T] of their own, or row s has the times `table[line_of[s]]` [L, T].
    """

    values: Floats
    table: Times
    lo: NDArray[np.intp]
    hi: NDArray[np.intp]
    starts: Times
    ends: Times
    steps: Times
    args: tuple[Floats, ...]
    since: Times | None = None
    line_of: NDArray[np.intp] | None = None

    @property
    def times(self) -> Times:
        """Timestamps [T] that all rows share, or of each [S, T]."""
        return self.table if self.line_of is None else self.table[self.line_of, : self.values.shape[1]]

    @property
    def forced(self) -> Bools | None:
        """Counter resets that start timestamps tell of, between each sample and the next."""
        return None if self.since is None else window_rates.start_resets(self.since, self.times)

    @property
    def seconds(self) -> float:
        """The length of the windows."""
        return float(self.ends[0] - self.starts[0]) / 1000.0


Kernel = Callable[[Window], Floats]


@dataclass(frozen=True, slots=True)
class RangeFunction:
    """A function of a range vector; `least` samples make a result, `keeps_name` as last_over_time does.

    So does absent_over_time, of whose series none is shown: they need not differ in more than their name.
    """

    kernel: Kernel
    least: int = 1
    keeps_name: bool = False
    counter: bool = False


def _rate(w: Window) -> Floats:
    return _increase(w, w.seconds)


def _increase(w: Window, per: float = 1.0) -> Floats:
    out = window_rates.extrapolated(w.values, w.table, w.lo, w.hi, w.starts, w.ends, True, w.forced, per, w.line_of)
    if w.since is not None:
        window_rates.from_start_timestamps(out, w.values, w.since, w.times, w.lo, w.hi, w.starts, w.ends, per)
    return out


def _delta(w: Window) -> Floats:
    return window_rates.extrapolated(w.values, w.table, w.lo, w.hi, w.starts, w.ends, False, line_of=w.line_of)


def _irate(w: Window) -> Floats:
    out = window_rates.instant_delta(w.values, w.lo, w.hi, True, w.forced)
    gap = windows.at_times(w.times, w.hi - 1) - windows.at_times(w.times, w.hi - 2)
    return out / (np.where(gap > 0, gap, 1) / 1000.0)


def _deriv(w: Window) -> Floats:
    return window_ranks.regressions(w.values, w.table, w.lo, w.hi, None, w.line_of)[0]


def _predict_linear(w: Window) -> Floats:
    slope, value = window_ranks.regressions(w.values, w.table, w.lo, w.hi, w.steps, w.line_of)
    with np.errstate(invalid="ignore"):
        return slope * w.args[0] + value


def _smoothing(w: Window) -> Floats:
    factor, trend = w.args
    return window_ranks.double_exponential(w.values, w.lo, w.hi, factor, trend)


def _seconds_at(w: Window, index: NDArray[np.intp]) -> Floats:
    seconds = windows.at_times(w.times, index) / 1000.0
    return np.broadcast_to(seconds, (len(w.values), len(index)))


def _ones(w: Window) -> Floats:
    return np.ones((len(w.values), len(w.lo)))


RANGE_FUNCTIONS: dict[str, RangeFunction] = {
    "rate": RangeFunction(_rate, 2, counter=True),
    "increase": RangeFunction(_increase, 2, counter=True),
    "delta": RangeFunction(_delta, 2),
    "irate": RangeFunction(_irate, 2),
    "idelta": RangeFunction(lambda w: window_rates.instant_delta(w.values, w.lo, w.hi, False), 2),
    "changes": RangeFunction(lambda w: window_rates.changes(w.values, w.lo, w.hi)),
    "resets": RangeFunction(lambda w: window_rates.resets(w.values, w.lo, w.hi, w.forced)),
    "deriv": RangeFunction(_deriv, 2),
    "predict_linear": RangeFunction(_predict_linear, 2),
    "double_exponential_smoothing": RangeFunction(_smoothing, 2),
    "avg_over_time": RangeFunction(lambda w: window_sums.means(w.values, w.lo, w.hi)),
    "sum_over_time": RangeFunction(lambda w: window_sums.sums(w.values, w.lo, w.hi)),
    "min_over_time": RangeFunction(lambda w: windows.minimum(w.values, w.lo, w.hi)),
    "max_over_time": RangeFunction(lambda w: windows.maximum(w.values, w.lo, w.hi)),
    "count_over_time": RangeFunction(lambda w: windows.counts(w.values, w.lo, w.hi)),
    "last_over_time": RangeFunction(lambda w: windows.last(w.values, w.lo, w.hi), keeps_name=True),
    "first_over_time": RangeFunction(lambda w: windows.first(w.values, w.lo, w.hi), keeps_name=True),
    "present_over_time": RangeFunction(_ones),
    "absent_over_time": RangeFunction(_ones, keeps_name=True),
    "stddev_over_time": RangeFunction(lambda w: window_sums.deviations(w.values, w.lo, w.hi)),
    "stdvar_over_time": RangeFunction(lambda w: window_sums.variances(w.values, w.lo, w.hi)),
    "mad_over_time": RangeFunction(lambda w: window_ranks.median_deviations(w.values, w.lo, w.hi)),
    "quantile_over_time": RangeFunction(lambda w: window_ranks.quantiles(w.values, w.lo, w.hi, w.args[0])),
    "ts_of_first_over_time": RangeFunction(lambda w: _seconds_at(w, w.lo)),
    "ts_of_last_over_time": RangeFunction(lambda w: _seconds_at(w, w.hi - 1)),
    "ts_of_min_over_time": RangeFunction(lambda w: window_ranks.time_of_extreme(w.values, w.times, w.lo, w.hi, False)),
    "ts_of_max_over_time": RangeFunction(lambda w: window_ranks.time_of_extreme(w.values, w.times, w.lo, w.hi, True)),
}

_COUNTER_SUFFIXES = ("_total", "_sum", "_count", "_bucket")
_NOT_A_COUNTER = "metric might not be a counter, name does not end in _total/_sum/_count/_bucket:"


def call(ev: "Evaluator", node: Call, steps: "Steps") -> Iterator[Matrix]:
    """Evaluate a function of a range vector."""
    function = RANGE_FUNCTIONS[node.func]
    operands = [unwrap(arg) for arg in node.args]
    (source,) = (arg for arg in operands if isinstance(arg, MatrixSelector | Subquery))
    args = tuple(ev.scalar(arg, steps) for arg in operands if arg is not source)
    if isinstance(source, MatrixSelector) and (source.selector.anchored or source.selector.smoothed):
        extended.check(node, source.selector)
        parts = _named(ev, node, function, extended.apply(ev, node, source, steps))
    else:
        parts = _named(ev, node, function, _apply(ev, node, function, source, args, steps))
    if function.keeps_name:
        yield from parts
    else:
        yield from ev.dropped(source, parts, steps, merge=False)


def _apply(
    ev: "Evaluator",
    node: Call,
    function: RangeFunction,
    source: MatrixSelector | Subquery,
    args: tuple[Floats, ...],
    steps: "Steps",
) -> Iterator[Matrix]:
    mixed: dict[Labels, MixedSeries] = {}
    start = source.selector if isinstance(source, MatrixSelector) else source
    ends = ev.reference_times(start.offset, start.timestamp, steps)
    starts = ends - source.range
    position = _position(node)

    def load(samples: Times) -> None:
        steps.load(samples)
        if node.func == "double_exponential_smoothing":
            _check_factors(args[0], args[1], samples > 0)

    def kernel(rows: selectors.Rows, lo: windows.Index, hi: windows.Index) -> Floats:
        with np.errstate(all="ignore"):
            window = Window(rows.values, rows.times, lo, hi, starts, ends, steps.times, args, rows.starts)
            return function.kernel(window)

    def apart(rows_of: Iterator[selectors.Rows]) -> Iterator[Matrix]:
        for raw in rows_of:
            ev.budget.check()
            rows = raw.without_stale()
            size = rows.times.shape[-1]
            if not size:
                continue
            if rows.times.ndim > 1:
                lo, hi = np.zeros(steps.count, dtype=np.intp), np.full(steps.count, size, dtype=np.intp)
            else:
                lo, hi = windows.bounds(rows.times, starts, ends)
            load(len(rows.labels) * (hi - lo))
            enough = hi - lo >= function.least
            born = None
            if rows.starts is not None and function.counter:
                born = window_rates.born_inside(rows.starts, rows.times, lo, hi, starts)
                _check_overlap(ev, node, rows, lo, hi)
            if not enough.any() and (born is None or not born.any()):
                continue
            values = kernel(rows, lo, hi)
            there = of_each(enough, len(values)) if born is None else enough | born
            yield Matrix(rows.labels, values, there, steps.times, drop_name=rows.drop_name)
            if node.func == "quantile_over_time":
                _check_quantile(ev, node, args[0][enough])

    def natives(found: Iterable[MixedSeries]) -> Iterator[Matrix]:
        for group in groups(series.real() for series in found):
            ev.budget.check()
            load(window_loads(group, starts, ends))
            if isinstance(source, MatrixSelector) and source.selector.span in ev.setting.counted:
                group = column_ranges.without_buckets(group)

            def of_floats(floats: Samples, series: MixedSeries = group[0]) -> tuple[Floats, int]:
                rows = selectors.Rows([series.labels], np.asarray(floats.values, dtype=np.float64)[None], floats.times)
                return kernel(rows, *windows.bounds(floats.times, starts, ends))[0], function.least

            if node.func == "quantile_over_time":
                lo, hi = windows.bounds(group[0].floats.times, starts, ends)
                _check_quantile(ev, node, args[0][hi > lo])
            part = mixed_ranges.evaluate(ev, node.func, position, group, starts, ends, steps.times, of_floats)
            if part is not None:
                yield part

    if isinstance(source, Subquery):
        yield from apart(subquery_rows(ev, source, steps, ends, mixed))
    else:
        hints = SelectHints(step=steps.step, range=source.range, func=node.func)
        found = ev.select(source.selector, int(ends[0]) - source.range + 1, int(ends[-1]), hints)
        for read in found:
            if read.apart:
                # Not kept till all are there: nothing more comes of these.
                yield from natives(gathered(read))
                continue
            for batch in split([read], mixed):
                if batch.starts is not None or len(batch.timelines) == 1:
                    yield from apart(selectors.uniform(batch, steps.count))
                elif ends[0] == ends[-1]:
                    # One window: it holds exactly what was selected.
                    yield from apart(selectors.by_length(stacks.real(batch)))
                else:
                    yield from _together(ev, node, function, stacks.real(batch), starts, ends, steps, args, load)

    yield from natives(mixed.values())


def _together(
    ev: "Evaluator",
    node: Call,
    function: RangeFunction,
    batch: RowBatch,
    starts: Times,
    ends: Times,
    steps: "Steps",
    args: tuple[Floats, ...],
    load: Callable[[Times], None],
) -> Iterator[Matrix]:
    """The function of rows without markers and start timestamps, of many timelines at once."""
    lines = Timelines.of(batch.timelines)
    found, pattern_of = stacks.patterns(lines, starts, ends)
    enough: Bools = np.array([pattern.hi - pattern.lo >= function.least for pattern in found], np.bool_)
    some = np.flatnonzero(enough.any(axis=1))
    for pattern, rows in zip(found, np.bincount(pattern_of[batch.timeline_of], minlength=len(found)), strict=True):
        load(rows * (pattern.hi - pattern.lo))

    def kernel(values: Floats, line_of: windows.Index, pattern: int) -> Floats:
        lo, hi = found[pattern].lo, found[pattern].hi
        with np.errstate(all="ignore"):
            return function.kernel(
                Window(values, lines.times, lo, hi, starts, ends, steps.times, args, line_of=line_of)
            )

    for stack in stacks.stacks(batch, pattern_of, steps.count):
        ev.budget.check()
        kept = np.isin(stack.pattern_of, some)
        if not kept.any():
            continue
        values = stack.fill(steps.count, kernel)
        if node.func == "quantile_over_time":
            _check_quantile(ev, node, args[0][enough[np.unique(stack.pattern_of)].any(axis=0)])
        first = int(stack.pattern_of[0])
        if (stack.pattern_of == first).all():
            there = np.broadcast_to(enough[first], values.shape)
        else:
            there = enough[stack.pattern_of]
        if kept.all():
            yield Matrix(stack.labels, values, there, steps.times)
        else:
            rows = np.flatnonzero(kept)
            yield Matrix([stack.labels[row] for row in rows.tolist()], values[rows], there[rows], steps.times)


def _named(ev: "Evaluator", node: Call, function: RangeFunction, parts: Iterator[Matrix]) -> Iterator[Matrix]:
    """`parts`, with an info for each metric that does not look like a counter where one is wanted."""
    if not function.counter:
        yield from parts
        return
    seen: set[tuple[str, str]] = set()
    typed = ev.setting.type_and_unit
    source = unwrap(node.args[0])
    fixed = source.selector.name if isinstance(source, MatrixSelector) else ""
    if fixed and not typed:
        yield from _with_one_name(ev, node, fixed, parts)
        return
    for part in parts:
        mask = part.is_histogram()
        if mask is None or (part.presence & ~mask).any():
            seen.update((labels.name, labels.get("__type__") if typed else "") for labels in part.labels)
        yield part
    position = _position(node)
    for name, kind in sorted(seen):
        if not name:
            continue
        if typed and kind not in ("counter", "histogram"):
            text = 'metric might not be a counter, __type__ label is not set to "counter" or "histogram", got'
            ev.notes.info(f"{text} {quote(kind)}: {quote(name)}", position)
        elif not typed and not name.endswith(_COUNTER_SUFFIXES):
            ev.notes.info(f"{_NOT_A_COUNTER} {quote(name)}", position)


def _with_one_name(ev: "Evaluator", node: Call, name: str, parts: Iterator[Matrix]) -> Iterator[Matrix]:
    """As `_named`, where the selector fixes the name."""
    if name.endswith(_COUNTER_SUFFIXES):
        yield from parts
        return
    counts: NDArray[np.int64] | None = None
    for part in parts:
        floats = part.floats_only().presence.sum(axis=0, dtype=np.int64)
        counts = floats if counts is None else counts + floats
        times = part.timestamps
        yield part
    if counts is not None and counts.any():
        ev.notes.info_by_step(f"{_NOT_A_COUNTER} {quote(name)}", _position(node), times, counts)


def _check_overlap(
    ev: "Evaluator", node: Call, rows: selectors.Rows, lo: NDArray[np.intp], hi: NDArray[np.intp]
) -> None:
    """Warn of samples that claim to start before the sample before them."""
    assert rows.starts is not None
    now, before = rows.starts[:, 1:], rows.starts[:, :-1]
    overlap = (now != 0) & (now < rows.times[:-1]) & (now != before)
    seen = window_rates.window_events(overlap, lo, hi).any(axis=1)
    for row in np.flatnonzero(seen).tolist():
        text = "sample has start time that overlaps with previous sample timestamp for metric"
        ev.notes.warn(f"{text} {quote(rows.labels[row].name)}", _position(node))


def _position(node: Call) -> int:
    """Where annotations of a call point to: its first argument; Prometheus forgets where a subquery stands."""
    source = unwrap(node.args[0])
    return 0 if isinstance(source, Subquery) else source.span.start


def _check_factors(factor: Floats, trend: Floats, steps: Bools) -> None:
    """Refuse what smooths nothing, where there are samples to smooth (`steps` [K])."""
    for name, short, values in (("smoothing", "sf", factor), ("trend", "tf", trend)):
        bad = values[steps & ((values <= 0) | (values >= 1))]
        if len(bad):
            got = f"{bad[0]:f}" if np.isfinite(bad[0]) else short_float(float(bad[0]))
            raise QueryError(f"invalid {name} factor. Expected: 0 < {short} < 1, got: {got}")


def _check_quantile(ev: "Evaluator", node: Call, q: Floats) -> None:
    for bad in np.unique(q[~((q >= 0) & (q <= 1))]).tolist():
        text = f"quantile value should be between 0 and 1, got {short_float(bad)}"
        ev.notes.warn(text, unwrap(node.args[0]).span.start)


def subquery_steps(ev: "Evaluator", node: Subquery, steps: "Steps", ends: Times) -> "Steps | None":
    """The instants at which a subquery's expression is evaluated; None if there is none."""
    interval = node.step or ev.setting.default_step(node.range)
    # The first multiple of the interval after the start of the first window (Go's division rounds to zero).
    begin = int(ends[0]) - node.range
    first = interval * int(begin / interval) if abs(begin) < 2**53 else interval * (begin // interval)
    if first <= begin:
        first += interval
    last = int(ends[-1])
    if last < first:
        return None
    last -= (last - first) % interval
    return type(steps)(first, last, interval)


def subquery_rows(
    ev: "Evaluator", node: Subquery, steps: "Steps", ends: Times, mixed: dict[Labels, MixedSeries]
) -> Iterator[selectors.Rows]:
    """The result of a subquery's expression as rows of samples; series with histograms are put into `mixed`."""
    inner = subquery_steps(ev, node, steps, ends)
    if inner is None:
        return
    ev.notes.subqueries += 1
    matrix = ev.vector(node.expr, inner)
    ev.notes.subqueries -= 1
    if matrix.histograms is not None:
        found, plain = from_matrix(matrix)
        for series in found:
            mixed[series.labels] = series
        matrix = matrix.rows(plain)
    yield from matrix_rows(matrix)


def matrix_rows(matrix: Matrix) -> Iterator[selectors.Rows]:
    """A matrix as rows that share their timestamps: grouped by where they are present."""
    if not len(matrix.labels):
        return
    if matrix.presence.all():
        yield selectors.Rows(matrix.labels, matrix.values, matrix.timestamps, drop_name=matrix.drop_name)
        return
    patterns, which = np.unique(matrix.presence, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        if not pattern.any():
            continue
        rows = np.flatnonzero(which.reshape(-1) == number)
        labels = [matrix.labels[row] for row in rows.tolist()]
        flags = None if matrix.drop_name is None else matrix.drop_name[rows]
        yield selectors.Rows(labels, matrix.values[rows][:, pattern], matrix.timestamps[pattern], drop_name=flags)
