"""Canonical and pretty text of syntax trees."""

from collections.abc import Iterable, Iterator

from common.labels import NAME, Matcher, MatchType, is_legacy_label_name
from common.promql.ast import (
    Aggregate,
    Binary,
    Call,
    Cardinality,
    DurationExpr,
    Expr,
    MatrixSelector,
    NumberLiteral,
    Paren,
    StringLiteral,
    Subquery,
    Unary,
    VectorMatching,
    VectorSelector,
)
from common.promql.gotext import plain_float, quote, short_float
from common.units import format_duration

MAX_LINE = 100
"""Pretty printing splits expressions whose text is longer."""

QUOTED_LABELS = frozenset({"inf", "nan", "without"})
"""Names that the grammar takes for something else where a list of labels stands."""


def to_text(expr: Expr) -> str:
    """The canonical text, as Prometheus prints it: one line; parses to an equal tree."""
    return "".join(_pieces(expr))


def to_pretty_text(expr: Expr) -> str:
    """The text in several lines where it is longer than MAX_LINE, as `format_query` gives it."""
    return _Pretty().render(expr, 0)


def _pieces(expr: Expr) -> Iterator[str]:
    match expr:
        case NumberLiteral():
            yield _number(expr)
        case StringLiteral():
            yield quote(expr.value)
        case VectorSelector():
            yield _vector(expr)
        case MatrixSelector():
            yield _matrix(expr)
        case Subquery():
            yield from _pieces(expr.expr)
            yield _subquery_suffix(expr)
        case Paren():
            yield "("
            yield from _pieces(expr.expr)
            yield ")"
        case Unary():
            yield expr.op
            yield from _pieces(expr.expr)
        case Binary():
            yield from _pieces(expr.lhs)
            yield f" {_operator(expr)} "
            yield from _pieces(expr.rhs)
        case Aggregate():
            yield f"{_aggregation(expr)}("
            if expr.param is not None:
                yield from _pieces(expr.param)
                yield ", "
            yield from _pieces(expr.expr)
            yield ")"
        case Call():
            yield f"{expr.func}("
            for index, arg in enumerate(expr.args):
                if index:
                    yield ", "
                yield from _pieces(arg)
            yield ")"


class _Pretty:
    """Splits what is too long; the length of every node's one-line text is computed once."""

    def __init__(self) -> None:
        self._lengths: dict[int, int] = {}

    def render(self, expr: Expr, level: int) -> str:
        indent = "  " * level
        if isinstance(expr, Unary):
            return f"{indent}{expr.op}{self.render(expr.expr, level).strip()}"
        if isinstance(expr, Subquery):
            if not self._is_long(expr):
                # Prometheus doesn't indent these.
                return to_text(expr)
            return self.render(expr.expr, level) + _subquery_suffix(expr)
        if not self._is_long(expr):
            return indent + to_text(expr)
        match expr:
            case Binary():
                left, right = self.render(expr.lhs, level + 1), self.render(expr.rhs, level + 1)
                return f"{left}\n{indent}{_operator(expr)}\n{right}"
            case Aggregate():
                args = [expr.expr] if expr.param is None else [expr.param, expr.expr]
                return f"{indent}{_aggregation(expr)}(\n{self._args(args, level)}\n{indent})"
            case Call():
                return f"{indent}{expr.func}(\n{self._args(expr.args, level)}\n{indent})"
            case Paren():
                return f"{indent}(\n{self.render(expr.expr, level + 1)}\n{indent})"
            case _:
                return indent + to_text(expr)

    def _args(self, args: Iterable[Expr], level: int) -> str:
        return ",\n".join(self.render(arg, level + 1) for arg in args)

    def _is_long(self, expr: Expr) -> bool:
        return self._length(expr) > MAX_LINE

    def _length(self, expr: Expr) -> int:
        known = self._lengths.get(id(expr))
        if known is None:
            known = self._lengths[id(expr)] = self._measure(expr)
        return known

    def _measure(self, expr: Expr) -> int:
        match expr:
            case Paren():
                return self._length(expr.expr) + 2
            case Unary():
                return self._length(expr.expr) + 1
            case Binary():
                return self._length(expr.lhs) + self._length(expr.rhs) + len(_operator(expr).encode()) + 2
            case Subquery():
                return self._length(expr.expr) + len(_subquery_suffix(expr).encode())
            case Aggregate():
                param = 0 if expr.param is None else self._length(expr.param) + 2
                return len(_aggregation(expr).encode()) + param + self._length(expr.expr) + 2
            case Call():
                return len(expr.func) + sum(self._length(arg) + 2 for arg in expr.args) + (0 if expr.args else 2)
            case _:
                return len(to_text(expr).encode())


def _labels(names: Iterable[str]) -> str:
    return ", ".join(
        name if is_legacy_label_name(name) and name.lower() not in QUOTED_LABELS else quote(name) for name in names
    )


def _aggregation(expr: Aggregate) -> str:
    if expr.without:
        return f"{expr.op} without ({_labels(expr.grouping)}) "
    return f"{expr.op} by ({_labels(expr.grouping)}) " if expr.grouping else expr.op


def _operator(expr: Binary) -> str:
    return f"{expr.op}{' bool' if expr.return_bool else ''}{_matching(expr.matching)}"


def _matching(matching: VectorMatching | None) -> str:
    if matching is None:
        return ""
    parts = []
    grouped = matching.card in (Cardinality.MANY_TO_ONE, Cardinality.ONE_TO_MANY)
    if matching.labels or matching.on or grouped:
        parts.append(f" {'on' if matching.on else 'ignoring'} ({_labels(matching.labels)})")
    if grouped:
        side = "left" if matching.card is Cardinality.MANY_TO_ONE else "right"
        parts.append(f" group_{side} ({_labels(matching.include)})")
    left, right = matching.fill_left, matching.fill_right
    if left is not None and right is not None and (left == right or (left != left and right != right)):
        parts.append(f" fill ({short_float(left)})")
    else:
        parts += [
            f" fill_{side} ({short_float(value)})"
            for side, value in (("left", left), ("right", right))
            if value is not None
        ]
    return "".join(parts)


def _number(expr: NumberLiteral) -> str:
    if not expr.duration:
        return plain_float(expr.value)
    sign = "-" if expr.value < 0 else ""
    return sign + format_duration(int(abs(expr.value) * 1e9) // 1_000_000)


def _duration(expr: DurationExpr | NumberLiteral | None) -> str:
    if expr is None:
        return ""
    if isinstance(expr, NumberLiteral):
        return _number(expr)
    if expr.op in ("step", "range"):
        text = f"{expr.op}()"
    elif expr.op in ("min", "max"):
        text = f"{expr.op}_of({_duration(expr.lhs)}, {_duration(expr.rhs)})"
    elif expr.lhs is None:
        text = ("-" if expr.op == "-" else "") + _duration(expr.rhs)
    else:
        text = f"{_duration(expr.lhs)} {expr.op} {_duration(expr.rhs)}"
    return f"({text})" if expr.wrapped else text


def _extent(ms: int, expr: DurationExpr | None) -> str:
    return format_duration(ms) if expr is None else _duration(expr)


def _offset(node: VectorSelector | Subquery) -> str:
    if node.offset_expr is not None:
        return f" offset {_duration(node.offset_expr)}"
    return f" offset {format_duration(node.offset)}" if node.offset else ""


def _at(node: VectorSelector | Subquery) -> str:
    if node.timestamp is not None:
        return f" @ {node.timestamp / 1000:.3f}"
    return f" @ {node.start_or_end}()" if node.start_or_end is not None else ""


def _extension(node: VectorSelector) -> str:
    return " anchored" if node.anchored else " smoothed" if node.smoothed else ""


def _matcher(matcher: Matcher) -> str:
    name = matcher.name if is_legacy_label_name(matcher.name) else quote(matcher.name)
    return f"{name}{matcher.type}{quote(matcher.value)}"


def _series(node: VectorSelector) -> str:
    shown = sorted(
        _matcher(matcher)
        for matcher in node.matchers
        if not (matcher.name == NAME and matcher.type is MatchType.EQ and matcher.value == node.name != "")
    )
    return f"{node.name}{{{','.join(shown)}}}" if shown else node.name


def _vector(node: VectorSelector) -> str:
    return f"{_series(node)}{_at(node)}{_extension(node)}{_offset(node)}"


def _matrix(node: MatrixSelector) -> str:
    selector = node.selector
    extent = _extent(node.range, node.range_expr)
    return f"{_series(selector)}[{extent}]{_extension(selector)}{_at(selector)}{_offset(selector)}"


def _subquery_suffix(node: Subquery) -> str:
    step = "" if node.step is None and node.step_expr is None else _extent(node.step or 0, node.step_expr)
    return f"[{_extent(node.range, node.range_expr)}:{step}]{_at(node)}{_offset(node)}"
