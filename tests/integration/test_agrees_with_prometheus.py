"""The hub and a real Prometheus, asked by the real promtool, give the same answers."""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.integration.programs import Running, Start, edge, hub, needs, wait_for
from tests.ports import free_port

pytestmark = pytest.mark.integration
QUERY = "sum by (mode) (rate(node_cpu_seconds_total[5m]))"


def prometheus(start: Start, folder: Path, targets: list[str], **job: object) -> Running:
    """A real Prometheus that scrapes `targets` every second."""
    folder.mkdir()
    port = free_port()
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [{"job_name": "node", "static_configs": [{"targets": targets}], **job}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    flags = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    return start([needs("prometheus"), *flags], folder / "prometheus.log", port)


def promtool(server: Running, query: str, at: float | None = None) -> dict[str, float]:
    """`promtool query instant`'s vector: value by the label `mode`."""
    command = [needs("promtool"), "query", "instant", "-o", "json", server.url, query]
    if at is not None:
        command[3:3] = [f"--time={at}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr + done.stdout
    return {r["metric"].get("mode", ""): float(r["value"][1]) for r in json.loads(done.stdout)}


def least(server: Running, query: str, value: float, at: float | None = None) -> bool:
    """Whether the query's first value has reached `value`."""
    return server.client.instant(query, at)[0].value >= value


def agree(theirs: Running, ours: Running) -> bool:
    """Whether both give the same modes, and rates within 1 % or 0.01 cores, at one and the same moment."""
    at = time.time() - 1
    a, b = promtool(theirs, QUERY, at), promtool(ours, QUERY, at)
    assert a.keys() == b.keys()
    assert {"user", "system", "idle", "iowait"} <= a.keys()
    for mode in a:
        assert abs(a[mode] - b[mode]) <= max(0.01 * abs(a[mode]), 0.01), (mode, a[mode], b[mode])
    return True


@pytest.mark.alone
def test_rates_of_one_agent_agree_within_one_percent(start: Start, tmp_path: Path) -> None:
    needs("promtool")
    port = free_port()
    address = f"127.0.0.1:{port}"
    # The agent starts last: what the servers burn while they start is then outside both windows.
    theirs = prometheus(start, tmp_path / "prometheus", [address]).wait_ready()
    config = f'bramble: {{pull_interval: 1s, agents: ["{address}"]}}\n'
    ours = hub(start, tmp_path / "hub", "--no-discovery.mdns", config=config).wait_ready()
    # Prometheus lets its targets settle for five seconds first: both must be looking when the agent comes.
    wait_for(lambda: theirs.client.instant("up"), "Prometheus scrapes", 60)
    edge(start, tmp_path / "edge", "--no-discovery.mdns", port=port).wait_ready()
    enough = "min(count_over_time(node_cpu_seconds_total[5m]))"
    for server in (theirs, ours):
        wait_for(partial(least, server, enough, 12), f"12 samples in {server.url}", 60)
    # The two sample up to a second apart, which weighs less the longer both have seen the machine.
    wait_for(partial(agree, theirs, ours), "the rates agree", 60)


class Exporter(ThreadingHTTPServer):
    """Serves one exposition with explicit timestamps until every expected reader has had it, then the next."""

    daemon_threads = True

    def __init__(self, steps: int) -> None:
        super().__init__(("127.0.0.1", 0), _Page)
        self.lock = threading.Lock()
        self.steps, self.step = steps, 0
        self.seen: set[str] = set()
        self.base = int(time.time()) - steps

    @property
    def done(self) -> bool:
        return self.step >= self.steps

    def page(self, reader: str) -> bytes:
        """The page for `reader` (its user agent)."""
        with self.lock:
            step = min(self.step, self.steps - 1)
            lines = ["# HELP node_cpu_seconds_total Seconds.", "# TYPE node_cpu_seconds_total counter"]
            for cpu in range(2):
                for mode, pace in (("user", 0.37), ("system", 0.11), ("idle", 0.52)):
                    # One reset in the middle, so that it is handled alike too.
                    total = 10_000.25 + pace * step * (1 + cpu) - (9_000 if mode == "user" and step > 20 else 0)
                    stamp = (self.base + step) * 1000 + 137
                    lines.append(f'node_cpu_seconds_total{{cpu="{cpu}",mode="{mode}"}} {total!r} {stamp}')
            self.seen.add(reader)
            if len(self.seen) == 2:
                self.step, self.seen = self.step + 1, set()
            return ("\n".join(lines) + "\n").encode()


class _Page(BaseHTTPRequestHandler):
    server: Exporter

    def do_GET(self) -> None:
        body = self.server.page(self.headers["User-Agent"].split("/")[0])
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's word
        pass


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    with Exporter(30) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_same_samples_give_exactly_the_same_rates(start: Start, tmp_path: Path, exporter: Exporter) -> None:
    needs("promtool")
    target = f"127.0.0.1:{exporter.server_port}"
    theirs = prometheus(start, tmp_path / "prometheus", [target]).wait_ready()
    config = (
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        f"scrape_configs: [{{job_name: node, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    ours = hub(start, tmp_path / "hub", "--no-discovery.mdns", config=config).wait_ready()
    wait_for(lambda: exporter.done, "both have read every page", 90)
    last = exporter.base + exporter.steps - 1
    count = "min(count_over_time(node_cpu_seconds_total[5m]))"
    for server in (theirs, ours):
        wait_for(partial(least, server, count, exporter.steps, last + 1), server.url)
    for expression in (
        QUERY,
        "sum by (mode) (increase(node_cpu_seconds_total[17s]))",
        "max by (mode) (max_over_time(node_cpu_seconds_total[11s]))",
        'sum by (mode) (node_cpu_seconds_total) / ignoring (mode) group_left sum(node_cpu_seconds_total{mode="idle"})',
    ):
        for at in (last + 0.5, last - 3.321, last - 8.9):
            a, b = promtool(theirs, expression, at), promtool(ours, expression, at)
            assert a, expression
            assert a == b, (expression, at)
