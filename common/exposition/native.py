"""Native histograms of the protobuf exposition (client_model's metrics.proto). Pure."""

from dataclasses import dataclass

from common.errors import FormatError
from common.histogram import FloatHistogram, ResetHint
from common.histogram_spans import from_spans
from common.labels import Labels
from common.wire import (
    BYTES,
    FIXED64,
    VARINT,
    WireError,
    fields,
    need,
    packed_doubles,
    packed_varints,
    read_double,
    zigzag,
)

_POSITIVE, _NEGATIVE = (12, 13, 14), (9, 10, 11)
"""Fields of a side: spans, deltas, counts."""


@dataclass(frozen=True, slots=True)
class NativeSeries:
    """One native histogram of a scrape; `timestamp` and `start` (creation time, 0 unknown) are ms."""

    labels: Labels
    histogram: FloatHistogram
    timestamp: int | None = None
    start: int = 0


def read_native(data: bytes, at: int, end: int, gauge: bool) -> FloatHistogram | None:
    """The native part of a `Histogram` message, None if it has none; FormatError says what is wrong with it."""
    integers: dict[int, int] = {}
    doubles: dict[int, float] = {}
    spans: dict[int, list[tuple[int, int]]] = {9: [], 12: []}
    deltas: dict[int, list[int]] = {10: [], 13: []}
    counts: dict[int, list[float]] = {11: [], 14: []}
    for number, kind, value, where in fields(data, at, end):
        if number in spans:
            need(number, kind, BYTES)
            numbers = {n: v for n, k, v, _ in fields(data, where, where + value) if k == VARINT}
            spans[number].append((zigzag(numbers.get(1, 0)), numbers.get(2, 0)))
        elif number in deltas and kind in (BYTES, VARINT):
            deltas[number] += packed_varints(data, where, value) if kind == BYTES else [value]
        elif number in counts and kind in (BYTES, FIXED64):
            counts[number] += packed_doubles(data, where, value) if kind == BYTES else (read_double(data, where),)
        elif kind == VARINT:
            integers[number] = value
        elif kind == FIXED64:
            doubles[number] = read_double(data, where)
        elif kind != BYTES:
            raise WireError(f"field {number} of a histogram has the wire type {kind}")
    threshold = doubles.get(6, 0.0)
    is_float = doubles.get(4, 0.0) > 0 or doubles.get(8, 0.0) > 0
    zero = doubles.get(8, 0.0) if is_float else float(integers.get(7, 0))
    if not (spans[9] or spans[12] or threshold > 0 or zero > 0):
        return None
    schema = zigzag(integers.get(5, 0))
    if schema < -4:
        # Custom buckets have no place in this format.
        raise FormatError(f"histogram has an invalid schema: {schema}")
    sides = [
        (spans[number], counts[floats] if is_float else _added(deltas[whole]))
        for number, whole, floats in (_POSITIVE, _NEGATIVE)
    ]
    return from_spans(
        schema=schema,
        count=doubles.get(4, 0.0) if is_float else float(integers.get(1, 0)),
        total=doubles.get(2, 0.0),
        zero_threshold=threshold,
        zero_count=zero,
        positive=sides[0],
        negative=sides[1],
        custom=(),
        hint=ResetHint.GAUGE if gauge else ResetHint.UNKNOWN,
        integer=not is_float,
    )


def _added(deltas: list[int]) -> list[float]:
    found, total = [], 0
    for delta in deltas:
        total += zigzag(delta)
        found.append(float(total))
    return found
