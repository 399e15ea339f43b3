"""How long the hub's event loop is away while the worst queries run beside intake.

usage: python -m tests.bench.loop_lag --store DIR --data DIR --template FILE [--seconds 60] [--each 0] [--agents 100]

DIR of --store is a hub's data directory as `tests.bench.query` fills it (it is copied), --data what gen.py wrote. A hub
on that store pulls frames from --agents simulated agents and scrapes --targets simulated targets, takes remote writes,
evaluates rules and cuts its head; then --clients connections ask the worst that dashboards ask, in a loop. Meanwhile a
process of its own asks `/-/healthy` twenty times a second, and a bare server of aiohttp for comparison: what both show
is the machine's. Times are counted from when a probe was due. The hub's own figure is its histogram
`bramble_hub_event_loop_lag_seconds`. Fails if the probes' p99 is above LIMIT_MS and the bare server's is not.
"""

import argparse
import contextlib
import http.client
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import cramjam
import numpy as np

from common.labels import Labels
from tests.bench.processes import ROOT, Program, hub_argv, running
from tests.bench.query_data import Fleet, label_bytes, pack_samples, put_series
from tests.bench.simulated import address, simulation
from tests.ports import free_port

LIMIT_MS = 50.0
RATE = 20
"""Probes a second."""
LAG = "bramble_hub_event_loop_lag_seconds"

RULES = """\
groups:
  - name: bench
    interval: 5s
    rules:
      - {record: "instance:cpu:rate5m", expr: "sum by (instance, mode) (rate(node_cpu_seconds_total[5m]))"}
      - {record: "instance:net:rate5m", expr: "sum by (instance) (rate(node_network_receive_bytes_total[5m]))"}
      - {alert: Hot, expr: "node_hwmon_temp_celsius > 60", for: 1m}
      - {alert: Full, expr: "node_filesystem_avail_bytes / node_filesystem_size_bytes < 0.1", for: 5m}
      - {alert: Gone, expr: "absent(up{job=\\"node\\"})", for: 1m}
"""


def questions(start: float, end: float) -> dict[str, tuple[str, dict[str, str]]]:
    """The worst that dashboards ask of data between the two times: path and form by name."""

    def ranged(query: str, step: int) -> tuple[str, dict[str, str]]:
        return "/api/v1/query_range", {
            "query": query,
            "start": f"{start:.3f}",
            "end": f"{end:.3f}",
            "step": str(step),
        }

    window = {"start": f"{start:.3f}", "end": f"{end:.3f}"}
    return {
        "count of all": ranged('count({__name__=~"node_.*"})', 15),
        "count by name": ranged('count by (__name__)({__name__=~"node_.*"})', 60),
        "quantile 1h": ranged("quantile_over_time(0.9, node_hwmon_temp_celsius[1h])", 15),
        "quantile 1h of many": ranged("max(quantile_over_time(0.9, node_cpu_seconds_total[1h]))", 15),
        "histogram_quantile": ranged(
            "histogram_quantile(0.9, sum by (le)(rate(app_request_duration_seconds_bucket[5m])))", 15
        ),
        "topk of all rates": ranged("topk(10, rate(node_cpu_seconds_total[5m]))", 15),
        "huge matrix": ranged("rate(node_cpu_seconds_total[5m])", 15),
        "join of all": ranged("node_cpu_seconds_total - node_cpu_seconds_total offset 1h", 60),
        "sort by a regular expression": (
            "/api/v1/query",
            {
                "query": 'sort_desc({__name__=~".*(total|bytes).*", instance=~"pi-0[0-9]+.*"})',
                "time": f"{end - 30:.3f}",
            },
        ),
        "all of a moment": ("/api/v1/query", {"query": '{__name__=~".+"}', "time": f"{end - 30:.3f}"}),
        "raw samples": ("/api/v1/query", {"query": "node_cpu_seconds_total[3h]", "time": f"{end:.3f}"}),
        "beyond a limit": ranged('sum(rate({__name__=~"node_(cpu|network|disk|filesystem).*"}[5m]))', 15),
        "label_replace": ranged(
            'count by (h)(label_replace({__name__=~"node_network_.*"}, "h", "$1", "instance", "pi-(.).*"))', 60
        ),
        "series": ("/api/v1/series", {"match[]": '{__name__=~".+"}', **window}),
        "label values": ("/api/v1/label/__name__/values", window),
        "label values, matched": ("/api/v1/label/instance/values", {"match[]": '{__name__=~".*_total"}', **window}),
        "labels": ("/api/v1/labels", window),
        "federate": ("/federate", {"match[]": '{__name__=~".+"}'}),
        "status/tsdb": ("/api/v1/status/tsdb", {}),
        "metrics": ("/metrics", {}),
    }


def ask(port: int, path: str, form: dict[str, str], timeout: float = 300.0) -> tuple[int, int, float]:
    """Status, bytes and seconds of one question; the answer is thrown away as it comes."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", f"{path}?{urllib.parse.urlencode(form)}", headers={"Accept-Encoding": "gzip"})
        answer = connection.getresponse()
        size = 0
        while part := answer.read(1 << 20):
            size += len(part)
        return answer.status, size, time.perf_counter() - began
    finally:
        connection.close()


def probe(ports: list[int]) -> None:
    """Ask each port's /-/healthy RATE times a second until stdin closes; then print the times (began, ms) as JSON."""
    ended = threading.Event()

    def watch(port: int, out: list[tuple[float, float]]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        due = time.monotonic()
        while not ended.is_set():
            due += 1 / RATE
            time.sleep(max(0.0, due - time.monotonic()))
            connection.request("GET", "/-/healthy")
            connection.getresponse().read()
            out.append((due, (time.monotonic() - due) * 1000))

    found: list[list[tuple[float, float]]] = [[] for _ in ports]
    threads = [threading.Thread(target=watch, args=each) for each in zip(ports, found, strict=True)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    ended.set()
    for thread in threads:
        thread.join()
    json.dump(found, sys.stdout)


def bare(port: int) -> None:
    """A server that does nothing else."""
    from aiohttp import web

    async def healthy(_: web.Request) -> web.Response:
        return web.Response(text="Healthy.\n")

    app = web.Application()
    app.router.add_get("/-/healthy", healthy)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


@contextlib.contextmanager
def child(*argv: str) -> Iterator[subprocess.Popen[str]]:
    """This module in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.loop_lag", *argv]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def probing(port: int, other: int) -> Iterator[subprocess.Popen[str]]:
    """The prober, once the bare server answers."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            ask(other, "/-/healthy", {})
            break
        time.sleep(0.1)
    with child("--probe", str(port), str(other)) as process:
        yield process


def figures(times: list[float]) -> str:
    """Median, p99 and maximum."""
    if len(times) < 2:
        return "- | - | -"
    p99 = statistics.quantiles(times, n=100, method="inclusive")[98]
    return f"{statistics.median(times):.1f} | {p99:.1f} | {max(times):.0f}"


def p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[98]


class Lag:
    """The hub's own histogram between two looks."""

    def __init__(self, hub: Program) -> None:
        self._hub = hub
        self._last = self._buckets()

    def _buckets(self) -> dict[float, float]:
        found: dict[float, float] = {}
        for line in self._hub.get("/metrics")[1].decode().splitlines():
            if line.startswith(LAG + "_bucket"):
                bound, _, count = line.partition('le="')[2].partition('"} ')
                found[float(bound)] = float(count)
        return found

    def look(self) -> str:
        """Upper bounds in ms of the median, the 99th percentile and the maximum since the last look."""
        now = self._buckets()
        counts = {bound: count - self._last.get(bound, 0.0) for bound, count in now.items()}
        self._last = now
        total = max(counts.values(), default=0.0)
        out = (
            [min(b for b, count in counts.items() if count >= share * total) for share in (0.5, 0.99, 1)]
            if total
            else []
        )
        return " | ".join(f"<= {bound * 1000:g}" for bound in out) or "- | - | -"


def writes(fleet: Fleet, port: int, rate: int, ended: threading.Event) -> None:
    """Remote writes of single samples of as many series as `rate` a second, in requests of 2,000 series."""
    labels = [
        label_bytes(Labels.of({"instance": f"w-{number:03d}", "job": "written"}).merge(row))
        for number in range(len(fleet.times))
        for row in fleet.rows(number)
    ]
    parts = [labels[at : at + 2000] for at in range(0, len(labels), 2000)]
    headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
    headers["X-Prometheus-Remote-Write-Version"] = "0.1.0"
    due = time.monotonic()
    for part in itertools.cycle(parts):
        due += len(part) / rate
        if ended.wait(max(0.0, due - time.monotonic())):
            return
        now = np.array([time.time() * 1000], np.int64)
        body = bytearray()
        for label, sample in zip(part, pack_samples(now, np.random.random((len(part), 1))), strict=True):
            put_series(body, label, sample.tobytes())
        packed = bytes(cramjam.snappy.compress_raw(bytes(body)))
        request = urllib.request.Request(f"http://127.0.0.1:{port}/api/v1/write", packed, headers)
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=60):
            pass


def configuration(args: argparse.Namespace, ports: int, rules: Path) -> str:
    """The hub's prometheus.yml: agents to pull, targets to scrape, rules."""
    agents = ", ".join(f'"{address(number)}:{ports}"' for number in range(args.agents))
    targets = ", ".join(f'"{address(1000 + number)}:{ports}"' for number in range(args.targets))
    return f"""\
global: {{scrape_interval: {args.interval}s, scrape_timeout: {args.interval}s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: node
    static_configs:
      - targets: [{targets}]
bramble:
  discovery: false
  pull_interval: {args.interval}s
  agents: [{agents}]
"""


class Load:
    """Clients that ask questions in a loop."""

    def __init__(self, port: int, asked: dict[str, tuple[str, dict[str, str]]], clients: int) -> None:
        self.count = self.bytes = 0
        self.failed: dict[str, str] = {}
        self._ended = threading.Event()
        self._next = itertools.cycle(asked.items())
        self._lock = threading.Lock()
        self._port = port
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            with self._lock:
                name, (path, form) = next(self._next)
            status, size, _ = ask(self._port, path, form)
            with self._lock:
                self.count += 1
                self.bytes += size
                if status != 200:
                    self.failed[name] = str(status)

    def stop(self) -> None:
        """Ask no more, and wait for the answers that are due."""
        self._ended.set()
        for thread in self._threads:
            thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--template", type=Path)
    parser.add_argument("--agents", type=int, default=100)
    parser.add_argument("--targets", type=int, default=20)
    parser.add_argument("--interval", type=int, default=5)
    parser.add_argument("--write-rate", type=int, default=5000, help="samples a second by remote write")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--each", type=float, default=0, help="seconds for each question alone, with one client")
    parser.add_argument("--only", default="", help="only questions whose name holds this")
    parser.add_argument("--hub", default="", help="a module to run instead of hub.cli")
    parser.add_argument("--probe", type=int, nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--bare", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.probe:
        return probe(args.probe)
    if args.bare:
        return bare(args.bare)
    if not (args.store and args.data and args.template):
        parser.error("--store, --data and --template are needed")
    sys.exit(0 if measure(args) else 1)


def measure(args: argparse.Namespace) -> bool:
    """All phases; prints a table, and answers whether the limit held."""
    work = Path(tempfile.mkdtemp(prefix="bramble-bench-"))
    fleet = Fleet(args.data)
    programs: list[Program] = []
    ended = threading.Event()
    spans: list[tuple[str, float, float, str, str]] = []
    try:
        shutil.copytree(args.store, work / "hub")
        (work / "rules.yml").write_text(RULES)
        with simulation(args.data, args.template, args.interval) as ports, running(programs):
            config = work / "config.yml"
            config.write_text(configuration(args, ports, work / "rules.yml"))
            port, other = free_port(), free_port()
            argv = hub_argv(config, work / "hub", port, "--web.enable-remote-write-receiver")
            argv += ["--storage.tsdb.retention.time=200y"]
            if args.hub:
                argv[1:3] = [args.hub]
            hub = Program("Bramble", argv, port, work / "hub.log")
            programs.append(hub)
            asked = questions(fleet.start / 1000 + 7.3, fleet.end / 1000 - 11.7)
            asked = {name: each for name, each in asked.items() if args.only in name}
            writer = threading.Thread(target=writes, args=(fleet, port, args.write_rate, ended))
            with child("--bare", str(other)), probing(port, other) as prober:
                lag = Lag(hub)
                writer.start()

                def phase(
                    name: str, seconds: float, asking: dict[str, tuple[str, dict[str, str]]], clients: int
                ) -> None:
                    lag.look()
                    before, taken, began = (
                        hub.cpu(),
                        hub.metric("prometheus_tsdb_head_samples_appended_total"),
                        time.monotonic(),
                    )
                    load = Load(port, asking, clients)
                    time.sleep(seconds)
                    load.stop()
                    over = time.monotonic()
                    taken = (hub.metric("prometheus_tsdb_head_samples_appended_total") - taken) / (over - began)
                    busy = (hub.cpu() - before) / (over - began)
                    note = f"{load.count} | {load.bytes / 1e6:.0f} | {taken:,.0f} | {busy:.2f}"
                    if load.failed:
                        note += f" failed: {load.failed}"
                    spans.append((name, began, over, lag.look(), note))

                phase("start, intake alone", 15, {}, 0)
                for name, each in asked.items():
                    if args.each:
                        phase(name, args.each, {name: each}, 1)
                phase("all questions", args.seconds, asked, args.clients)
                ended.set()
                writer.join()
                assert prober.stdin is not None
                assert prober.stdout is not None
                prober.stdin.close()
                mine, bare_ones = json.loads(prober.stdout.read())
            memory = hub.memory()
        print(
            "| phase | probe p50, ms | p99 | max | bare p50 | p99 | max | own p50 | p99 | max "
            "| answers | MB | samples/s | cores |"
        )
        print("|---|" + "---:|" * 13)
        ok = True
        for name, began, over, own, note in spans:
            inside = [[ms for at, ms in times if began <= at < over] for times in (mine, bare_ones)]
            print(f"| {name} | {figures(inside[0])} | {figures(inside[1])} | {own} | {note} |")
            if name == "all questions":
                ok = p99(inside[0]) <= LIMIT_MS or p99(inside[1]) > LIMIT_MS
        print(f"\nPeak memory {memory['VmHWM']:.0f} MB.")
        print((work / "hub.log").read_text()[-2000:], file=sys.stderr)
        return ok
    finally:
        ended.set()
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
