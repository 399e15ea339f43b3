"""Micro-benchmark of every family of range functions against the loops of tests/promql/oracle.py.

Run it as `python -m tests.bench.promql_functions`. It prints, by family, CPU time of the loop and of the kernel over
the same rows, and exits with 1 if a kernel differs from its loop or is not faster.
"""

import math
import sys
import time
from collections.abc import Callable

import numpy as np

from common.promql import windows
from common.promql.functions.ranges import RANGE_FUNCTIONS, Window
from tests.promql import oracle

ROWS, SAMPLES, STEPS = 32, 1440, 300
INTERVAL, RANGE = 15_000, 300_000
FAMILIES = {
    "rates": ("rate", "increase", "delta"),
    "instant rates": ("irate", "idelta"),
    "events": ("changes", "resets"),
    "sums": ("sum_over_time", "avg_over_time"),
    "extremes": ("max_over_time", "min_over_time"),
    "edges": ("first_over_time", "last_over_time", "count_over_time", "present_over_time"),
    "times": ("ts_of_max_over_time", "ts_of_min_over_time", "ts_of_first_over_time", "ts_of_last_over_time"),
    "spread": ("stddev_over_time", "stdvar_over_time"),
    "medians": ("mad_over_time",),
    "trends": ("deriv",),
    "quantiles": ("quantile_over_time",),
    "smoothing": ("double_exponential_smoothing",),
}
SCALARS: dict[str, tuple[float, ...]] = {"quantile_over_time": (0.9,), "double_exponential_smoothing": (0.3, 0.6)}

Sample = tuple[int, float]


def loop(name: str, window: list[Sample], start: int, end: int) -> float | None:
    """The oracle's answer for one window."""
    match name:
        case "quantile_over_time":
            return oracle.quantile(0.9, [value for _, value in window]) if window else None
        case "double_exponential_smoothing":
            return oracle.double_exponential_smoothing(window, 0.3, 0.6)
        case _:
            function: Callable[[list[Sample], int, int], float | None] = getattr(oracle, name)
            return function(window, start, end)


def cpu(function: Callable[[], object], repeat: int = 1) -> float:
    """Seconds of CPU for one call."""
    began = time.process_time()
    for _ in range(repeat):
        function()
    return (time.process_time() - began) / repeat


def main() -> int:
    """Run all families; 0 if every kernel equals its loop and is faster."""
    rng = np.random.default_rng(7)
    times = np.arange(SAMPLES, dtype=np.int64) * INTERVAL
    counters = np.cumsum(rng.exponential(1.0, (ROWS, SAMPLES)), axis=1)
    counters[:, SAMPLES // 2 :] -= counters[:, SAMPLES // 2 : SAMPLES // 2 + 1]
    gauges = rng.normal(50.0, 10.0, (ROWS, SAMPLES))
    ends = times[-1] - np.arange(STEPS, dtype=np.int64)[::-1] * 60_000
    starts = ends - RANGE
    lo, hi = windows.bounds(times, starts, ends)
    bad = 0
    print(f"{ROWS} rows x {SAMPLES} samples at {INTERVAL // 1000} s, {STEPS} windows of {RANGE // 60_000} min")
    for family, names in FAMILIES.items():
        slow = fast = 0.0
        for name in names:
            values = counters if RANGE_FUNCTIONS[name].counter or name in ("irate", "resets") else gauges
            args = tuple(np.full(STEPS, x) for x in SCALARS.get(name, ()))
            window = Window(values, times, lo, hi, starts, ends, ends, args)
            kernel = RANGE_FUNCTIONS[name].kernel
            fast += cpu(lambda kernel=kernel, window=window: kernel(window), 5)  # type: ignore[misc]
            samples = [list(zip(times.tolist(), row, strict=True)) for row in values.tolist()]
            began = time.process_time()
            expected = [
                [loop(name, row[a:b], s, e) for a, b, s, e in zip(lo, hi, starts.tolist(), ends.tolist(), strict=True)]
                for row in samples
            ]
            slow += time.process_time() - began
            actual = np.broadcast_to(kernel(window), (ROWS, STEPS))
            wanted = np.array([[math.nan if x is None else x for x in row] for row in expected])
            there = np.broadcast_to(hi - lo >= RANGE_FUNCTIONS[name].least, wanted.shape)
            if not np.allclose(actual[there], wanted[there], rtol=1e-9, atol=1e-9, equal_nan=True):
                print(f"{name}: differs from its loop")
                bad = 1
        faster = slow / fast
        print(f"{family:14s} loop {slow * 1e3:9.1f} ms   kernel {fast * 1e3:7.2f} ms   {faster:7.0f} x")
        bad |= faster <= 1
    return bad


if __name__ == "__main__":
    sys.exit(main())
