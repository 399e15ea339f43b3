"""Quantile, fraction, variance and trimming of native histograms, as in Prometheus."""

import math
from dataclasses import replace

from common.histogram import Bucket, FloatHistogram, Side


def _sided(histogram: FloatHistogram, bucket: Bucket) -> Bucket:
    """The zero bucket of a histogram with buckets on one side only begins or ends at zero."""
    if not len(histogram.negative.counts) and len(histogram.positive.counts):
        return replace(bucket, lower=0.0)
    if not len(histogram.positive.counts) and len(histogram.negative.counts):
        return replace(bucket, upper=0.0)
    return bucket


def quantile(q: float, histogram: FloatHistogram) -> tuple[float, str]:
    """Quantile `q`, and what is to be said about NaN observations: "", "result" (it is NaN) or "skewed"."""
    if q < 0:
        return -math.inf, ""
    if q > 1:
        return math.inf, ""
    if histogram.count == 0 or math.isnan(q):
        return math.nan, ""
    forward = math.isnan(histogram.sum) or q < 0.5
    buckets = list(histogram.buckets())
    ordered = buckets if forward else buckets[::-1]
    rank = (q if forward else 1 - q) * histogram.count
    count = 0.0
    bucket = Bucket(0.0, 0.0, 0.0, False, False)
    seen = 0
    for bucket in ordered:
        seen += 1
        if not bucket.count:
            continue
        count += bucket.count
        if count >= rank:
            break
    if histogram.is_custom:
        if bucket.lower == -math.inf:
            if bucket.upper <= 0:
                return bucket.upper, ""
            bucket = replace(bucket, lower=0.0)
        elif bucket.upper == math.inf:
            return bucket.lower, ""
    elif bucket.lower < 0 < bucket.upper:
        bucket = _sided(histogram, bucket)
    count = min(count, histogram.count)
    if count < rank:
        return (math.nan, "result") if math.isnan(histogram.sum) else (bucket.upper, "")
    rank = rank - (count - bucket.count) if forward else count - rank
    note = ""
    if math.isnan(histogram.sum) and count + sum(b.count for b in ordered[seen:]) < histogram.count:
        note = "skewed"
    share = rank / bucket.count if bucket.count else math.nan
    return _between(histogram, bucket, share), note


def _between(histogram: FloatHistogram, bucket: Bucket, share: float) -> float:
    if histogram.is_custom or (bucket.lower <= 0 <= bucket.upper):
        return bucket.lower + (bucket.upper - bucket.lower) * share
    low, high = math.log2(abs(bucket.lower)), math.log2(abs(bucket.upper))
    if bucket.lower > 0:
        return float(2.0 ** (low + (high - low) * share))
    return -float(2.0 ** (high + (low - high) * (1 - share)))


def fraction(lower: float, upper: float, histogram: FloatHistogram) -> tuple[float, bool]:
    """The share of observations between `lower` and `upper`, and whether NaN observations were left out."""
    if histogram.count == 0 or math.isnan(lower) or math.isnan(upper):
        return math.nan, False
    if lower >= upper:
        return 0.0, False
    buckets = list(histogram.buckets())
    ranks: list[float | None] = [None, None]
    rank = 0.0
    for bucket in buckets:
        zero = bucket.lower <= 0 <= bucket.upper
        if zero:
            bucket = _sided(histogram, bucket)
        for number, value in enumerate((lower, upper)):
            if ranks[number] is None and bucket.lower >= value:
                ranks[number] = rank
        for number, value in enumerate((lower, upper)):
            if ranks[number] is None and bucket.lower < value < bucket.upper:
                ranks[number] = rank + _below(histogram, bucket, value, zero, rank)
        if None not in ranks:
            break
        rank += bucket.count
    total, missing = histogram.count, False
    if math.isnan(histogram.sum):
        total = sum(bucket.count for bucket in buckets)
        missing = total < histogram.count
    low, high = (total if r is None or r > total else r for r in ranks)
    return (high - low) / histogram.count, missing


def _below(histogram: FloatHistogram, bucket: Bucket, value: float, zero: bool, rank: float) -> float:
    """How many of a bucket's observations lie below `value`."""
    if histogram.is_custom or zero:
        if bucket.lower == -math.inf:
            return bucket.count - rank
        return bucket.count * (value - bucket.lower) / (bucket.upper - bucket.lower)
    return bucket.count * _log_share(bucket, value)


def _log_share(bucket: Bucket, value: float) -> float:
    low, high, at = (math.log2(abs(x)) for x in (bucket.lower, bucket.upper, value))
    return (at - low) / (high - low) if value > 0 else 1 - (at - high) / (low - high)


def variance(histogram: FloatHistogram) -> float:
    """Estimated population variance: each bucket counts at its geometric (custom: arithmetic) mean."""
    if histogram.count == 0:
        return math.nan
    mean = histogram.sum / histogram.count
    total = lost = 0.0
    for bucket in histogram.buckets():
        if not bucket.count:
            continue
        if histogram.is_custom:
            value = (bucket.upper + bucket.lower) / 2.0
        elif bucket.lower <= 0 <= bucket.upper:
            value = 0.0
        else:
            value = math.copysign(math.sqrt(bucket.upper * bucket.lower), bucket.upper)
        term = bucket.count * (value - mean) * (value - mean)
        new = total + term
        if not math.isinf(new):
            lost += (total - new) + term if abs(total) >= abs(term) else (term - new) + total
        total = new
    return (total + lost) / histogram.count


def trimmed(histogram: FloatHistogram, limit: float, upper: bool) -> FloatHistogram:
    """Without the observations above `limit` (`upper`) or below it; the sum is estimated anew if any went."""
    count = total = 0.0
    changed = False
    sides: list[Side] = []
    for positive in (True, False):
        half = histogram.positive if positive else histogram.negative
        counts = half.counts.copy()
        buckets = list(histogram.positive_buckets()) if positive else _negative_buckets(histogram)
        for number, bucket in enumerate(buckets):
            if not bucket.count:
                continue
            keep, middle = _kept(bucket, limit, upper, positive, histogram.is_custom)
            changed |= keep != bucket.count or (not math.isfinite(bucket.lower) and middle == limit)
            changed |= not math.isfinite(bucket.upper) and middle == limit
            counts[number] = keep
            count += keep
            total += keep * middle
        sides.append(Side(half.offset, counts).trimmed())
    zero = histogram.zero_count
    if zero > 0:
        bucket = Bucket(-histogram.zero_threshold, histogram.zero_threshold, zero, True, True)
        bucket = _sided(histogram, bucket)
        zero, middle = _kept(bucket, limit, upper, positive=True, linear=True)
        changed |= zero != bucket.count
        count += zero
        total += zero * middle
    if not changed:
        return histogram
    return replace(histogram, count=count, sum=total, zero_count=zero, positive=sides[0], negative=sides[1])


def _negative_buckets(histogram: FloatHistogram) -> list[Bucket]:
    """The negative buckets away from zero, as their counts are stored."""
    plain = replace(histogram, zero_threshold=0.0, zero_count=0.0, positive=Side(0, histogram.positive.counts[:0]))
    return list(plain.buckets())[::-1]


def _kept(bucket: Bucket, limit: float, upper: bool, positive: bool, linear: bool) -> tuple[float, float]:
    """How many observations of a bucket stay, and the value that stands for them."""
    if math.isinf(bucket.lower) or math.isinf(bucket.upper):
        return _kept_of_infinite(bucket, limit, upper)
    low, high = (bucket.lower, min(bucket.upper, limit)) if upper else (max(bucket.lower, limit), bucket.upper)
    if low >= high or math.isnan(limit):
        return 0.0, 0.0
    if linear:
        middle = (low + high) / 2
    else:
        middle = math.copysign(math.sqrt(abs(low) * abs(high)), 1.0 if positive else -1.0)
    if (low, high) == (bucket.lower, bucket.upper):
        return bucket.count, middle
    under = bucket.count * _share_below(bucket, limit, linear)
    return (under if upper else bucket.count - under), middle


def _share_below(bucket: Bucket, limit: float, linear: bool) -> float:
    return (limit - bucket.lower) / (bucket.upper - bucket.lower) if linear else _log_share(bucket, limit)


def _kept_of_infinite(bucket: Bucket, limit: float, upper: bool) -> tuple[float, float]:
    """As `_kept`: the lowest custom bucket begins at zero if it reaches above; what has no bounds goes whole."""
    if math.isinf(bucket.lower) and math.isinf(bucket.upper):
        return (bucket.count if limit == (math.inf if upper else -math.inf) else 0.0), 0.0
    if math.isinf(bucket.upper):
        if upper:
            return (bucket.count if limit == math.inf else 0.0), bucket.lower
        return (bucket.count, max(bucket.lower, limit)) if limit < math.inf else (0.0, 0.0)
    if bucket.upper > 0:
        if limit == -math.inf and not upper:
            return bucket.count, bucket.upper / 2
        if limit < 0:
            return 0.0, 0.0
        return _kept(replace(bucket, lower=0.0), limit, upper, positive=True, linear=True)
    if upper:
        return (bucket.count, min(bucket.upper, limit)) if limit > -math.inf else (0.0, 0.0)
    return (bucket.count if limit == -math.inf else 0.0), bucket.upper
