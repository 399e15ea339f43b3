"""Storage: bytes a sample, intake, bytes written, start and reading of the hub's store, beside Prometheus.

usage: python -m tests.bench.storage --data DIR [--prometheus FILE] [--targets N] [--noise]

DIR is what gen.py made. Both get the same samples, in order of time, four slots of a target at once: the store as
frames in this process, Prometheus by remote write. `--noise` gives every value a random mantissa: full-entropy floats.
Figures go to standard output as rows of a Markdown table. Bytes a sample are those of whole blocks with their index;
bytes written are the kernel's count for the process (/proc/PID/io). Exits with 1 if a promised ratio is missed.
"""

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.clock import SystemClock
from common.frames.codec import encode
from common.frames.model import ABSENT, PRESENT, STALE, Epoch, FrameKey, Schema, SourceId, SubSchema, encode_schema
from common.labels import Labels, Matcher, MatchType
from common.sample import STALE_NAN_BITS, Millis
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store

SLOTS = 4
MAX_BYTES_PER_SAMPLE = 0.45
MAX_OF_PROMETHEUS = 0.5
MAX_NOISE_OF_PROMETHEUS = 1.0
MAX_WRITTEN_OF_PROMETHEUS = 1 / 3


@dataclass
class Target:
    """One target's samples: values [series, slots], states likewise."""

    name: str
    labels: list[Labels]
    times: NDArray[np.int64]
    values: NDArray[np.float64]
    states: NDArray[np.uint8]


def load(folder: Path, count: int, noise: bool) -> list[Target]:
    """The first `count` targets of a data set."""
    meta = json.loads((folder / "series.json").read_text("utf-8"))
    values, times = np.load(folder / "vals.npy", mmap_mode="r"), np.load(folder / "ts.npy")
    rows = [Labels.of({"__name__": name, **labels}) for name, labels, *_ in meta["series"]]
    out = []
    rng = np.random.default_rng(1)
    for at, name in enumerate(meta["targets"][:count]):
        present = meta["present"][at]
        mine = np.array(values[at][present])
        stale = mine.view(np.uint64) == STALE_NAN_BITS
        states = np.where(stale, STALE, np.where(np.isnan(mine), ABSENT, PRESENT)).astype(np.uint8)
        if noise:
            mine = np.where(states == PRESENT, (mine + 1) * rng.random(mine.shape), mine)
        out.append(Target(name, [rows[i] for i in present], times[at], mine, states))
    return out


def written(pid: int | str) -> int:
    """Bytes that a process caused to be written."""
    text = Path(f"/proc/{pid}/io").read_text("ascii")
    return int(next(line for line in text.splitlines() if line.startswith("write_bytes")).split()[1])


class Late(SystemClock):
    """A clock that stands at the data's end, so that retention and cutting see it as new."""

    def __init__(self, now: int) -> None:
        super().__init__()
        self._now = now

    def now(self) -> Millis:
        return Millis(self._now)


def bramble(targets: list[Target], folder: Path) -> dict[str, float]:
    """Figures of the store."""
    newest = max(int(t.times[-1]) for t in targets)
    frames = list(as_frames(targets))
    samples = sum(int((t.states != ABSENT).sum()) for t in targets)
    store = Store.open(folder, StoreOptions(max_series=10_000_000), Late(newest))
    for number, target in enumerate(targets):
        store.set_target(source(number), Labels.of(instance=target.name, job="node"))
        store.add_schema(encode_schema(schema(target)))
    io, cpu, began, apart = written("self"), time.process_time(), time.perf_counter(), 0.0
    before = -1
    for slot, data in frames:
        if slot != before:
            before = slot
            store.commit()
            if slot % (40 * SLOTS) == 0:
                paused = time.perf_counter()
                store.maintain()
                apart += time.perf_counter() - paused
        store.append_frame(data)
    store.commit()
    took = time.perf_counter() - began
    store.cut(newest + 1)
    store.maintain()
    figures = {
        "samples": samples,
        "intake, M samples/s": samples / (took - apart) / 1e6,
        "CPU, s": time.process_time() - cpu,
        "bytes written a sample": (written("self") - io) / samples,
        "bytes a sample in blocks": store.stats().block_bytes / samples,
    }
    store.close()
    began = time.perf_counter()
    store = Store.open(folder, StoreOptions(), Late(newest))
    figures["start, s"] = time.perf_counter() - began
    cpu_idle = [matcher("__name__", "node_cpu_seconds_total"), matcher("mode", "idle")]
    one = [matcher("instance", targets[0].name)]
    for name, matchers in (("idle CPU of all", cpu_idle), ("all of one target", one)):
        for how in ("cold", "warm"):
            if how == "cold":
                store.empty_cache()
            began = time.perf_counter()
            rows = sum(len(batch.labels) for batch in store.select(matchers, Millis(0), Millis(newest)))
            figures[f"select {name} ({rows} series), {how}, ms"] = (time.perf_counter() - began) * 1000
    store.close()
    return figures


def matcher(name: str, value: str) -> Matcher:
    """name="value"."""
    return Matcher(MatchType.EQ, name, value)


def source(number: int) -> SourceId:
    """An id for a target."""
    return SourceId(struct.pack("<QQ", 1, number))


def schema(target: Target) -> Schema:
    """The target's schema."""
    return Schema((SubSchema("all", tuple(target.labels)),))


def as_frames(targets: list[Target]) -> Iterator[tuple[int, bytes]]:
    """Frames in order of time, each with its first slot."""
    hashes = [schema(target).hash for target in targets]
    for slot in range(0, len(targets[0].times), SLOTS):
        part = slice(slot, slot + SLOTS)
        for number, target in enumerate(targets):
            key = FrameKey(source(number), Epoch(1), slot // SLOTS, 0, hashes[number])
            yield slot, encode(key, target.times[part], target.values[:, part], target.states[:, part])


def prometheus(binary: str, targets: list[Target], folder: Path) -> dict[str, float]:
    """Figures of Prometheus, fed by remote write."""
    port = 19321
    command = [
        binary, f"--storage.tsdb.path={folder}", "--config.file=/dev/null", "--web.enable-remote-write-receiver",
        f"--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.retention.time=20y", "--log.level=error",
    ]  # fmt: skip
    with subprocess.Popen(command) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            ready(url)
            io, began, encoding, samples = written(process.pid), time.perf_counter(), 0.0, 0
            for slot in range(0, len(targets[0].times), SLOTS):
                for target in targets:
                    paused = time.perf_counter()
                    count, body = write_request(target, slice(slot, slot + SLOTS))
                    encoding += time.perf_counter() - paused
                    samples += count
                    headers = {
                        "Content-Type": "application/x-protobuf",
                        "Content-Encoding": "snappy",
                        "X-Prometheus-Remote-Write-Version": "0.1.0",
                    }
                    urllib.request.urlopen(urllib.request.Request(url + "/api/v1/write", body, headers)).read()
            took = time.perf_counter() - began - encoding
            time.sleep(20)
            ticks = Path(f"/proc/{process.pid}/stat").read_text("ascii").rsplit(")")[1].split()
            blocks = [json.loads(path.read_text("utf-8")) for path in folder.glob("*/meta.json")]
            in_blocks = sum(block["stats"]["numSamples"] for block in blocks)
            size = sum(p.stat().st_size for path in folder.glob("*/meta.json") for p in path.parent.rglob("*"))
            return {
                "samples": samples,
                "intake, M samples/s": samples / took / 1e6,
                "CPU, s": (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK"),
                "bytes written a sample": (written(process.pid) - io) / samples,
                "bytes a sample in blocks": size / max(1, in_blocks),
            }
        finally:
            process.terminate()


def ready(url: str) -> None:
    """Wait until the server answers."""
    for _ in range(300):
        try:
            urllib.request.urlopen(url + "/-/ready").read()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"{url} does not get ready")


def write_request(target: Target, part: slice) -> tuple[int, bytes]:
    """A remote-write 1.0 request of some slots, in snappy's form without compression; how many samples."""
    out = bytearray()
    count = 0
    times = [varint(int(t)) for t in target.times[part]]
    states = target.states[:, part].tolist()
    packed = np.ascontiguousarray(target.values[:, part], "<f8").tobytes()
    width = len(times)
    for row, prefix in enumerate(prefixes(target)):
        body = bytearray(prefix)
        for slot, state in enumerate(states[row]):
            if state != ABSENT:
                at = 8 * (row * width + slot)
                sample = b"\x09" + packed[at : at + 8] + b"\x10" + times[slot]
                body += b"\x12" + varint(len(sample)) + sample
                count += 1
        if len(body) > len(prefix):
            out += b"\x0a" + varint(len(body)) + body
    literal = bytearray(varint(len(out)))
    for at in range(0, len(out), 65_536):
        piece = out[at : at + 65_536]
        literal += b"\xf4" + struct.pack("<H", len(piece) - 1) + piece
    return count, bytes(literal)


_prefixes: dict[str, list[bytes]] = {}


def prefixes(target: Target) -> list[bytes]:
    """Encoded label sets, made once."""
    if target.name not in _prefixes:
        _prefixes[target.name] = [
            b"".join(
                b"\x0a" + varint(len(pair)) + pair
                for name, value in labels.merge({"instance": target.name, "job": "node"})
                for pair in [text(1, name) + text(2, value)]
            )
            for labels in target.labels
        ]
    return _prefixes[target.name]


def text(field: int, value: str) -> bytes:
    """A string field."""
    data = value.encode()
    return bytes([field << 3 | 2]) + varint(len(data)) + data


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--prometheus", default="")
    parser.add_argument("--targets", type=int, default=1_000_000)
    parser.add_argument("--noise", action="store_true")
    args = parser.parse_args()
    targets = load(args.data, args.targets, args.noise)
    with tempfile.TemporaryDirectory(dir=args.data) as folder:
        ours = bramble(targets, Path(folder) / "bramble")
        theirs = prometheus(args.prometheus, targets, Path(folder) / "prometheus") if args.prometheus else {}
    print("| | Bramble | Prometheus |")
    print("|---|---|---|")
    for name, value in ours.items():
        peer = f"{theirs[name]:.3f}" if name in theirs else ""
        print(f"| {name} | {value:.3f} | {peer} |")
    key, failed = "bytes a sample in blocks", []
    if not args.noise and ours[key] > MAX_BYTES_PER_SAMPLE:
        failed.append(f"{key}: {ours[key]:.3f} > {MAX_BYTES_PER_SAMPLE}")
    if theirs:
        for name, limit in (
            (key, MAX_NOISE_OF_PROMETHEUS if args.noise else MAX_OF_PROMETHEUS),
            ("bytes written a sample", 1.0 if args.noise else MAX_WRITTEN_OF_PROMETHEUS),
        ):
            if ours[name] > limit * theirs[name]:
                failed.append(f"{name}: {ours[name] / theirs[name]:.2f} of Prometheus's, promised {limit:.2f}")
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
