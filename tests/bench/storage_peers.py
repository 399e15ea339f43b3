"""What the storage benchmarks share: started servers and their memory, a fleet of equal sources, loop devices."""

import contextlib
import http.client
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cramjam
import numpy as np
from numpy.typing import NDArray

from common.frames.codec import encode
from common.frames.model import Epoch, Flags, FrameKey, Schema, SourceId, SubSchema
from common.labels import Labels
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
HEADERS = {
    "Content-Type": "application/x-protobuf",
    "Content-Encoding": "snappy",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}
PER_REQUEST = 2000
"""Samples of a remote-write request: the default of Prometheus's senders."""
_TICKS = os.sysconf("SC_CLK_TCK")


_started: "list[Server]" = []


class Server:
    """A started server, its log beside its data. `work` ends those that are left."""

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        self.name = name
        self.port = free_port()
        self.log = folder.with_suffix(".log")
        self.began = time.perf_counter()
        _started.append(self)
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [part.format(port=self.port, folder=folder) for part in command],
                stdout=out, stderr=out, cwd=folder.parent, env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ready(self, seconds: float = 600) -> float:
        """Seconds from the start until /-/ready answers 200."""
        while time.perf_counter() - self.began < seconds:
            try:
                urllib.request.urlopen(self.url + "/-/ready", timeout=seconds).read()
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.02)
            else:
                return time.perf_counter() - self.began
        raise SystemExit(f"{self.name} does not get ready; the end of its log:\n{self.log.read_text()[-2000:]}")

    def get(self, path: str, **form: str) -> object:
        """The data of an API's answer."""
        query = "?" + urllib.parse.urlencode(form) if form else ""
        with urllib.request.urlopen(self.url + path + query, timeout=300) as answer:
            return json.load(answer)["data"]

    def _status(self, key: str) -> float:
        text = Path(f"/proc/{self.process.pid}/status").read_text("ascii")
        return int(next(line for line in text.splitlines() if line.startswith(key)).split()[1]) / 1024

    def rss(self) -> float:
        """Resident memory, MB."""
        return self._status("VmRSS")

    def peak(self) -> float:
        """The highest resident memory so far, MB."""
        return self._status("VmHWM")

    def settled(self, seconds: float = 15) -> float:
        """Resident memory, MB: the lowest of a look a second."""
        found = []
        for _ in range(int(seconds)):
            time.sleep(1)
            found.append(self.rss())
        return min(found)

    def cpu(self) -> float:
        """Processor seconds."""
        parts = Path(f"/proc/{self.process.pid}/stat").read_text("ascii").rsplit(")")[1].split()
        return (int(parts[11]) + int(parts[12])) / _TICKS

    def kill(self) -> None:
        """SIGKILL, as a power cut for the process."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM and wait."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(120)
        except subprocess.TimeoutExpired:
            self.kill()


def prometheus(binary: str, folder: Path, *flags: str) -> Server:
    """A Prometheus that takes remote write."""
    config = folder.with_suffix(".yml")
    config.write_text("global: {}\n")
    return Server(
        "Prometheus",
        [
            binary, "--storage.tsdb.path={folder}", f"--config.file={config}", "--web.enable-remote-write-receiver",
            "--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.retention.time=20y", "--log.level=error",
            "--web.enable-admin-api", *flags,
        ],
        folder,
    )  # fmt: skip


def hub(folder: Path, *flags: str) -> Server:
    """A hub that takes remote write."""
    return Server(
        "Bramble",
        [
            sys.executable, "-m", "hub.cli", "--storage.tsdb.path={folder}", "--web.enable-remote-write-receiver",
            "--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.retention.time=20y", "--no-discovery.mdns",
            "--log.level=warn", "--web.enable-admin-api", *flags,
        ],
        folder,
    )  # fmt: skip


class Sender:
    """Posts remote-write requests over one kept connection."""

    def __init__(self, server: Server) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
        self.again = 0
        """Requests that were sent again since the server had asked for it."""

    def send(self, body: bytes) -> None:
        """Send one until it is taken; SystemExit if it is refused for good."""
        for _ in range(1000):
            self._connection.request("POST", "/api/v1/write", body, HEADERS)
            answer = self._connection.getresponse()
            text = answer.read()
            if answer.status < 300:
                return
            if answer.status not in (429, 503):
                raise SystemExit(f"remote write: {answer.status} {text[:300]!r}")
            self.again += 1
            time.sleep(0.2)
        raise SystemExit(f"remote write is refused for ever: {text[:300]!r}")


@dataclass(frozen=True)
class Fleet:
    """`hosts` equal sources of `rows` series: half of them constant, the others counters, gauges and floats."""

    hosts: int
    rows: int
    start: int
    step: int

    @cached_property
    def schema(self) -> Schema:
        """The schema of all hosts."""
        rows = [
            Labels.of(__name__=f"node_metric_{row // 10:03d}_total", device=f"disk-{row % 10}")
            for row in range(self.rows)
        ]
        return Schema((SubSchema("all", tuple(rows)),))

    @property
    def series(self) -> int:
        return self.hosts * self.rows

    def target(self, host: int) -> Labels:
        """Target labels of a host."""
        return Labels.of(instance=f"host-{host:04d}:9100", job="node")

    def source(self, host: int) -> SourceId:
        """Its id."""
        return SourceId(struct.pack("<QQ", 7, host))

    def time(self, slot: int) -> int:
        """Timestamp of a slot, ms."""
        return self.start + slot * self.step

    def values(self, slot: int) -> NDArray[np.float64]:
        """Values of a slot: [hosts, rows]."""
        rng = np.random.default_rng(slot)
        row, host = np.arange(self.rows)[None, :], np.arange(self.hosts)[:, None]
        out = np.broadcast_to(row * 1000.0 + host % 7, (self.hosts, self.rows)).copy()
        kind = np.arange(self.rows) % 10
        counters = (kind >= 5) & (kind < 8)
        noise = rng.integers(0, 9, (self.hosts, int(counters.sum())))
        out[:, counters] += slot * (37.0 + host % 13) * 10 + noise
        gauges, floats = kind == 8, kind == 9
        out[:, gauges] = np.round(50 + rng.normal(0, 5, (self.hosts, int(gauges.sum()))), 1)
        out[:, floats] = 20 + rng.normal(0, 5, (self.hosts, int(floats.sum())))
        return out

    def frame(self, host: int, slot: int, values: NDArray[np.float64]) -> bytes:
        """A host's frame of one slot: as a pull at the pace of the collectors gets it."""
        key = FrameKey(self.source(host), Epoch(1), slot, 0, self.schema.hash, Flags.SYNCED)
        return encode(key, [self.time(slot)], values[:, None])

    @cached_property
    def _template(self) -> NDArray[np.uint8]:
        """Requests of all series without values: [series, bytes of one], all of one length."""
        name, device, instance = b"node_metric_000_total", b"disk-0", b"host-0000:9100"
        pairs = ((b"__name__", name), (b"device", device), (b"instance", instance), (b"job", b"node"))
        labels = b"".join(_field(1, _field(1, key) + _field(2, value)) for key, value in pairs)
        one = _field(1, labels + b"\x12\x10\x09" + bytes(8) + b"\x10" + bytes(6))
        out = np.tile(np.frombuffer(one, np.uint8), (self.series, 1))
        host, row = np.divmod(np.arange(self.series), self.rows)
        at = one.index(b"node_metric_") + 12
        for place, power in enumerate((100, 10, 1)):
            out[:, at + place] = 48 + row // 10 // power % 10
        out[:, one.index(b"disk-") + 5] = 48 + row % 10
        at = one.index(b"host-") + 5
        for place, power in enumerate((1000, 100, 10, 1)):
            out[:, at + place] = 48 + host // power % 10
        return out

    def requests(self, slot: int) -> Iterator[bytes]:
        """The slot as remote-write requests, packed."""
        shifts = np.arange(0, 42, 7)
        stamp = ((self.time(slot) >> shifts) & 0x7F | np.where(shifts < 35, 0x80, 0)).astype(np.uint8)
        values = self.values(slot).reshape(-1).astype("<f8").view(np.uint8).reshape(-1, 8)
        for at in range(0, self.series, PER_REQUEST):
            part = self._template[at : at + PER_REQUEST].copy()
            part[:, -6:] = stamp
            part[:, -15:-7] = values[at : at + PER_REQUEST]
            yield bytes(cramjam.snappy.compress_raw(part.tobytes()))


def _field(number: int, data: bytes) -> bytes:
    assert len(data) < 128
    return bytes([number << 3 | 2, len(data)]) + data


def in_one_window(now: int, slots: int) -> tuple[int, int]:
    """Start and step (ms) of as many slots up to `now`, as old as they can be in a log that no block was cut from.

    Both programs keep one to three hours there, in windows of two hours.
    """
    hour = 3_600_000
    start = (now - hour) // (2 * hour) * 2 * hour + 1000
    return start, (now - start) // slots


class Device:
    """An ext4 file system on a loop device of its own; needs root."""

    def __init__(self, base: Path, name: str, megabytes: int) -> None:
        self.name = name
        self.image = base / f"{name}.img"
        self.path = base / name
        self.path.mkdir()
        with self.image.open("wb") as file:
            file.truncate(megabytes << 20)
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(self.image))
        run("mount", "-o", "loop,noatime", str(self.image), str(self.path))
        source = run("findmnt", "-no", "SOURCE", str(self.path)).strip()
        self.stat = Path("/sys/block") / Path(source).name / "stat"
        run("sync", "-f", str(self.path))
        self.start = self.sectors()

    def sectors(self) -> int:
        """Sectors written so far."""
        return int(self.stat.read_text().split()[6])

    def written(self) -> int:
        """Bytes that reached the device since the start, after a sync."""
        run("sync", "-f", str(self.path))
        return (self.sectors() - self.start) * 512

    def close(self) -> None:
        """Unmount."""
        run("umount", str(self.path))


def run(*command: str) -> str:
    """Run a system tool; its output."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def work(folder: Path | None = None) -> Iterator[Path]:
    """A directory that goes at the end; SIGTERM ends the program as an exception, so that it does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(dir=folder) as made:
        try:
            yield Path(made)
        finally:
            for server in _started:
                if server.log.is_relative_to(made) and server.process.poll() is None:
                    server.kill()


HEAD = ("| | Bramble | Prometheus | ratio | promised |", "|---|---:|---:|---:|---:|")


def row(what: str, ours: float, theirs: float | None = None, limit: float | None = None, digits: int = 3) -> str:
    """A line of the table: figures, their ratio, and what was promised for it."""
    peer = "" if theirs is None else f"{theirs:.{digits}f}"
    ratio = "" if not theirs else f"{ours / theirs:.2f}"
    return f"| {what} | {ours:.{digits}f} | {peer} | {ratio} | {'' if limit is None else f'{limit:.2f}'} |"
