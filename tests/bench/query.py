"""Queries through HTTP: Bramble beside Prometheus 3 and VictoriaMetrics, on the data of gen.py, in interleaved rounds.

usage: python -m tests.bench.query --peers DIR --gen FILE --work DIR [--targets 10] [--hours 6] [--rounds 5]

DIR of --peers is what peers.sh made, FILE of --gen is gen.py. --work keeps data and servers' stores, so that a second
run with the same size need not load again. Quoted figures use --targets 100. Bramble is loaded with frames, as agents
ship them (--load frames), or by remote write as its peers are (--load write).

Time is from sending a request to the last byte of its answer; CPU is what the server's threads used meanwhile, from
/proc/PID/task/*/schedstat. Cold: Bramble's decoded samples and timestamps, and what matchers chose from indexes, are
forgotten before each query (the peers keep none of the former; VictoriaMetrics keeps the latter). Values are held
against Prometheus's at rtol 1e-9, atol 1e-9 of the largest value; VictoriaMetrics's differ by design and are timed
only, with both result caches off (dashboard.py is about those).

--queries panels asks those of panels.py instead: one of each kind that dashboards hold.
"""

import argparse
import contextlib
import http.client
import json
import math
import shutil
import statistics
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.bench.panels import PANELS
from tests.bench.query_data import Fleet, load_frames, write_all
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
HOUR = 3600
SETTLE_SECONDS = 75.0
"""After loading, so that Prometheus, which looks once a minute, has cut its blocks."""

MAX_SAMPLES = "--query.max-samples=500000000"
"""All metrics of 100 targets over six hours are more than the default of both."""

QUERIES = {
    "selector": "node_load1",
    "sum by (mode)(rate)": "sum by (mode)(rate(node_cpu_seconds_total[5m]))",
    "100 - avg(rate idle)": '100 - avg by (instance)(rate(node_cpu_seconds_total{mode="idle"}[5m])) * 100',
    "topk(5, rate)": "topk(5, rate(node_network_receive_bytes_total[5m]))",
    "histogram_quantile": "histogram_quantile(0.9, sum by (le)(rate(app_request_duration_seconds_bucket[5m])))",
    "max_over_time[1h]": "max_over_time(node_hwmon_temp_celsius[1h])",
    "quantile_over_time[1h]": "quantile_over_time(0.9, node_hwmon_temp_celsius[1h])",
    "avg_over_time[10m]": "avg_over_time(node_memory_MemAvailable_bytes[10m])",
    "sum by (increase[1h])": "sum by (instance)(increase(node_network_receive_bytes_total[1h]))",
    "vector division": "node_filesystem_avail_bytes / node_filesystem_size_bytes",
    "count(node_.*)": 'count({__name__=~"node_.*"})',
    "one host's rate": 'rate(node_cpu_seconds_total{instance="pi-007:9100"}[5m])',
}


LISTS = {"few": QUERIES, "panels": PANELS, "all": QUERIES | PANELS}


@dataclass
class Server:
    """A started server."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    reset: str = ""
    """Path that empties its caches."""
    connection: http.client.HTTPConnection = field(init=False)

    def __post_init__(self) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(self, path: str, form: Mapping[str, str]) -> bytes:
        """The body of an answer; SystemExit if it is an error."""
        body = urllib.parse.urlencode(form)
        self.connection.request("POST", path, body, {"Content-Type": "application/x-www-form-urlencoded"})
        answer = self.connection.getresponse()
        data = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{self.name} {path} {dict(form)}: {answer.status} {data[:300]!r}")
        return data

    def cpu(self) -> float:
        """CPU seconds of all live threads."""
        total = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def peak(self) -> float:
        """Highest resident memory, MB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        return math.nan

    def ready(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + 600
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException, SystemExit):
                self.call("/api/v1/query", {"query": "1", "time": "1"})
                return
            self.connection.close()
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{self.name} does not answer; see its log")
            time.sleep(0.2)


@contextlib.contextmanager
def servers(
    names: list[str],
    peers: Path,
    work: Path,
    more: Mapping[str, Sequence[str]] | None = None,
    hub_config: str = "global: {}\n",
) -> Iterator[dict[str, Server]]:
    """Start the servers on their stores in `work`, and end them; `more` are flags in place of those in FLAGS."""
    flags = {**FLAGS, **(more or {})}
    started: dict[str, Server] = {}
    (work / "empty.yml").write_text("global: {}\n")
    (work / "hub.yml").write_text(hub_config)
    try:
        for name in names:
            port, data = free_port(), work / name
            data.mkdir(exist_ok=True)
            listen = f"127.0.0.1:{port}"
            commands = {
                "bramble": [
                    *(sys.executable, "-m", "hub.cli", f"--config.file={work / 'hub.yml'}"),
                    *(f"--storage.tsdb.path={data}", f"--web.listen-address={listen}", "--no-discovery.mdns"),
                    *("--storage.tsdb.retention.time=200y", MAX_SAMPLES, *flags["bramble"]),
                ],
                "prometheus": [
                    *(str(peers / "usr/bin/prometheus"), f"--config.file={work / 'empty.yml'}"),
                    *(f"--storage.tsdb.path={data}", f"--web.listen-address={listen}"),
                    *("--storage.tsdb.retention.time=200y", "--web.enable-remote-write-receiver", MAX_SAMPLES),
                    *flags["prometheus"],
                ],
                "victoriametrics": [
                    *(str(peers / "usr/bin/victoria-metrics"), f"-storageDataPath={data}", f"-httpListenAddr={listen}"),
                    *("-retentionPeriod=100y", "-search.latencyOffset=0s", *flags["victoriametrics"]),
                ],
            }
            with (work / f"{name}.log").open("ab") as log:
                process = subprocess.Popen(
                    commands[name], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=work, env=_environment()
                )
            reset = "/api/v1/admin/bramble/drop_caches" if name == "bramble" else ""
            started[name] = Server(name, process, port, reset)
        for server in started.values():
            server.ready()
        yield started
    finally:
        for server in started.values():
            server.process.terminate()
        for server in started.values():
            server.process.wait(60)


FLAGS: Mapping[str, Sequence[str]] = {
    "bramble": ["--web.enable-admin-api", "--web.enable-remote-write-receiver", "--query.result-cache-size=0"],
    "prometheus": [],
    "victoriametrics": ["-search.disableCache"],
}


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


def load(args: argparse.Namespace, names: list[str]) -> Fleet:
    """Make and load the data unless `work` has it."""
    work: Path = args.work
    work.mkdir(parents=True, exist_ok=True)
    data = work / "data"
    if not (data / "series.json").exists():
        template = work / "template.txt"
        if not template.exists():
            template.write_text(_template(args.peers))
        # The newest whole six hours, so that no server thinks of its retention or refuses samples as too old.
        start = int(time.time()) // (6 * HOUR) * 6 * HOUR - 6 * HOUR
        size = ["--targets", str(args.targets), "--hours", str(args.hours), "--start", str(start), "--seed", "1"]
        subprocess.run([sys.executable, args.gen, "--template", template, "--out", data, *size], check=True)
    fleet = Fleet(data)
    if len(fleet.times) != args.targets:
        raise SystemExit(f"{work} holds data of {len(fleet.times)} targets: give another --work")
    missing = [name for name in names if not (work / f"{name}.loaded").exists()]
    for name in missing:
        shutil.rmtree(work / name, ignore_errors=True)
    if "bramble" in missing and args.load == "frames":
        began = time.monotonic()
        load_frames(fleet, work / "bramble")
        print(f"bramble loaded in {time.monotonic() - began:.0f} s", file=sys.stderr)
    writing = [name for name in missing if name != "bramble" or args.load == "write"]
    if writing:
        with servers(writing, args.peers, work) as started:
            began = time.monotonic()
            write_all(fleet, [server.url for server in started.values()])
            print(f"{writing} loaded in {time.monotonic() - began:.0f} s", file=sys.stderr)
            time.sleep(SETTLE_SECONDS)
    for name in missing:
        (work / f"{name}.loaded").touch()
    return fleet


def _template(peers: Path) -> str:
    """What this machine's node_exporter shows."""
    import urllib.request

    port = free_port()
    command = [str(peers / "usr/bin/prometheus-node-exporter"), f"--web.listen-address=127.0.0.1:{port}"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(50):
            time.sleep(0.2)
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                return str(answer.read().decode())
        raise SystemExit("node_exporter does not answer")
    finally:
        process.terminate()
        process.wait(10)


@dataclass(frozen=True)
class Shape:
    """How a query is asked."""

    name: str
    path: str
    form: Mapping[str, str]

    @property
    def ranged(self) -> bool:
        return "step" in self.form


def shapes(fleet: Fleet) -> list[Shape]:
    """Six hours at two steps, the head and an old block at an instant; times off the samples' grid."""
    start, end = fleet.start / 1000 + 7.3, fleet.end / 1000 - 11.7
    ranged = {"start": f"{start:.3f}", "end": f"{end:.3f}"}
    return [
        Shape("6h/60s", "/api/v1/query_range", {**ranged, "step": "60"}),
        Shape("6h/15s", "/api/v1/query_range", {**ranged, "step": "15"}),
        Shape("instant", "/api/v1/query", {"time": f"{end - 60:.3f}"}),
        Shape("instant, old", "/api/v1/query", {"time": f"{start + (end - start) * 0.3:.3f}"}),
    ]


Rows = dict[tuple[tuple[str, str], ...], tuple[NDArray[np.float64], NDArray[np.float64]]]


def decode(body: bytes) -> Rows:
    """Times and values by label set."""
    found: Rows = {}
    data = json.loads(body)["data"]
    if data["resultType"] == "scalar":
        data["result"] = [{"metric": {}, "value": data["result"]}]
    for item in data["result"]:
        points = item["values"] if "values" in item else [item["value"]]
        key = tuple(sorted(item["metric"].items()))
        found[key] = np.array([at for at, _ in points]), np.array([float(value) for _, value in points])
    return found


def difference(mine: Rows, theirs: Rows) -> str:
    """What differs, or nothing."""
    if mine.keys() != theirs.keys():
        return f"{len(mine.keys() - theirs.keys())} series too many, {len(theirs.keys() - mine.keys())} missing"
    for key, (times, values) in theirs.items():
        mine_times, mine_values = mine[key]
        if len(times) != len(mine_times) or not np.allclose(times, mine_times, rtol=0, atol=1e-4):
            return f"{dict(key)}: {len(mine_times)} points instead of {len(times)}, or at other times"
        magnitude = float(np.max(np.abs(values[np.isfinite(values)]), initial=1.0))
        if not np.allclose(mine_values, values, rtol=1e-9, atol=1e-9 * magnitude, equal_nan=True):
            return f"{dict(key)}: off by {np.nanmax(np.abs(mine_values - values))}"
    return ""


@dataclass
class Timing:
    """Seconds of each round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.wall)

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles, as part of the median."""
        if len(self.wall) < 4:
            return (max(self.wall) - min(self.wall)) / 2 / self.median
        low, _, high = statistics.quantiles(self.wall, n=4)
        return (high - low) / 2 / self.median


def measure(started: dict[str, Server], query: str, shape: Shape, rounds: int, cold: bool) -> dict[str, Timing]:
    """Interleaved rounds of one query; small ones are asked several times a round."""
    timings = {name: Timing() for name in started}
    form = {**shape.form, "query": query}
    for server in started.values():
        server.call(shape.path, form)
    repeats = 1 if shape.ranged or cold else 5
    order = list(started.values())
    for number in range(rounds):
        for server in order[number % len(order) :] + order[: number % len(order)]:
            wall = cpu = 0.0
            for _ in range(repeats):
                if cold and server.reset:
                    server.call(server.reset, {})
                used, began = server.cpu(), time.perf_counter()
                server.call(shape.path, form)
                wall += time.perf_counter() - began
                cpu += server.cpu() - used
            timings[server.name].wall.append(wall / repeats)
            timings[server.name].cpu.append(cpu / repeats)
    return timings


def geomean(numbers: list[float]) -> float:
    return math.exp(statistics.fmean(math.log(number) for number in numbers))


def table(started: dict[str, Server], fleet: Fleet, args: argparse.Namespace, cold: bool) -> Iterator[str]:
    """Lines of one table a shape: ms of each server and what Prometheus takes for each of Bramble's."""
    others = [name for name in started if name != "bramble"]
    for shape in shapes(fleet):
        if args.shape and args.shape != shape.name:
            continue
        yield f"\n### {shape.name}, {'cold' if cold else 'warm'}\n"
        yield (
            "| query | " + " | ".join(f"{name} ms (CPU ms)" for name in started) + " | Prometheus ÷ Bramble | CPU | ± |"
        )
        yield "|---|" + "---:|" * (len(started) + 3)
        ratios, cpus, victoria = [], [], []
        for name, query in LISTS[args.queries].items():
            if args.only and args.only not in name:
                continue
            timings = measure(started, query, shape, args.rounds, cold)
            mine = timings["bramble"]
            cells = [
                f"{timings[each].median * 1e3:.1f} ({statistics.median(timings[each].cpu) * 1e3:.1f})"
                for each in started
            ]
            line = f"| {name} | " + " | ".join(cells)
            if "prometheus" in others:
                theirs = timings["prometheus"]
                ratios.append(theirs.median / mine.median)
                cpus.append(statistics.median(theirs.cpu) / max(1e-6, statistics.median(mine.cpu)))
                line += f" | {ratios[-1]:.2f} | {cpus[-1]:.2f} | {max(mine.spread, theirs.spread):.0%} |"
            if "victoriametrics" in others:
                theirs = timings["victoriametrics"]
                used = statistics.median(mine.cpu) / max(1e-6, statistics.median(theirs.cpu))
                victoria.append((theirs.median / mine.median, used))
            yield line
        if ratios:
            means = f"time {geomean(ratios):.2f} (least {min(ratios):.2f}), CPU {geomean(cpus):.2f}"
            yield f"\nGeometric mean against Prometheus: {means}."
        if victoria:
            yield (
                f"Against VictoriaMetrics: time {geomean([each[0] for each in victoria]):.2f}; "
                f"Bramble's CPU is {geomean([each[1] for each in victoria]):.2f} of its."
            )


def compare(started: dict[str, Server], fleet: Fleet, args: argparse.Namespace) -> Iterator[str]:
    """Where results differ from Prometheus's."""
    for shape in shapes(fleet):
        if args.shape and args.shape != shape.name:
            continue
        for name, query in LISTS[args.queries].items():
            if args.only and args.only not in name:
                continue
            form = {**shape.form, "query": query}
            found = [decode(started[each].call(shape.path, form)) for each in ("bramble", "prometheus")]
            unequal = difference(*found)
            if unequal or not found[1]:
                yield f"{name}, {shape.name}: {unequal or 'no result'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--gen", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--targets", type=int, default=10)
    parser.add_argument("--hours", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--load", choices=("frames", "write"), default="frames")
    parser.add_argument("--queries", choices=tuple(LISTS), default="few")
    parser.add_argument("--only", default="", help="only queries whose name holds this")
    parser.add_argument("--shape", default="", help="only this one of 6h/60s, 6h/15s, instant, 'instant, old'")
    parser.add_argument("--servers", default="bramble,prometheus,victoriametrics")
    parser.add_argument("--warm-only", action="store_true")
    args = parser.parse_args()
    args.work, args.peers = args.work.resolve(), args.peers.resolve()
    names = args.servers.split(",")
    fleet = load(args, names)
    with servers(names, args.peers, args.work) as started:
        size = f"{len(fleet.times)} targets, {fleet.times.shape[1]} slots, {args.rounds} rounds, load: {args.load}"
        print(f"## Queries: {size}\n")
        if "prometheus" in started:
            unequal = list(compare(started, fleet, args))
            for server in started.values():
                # Comparing takes longer than VictoriaMetrics keeps a connection that is at rest.
                server.connection.close()
            print("Results: " + ("all equal to Prometheus's." if not unequal else "; ".join(unequal)))
        for cold in (False,) if args.warm_only else (False, True):
            for line in table(started, fleet, args, cold):
                print(line, flush=True)
        print("\nPeak memory, MB: " + ", ".join(f"{each.name} {each.peak():.0f}" for each in started.values()))


if __name__ == "__main__":
    main()
