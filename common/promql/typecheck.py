"""The checks of a whole syntax tree: types of operands, counts of arguments, what matching allows.

They walk without recursion, so that a query of any shape gets its proper error.
"""

from common.labels import NAME
from common.promql.ast import (
    Aggregate,
    Binary,
    Call,
    Cardinality,
    Expr,
    MatrixSelector,
    NumberLiteral,
    Paren,
    StringLiteral,
    Subquery,
    Unary,
    ValueType,
    VectorMatching,
    VectorSelector,
)
from common.promql.gotext import quote
from common.promql.lexer import COMPARISONS, SET_OPERATORS
from common.promql.signatures import AGGREGATORS, FUNCTIONS
from common.promql.tokens import TokenStream

MAX_DEPTH = 250
"""Levels of a syntax tree, chains of operators included, so that readers of it may recurse."""

_DOCUMENTED = {ValueType.VECTOR: "instant vector", ValueType.MATRIX: "range vector"}
_SPACE = b" \t\n\r"


def settle(node: object, **fields: object) -> None:
    """Set fields of a node that the parser has not handed out yet (nodes are frozen for everybody else)."""
    for name, value in fields.items():
        object.__setattr__(node, name, value)


def documented(kind: ValueType) -> str:
    """A type's name in messages."""
    return _DOCUMENTED.get(kind, str(kind))


def check(expr: Expr, stream: TokenStream) -> None:
    """Note every problem of `expr` on `stream`, in Prometheus's order, and settle what depends on types."""
    _Checker(stream).run(expr)


class _Checker:
    def __init__(self, stream: TokenStream) -> None:
        self._stream = stream
        self._types: dict[int, ValueType] = {}
        self._depths: dict[int, int] = {}

    def run(self, root: Expr) -> None:
        # Each entry is a node and how often it has been visited: 0 on the way down, n behind its n-th child.
        stack: list[tuple[Expr, int]] = [(root, 0)]
        while stack:
            node, visit = stack.pop()
            children = _children(node)
            if visit == 0:
                self._before(node)
            else:
                self._after_child(node, visit - 1, children[visit - 1])
            if visit < len(children):
                stack.append((node, visit + 1))
                stack.append((children[visit], 0))
            else:
                self._after(node, children)
        if self._depths[id(root)] > MAX_DEPTH:
            self._problem(root, f"query is nested more than {MAX_DEPTH} levels deep")

    def _problem(self, node: Expr, message: str) -> None:
        self._stream.problem(node.span.start, node.span.end, message)

    def _before(self, node: Expr) -> None:
        if isinstance(node, Call):
            self._check_count(node)
            if node.func == "info" and len(node.args) > 1:
                self._check_info(node)
        elif isinstance(node, VectorSelector):
            self._check_selector(node)

    def _after_child(self, node: Expr, index: int, child: Expr) -> None:
        found = self._types[id(child)]
        if isinstance(node, Aggregate):
            # The expression is checked before the parameter.
            wanted = ValueType.VECTOR if index == 0 else AGGREGATORS[node.op].param
            where = "aggregation expression" if index == 0 else "aggregation parameter"
            if wanted is not None and found is not wanted:
                self._problem(child, f"expected type {documented(wanted)} in {where}, got {documented(found)}")
        elif isinstance(node, Call):
            types = FUNCTIONS[node.func].arg_types
            wanted = types[min(index, len(types) - 1)]
            if found is not wanted:
                self._problem(
                    child,
                    f"expected type {documented(wanted)} in call to function {quote(node.func)}, "
                    f"got {documented(found)}",
                )

    def _after(self, node: Expr, children: tuple[Expr, ...]) -> None:
        kind = self._type(node)
        self._types[id(node)] = kind
        self._depths[id(node)] = 1 + max((self._depths[id(child)] for child in children), default=0)
        if isinstance(node, Binary):
            self._check_binary(node)
        elif isinstance(node, Unary) and kind not in (ValueType.SCALAR, ValueType.VECTOR):
            self._problem(
                node,
                "unary expression only allowed on expressions of type scalar or instant vector, "
                f"got {quote(documented(kind))}",
            )
        elif isinstance(node, Subquery) and self._types[id(node.expr)] is not ValueType.VECTOR:
            self._problem(node, f"subquery is only allowed on instant vector, got {self._types[id(node.expr)]} instead")

    def _type(self, node: Expr) -> ValueType:
        if isinstance(node, Paren | Unary):
            return self._types[id(node.expr)]
        if isinstance(node, Binary):
            both = (self._types[id(node.lhs)], self._types[id(node.rhs)])
            return ValueType.SCALAR if both == (ValueType.SCALAR, ValueType.SCALAR) else ValueType.VECTOR
        return shallow_type(node)

    def _check_count(self, node: Call) -> None:
        function = FUNCTIONS[node.func]
        least, most, got = function.min_args, function.max_args, len(node.args)
        if function.variadic == 0:
            if got != least:
                self._problem(node, f"expected {least} argument(s) in call to {quote(node.func)}, got {got}")
        elif got < least:
            self._problem(node, f"expected at least {least} argument(s) in call to {quote(node.func)}, got {got}")
        elif most is not None and got > most:
            self._problem(node, f"expected at most {most} argument(s) in call to {quote(node.func)}, got {got}")

    def _check_info(self, node: Call) -> None:
        selector = node.args[1]
        found = value_type(selector)
        if found is not ValueType.VECTOR:
            self._problem(node, f'expected type instant vector in call to function "info", got {documented(found)}')
        if not isinstance(selector, VectorSelector):
            self._problem(selector, "expected label selectors only")
        elif selector.name:
            self._problem(selector, "expected label selectors only, got vector selector instead")
        else:
            settle(selector, bypass_empty_matcher_check=True)

    def _check_selector(self, node: VectorSelector) -> None:
        if node.name:
            for matcher in node.matchers[:-1]:
                if matcher.name == NAME:
                    names = f"{quote(node.name)} or {quote(matcher.value)}"
                    self._problem(node, f"metric name must not be set twice: {names}")
        elif not node.bypass_empty_matcher_check and all(matcher.matches_empty for matcher in node.matchers):
            self._problem(node, "vector selector must contain at least one non-empty matcher")

    def _check_binary(self, node: Binary) -> None:
        left, right = self._types[id(node.lhs)], self._types[id(node.rhs)]
        matching = node.matching
        assert matching is not None
        if node.return_bool and node.op not in COMPARISONS:
            self._operator_problem(node, "bool modifier can only be used on comparison operators")
        if node.op in COMPARISONS and not node.return_bool and left is right is ValueType.SCALAR:
            self._operator_problem(node, "comparisons between scalars must use BOOL modifier")
        if matching.on:
            for label in matching.labels:
                for _ in range(matching.include.count(label)):
                    self._operator_problem(node, f"label {quote(label)} must not occur in ON and GROUP clause at once")
        for operand, kind in ((node.lhs, left), (node.rhs, right)):
            if kind not in (ValueType.SCALAR, ValueType.VECTOR):
                self._problem(operand, "binary expression must contain only scalar and instant vector types")
        settle(node, matching=self._settle_matching(node, matching, left is right is ValueType.VECTOR))
        if node.op in SET_OPERATORS and ValueType.SCALAR in (left, right):
            self._problem(node, f"set operator {quote(node.op)} not allowed in binary scalar expression")

    def _settle_matching(self, node: Binary, matching: VectorMatching, vectors: bool) -> VectorMatching | None:
        fills = matching.fill_left is not None or matching.fill_right is not None
        if not vectors:
            if matching.labels:
                self._problem(node, "vector matching only allowed between instant vectors")
            if fills:
                self._problem(node, "filling in missing series only allowed between instant vectors")
            return None
        if node.op not in SET_OPERATORS:
            return matching
        if matching.card is not Cardinality.ONE_TO_ONE:
            self._problem(node, f"no grouping allowed for {quote(node.op)} operation")
            self._problem(node, "set operations must always be many-to-many")
        if fills:
            self._problem(node, "filling in missing series not allowed for set operators")
        return VectorMatching(Cardinality.MANY_TO_MANY, matching.on, matching.labels, matching.include)

    def _operator_problem(self, node: Binary, message: str) -> None:
        """A problem at the operator and its modifiers; its end is the last byte of them, as in Prometheus."""
        source = self._stream.source
        start = node.lhs.span.end
        while start < len(source) and source[start] in _SPACE:
            start += 1
        end = node.rhs.span.start - 1
        while end > start and source[end] in _SPACE:
            end -= 1
        self._stream.problem(start, end, message)


def _children(node: Expr) -> tuple[Expr, ...]:
    """Direct operands in the order in which they are checked."""
    if isinstance(node, Binary):
        return (node.lhs, node.rhs)
    if isinstance(node, Aggregate):
        return (node.expr,) if node.param is None else (node.expr, node.param)
    if isinstance(node, Call):
        # Arguments beyond a fixed signature have no type to be held against.
        function = FUNCTIONS[node.func]
        return node.args if function.variadic else node.args[: len(function.arg_types)]
    if isinstance(node, Paren | Unary | Subquery):
        return (node.expr,)
    if isinstance(node, MatrixSelector):
        return (node.selector,)
    return ()


def shallow_type(node: Expr) -> ValueType:
    """The type of a node that doesn't take it from its operands."""
    if isinstance(node, Call):
        return FUNCTIONS[node.func].return_type
    if isinstance(node, MatrixSelector | Subquery):
        return ValueType.MATRIX
    if isinstance(node, NumberLiteral):
        return ValueType.SCALAR
    if isinstance(node, StringLiteral):
        return ValueType.STRING
    return ValueType.VECTOR


def value_type(expr: Expr) -> ValueType:
    """The type of an expression's value."""
    while isinstance(expr, Paren | Unary):
        expr = expr.expr
    if not isinstance(expr, Binary):
        return shallow_type(expr)
    pending: list[Expr] = [expr]
    while pending:
        node = pending.pop()
        if isinstance(node, Binary):
            pending += (node.rhs, node.lhs)
        elif isinstance(node, Paren | Unary):
            pending.append(node.expr)
        elif shallow_type(node) is not ValueType.SCALAR:
            return ValueType.VECTOR
    return ValueType.SCALAR
