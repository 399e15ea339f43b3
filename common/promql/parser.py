"""PromQL's parser: precedence climbing over `TokenStream`, then type checking.

Grammar and messages are those of Prometheus 3.14, also the wordings of syntax errors and which of them follow from
one another (see `tokens.py`).
"""

import math
from collections.abc import Callable
from typing import TypeVar

from common.errors import FormatError
from common.labels import NAME, Labels, Matcher, MatchType
from common.promql import literals
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
    Preprocessor,
    Span,
    StringLiteral,
    Subquery,
    Unary,
    VectorMatching,
    VectorSelector,
)
from common.promql.durations import DurationNode, DurationParser, parse_literal
from common.promql.errors import ParseError
from common.promql.gotext import quote
from common.promql.lexer import (
    AGGREGATIONS,
    DURATION,
    EOF,
    ERROR,
    EXTREMES,
    IDENTIFIER,
    METRIC_IDENTIFIER,
    NUMBER,
    SET_OPERATORS,
    STRING,
    TIME_FUNCTIONS,
    Token,
)
from common.promql.signatures import (
    AGGREGATORS,
    BINOP_FILL_MODIFIERS,
    EXPERIMENTAL_FUNCTIONS,
    EXTENDED_RANGE_SELECTORS,
    FUNCTIONS,
)
from common.promql.tokens import MAX_QUERY_BYTES, Abandon, Misfit, TokenStream
from common.promql.typecheck import check, settle

_UNARY_LEVEL = 5
_LEVELS = {
    "or": 1,
    "and": 2,
    "unless": 2,
    **dict.fromkeys(("==", "!=", "<=", "<", ">=", ">", "</", ">/"), 3),
    "+": 4,
    "-": 4,
    **dict.fromkeys(("*", "/", "%", "atan2"), _UNARY_LEVEL),
    "^": 6,
}
_METRIC_NAMES = (
    AGGREGATIONS
    | SET_OPERATORS
    | TIME_FUNCTIONS
    | EXTREMES
    | {IDENTIFIER, METRIC_IDENTIFIER, "by", "without", "offset", "anchored", "smoothed"}
    | {"fill", "fill_left", "fill_right"}
)
_GROUPING_LABELS = (_METRIC_NAMES - {"without"}) | {"bool", "group_left", "group_right", "ignoring", "on", "atan2"}
_CALLABLE = TIME_FUNCTIONS | EXTREMES | {IDENTIFIER}
_EXPRESSION_STARTS = _METRIC_NAMES | {NUMBER, DURATION, STRING, "(", "{", "+", "-"}
_AFTER_BARE_GROUP = (_EXPRESSION_STARTS - {"("}) | {"fill", "fill_left", "fill_right"}
_DURATION_EXPECTED = "number, duration, step(), or range()"
_MAX_INT64 = float(2**63 - 1)

_T = TypeVar("_T")
_Rule = Callable[[], _T]


def parse(text: str | bytes, features: frozenset[str] = frozenset()) -> Expr:
    """The checked syntax tree of a query; `features` are names of `--enable-feature`. Raises ParseError."""
    parser = Parser(text, features)
    expr = parser.run(parser.parse_query)
    if expr is not None and not parser.stream.problems:
        check(expr, parser.stream)
    parser.finish()
    assert expr is not None
    return expr


def parse_selector(text: str | bytes) -> tuple[Matcher, ...]:
    """The matchers of a series selector such as `up{job="node"}` (as in `match[]`). Raises ParseError."""
    parser = Parser(text, frozenset())
    selector = parser.run(parser.parse_selector_alone)
    parser.finish()
    assert selector is not None
    return selector.matchers


def parse_metric(text: str | bytes) -> Labels:
    """The labels of a metric such as `up{job="node"}`. Raises ParseError."""
    parser = Parser(text, frozenset())
    labels = parser.run(parser.parse_metric_alone)
    parser.finish()
    assert labels is not None
    return labels


def parse_metric_prefix(text: str) -> tuple[Labels, int]:
    """The labels of the metric that `text` begins with, and the character offset behind it. Raises ParseError."""
    parser = Parser(text, frozenset())
    stream = parser.stream
    try:
        labels = parser.parse_metric_alone(bare=True)
    except (Misfit, Abandon):
        stream.unexpected()
        parser.finish()
        raise
    parser.finish()
    return labels, len(stream.source[: stream.position].decode(errors="surrogatepass"))


class Parser:
    """One pass over one text; `run` a start rule, then `finish`."""

    def __init__(self, text: str | bytes, features: frozenset[str]) -> None:
        source = text.encode(errors="surrogatepass") if isinstance(text, str) else text
        self.stream = TokenStream(source)
        if len(source) > MAX_QUERY_BYTES:
            self.stream.stop(f"query is longer than {MAX_QUERY_BYTES} bytes")
        self._features = features
        self._durations = DurationParser(self.stream)

    def run(self, rule: _Rule[_T]) -> _T | None:
        """What `rule` makes of the whole text; None after a problem that left nothing."""
        stream = self.stream
        result = None
        try:
            try:
                result = rule()
                while stream.ahead.kind not in (EOF, ERROR):
                    stream.reject()
            except Misfit:
                stream.unexpected()
                while stream.ahead.kind not in (EOF, ERROR):
                    stream.reject()
        except Abandon:
            pass
        return result

    def finish(self) -> None:
        """Raise the problems noted, if there are any."""
        if self.stream.problems:
            raise ParseError(self.stream.source, tuple(self.stream.problems))

    def parse_query(self) -> Expr | None:
        """A whole query."""
        if self.stream.ahead.kind == EOF:
            self.stream.problem(0, 0, "no expression found in input")
            return None
        return self._expression(0)

    def parse_selector_alone(self) -> VectorSelector:
        """A vector selector without modifiers."""
        stream = self.stream
        while stream.ahead.kind not in _METRIC_NAMES and stream.ahead.kind != "{":
            stream.reject()
        return self._selector()

    # Expressions

    def _expression(self, level: int) -> Expr:
        stream = self.stream
        stream.enter()
        left = self._postfix(self._prefix())
        while (precedence := _LEVELS.get(stream.ahead.kind, 0)) > level:
            operator = stream.take()
            left = self._binary(left, operator, precedence)
        stream.leave()
        return left

    def _prefix(self) -> Expr:
        stream = self.stream
        while stream.ahead.kind not in _EXPRESSION_STARTS:
            stream.reject()
        kind = stream.ahead.kind
        if kind in ("+", "-"):
            return self._unary()
        if kind in (NUMBER, DURATION):
            return parse_literal(stream)
        if kind == STRING:
            token = stream.take()
            return StringLiteral(self._unquote(token), Span(token.start, token.end))
        if kind == "(":
            opening = stream.take()
            inner = self._expression(0)
            closing = stream.expect(")")
            return Paren(inner, Span(opening.start, closing.end))
        if kind == "{":
            return self._selector()
        name = stream.take()
        if kind in AGGREGATIONS and stream.ahead.kind in ("(", "by", "without"):
            return self._aggregate(name)
        if kind in _CALLABLE and stream.ahead.kind == "(":
            return self._call(name)
        return self._selector(name)

    def _unary(self) -> Expr:
        stream = self.stream
        signs = [stream.take()]
        while stream.ahead.kind in ("+", "-"):
            signs.append(stream.take())
        expr = self._expression(_UNARY_LEVEL)
        for sign in reversed(signs):
            span = Span(sign.start, expr_span(expr).end)
            if isinstance(expr, NumberLiteral):
                expr = NumberLiteral(-expr.value if sign.kind == "-" else expr.value, span, expr.duration)
            else:
                expr = Unary(sign.kind, expr, span)
        return expr

    def _postfix(self, expr: Expr) -> Expr:
        stream = self.stream
        while True:
            kind = stream.ahead.kind
            if kind == "offset":
                self._offset(expr)
            elif kind == "@":
                self._at(expr)
            elif kind == "[":
                expr = self._brackets(expr)
            elif kind in ("anchored", "smoothed"):
                stream.take()
                self._extend(expr, kind)
            else:
                return expr

    def _binary(self, left: Expr, operator: Token, precedence: int) -> Expr:
        stream = self.stream
        return_bool = stream.accept("bool") is not None
        on = False
        labels: tuple[str, ...] = ()
        include: tuple[str, ...] = ()
        card = Cardinality.ONE_TO_ONE
        if stream.ahead.kind in ("on", "ignoring"):
            on = stream.take().kind == "on"
            labels = self._grouping()
            if stream.ahead.kind in ("group_left", "group_right"):
                many_left = stream.take().kind == "group_left"
                card = Cardinality.MANY_TO_ONE if many_left else Cardinality.ONE_TO_MANY
                if stream.ahead.kind not in _AFTER_BARE_GROUP:
                    include = self._grouping()
        fill_left, fill_right = self._fills()
        right = self._expression(precedence - 1 if operator.kind == "^" else precedence)
        span = Span(expr_span(left).start, expr_span(right).end)
        if (fill_left is not None or fill_right is not None) and BINOP_FILL_MODIFIERS not in self._features:
            stream.problem(span.start, span.end, "binop fill modifiers are experimental and not enabled")
        matching = VectorMatching(card, on, labels, include, fill_left, fill_right)
        return Binary(operator.kind, left, right, span, matching, return_bool)

    def _fills(self) -> tuple[float | None, float | None]:
        stream = self.stream
        if stream.accept("fill"):
            both = self._fill_value()
            return both, both
        if stream.accept("fill_left"):
            left = self._fill_value()
            return left, self._fill_value() if stream.accept("fill_right") else None
        if stream.accept("fill_right"):
            right = self._fill_value()
            return self._fill_value() if stream.accept("fill_left") else None, right
        return None, None

    def _fill_value(self) -> float:
        self.stream.expect("(")
        value = self._signed_number()
        self.stream.expect(")")
        return value

    def _signed_number(self) -> float:
        stream = self.stream
        sign = stream.take().kind if stream.ahead.kind in ("+", "-") else "+"
        while stream.ahead.kind not in (NUMBER, DURATION):
            stream.reject()
        value = parse_literal(stream).value
        return -value if sign == "-" else value

    # Aggregations and calls

    def _aggregate(self, name: Token) -> Expr:
        stream = self.stream
        grouping: tuple[str, ...] = ()
        without = False
        grouped = False
        try:
            if stream.ahead.kind in ("by", "without"):
                without = stream.take().kind == "without"
                grouping = self._grouping()
                grouped = True
            args, end = self._arguments()
        except Misfit:
            stream.unexpected("aggregation")
            return self._new_aggregate(name, [], (), False, stream.last_closing)
        if not grouped and stream.ahead.kind in ("by", "without"):
            without = stream.take().kind == "without"
            grouping = self._grouping()
            end = stream.last_closing
        return self._new_aggregate(name, args, grouping, without, end)

    def _new_aggregate(self, name: Token, args: list[Expr], grouping: tuple[str, ...], without: bool, end: int) -> Expr:
        stream = self.stream
        aggregator = AGGREGATORS[name.kind]
        wanted = 1 if aggregator.param is None else 2
        broken = Aggregate(name.kind, NumberLiteral(0.0, Span(0, 0)), Span(name.start, end))
        if not args:
            stream.problem(name.start, end, "no arguments for aggregate expression provided")
            return broken
        if aggregator.experimental and EXPERIMENTAL_FUNCTIONS not in self._features:
            stream.problem(
                name.start,
                end,
                f"{name.kind}() is experimental and must be enabled with --enable-feature={EXPERIMENTAL_FUNCTIONS}",
            )
            return broken
        if len(args) != wanted:
            stream.problem(
                name.start,
                end,
                f"wrong number of arguments for aggregate expression provided, expected {wanted}, got {len(args)}",
            )
            return broken
        param = args[0] if wanted == 2 else None
        return Aggregate(name.kind, args[-1], Span(name.start, end), param, grouping, without)

    def _call(self, name: Token) -> Expr:
        stream = self.stream
        args, end = self._arguments()
        function = FUNCTIONS.get(name.text)
        if function is None:
            stream.problem(name.start, name.end, f"unknown function with name {quote(name.text)}")
        elif function.experimental and EXPERIMENTAL_FUNCTIONS not in self._features:
            stream.problem(name.start, name.end, f"function {quote(name.text)} is not enabled")
        return Call(name.text, tuple(args), Span(name.start, end))

    def _arguments(self) -> tuple[list[Expr], int]:
        """Arguments in parentheses, and where these end."""
        stream = self.stream
        stream.expect("(")
        if closing := stream.accept(")"):
            return [], closing.end
        args = [self._expression(0)]
        while True:
            if closing := stream.accept(")"):
                return args, closing.end
            if comma := stream.accept(","):
                if stream.ahead.kind in _EXPRESSION_STARTS:
                    args.append(self._expression(0))
                else:
                    stream.problem(comma.start, comma.end, "trailing commas not allowed in function call args")
            else:
                stream.reject()

    def _grouping(self) -> tuple[str, ...]:
        """Label names in parentheses."""
        stream = self.stream
        try:
            stream.expect("(")
            if stream.accept(")"):
                return ()
            names: list[str] = []
            self._grouping_label(names)
        except Misfit:
            stream.unexpected("grouping opts", '"("')
            return ()
        while True:
            try:
                if stream.accept(")"):
                    return tuple(names)
                if stream.accept(","):
                    if stream.accept(")"):
                        return tuple(names)
                    self._grouping_label(names)
                else:
                    stream.reject()
            except Misfit:
                stream.unexpected("grouping opts", '"," or ")"')

    def _grouping_label(self, names: list[str]) -> None:
        stream = self.stream
        try:
            while stream.ahead.kind not in _GROUPING_LABELS and stream.ahead.kind != STRING:
                stream.reject()
        except Misfit:
            stream.unexpected("grouping opts", "label")
            return
        token = stream.take()
        name = self._unquote(token) if token.kind == STRING else token.text
        if not name or not literals.is_utf8(name):
            stream.problem(token.start, token.end, f"invalid label name for grouping: {quote(name)}")
        names.append(name)

    # Modifiers

    def _offset(self, expr: Expr) -> None:
        stream = self.stream
        stream.take()
        try:
            duration = self._durations.offset()
        except Misfit:
            stream.unexpected("offset", _DURATION_EXPECTED)
            return
        end = duration.span.end or stream.last_closing
        target = _modified(expr)
        span = expr_span(expr)
        if target is None:
            what = (
                "offset modifier must be preceded by an instant vector selector or range vector selector or a subquery"
            )
            stream.problem(span.start, span.end, _BAD_RANGE if isinstance(expr, MatrixSelector) else what)
            return
        if target.offset or target.offset_expr is not None:
            stream.problem(span.start, span.end, "offset may not be set multiple times")
        elif isinstance(duration, NumberLiteral):
            settle(target, offset=literals.seconds_to_ms(duration.value))
        else:
            settle(target, offset_expr=duration)
        settle(expr, span=Span(span.start, end))

    def _at(self, expr: Expr) -> None:
        stream = self.stream
        stream.take()
        timestamp: float | None = None
        preprocessor: Preprocessor | None = None
        try:
            if stream.ahead.kind in ("start", "end"):
                preprocessor = Preprocessor(stream.take().kind)
                stream.expect("(")
                stream.expect(")")
            else:
                timestamp = self._signed_number()
        except Misfit:
            stream.unexpected("@", "timestamp")
            return
        span = expr_span(expr)
        in_bounds = timestamp is None or (math.isfinite(timestamp) and abs(timestamp) < _MAX_INT64)
        if not in_bounds:
            assert timestamp is not None
            shown = (
                f"{timestamp:.6f}"
                if math.isfinite(timestamp)
                else {"inf": "+Inf", "-inf": "-Inf"}.get(str(timestamp), "NaN")
            )
            stream.problem(span.start, span.end, f"timestamp out of bounds for @ modifier: {shown}")
        target = _modified(expr)
        if target is None:
            what = "@ modifier must be preceded by an instant vector selector or range vector selector or a subquery"
            stream.problem(span.start, span.end, _BAD_RANGE if isinstance(expr, MatrixSelector) else what)
            return
        if target.timestamp is not None or target.start_or_end is not None:
            stream.problem(span.start, span.end, "@ <timestamp> may not be set multiple times")
            return
        if preprocessor is not None:
            settle(target, start_or_end=preprocessor)
        elif timestamp is not None and in_bounds:
            settle(target, timestamp=literals.seconds_to_timestamp(timestamp))
        settle(expr, span=Span(span.start, stream.last_closing))

    def _extend(self, expr: Expr, kind: str) -> None:
        """`anchored` and `smoothed`."""
        span = expr_span(expr)
        problem = ""
        if EXTENDED_RANGE_SELECTORS not in self._features:
            problem = f"{kind} modifier is experimental and not enabled"
        elif isinstance(expr, Subquery):
            problem = f"{kind} modifier is not supported for subqueries"
        elif isinstance(expr, MatrixSelector | VectorSelector):
            selector = _modified(expr)
            if isinstance(selector, VectorSelector):
                settle(selector, **{kind: True})
                if selector.anchored and selector.smoothed:
                    problem = "anchored and smoothed modifiers cannot be used together"
        else:
            problem = f"{kind} modifier not implemented"
        if problem:
            self.stream.problem(span.start, span.end, problem)

    def _brackets(self, expr: Expr) -> Expr:
        """A range or a subquery."""
        stream = self.stream
        opening = stream.take()
        context, expected = "subquery or range selector", _DURATION_EXPECTED
        try:
            extent = self._durations.positive()
            context, expected = "subquery or range", '":" or "]"'
            while stream.ahead.kind not in (":", "]"):
                stream.reject()
            if closing := stream.accept("]"):
                return self._range(expr, extent, opening, closing)
            stream.take()
            context, expected = "subquery selector", 'number, duration, step(), range(), or "]"'
            step = None
            if stream.ahead.kind != "]":
                step = self._durations.positive()
                context, expected = "subquery selector", '"]"'
            closing = stream.expect("]")
        except Misfit:
            stream.unexpected(context, expected)
            return expr
        range_ms, range_expr = _duration(extent)
        step_ms, step_expr = _duration(step) if step is not None else (None, None)
        if step_expr is not None:
            step_ms = None
        span = Span(expr_span(expr).start, closing.end)
        return Subquery(expr, range_ms, span, step_ms, range_expr, step_expr)

    def _range(self, expr: Expr, extent: DurationNode, opening: Token, closing: Token) -> Expr:
        problem = ""
        if not isinstance(expr, VectorSelector):
            problem = _BAD_RANGE
        elif expr.offset or expr.offset_expr is not None:
            problem = "no offset modifiers allowed before range"
        elif expr.timestamp is not None or expr.start_or_end is not None:
            problem = "no @ modifiers allowed before range"
        if problem:
            self.stream.problem(opening.start, closing.end, problem)
        range_ms, range_expr = _duration(extent)
        span = Span(expr_span(expr).start, closing.end)
        node = MatrixSelector(_EMPTY_SELECTOR, range_ms, span, range_expr)
        settle(node, selector=expr)  # not a VectorSelector only where the problem above keeps the tree from use
        return node

    # Selectors

    def _selector(self, name: Token | None = None) -> VectorSelector:
        """A vector selector, whose name may have been taken already."""
        stream = self.stream
        if name is None and stream.ahead.kind != "{":
            name = stream.take()
        matchers: list[Matcher] = []
        start = name.start if name else stream.ahead.start
        end = name.end if name else start
        if stream.ahead.kind == "{":
            end = self._matchers(matchers)
        text = name.text if name else ""
        if text:
            matchers.append(Matcher(MatchType.EQ, NAME, text))
        return VectorSelector(text, tuple(matchers), Span(start, end))

    def _matchers(self, matchers: list[Matcher]) -> int:
        """Matchers in braces are added to `matchers`; gives where the braces end."""
        stream = self.stream
        stream.take()
        if closing := stream.accept("}"):
            return closing.end
        self._matcher(matchers)
        while True:
            try:
                if closing := stream.accept("}"):
                    return closing.end
                if stream.accept(","):
                    if closing := stream.accept("}"):
                        return closing.end
                    self._matcher(matchers)
                else:
                    stream.reject()
            except Misfit:
                stream.unexpected("label matching", '"," or "}"')

    def _matcher(self, matchers: list[Matcher]) -> None:
        stream = self.stream
        expected = 'identifier or "}"'
        try:
            while stream.ahead.kind not in (IDENTIFIER, STRING):
                stream.reject()
            label = stream.take()
            name = self._unquote(label) if label.kind == STRING else label.text
            if stream.ahead.kind not in _MATCH_TYPES and label.kind == STRING:
                matchers.append(Matcher(MatchType.EQ, NAME, name))
                return
            expected = "label matching operator"
            while stream.ahead.kind not in _MATCH_TYPES:
                stream.reject()
            kind = MatchType(stream.take().kind)
            expected = "string"
            value = stream.expect(STRING)
        except Misfit:
            stream.unexpected("label matching", expected)
            return
        pattern = self._unquote(value)
        try:
            if kind in (MatchType.RE, MatchType.NRE) and not literals.is_utf8(pattern):
                raise FormatError(f"error parsing regexp: invalid UTF-8: `{quote(pattern)[1:-1]}`")
            matchers.append(Matcher(kind, name, pattern))
        except FormatError as err:
            stream.problem(label.start, value.end, str(err))

    def parse_metric_alone(self, bare: bool = False) -> Labels:
        """A metric with its labels; `bare`: other text may follow, and nothing of it is read."""
        stream = self.stream
        pairs: dict[str, str] = {}
        name = stream.take().text if stream.ahead.kind in _METRIC_NAMES else ""
        if name:
            pairs[NAME] = name
        if bare and not stream.follows(b"{"):
            return Labels.of(pairs)
        if stream.accept("{") and not stream.accept("}"):
            self._label(pairs)
            while True:
                try:
                    if stream.accept("}"):
                        break
                    if stream.accept(","):
                        if stream.accept("}"):
                            break
                        self._label(pairs)
                    else:
                        stream.reject()
                except Misfit:
                    stream.unexpected("label set", '"," or "}"')
        return Labels.of(pairs)

    def _label(self, pairs: dict[str, str]) -> None:
        stream = self.stream
        expected = 'identifier or "}"'
        try:
            while stream.ahead.kind not in (IDENTIFIER, STRING):
                stream.reject()
            label = stream.take()
            name = self._unquote(label) if label.kind == STRING else label.text
            if stream.ahead.kind != "=" and label.kind == STRING:
                pairs[NAME] = name
                return
            expected = '"="'
            stream.expect("=")
            expected = "string"
            pairs[name] = self._unquote(stream.expect(STRING))
        except Misfit:
            stream.unexpected("label set", expected)

    def _unquote(self, token: Token) -> str:
        return literals.unquote(self.stream.source[token.start : token.end])


_MATCH_TYPES = frozenset(MatchType)
_BAD_RANGE = "ranges only allowed for vector selectors"
_EMPTY_SELECTOR = VectorSelector("", (), Span(0, 0))


def expr_span(expr: Expr) -> Span:
    """Where `expr` stands in the query."""
    return expr.span


def _duration(node: DurationNode) -> tuple[int, DurationExpr | None]:
    """Milliseconds of a literal, or 0 and the expression that gives them."""
    if isinstance(node, NumberLiteral):
        return literals.seconds_to_ms(node.value), None
    return 0, node


def _modified(expr: Expr) -> VectorSelector | Subquery | None:
    """The node that holds offset and @ of `expr`, if it may have them."""
    target: object = expr.selector if isinstance(expr, MatrixSelector) else expr
    return target if isinstance(target, VectorSelector | Subquery) else None
