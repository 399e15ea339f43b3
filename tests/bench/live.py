"""Queries on recent data of a live hub, beside Prometheus 3 and VictoriaMetrics.

usage: python -m tests.bench.live --peers DIR --gen FILE --work DIR [--targets 100] [--rounds 5]

--peers, --gen and --work are those of query.py, whose data this uses. The hub pulls simulated agents (simulated.py):
what they kept from before it started (--packed slots) first. Then it starts again, since it packs all that it has a
minute later, and nothing more for half an hour; and it pulls --raw more slots, one by one, one frame of each agent.
Their timestamps are 15 s apart, as if it had been so long, though a slot comes as soon as all servers have the one
before; the agents' phases differ. The peers get the same samples by remote write, at the same pace. Then, in each of
--rounds rounds, another slot comes, and the 12 queries are asked at that moment, --repeats times, and over ranges that
end there: time and CPU are means of a round, first sight included, and medians of the rounds. No server keeps results.
The hub goes on asking all agents every --pull seconds. Values are held against Prometheus's after the last round, as
in query.py.
"""

import argparse
import contextlib
import http.client
import shutil
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import cramjam
import numpy as np

from common.frames.model import ABSENT
from common.labels import Labels
from tests.bench.query import QUERIES, Server, Shape, Timing, decode, difference, geomean, load, servers
from tests.bench.query_data import HEADERS, Fleet, label_bytes, pack
from tests.bench.simulated import address, phase, simulation

INTERVAL = 15_000
SPANS = (("15m/15s", 900, 15), ("1h/15s", 3600, 15), ("6h/60s", 6 * 3600, 60))


class Feed:
    """Brings slots to all servers."""

    def __init__(self, fleet: Fleet, start: int, port: int, started: Sequence[Server], known: int = 0) -> None:
        """The hub has `known` slots from before it started."""
        self._known = known
        self._fleet = fleet
        self._start = start
        self._port = port
        self._hub = next((each for each in started if each.name == "bramble"), None)
        self._others = [each for each in started if each.name != "bramble"]
        self._sent = 0
        self._samples = 0.0
        targets = range(len(fleet.times))
        own = [Labels.of({"instance": f"{address(number)}:{port}", "job": "node"}) for number in targets]
        self._labels = [[label_bytes(own[number].merge(row)) for row in fleet.rows(number)] for number in targets]

    def to(self, slot: int) -> None:
        """Bring all slots up to `slot`, and wait until the hub has pulled them."""
        show(self._port, slot)
        while self._sent <= slot:
            high = min(self._sent + 40, slot + 1)
            new = self._sent >= self._known
            for number in range(len(self._fleet.times)):
                values, cells = self._fleet.cut(number, self._sent, high)
                first = self._start + phase(number, INTERVAL)
                times = first + INTERVAL * np.arange(self._sent, high, dtype=np.int64)
                self._samples += np.count_nonzero(cells != ABSENT) if new else 0
                if self._others:
                    self._write(
                        bytes(cramjam.snappy.compress_raw(pack(self._labels[number], values, cells != ABSENT, times)))
                    )
            self._sent = high
        deadline = time.monotonic() + 600
        while self._hub is not None and metric(self._hub, "bramble_hub_pull_samples_total") < self._samples:
            if time.monotonic() > deadline:
                raise SystemExit("the hub does not pull all samples; see its log")
            time.sleep(0.1)

    def _write(self, body: bytes) -> None:
        for server in self._others:
            request = urllib.request.Request(f"{server.url}/api/v1/write", body, HEADERS)
            with urllib.request.urlopen(request, timeout=120):
                pass

    def end(self) -> float:
        """Seconds at which all devices have their newest slot."""
        return (self._start + self._sent * INTERVAL) / 1000


def show(port: int, slot: int) -> None:
    """Have the simulated devices show slots up to this one."""
    with contextlib.closing(http.client.HTTPConnection(address(0), port, timeout=60)) as connection:
        connection.request("GET", f"/shown?slot={slot}")
        connection.getresponse().read()


def metric(server: Server, name: str) -> float:
    """The sum of a metric's samples on a server's /metrics."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def shapes(end: float) -> list[Shape]:
    """At the newest moment, and over ranges that end there."""
    ranged = [
        Shape(name, "/api/v1/query_range", {"start": f"{end - span:.3f}", "end": f"{end:.3f}", "step": str(step)})
        for name, span, step in SPANS
    ]
    return [Shape("instant", "/api/v1/query", {"time": f"{end:.3f}"}), *ranged]


def ask(server: Server, shape: Shape, query: str, repeats: int, timing: Timing) -> None:
    """Ask some times, one after the other."""
    used, began = server.cpu(), time.perf_counter()
    for _ in range(repeats):
        server.call(shape.path, {**shape.form, "query": query})
    timing.wall.append((time.perf_counter() - began) / repeats)
    timing.cpu.append((server.cpu() - used) / repeats)


Timings = dict[tuple[str, str, str], Timing]


def rounds(args: argparse.Namespace, feed: Feed, started: list[Server], queries: dict[str, str]) -> Timings:
    """Timings by shape, query and server."""
    found: Timings = {}
    for number in range(args.rounds + 1):
        feed.to(args.packed + args.raw + number - 1)
        for server in started:
            # Servers close connections on which nothing was asked for long.
            server.connection.close()
            server.call("/api/v1/query", {"query": "1"})
        for shape in shapes(feed.end()):
            for name, query in queries.items():
                repeats = args.repeats if not shape.ranged else 1
                for server in started[number % len(started) :] + started[: number % len(started)]:
                    timing = found.setdefault((shape.name, name, server.name), Timing())
                    ask(server, shape, query, repeats, timing)
        if not number:
            # The first round is for what servers prepare once.
            found.clear()
    return found


def table(found: Timings, names: list[str]) -> Iterator[str]:
    """Lines of one table a shape, as query.py's."""
    for shape in dict.fromkeys(shape for shape, _, _ in found):
        yield f"\n### {shape}\n"
        yield "| query | " + " | ".join(f"{name} ms (CPU ms)" for name in names) + " |"
        yield "|---|" + "---:|" * len(names)
        ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in names[1:]}
        for query in dict.fromkeys(query for _, query, _ in found):
            mine = found[shape, query, "bramble"]
            cells = []
            for name in names:
                theirs = found[shape, query, name]
                used = statistics.median(theirs.cpu)
                cells.append(f"{theirs.median * 1e3:.1f} ({used * 1e3:.1f})")
                if name != "bramble":
                    ratios[name].append((theirs.median / mine.median, used / statistics.median(mine.cpu)))
            yield f"| {query} | " + " | ".join(cells) + " |"
        for name, pairs in ratios.items():
            times, cpus = zip(*pairs, strict=True)
            yield (
                f"\n{name} ÷ Bramble: time {geomean(list(times)):.2f} (least {min(times):.2f}), "
                f"CPU {geomean(list(cpus)):.2f} (least {min(cpus):.2f})."
            )


def compare(started: dict[str, Server], feed: Feed, queries: dict[str, str]) -> Iterator[str]:
    """Where results differ from Prometheus's."""
    for shape in shapes(feed.end()):
        for name, query in queries.items():
            form = {**shape.form, "query": query}
            mine, theirs = (decode(started[each].call(shape.path, form)) for each in ("bramble", "prometheus"))
            unequal = difference(mine, theirs)
            if unequal or not theirs:
                yield f"{name}, {shape.name}: {unequal or 'no result'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--gen", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--targets", type=int, default=100)
    parser.add_argument("--hours", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5, help="of instant queries")
    parser.add_argument("--packed", type=int, default=440)
    parser.add_argument("--raw", type=int, default=40)
    parser.add_argument("--pull", type=int, default=2, help="seconds")
    parser.add_argument("--servers", default="bramble,prometheus,victoriametrics")
    args = parser.parse_args()
    args.work, args.peers = args.work.resolve(), args.peers.resolve()
    names = args.servers.split(",")
    fleet = load(args, [])
    slots = args.packed + args.raw + args.rounds + 1
    start = (int(time.time() * 1000) - (slots + 1) * INTERVAL) // INTERVAL * INTERVAL
    here = Path(tempfile.mkdtemp(prefix="bramble-bench-"))
    try:
        with simulation(fleet.directory, args.work / "template.txt", INTERVAL // 1000, start) as port:
            agents = ", ".join(f'"{address(number)}:{port}"' for number in range(len(fleet.times)))
            config = f"bramble: {{discovery: false, pull_interval: {args.pull}s, agents: [{agents}]}}\n"
            with servers(["bramble"], args.peers, here, hub_config=config) as started:
                Feed(fleet, start, port, list(started.values())).to(args.packed - 1)
            with servers(names, args.peers, here, hub_config=config) as started:
                feed = Feed(fleet, start, port, list(started.values()), known=args.packed)
                feed.to(args.packed - 1)
                # Its own series come again at once.
                while metric(started["bramble"], "prometheus_tsdb_head_chunks") >= len(fleet.times):
                    time.sleep(1)
                for slot in range(args.packed, args.packed + args.raw):
                    feed.to(slot)
                queries = {
                    name: query.replace("pi-007:9100", f"{address(7)}:{port}") for name, query in QUERIES.items()
                }
                found = rounds(args, feed, list(started.values()), queries)
                print(f"## Recent data: {len(fleet.times)} agents, {args.packed} slots packed, {args.raw} not\n")
                if "prometheus" in started:
                    unequal = list(compare(started, feed, queries))
                    print("Results: " + ("all equal to Prometheus's." if not unequal else "; ".join(unequal)))
                for line in table(found, names):
                    print(line)
                print("\nPeak memory, MB: " + ", ".join(f"{each.name} {each.peak():.0f}" for each in started.values()))
    except BaseException:
        for log in here.glob("*.log"):
            print(f"{log.name}:\n{log.read_text()[-1500:]}", file=sys.stderr)
        raise
    finally:
        shutil.rmtree(here, ignore_errors=True)


if __name__ == "__main__":
    main()
