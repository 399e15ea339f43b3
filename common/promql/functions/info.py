"""`info(v, selector)`: add the labels of info metrics that share `instance` and `job` with the series."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.errors import QueryError
from common.labels import NAME, Labels, Matcher, MatchType
from common.promql import selectors
from common.promql.ast import Aggregate, Binary, Call, Expr, MatrixSelector, Paren, Subquery, Unary, VectorSelector
from common.promql.matrix import Bools, Matrix, Times, concat, merge_same_labels
from common.promql.preprocess import unwrap
from common.tsdb.querier import SelectHints, ValueKind

if TYPE_CHECKING:
    from common.promql.evaluator import Evaluator, Steps

TARGET_INFO = "target_info"
IDENTIFYING = ("instance", "job")
_POSITIVE = (MatchType.EQ, MatchType.RE)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the second argument asks for."""

    names: tuple[Matcher, ...]
    ignored: tuple[Matcher, ...]
    data: dict[str, list[Matcher]]

    @property
    def data_may_be_missing(self) -> bool:
        """Whether a series without info passes the data label matchers."""
        return all(m.matches_empty for matchers in self.data.values() for m in matchers)


def _wanted(node: Call) -> _Wanted:
    default = Matcher(MatchType.EQ, NAME, TARGET_INFO)
    if len(node.args) < 2:
        return _Wanted((default,), (default,), {})
    selector = unwrap(node.args[1])
    if not isinstance(selector, VectorSelector):
        raise QueryError("expected label selectors as the second argument to the info() function")
    names = [m for m in selector.matchers if m.name == NAME]
    data: dict[str, list[Matcher]] = {}
    for matcher in selector.matchers:
        if matcher.name != NAME:
            data.setdefault(matcher.name, []).append(matcher)
    if not names:
        return _Wanted((default,), (), data)
    if not any(m.type in _POSITIVE for m in names):
        names.append(Matcher(MatchType.RE, NAME, ".+_info"))
    return _Wanted(tuple(names), tuple(names), data)


def reference(expr: Expr, at: Times) -> Times:
    """The instants that the first selector in `expr` looks at, for an evaluation at `at`: `@` and offsets applied."""
    match unwrap(expr):
        case VectorSelector() as selector:
            base = at if selector.timestamp is None else np.full_like(at, selector.timestamp)
            return base - selector.offset
        case MatrixSelector() as matrix:
            return reference(matrix.selector, at)
        case Subquery() as subquery:
            base = at if subquery.timestamp is None else np.full_like(at, subquery.timestamp)
            return reference(subquery.expr, base - subquery.offset)
        case Paren() | Unary() | Aggregate() as inner:
            return reference(inner.expr, at)
        case Binary() as binary:
            return reference(binary.lhs if _has_selector(binary.lhs) else binary.rhs, at)
        case Call() as call:
            for arg in call.args:
                if _has_selector(arg):
                    return reference(arg, at)
    return at


def _has_selector(expr: Expr) -> bool:
    match unwrap(expr):
        case VectorSelector() | MatrixSelector():
            return True
        case Paren() | Unary() | Aggregate() | Subquery() as inner:
            return _has_selector(inner.expr)
        case Binary() as binary:
            return _has_selector(binary.lhs) or _has_selector(binary.rhs)
        case Call() as call:
            return any(_has_selector(arg) for arg in call.args)
    return False


def info(ev: "Evaluator", node: Call, steps: "Steps") -> Iterator[Matrix]:
    """Evaluate `info`."""
    base = ev.vector(node.args[0], steps)
    wanted = _wanted(node)
    ignored = [bool(wanted.ignored) and all(m.matches(labels.name) for m in wanted.ignored) for labels in base.labels]
    keys = [labels.keep(IDENTIFYING) for labels in base.labels]
    found = _fetch(ev, node, wanted, {k for k, skip in zip(keys, ignored, strict=True) if not skip}, steps)
    choices = _choices(found)
    parts: list[Matrix] = []
    plain: list[int] = []
    for row, labels in enumerate(base.labels):
        if ignored[row]:
            plain.append(row)
            continue
        for columns, infos in choices.get(keys[row], [(None, ())]):
            if not infos and not wanted.data_may_be_missing:
                continue
            extra = _labels(labels, [found.labels[i] for i in infos], wanted)
            part = base.rows([row])
            presence = part.presence if columns is None else part.presence & columns
            if presence.any():
                parts.append(replace(part, labels=[labels.merge(extra)], presence=presence))
    yield merge_same_labels(concat([base.rows(plain), *parts], steps.times))


def _fetch(ev: "Evaluator", node: Call, wanted: _Wanted, keys: set[Labels], steps: "Steps") -> Matrix:
    """Info series that may belong to the series with these identifying labels; values are sample times, seconds."""
    at = reference(node.args[0], steps.times)
    matchers = [*wanted.names, *(m for group in wanted.data.values() for m in group)]
    some = False
    for name in IDENTIFYING:
        values = sorted({key.get(name) for key in keys} - {""})
        if values:
            some = True
            matchers.append(Matcher(MatchType.RE, name, "|".join(re.escape(value) for value in values)))
    parts: list[Matrix] = []
    if some:
        source = VectorSelector("", tuple(matchers), node.span)
        hints = SelectHints(step=steps.step, func="info")
        for batch in ev.select(source, int(at.min()) - ev.setting.lookback + 1, int(at.max()), hints):
            if batch.kind is not ValueKind.FLOAT:
                raise QueryError(f"this should be an info metric, with float samples: {batch.labels[0]}")
            for rows in selectors.uniform(batch, steps.count):
                part = selectors.instant_times(rows, at, ev.setting.lookback, steps.times)
                if part is not None:
                    steps.load(part.presence.sum(axis=0))
                    parts.append(part)
    return concat(parts, steps.times)


def _choices(found: Matrix) -> dict[Labels, list[tuple[Bools, tuple[int, ...]]]]:
    """For each identifying label set: which info rows hold at which steps, one of each metric, the newest."""
    groups: dict[Labels, dict[str, list[int]]] = {}
    for row, labels in enumerate(found.labels):
        groups.setdefault(labels.keep(IDENTIFYING), {}).setdefault(labels.name, []).append(row)
    out: dict[Labels, list[tuple[Bools, tuple[int, ...]]]] = {}
    for key, by_name in groups.items():
        picked = np.stack([_newest(found, np.array(rows, dtype=np.intp)) for rows in by_name.values()])
        patterns, which = np.unique(picked, axis=1, return_inverse=True)
        out[key] = [
            (which.reshape(-1) == number, tuple(row for row in patterns[:, number].tolist() if row >= 0))
            for number in range(patterns.shape[1])
        ]
    return out


def _newest(found: Matrix, rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """The row with the newest sample at each step, -1 where there is none."""
    there = found.presence[rows]
    times = np.where(there, found.values[rows], -np.inf)
    best = times.max(axis=0)
    hit = there & (times == best)
    twice = hit.sum(axis=0) > 1
    if twice.any():
        step = int(np.argmax(twice))
        first, second = rows[hit[:, step]][:2]
        when = round(float(best[step]) * 1000)
        raise QueryError(
            f"found duplicate series for info metric: existing {found.labels[first]} @ {when},"
            f" new {found.labels[second]} @ {when}"
        )
    picked: NDArray[np.intp] = np.where(there.any(axis=0), rows[np.argmax(hit, axis=0)], -1)
    return picked


def _labels(base: Labels, infos: list[Labels], wanted: _Wanted) -> dict[str, str]:
    """The data labels that info series add to `base`."""
    extra: dict[str, str] = {}
    for labels in infos:
        for name, value in labels:
            if name == NAME or (wanted.data and name not in wanted.data):
                continue
            if extra.get(name, value) != value:
                raise QueryError(f"conflicting label: {name}")
            if name not in base:
                extra[name] = value
    return extra
