"""The syntax tree as JSON, in the shape that Prometheus's parse_query answers."""

from typing import assert_never

from common.labels import NAME, Matcher
from common.promql.ast import (
    Aggregate,
    Binary,
    Call,
    Expr,
    MatrixSelector,
    NumberLiteral,
    Paren,
    Preprocessor,
    StringLiteral,
    Subquery,
    Unary,
    VectorMatching,
    VectorSelector,
)
from common.promql.signatures import FUNCTIONS
from common.rules.format import plain

Json = dict[str, object]


def tree(expr: Expr) -> Json:
    """The node and everything below it."""
    match expr:
        case NumberLiteral():
            return {"type": "numberLiteral", "val": plain(expr.value)}
        case StringLiteral():
            return {"type": "stringLiteral", "val": expr.value}
        case Paren():
            return {"type": "parenExpr", "expr": tree(expr.expr)}
        case Unary():
            return {"type": "unaryExpr", "op": expr.op, "expr": tree(expr.expr)}
        case VectorSelector():
            return _vector_selector(expr)
        case MatrixSelector():
            inner = _vector_selector(expr.selector)
            return {**inner, "type": "matrixSelector", "range": expr.range}
        case Subquery():
            return {
                "type": "subquery",
                "expr": tree(expr.expr),
                "range": expr.range,
                "offset": expr.offset,
                "step": expr.step or 0,
                "timestamp": expr.timestamp,
                "startOrEnd": _start_or_end(expr.start_or_end),
            }
        case Aggregate():
            return {
                "type": "aggregation",
                "op": expr.op,
                "expr": tree(expr.expr),
                "param": None if expr.param is None else tree(expr.param),
                "grouping": list(expr.grouping),
                "without": expr.without,
            }
        case Binary():
            return {
                "type": "binaryExpr",
                "op": expr.op,
                "lhs": tree(expr.lhs),
                "rhs": tree(expr.rhs),
                "matching": _matching(expr.matching),
                "bool": expr.return_bool,
            }
        case Call():
            signature = FUNCTIONS[expr.func]
            return {
                "type": "call",
                "func": {
                    "name": signature.name,
                    "argTypes": [kind.value for kind in signature.arg_types],
                    "variadic": signature.variadic,
                    "returnType": signature.return_type.value,
                },
                "args": [tree(arg) for arg in expr.args],
            }
    assert_never(expr)


def _vector_selector(expr: VectorSelector) -> Json:
    return {
        "type": "vectorSelector",
        "name": expr.name,
        "offset": expr.offset,
        "matchers": [_matcher(each) for each in expr.matchers],
        "timestamp": expr.timestamp,
        "startOrEnd": _start_or_end(expr.start_or_end),
        "anchored": expr.anchored,
        "smoothed": expr.smoothed,
    }


def _matcher(matcher: Matcher) -> Json:
    return {"name": matcher.name or NAME, "value": matcher.value, "type": matcher.type.value}


def _start_or_end(which: Preprocessor | None) -> str | None:
    return None if which is None else which.value


def _matching(matching: VectorMatching | None) -> Json | None:
    if matching is None:
        return None
    return {
        "card": matching.card.value,
        "labels": list(matching.labels),
        "on": matching.on,
        "include": list(matching.include),
    }
