"""kill -9 under ingest: what was acknowledged outside the process is there after a restart, once."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.frames.model import Epoch, SourceId
from common.labels import Labels, Matcher, MatchType
from common.sample import Millis
from common.testing import FakeClock
from common.tsdb.memory import read_all
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store

ROUNDS = int(os.environ.get("BRAMBLE_KILL_ROUNDS", "20"))
WRITER = """
import sys
from pathlib import Path
import numpy as np
from common.clock import SystemClock
from common.frames.codec import encode
from common.frames.model import Epoch, FrameKey, Schema, SourceId, SubSchema, encode_schema
from common.histogram import FloatHistogram
from common.labels import Labels
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store

schema = Schema((SubSchema("a", tuple(Labels.of(__name__="m", i=str(i)) for i in range(50))),))
store = Store.open(Path(sys.argv[1]), StoreOptions(wal_segment_bytes=20_000), SystemClock())
store.add_schema(encode_schema(schema))
native = Labels.of(__name__="h")
epoch, seq, source = Epoch(int(sys.argv[2])), 0, SourceId(b"s" * 16)
while True:
    for _ in range(3):
        at = epoch * 1_000_000 + seq
        values = np.full((50, 1), float(at))
        store.append_frame(encode(FrameKey(source, epoch, seq, 0, schema.hash), [at], values))
        seq += 1
    store.append_histograms([(native, epoch * 1_000_000 + seq, FloatHistogram(count=float(seq)), 0)])
    store.commit()
    assert len(store.have(source)[epoch].ranges) == 1
    print(seq, flush=True)
"""


@pytest.mark.integration
def test_nothing_acknowledged_is_lost_or_doubled_over_kills(tmp_path: Path) -> None:
    chance = random.Random(1)
    acknowledged: dict[int, int] = {}
    for epoch in range(1, ROUNDS + 1):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(epoch)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        try:
            acknowledged[epoch] = int(process.stdout.readline())
            time.sleep(chance.random() * 0.05)
        finally:
            process.kill()
        acknowledged[epoch] = int([str(acknowledged[epoch]), *process.stdout.read().split("\n")[:-1]][-1])
        process.stdout.close()
        process.wait()
    store = Store.open(tmp_path, StoreOptions(), FakeClock())
    try:
        had = store.have(SourceId(b"s" * 16))
        times = {t for t, _ in read_all(store.select([], Millis(0), Millis(2**60)))[Labels.of(__name__="m", i="7")]}
        (sizes,) = store.select([Matcher(MatchType.EQ, "__name__", "h")], Millis(0), Millis(2**60))
        native = set(sizes.timelines[0].timestamps.tolist())
        for epoch, count in acknowledged.items():
            assert native >= {epoch * 1_000_000 + seq for seq in range(3, count + 1, 3)}
            assert had[Epoch(epoch)].ranges[0][0] == 0
            assert had[Epoch(epoch)].ranges[0][1] >= count - 1
            assert times >= {epoch * 1_000_000 + seq for seq in range(count)}
        assert times == {int(epoch) * 1_000_000 + seq for epoch, seqs in had.items() for seq in seqs}
    finally:
        store.close()
