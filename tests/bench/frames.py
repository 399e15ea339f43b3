"""Frames: bytes a sample and speed of both encoders, beside plain zstd on the same float64s.

usage: python -m tests.bench.frames --data DIR      (DIR as gen.py made it; its first target is used)

Exits with 1 if a ratio is worse than promised; seconds are only shown.
"""

import argparse
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zstandard

from common.frames import codec, writer
from common.frames.model import PRESENT, Epoch, FrameKey, SchemaHash, SourceId
from tests.bench.edge_writes import Data

KEY = FrameKey(SourceId(bytes(16)), Epoch(1), 1, 0, SchemaHash(b"x" * 16))
# Slots a frame, and the most that its bytes may be of plain zstd's on the same values, by class of data.
PROMISES = {1: 0.85, 4: 0.65, 20: 0.55, 60: 0.55, 240: 0.55}
NOISE_PROMISE = 1.01


def seconds(work: Callable[[], object], cells: int) -> float:
    """The best time of one call, of as many as a fraction of a second takes."""
    best = float("inf")
    for _ in range(max(5, 200_000 // cells)):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best


def measure(name: str, values: np.ndarray, cells: np.ndarray, promise: float) -> bool:
    """Print one line; whether the promise held."""
    slots = values.shape[1]
    times = list(range(0, 15_000 * slots, 15_000))
    columns = [array("d", values[:, t].tobytes()) for t in range(slots)]
    states = [cells[:, t].tobytes() for t in range(slots)]
    data = codec.encode(KEY, times, values, cells)
    assert data == writer.encode(KEY, times, columns, states)
    count = values.size
    plain = len(zstandard.ZstdCompressor(level=3).compress(values.tobytes()))
    ratio = len(data) / plain
    speeds = [
        count / seconds(work, count) / 1e6
        for work in (
            lambda: codec.encode(KEY, times, values, cells),
            lambda: codec.decode(data),
            lambda: writer.encode(KEY, times, columns, states),
        )
    ]
    verdict = "ok" if ratio <= promise else f"WORSE THAN {promise}"
    print(
        f"{name:12} {slots:>4} slots  {len(data) / count:6.3f} B/sample  x{ratio:.2f} of plain zstd  "
        f"encode {speeds[0]:6.1f}  decode {speeds[1]:6.1f}  edge encode {speeds[2]:5.2f} M samples/s  {verdict}"
    )
    return ratio <= promise


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    data = Data.load(parser.parse_args().data)
    noise = np.random.default_rng(1).random(data.values.shape)
    good = True
    for slots, promise in PROMISES.items():
        part = slice(100, 100 + slots)
        values, cells = np.ascontiguousarray(data.values[:, part]), np.ascontiguousarray(data.cells[:, part])
        good &= measure("generator", values, cells, promise)
    for slots in (4, 60):
        values = np.ascontiguousarray(noise[:, :slots])
        good &= measure("full entropy", values, np.full(values.shape, PRESENT, np.uint8), NOISE_PROMISE)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
