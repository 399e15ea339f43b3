"""Random samples for comparing answers: floats, classic and native histograms, with gaps, resets and odd values."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from common.histogram import CUSTOM_SCHEMA, FloatHistogram, ResetHint, side
from common.labels import Labels
from common.remote import snappy
from common.remote.read import encode_result, encode_series
from common.sample import STALE_NAN

BEGIN = 1_700_000_400
"""Seconds; the first sample's time."""
EVERY, COUNT = 30, 600
"""Seconds between samples, and how many there are at most of a series: five hours."""
END = BEGIN + EVERY * COUNT
WINDOW = 1_800_000
"""Milliseconds that one request of remote write spans."""

Histograms = list[tuple[int, FloatHistogram | None]]
Times = NDArray[np.int64]


def _times(rng: random.Random, jitter: int) -> Times:
    """Times of a series, ms: some begin late, end early or have gaps."""
    times = (BEGIN + EVERY * np.arange(COUNT, dtype=np.int64)) * 1000
    if jitter:
        times += np.array([rng.randrange(-jitter, jitter) for _ in times], np.int64)
    first = rng.choice((0, 0, 0, rng.randrange(COUNT)))
    last = rng.choice((COUNT, COUNT, COUNT, rng.randrange(first, COUNT)))
    keep = np.zeros(COUNT, np.bool_)
    keep[first:last] = True
    for _ in range(rng.randrange(3)):
        gap = rng.randrange(COUNT)
        keep[gap : gap + rng.randrange(1, 40)] = False
    return times[keep]


def _with_markers(rng: random.Random, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Some staleness markers put in."""
    for _ in range(rng.randrange(3) if len(values) else 0):
        values[rng.randrange(len(values))] = STALE_NAN
    return values


def _ones(_: random.Random, count: int) -> NDArray[np.float64]:
    return np.ones(count)


def _walk(rng: random.Random, count: int) -> NDArray[np.float64]:
    kind = rng.randrange(5)
    if kind == 0:
        return np.full(count, float(rng.randrange(-3, 4)))
    steps = np.array([float(rng.randrange(-3, 4)) for _ in range(count)])
    if kind == 1:
        return steps
    values = np.cumsum(steps)
    if kind == 2:
        for _ in range(8 if count else 0):
            values[rng.randrange(count)] = rng.choice((math.nan, math.inf, -math.inf, -0.0, 1e300, -1e300))
    return values / rng.choice((1, 2, 10))


def _counter(rng: random.Random, count: int) -> NDArray[np.float64]:
    values = np.cumsum(np.array([float(rng.choice((0, 0, 1, 2, 7))) for _ in range(count)]))
    for _ in range(rng.randrange(4) if count else 0):
        at = rng.randrange(count)
        values[at:] -= values[at]
    return values / rng.choice((1, 1, 8))


def _histograms(rng: random.Random, times: Times, custom: bool, gauge: bool) -> Histograms:
    """Native histograms that grow, with resets, other layouts and staleness markers between."""
    bounds = rng.choice(((-1.0, 0.5, 2.0), (0.1, 1.0, 10.0), (0.1, 1.0, 10.0), (0.1, 1.0, 10.0)))
    width = len(bounds) + 1 if custom else rng.randrange(1, 9)
    schema, offset = rng.randrange(-1, 4), rng.randrange(4)
    threshold = rng.choice((0.0, 0.001, 0.25, 0.7))
    # Counts are never so low that it shows that since Prometheus 3.5 they are not extrapolated below zero.
    base = 1e6
    positive, negative = np.full(width, base), np.zeros(rng.choice((0, 0, 3)) if not custom else 0)
    zero = total = 0.0
    out: Histograms = []
    for ms in times.tolist():
        chance = rng.random()
        if chance < 0.01:
            out.append((ms, None))
            continue
        if chance < 0.02 or gauge:
            base *= 1 if gauge else 0.8
            positive, negative, zero, total = np.full(width, base), np.zeros_like(negative), 0.0, 0.0
        elif chance < 0.03 and not custom:
            schema = rng.randrange(-1, 4)
            threshold = rng.choice((threshold, 0.001, 0.25, 0.7))
        positive = positive + np.array([float(rng.choice((0, 0, 1, 3))) for _ in positive])
        # Prometheus tells whether there are negative ones by the buckets of neighbours, too.
        negative = negative + np.array([float(rng.choice((1, 2))) for _ in negative])
        if threshold and not custom:
            zero += float(rng.choice((0, 0, 1)))
        total += float(rng.randrange(-2, 9)) / 4
        found = FloatHistogram(
            schema=CUSTOM_SCHEMA if custom else schema,
            count=float(positive.sum() + negative.sum() + zero),
            sum=total,
            zero_count=zero,
            zero_threshold=0.0 if custom else threshold,
            positive=side(0 if custom else offset, positive),
            negative=side(0 if custom else offset, negative),
            custom=bounds if custom else (),
            hint=ResetHint.GAUGE if gauge else ResetHint.UNKNOWN,
        )
        out.append((ms, found))
    return out


def _with_nan(histogram: FloatHistogram | None) -> FloatHistogram | None:
    """The same, having observed NaN."""
    return histogram and replace(histogram, count=histogram.count * 1.25, sum=math.nan)


Make = Callable[[random.Random, int], NDArray[np.float64]]
Series = tuple[Labels, Times, NDArray[np.float64], Histograms]


def series(seed: int) -> Iterator[Series]:
    """What both servers are given."""
    rng = random.Random(seed)

    def floats(make: Make, jitter: int = 0, **labels: str) -> Series:
        times = _times(rng, jitter)
        return Labels.of(labels), times, _with_markers(rng, make(rng, len(times))), []

    for job in "ab":
        for instance in "123":
            yield floats(_walk, __name__="g", job=job, instance=instance)
            yield floats(_walk, 9000, __name__="jit", job=job, instance=instance)
            yield floats(_counter, 2000, __name__="c_total", job=job, instance=instance)
            yield floats(_ones, __name__="target_info", job=job, instance=instance, v=rng.choice("xyz"))
            for custom, gauge, name in ((0, 0, "nh"), (0, 1, "nhg"), (1, 0, "nhcb"), (1, 1, "nhcbg")):
                times = _times(rng, 0)
                found = _histograms(rng, times, bool(custom), bool(gauge))
                yield Labels.of(__name__=name, job=job, instance=instance), times[:0], np.zeros(0), found
        for env in ("prod", "dev", ""):
            yield floats(_walk, __name__="many", job=job, env=env, instance="1")
        yield floats(_walk, __name__="one", job=job)
        yield floats(_counter, __name__="same_a", job=job)
        yield floats(_counter, __name__="same_b", job=job)
        yield floats(_ones, __name__="build_info", job=job, instance="1", rev=rng.choice("pq"))
        times = _times(rng, 0)
        natives = _histograms(rng, times, rng.random() < 0.3, False)
        split = [i // (7 if job == "a" else 60) % 2 == 0 for i in range(len(times))]
        kept = np.array(split, np.bool_)
        mixed = [each for each, is_float in zip(natives, split, strict=True) if not is_float]
        yield Labels.of(__name__="mix", job=job), times[kept], _counter(rng, int(kept.sum())), mixed
        times = _times(rng, 0)
        yield Labels.of(__name__="both", job=job), times[:0], np.zeros(0), _histograms(rng, times, False, False)
        yield floats(_counter, __name__="both", job=job, le="1")
        yield floats(_counter, __name__="both", job=job, le="+Inf")
        times = _times(rng, 0)
        observed = [(ms, _with_nan(each)) for ms, each in _histograms(rng, times, False, False)]
        yield Labels.of(__name__="nhnan", job=job), times[:0], np.zeros(0), observed
        times = _times(rng, 0)
        total = np.zeros(len(times))
        for le in ("0.1", "0.5", "1", "1.0e1", "+Inf"):
            total = total + np.cumsum([float(rng.choice((0, 0, 1))) for _ in times])
            yield Labels.of(__name__="h_bucket", job=job, le=le), times, total.copy(), []
        yield Labels.of(__name__="h_count", job=job), times, total.copy(), []
        yield Labels.of(__name__="h_sum", job=job), times, total * 0.75, []
    yield floats(_counter, __name__="h_bucket", job="c", le="1")
    yield floats(_counter, __name__="h_bucket", job="c", le="2")
    yield floats(_counter, __name__="h_bucket", job="c", le="+Inf")
    yield floats(_counter, __name__="h_bucket", job="d", le="nope")
    yield floats(_counter, __name__="h_bucket", job="d", le="5")
    yield floats(_walk, __name__="utf8.näme", job="a")
    dotted = {"__name__": "g", "job": "a", "instance": "1", "dotted.label": "x y"}
    yield Labels.of(dotted), *floats(_walk)[1:]


def bodies(seed: int) -> Iterator[bytes]:
    """All samples as bodies of remote write, window by window: Prometheus takes none much older than others."""
    every = sorted(series(seed), key=lambda each: each[0])
    for start in range(BEGIN * 1000 - WINDOW, END * 1000, WINDOW):
        made = []
        for labels, times, values, natives in every:
            low, high = np.searchsorted(times, (start, start + WINDOW)).tolist()
            inside = [each for each in natives if start <= each[0] < start + WINDOW]
            if not (len(times) and natives) and (high > low or inside):
                made.append(encode_series(labels, times[low:high], values[low:high], inside))
        yield bytes(snappy.compress(encode_result(made)))
        # Prometheus takes a message's floats before its histograms, and none that is older than what it has.
        for labels, times, values, natives in every:
            if len(times) and natives:
                yield from _mixed(labels, times, values, natives, start)


def _mixed(
    labels: Labels, times: Times, values: NDArray[np.float64], natives: Histograms, start: int
) -> Iterator[bytes]:
    """Bodies of floats only or histograms only, in order of time."""
    samples = sorted([*((ms, True) for ms in times.tolist()), *((ms, False) for ms, _ in natives)])
    inside = [each for each in samples if start <= each[0] < start + WINDOW]
    for floats, run in groupby(inside, key=lambda each: each[1]):
        wanted = [ms for ms, _ in run]
        kept = np.isin(times, wanted) if floats else np.zeros(len(times), np.bool_)
        part = [] if floats else [each for each in natives if each[0] in wanted]
        yield bytes(snappy.compress(encode_result([encode_series(labels, times[kept], values[kept], part)])))
