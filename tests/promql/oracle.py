"""Range functions as straightforward loops over samples: what the vectorised kernels must equal.

A window is a list of (timestamp ms, value) pairs, oldest first; every function takes it with its limits in ms.
"""

import itertools
import math
from collections.abc import Callable, Sequence

Sample = tuple[int, float]
Window = Sequence[Sample]


def kahan(total: float, lost: float, value: float) -> tuple[float, float]:
    """One step of Neumaier's compensated sum."""
    new = total + value
    if math.isinf(new):
        return new, 0.0
    if abs(total) >= abs(value):
        return new, lost + ((total - new) + value)
    return new, lost + ((value - new) + total)


def extrapolated(window: Window, start: int, end: int, counter: bool) -> float | None:
    """Increase over the window, extrapolated to its limits."""
    if len(window) < 2:
        return None
    (first_time, first), (last_time, last) = window[0], window[-1]
    result = last - first
    if counter:
        for (_, before), (_, after) in itertools.pairwise(window):
            if after < before:
                result += before
    sampled = (last_time - first_time) / 1000
    gap = sampled / (len(window) - 1)
    to_start, to_end = (first_time - start) / 1000, (end - last_time) / 1000
    if to_start >= gap * 1.1:
        to_start = gap / 2
    if counter and result > 0 and first >= 0:
        to_start = min(to_start, sampled * (first / result))
    if to_end >= gap * 1.1:
        to_end = gap / 2
    return result * ((sampled + to_start + to_end) / sampled)


def increase(window: Window, start: int, end: int) -> float | None:
    return extrapolated(window, start, end, counter=True)


def delta(window: Window, start: int, end: int) -> float | None:
    return extrapolated(window, start, end, counter=False)


def rate(window: Window, start: int, end: int) -> float | None:
    result = extrapolated(window, start, end, counter=True)
    return None if result is None else result / ((end - start) / 1000)


def irate(window: Window, start: int, end: int) -> float | None:
    if len(window) < 2:
        return None
    (before_time, before), (time, value) = window[-2:]
    rise = value if value < before else value - before
    return rise / ((time - before_time) / 1000)


def idelta(window: Window, start: int, end: int) -> float | None:
    return None if len(window) < 2 else window[-1][1] - window[-2][1]


def changes(window: Window, start: int, end: int) -> float | None:
    if not window:
        return None
    values = [value for _, value in window]
    return float(sum(a != b and not (math.isnan(a) and math.isnan(b)) for a, b in itertools.pairwise(values)))


def resets(window: Window, start: int, end: int) -> float | None:
    values = [value for _, value in window]
    return float(sum(b < a for a, b in itertools.pairwise(values))) if values else None


def sum_over_time(window: Window, start: int, end: int) -> float | None:
    if not window:
        return None
    total = lost = 0.0
    for _, value in window:
        total, lost = kahan(total, lost, value)
    return total if math.isinf(total) else total + lost


def avg_over_time(window: Window, start: int, end: int) -> float | None:
    if not window:
        return None
    total, lost, mean = window[0][1], 0.0, 0.0
    incremental = False
    count = 1.0
    for number, (_, value) in enumerate(window[1:], 2):
        count = float(number)
        if not incremental:
            new, rest = kahan(total, lost, value)
            if not math.isinf(new):
                total, lost = new, rest
                continue
            incremental = True
            mean, lost = total / (count - 1), lost / (count - 1)
        share = (count - 1) / count
        mean, lost = kahan(share * mean, share * lost, value / count)
    return mean + lost if incremental else total / count + lost / count


def _extreme(window: Window, better: Callable[[float, float], bool]) -> float | None:
    if not window:
        return None
    best = window[0][1]
    for _, value in window:
        if better(value, best) or math.isnan(best):
            best = value
    return best


def max_over_time(window: Window, start: int, end: int) -> float | None:
    return _extreme(window, lambda a, b: a > b)


def min_over_time(window: Window, start: int, end: int) -> float | None:
    return _extreme(window, lambda a, b: a < b)


def _time_of(window: Window, better: Callable[[float, float], bool]) -> float | None:
    if not window:
        return None
    when, best = window[0]
    for time, value in window:
        if better(value, best) or math.isnan(best):
            when, best = time, value
    return when / 1000


def ts_of_max_over_time(window: Window, start: int, end: int) -> float | None:
    return _time_of(window, lambda a, b: a >= b)


def ts_of_min_over_time(window: Window, start: int, end: int) -> float | None:
    return _time_of(window, lambda a, b: a <= b)


def ts_of_first_over_time(window: Window, start: int, end: int) -> float | None:
    return window[0][0] / 1000 if window else None


def ts_of_last_over_time(window: Window, start: int, end: int) -> float | None:
    return window[-1][0] / 1000 if window else None


def count_over_time(window: Window, start: int, end: int) -> float | None:
    return float(len(window)) if window else None


def present_over_time(window: Window, start: int, end: int) -> float | None:
    return 1.0 if window else None


def first_over_time(window: Window, start: int, end: int) -> float | None:
    return window[0][1] if window else None


def last_over_time(window: Window, start: int, end: int) -> float | None:
    return window[-1][1] if window else None


def stdvar_over_time(window: Window, start: int, end: int) -> float | None:
    if not window:
        return None
    mean = lost_mean = squares = lost_squares = 0.0
    for count, (_, value) in enumerate(window, 1):
        gap = value - (mean + lost_mean)
        mean, lost_mean = kahan(mean, lost_mean, gap / count)
        squares, lost_squares = kahan(squares, lost_squares, gap * (value - (mean + lost_mean)))
    return (squares + lost_squares) / len(window)


def stddev_over_time(window: Window, start: int, end: int) -> float | None:
    variance = stdvar_over_time(window, start, end)
    return None if variance is None else math.sqrt(variance) if variance >= 0 else math.nan


def quantile(q: float, values: Sequence[float]) -> float:
    """Interpolated quantile, NaN counting as smallest."""
    if not values or math.isnan(q):
        return math.nan
    if q < 0 or q > 1:
        return math.copysign(math.inf, q)
    ordered = sorted(values, key=lambda x: (not math.isnan(x), x if not math.isnan(x) else 0.0))
    rank = q * (len(ordered) - 1)
    lower = math.floor(rank)
    upper = min(len(ordered) - 1, lower + 1)
    weight = rank - math.floor(rank)
    return ordered[lower] * (1 - weight) + ordered[upper] * weight


def mad_over_time(window: Window, start: int, end: int) -> float | None:
    if not window:
        return None
    if any(math.isnan(value) for _, value in window):
        return math.nan
    middle = quantile(0.5, [value for _, value in window])
    return quantile(0.5, [abs(value - middle) for _, value in window])


def regression(window: Window, at: int) -> tuple[float, float]:
    """Slope per second and value at `at` ms."""
    sums = [[0.0, 0.0] for _ in range(4)]
    head = window[0][1]
    for time, value in window:
        x = (time - at) / 1000
        for pair, term in zip(sums, (x, value, x * value, x * x), strict=True):
            pair[0], pair[1] = kahan(pair[0], pair[1], term)
    if all(value == head for _, value in window):
        return (math.nan, math.nan) if math.isinf(head) else (0.0, head)
    x, y, xy, x2 = (total + lost for total, lost in sums)
    n = len(window)
    slope = (xy - x * y / n) / (x2 - x * x / n)
    return slope, y / n - slope * x / n


def deriv(window: Window, start: int, end: int) -> float | None:
    return None if len(window) < 2 else regression(window, window[0][0])[0]


def double_exponential_smoothing(window: Window, smoothing: float, trend: float) -> float | None:
    if len(window) < 2:
        return None
    before, smoothed = 0.0, window[0][1]
    slope = window[1][1] - window[0][1]
    for number, (_, value) in enumerate(window[1:]):
        if number > 0:
            slope = trend * (smoothed - before) + (1 - trend) * slope
        before, smoothed = smoothed, smoothing * value + (1 - smoothing) * (smoothed + slope)
    return smoothed
