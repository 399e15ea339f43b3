"""Processor time of taking remote write, by part: unpacking, decoding, handing to the store.

usage: python -m tests.bench.remote_write [--series 2000]

Three kinds of requests: one sample a series (as Prometheus sends), ten, and thousands of few series (backfill). Each
is sent twice: first sight of its label sets, then with the same ones again at later times.
"""

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry

from common.clock import SystemClock
from common.labels import Labels
from common.remote import snappy
from common.remote.read import encode_result, encode_series
from common.remote.write import Decoder
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store
from hub.intake.remote_write import Receiver, Version

START = 1_700_000_000_000
STEP = 15_000


def request(series: int, samples: int, start: int) -> bytes:
    """A packed 1.0 request of counters with the usual labels."""
    rng = np.random.default_rng(1)
    times = start + STEP * np.arange(samples, dtype=np.int64)
    parts = []
    for number in range(series):
        labels = Labels.of(
            {
                "__name__": "node_cpu_seconds_total",
                "cpu": str(number % 8),
                "instance": f"pi-{number // 8:04d}:9100",
                "job": "node",
                "mode": "idle",
                "site": "garden",
            }
        )
        parts.append(encode_series(labels, times, np.cumsum(rng.random(samples)).round(2)))
    return snappy.compress(encode_result(parts))


def seconds(began: float) -> float:
    """Processor time since `began`."""
    return time.thread_time() - began


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--series", type=int, default=2000)
    series = options.parse_args().series
    print("| request | sight | bytes/sample | unpack us/sample | decode | whole | samples/s |")
    print("|---|---|---|---|---|---|---|")
    for rows, samples in ((series, 1), (series, 10), (max(series // 20, 1), 5000)):
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as executor:
            clock = SystemClock()
            store = Store.open(Path(folder), StoreOptions(retention_ms=0, max_series=1_000_000), clock)
            receiver = Receiver(store, StoreOptions(), executor, clock, CollectorRegistry())
            decoder = Decoder()
            for sight, start in (("first", START), ("again", START + samples * STEP)):
                body = request(rows, samples, start)
                began = time.thread_time()
                data = snappy.decompress(body, 1 << 30)
                unpack = seconds(began)
                began = time.thread_time()
                decoder.decode_v1(data)
                decode = seconds(began)
                began = time.thread_time()
                receiver._take(body, Version.V1)
                whole = seconds(began)
                count = rows * samples
                print(
                    f"| {rows} series x {samples} | {sight} | {len(body) / count:.1f} | {unpack / count * 1e6:.2f} "
                    f"| {decode / count * 1e6:.2f} | {whole / count * 1e6:.2f} | {count / whole:,.0f} |"
                )
            store.close()


if __name__ == "__main__":
    main()
