"""Native histograms as Prometheus's protocols write them: spans of buckets and a count for each. Pure.

Checks follow Validate of Prometheus's model/histogram, whose words senders know.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from common.errors import FormatError
from common.histogram import CUSTOM_SCHEMA, EMPTY_SIDE, MAX_BUCKETS, FloatHistogram, ResetHint, Side

MIN_SCHEMA, MAX_SCHEMA = -4, 8
MAX_REDUCED_SCHEMA = 52
"""Finer resolutions than MAX_SCHEMA are brought to that."""

_INT32 = -(2**31), 2**31 - 1
_LEAST, _MOST = -1074, 1024
"""Exponents of two of the smallest and of the largest float64, rounded up."""

Buckets = tuple[Sequence[tuple[int, int]], Sequence[float]]
"""Spans (offset: the first bucket index, then the gap to the span before; length), and the counts of their buckets."""


def from_spans(
    *,
    schema: int,
    count: float,
    total: float,
    zero_threshold: float,
    zero_count: float,
    positive: Buckets,
    negative: Buckets,
    custom: Sequence[float],
    hint: ResetHint,
    integer: bool,
) -> FloatHistogram:
    """A histogram from its parts, `total` the sum of observations; FormatError names what is wrong with them."""
    if schema == CUSTOM_SCHEMA:
        _check_custom(positive, negative, custom, zero_threshold, zero_count)
    elif not MIN_SCHEMA <= schema <= MAX_REDUCED_SCHEMA:
        raise FormatError(f"histogram has an invalid schema: {schema}")
    elif custom:
        raise FormatError("histogram with exponential schema must not have custom bounds")
    if not zero_threshold >= 0:
        raise FormatError(f"histogram has a zero threshold of {zero_threshold}")
    above, below = _side("positive", *positive), _side("negative", *negative)
    if schema != CUSTOM_SCHEMA:
        _check_reach("positive", above, schema)
        _check_reach("negative", below, schema)
    for what, number in (("zero bucket", zero_count), ("histogram", count)):
        if number < 0:
            raise FormatError(f"{what} has an observation count of {number:g}: negative")
    if integer:
        found = zero_count + sum(float(side.counts.sum()) for side in (above, below))
        if count < found or (count != found and not math.isnan(total)):
            raise FormatError(
                f"{found:g} observations found in buckets, but the Count field is {count:g}: histogram's observation "
                "count should equal the number of observations found in the buckets (in absence of NaN)"
            )
    made = FloatHistogram(schema, count, total, zero_count, zero_threshold, above, below, tuple(custom), hint)
    return made.laid_out(MAX_SCHEMA, zero_threshold, ()) if schema > MAX_SCHEMA else made


def _check_custom(
    positive: Buckets, negative: Buckets, custom: Sequence[float], zero_threshold: float, zero_count: float
) -> None:
    if zero_count or zero_threshold:
        raise FormatError("custom buckets: must have a zero count and a zero threshold of 0")
    if negative[0] or negative[1]:
        raise FormatError("custom buckets: must not have negative buckets")
    if any(math.isnan(bound) for bound in custom):
        raise FormatError("custom buckets: histogram custom bounds must not be NaN")
    if any(not left < right for left, right in pairwise(custom)):
        raise FormatError("custom buckets: histogram custom bounds must be in strictly increasing order")
    if custom and math.isinf(custom[-1]):
        raise FormatError("custom buckets: histogram custom bounds must be finite")
    if sum(offset + length for offset, length in positive[0]) > len(custom) + 1:
        raise FormatError(
            f"custom buckets: only {len(custom)} custom bounds defined, which are too few for the buckets"
        )


def _check_reach(name: str, side: Side, schema: int) -> None:
    """Refuse buckets that no float64 falls into: who keeps buckets side by side would need room for all between."""
    last = side.offset + len(side.counts) - 1
    for bucket in (side.offset, last) if len(side.counts) else ():
        if not _LEAST * 2.0**schema - 1 <= bucket <= _MOST * 2.0**schema + 1:
            raise FormatError(f"{name} side: bucket {bucket} is beyond all values of a float64 at schema {schema}")


def _side(name: str, spans: Sequence[tuple[int, int]], counts: Sequence[float]) -> Side:
    if sum(length for _, length in spans) != len(counts):
        raise FormatError(
            f"{name} side: spans need {sum(length for _, length in spans)} buckets, have {len(counts)} buckets: "
            "histogram spans specify different number of buckets than provided"
        )
    if not counts:
        return EMPTY_SIDE
    at = 0
    places: list[int] = []
    for number, (offset, length) in enumerate(spans):
        if number and offset < 0:
            raise FormatError(f"{name} side: span number {number + 1} with offset {offset} is negative")
        at += offset
        if not _INT32[0] <= at <= _INT32[1] - length:
            raise FormatError(f"{name} side: span number {number + 1} lies at bucket {at}, which has no bounds")
        places += range(at, at + length)
        at += length
    values = np.array(counts, np.float64)
    if (values < 0).any():
        at = int(np.flatnonzero(values < 0)[0])
        raise FormatError(f"{name} side: bucket number {at + 1} has observation count of {values[at]:g}: negative")
    filled = np.flatnonzero(values)
    if not len(filled):
        return EMPTY_SIDE
    first, last = places[int(filled[0])], places[int(filled[-1])]
    if last - first >= MAX_BUCKETS:
        raise FormatError(f"{name} side: spans {last - first + 1} buckets; at most {MAX_BUCKETS} are supported")
    dense = np.zeros(last - first + 1)
    dense[np.array(places, np.int64)[filled] - first] = values[filled]
    return Side(first, dense)


def to_spans(side: Side) -> tuple[list[tuple[int, int]], list[float]]:
    """The populated buckets of a side as spans, and their counts; up to two empty buckets stand inside a span."""
    filled = np.flatnonzero(side.counts)
    if not len(filled):
        return [], []
    spans: list[tuple[int, int]] = []
    counts: list[float] = []
    at = 0
    cuts = np.flatnonzero(np.diff(filled) > 3) + 1
    for run in np.split(filled, cuts):
        begin, end = int(run[0]), int(run[-1]) + 1
        spans.append((side.offset + begin - at, end - begin))
        counts += side.counts[begin:end].tolist()
        at = side.offset + end
    return spans, counts
