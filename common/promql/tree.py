"""Syntax trees as JSON, in the shape in which Prometheus's parse_query answers them."""

from common.promql.ast import (
    Aggregate,
    Binary,
    Call,
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
from common.promql.gotext import plain_float
from common.promql.signatures import FUNCTIONS


def to_json(expr: Expr | None) -> object:
    """The tree as `/api/v1/parse_query` gives it: dicts, lists, strings, numbers, None."""
    match expr:
        case None:
            return None
        case NumberLiteral():
            return {"type": "numberLiteral", "val": plain_float(expr.value)}
        case StringLiteral():
            return {"type": "stringLiteral", "val": _clean(expr.value)}
        case VectorSelector():
            return {"type": "vectorSelector", **_selector_json(expr)}
        case MatrixSelector():
            return {"type": "matrixSelector", **_selector_json(expr.selector), "range": expr.range}
        case Subquery():
            return {
                "type": "subquery",
                "expr": to_json(expr.expr),
                "range": expr.range,
                "offset": expr.offset,
                "step": expr.step or 0,
                "timestamp": expr.timestamp,
                "startOrEnd": expr.start_or_end,
            }
        case Paren():
            return {"type": "parenExpr", "expr": to_json(expr.expr)}
        case Unary():
            return {"type": "unaryExpr", "op": expr.op, "expr": to_json(expr.expr)}
        case Binary():
            return {
                "type": "binaryExpr",
                "op": expr.op,
                "lhs": to_json(expr.lhs),
                "rhs": to_json(expr.rhs),
                "matching": _matching_json(expr.matching),
                "bool": expr.return_bool,
            }
        case Aggregate():
            return {
                "type": "aggregation",
                "op": expr.op,
                "expr": to_json(expr.expr),
                "param": to_json(expr.param),
                "grouping": list(expr.grouping),
                "without": expr.without,
            }
        case Call():
            function = FUNCTIONS[expr.func]
            return {
                "type": "call",
                "func": {
                    "name": function.name,
                    "argTypes": [str(kind) for kind in function.arg_types],
                    "variadic": function.variadic,
                    "returnType": str(function.return_type),
                },
                "args": [to_json(arg) for arg in expr.args],
            }


def _selector_json(node: VectorSelector) -> dict[str, object]:
    return {
        "name": node.name,
        "offset": node.offset,
        "matchers": [{"name": _clean(m.name), "value": _clean(m.value), "type": str(m.type)} for m in node.matchers],
        "timestamp": node.timestamp,
        "startOrEnd": node.start_or_end,
        "anchored": node.anchored,
        "smoothed": node.smoothed,
    }


def _clean(text: str) -> str:
    return text.encode(errors="surrogateescape").decode(errors="replace")


def _matching_json(matching: VectorMatching | None) -> object:
    if matching is None:
        return None
    return {
        "card": str(matching.card),
        "labels": list(matching.labels),
        "on": matching.on,
        "include": list(matching.include),
        "fillValues": {"lhs": matching.fill_left, "rhs": matching.fill_right},
    }
