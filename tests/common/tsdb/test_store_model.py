"""The store against the dictionary model: any sequence of appends and restarts reads back exactly."""

import math
import struct
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from common.frames.codec import encode
from common.frames.model import (
    ABSENT,
    NO_SCHEMA,
    STALE,
    Correction,
    Epoch,
    Flags,
    FrameKey,
    Provisional,
    Schema,
    SourceId,
    SubSchema,
    encode_schema,
)
from common.labels import Labels, Matcher, MatchType
from common.sample import STALE_NAN, Millis
from common.testing import FakeClock
from common.testing_files import UnsyncedFiles
from common.tsdb.memory import MemoryQuerier, read_all
from common.tsdb.options import Outcome, StoreOptions
from common.tsdb.querier import RowBatch
from common.tsdb.store import Store

ROWS = [Labels.of(__name__=name, i=str(i)) for name in ("a", "b") for i in range(2)]
PARTS = [SubSchema(f"p{i}", (row,)) for i, row in enumerate(ROWS)] + [SubSchema("q", (ROWS[0], ROWS[2]))]
SCHEMAS = [Schema((PARTS[0],)), Schema((PARTS[0], PARTS[1], PARTS[2])), Schema((PARTS[4], PARTS[3]))]
SOURCES = [SourceId(bytes([i]) * 16) for i in range(2)]
TARGETS = [Labels(), Labels.of(job="x"), Labels.of(job="y", i="0")]
VALUES = st.one_of(
    st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, -2.5e-310, 1.7e308, 1.0, 12.25]),
    st.integers(-(2**40), 2**40).map(float),
    st.floats(allow_nan=False),
)


@dataclass(frozen=True)
class AppendOp:
    source: int
    epoch: int
    seq: int
    lane: int
    schema: int
    times: tuple[int, ...]
    cells: tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class ProvisionalOp:
    """A frame with an estimated time, and a time after its correction, that nothing else has."""

    source: int
    boot: int
    seq: int
    schema: int
    cells: tuple[tuple[float, int], ...]

    @property
    def monotonic(self) -> int:
        return 10_000 * self.seq

    @property
    def times(self) -> list[int]:
        first = 500_007 + 100_000 * (2 * self.source + self.boot) + self.monotonic
        return [first, first + 1000]


@dataclass(frozen=True)
class CorrectOp:
    source: int
    boot: int

    @property
    def offset(self) -> int:
        return 1_600_000_000_003 + 100_000 * (2 * self.source + self.boot)


@dataclass(frozen=True)
class TargetOp:
    source: int
    target: int


@dataclass(frozen=True)
class CutOp:
    before: int


@dataclass(frozen=True)
class LooseOp:
    samples: tuple[tuple[Labels, int, float], ...]


@dataclass(frozen=True)
class DeleteOp:
    matcher: Matcher
    start: int
    end: int


Op = AppendOp | ProvisionalOp | CorrectOp | TargetOp | CutOp | LooseOp | DeleteOp | str


@st.composite
def append_ops(draw: st.DrawFn) -> AppendOp:
    schema = draw(st.integers(0, len(SCHEMAS) - 1))
    start = draw(st.sampled_from([0, 1000, 2000, 50_000, 1_700_000_000_000]))
    steps = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    times = tuple(start + 1000 * sum(steps[: i + 1]) for i in range(len(steps)))
    cell = st.tuples(VALUES, st.sampled_from([0, 1, 1, 1, 1, 2]))
    size = SCHEMAS[schema].rows * len(times)
    cells = tuple(draw(st.lists(cell, min_size=size, max_size=size)))
    return AppendOp(
        draw(st.integers(0, 1)),
        draw(st.integers(1, 2)),
        draw(st.integers(0, 3)),
        draw(st.integers(0, 1)),
        schema,
        times,
        cells,
    )


@st.composite
def provisional_ops(draw: st.DrawFn) -> ProvisionalOp:
    schema = draw(st.integers(0, len(SCHEMAS) - 1))
    size = SCHEMAS[schema].rows * 2
    cells = draw(st.lists(st.tuples(VALUES, st.sampled_from([0, 1, 1, 1, 2])), min_size=size, max_size=size))
    return ProvisionalOp(
        draw(st.integers(0, 1)), draw(st.integers(0, 1)), draw(st.integers(0, 3)), schema, tuple(cells)
    )


LOOSE_LABELS = [
    *ROWS,
    Labels.of(__name__="a", i="0", job="x"),
    Labels.of(__name__="b", i="1", job="x"),
    Labels.of(__name__="loose", instance="z", job="x"),
    Labels.of(__name__="loose", i="0"),
]
MATCHERS = [Matcher(MatchType.EQ, "i", "0"), Matcher(MatchType.NE, "job", "x"), Matcher(MatchType.RE, "job", ".+")]
TIMES = st.sampled_from([0, 1000, 2000, 3000, 51_000, 7_200_000, 1_700_000_001_000])
loose_ops = st.builds(
    LooseOp,
    st.lists(
        st.tuples(st.sampled_from(LOOSE_LABELS), TIMES, st.one_of(VALUES, st.just(STALE_NAN))), min_size=1, max_size=6
    ).map(tuple),
)
OPS = st.one_of(
    append_ops(),
    loose_ops,
    loose_ops,
    st.builds(DeleteOp, st.sampled_from(MATCHERS), TIMES, TIMES),
    append_ops(),
    append_ops(),
    st.builds(TargetOp, st.integers(0, 1), st.integers(0, len(TARGETS) - 1)),
    provisional_ops(),
    provisional_ops(),
    st.builds(CorrectOp, st.integers(0, 1), st.integers(0, 1)),
    st.sampled_from(["commit", "restart", "maintain", "relieve", "relieve", "relieve", "clean", "give up"]),
    st.builds(CutOp, st.sampled_from([1, 2000, 3000, 51_000, 2**50])),
)


class Model:
    """What the store must hold: the dictionary model, target labels, and frames by key."""

    def __init__(self) -> None:
        self.samples = MemoryQuerier()
        self.targets = {source: Labels() for source in range(2)}
        self.frames: dict[tuple[int, int, int], AppendOp] = {}
        self.provisional: dict[tuple[int, int, int], ProvisionalOp] = {}
        self.corrected: set[tuple[int, int]] = set()
        self.waiting: list[tuple[ProvisionalOp, Labels, int]] = []

    def append(self, op: AppendOp) -> Outcome:
        key = (op.source, op.epoch, op.seq)
        if key in self.frames:
            return Outcome.DUPLICATE if same_frame(self.frames[key], op) else Outcome.QUARANTINED
        self.frames[key] = op
        slots = len(op.times)
        for row, labels in enumerate(SCHEMAS[op.schema].labels()):
            full = self.targets[op.source].merge(labels)
            for slot, time in enumerate(op.times):
                value, state = op.cells[row * slots + slot]
                if state != ABSENT:
                    self.samples.add(full, time, STALE_NAN if state == STALE else value)
        return Outcome.ACCEPTED

    def append_provisional(self, op: ProvisionalOp) -> Outcome:
        key = (op.source, op.boot, op.seq)
        if key in self.provisional:
            same = provisional_bytes(self.provisional[key]) == provisional_bytes(op)
            return Outcome.DUPLICATE if same else Outcome.QUARANTINED
        self.provisional[key] = op
        for row, labels in enumerate(SCHEMAS[op.schema].labels()):
            full = self.targets[op.source].merge(labels)
            for slot, time in enumerate(op.times):
                value, state = op.cells[row * 2 + slot]
                if state == ABSENT:
                    continue
                self.samples.add(full, time, STALE_NAN if state == STALE else value)
                self.waiting.append((op, full, time))
        if (op.source, op.boot) in self.corrected:
            self.correct(CorrectOp(op.source, op.boot))
        return Outcome.ACCEPTED

    def correct(self, op: CorrectOp) -> None:
        self.corrected.add((op.source, op.boot))
        kept = []
        for each, labels, time in self.waiting:
            if (each.source, each.boot) == (op.source, op.boot):
                self.samples.shift(labels, time, each.monotonic + op.offset - each.times[0])
            else:
                kept.append((each, labels, time))
        self.waiting = kept


def provisional_bytes(op: ProvisionalOp) -> bytes:
    schema = SCHEMAS[op.schema]
    values = np.array([value for value, _ in op.cells]).reshape(schema.rows, 2)
    states = np.array([state for _, state in op.cells], np.uint8).reshape(schema.rows, 2)
    key = FrameKey(SOURCES[op.source], Epoch(10 + op.boot), op.seq, 0, schema.hash, Flags.PROVISIONAL)
    return encode(key, op.times, values, states, provisional=Provisional(bytes([op.boot]) * 16, op.monotonic))


def correction_bytes(op: CorrectOp) -> bytes:
    key = FrameKey(SOURCES[op.source], Epoch(20), op.boot, 0, NO_SCHEMA, Flags.SYNCED)
    return encode(key, [], np.empty((0, 0)), correction=Correction(bytes([op.boot]) * 16, op.offset))


def same_frame(left: AppendOp, right: AppendOp) -> bool:
    return frame_bytes(left) == frame_bytes(right)


def frame_bytes(op: AppendOp) -> bytes:
    schema = SCHEMAS[op.schema]
    shape = (schema.rows, len(op.times))
    values = np.array([value for value, _ in op.cells]).reshape(shape)
    states = np.array([state for _, state in op.cells], np.uint8).reshape(shape)
    key = FrameKey(SOURCES[op.source], Epoch(op.epoch), op.seq, op.lane, schema.hash)
    return encode(key, list(op.times), values, states)


def exactly(batches: Iterable[RowBatch]) -> dict[Labels, list[tuple[int, bytes | None]]]:
    """Samples with their bits, so that -0 is not 0; every NaN that is no marker is the same."""
    return {
        labels: [(t, None if v is None else b"nan" if math.isnan(v) else struct.pack("<d", v)) for t, v in samples]
        for labels, samples in read_all(batches).items()
    }


@pytest.fixture(autouse=True, scope="module")
def small_parts() -> Iterator[None]:
    """Chunks of two slots, a tail of two samples and packs that are merged by twos, so that a few appends do it all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("common.tsdb.lanes.SLOTS", 2)
        patch.setattr("common.tsdb.loose.TAIL", 2)
        patch.setattr("common.tsdb.packs.FEW", 1)
        yield


def run(ops: list[Op], start: int, end: int, matcher: Matcher) -> None:
    model = Model()
    with tempfile.TemporaryDirectory() as folder:
        options = StoreOptions(wal_segment_bytes=2000, retention_ms=0, seal_bytes=0, max_provisional_ms=5000)
        clock = FakeClock()
        store = Store.open(Path(folder), options, clock, UnsyncedFiles())
        try:
            for schema in SCHEMAS:
                store.add_schema(encode_schema(schema))
            seen = Seen(store, set())
            for op in ops:
                match op:
                    case AppendOp():
                        assert store.append_frame(frame_bytes(op)).outcome is model.append(op)
                    case ProvisionalOp():
                        assert store.append_frame(provisional_bytes(op)).outcome is model.append_provisional(op)
                    case CorrectOp():
                        store.append_frame(correction_bytes(op))
                        model.correct(op)
                    case "give up":
                        clock.pass_by(10)
                        store.maintain()
                        model.waiting.clear()
                    case TargetOp():
                        store.set_target(SOURCES[op.source], TARGETS[op.target])
                        model.targets[op.source] = TARGETS[op.target]
                    case CutOp():
                        store.cut(op.before)
                    case LooseOp():
                        store.append_loose(SOURCES[0], op.samples)
                        for sample in op.samples:
                            model.samples.add(*sample)
                    case DeleteOp():
                        store.delete([op.matcher], op.start, op.end)
                        model.samples.delete([op.matcher], op.start, op.end)
                    case "clean":
                        store.clean_deletions()
                    case "commit":
                        store.commit()
                    case "relieve":
                        store.relieve()
                    case "maintain":
                        store.maintain()
                    case _:
                        store.close()
                        store = Store.open(Path(folder), options, clock, UnsyncedFiles())
                        for schema in SCHEMAS:
                            store.add_schema(encode_schema(schema))
                compare(store, model.samples, start, end, matcher)
                seen = seen.look(store)
            assert not store.stats().loss
        finally:
            store.close()


class Seen:
    """What a store held, and its generation then."""

    def __init__(self, store: Store, samples: set[tuple[Labels, int, bytes | None]]) -> None:
        self.store = store
        self.generation = store.changes.generation
        self.samples = samples

    def look(self, store: Store) -> "Seen":
        """What it holds now; the store must have told of every time at which that differs."""
        read = exactly(store.select([], Millis(-(2**62)), Millis(2**62)))
        now = Seen(store, {(labels, *sample) for labels, samples in read.items() for sample in samples})
        if store is self.store:
            told = store.changes.since(self.generation)
            for _, time, _ in self.samples ^ now.samples:
                assert any(first <= time <= last for first, last in told)
        return now


def compare(store: Store, model: MemoryQuerier, start: int, end: int, matcher: Matcher) -> None:
    everything = Millis(-(2**62)), Millis(2**62)
    assert exactly(store.select([], *everything)) == exactly(model.select([], *everything))
    part = Millis(start), Millis(end)
    assert exactly(store.select([matcher], *part)) == exactly(model.select([matcher], *part))
    assert set(store.series([[matcher]], *part)) >= set(model.series([[matcher]], *part))
    assert set(store.label_names([[matcher]], *part)) >= set(model.label_names([[matcher]], *part))
    assert set(store.label_values("i", [], *part)) >= set(model.label_values("i", [], *part))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(OPS, max_size=12),
    st.sampled_from([0, 1000, 3000, 51_000]),
    st.sampled_from([2000, 4000, 53_000]),
    st.sampled_from(MATCHERS),
)
def test_any_sequence_of_appends_deletions_and_restarts_reads_back_as_the_model_says(
    ops: list[Op], start: int, end: int, matcher: Matcher
) -> None:
    run(ops, start, end, matcher)
