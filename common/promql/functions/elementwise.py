"""Functions of each sample alone: arithmetic, trigonometry, clamping, dates."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from common.promql import gonumber
from common.promql.ast import Call, VectorSelector
from common.promql.matrix import Bools, Floats, Matrix, empty, scalar
from common.promql.preprocess import unwrap

if TYPE_CHECKING:
    from common.promql.evaluator import Evaluator, Steps


def _sign(values: Floats) -> Floats:
    return np.where(values < 0, -1.0, np.where(values > 0, 1.0, values))


UNARY: dict[str, Callable[[Floats], Floats]] = {
    "abs": np.abs,
    "acos": np.arccos,
    "acosh": np.arccosh,
    "asin": np.arcsin,
    "asinh": np.arcsinh,
    "atan": np.arctan,
    "atanh": np.arctanh,
    "ceil": np.ceil,
    "cos": np.cos,
    "cosh": np.cosh,
    "deg": lambda x: x * 180 / np.pi,
    "exp": np.exp,
    "floor": np.floor,
    "ln": np.log,
    "log10": np.log10,
    "log2": np.log2,
    "rad": lambda x: x * np.pi / 180,
    "sgn": _sign,
    "sin": np.sin,
    "sinh": np.sinh,
    "sqrt": np.sqrt,
    "tan": np.tan,
    "tanh": np.tanh,
}


def unary(ev: "Evaluator", node: Call, steps: "Steps") -> Iterator[Matrix]:
    """A function of one number."""
    function = UNARY[node.func]
    yield from _apply(ev, node, steps, function)


def _apply(
    ev: "Evaluator", node: Call, steps: "Steps", function: Callable[[Floats], Floats], wanted: Bools | None = None
) -> Iterator[Matrix]:
    """`function` of floats, at the steps `wanted` [K] or all."""

    def parts() -> Iterator[Matrix]:
        for part in ev.stream(node.args[0], steps):
            floats = part.floats_only()
            presence = floats.presence if wanted is None else floats.presence & wanted
            with np.errstate(all="ignore"):
                yield replace(floats, values=function(floats.values), presence=presence)

    yield from ev.dropped(node.args[0], parts(), steps)


def round_to(ev: "Evaluator", node: Call, steps: "Steps") -> Iterator[Matrix]:
    """`round(v, to_nearest)`: ties go up."""
    nearest = ev.scalar(node.args[1], steps)[None, :] if len(node.args) > 1 else np.ones((1, 1))
    with np.errstate(all="ignore"):
        inverse = 1.0 / nearest
    yield from _apply(ev, node, steps, lambda x: np.floor(x * inverse + 0.5) / inverse)


def clamp(ev: "Evaluator", node: Call, steps: "Steps") -> Iterator[Matrix]:
    """`clamp`, `clamp_min`, `clamp_max`: NaN limits give NaN (or infinity); crossed limits give nothing."""
    low = np.full(steps.count, -np.inf)
    high = np.full(steps.count, np.inf)
    match node.func:
        case "clamp_min":
            low = ev.scalar(node.args[1], steps)
        case "clamp_max":
            high = ev.scalar(node.args[1], steps)
        case _:
            low, high = ev.scalar(node.args[1], steps), ev.scalar(node.args[2], steps)
    wanted = ~(high < low)
    yield from _apply(
        ev, node, steps, lambda x: gonumber.maximum(low, gonumber.minimum(high, x)), None if wanted.all() else wanted
    )


def _days(seconds: Floats) -> tuple["np.ndarray[tuple[int, ...], np.dtype[np.int64]]", ...]:
    """Days and seconds of day since 1970 of whole Unix seconds (truncated towards zero, as in Go)."""
    whole = np.where(np.isfinite(seconds), seconds, 0.0)
    whole = np.clip(np.trunc(whole), -(2.0**53), 2.0**53).astype(np.int64)
    return np.floor_divide(whole, 86_400), np.mod(whole, 86_400)


def _date(seconds: Floats) -> "np.ndarray[tuple[int, ...], np.dtype[np.datetime64]]":
    return _days(seconds)[0].astype("datetime64[D]")


def _month_length(seconds: Floats) -> Floats:
    month = _date(seconds).astype("datetime64[M]")
    following = (month + np.timedelta64(1, "M")).astype("datetime64[D]")
    length: Floats = (following - month.astype("datetime64[D]")).astype(np.float64)
    return length


DATES: dict[str, Callable[[Floats], Floats]] = {
    "day_of_month": lambda x: (_date(x) - _date(x).astype("datetime64[M]")).astype(np.float64) + 1,
    "day_of_week": lambda x: np.mod(_days(x)[0] + 4, 7).astype(np.float64),
    "day_of_year": lambda x: (_date(x) - _date(x).astype("datetime64[Y]")).astype(np.float64) + 1,
    "days_in_month": _month_length,
    "hour": lambda x: (_days(x)[1] // 3600).astype(np.float64),
    "minute": lambda x: (_days(x)[1] // 60 % 60).astype(np.float64),
    "month": lambda x: np.mod(_date(x).astype("datetime64[M]").astype(np.int64), 12).astype(np.float64) + 1,
    "year": lambda x: _date(x).astype("datetime64[Y]").astype(np.float64) + 1970,
}


def date(ev: "Evaluator", node: Call, steps: "Steps") -> Iterator[Matrix]:
    """Parts of the date (UTC) of each value, or of the step without argument."""
    function = DATES[node.func]
    if node.args:
        yield from _apply(ev, node, steps, function)
    else:
        yield scalar(function(np.floor_divide(steps.times, 1000).astype(np.float64)), steps.times)


def timestamp(ev: "Evaluator", node: Call, steps: "Steps") -> Iterator[Matrix]:
    """Each sample's own time for a plain selector, else the step's."""
    source = unwrap(node.args[0])
    if isinstance(source, VectorSelector):
        yield from ev.dropped(source, ev.instant_seconds(source, steps, starts=False), steps)
        return
    seconds = steps.times / 1000.0
    parts = (
        replace(part, values=np.broadcast_to(seconds, part.presence.shape), histograms=None)
        for part in ev.stream(source, steps)
    )
    yield from ev.dropped(source, parts, steps)


def start_timestamp(ev: "Evaluator", node: Call, steps: "Steps") -> Iterator[Matrix]:
    """The start timestamp of each sample of a plain selector, seconds, 0 where unknown; nothing for others."""
    source = unwrap(node.args[0])
    if not isinstance(source, VectorSelector):
        return
    yield from ev.dropped(source, ev.instant_seconds(source, steps, starts=True), steps)


def absent(ev: "Evaluator", node: Call, steps: "Steps") -> Iterator[Matrix]:
    """One where the vector is empty, with the labels that its selector fixes."""
    from common.promql.functions.labels import fixed_labels

    there = np.zeros(steps.count, dtype=np.bool_)
    for part in ev.stream(node.args[0], steps):
        there |= part.presence.any(axis=0)
    if there.all():
        yield empty(steps.times)
        return
    result = Matrix([fixed_labels(node.args[0])], np.ones((1, steps.count)), ~there[None, :], steps.times)
    yield ev.drop_names(result)
