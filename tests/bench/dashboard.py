"""A dashboard of query.py's queries through HTTP, again and again: Bramble beside VictoriaMetrics, caches on.

usage: python -m tests.bench.dashboard --peers DIR --gen FILE --work DIR [--targets 10] [--hours 6] [--rounds 10]

First the same six hours at 60 s each time, then with an end that moves on by a step, while each target's next minute of
samples is written to both by remote write before each refresh. Times are whole minutes, as Grafana aligns them. Time
and CPU are measured as in query.py; --work may be shared with it, but what is written here stays in the stores.
VictoriaMetrics keeps its cache although the samples, measured against its clock, are late
(-search.disableAutoCacheReset): else it would forget everything at each refresh.
"""

import argparse
import statistics
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import cramjam
import numpy as np

from common.frames.model import ABSENT
from tests.bench.query import QUERIES, Server, Timing, decode, difference, geomean, load, servers
from tests.bench.query_data import HEADERS, Fleet, pack

STEP = 60
FLAGS = {
    "bramble": ["--web.enable-admin-api", "--web.enable-remote-write-receiver"],
    "victoriametrics": ["-search.disableAutoCacheReset"],
}


class Growth:
    """The next minutes of every target: its last values go on as they did from slot to slot."""

    def __init__(self, fleet: Fleet) -> None:
        self._interval = int(fleet.about["interval_ms"])  # type: ignore[call-overload]
        self._slots = STEP * 1000 // self._interval
        self._targets = []
        for target in range(len(fleet.times)):
            values, cells = fleet.cut(target, fleet.times.shape[1] - 2, fleet.times.shape[1])
            there = (cells != ABSENT).all(axis=1)
            self._targets.append((fleet.heads(target), values[:, 1], values[:, 1] - values[:, 0], there))
        self._times = fleet.times[:, -1].copy()

    def minute(self) -> Iterator[bytes]:
        """Requests with the next minute, packed."""
        ahead = np.arange(1, self._slots + 1)
        for number, (heads, last, rise, there) in enumerate(self._targets):
            times = self._times[number] + ahead * self._interval
            self._times[number] = times[-1]
            values = last[:, None] + rise[:, None] * ahead
            self._targets[number] = heads, values[:, -1], rise, there
            shown = np.broadcast_to(there[:, None], values.shape)
            yield bytes(cramjam.snappy.compress_raw(pack(heads, values, shown, times)))


def ask(server: Server, form: dict[str, str], timing: Timing) -> None:
    """One query, timed."""
    used, began = server.cpu(), time.perf_counter()
    server.call("/api/v1/query_range", form)
    timing.wall.append(time.perf_counter() - began)
    timing.cpu.append(server.cpu() - used)


def refresh(
    started: dict[str, Server], rounds: int, form: Callable[[int], dict[str, str]], before: Callable[[], None]
) -> dict[str, dict[str, Timing]]:
    """Each round all queries of one server, then of the next; the first round fills the caches and does not count."""
    timings = {query: {name: Timing() for name in started} for query in QUERIES}
    for number in range(rounds + 1):
        before()
        order = list(started.values())
        for server in order[number % len(order) :] + order[: number % len(order)]:
            for name, query in QUERIES.items():
                ask(server, {**form(number), "query": query}, timings[name][server.name] if number else Timing())
    return timings


def table(title: str, timings: dict[str, dict[str, Timing]]) -> Iterator[str]:
    """Lines of a table: ms of each server, and how much longer Bramble takes."""
    names = list(next(iter(timings.values())))
    yield f"\n### {title}\n"
    yield "| query | " + " | ".join(f"{name} ms (CPU ms)" for name in names) + " | Bramble ÷ VictoriaMetrics | CPU |"
    yield "|---|" + "---:|" * (len(names) + 2)
    walls, cpus = [], []
    for query, of in timings.items():
        cells = [f"{of[name].median * 1e3:.2f} ({statistics.median(of[name].cpu) * 1e3:.2f})" for name in names]
        line = f"| {query} | " + " | ".join(cells)
        if "victoriametrics" in of:
            mine, theirs = of["bramble"], of["victoriametrics"]
            walls.append(mine.median / theirs.median)
            cpus.append(statistics.median(mine.cpu) / max(1e-6, statistics.median(theirs.cpu)))
            line += f" | {walls[-1]:.2f} | {cpus[-1]:.2f} |"
        yield line
    if walls:
        sums = [sum(of[name].median for of in timings.values()) for name in ("bramble", "victoriametrics")]
        spent = [
            sum(statistics.median(of[name].cpu) for of in timings.values()) for name in ("bramble", "victoriametrics")
        ]
        yield (
            f"\nGeometric mean: time {geomean(walls):.2f} (most {max(walls):.2f}), CPU {geomean(cpus):.2f}."
            f" The whole dashboard: time {sums[0] / sums[1]:.2f}, CPU {spent[0] / spent[1]:.2f}."
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--gen", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--targets", type=int, default=10)
    parser.add_argument("--hours", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--load", choices=("frames", "write"), default="frames")
    parser.add_argument("--servers", default="bramble,victoriametrics")
    args = parser.parse_args()
    args.work, args.peers = args.work.resolve(), args.peers.resolve()
    names = args.servers.split(",")
    fleet = load(args, names)
    growth = Growth(fleet)
    end = fleet.end // (STEP * 1000) * STEP
    span = end - fleet.start // 1000

    def form(move: int) -> dict[str, str]:
        return {"start": str(end - span + move * STEP), "end": str(end + move * STEP), "step": str(STEP)}

    with servers(names, args.peers, args.work, FLAGS) as started:
        print(f"## Dashboards: {len(fleet.times)} targets, {fleet.times.shape[1]} slots, {args.rounds} refreshes")
        for line in table("the same range", refresh(started, args.rounds, lambda _: form(0), lambda: None)):
            print(line, flush=True)

        def append() -> None:
            for body in growth.minute():
                for server in started.values():
                    request = urllib.request.Request(f"{server.url}/api/v1/write", body, HEADERS)
                    with urllib.request.urlopen(request, timeout=120):
                        pass

        for line in table("a range that moves on with its data", refresh(started, args.rounds, form, append)):
            print(line, flush=True)
        bramble = started["bramble"]
        for name, query in QUERIES.items():
            asked = {**form(args.rounds), "query": query}
            cached, plain = (
                decode(bramble.call("/api/v1/query_range", {**asked, "nocache": flag})) for flag in ("0", "1")
            )
            if difference(cached, plain):
                raise SystemExit(f"{name}: {difference(cached, plain)} from the cache")
        print("\nPeak memory, MB: " + ", ".join(f"{each.name} {each.peak():.0f}" for each in started.values()))


if __name__ == "__main__":
    main()
