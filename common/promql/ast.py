"""PromQL's syntax tree: frozen dataclasses, every node with its byte positions in the query text."""

from dataclasses import dataclass
from enum import StrEnum

from common.labels import Matcher


class ValueType(StrEnum):
    """Types of PromQL expressions, spelled as the HTTP API does."""

    SCALAR = "scalar"
    VECTOR = "vector"
    MATRIX = "matrix"
    STRING = "string"
    NONE = "none"


class Preprocessor(StrEnum):
    """`@ start()` and `@ end()`."""

    START = "start"
    END = "end"


class Cardinality(StrEnum):
    """How series of two operands pair up."""

    ONE_TO_ONE = "one-to-one"
    MANY_TO_ONE = "many-to-one"
    ONE_TO_MANY = "one-to-many"
    MANY_TO_MANY = "many-to-many"


@dataclass(frozen=True, slots=True)
class Span:
    """Byte offsets into the query, end exclusive."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class DurationExpr:
    """Arithmetic on durations (`[5m * 2]`, `offset -step()`); `op` is + - * / % ^, or step, range, min, max.

    `min` and `max` are written `min_of(a, b)` and `max_of(a, b)`.

    Operands are seconds. With one operand, `rhs` is it and `lhs` is None; `step` and `range` have none.
    """

    op: str
    lhs: "DurationExpr | NumberLiteral | None"
    rhs: "DurationExpr | NumberLiteral | None"
    wrapped: bool
    span: Span


@dataclass(frozen=True, slots=True)
class NumberLiteral:
    """A number; `duration` if it was written with units (the value is seconds)."""

    value: float
    span: Span
    duration: bool = False


@dataclass(frozen=True, slots=True)
class StringLiteral:
    """A string, unescaped; bytes that are not UTF-8 (`"\\xff"`) are lone surrogates as of PEP 383."""

    value: str
    span: Span


@dataclass(frozen=True, slots=True)
class VectorSelector:
    """An instant selector. `matchers` includes the metric name; offset and timestamp are ms.

    `timestamp` or `start_or_end` come from `@`. `offset_expr` replaces `offset` once durations are resolved.
    """

    name: str
    matchers: tuple[Matcher, ...]
    span: Span
    offset: int = 0
    offset_expr: DurationExpr | None = None
    timestamp: int | None = None
    start_or_end: Preprocessor | None = None
    anchored: bool = False
    smoothed: bool = False
    bypass_empty_matcher_check: bool = False


@dataclass(frozen=True, slots=True)
class MatrixSelector:
    """A range selector: an instant selector (which holds offset and @) and a range in ms."""

    selector: VectorSelector
    range: int
    span: Span
    range_expr: DurationExpr | None = None


@dataclass(frozen=True, slots=True)
class Subquery:
    """`expr[range:step]`; all durations ms, step None for the default interval."""

    expr: "Expr"
    range: int
    span: Span
    step: int | None = None
    range_expr: DurationExpr | None = None
    step_expr: DurationExpr | None = None
    offset: int = 0
    offset_expr: DurationExpr | None = None
    timestamp: int | None = None
    start_or_end: Preprocessor | None = None


@dataclass(frozen=True, slots=True)
class Paren:
    """A parenthesised expression."""

    expr: "Expr"
    span: Span


@dataclass(frozen=True, slots=True)
class Unary:
    """Unary + or -."""

    op: str
    expr: "Expr"
    span: Span


@dataclass(frozen=True, slots=True)
class VectorMatching:
    """on/ignoring, group_left/group_right, fill values for missing partners."""

    card: Cardinality
    on: bool = False
    labels: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    fill_left: float | None = None
    fill_right: float | None = None


@dataclass(frozen=True, slots=True)
class Binary:
    """A binary operation; `op` as written (`+`, `==`, `and`, `atan2`, ...); `matching` None unless both are vectors."""

    op: str
    lhs: "Expr"
    rhs: "Expr"
    span: Span
    matching: VectorMatching | None = None
    return_bool: bool = False


@dataclass(frozen=True, slots=True)
class Aggregate:
    """An aggregation; `grouping` with `without`; `param` for topk, quantile, count_values, limitk, ..."""

    op: str
    expr: "Expr"
    span: Span
    param: "Expr | None" = None
    grouping: tuple[str, ...] = ()
    without: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """A function call; the signature is in `common.promql.signatures.FUNCTIONS[func]`."""

    func: str
    args: tuple["Expr", ...]
    span: Span


Expr = (
    NumberLiteral
    | StringLiteral
    | VectorSelector
    | MatrixSelector
    | Subquery
    | Paren
    | Unary
    | Binary
    | Aggregate
    | Call
)
