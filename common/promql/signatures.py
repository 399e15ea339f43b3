"""Signatures of PromQL's functions and aggregators, as of Prometheus 3.14."""

from dataclasses import dataclass

from common.promql.ast import ValueType

SCALAR, VECTOR, MATRIX, STRING = ValueType.SCALAR, ValueType.VECTOR, ValueType.MATRIX, ValueType.STRING

EXPERIMENTAL_FUNCTIONS = "promql-experimental-functions"
DURATION_EXPR = "promql-duration-expr"  # on by default since 3.14; the name is still accepted
EXTENDED_RANGE_SELECTORS = "promql-extended-range-selectors"
BINOP_FILL_MODIFIERS = "promql-binop-fill-modifiers"

FEATURES = frozenset({EXPERIMENTAL_FUNCTIONS, DURATION_EXPR, EXTENDED_RANGE_SELECTORS, BINOP_FILL_MODIFIERS})
"""Names of `--enable-feature` that change what the parser accepts."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function's signature.

    `variadic` 0: exactly `arg_types`; n > 0: the last argument is optional and may occur up to n times in all
    (so between len-1 and len-1+n arguments); -1: the last is optional and may occur any number of times.
    """

    name: str
    arg_types: tuple[ValueType, ...]
    return_type: ValueType = VECTOR
    variadic: int = 0
    experimental: bool = False

    @property
    def min_args(self) -> int:
        """The least number of arguments."""
        return len(self.arg_types) if self.variadic == 0 else len(self.arg_types) - 1

    @property
    def max_args(self) -> int | None:
        """The most arguments, None without limit."""
        return None if self.variadic < 0 else self.min_args + self.variadic if self.variadic else self.min_args


@dataclass(frozen=True, slots=True)
class Aggregator:
    """An aggregation operator; `param` is the type of its parameter, if it has one."""

    name: str
    param: ValueType | None = None
    experimental: bool = False


_OF_VECTOR = [
    "abs",
    "absent",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "ceil",
    "cos",
    "cosh",
    "deg",
    "exp",
    "floor",
    "histogram_avg",
    "histogram_count",
    "histogram_stddev",
    "histogram_stdvar",
    "histogram_sum",
    "ln",
    "log10",
    "log2",
    "rad",
    "sgn",
    "sin",
    "sinh",
    "sort",
    "sort_desc",
    "sqrt",
    "tan",
    "tanh",
    "timestamp",
]
_OF_MATRIX = [
    "absent_over_time",
    "avg_over_time",
    "changes",
    "count_over_time",
    "delta",
    "deriv",
    "first_over_time",
    "idelta",
    "increase",
    "irate",
    "last_over_time",
    "max_over_time",
    "min_over_time",
    "present_over_time",
    "rate",
    "resets",
    "stddev_over_time",
    "stdvar_over_time",
    "sum_over_time",
]
_OF_MATRIX_EXPERIMENTAL = [
    "mad_over_time",
    "ts_of_first_over_time",
    "ts_of_last_over_time",
    "ts_of_max_over_time",
    "ts_of_min_over_time",
]
_OF_TIME = ["day_of_month", "day_of_week", "day_of_year", "days_in_month", "hour", "minute", "month", "year"]

FUNCTIONS: dict[str, Function] = {
    function.name: function
    for function in (
        *(Function(name, (VECTOR,)) for name in _OF_VECTOR),
        *(Function(name, (MATRIX,)) for name in _OF_MATRIX),
        *(Function(name, (MATRIX,), experimental=True) for name in _OF_MATRIX_EXPERIMENTAL),
        *(Function(name, (VECTOR,), variadic=1) for name in _OF_TIME),
        *(Function(name, (), SCALAR, experimental=True) for name in ("start", "end", "step", "range")),
        Function("clamp", (VECTOR, SCALAR, SCALAR)),
        Function("clamp_max", (VECTOR, SCALAR)),
        Function("clamp_min", (VECTOR, SCALAR)),
        Function("double_exponential_smoothing", (MATRIX, SCALAR, SCALAR), experimental=True),
        Function("histogram_fraction", (SCALAR, SCALAR, VECTOR)),
        Function("histogram_quantile", (SCALAR, VECTOR)),
        Function("histogram_quantiles", (VECTOR, STRING, SCALAR, SCALAR), variadic=9, experimental=True),
        Function("info", (VECTOR, VECTOR), variadic=1, experimental=True),
        Function("label_join", (VECTOR, STRING, STRING, STRING), variadic=-1),
        Function("label_replace", (VECTOR, STRING, STRING, STRING, STRING)),
        Function("max_of", (SCALAR, SCALAR), SCALAR, experimental=True),
        Function("min_of", (SCALAR, SCALAR), SCALAR, experimental=True),
        Function("pi", (), SCALAR),
        Function("predict_linear", (MATRIX, SCALAR)),
        Function("quantile_over_time", (SCALAR, MATRIX)),
        Function("round", (VECTOR, SCALAR), variadic=1),
        Function("scalar", (VECTOR,), SCALAR),
        Function("sort_by_label", (VECTOR, STRING), variadic=-1, experimental=True),
        Function("sort_by_label_desc", (VECTOR, STRING), variadic=-1, experimental=True),
        Function("start_timestamp", (VECTOR,), experimental=True),
        Function("time", (), SCALAR),
        Function("vector", (SCALAR,)),
    )
}

AGGREGATORS: dict[str, Aggregator] = {
    aggregator.name: aggregator
    for aggregator in (
        *(Aggregator(name) for name in ("avg", "count", "group", "max", "min", "stddev", "stdvar", "sum")),
        Aggregator("topk", SCALAR),
        Aggregator("bottomk", SCALAR),
        Aggregator("quantile", SCALAR),
        Aggregator("count_values", STRING),
        Aggregator("limitk", SCALAR, experimental=True),
        Aggregator("limit_ratio", SCALAR, experimental=True),
    )
}
