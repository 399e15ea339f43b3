"""Native histograms of floats: exponential buckets of any resolution, or custom bounds (schema -53).

Semantics follow Prometheus (model/histogram): what is added is brought to the coarser resolution, the wider zero
bucket, the common custom bounds. Instances are immutable; every operation gives a new one.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from common.errors import FormatError

CUSTOM_SCHEMA = -53
MIN_SCHEMA, MAX_SCHEMA = -9, 52
MAX_BUCKETS = 1 << 20
"""Buckets between the lowest and the highest populated one of a side."""

_MAX_FLOAT = 1.7976931348623157e308
_NONE: NDArray[np.float64] = np.empty(0)

_FINEST = 8
_ULPS = (
    "1111112111211111112311222222222211211121122211221122102211221122"
    "1111112222332132112111211112111111121011213311221222112121332222"
    "2121223322322122222222323233323311221121223321332233212232332232"
    "2243223233433343333333444455435422322333324422333243223333543344"
)
_FRACTIONS = [2.0 ** (i / 256 - 1) - (int(ulps) - 1) * math.ulp(0.5) for i, ulps in enumerate(_ULPS)]
"""Bounds from 0.5 to 1 of the finest schema, bit for bit those of client libraries and Prometheus.

Their common table is off by some units in the last place (each digit: one more than it is too low by).
"""

Counts = NDArray[np.float64]


class ResetHint(IntEnum):
    """What a sample says about a counter reset before it; numbers as in Prometheus's protobuf."""

    UNKNOWN = 0
    RESET = 1
    NOT_RESET = 2
    GAUGE = 3


class IncompatibleError(FormatError):
    """Exponential and custom buckets cannot be combined."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket's bounds, which of them belong to it, and how many observations it holds."""

    lower: float
    upper: float
    count: float
    lower_inclusive: bool
    upper_inclusive: bool

    def __str__(self) -> str:
        from common.promql.gotext import short_float

        left, right = "[" if self.lower_inclusive else "(", "]" if self.upper_inclusive else ")"
        return f"{left}{short_float(self.lower)},{short_float(self.upper)}{right}:{short_float(self.count)}"


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """Bucket counts without gaps: `counts[i]` belongs to bucket index `offset + i`."""

    offset: int
    counts: Counts

    def trimmed(self) -> "Side":
        """Without empty buckets at either end."""
        filled = np.flatnonzero(self.counts)
        if not len(filled):
            return EMPTY_SIDE
        first, last = int(filled[0]), int(filled[-1])
        if first == 0 and last == len(self.counts) - 1:
            return self
        return Side(self.offset + first, self.counts[first : last + 1])

    def times(self, factor: float) -> "Side":
        """Every count multiplied; what is empty stays so, be the factor infinite or NaN."""
        return Side(self.offset, np.where(self.counts == 0, 0.0, self.counts * factor)).trimmed()

    def divided(self, by: float) -> "Side":
        """Every count divided; what is empty stays so, be the divisor NaN."""
        return Side(self.offset, np.where(self.counts == 0, 0.0, self.counts / by)).trimmed()

    def within(self, low: int, high: int) -> Counts:
        """Counts of the indexes low..high-1, zero where there are none."""
        out = np.zeros(max(0, high - low))
        if len(self.counts):
            begin, end = max(low, self.offset), min(high, self.offset + len(self.counts))
            if begin < end:
                out[begin - low : end - low] = self.counts[begin - self.offset : end - self.offset]
        return out

    def items(self) -> Iterator[tuple[int, float]]:
        """(index, count) of every bucket."""
        return enumerate(self.counts.tolist(), self.offset)


EMPTY_SIDE = Side(0, _NONE)


def side(offset: int, counts: "list[float] | tuple[float, ...] | Counts") -> Side:
    """A side from its first index and counts; FormatError if it spans too many buckets."""
    if len(counts) > MAX_BUCKETS:
        raise FormatError(f"a histogram spans {len(counts)} buckets: at most {MAX_BUCKETS} are supported")
    return Side(offset, np.asarray(counts, dtype=np.float64)).trimmed()


def bound(index: int, schema: int, custom: tuple[float, ...] = ()) -> float:
    """The upper bound of bucket `index` (its absolute value on the negative side)."""
    if schema == CUSTOM_SCHEMA:
        return custom[index] if 0 <= index < len(custom) else (math.inf if index >= 0 else -math.inf)
    if schema <= 0:
        power = index * 2 ** (-schema)
        return math.ldexp(1.0, power) if power <= 1023 else (_MAX_FLOAT if power == 1024 else math.inf)
    whole, part = divmod(index, 1 << schema)
    if whole > 1023:
        return _MAX_FLOAT if (whole, part) == (1024, 0) else math.inf
    if schema <= _FINEST:
        return math.ldexp(_FRACTIONS[part << (_FINEST - schema)], whole + 1)
    return float(math.ldexp(2.0 ** (part / (1 << schema)), whole))


@dataclass(frozen=True, slots=True, eq=False)
class FloatHistogram:
    """A native histogram; `count` includes observations of NaN, which are in no bucket."""

    schema: int = 0
    count: float = 0.0
    sum: float = 0.0
    zero_count: float = 0.0
    zero_threshold: float = 0.0
    positive: Side = EMPTY_SIDE
    negative: Side = EMPTY_SIDE
    custom: tuple[float, ...] = ()
    hint: ResetHint = ResetHint.UNKNOWN

    @property
    def is_custom(self) -> bool:
        """Whether the buckets have custom bounds."""
        return self.schema == CUSTOM_SCHEMA

    def with_hint(self, hint: ResetHint) -> "FloatHistogram":
        """The same with another hint."""
        return self if self.hint is hint else replace(self, hint=hint)

    def buckets(self) -> Iterator[Bucket]:
        """All buckets from the lowest bound up, empty ones between populated ones included."""
        for index, count in reversed(list(self.negative.items())):
            lower, upper = -bound(index, self.schema), -bound(index - 1, self.schema)
            yield Bucket(lower, min(upper, -self.zero_threshold) if upper < 0 else upper, count, True, False)
        if self.zero_count > 0:
            yield Bucket(-self.zero_threshold, self.zero_threshold, self.zero_count, True, True)
        for bucket in self.positive_buckets():
            if bucket.lower > 0 and bucket.lower < self.zero_threshold and not self.is_custom:
                bucket = replace(bucket, lower=self.zero_threshold)
            yield bucket

    def positive_buckets(self) -> Iterator[Bucket]:
        """The positive (or custom) buckets, upwards."""
        for index, count in self.positive.items():
            lower, upper = bound(index - 1, self.schema, self.custom), bound(index, self.schema, self.custom)
            yield Bucket(lower, upper, count, self.is_custom and index == 0, True)

    def __str__(self) -> str:
        from common.promql.gotext import short_float

        parts = [f"count:{short_float(self.count)}", f"sum:{short_float(self.sum)}"]
        plain = replace(self, zero_threshold=0.0, zero_count=0.0)
        parts += [str(b) for b in plain.buckets() if b.count and b.upper <= 0 and not self.is_custom]
        if self.zero_count:
            parts.append(str(Bucket(-self.zero_threshold, self.zero_threshold, self.zero_count, True, True)))
        parts += [str(b) for b in self.positive_buckets() if b.count]
        return "{" + ", ".join(parts) + "}"

    def to_api(self) -> dict[str, object]:
        """As the HTTP API answers it: numbers as text; populated buckets as [boundary rule, lower, upper, count].

        Rules: 0 the upper bound belongs to the bucket, 1 the lower, 2 neither, 3 both.
        """
        from common.rules.format import sample_text

        shown: dict[str, object] = {"count": sample_text(self.count), "sum": sample_text(self.sum)}
        buckets = []
        for bucket in self.buckets():
            if bucket.count:
                rule = (3 if bucket.upper_inclusive else 1) if bucket.lower_inclusive else 0
                bounds = (sample_text(bucket.lower), sample_text(bucket.upper), sample_text(bucket.count))
                buckets.append([rule, *bounds])
        if buckets:
            shown["buckets"] = buckets
        return shown

    # Scaling

    def times(self, factor: float) -> "FloatHistogram":
        """Every count and the sum multiplied; a negative factor makes it a gauge."""
        with np.errstate(all="ignore"):
            return replace(
                self,
                count=self.count * factor,
                sum=self.sum * factor,
                zero_count=self.zero_count * factor,
                positive=self.positive.times(factor),
                negative=self.negative.times(factor),
                hint=ResetHint.GAUGE if factor < 0 else self.hint,
            )

    def divided(self, by: float) -> "FloatHistogram":
        """Every count and the sum divided; by zero all buckets go and what is left is infinite or NaN."""
        with np.errstate(all="ignore"):
            divisor = np.float64(by)
            gone = by == 0
            return replace(
                self,
                count=float(np.float64(self.count) / divisor),
                sum=float(np.float64(self.sum) / divisor),
                zero_count=float(np.float64(self.zero_count) / divisor),
                positive=EMPTY_SIDE if gone else self.positive.divided(by),
                negative=EMPTY_SIDE if gone else self.negative.divided(by),
                hint=ResetHint.GAUGE if by < 0 else self.hint,
            )

    # Layout

    def zero_count_for(self, threshold: float) -> tuple[float, float]:
        """Count of the zero bucket widened to `threshold`, and how wide it gets to end between populated buckets."""
        if threshold == self.zero_threshold:
            return self.zero_count, threshold
        again = True
        total = self.zero_count
        while again:
            again = False
            total = self.zero_count
            for half, redo in ((self.positive, False), (self.negative, True)):
                for index, count in half.items():
                    if bound(index - 1, self.schema) >= threshold:
                        break
                    total += count
                    upper = bound(index, self.schema)
                    if upper > threshold:
                        if count:
                            # A populated bucket is absorbed whole; what was counted before may then be too little.
                            threshold, again = upper, redo
                        break
        return total, threshold

    def laid_out(self, schema: int, threshold: float, custom: tuple[float, ...]) -> "FloatHistogram":
        """The same observations with a coarser resolution, a wider zero bucket, or only some of the bounds."""
        if self.is_custom:
            return self if custom == self.custom else self._on_bounds(custom)
        positive, negative, zero = self.positive, self.negative, self.zero_count
        if threshold != self.zero_threshold:
            moved, positive = _beyond(positive, self.schema, threshold)
            also, negative = _beyond(negative, self.schema, threshold)
            zero += moved + also
        if schema != self.schema:
            positive, negative = _coarser(positive, self.schema - schema), _coarser(negative, self.schema - schema)
        return replace(
            self, schema=schema, zero_threshold=threshold, zero_count=zero, positive=positive, negative=negative
        )

    def _on_bounds(self, custom: tuple[float, ...]) -> "FloatHistogram":
        counts = np.zeros(len(custom) + 1)
        for index, count in self.positive.items():
            upper = bound(index, CUSTOM_SCHEMA, self.custom)
            counts[int(np.searchsorted(custom, upper, side="left"))] += count
        return replace(self, positive=Side(0, counts).trimmed(), custom=custom)

    # Combining

    def plus(self, other: "FloatHistogram", sign: float = 1.0) -> "Combined":
        """Sum of both (difference for `sign` -1); IncompatibleError if one has custom buckets and one has not."""
        left, right, reconciled = aligned(self, other)
        hint, collision = combined_hint(self.hint, other.hint)
        with np.errstate(all="ignore"):
            result = replace(
                left,
                count=left.count + sign * right.count,
                sum=left.sum + sign * right.sum,
                zero_count=left.zero_count + sign * right.zero_count,
                positive=Side(left.positive.offset, left.positive.counts + sign * right.positive.counts).trimmed(),
                negative=Side(left.negative.offset, left.negative.counts + sign * right.negative.counts).trimmed(),
                hint=hint,
            )
        return Combined(result, collision, reconciled)

    def minus(self, other: "FloatHistogram") -> "Combined":
        """Difference, as `plus`."""
        return self.plus(other, -1.0)

    def equals(self, other: "FloatHistogram") -> bool:
        """Same layout, same numbers, all by their bits: NaN equals itself."""
        mine = (self.schema, self.zero_threshold, self.custom, self.positive.offset, self.negative.offset)
        theirs = (other.schema, other.zero_threshold, other.custom, other.positive.offset, other.negative.offset)
        sizes = len(self.positive.counts) == len(other.positive.counts)
        return mine == theirs and sizes and numbers(self).tobytes() == numbers(other).tobytes()

    def resets_after(self, previous: "FloatHistogram") -> bool:
        """Whether this counter began anew after `previous`: by its hint, or because some count fell."""
        if self.hint in (ResetHint.RESET, ResetHint.NOT_RESET):
            return self.hint is ResetHint.RESET
        if self.count < previous.count:
            return True
        if self.is_custom:
            if not previous.is_custom:
                return True
            if self.custom != previous.custom:
                common = _common_bounds(self.custom, previous.custom)
                return _fell(self._on_bounds(common).positive, previous._on_bounds(common).positive)
            return _fell(self.positive, previous.positive)
        if self.schema > previous.schema or previous.is_custom or self.zero_threshold < previous.zero_threshold:
            return True
        zero, threshold = previous.zero_count_for(self.zero_threshold)
        if threshold != self.zero_threshold or self.zero_count < zero:
            return True
        before = previous.laid_out(self.schema, self.zero_threshold, ())
        now = self.laid_out(self.schema, self.zero_threshold, ())
        return _fell(now.positive, before.positive) or _fell(now.negative, before.negative)


@dataclass(frozen=True, slots=True, eq=False)
class Combined:
    """A sum or difference; whether counter reset hints contradicted, whether custom bounds had to be reconciled."""

    histogram: FloatHistogram
    collision: bool
    reconciled: bool


def combined_hint(left: ResetHint, right: ResetHint) -> tuple[ResetHint, bool]:
    """The hint of a sum, and whether the operands' hints contradict each other."""
    if left is right or left is ResetHint.GAUGE:
        return left, False
    if right is ResetHint.GAUGE:
        return right, False
    return ResetHint.UNKNOWN, ResetHint.UNKNOWN not in (left, right)


def aligned(left: FloatHistogram, right: FloatHistogram) -> tuple[FloatHistogram, FloatHistogram, bool]:
    """Both in one layout, with buckets of the same indexes; whether custom bounds had to be reconciled."""
    if left.is_custom != right.is_custom:
        raise IncompatibleError("histograms with exponential and custom buckets cannot be combined")
    reconciled = False
    if left.is_custom:
        custom = left.custom
        if left.custom != right.custom:
            custom, reconciled = _common_bounds(left.custom, right.custom), True
        left, right = left.laid_out(CUSTOM_SCHEMA, 0.0, custom), right.laid_out(CUSTOM_SCHEMA, 0.0, custom)
    else:
        threshold = max(left.zero_threshold, right.zero_threshold)
        while True:
            wider = right.zero_count_for(left.zero_count_for(threshold)[1])[1]
            if wider == threshold:
                break
            threshold = wider
        schema = min(left.schema, right.schema)
        left, right = left.laid_out(schema, threshold, ()), right.laid_out(schema, threshold, ())
    positive = _span(left.positive, right.positive)
    negative = _span(left.negative, right.negative)
    return padded(left, positive, negative), padded(right, positive, negative), reconciled


def padded(histogram: FloatHistogram, positive: tuple[int, int], negative: tuple[int, int]) -> FloatHistogram:
    """The same with sides that reach from index to index (end exclusive)."""
    return replace(
        histogram,
        positive=Side(positive[0], histogram.positive.within(*positive)),
        negative=Side(negative[0], histogram.negative.within(*negative)),
    )


def _span(left: Side, right: Side) -> tuple[int, int]:
    sides = [s for s in (left, right) if len(s.counts)]
    if not sides:
        return 0, 0
    return min(s.offset for s in sides), max(s.offset + len(s.counts) for s in sides)


def _beyond(side: Side, schema: int, threshold: float) -> tuple[float, Side]:
    """Observations of buckets that lie below `threshold`, and the buckets above it."""
    kept = 0
    while kept < len(side.counts) and bound(side.offset + kept, schema) <= threshold:
        kept += 1
    return float(side.counts[:kept].sum()), Side(side.offset + kept, side.counts[kept:]).trimmed()


def _coarser(side: Side, levels: int) -> Side:
    """Two to the power of `levels` buckets joined to one."""
    if not len(side.counts):
        return side
    index = ((np.arange(side.offset, side.offset + len(side.counts), dtype=np.int64) - 1) >> levels) + 1
    counts = np.zeros(int(index[-1] - index[0]) + 1)
    np.add.at(counts, index - index[0], side.counts)
    return Side(int(index[0]), counts)


def _common_bounds(left: tuple[float, ...], right: tuple[float, ...]) -> tuple[float, ...]:
    other = set(right)
    return tuple(x for x in left if x in other)


def _fell(now: Side, before: Side) -> bool:
    low, high = _span(now, before)
    return bool((now.within(low, high) < before.within(low, high)).any())


def detected_hints(samples: Sequence[FloatHistogram | None], resets: bool = False) -> list[FloatHistogram | None]:
    """Histograms of one series in order of time, with hints as Prometheus's storage answers them.

    A sample that follows another without a reset says so; others know nothing (with `resets` they say that there was
    one), nor does what follows a gauge, a float or a staleness marker (None). Hints that came with a sample stay.
    """
    out: list[FloatHistogram | None] = []
    previous: FloatHistogram | None = None
    for sample in samples:
        told = sample
        silent = sample is not None and sample.hint is ResetHint.UNKNOWN
        if sample is not None and silent and previous is not None and previous.hint is not ResetHint.GAUGE:
            if not sample.resets_after(previous):
                told = sample.with_hint(ResetHint.NOT_RESET)
            elif resets:
                told = sample.with_hint(ResetHint.RESET)
        out.append(told)
        previous = sample
    return out


class Accumulator:
    """Compensated sum of histograms, sample after sample, and their mean."""

    def __init__(self, first: FloatHistogram) -> None:
        self._total = first
        self._lost: FloatHistogram | None = None
        self._all = [first]
        self.count = 1
        self.reconciled = False
        self.hints = {first.hint}

    @classmethod
    def resumed(cls, total: FloatHistogram, lost: FloatHistogram, count: int, hints: set[ResetHint]) -> "Accumulator":
        """One that took `count` histograms elsewhere, which `mean` must not be asked of if they overflow."""
        found = cls(total)
        found._lost, found.count, found.hints = lost if count > 1 else None, count, set(hints)
        return found

    @property
    def collision(self) -> bool:
        """Whether both a reset and its absence were claimed."""
        return {ResetHint.RESET, ResetHint.NOT_RESET} <= self.hints

    def add(self, other: FloatHistogram) -> None:
        """Take one more into account; IncompatibleError as FloatHistogram.plus."""
        left, right, reconciled = aligned(self._total, other)
        hint, _ = combined_hint(self._total.hint, other.hint)
        lost = self._lost or replace(left, count=0.0, sum=0.0, zero_count=0.0, positive=EMPTY_SIDE, negative=EMPTY_SIDE)
        lost = lost.laid_out(left.schema, left.zero_threshold, left.custom)
        positive = (left.positive.offset, left.positive.offset + len(left.positive.counts))
        negative = (left.negative.offset, left.negative.offset + len(left.negative.counts))
        lost = padded(lost, positive, negative)
        one, two, comp = numbers(left), numbers(right), numbers(lost)
        with np.errstate(all="ignore"):
            total = one + two
            rest = np.where(np.abs(one) >= np.abs(two), (one - total) + two, (two - total) + one)
            rest = np.where(np.isinf(total), 0.0, comp + rest)
        self._total = _with_numbers(left, total).with_hint(hint)
        self._lost = _with_numbers(left, rest)
        self.reconciled |= reconciled
        self.hints.add(other.hint)
        self._all.append(other)
        self.count += 1

    def sum(self) -> FloatHistogram:
        """The sum."""
        return _compact(self._total if self._lost is None else _joined(self._total, self._lost))

    def mean(self) -> FloatHistogram:
        """The mean; computed from shares where the sum overflows."""
        if np.isinf(numbers(self._total)).any():
            shares = [x.divided(self.count) for x in self._all]
            total = Accumulator(shares[0])
            for share in shares[1:]:
                total.add(share)
            return total.sum()
        if self._lost is None:
            return _compact(self._total)
        return _compact(_joined(self._total.divided(self.count), self._lost.divided(self.count)))


def _joined(total: FloatHistogram, lost: FloatHistogram) -> FloatHistogram:
    left, right, _ = aligned(total, lost)
    return _with_numbers(left, numbers(left) + numbers(right))


def numbers(histogram: FloatHistogram) -> Counts:
    """Count, sum, zero count, then the positive and the negative buckets."""
    head = (histogram.count, histogram.sum, histogram.zero_count)
    return np.concatenate([head, histogram.positive.counts, histogram.negative.counts])


def _with_numbers(histogram: FloatHistogram, values: Counts) -> FloatHistogram:
    middle = 3 + len(histogram.positive.counts)
    return replace(
        histogram,
        count=float(values[0]),
        sum=float(values[1]),
        zero_count=float(values[2]),
        positive=Side(histogram.positive.offset, values[3:middle]),
        negative=Side(histogram.negative.offset, values[middle:]),
    )


def _compact(histogram: FloatHistogram) -> FloatHistogram:
    return replace(histogram, positive=histogram.positive.trimmed(), negative=histogram.negative.trimmed())
