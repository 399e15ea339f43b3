"""Queries on native histograms through HTTP: Bramble beside Prometheus 3, on histograms as Go's client makes them.

usage: python -m tests.bench.native_histograms --peers DIR --work DIR [--series 200] [--hours 6] [--rounds 5]

DIR of --peers is what peers.sh made; --work keeps both stores, so that a second run need not load again. Both take the
same remote-write 1.0 requests of integer histograms: latencies of resolution 3 whose buckets grow with time, counters
that fall to half now and then (not to nothing: Prometheus 3.5 doesn't know that histograms begin at zero, as Bramble
does), and every tenth series goes down to resolution 2 for the last third. How queries are timed
and what is held against Prometheus's is said in query.py; of histograms all counts, sums and bounds are compared.
"""

import argparse
import json
import shutil
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cramjam
import numpy as np

from common.histogram import FloatHistogram, Side, bound
from common.labels import Labels
from common.remote.read import encode_result, encode_series
from tests.bench.query import (
    HOUR,
    SETTLE_SECONDS,
    Rows,
    Server,
    Shape,
    difference,
    geomean,
    measure,
    servers,
)
from tests.bench.query_data import HEADERS

STEP = 15_000
WRITE_SLOTS, WRITE_SERIES = 40, 20
"""Samples of a series, and series, in one request."""
FLAGS = {"prometheus": ["--enable-feature=native-histograms"]}

QUERIES = {
    "quantile(sum(rate))": "histogram_quantile(0.9, sum(rate(h[5m])))",
    "quantile(sum by (rate))": "histogram_quantile(0.9, sum by (job)(rate(h[5m])))",
    "quantile(rate)": "histogram_quantile(0.9, rate(h[5m]))",
    "quantile of each": "histogram_quantile(0.5, h)",
    "count(rate)": "histogram_count(rate(h[5m]))",
    "sum / count": "histogram_sum(rate(h[5m])) / histogram_count(rate(h[5m]))",
    "avg": "histogram_avg(h)",
    "avg(sum by (rate))": "histogram_avg(sum by (job)(rate(h[5m])))",
    "stddev(rate)": "histogram_stddev(rate(h[5m]))",
    "fraction(rate)": "histogram_fraction(0, 0.2, rate(h[5m]))",
    "fraction(sum(rate))": "histogram_fraction(0, 0.2, sum(rate(h[5m])))",
    "quantile(increase[1h])": "histogram_quantile(0.99, sum by (job)(increase(h[1h])))",
    "count(sum_over_time)": "histogram_count(sum_over_time(h[5m]))",
    "count(avg_over_time)": "histogram_count(avg_over_time(h[5m]))",
    "rate, few": 'rate(h{group="3"}[5m])',
    "rate * 60, few": 'rate(h{group="3"}[5m]) * 60',
    "sum by": "sum by (job)(h)",
    "avg by (rate)": "avg by (job)(rate(h[5m]))",
    "selector, few": 'h{group="3"}',
    "count of all": "count(h)",
}


@dataclass(frozen=True)
class Load:
    """Sizes of what is loaded; `start` in ms."""

    series: int
    slots: int
    start: int

    @property
    def end(self) -> int:
        """ms where the slots end."""
        return self.start + self.slots * STEP

    def labels(self, number: int) -> Labels:
        """The label set of a series; ten have the same group."""
        return Labels.of(
            {
                "__name__": "h",
                "group": str(number % max(1, self.series // 10)),
                "instance": f"pi-{number:03d}:8080",
                "job": f"job-{number % 4}",
            }
        )

    def histograms(self, number: int) -> list[FloatHistogram]:
        """The samples of a series."""
        rng = np.random.default_rng(number)
        index = np.arange(-64, 33)
        middle = rng.uniform(0.01, 0.2)
        weights = np.exp(-0.5 * ((index / 8 - np.log2(middle)) / 1.2) ** 2)
        pace = rng.uniform(2, 60)
        fresh = rng.multinomial(rng.poisson(pace, self.slots), weights / weights.sum())
        # What came in the hour before.
        fresh[0] += rng.multinomial(int(pace * 240), weights / weights.sum())
        values = np.array([bound(at, 3) for at in index.tolist()])
        # In whole units of 2**-20, so that sums are exact.
        sums = np.rint(fresh @ values * 2**20) / 2**20
        counts, sums = np.cumsum(fresh, axis=0).astype(np.float64), np.cumsum(sums)
        for reset in np.flatnonzero(rng.random(self.slots) < 0.0005).tolist():
            counts[reset:] -= np.floor(counts[reset] / 2)
            sums[reset:] -= np.floor(sums[reset] / 2)
        out = [
            FloatHistogram(3, float(row.sum()), float(total), 0.0, 2.0**-128, Side(-64, row).trimmed())
            for row, total in zip(counts, sums, strict=True)
        ]
        if number % 10 == 7:
            for at in range(2 * self.slots // 3, self.slots):
                out[at] = out[at].laid_out(2, 2.0**-128, ())
        return out

    def requests(self) -> Iterator[bytes]:
        """Remote-write bodies in order of time."""
        samples = [self.histograms(number) for number in range(self.series)]
        labels = [self.labels(number) for number in range(self.series)]
        none = np.empty(0, np.int64), np.empty(0)
        for low in range(0, self.slots, WRITE_SLOTS):
            for first in range(0, self.series, WRITE_SERIES):
                yield encode_result(
                    encode_series(
                        labels[number],
                        *none,
                        [
                            (self.start + at * STEP, samples[number][at])
                            for at in range(low, min(low + WRITE_SLOTS, self.slots))
                        ],
                        integers=True,
                    )
                    for number in range(first, min(first + WRITE_SERIES, self.series))
                )


def load(args: argparse.Namespace, names: list[str]) -> Load:
    """Make the data and write it to servers whose stores `work` has not."""
    work: Path = args.work
    work.mkdir(parents=True, exist_ok=True)
    about = work / "load.json"
    if not about.exists():
        start = int(time.time()) // (6 * HOUR) * 6 * HOUR - 6 * HOUR
        about.write_text(json.dumps([args.series, int(args.hours * HOUR * 1000 / STEP), start * 1000]))
    made = Load(*json.loads(about.read_text()))
    missing = [name for name in names if not (work / f"{name}.loaded").exists()]
    for name in missing:
        shutil.rmtree(work / name, ignore_errors=True)
    if missing:
        used = dict.fromkeys(missing, 0.0)
        with servers(missing, args.peers, work, FLAGS) as started:
            for body in made.requests():
                packed = bytes(cramjam.snappy.compress_raw(body))
                for server in started.values():
                    before = server.cpu()
                    request = urllib.request.Request(f"{server.url}/api/v1/write", packed, HEADERS)
                    with urllib.request.urlopen(request, timeout=120):
                        pass
                    used[server.name] += server.cpu() - before
            time.sleep(SETTLE_SECONDS)
            for name, server in started.items():
                each = used[name] / (made.series * made.slots) * 1e6
                print(f"{name}: {each:.1f} us of CPU a histogram written, peak {server.peak():.0f} MB", file=sys.stderr)
    for name in missing:
        (work / f"{name}.loaded").touch()
    return made


def shapes(made: Load) -> list[Shape]:
    """The whole time in steps of a minute, and an instant, off the samples' grid."""
    start, end = made.start / 1000 + 7.3, made.end / 1000 - 11.7
    ranged = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": "60"}
    return [
        Shape("range/60s", "/api/v1/query_range", ranged),
        Shape("instant", "/api/v1/query", {"time": f"{end - 60:.3f}"}),
    ]


def _numbers(histogram: Mapping[str, object]) -> list[float]:
    buckets: list[list[str]] = histogram.get("buckets", [])  # type: ignore[assignment]
    return [float(str(histogram["count"])), float(str(histogram["sum"])), *(float(n) for b in buckets for n in b)]


def decode(body: bytes) -> Rows:
    """Times and values by label set; every number of a histogram stands with its time."""
    found: Rows = {}
    for item in json.loads(body)["data"]["result"]:
        points = [(at, [float(value)]) for at, value in item.get("values", [])]
        points += [(at, _numbers(each)) for at, each in item.get("histograms", [])]
        if "value" in item:
            points.append((item["value"][0], [float(item["value"][1])]))
        if "histogram" in item:
            points.append((item["histogram"][0], _numbers(item["histogram"][1])))
        times = np.repeat([at for at, _ in points], [len(numbers) for _, numbers in points])
        found[tuple(sorted(item["metric"].items()))] = times, np.array([n for _, numbers in points for n in numbers])
    return found


def table(started: dict[str, Server], shape: Shape, args: argparse.Namespace, cold: bool) -> Iterator[str]:
    """Lines of one table: ms of each server and what Prometheus takes for each of Bramble's."""
    yield f"\n### {shape.name}, {'cold' if cold else 'warm'}\n"
    yield "| query | Bramble ms (CPU ms) | Prometheus ms (CPU ms) | Prometheus ÷ Bramble | CPU | ± |"
    yield "|---|---:|---:|---:|---:|---:|"
    ratios, cpus = [], []
    for name, query in QUERIES.items():
        if args.only and args.only not in name:
            continue
        timings = measure(started, query, shape, args.rounds, cold)
        mine, theirs = timings["bramble"], timings["prometheus"]
        used = [sorted(each.cpu)[len(each.cpu) // 2] for each in (mine, theirs)]
        ratios.append(theirs.median / mine.median)
        cpus.append(used[1] / used[0])
        cells = f"{mine.median * 1e3:.1f} ({used[0] * 1e3:.1f}) | {theirs.median * 1e3:.1f} ({used[1] * 1e3:.1f})"
        spread = max(mine.spread, theirs.spread)
        yield f"| {name} | {cells} | {ratios[-1]:.2f} | {cpus[-1]:.2f} | {spread:.0%} |"
    if not ratios:
        return
    yield f"\nGeometric mean: time {geomean(ratios):.2f} (least {min(ratios):.2f}), CPU {geomean(cpus):.2f}."


def compare(started: dict[str, Server], made: Load, args: argparse.Namespace) -> Iterator[str]:
    """Where results differ from Prometheus's."""
    for shape in shapes(made):
        if args.shape and args.shape != shape.name:
            continue
        for name, query in QUERIES.items():
            if args.only and args.only not in name:
                continue
            form = {**shape.form, "query": query}
            found = [decode(started[each].call(shape.path, form)) for each in ("bramble", "prometheus")]
            unequal = difference(*found)
            if unequal or not found[1]:
                yield f"{name}, {shape.name}: {unequal or 'no result'}"


def _disk(path: Path) -> float:
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--series", type=int, default=200)
    parser.add_argument("--hours", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="only queries whose name holds this")
    parser.add_argument("--shape", default="", help="only this one of range/60s, instant")
    parser.add_argument("--warm-only", action="store_true")
    args = parser.parse_args()
    args.work, args.peers = args.work.resolve(), args.peers.resolve()
    names = ["bramble", "prometheus"]
    made = load(args, names)
    with servers(names, args.peers, args.work, FLAGS) as started:
        print(f"## Native histograms: {made.series} series, {made.slots} samples each, {args.rounds} rounds\n")
        unequal = list(compare(started, made, args))
        print("Results: " + ("all equal to Prometheus's." if not unequal else "; ".join(unequal)), flush=True)
        for cold in (False,) if args.warm_only else (False, True):
            for shape in shapes(made):
                if args.shape and args.shape != shape.name:
                    continue
                for line in table(started, shape, args, cold):
                    print(line, flush=True)
        print("\nPeak memory, MB: " + ", ".join(f"{each.name} {each.peak():.0f}" for each in started.values()))
        print("On disk, MB: " + ", ".join(f"{name} {_disk(args.work / name):.1f}" for name in names))


if __name__ == "__main__":
    main()
