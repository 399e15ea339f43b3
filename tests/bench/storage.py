"""Storage: bytes a sample, bytes written and intake of the hub's store, beside Prometheus.

usage: python -m tests.bench.storage --data DIR [--prometheus FILE] [--targets N] [--noise]

DIR is what gen.py made. Both get the same samples in order of time: the store as frames in this process, Prometheus by
remote write. `--noise` gives every value a random mantissa: full-entropy floats. Bytes a sample are those of whole
blocks with their index. As root, each has an ext4 on a loop device of its own, and the device's count of sectors
written (journal and metadata included, after stop and sync) is shown beside the kernel's for the process
(/proc/PID/io). Time runs faster than real: the store commits as often a slot as in real time, while the kernel has less
occasion to write what Prometheus doesn't sync, which flatters Prometheus. Exits with 1 if a promised ratio is missed.
"""

import argparse
import contextlib
import json
import os
import struct
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.clock import SystemClock
from common.frames.codec import encode
from common.frames.model import ABSENT, PRESENT, STALE, Epoch, FrameKey, Schema, SourceId, SubSchema, encode_schema
from common.labels import Labels
from common.sample import STALE_NAN_BITS, Millis
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store
from tests.bench import storage_peers as peers

WRITE_SLOTS = 4
"""Samples of a series in one remote-write request."""
COMMIT_SLOTS = 2
"""Slots of 15 s between commits: the default of `bramble.commit_interval`."""
MAX_BYTES_PER_SAMPLE = 0.45
SIZE = "bytes a sample in blocks, index included"
DEVICE = "bytes a sample that reached the device"
WRITTEN = "bytes a sample that the process wrote"


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
            with np.errstate(invalid="ignore"):
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
    """Figures of the store: a frame a slot, as pulls at the pace of collectors get them, and commits as a hub does."""
    newest = max(int(t.times[-1]) for t in targets)
    samples = sum(int((t.states != ABSENT).sum()) for t in targets)
    store = Store.open(folder, StoreOptions(max_series=10_000_000), Late(newest))
    for number, target in enumerate(targets):
        store.set_target(source(number), Labels.of(instance=target.name, job="node"))
        store.add_schema(encode_schema(schema(target)))
    io, cpu, intake = written("self"), 0.0, 0.0
    for slot in range(len(targets[0].times)):
        frames = [frame(targets, number, slot) for number in range(len(targets))]
        began = time.process_time()
        for data in frames:
            store.append_frame(data)
        if slot % COMMIT_SLOTS == COMMIT_SLOTS - 1:
            store.commit()
        intake += time.process_time() - began
        if slot % 160 == 159:
            store.maintain()
        cpu += time.process_time() - began
    began = time.process_time()
    store.cut(newest + 1)
    store.maintain()
    cpu += time.process_time() - began
    figures = {
        "samples": samples,
        "M samples a core takes in a second": samples / intake / 1e6,
        "processor time, with cut and compaction, s": cpu,
        WRITTEN: (written("self") - io) / samples,
        SIZE: store.stats().block_bytes / samples,
    }
    store.close()
    return figures


def source(number: int) -> SourceId:
    """An id for a target."""
    return SourceId(struct.pack("<QQ", 1, number))


_schemas: dict[str, Schema] = {}


def schema(target: Target) -> Schema:
    """The target's schema, made once."""
    if target.name not in _schemas:
        _schemas[target.name] = Schema((SubSchema("all", tuple(target.labels)),))
    return _schemas[target.name]


def frame(targets: list[Target], number: int, slot: int) -> bytes:
    """One slot of a target."""
    target = targets[number]
    key = FrameKey(source(number), Epoch(1), slot, 0, schema(target).hash)
    part = slice(slot, slot + 1)
    return encode(key, target.times[part], target.values[:, part], target.states[:, part])


def prometheus(binary: str, targets: list[Target], folder: Path, whole: bool) -> dict[str, float]:
    """Figures of Prometheus, fed by remote write; `whole`: bytes are those of a snapshot, which is one block."""
    server = peers.prometheus(binary, folder)
    try:
        server.ready()
        sender = peers.Sender(server)
        io, began, samples = written(server.process.pid), server.cpu(), 0
        for slot in range(0, len(targets[0].times), WRITE_SLOTS):
            for target in targets:
                count, body = write_request(target, slice(slot, slot + WRITE_SLOTS))
                samples += count
                sender.send(body)
        taken = server.cpu() - began
        if whole:
            request = urllib.request.Request(f"{server.url}/api/v1/admin/tsdb/snapshot", method="POST")
            with urllib.request.urlopen(request, timeout=300) as answer:
                where = folder / "snapshots" / json.load(answer)["data"]["name"]
        else:
            time.sleep(20)
            where = folder
        io, cpu = written(server.process.pid) - io, server.cpu()
    finally:
        server.stop()
    metas = list(where.glob("*/meta.json"))
    in_blocks = sum(json.loads(path.read_text("utf-8"))["stats"]["numSamples"] for path in metas)
    size = sum(p.stat().st_size for path in metas for p in path.parent.rglob("*") if p.is_file())
    return {
        "M samples a core takes in a second": samples / taken / 1e6,
        "processor time, with cut and compaction, s": cpu,
        WRITTEN: io / samples,
        SIZE: size / max(1, in_blocks),
    }


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


def measure(
    title: str, targets: list[Target], binary: str, limits: dict[str, float], whole: bool = False, megabytes: int = 3000
) -> tuple[list[str], list[str]]:
    """Lines of the table for one class of data, and what was missed; `limits` are ratios to Prometheus's by figure."""
    with contextlib.ExitStack() as stack:
        base = stack.enter_context(peers.work())
        devices = {}
        if os.geteuid() == 0:
            for name in ("bramble", "prometheus") if binary else ("bramble",):
                devices[name] = peers.Device(base, name, megabytes)
                stack.callback(devices[name].close)
        ours = bramble(targets, base / "bramble" / "data")
        theirs = prometheus(binary, targets, base / "prometheus" / "data", whole) if binary else {}
        for name, figures in (("bramble", ours), ("prometheus", theirs)):
            if name in devices:
                figures[DEVICE] = devices[name].written() / ours["samples"]
    title = f"{title} ({ours.pop('samples') / 1e6:.1f} M samples)"
    lines, missed = [], []
    for name, limit in (*limits.items(), *((name, None) for name in ours if name not in limits)):
        if name in ours:
            lines.append(peers.row(f"{title}: {name}", ours[name], theirs.get(name), limit))
            if limit is not None and name in theirs and ours[name] > limit * theirs[name]:
                missed.append(f"{title}: {name}: {ours[name] / theirs[name]:.2f} of Prometheus's, promised {limit:.2f}")
    return lines, missed


def generator(data: Path, binary: str, targets: int, noise: bool) -> tuple[list[str], list[str]]:
    """Lines for the generator's data, or for full-entropy floats made of it."""
    chosen = load(data, targets, noise)
    if noise:
        return measure("full-entropy floats", chosen, binary, {SIZE: 1.0, DEVICE: 1.0})
    lines, missed = measure("generator", chosen, binary, {SIZE: 0.5, DEVICE: 1 / 3})
    size = float(lines[0].split("|")[2])
    if size > MAX_BYTES_PER_SAMPLE:
        missed.append(f"generator: {SIZE}: {size}, promised {MAX_BYTES_PER_SAMPLE}")
    return lines, missed


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--prometheus", default="")
    parser.add_argument("--targets", type=int, default=10)
    parser.add_argument("--noise", action="store_true")
    args = parser.parse_args()
    lines, missed = generator(args.data, args.prometheus, args.targets, args.noise)
    print("\n".join([*peers.HEAD, *lines]))
    for line in missed:
        print(line, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
