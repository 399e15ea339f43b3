"""Floats as Go reads and compares them, and as Prometheus writes them into labels (see gotext for the rest)."""

import math
import re

import numpy as np
from numpy.typing import NDArray

from common.promql.gotext import short_float

Floats = NDArray[np.float64]

_HEX = re.compile(r"[+-]?0[xX]")
_MIN_NORMAL = 2.2250738585072014e-308
_MAX = 1.7976931348623157e308


def two_digits(value: float) -> str:
    """As fmt's %.2g."""
    return short_float(value) if not math.isfinite(value) else f"{value:.2g}"


def open_metrics(value: float) -> str:
    """As Prometheus writes a float in a label: `1.0`, `0.5`, `1e+06`, `+Inf`."""
    if not math.isfinite(value):
        return short_float(value)
    text = short_float(value)
    return text if any(char in text for char in ".e") else text + ".0"


def parse(text: str) -> float:
    """As strconv.ParseFloat; ValueError for what is not a number."""
    if _HEX.match(text):
        return float.fromhex(text)
    if text != text.strip() or (text and text[-1] == "_"):
        raise ValueError(f"not a number: {text!r}")
    if "_" in text:
        raise ValueError(f"not a number: {text!r}")
    return float(text)


def maximum(left: Floats, right: Floats) -> Floats:
    """As math.Max of each pair: infinity is larger than NaN, which is else the result."""
    return np.where((left == np.inf) | (right == np.inf), np.inf, np.maximum(left, right))


def minimum(left: Floats, right: Floats) -> Floats:
    """As math.Min of each pair: minus infinity is less than NaN, which is else the result."""
    return -maximum(-left, -right)


def almost_equal(left: float, right: float, tolerance: float) -> bool:
    """Relative difference |a-b|/(|a|+|b|) below `tolerance`, as Prometheus's util/almost."""
    if math.isnan(left) or math.isnan(right):
        return math.isnan(left) and math.isnan(right)
    if left == right:
        return True
    gap, size = abs(left - right), abs(left) + abs(right)
    if left == 0 or right == 0 or size < _MIN_NORMAL:
        return gap < tolerance * _MIN_NORMAL
    return gap / min(size, _MAX) < tolerance
