"""A million series: intake by remote write, memory, and start with a full log, beside Prometheus.

usage: python -m tests.bench.storage_million --prometheus FILE [--hosts 1000] [--rows 1000] [--slots 8] [--work DIR]

The same samples as loose series by remote write (both programs, over HTTP, four senders) and as frames of one schema
(Bramble only, one slot a frame). Memory is what is resident after settling, over that of the program without data.
Before the start the programs are killed, so that all of it is in their logs.
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from common.clock import SystemClock
from common.frames.model import encode_schema
from common.tsdb.options import Outcome, StoreOptions
from common.tsdb.store import Store
from tests.bench.storage_peers import ROOT, Fleet, Sender, Server, hub, in_one_window, prometheus, row, work

SENDERS = 4
QUERY = "count by (device) (node_metric_005_total)"


def idle(start: Callable[[Path], Server], folder: Path) -> float:
    """Resident memory of the program without data, MB."""
    server = start(folder)
    server.ready()
    found = server.settled(8)
    server.stop()
    return found


class Watch(threading.Thread):
    """Asks the server for something small all the time: how long it takes to answer."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._done = threading.Event()
        self.seconds: list[float] = []

    def run(self) -> None:
        while not self._done.wait(0.1):
            began = time.perf_counter()
            self._server.get("/api/v1/query", query="vector(1)")
            self.seconds.append(time.perf_counter() - began)

    def stop(self) -> tuple[float, float]:
        """99th percentile and longest, ms."""
        self._done.set()
        self.join()
        return float(np.percentile(self.seconds, 99)) * 1000, max(self.seconds) * 1000


def feed(server: Server, fleet: Fleet, slots: int) -> dict[str, float]:
    """Send everything; seconds, samples a second, latencies."""
    watch = Watch(server)
    watch.start()
    began, cpu = time.perf_counter(), server.cpu()
    first = 0.0
    again = 0
    for slot in range(slots):
        bodies = deque(fleet.requests(slot))
        senders = [Sender(server) for _ in range(SENDERS)]

        def work_off(sender: Sender, bodies: deque[bytes] = bodies) -> None:
            while bodies:
                try:
                    body = bodies.popleft()
                except IndexError:
                    return
                sender.send(body)

        threads = [threading.Thread(target=work_off, args=(sender,)) for sender in senders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        again += sum(sender.again for sender in senders)
        first = first or time.perf_counter() - began
    took = time.perf_counter() - began
    p99, longest = watch.stop()
    return {
        "first": fleet.series / first,
        "rest": fleet.series * (slots - 1) / max(1e-9, took - first),
        "cpu": server.cpu() - cpu,
        "peak": server.peak(),
        "p99": p99,
        "longest": longest,
        "again": float(again),
    }


def started(start: Callable[[Path], Server], folder: Path, expected: int) -> dict[str, float]:
    """Start on what is there; seconds until ready, and until the first answer; memory after settling."""
    server = start(folder)
    ready = server.ready()
    answer = server.get("/api/v1/query", query=QUERY, time=str(time.time()))
    asked = time.perf_counter() - server.began
    assert isinstance(answer, dict)
    found = sum(int(float(each["value"][1])) for each in answer["result"])
    if found != expected:
        raise SystemExit(f"{server.name} has {found} of {expected} series after its start")
    figures = {"ready": ready, "asked": asked, "cpu": server.cpu(), "peak": server.peak(), "rss": server.settled()}
    server.stop()
    return figures


def fill(folder: Path, fleet: Fleet, slots: int) -> None:
    """As frames, into a store; prints samples a second of processor time, and ends as a crash does."""
    store = Store.open(folder, StoreOptions(retention_ms=0, seal_bytes=1 << 30), SystemClock())
    store.add_schema(encode_schema(fleet.schema))
    for host in range(fleet.hosts):
        store.set_target(fleet.source(host), fleet.target(host))
    cpu = 0.0
    for slot in range(slots):
        values = fleet.values(slot)
        frames = [fleet.frame(host, slot, values[host]) for host in range(fleet.hosts)]
        began = time.process_time()
        for frame in frames:
            if store.append_frame(frame).outcome is not Outcome.ACCEPTED:
                raise SystemExit("a frame was refused")
        store.commit()
        cpu += time.process_time() - began
    print(fleet.series * slots / cpu / 1e6, flush=True)
    os._exit(0)


def compare(args: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The lines of the table."""
    slots = args.slots
    start, step = in_one_window(int(time.time() * 1000), slots)
    fleet = Fleet(args.hosts, args.rows, start, step)
    expected = args.hosts * min(10, args.rows)

    def start_peer(where: Path) -> Server:
        return prometheus(args.prometheus, where, "--query.lookback-delta=1d")

    def start_hub(where: Path) -> Server:
        return hub(where, "--query.lookback-delta=1d")

    figures = {}
    for name, make in (("peer", start_peer), ("hub", start_hub)):
        base = idle(make, folder / f"{name}-nothing")
        where = folder / name
        server = make(where)
        server.ready()
        fed = feed(server, fleet, slots)
        fed["rss"] = server.settled()
        server.kill()
        figures[name] = base, fed, started(make, where, expected)
    again = [sys.executable, "-m", "tests.bench.storage_million", "--fill", str(folder / "frames")]
    again += [f"--{key}={value}" for key, value in (("hosts", args.hosts), ("rows", args.rows), ("slots", slots))]
    intake = float(
        subprocess.run([*again, f"--start={start}", f"--step={step}"], check=True, capture_output=True, cwd=ROOT).stdout
    )
    frames = started(start_hub, folder / "frames", expected)

    (base, fed, restart), (peer_base, peer_fed, peer) = figures["hub"], figures["peer"]
    series = fleet.series
    what = f"{series / 1e6:g} M series"

    def each(rss: float, idle: float) -> float:
        return (rss - idle) * 2**20 / series

    yield row(f"frames: intake, {args.rows} rows x 1 slot, M samples/s a core", intake)
    yield row(f"{what} by remote write: first sight, series/s", fed["first"], peer_fed["first"], None, 0)
    yield row(f"{what} by remote write: then, samples/s", fed["rest"], peer_fed["rest"], None, 0)
    yield row(f"{what} by remote write: processor s", fed["cpu"], peer_fed["cpu"], None, 1)
    yield row(f"{what} by remote write: peak memory, MB", fed["peak"], peer_fed["peak"], None, 0)
    yield row(f"{what} by remote write: `vector(1)` meanwhile, p99 ms", fed["p99"], peer_fed["p99"], None, 0)
    yield row(f"{what} by remote write: the longest, ms", fed["longest"], peer_fed["longest"], None, 0)
    yield row("start with these in the log: ready, s", restart["ready"], peer["ready"], 1.0, 1)
    yield row("start with these in the log: first answer, s", restart["asked"], peer["asked"], 1.0, 1)
    yield row("start with as many in frames: ready, s", frames["ready"], peer["ready"], 1.0, 1)
    yield row("start with as many in frames: first answer, s", frames["asked"], peer["asked"], 1.0, 1)
    yield row("memory of the program without data, MB", base, peer_base, None, 0)
    peer_after, peer_again = each(peer_fed["rss"], peer_base), each(peer["rss"], peer_base)
    yield row("memory a loose series after intake, bytes", each(fed["rss"], base), peer_after, None, 0)
    yield row("memory a loose series after a start, bytes", each(restart["rss"], base), peer_again, None, 0)
    yield row("memory a series of one schema after a start, bytes", each(frames["rss"], base), peer_again, 0.5, 0)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", default="prometheus")
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--fill", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--start", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--step", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.fill:
        fill(args.fill, Fleet(args.hosts, args.rows, args.start, args.step), args.slots)
    with work(args.work) as folder:
        for line in compare(args, folder):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
