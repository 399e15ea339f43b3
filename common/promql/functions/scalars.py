"""Functions of the query itself, and between scalars and vectors."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from common.promql import gonumber
from common.promql.ast import Call
from common.promql.matrix import Matrix, scalar

if TYPE_CHECKING:
    from common.promql.evaluator import Evaluator, Steps

_OF_QUERY: dict[str, Callable[["Evaluator"], float]] = {
    "pi": lambda ev: np.pi,
    "start": lambda ev: ev.setting.start / 1000.0,
    "end": lambda ev: ev.setting.end / 1000.0,
    "step": lambda ev: ev.setting.step / 1000.0 if ev.setting.is_range else 0.0,
    "range": lambda ev: (ev.setting.end - ev.setting.start) / 1000.0,
}


def constant(ev: "Evaluator", node: Call, steps: "Steps") -> Iterator[Matrix]:
    """`pi`, and the query's `start`, `end`, `step`, `range` in seconds."""
    yield scalar(np.full(steps.count, _OF_QUERY[node.func](ev)), steps.times)


def time(ev: "Evaluator", node: Call, steps: "Steps") -> Iterator[Matrix]:
    """`time()`: the step, in seconds."""
    yield scalar(steps.times / 1000.0, steps.times)


def vector(ev: "Evaluator", node: Call, steps: "Steps") -> Iterator[Matrix]:
    """`vector(s)`: the scalar as a series without labels."""
    yield scalar(ev.scalar(node.args[0], steps), steps.times)


def to_scalar(ev: "Evaluator", node: Call, steps: "Steps") -> Iterator[Matrix]:
    """`scalar(v)`: the value where exactly one float is there, else NaN."""
    count = np.zeros(steps.count, dtype=np.int64)
    value = np.zeros(steps.count)
    for part in ev.stream(node.args[0], steps):
        floats = part.floats_only()
        count += floats.presence.sum(axis=0)
        value += np.where(floats.presence, floats.values, 0.0).sum(axis=0)
    yield scalar(np.where(count == 1, value, np.nan), steps.times)


def extreme_of(ev: "Evaluator", node: Call, steps: "Steps") -> Iterator[Matrix]:
    """`min_of` and `max_of` of two scalars."""
    left, right = (ev.scalar(arg, steps) for arg in node.args)
    pick = gonumber.minimum if node.func == "min_of" else gonumber.maximum
    yield scalar(pick(left, right), steps.times)
