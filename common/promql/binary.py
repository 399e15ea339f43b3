"""Binary operators: arithmetic, comparison, and the matching of two vectors' series."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.errors import QueryError
from common.histogram_grid import Grid
from common.labels import EMPTY, NAME, Labels, is_legacy_label_name
from common.promql import histogram_cells
from common.promql.ast import Binary, Cardinality, VectorMatching
from common.promql.gotext import quote
from common.promql.labelcache import LabelCache, Numbering, by_number
from common.promql.matrix import Bools, Floats, Matrix, concat, empty, has_duplicates, merge_same_labels

if TYPE_CHECKING:
    from common.promql.evaluator import Evaluator

Index = NDArray[np.intp]

CHANGES_METRIC = frozenset({"+", "-", "*", "/", "^", "%", "atan2"})
"""Operators whose result is another metric: the name is dropped."""

_COMPARE = {
    "==": np.equal,
    "!=": np.not_equal,
    ">": np.greater,
    "<": np.less,
    ">=": np.greater_equal,
    "<=": np.less_equal,
}
COMPARISONS = frozenset(_COMPARE)
TRIMS = frozenset({"</", ">/"})
SET_OPERATORS = frozenset({"and", "or", "unless"})


def arithmetic(op: str, left: Floats, right: Floats) -> Floats:
    """`left op right`, cell by cell, with IEEE 754 and C's pow, fmod and atan2 as in Go."""
    with np.errstate(all="ignore"):
        match op:
            case "+":
                return left + right
            case "-":
                return left - right
            case "*":
                return left * right
            case "/":
                return left / right
            case "^":
                return np.power(left, right)
            case "%":
                return np.fmod(left, right)
            case "atan2":
                return np.arctan2(left, right)
            case _:
                raise QueryError(f"operator {op!r} not allowed for operations between vectors")


def compare(op: str, left: Floats, right: Floats) -> Bools:
    """`left op right`, cell by cell; every comparison with NaN but != is False."""
    hit: Bools = _COMPARE[op](left, right)
    return hit


def scalars(op: str, left: Floats, right: Floats) -> Floats:
    """`left op right` of two scalars; comparisons give 0 or 1."""
    if op in COMPARISONS:
        return compare(op, left, right).astype(np.float64)
    return arithmetic(op, left, right)


def incompatible(ev: "Evaluator", expr: Binary, left: str, right: str, where: Bools) -> None:
    """Say that the operator means nothing for these types, if they met anywhere."""
    if where.any():
        what = f'incompatible sample types encountered for binary operator "{expr.op}"'
        ev.notes.info(f"{what}: {left} {expr.op} {right}", expr.span.start)


def _of_floats(ev: "Evaluator", expr: Binary, left: Floats, right: Floats, presence: Bools) -> tuple[Floats, Bools]:
    """Value and presence where both operands are floats."""
    op = expr.op
    if op in TRIMS:
        incompatible(ev, expr, "float", "float", presence)
        return np.zeros(presence.shape), np.zeros_like(presence)
    if op not in COMPARISONS:
        return arithmetic(op, left, right), presence
    hit = compare(op, left, right)
    if expr.return_bool:
        return hit.astype(np.float64), presence
    return np.broadcast_to(left, presence.shape), presence & hit


def operate(
    ev: "Evaluator",
    expr: Binary,
    left: Floats,
    right: Floats,
    ones: Grid | None,
    others: Grid | None,
    presence: Bools,
) -> tuple[Floats, Bools, Grid | None]:
    """Value, presence and histograms of the operator's results; all [S, K]."""
    if ones is None and others is None:
        return (*_of_floats(ev, expr, left, right, presence), None)
    floats = presence.copy()
    for cells in (ones, others):
        if cells is not None:
            floats &= ~cells.there
    result = _of_floats(ev, expr, left, right, floats)
    return histogram_cells.combine(ev, expr, left, right, ones, others, result, presence)


def negated(matrix: Matrix) -> Matrix:
    """All values with the other sign."""
    cells = matrix.histograms
    if cells is not None:
        cells = histogram_cells.scaled(cells.only(matrix.presence), np.full((1, 1), -1.0))
    return replace(matrix, values=-matrix.values, histograms=cells)


def with_scalar(ev: "Evaluator", expr: Binary, vector: Matrix, other: Floats, swapped: bool) -> Matrix:
    """A vector and a scalar [K]; `swapped` if the scalar stands on the left. Names are left alone."""
    row = other[None, :]
    cells = vector.histograms
    if swapped:
        values, presence, histograms = operate(ev, expr, row, vector.values, None, cells, vector.presence)
        if expr.op in COMPARISONS and not expr.return_bool:
            values = vector.values
    else:
        values, presence, histograms = operate(ev, expr, vector.values, row, cells, None, vector.presence)
    return replace(vector, values=values, presence=presence, histograms=histograms)


@dataclass(frozen=True, eq=False)
class _Side:
    """One operand by signature: `of` [S] is each row's signature, of `count` in all."""

    matrix: Matrix
    of: Index
    count: int

    @cached_property
    def single(self) -> bool:
        """Whether no two rows have the same signature."""
        return int(np.bincount(self.of).max(initial=0)) <= 1

    def rows(self) -> list[Index]:
        """The rows of each signature."""
        return by_number(self.of, self.count)


def _signatures(cache: LabelCache, matching: VectorMatching, left: Matrix, right: Matrix) -> tuple[_Side, _Side]:
    names = frozenset(matching.labels)
    without = names | {NAME}
    numbering = Numbering()
    sides = []
    for matrix in (left, right):
        keys = cache.keep(matrix.labels, names) if matching.on else cache.drop(matrix.labels, without)
        sides.append(numbering.all_of(keys))
    count = len(numbering.labels)
    return _Side(left, sides[0], count), _Side(right, sides[1], count)


def _present_by_signature(side: _Side) -> Bools:
    """Where any row of each signature is present, [signatures, K]."""
    out = np.zeros((side.count, side.matrix.presence.shape[1]), dtype=np.bool_)
    np.logical_or.at(out, side.of, side.matrix.presence)
    return out


def vectors(ev: "Evaluator", expr: Binary, left: Matrix, right: Matrix) -> Matrix:
    """Two vectors under the expression's matching."""
    matching = expr.matching or VectorMatching(Cardinality.ONE_TO_ONE)
    if expr.op in SET_OPERATORS:
        return _set_operation(ev.cache, expr.op, matching, left, right)
    return _Matching(ev, expr, matching, left, right).result()


def _set_operation(cache: LabelCache, op: str, matching: VectorMatching, left: Matrix, right: Matrix) -> Matrix:
    one, other = _signatures(cache, matching, left, right)
    steps = left.timestamps
    if op == "or":
        if not len(left.labels):
            return right
        taken = _present_by_signature(one)
        rest = replace(right, presence=right.presence & ~taken[other.of])
        return merge_same_labels(concat([left, rest.without_empty()], steps))
    if not len(left.labels):
        return left
    there = _present_by_signature(other)[one.of]
    return replace(left, presence=left.presence & (there if op == "and" else ~there)).without_empty()


class _Matching:
    """Arithmetic or comparison of two vectors: which rows meet, what they yield, what is not allowed."""

    def __init__(self, ev: "Evaluator", expr: Binary, matching: VectorMatching, left: Matrix, right: Matrix) -> None:
        self._ev = ev
        self._expr = expr
        self._matching = matching
        # As if the `many` side were always on the left.
        self._swapped = matching.card is Cardinality.ONE_TO_MANY
        if self._swapped:
            left, right = right, left
        self._sides = left, right
        self._names = frozenset(matching.labels)
        # Not swapped with group_right: fill_left still fills the many side, as in Prometheus.
        self._fill_many, self._fill_one = matching.fill_left, matching.fill_right

    def result(self) -> Matrix:
        filled = self._fill_many is not None or self._fill_one is not None
        if not filled and all(len(side.labels) == 1 for side in self._sides):
            return self._one_row_each(*self._sides)
        self._many, self._one = _signatures(self._ev.cache, self._matching, *self._sides)
        many, one = self._many, self._one
        steps = many.matrix.timestamps
        if filled or not one.single:
            some_left = np.logical_or.reduce(many.matrix.presence, axis=0)
            some_right = np.logical_or.reduce(one.matrix.presence, axis=0)
            active: Bools = (some_left | some_right) if filled else (some_left & some_right)
            if not active.any():
                return empty(steps)
            self._refuse_duplicates_on_one_side(active)
        parts: list[Matrix] = []
        matched = np.zeros((many.count, len(steps)), dtype=np.bool_)
        lefts, rights = self._pairs()
        if len(lefts):
            parts.append(self._meet(lefts, rights, matched))
        if self._fill_one is not None:
            parts.append(self._filled_one(matched))
        if self._fill_many is not None:
            parts.append(self._filled_many(matched))
        return self._join(parts, steps)

    def _one_row_each(self, many: Matrix, one: Matrix) -> Matrix:
        """The result for one row on each side, in a third of the time: no other rows can be in their way."""
        cache, both = self._ev.cache, (*many.labels, *one.labels)
        mine, theirs = cache.keep(both, self._names) if self._matching.on else cache.drop(both, self._names | {NAME})
        if mine != theirs:
            return empty(many.timestamps)
        values, presence, cells = self._compute(
            many.values, one.values, many.presence & one.presence, many.histograms, one.histograms
        )
        labels = self._labels(many.labels, one.labels)
        return self._join([Matrix(labels, values, presence, many.timestamps, cells)], many.timestamps)

    def _pairs(self) -> tuple[Index, Index]:
        """Rows that share a signature: indexes into both sides."""
        if self._one.single:
            first = np.full(self._one.count, -1, np.intp)
            first[self._one.of] = np.arange(len(self._one.of))
            rights = first[self._many.of]
            lefts = np.flatnonzero(rights >= 0)
            return lefts, rights[lefts]
        lefts_list: list[int] = []
        rights_list: list[int] = []
        partners = self._one.rows()
        for row, signature in enumerate(self._many.of):
            for partner in partners[signature]:
                lefts_list.append(row)
                rights_list.append(int(partner))
        return np.array(lefts_list, dtype=np.intp), np.array(rights_list, dtype=np.intp)

    def _group(self, labels: Labels) -> Labels:
        """The labels of a match group, from one of its series."""
        return labels.keep(self._names) if self._matching.on else labels.drop(self._names | {NAME})

    def _refuse_duplicates_on_one_side(self, active: Bools) -> None:
        one = self._one
        for rows in () if one.single else one.rows():
            if len(rows) < 2:
                continue
            clash = (one.matrix.presence[rows].sum(axis=0) > 1) & active
            if not clash.any():
                continue
            at = int(np.argmax(clash))
            first, second = (one.matrix.labels[r] for r in rows[one.matrix.presence[rows, at]][:2])
            side = "left" if self._swapped else "right"
            raise QueryError(
                f"found duplicate series for the match group {_braced(self._group(second))} on the {side} hand-side"
                f" of the operation: [{_braced(second)}, {_braced(first)}];many-to-many matching not allowed:"
                " matching labels must be unique on one side"
            )

    def _match(self, matched: Bools, labels: Sequence[Labels], signatures: Index, met: Bools) -> None:
        """Note, if it is asked for, where rows of the many side found a partner (`met`), be it that a comparison leaves
        them out then.

        Of one match group there may be one at a step, or their results must differ.
        """
        if self._fill_many is not None:
            np.logical_or.at(matched, signatures, met)
        alone = self._matching.card is Cardinality.ONE_TO_ONE
        if len(set(signatures.tolist())) == len(labels) or not (alone or has_duplicates(labels)):
            return
        rows: dict[tuple[int, Labels], list[int]] = {}
        for row, (signature, each) in enumerate(zip(signatures.tolist(), labels, strict=True)):
            rows.setdefault((signature, EMPTY if alone else each), []).append(row)
        if any(len(same) > 1 and (met[same].sum(axis=0) > 1).any() for same in rows.values()):
            problem = "grouping labels must ensure unique matches"
            if alone:
                problem = "many-to-one matching must be explicit (group_left/group_right)"
            raise QueryError(f"multiple matches for labels: {problem}")

    def _compute(
        self, left: Floats, right: Floats, presence: Bools, ones: Grid | None, others: Grid | None
    ) -> tuple[Floats, Bools, Grid | None]:
        """Value, presence and histograms of cells; `left` and `ones` belong to the many side."""
        if self._swapped:
            left, right, ones, others = right, left, others, ones
        return operate(self._ev, self._expr, left, right, ones, others, presence)

    def _meet(self, lefts: Index, rights: Index, matched: Bools) -> Matrix:
        many, one = self._many.matrix, self._one.matrix
        whole = len(lefts) == len(many.labels)
        left = many.values if whole else many.values[lefts]
        presence = (many.presence if whole else many.presence[lefts]) & one.presence[rights]
        ones = None if many.histograms is None else many.histograms[lefts]
        others = None if one.histograms is None else one.histograms[rights]
        compatible = self._compatible(presence, ones, others)
        values, presence, cells = self._compute(left, one.values[rights], presence, ones, others)
        labels = self._labels(
            many.labels if whole else [many.labels[i] for i in lefts.tolist()],
            [one.labels[j] for j in rights.tolist()] if self._matching.include else (),
        )
        self._match(matched, labels, self._many.of[lefts], presence if compatible is None else compatible)
        return Matrix(labels, values, presence, many.timestamps, cells)

    def _compatible(self, presence: Bools, ones: Grid | None, others: Grid | None) -> Bools | None:
        """Pairs that a comparison can decide, be it that it leaves them out; None for operators that leave none out."""
        if self._expr.op not in COMPARISONS or self._expr.return_bool:
            return None
        if ones is None and others is None:
            return presence
        left, right = (np.zeros_like(presence) if cells is None else cells.there for cells in (ones, others))
        decided: Bools = left == right if self._expr.op in ("==", "!=") else ~left & ~right
        return presence & decided

    def _filled_one(self, matched: Bools) -> Matrix:
        """Rows of the many side where the other has nothing, against the fill value."""
        assert self._fill_one is not None
        many = self._many.matrix
        presence = many.presence & ~_present_by_signature(self._one)[self._many.of]
        labels = self._labels(many.labels, [self._group(x) for x in many.labels])
        self._match(matched, labels, self._many.of, presence)
        fill = np.full((1, 1), self._fill_one)
        values, presence, cells = self._compute(many.values, fill, presence, many.histograms, None)
        return Matrix(labels, values, presence, many.timestamps, cells)

    def _filled_many(self, matched: Bools) -> Matrix:
        """Rows of the one side that met nothing, against the fill value."""
        assert self._fill_many is not None
        one = self._one.matrix
        presence = one.presence & ~matched[self._one.of]
        fill = np.full((1, 1), self._fill_many)
        values, presence, cells = self._compute(fill, one.values, presence, None, one.histograms)
        labels = self._labels([self._group(x) for x in one.labels], one.labels)
        return Matrix(labels, values, presence, one.timestamps, cells)

    def _labels(self, many: Sequence[Labels], one: Sequence[Labels]) -> Sequence[Labels]:
        """The results' labels for pairs of series; `one` matters only for included labels."""
        cache, include = self._ev.cache, self._matching.include
        if self._expr.op in CHANGES_METRIC:
            many = cache.without_metadata(many)
        if self._matching.card is Cardinality.ONE_TO_ONE:
            many = cache.keep(many, self._names) if self._matching.on else cache.drop(many, self._names)
        if include:
            many = [x.merge({name: y.get(name) for name in include}) for x, y in zip(many, one, strict=True)]
        if self._expr.return_bool and not self._ev.setting.delayed_names:
            many = cache.without_metadata(many)
        return many

    def _join(self, parts: Sequence[Matrix], steps: NDArray[np.int64]) -> Matrix:
        matrix = concat(parts, steps)
        if self._expr.return_bool and self._ev.setting.delayed_names:
            matrix = replace(matrix, drop_name=np.ones(len(matrix.labels), dtype=np.bool_))
        return merge_same_labels(matrix).without_empty()


def _braced(labels: Labels) -> str:
    """Labels as Prometheus prints a label set in errors: the name is a label like others."""
    if labels == EMPTY:
        return "{}"
    return "{" + ", ".join(f"{_label_name(name)}={quote(value)}" for name, value in labels) + "}"


def _label_name(name: str) -> str:
    return name if is_legacy_label_name(name) else quote(name)
