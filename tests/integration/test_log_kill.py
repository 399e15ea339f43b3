"""kill -9 of a process that writes the edge's log: what it acknowledged is there, and no key was used twice."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from common.clock import SystemClock
from common.frames import codec
from common.frames.model import read_header
from edge.identity import Machine
from edge.log import Log, LogOptions, Order

ROUNDS = int(os.environ.get("BRAMBLE_KILL_ROUNDS", "20"))
WRITER = textwrap.dedent(
    """
    import sys
    from array import array
    from pathlib import Path
    from common.clock import SystemClock
    from common.frames.model import Schema, SubSchema
    from common.labels import Labels
    from edge.identity import Machine
    from edge.log import Log, LogOptions

    start = int(sys.argv[2])
    log = Log.open(Path(sys.argv[1]), LogOptions(segment_bytes=4096), SystemClock(), machine=Machine("a", "b"))
    schema = Schema((SubSchema("n", tuple(Labels.of(__name__="n", i=str(i)) for i in range(20))),))
    for n in range(start, start + 100_000):
        log.append(0, schema, 1_700_000_000_000 + n, array("d", [float(n)] * 20))
        if n % 3 == 0:
            log.seal()
        if n % 7 == 0:
            log.commit()
            print(n, flush=True)
    """
)


@pytest.mark.integration
def test_nothing_acknowledged_is_lost_and_no_key_is_used_twice(tmp_path: Path) -> None:
    chance = random.Random(3)
    acknowledged: list[tuple[int, int]] = []
    frames: dict[tuple[int, int], bytes] = {}
    for round_number in range(ROUNDS):
        start = round_number * 1_000_000
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(start)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        ) as writer:
            assert writer.stdout is not None
            last = int(writer.stdout.readline())
            time.sleep(chance.uniform(0, 0.15))
            writer.send_signal(signal.SIGKILL)
            for line in writer.stdout:
                if line.endswith("\n"):
                    last = int(line)
        acknowledged.append((start, last))
        log = Log.open(tmp_path, LogOptions(), SystemClock(), machine=Machine("a", "b"))
        stored = set()
        for data in log.read({}, Order.OLDEST, 1 << 30).frames:
            header = read_header(data)
            assert frames.setdefault((header.epoch, header.seq), data) == data
            frame = codec.decode(data)
            assert (frame.values == frame.timestamps - 1_700_000_000_000).all()
            stored.update((frame.timestamps - 1_700_000_000_000).tolist())
        log.close()
        for first, upto in acknowledged:
            assert set(range(first, upto + 1)) <= stored
    assert sum(upto - first for first, upto in acknowledged) > 0
