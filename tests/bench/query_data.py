"""The data of gen.py, brought into Bramble and its peers: as frames, as agents ship them, and as remote write 1.0."""

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import cramjam
import numpy as np
from numpy.typing import NDArray

from common.clock import SystemClock
from common.frames.codec import encode
from common.frames.model import (
    ABSENT,
    PRESENT,
    STALE,
    Epoch,
    Flags,
    FrameKey,
    Schema,
    SourceId,
    SubSchema,
    encode_schema,
)
from common.frames.varint import put_uvarint
from common.labels import Labels
from common.sample import STALE_NAN_BITS
from common.tsdb.options import Outcome, StoreOptions
from common.tsdb.store import Store

FRAME_SLOTS = 20
"""Slots of a frame: five minutes, as an agent that commits that often."""
WRITE_SLOTS = 40
"""Samples of a series in one remote-write request."""

HEADERS = {
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}
"""Of a remote-write request."""

_SAMPLE = np.dtype([("head", "V3"), ("value", "<f8"), ("tag", "u1"), ("time", "u1", 6)])


@dataclass(frozen=True)
class Fleet:
    """What gen.py wrote, read as it is needed."""

    directory: Path

    @cached_property
    def about(self) -> dict[str, list[list[object]]]:
        """series.json."""
        return json.loads((self.directory / "series.json").read_text())

    @cached_property
    def times(self) -> NDArray[np.int64]:
        """int64 ms [targets, slots]."""
        return np.load(self.directory / "ts.npy")

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """float64 [targets, series, slots], from the disk."""
        return np.load(self.directory / "vals.npy", mmap_mode="r")

    @property
    def start(self) -> int:
        """ms of the first slot."""
        return int(self.about["start_ms"])  # type: ignore[call-overload]

    @property
    def end(self) -> int:
        """ms where the slots end."""
        return self.start + self.times.shape[1] * int(self.about["interval_ms"])  # type: ignore[call-overload]

    def target(self, number: int) -> Labels:
        """Target labels."""
        return Labels.of({"instance": str(self.about["targets"][number]), "job": "node"})

    def heads(self, number: int) -> list[bytes]:
        """Packed labels of a target's series, as remote write has them."""
        return [label_bytes(self.target(number).merge(row)) for row in self.rows(number)]

    def rows(self, number: int) -> list[Labels]:
        """Label sets of a target's rows, without the target's."""
        series = self.about["series"]
        return [Labels.of({"__name__": series[i][0], **series[i][1]}) for i in self.about["present"][number]]  # type: ignore[call-overload]

    def cut(self, number: int, low: int, high: int) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """Values and cell states of a target's rows in slots low..high (exclusive)."""
        values = np.ascontiguousarray(self.values[number][:, low:high][self.about["present"][number]])
        stale = values.view(np.uint64) == STALE_NAN_BITS
        cells = np.where(stale, STALE, np.where(np.isnan(values), ABSENT, PRESENT)).astype(np.uint8)
        return values, cells


def load_frames(fleet: Fleet, directory: Path) -> None:
    """Fill a hub's data directory with what its agents would have shipped, and cut it as the hub does."""
    store = Store.open(directory, StoreOptions(max_pending_bytes=1 << 30), SystemClock())
    epoch, slots = Epoch(1), fleet.times.shape[1]
    schemas = {}
    for target in range(len(fleet.times)):
        source = SourceId(blake2b(fleet.target(target).get("instance").encode(), digest_size=16).digest())
        schemas[target] = (
            source,
            store.add_schema(encode_schema(Schema((SubSchema("node", tuple(fleet.rows(target))),)))),
        )
        store.set_target(source, fleet.target(target))
    for seq, low in enumerate(range(0, slots, FRAME_SLOTS)):
        for target, (source, schema) in schemas.items():
            values, cells = fleet.cut(target, low, low + FRAME_SLOTS)
            key = FrameKey(source, epoch, seq, 0, schema, Flags.SYNCED)
            taken = store.append_frame(encode(key, fleet.times[target, low : low + FRAME_SLOTS], values, cells))
            if taken.outcome is not Outcome.ACCEPTED:
                raise SystemExit(f"frame {seq} of target {target}: {taken}")
        store.commit()
    store.maintain()
    store.close()


def pack(labels: list[bytes], values: NDArray[np.float64], there: NDArray[np.bool_], times: NDArray[np.int64]) -> bytes:
    """A remote-write request, not compressed: samples [S, T] of series whose labels are packed already."""
    body = bytearray()
    for label, row, shown in zip(labels, pack_samples(times, values), there, strict=True):
        samples = (row if shown.all() else row[shown]).tobytes()
        if samples:
            put_series(body, label, samples)
    return bytes(body)


def requests(fleet: Fleet) -> Iterator[bytes]:
    """Remote-write requests, not compressed, in order of time: one target and `WRITE_SLOTS` slots each."""
    heads = [fleet.heads(target) for target in range(len(fleet.times))]
    for low in range(0, fleet.times.shape[1], WRITE_SLOTS):
        for target, labels in enumerate(heads):
            values, cells = fleet.cut(target, low, low + WRITE_SLOTS)
            times = fleet.times[target, low : low + WRITE_SLOTS]
            body = pack(labels, values, cells != ABSENT, times)
            if body:
                yield body


def pack_samples(times: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.void]:
    """Samples as remote write 1.0 has them, one an element; the last axis of `values` is time (ms, of today)."""
    packed = np.zeros(values.shape, _SAMPLE)
    # Sample {1: double value, 2: int64 timestamp}; a time of today is a varint of six bytes.
    packed["head"] = np.frombuffer(b"\x12\x10\x09", "V3")[0]
    packed["value"] = values
    packed["tag"] = 0x10
    shifts = np.arange(0, 42, 7)
    packed["time"] = ((times[:, None] >> shifts) & 0x7F | np.where(shifts < 35, 0x80, 0)).astype(np.uint8)
    return packed


def put_series(body: bytearray, label: bytes, samples: bytes) -> None:
    """Add one series to a request: its labels as `label_bytes` makes them, and packed samples."""
    body.append(0x0A)
    put_uvarint(body, len(label) + len(samples))
    body += label
    body += samples


def label_bytes(labels: Labels) -> bytes:
    """A label set as remote write 1.0 has it."""
    out = bytearray()
    for name, value in labels.pairs:
        pair = bytearray()
        for tag, text in ((0x0A, name.encode()), (0x12, value.encode())):
            pair.append(tag)
            put_uvarint(pair, len(text))
            pair += text
        out.append(0x0A)
        put_uvarint(out, len(pair))
        out += pair
    return bytes(out)


def write_all(fleet: Fleet, urls: list[str]) -> None:
    """Send everything to all servers by remote write."""
    for body in requests(fleet):
        packed = bytes(cramjam.snappy.compress_raw(body))
        for url in urls:
            with urllib.request.urlopen(urllib.request.Request(f"{url}/api/v1/write", packed, HEADERS), timeout=120):
                pass
