"""Any sequence of appends, commits, pulls, disk failures, crashes and restarts: nothing committed is ever lost."""

import errno
import tempfile
from array import array
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from common.errors import StorageError
from common.frames import codec
from common.frames.model import Epoch, Schema, SubSchema, decode_schema, read_header
from common.frames.ranges import RangeSet
from common.labels import Labels
from common.testing import FakeClock
from common.testing_files import FaultyFiles, UnsyncedFiles
from edge.identity import Machine
from edge.log import Log, LogOptions, Order

BASE = 1_700_000_000_000
SCHEMAS = [Schema((SubSchema("n", tuple(Labels.of(__name__="n", i=str(i)) for i in range(rows))),)) for rows in (1, 3)]
FAULTS = st.sampled_from(["write", "sync", "create", "sync_dir", "unlink", "append"])


class LogMachine(RuleBasedStateMachine):
    """A log with a hub that pulls from it, on a disk that fails now and then."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.clock = FakeClock()
        self.files = FaultyFiles(UnsyncedFiles())
        self.n = 0
        self.safe: set[int] = set()
        self.waiting: set[int] = set()
        self.hub: dict[tuple[Epoch, int], bytes] = {}
        self.open()

    def open(self) -> None:
        path = Path(self.directory.name) / "log"
        options = LogOptions(segment_bytes=4096)
        self.log = Log.open(path, options, self.clock, files=self.files, machine=Machine("a", "b"))

    @rule(which=st.integers(0, 1), lane=st.integers(0, 2), count=st.integers(1, 4))
    def append(self, which: int, lane: int, count: int) -> None:
        for _ in range(count):
            schema = SCHEMAS[which]
            self.log.append(lane, schema, BASE + self.n, array("d", [float(self.n)] * schema.rows))
            self.waiting.add(self.n)
            self.n += 1

    @rule()
    def commit(self) -> None:
        try:
            self.log.commit()
        except StorageError:
            assert self.files.failing
            assert self.log.stats().paused
        else:
            self.safe |= self.waiting
            self.waiting.clear()

    @rule(newest=st.booleans(), limit=st.integers(1, 2000))
    def pull(self, newest: bool, limit: int) -> None:
        have: dict[Epoch, RangeSet] = {}
        for epoch, seq in self.hub:
            have[epoch] = have.get(epoch, RangeSet()).add(seq)
        reply = self.log.read(have, Order.NEWEST if newest else Order.OLDEST, limit)
        for data in reply.frames:
            header = read_header(data)
            assert self.hub.setdefault((header.epoch, header.seq), data) is data, "a key was sent twice"
            assert header.seq in reply.available[header.epoch]

    @rule(operation=FAULTS, number=st.sampled_from([errno.EIO, errno.ENOSPC]))
    def break_disk(self, operation: str, number: int) -> None:
        self.files.failing = {operation: number}

    @precondition(lambda self: self.files.failing)
    @rule()
    def repair_disk(self) -> None:
        self.files.failing = {}

    @rule(step=st.integers(-100_000, 100_000))
    def step_clock(self, step: int) -> None:
        self.clock.step(step)
        self.log.stamp()

    @rule()
    def crash(self) -> None:
        self.waiting.clear()
        self.release()
        self.open()

    @rule()
    def restart(self) -> None:
        self.commit()
        self.crash()

    def release(self) -> None:
        """Let go of the directory as a killed process does: nothing is flushed."""
        self.log._directory_lock.close()
        if self.log._disk._out is not None:
            self.log._disk._out.close()

    @invariant()
    def everything_safe_can_be_read(self) -> None:
        if not hasattr(self, "log"):
            return
        frames, pending = self.log.between(BASE, BASE + self.n)
        stored: set[int] = set()
        for data in frames:
            frame = codec.decode(data)
            if frame.header.rows:
                schema = self.log.schema(frame.header.schema)
                assert schema is not None
                assert decode_schema(schema).rows == frame.header.rows
                assert (frame.values == frame.timestamps - BASE).all()
                stored.update((frame.timestamps - BASE).tolist())
        for slots in pending:
            stored.update(t - BASE for t in slots.timestamps)
        assert stored >= self.safe | self.waiting

    def teardown(self) -> None:
        if hasattr(self, "log"):
            self.release()
            self.directory.cleanup()


LogMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestLogMachine = LogMachine.TestCase
