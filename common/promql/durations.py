"""Durations inside brackets and after `offset`: literals, and arithmetic on them."""

from common.promql.ast import DurationExpr, NumberLiteral, Span
from common.promql.lexer import DURATION, EXTREMES, NUMBER, Token
from common.promql.literals import MAX_DURATION_SECONDS, parse_duration, parse_number
from common.promql.tokens import TokenStream

DurationNode = DurationExpr | NumberLiteral

_SUM, _PRODUCT, _POWER = 1, 2, 3
_PRECEDENCE = {"+": _SUM, "-": _SUM, "*": _PRODUCT, "/": _PRODUCT, "%": _PRODUCT, "^": _POWER}
_NOWHERE = Span(0, 0)


def parse_literal(stream: TokenStream) -> NumberLiteral:
    """A number or duration token; problems are noted and give 0."""
    token = stream.take()
    span = Span(token.start, token.end)
    try:
        if token.kind == DURATION:
            return NumberLiteral(parse_duration(token.text) / 1e9, span, duration=True)
        return NumberLiteral(parse_number(token.text), span)
    except ValueError as err:
        stream.problem(token.start, token.end, str(err))
        return NumberLiteral(0.0, span, duration=token.kind == DURATION)


class DurationParser:
    """Parses one duration of `stream`."""

    def __init__(self, stream: TokenStream) -> None:
        self._stream = stream

    def positive(self) -> DurationNode:
        """A range or a step: literals must be above 0."""
        node = self._expression(0)
        if isinstance(node, NumberLiteral) and not node.value > 0:
            self._stream.problem(node.span.start, node.span.end, "duration must be greater than 0")
            return NumberLiteral(0.0, _NOWHERE)
        return node

    def offset(self) -> DurationNode:
        """What stands after `offset`: one term, unless it begins with a parenthesis; `offset 2 ^ 2` is a power."""
        stream = self._stream
        if stream.ahead.kind == "(":
            return self._expression(0)
        if stream.ahead.kind in ("+", "-"):
            sign = stream.take()
            while stream.ahead.kind not in _TERM_STARTS and stream.ahead.kind not in ("+", "-"):
                stream.reject()
            if stream.ahead.kind in ("+", "-"):
                return self._signed(sign, self._operand())
            return self._signed(sign, self._term(sign))
        return self._term()

    def _expression(self, level: int) -> DurationNode:
        stream = self._stream
        stream.enter()
        left = self._operand()
        while (power := _PRECEDENCE.get(stream.ahead.kind, 0)) > level:
            operator = stream.take()
            right = self._expression(power - 1 if operator.kind == "^" else power)
            left = self._binary(operator, left, right)
        stream.leave()
        return left

    def _operand(self) -> DurationNode:
        """A term with any number of signs, which bind like `*`."""
        stream = self._stream
        signs: list[Token] = []
        while stream.ahead.kind in ("+", "-"):
            signs.append(stream.take())
        if not signs:
            return self._term()
        stream.enter()
        node = self._expression(_PRODUCT)
        stream.leave()
        for sign in reversed(signs):
            node = self._signed(sign, node)
        return node

    def _term(self, sign: Token | None = None) -> DurationNode:
        stream = self._stream
        while stream.ahead.kind not in _TERM_STARTS:
            stream.reject()
        kind = stream.ahead.kind
        if kind == "(":
            opening = stream.take()
            inner = self._expression(0)
            closing = stream.expect(")")
            span = Span(opening.start, closing.end)
            if isinstance(inner, DurationExpr):
                return DurationExpr(inner.op, inner.lhs, inner.rhs, True, span)
            # A bare number cannot be marked as wrapped.
            return inner if inner.span is _NOWHERE else DurationExpr("+", None, inner, True, span)
        if kind in ("step", "range"):
            word = stream.take()
            stream.expect("(")
            closing = stream.expect(")")
            return DurationExpr(kind, None, None, False, Span(word.start, closing.end))
        if kind in EXTREMES:
            word = stream.take()
            stream.expect("(")
            left = self._expression(0)
            stream.expect(",")
            right = self._expression(0)
            closing = stream.expect(")")
            span = Span(word.start, closing.end)
            return DurationExpr(kind.removesuffix("_of"), left, right, False, span)
        literal = parse_literal(stream)
        if not abs(literal.value) <= MAX_DURATION_SECONDS:  # NaN neither
            where = sign or literal.span
            stream.problem(where.start, where.end, "duration out of range")
            return NumberLiteral(0.0, _NOWHERE)
        return literal

    def _signed(self, sign: Token, node: DurationNode) -> DurationNode:
        if isinstance(node, NumberLiteral):
            value = -node.value if sign.kind == "-" else node.value
            return NumberLiteral(value, Span(sign.start, node.span.end), node.duration)
        return DurationExpr("-", None, node, False, Span(sign.start, node.span.end)) if sign.kind == "-" else node

    def _binary(self, operator: Token, left: DurationNode, right: DurationNode) -> DurationNode:
        if operator.kind in "/%" and isinstance(right, NumberLiteral) and right.value == 0:
            what = "division" if operator.kind == "/" else "modulo"
            self._stream.problem(operator.start, operator.end, f"{what} by zero")
            return NumberLiteral(0.0, _NOWHERE)
        return DurationExpr(operator.kind, left, right, False, Span(left.span.start, right.span.end))


_TERM_STARTS = frozenset(("(", "step", "range", NUMBER, DURATION)) | EXTREMES
