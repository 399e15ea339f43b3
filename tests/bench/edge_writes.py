"""Bytes that reach the device: the edge's log beside Prometheus, each alone on a loop device, in real time.

usage (root): python -m tests.bench.edge_writes --data DIR --prometheus FILE [--minutes 31] [--interval 15]

DIR is what gen.py made (its first target is used). Every store gets the same samples at the same times. Figures are
sectors written by the device (/sys/block/loopN/stat, field 7), from after mount and sync to after the last sync;
file system metadata and journal included. Blocks, which Prometheus cuts after two hours, are not in a short run: the
figures flatter it.
"""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from common.clock import SystemClock
from common.frames.model import ABSENT, PRESENT, STALE, Schema, SubSchema, read_header
from common.frames.ranges import RangeSet
from common.labels import Labels
from common.sample import STALE_NAN_BITS
from edge.identity import Machine
from edge.log import Log, LogOptions, Order
from tests.bench.storage_peers import Device

SIZE_MB = 256


@dataclass(frozen=True)
class Data:
    """One target of gen.py: rows and their values by slot."""

    schema: Schema
    values: np.ndarray
    cells: np.ndarray

    @classmethod
    def load(cls, directory: Path) -> "Data":
        """Read the first target."""
        names = json.loads((directory / "series.json").read_text())["series"]
        values = np.load(directory / "vals.npy", mmap_mode="r")[0]
        values = np.ascontiguousarray(values[: len(names)])
        bits = values.view(np.uint64)
        cells = np.where(bits == STALE_NAN_BITS, STALE, np.where(np.isnan(values), ABSENT, PRESENT)).astype(np.uint8)
        rows = tuple(Labels.of({"__name__": name, **labels}) for name, labels, *_ in names)
        return cls(Schema((SubSchema("node", rows),)), values, cells)

    def slot(self, number: int) -> tuple["array[float]", bytes]:
        """Values and cell states of one slot; the data repeats at its end."""
        column = number % self.values.shape[1]
        return array("d", self.values[:, column].tobytes()), self.cells[:, column].tobytes()

    def text(self, number: int) -> bytes:
        """The slot as exposition text."""
        column = number % self.values.shape[1]
        lines = [
            f"{labels} {value!r}"
            for labels, value, cell in zip(
                self.schema.labels(), self.values[:, column].tolist(), self.cells[:, column], strict=True
            )
            if cell == PRESENT
        ]
        return ("\n".join(lines) + "\n").encode()


class Clocked:
    """A log that is appended to, pulled and committed in real time."""

    def __init__(self, device: Device, data: Data, commit: float, pull: bool) -> None:
        self.device, self.data, self.commit, self.pull = device, data, commit, pull
        self.log = Log.open(device.path / "log", LogOptions(), SystemClock(), machine=Machine("a", "b"))
        self.committed = time.monotonic()
        self.have: dict = {}

    def tick(self, number: int) -> None:
        """One slot."""
        stamp = self.log.stamp()
        self.log.append(0, self.data.schema, stamp.timestamp, *self.data.slot(number), stamp.flags)
        if self.pull:
            for frame in self.log.read(self.have, Order.NEWEST, 1 << 20).frames:
                header = read_header(frame)
                self.have[header.epoch] = self.have.get(header.epoch, RangeSet()).add(header.seq)
        if time.monotonic() - self.committed >= self.commit - 0.5:
            self.committed = time.monotonic()
            self.log.commit()


@contextlib.contextmanager
def serving(data: Data) -> Iterator[tuple[int, list[int]]]:
    """An exporter whose /metrics shows the slot in the list."""
    now = [0]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = data.text(now[0])
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1], now
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def prometheus(program: str, device: Device, exporter: int, interval: int, agent: bool) -> subprocess.Popen:
    """A Prometheus that scrapes the exporter and stores on `device`."""
    config = device.path / "prometheus.yml"
    scrape = [{"job_name": "node", "static_configs": [{"targets": [f"127.0.0.1:{exporter}"]}]}]
    config.write_text(json.dumps({"global": {"scrape_interval": f"{interval}s"}, "scrape_configs": scrape}))
    kind = (
        ["--agent", f"--storage.agent.path={device.path}/data"]
        if agent
        else [f"--storage.tsdb.path={device.path}/data"]
    )
    return subprocess.Popen(
        [program, f"--config.file={config}", "--web.listen-address=127.0.0.1:0", *kind],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--prometheus", required=True)
    parser.add_argument("--minutes", type=float, default=31)
    parser.add_argument("--interval", type=int, default=15)
    args = parser.parse_args()
    data = Data.load(args.data)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything is unmounted
    ticks = int(args.minutes * 60 / args.interval)
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        base = Path(directory)
        devices = {}
        for name in ("prometheus", "prometheus-agent", "commit-60s", "commit-60s-pulled", "commit-15m"):
            devices[name] = Device(base, name, SIZE_MB)
            stack.callback(devices[name].close)
        port, now = stack.enter_context(serving(data))
        logs = [
            Clocked(devices["commit-60s"], data, 60, pull=False),
            Clocked(devices["commit-60s-pulled"], data, 60, pull=True),
            Clocked(devices["commit-15m"], data, 900, pull=False),
        ]
        programs = [
            prometheus(args.prometheus, devices["prometheus"], port, args.interval, agent=False),
            prometheus(args.prometheus, devices["prometheus-agent"], port, args.interval, agent=True),
        ]
        for program in programs:
            stack.callback(program.wait)
            stack.callback(program.terminate)
        began = time.monotonic()
        samples = 0
        for tick in range(ticks):
            time.sleep(max(0.0, began + tick * args.interval - time.monotonic()))
            now[0] = tick
            samples += int((data.slot(tick)[1]).count(PRESENT))
            for each in logs:
                each.tick(tick)
        for each in logs:
            each.log.close()
        for program in programs:
            program.terminate()
            program.wait()
        print(f"samples={samples} minutes={args.minutes} interval={args.interval}s rows={data.schema.rows}")
        peer = devices["prometheus"].written()
        for name, device in devices.items():
            files = sum(p.stat().st_size for p in device.path.rglob("*") if p.is_file())
            written = device.written()
            print(
                f"{name:20} device {written:>10} B  {written / samples:7.2f} B/sample"
                f"  x{written / peer:.3f} of prometheus   files {files / samples:6.2f} B/sample"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
