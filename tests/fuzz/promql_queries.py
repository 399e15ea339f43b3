"""Random PromQL over the metrics of `promql_samples`, most of it valid."""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.fuzz.promql_samples import BEGIN, COUNT, EVERY

METRICS = (
    "g", "jit", "c_total", "many", "one", "h_count", "same_a", "mix", "nh", "nhg", "nhcb", "nhcbg", "target_info",
)  # fmt: skip
RANGED = (
    "c_total", "c_total", "h_count", "g", "jit", "nh", "nhcb", "nhg", "mix", "h_bucket", "many", "one",
)  # fmt: skip
MATCHERS = (
    'job="a"', 'job="b"', 'job!="a"', 'job=~"a|b"', 'job=~"a.*"', 'job!~"b"', 'instance="1"', 'instance=~"[12]"',
    'instance!~"[12]"', 'env=""', 'env!=""', 'env=~".*"', 'env=~".+"', 'nope=""', 'nope!=""', 'instance!="2"',
    '"dotted.label"="x y"', '"dotted.label"=""', 'le="+Inf"', 'instance=~"1|"',
)  # fmt: skip
NAMES = ("job", "instance", "env", "le", "nope", "__name__", "v", '"dotted.label"')
SPANS = ("1m", "5m", "45s", "10m", "30s", "1h", "7m13s", "2h", "1s", "15s", "90s", "29m30s", "1ms")
ARITHMETIC = ("+", "-", "*", "/", "%", "^", "atan2")
SMOOTH = tuple(op for op in ARITHMETIC if op != "%")
COMPARISONS = ("==", "!=", "<", ">", "<=", ">=")
SETS = ("and", "or", "unless")
OF_RANGE = (
    "rate", "increase", "delta", "irate", "idelta", "deriv", "changes", "resets", "avg_over_time", "sum_over_time",
    "min_over_time", "max_over_time", "count_over_time", "last_over_time", "present_over_time", "stddev_over_time",
    "stdvar_over_time", "absent_over_time", "mad_over_time", "ts_of_max_over_time", "ts_of_min_over_time",
    "ts_of_last_over_time",
)  # fmt: skip
OF_VECTOR = (
    "abs", "absent", "acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "cosh", "deg", "exp", "floor",
    "histogram_avg", "histogram_count", "histogram_stddev", "histogram_stdvar", "histogram_sum", "ln", "log10", "log2",
    "rad", "sgn", "sinh", "sort", "sort_desc", "sqrt", "tanh", "timestamp", "round",
)  # fmt: skip
CIRCULAR = ("sin", "cos", "tan")
DATES = ("day_of_month", "day_of_week", "day_of_year", "days_in_month", "hour", "minute", "month", "year")
HISTOGRAM_METRICS = ("nh", "nhg", "nhcb", "nhcbg", "mix", "h_bucket", "both", "nhnan")
PLAIN_AGGREGATORS = ("sum", "avg", "min", "max", "count", "group", "stddev", "stdvar")
RATIOS = ("0.5", "-0.5", "1", "0", "-1", "0.1", "2", "-3", "NaN")
PERCENTILES = ("0.5", "0.9", "0", "1", "-1", "2", "NaN", "0.99")
DATED = ("", "c_total * 1e4", "h_count * -77", "target_info offset 1h")
CONSTANTS = ("0", "1", "2", "-1", "0.5", "NaN", "Inf", "-Inf", "1e3", "3", "10", "100", "1h", "0x1F", "-0.0", "7.25")


class Queries:
    """Random expressions, most of them valid; `depth` bounds how deep they nest."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def query(self) -> str:
        """One query."""
        rng = self.rng
        chance = rng.random()
        if chance < 0.04:
            return self.matrix(2)
        if chance < 0.08:
            return self.scalar(2)
        if chance < 0.09:
            return self.text()
        made = self.vector(rng.choice((1, 2, 2, 3, 3, 4)))
        if rng.random() < 0.01 and len(made) > 3:
            at = rng.randrange(len(made))
            return made[:at] + rng.choice("(){}[],:@-+ ~=\"'!x1") + made[at + rng.randrange(2) :]
        return made

    # What follows makes one kind of expression each.

    def one_of(self, *choices: tuple[float, Callable[[], str]]) -> str:
        return self.rng.choices([c for _, c in choices], [w for w, _ in choices])[0]()

    def text(self) -> str:
        return self.rng.choice(('"x"', "'job'", '"é"', "`a\\b`", '"$1"'))

    def span(self) -> str:
        return self.rng.choice(SPANS)

    def modifiers(self) -> str:
        rng = self.rng
        found = []
        if rng.random() < 0.12:
            found.append(f" offset {rng.choice(('', '-'))}{self.span()}")
        if rng.random() < 0.08:
            at = str(BEGIN + rng.randrange(EVERY * COUNT))
            found.append(f" @ {rng.choice((at, at, at + '.123', 'start()', 'end()'))}")
        rng.shuffle(found)
        return "".join(found)

    def selector(self, metrics: tuple[str, ...] = METRICS) -> str:
        rng = self.rng
        chance = rng.random()
        matchers = [rng.choice(MATCHERS) for _ in range(rng.choice((0, 0, 1, 1, 2)))]
        if len({matcher[:3] for matcher in matchers}) < len(matchers):
            # Where a label is matched twice absent() depends on the order in which the storage put them.
            matchers = matchers[:1]
        if chance < 0.04:
            named = rng.choice(('__name__=~"same_.*"', '__name__=~"g|jit"', '__name__!~"h.*|nh.*"', '"utf8.näme"'))
            return "{" + ",".join((named, *matchers)) + "}"
        if chance < 0.06:
            matchers.append('__name__=~".+"')
            return "{" + ",".join(matchers) + "}"
        name = "nope" if chance < 0.08 else rng.choice(metrics)
        return name + ("{" + ",".join(matchers) + "}" if matchers else "")

    def leaf(self) -> str:
        return self.selector() + self.modifiers()

    def matrix(self, depth: int) -> str:
        rng = self.rng
        if depth <= 0 or rng.random() < 0.75:
            return f"{self.selector(RANGED)}[{self.span()}]{self.modifiers()}"
        inner = self.operand(self.one_of((4, lambda: self.vector(depth - 1)), (1, lambda: self.scalar(depth - 1))))
        step = rng.choice(("", "1m", "30s", "17s", "5m", "90s"))
        return f"{inner}[{rng.choice(('5m', '10m', '1h', '3m', '61s', '1s'))}:{step}]{self.modifiers()}"

    def scalar(self, depth: int) -> str:
        rng = self.rng
        if depth <= 0 or rng.random() < 0.5:
            return rng.choice((*CONSTANTS, "time()", "pi()", f"{rng.random():.3g}"))
        return self.one_of(
            (3, lambda: f"scalar({self.vector(depth - 1)})"),
            (2, lambda: self.joined(self.scalar(depth - 1), rng.choice(SMOOTH), self.scalar(depth - 1))),
            (1, lambda: self.joined(self.scalar(depth - 1), f"{rng.choice(COMPARISONS)} bool", self.scalar(depth - 1))),
            (1, lambda: f"-{self.operand(self.scalar(depth - 1))}"),
            (0.1, lambda: self.joined(self.scalar(depth - 1), rng.choice(COMPARISONS), self.scalar(depth - 1))),
        )

    def operand(self, text: str) -> str:
        """In parentheses if it needs them, or, seldom, without."""
        needed = re.fullmatch(r"[\w.]*(\{[^{}]*\})?|[\w ]+\([^()]*\)", text) is None
        return f"({text})" if needed and self.rng.random() < 0.95 else text

    def joined(self, left: str, operator: str, right: str) -> str:
        return f"{self.operand(left)} {operator} {self.operand(right)}"

    def vector(self, depth: int) -> str:
        if depth <= 0:
            return self.leaf()
        return self.one_of(
            (2, self.leaf),
            (7, lambda: f"{self.rng.choice(OF_RANGE)}({self.matrix(depth - 1)})"),
            (3, lambda: f"{self.rng.choice(OF_VECTOR)}({self.vector(depth - 1)})"),
            (1, lambda: f"{self.rng.choice(CIRCULAR)}(clamp({self.vector(depth - 1)}, -7, 7))"),
            (7, lambda: self.aggregate(depth)),
            (7, lambda: self.binary(depth)),
            (5, lambda: self.call(depth)),
            (3, lambda: self.histogram(depth)),
            (0.5, lambda: f"-{self.operand(self.vector(depth - 1))}"),
            (0.1, lambda: self.scalar(depth - 1)),
        )

    def labels(self, least: int = 0) -> str:
        return ", ".join(self.rng.sample(NAMES, self.rng.randrange(least, 4)))

    def aggregate(self, depth: int) -> str:
        rng = self.rng
        inner = self.vector(depth - 1)
        grouping = rng.choice(("", "", "by (job) ", f"by ({self.labels()}) ", f"without ({self.labels()}) "))
        chance = rng.random()
        if chance < 0.6:
            return f"{rng.choice(PLAIN_AGGREGATORS)} {grouping}({inner})"
        if chance < 0.68:
            # Not of what is computed, where the last digit may differ.
            inner = rng.choice((self.leaf(), f"count_over_time({self.matrix(0)})"))
            return f'count_values {grouping}("{rng.choice(("value", "job", "a.b"))}", {inner})'
        if chance < 0.8:
            return f"quantile {grouping}({self.scalar(1)}, {inner})"
        if chance < 0.88:
            op = rng.choice(("topk", "bottomk"))
            if rng.random() < 0.3:
                return f"{op} {grouping}({rng.choice(('100', '1e3', '1 / 0.01'))}, {inner})"
            # Of equal values it is up to the storage which are taken.
            return f"sum {grouping}({op} {grouping}({self.scalar(1)}, {inner}))"
        if chance < 0.94:
            # Which ones are taken is up to the storage.
            return f"count {grouping}(limitk {grouping}({self.scalar(0)}, {inner}))"
        return f"limit_ratio {grouping}({rng.choice(RATIOS)}, {inner})"

    def binary(self, depth: int) -> str:
        rng = self.rng
        chance = rng.random()
        op = rng.choice(ARITHMETIC + COMPARISONS)
        if op == "%":
            # Rounding of other operands would show.
            return self.joined(self.leaf(), op, rng.choice(CONSTANTS))
        bool_ = " bool" if op in COMPARISONS and rng.random() < 0.4 else ""
        if chance < 0.3:
            sides = [self.vector(depth - 1), self.scalar(depth - 1)]
            rng.shuffle(sides)
            return self.joined(sides[0], op + bool_, sides[1])
        left = self.vector(depth - 1)
        right = self.vector(depth - 1) if rng.random() < 0.5 else self.like(left)
        if chance < 0.5:
            op, bool_ = rng.choice(SETS), ""
        matching = rng.choice(
            ("", "", f" on ({self.labels()})", f" ignoring ({self.labels()})", " on (job, instance)", " on (job)")
        )
        if matching and op not in SETS and rng.random() < 0.4:
            extra = rng.choice(("", "", " ()", " (env)", " (v)", " (job)", " (instance, nope)"))
            matching += f" {rng.choice(('group_left', 'group_right'))}{extra}"
        return self.joined(left, op + bool_ + matching, right)

    def like(self, left: str) -> str:
        """Something whose labels may fit those of `left`."""
        return self.rng.choice((left, self.leaf(), f"rate({self.selector(('c_total', 'nh'))}[5m])", "one", "many", "g"))

    def call(self, depth: int) -> str:
        rng = self.rng
        inner = self.vector(depth - 1)
        function = rng.choice(
            ("clamp", "clamp_min", "clamp_max", "predict_linear", "quantile_over_time", "round", "label_replace",
             "label_join", "sort_by_label", "sort_by_label_desc", "info", "double_exponential_smoothing", "vector",
             "dates", "absent"),
        )  # fmt: skip
        match function:
            case "clamp":
                return f"clamp({inner}, {self.scalar(1)}, {self.scalar(1)})"
            case "clamp_min" | "clamp_max" | "round":
                return f"{function}({inner}, {self.scalar(1)})"
            case "predict_linear":
                return f"predict_linear({self.matrix(depth - 1)}, {self.scalar(1)})"
            case "quantile_over_time":
                return f"quantile_over_time({self.scalar(1)}, {self.matrix(depth - 1)})"
            case "double_exponential_smoothing":
                factors = rng.choice(("0.5, 0.5", "0.1, 0.9", "0, 0.5", "1, 0.5", "0.5, 2", "NaN, 0.5", "0.3, 0.3"))
                return f"{function}({self.matrix(depth - 1)}, {factors})"
            case "label_replace":
                source = rng.choice(NAMES).strip('"')
                pattern = rng.choice((".*", "(.)", "(?P<x>[ab])?.*", "1|2", "", "("))
                target = rng.choice(("job", "new", "instance", "__name__", "a.b", "nope", ""))
                made = rng.choice(("$1", "x", "", "${x}-$1", "$0", "$2", "$$", "é"))
                return f'label_replace({inner}, "{target}", "{made}", "{source}", "{pattern}")'
            case "label_join":
                target = rng.choice(("job", "new", "__name__", "a.b", "nope"))
                sources = "".join(f', "{name}"' for name in rng.sample([n.strip('"') for n in NAMES], rng.randrange(3)))
                return f'label_join({inner}, "{target}", "{rng.choice((",", "", "-é"))}"{sources})'
            case "sort_by_label" | "sort_by_label_desc":
                first, second = rng.choice(("job", "instance", "nope")), rng.choice(("env", "le"))
                return f'{function}({inner}, "{first}", "{second}")'
            case "info":
                rest = rng.choice(
                    ("", "", ", {v=~\".+\"}", ', {v="x"}', ', {__name__="build_info"}', ', {nope="x"}', ', {v=""}',
                     ', {__name__=~".*_info", rev=~".*"}', ', {__name__="target_info", v!="x"}', ", build_info")
                )  # fmt: skip
                return f"info({inner}{rest})"
            case "vector":
                return f"vector({self.scalar(depth - 1)})"
            case "dates":
                # Of NaN and infinity dates depend on the processor.
                return f"{rng.choice(DATES)}({rng.choice(DATED)})"
            case _:
                return f"absent({self.selector()})"

    def histogram(self, depth: int) -> str:
        rng = self.rng
        inner = self.one_of(
            (3, lambda: self.selector(HISTOGRAM_METRICS) + self.modifiers()),
            (3, lambda: f"{rng.choice(('rate', 'increase', 'delta', 'sum_over_time', 'avg_over_time', 'irate'))}"
                        f"({self.selector(HISTOGRAM_METRICS)}[{self.span()}]{self.modifiers()})"),
            (2, lambda: f"{rng.choice(('sum', 'avg'))} by ({rng.choice(('job', 'job, le', 'le', ''))})"
                        f" ({rng.choice(('rate', 'increase'))}({self.selector(HISTOGRAM_METRICS)}[{self.span()}]))"),
            (1, lambda: self.vector(depth - 1)),
        )  # fmt: skip
        return self.one_of(
            (4, lambda: f"histogram_quantile({rng.choice(PERCENTILES)}, {inner})"),
            (2, lambda: f"histogram_fraction({self.scalar(0)}, {self.scalar(0)}, {inner})"),
            (3, lambda: f"histogram_{rng.choice(('avg', 'count', 'sum', 'stddev', 'stdvar'))}({inner})"),
            (2, lambda: self.joined(inner, rng.choice(ARITHMETIC + COMPARISONS), rng.choice((self.scalar(1), inner)))),
            (1, lambda: inner),
        )


@dataclass(frozen=True)
class Question:
    """A query and when: `form` is of `query` or `query_range`."""

    path: str
    form: dict[str, str]

    def __str__(self) -> str:
        rest = " ".join(f"{name}={value}" for name, value in self.form.items() if name != "query")
        return f"{self.path} {rest}: {self.form['query']}"


def questions(rng: random.Random, count: int) -> Iterator[Question]:
    """Random queries at random times."""
    queries = Queries(rng)
    for _ in range(count):
        query = queries.query()
        at = BEGIN - 300 + rng.randrange(EVERY * COUNT + 900)
        if rng.random() < 0.4:
            yield Question("query", {"query": query, "time": str(at + rng.choice((0, 0.5, 0.123)))})
            continue
        at = at // 30 * 30 if rng.random() < 0.5 else at
        step = rng.choice((15, 30, 60, 60, 300, 7, 1800))
        steps = rng.choice((0, 1, 3, 10, 40))
        end = at + step * steps
        yield Question("query_range", {"query": query, "start": str(at), "end": str(end), "step": str(step)})
