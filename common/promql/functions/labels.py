"""Functions of label sets: label_replace, label_join, sorting, and the labels of absent()."""

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from common.errors import FormatError, QueryError
from common.labels import NAME, Labels, MatchType, compile_regex
from common.promql.ast import Call, Expr, MatrixSelector, VectorSelector
from common.promql.matrix import Matrix, merge_same_labels, sort_by_labels
from common.promql.preprocess import unwrap

if TYPE_CHECKING:
    from common.promql.evaluator import Evaluator, Steps

_REFERENCE = re.compile(r"\$(?:(\$)|\{(\w+)\}|(\w+))", re.ASCII)
_DIGITS = frozenset("0123456789")
_CHUNKS = re.compile("[0-9]+|[^0-9]+")


def is_valid_name(name: str) -> bool:
    """Whether `name` can be a label's: not empty, valid UTF-8 (other bytes are surrogate escapes)."""
    return bool(name) and not any("\ud800" <= char <= "\udfff" for char in name)


def fixed_labels(expr: Expr) -> Labels:
    """Labels that a selector's equality matchers fix, each named once; none for other expressions."""
    expr = unwrap(expr)
    selector = expr.selector if isinstance(expr, MatrixSelector) else expr
    if not isinstance(selector, VectorSelector):
        return Labels()
    fixed: dict[str, str] = {}
    seen: set[str] = set()
    for matcher in selector.matchers:
        if matcher.name == NAME:
            continue
        if matcher.type is MatchType.EQ and matcher.name not in seen:
            fixed[matcher.name] = matcher.value
            seen.add(matcher.name)
        else:
            fixed.pop(matcher.name, None)
    return Labels.of(fixed)


def expand(template: str, groups: Sequence[str | None], names: dict[str, int]) -> str:
    """Go's regexp.Expand: `$1`, `$name`, `${name}`, `$$`; unknown groups are empty. `groups[0]` is the whole match."""

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return "$"
        name = match[2] or match[3]
        number = int(name) if name.isdigit() else names.get(name, -1)
        return (groups[number] or "") if 0 <= number < len(groups) else ""

    return _REFERENCE.sub(value, template)


def label_replace(ev: "Evaluator", node: Call, steps: "Steps") -> Iterator[Matrix]:
    """`label_replace(v, dst, replacement, src, regex)`."""
    target, template, source, pattern = (ev.string(arg) for arg in node.args[1:])
    try:
        regex = compile_regex(pattern)
    except FormatError:
        raise QueryError(f"invalid regular expression in label_replace(): {pattern}") from None
    if not is_valid_name(target):
        raise QueryError(f"invalid destination label name in label_replace(): {target}")
    matrix = ev.vector(node.args[0], steps)
    names = dict(regex.groupindex)
    labels: list[Labels] = []
    for one in matrix.labels:
        match = regex.fullmatch(one.get(source))
        if match is None:
            labels.append(one)
            continue
        groups = (match.group(0), *match.groups())
        labels.append(one.merge({target: expand(template, groups, names)}))
    yield _named(matrix, labels, target, [new is not old for new, old in zip(labels, matrix.labels, strict=True)])


def label_join(ev: "Evaluator", node: Call, steps: "Steps") -> Iterator[Matrix]:
    """`label_join(v, dst, separator, src...)`."""
    target, separator, *sources = (ev.string(arg) for arg in node.args[1:])
    for source in sources:
        if not is_valid_name(source):
            raise QueryError(f"invalid source label name in label_join(): {source}")
    if not is_valid_name(target):
        raise QueryError(f"invalid destination label name in label_join(): {target}")
    matrix = ev.vector(node.args[0], steps)
    labels = [one.merge({target: separator.join(one.get(source) for source in sources)}) for one in matrix.labels]
    yield _named(matrix, labels, target, [True] * len(labels))


def _named(matrix: Matrix, labels: Sequence[Labels], target: str, touched: Sequence[bool]) -> Matrix:
    """`matrix` under new labels; a name that was set on purpose is no longer to be removed."""
    flags = matrix.drop_name
    if flags is not None and target == NAME:
        flags = flags & ~np.array(touched, dtype=np.bool_)
    return merge_same_labels(replace(matrix, labels=labels, drop_name=flags))


def sort_by_value(ev: "Evaluator", node: Call, steps: "Steps") -> Iterator[Matrix]:
    """`sort` and `sort_desc` of an instant vector; NaN comes last either way, equal values are in order of labels."""
    matrix = ev.vector(node.args[0], steps).floats_only()
    if _ineffective(ev, node) or steps.count > 1:
        yield matrix
        return
    if len(np.unique(matrix.values)) < len(matrix.labels):
        # Storage gives series in no certain order: equal ones are to stay where they were seen.
        matrix = sort_by_labels(matrix)
    values = matrix.values[:, 0]
    key = -values if node.func == "sort_desc" else values
    yield matrix.rows(np.argsort(key, kind="stable"))


def sort_by_label(ev: "Evaluator", node: Call, steps: "Steps") -> Iterator[Matrix]:
    """`sort_by_label` and `sort_by_label_desc`: natural order of the labels named, then of all labels."""
    matrix = ev.vector(node.args[0], steps)
    if _ineffective(ev, node) or steps.count > 1:
        yield matrix
        return
    names = [ev.string(arg) for arg in node.args[1:]]

    def order(left: int, right: int) -> int:
        one, other = matrix.labels[left], matrix.labels[right]
        for name in names:
            a, b = one.get(name), other.get(name)
            if a != b:
                return -1 if natural_less(a, b) else 1
        return -1 if one.pairs < other.pairs else 1

    rows = sorted(range(len(matrix.labels)), key=functools.cmp_to_key(order), reverse=node.func.endswith("_desc"))
    yield matrix.rows(rows)


def natural_less(left: str, right: str) -> bool:
    """Whether `left` sorts before `right` when runs of digits count as numbers, as far as those fit int64."""
    a, b = _CHUNKS.findall(left), _CHUNKS.findall(right)
    for one, other in zip(a, b, strict=False):
        if one == other:
            continue
        numbers = _number(one), _number(other)
        if numbers[0] is None or numbers[1] is None:
            return bool(one < other)
        if numbers[0] != numbers[1]:
            return numbers[0] < numbers[1]
    return len(a) < len(b) if len(a) != len(b) else left < right


def _number(chunk: str) -> int | None:
    digits = chunk.lstrip("0") or "0"
    return int(digits) if digits[0] in _DIGITS and len(digits) < 20 and int(digits) < 1 << 63 else None


def _ineffective(ev: "Evaluator", node: Call) -> bool:
    if not ev.setting.is_range:
        return False
    text = "sort is ineffective for range queries since results are always ordered by labels"
    ev.notes.warn(text, node.span.start)
    return True
