"""Whatever the query: an instant query answers or refuses, and equals the same step of a range query."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import QueryError
from common.labels import Labels
from common.promql.ast import ValueType
from common.promql.engine import DELAYED_NAME_REMOVAL, Engine, EngineOptions, Result
from common.promql.promqltest import Runner, cells_of_matrix, same_cell
from common.promql.promqltest_script import Cell, parse_script
from common.promql.promqltest_store import ScriptStore
from common.promql.signatures import AGGREGATORS, FEATURES, FUNCTIONS

DATA = """
load 30s
  a_total{x="1",y="p"} 0+3x20 5+2x20
  a_total{x="2",y="p"} 0+1x10 _x5 stale _x3 4+1x20
  a_total{x="2",y="q"} NaN Inf 1 2 -Inf 3x20
  b{x="1"} 5-1x40
  b{x="2"} _x10 1 stale 2 _ 3+0.5x20
  h{x="1"} {{sum:1 count:1 buckets:[1]}}+{{sum:2 count:3 buckets:[1 1 1]}}x20 {{schema:1 sum:2 count:2 buckets:[1 1]}}x10
  h{x="2"} {{schema:-53 sum:3 count:3 custom_values:[1 2] buckets:[1 1 1]}}x20 stale {{schema:-53 sum:3 count:3 custom_values:[1 3] buckets:[1 1 1]}}x10
  m{x="1"} 1 2 {{sum:1 count:1 buckets:[1]}}x5 3x10 {{sum:9 count:9 z_bucket:1 z_bucket_w:0.001 n_buckets:[3] buckets:[5]}}x10
  c_bucket{x="1",le="1"} 0+1x40
  c_bucket{x="1",le="2"} 0+2x40
  c_bucket{x="1",le="+Inf"} 0+3x40
  c_bucket{x="2",le="oops"} 0+3x40
"""  # noqa: E501 - series are lines
SELECTORS = ("a_total", "b", "h", "m", "c_bucket", '{x="1"}', '{__name__=~".+"}', 'a_total{y="p"}', "nothing")
MODIFIERS = ("", "", "", " offset 1m", " offset -45s", " @ 300", " @ 421.337 offset 7s")
RANGES = ("30s", "1m", "5m", "2m1ms", "9m")
STEP = 60_000
# What depends on the query's own range, or on which of equal samples comes first.
UNEVEN = frozenset({"sort", "sort_desc", "sort_by_label", "sort_by_label_desc", "start", "end", "step", "range"})
TIES = frozenset({"topk", "bottomk", "limitk"})


class Maker:
    """Makes random queries from a source of choices."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def pick(self, *options: str) -> str:
        return self._random.choice(options)

    def matrix(self) -> str:
        if self._random.random() < 0.25:
            span, step = self.pick(*RANGES), self.pick("", "30s", "13s")
            return f"({self.vector(1)})[{span}:{step}]{self.pick(*MODIFIERS)}"
        kind = self.pick("", "", "", " anchored", " smoothed")
        return f"{self.pick(*SELECTORS)}[{self.pick(*RANGES)}]{kind}{self.pick(*MODIFIERS)}"

    def scalar(self) -> str:
        return self.pick("0", "1", "2", "-1", "0.5", "0.9", "1.5", "NaN", "Inf", "time()", "scalar(b)", "(1 + 1)")

    def argument(self, kind: ValueType, depth: int) -> str:
        match kind:
            case ValueType.VECTOR:
                return self.vector(depth - 1)
            case ValueType.SCALAR:
                return self.scalar()
            case ValueType.MATRIX:
                return self.matrix()
            case _:
                return '"' + self.pick("x", "y", "__name__", "z", "(.*)", "$1", "-") + '"'

    def call(self, depth: int) -> str:
        names = [f for f in FUNCTIONS.values() if f.return_type is ValueType.VECTOR and f.name not in UNEVEN]
        function = self._random.choice(names)
        most = function.max_args if function.max_args is not None else function.min_args + 2
        count = self._random.randint(function.min_args, most)
        kinds = [function.arg_types[min(i, len(function.arg_types) - 1)] for i in range(count)]
        args = [self.argument(kind, depth) for kind in kinds]
        if function.name == "info" and count > 1:
            args[1] = '{x=~".*"}'
        return f"{function.name}({', '.join(args)})"

    def aggregate(self, depth: int) -> str:
        aggregator = self._random.choice([a for a in AGGREGATORS.values() if a.name not in TIES])
        grouping = self.pick("", " by (x)", " without (x)", " by (x, y)", " by (__name__)")
        param = "" if aggregator.param is None else self.argument(aggregator.param, 0) + ", "
        if aggregator.param is ValueType.STRING:
            param = '"z", '
        return f"{aggregator.name}{grouping} ({param}{self.vector(depth - 1)})"

    def binary(self, depth: int) -> str:
        left, right = self.vector(depth - 1), self.vector(depth - 1)
        if self._random.random() < 0.2:
            how = self.pick("", "on (x)", "ignoring (y)")
            return f"({left} {self.pick('and', 'or', 'unless')} {how} {right})"
        comparison = self._random.random() < 0.5
        op = self.pick("==", "!=", ">", "<=") if comparison else self.pick("+", "-", "*", "/", "^", "%", "atan2", "</")
        modifier = self.pick("", "bool ") if comparison else ""
        if self._random.random() < 0.4:
            sides = [left, self.scalar()]
            self._random.shuffle(sides)
            return f"({sides[0]} {op} {modifier}{sides[1]})"
        how = self.pick(
            "", "on (x) ", "ignoring (y) ", "on (x) group_left ", "on (x) group_right (y) ", "on (x) fill (0) "
        )
        return f"({left} {op} {modifier}{how}{right})"

    def vector(self, depth: int) -> str:
        if depth <= 0:
            return self.pick(*SELECTORS) + self.pick("", "", " smoothed") + self.pick(*MODIFIERS)
        return self._random.choice([self.call, self.call, self.aggregate, self.binary])(depth)


def load() -> ScriptStore:
    runner = Runner(Engine())
    runner.run(parse_script(DATA))
    return runner.store


STORE = load()
ENGINES = {
    "names at once": Engine(EngineOptions(features=FEATURES)),
    "names at the end": Engine(EngineOptions(features=FEATURES | {DELAYED_NAME_REMOVAL})),
}


def column(result: Result, step: int) -> dict[Labels, Cell]:
    found = {labels: cells[step] if step < len(cells) else None for labels, cells in cells_of_matrix(result.matrix)}
    return {labels: cell for labels, cell in found.items() if cell is not None}


@pytest.mark.parametrize("engine", ENGINES.values(), ids=list(ENGINES))
@settings(max_examples=120, deadline=None)
@given(random=st.randoms(use_true_random=False), depth=st.integers(0, 3), time=st.sampled_from([0, 300_000, 421_337]))
def test_an_instant_query_equals_the_step_of_a_range_query(engine, random, depth, time) -> None:
    query = Maker(random).vector(depth)
    try:
        instant = engine.instant(STORE, query, time)
        over = engine.range(STORE, query, time - 2 * STEP, time + 2 * STEP, STEP)
    except QueryError:
        return
    one, other = column(instant, 0), column(over, 2)
    assert one.keys() == other.keys(), query
    for labels, cell in one.items():
        assert same_cell(cell, other[labels]), (query, str(labels), cell, other[labels])
