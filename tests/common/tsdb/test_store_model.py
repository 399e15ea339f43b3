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
from common.histogram import CUSTOM_SCHEMA, FloatHistogram, ResetHint, side
from common.labels import Labels, Matcher, MatchType, match_all
from common.sample import STALE_NAN, Millis, is_stale
from common.testing import FakeClock
from common.testing_files import UnsyncedFiles
from common.tsdb import native
from common.tsdb.frozen import open_frozen
from common.tsdb.native import Stored
from common.tsdb.options import Outcome, StoreOptions
from common.tsdb.querier import RowBatch, SelectHints, ValueKind
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
HOUR = 3_600_000
EVERYTHING = Millis(-(2**62)), Millis(2**62)


def plain(size: float, hint: ResetHint = ResetHint.UNKNOWN) -> FloatHistogram:
    return FloatHistogram(1, 4 * size, 9.5 * size, size, 0.001, side(-3, [size, 0, 2 * size]), hint=hint)


HISTOGRAMS = [
    *(plain(size) for size in (1.0, 2.0, 7.0, 2.5)),
    plain(3.0, ResetHint.GAUGE),
    plain(3.0, ResetHint.RESET),
    FloatHistogram(0, 2, 3.0, negative=side(4, [1, 1])),
    FloatHistogram(CUSTOM_SCHEMA, 3, 3.0, positive=side(1, [1.0, 2.0]), custom=(0.5, 1.0, 2.0)),
]


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
class NativeOp:
    samples: tuple[tuple[Labels, int, FloatHistogram | None], ...]


@dataclass(frozen=True)
class DeleteOp:
    matcher: Matcher
    start: int
    end: int


Op = AppendOp | ProvisionalOp | CorrectOp | TargetOp | CutOp | LooseOp | NativeOp | DeleteOp | str


@st.composite
def append_ops(draw: st.DrawFn) -> AppendOp:
    schema = draw(st.integers(0, len(SCHEMAS) - 1))
    start = draw(st.sampled_from([0, 1000, 2000, 50_000, 2 * HOUR, 30 * HOUR, 1_700_000_000_000]))
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
TIMES = st.sampled_from([0, 1000, 2000, 3000, 51_000, 2 * HOUR, 4 * HOUR, 30 * HOUR, 1_700_000_001_000])
loose_ops = st.builds(
    LooseOp,
    st.lists(
        st.tuples(st.sampled_from(LOOSE_LABELS), TIMES, st.one_of(VALUES, st.just(STALE_NAN))), min_size=1, max_size=6
    ).map(tuple),
)
native_ops = st.builds(
    NativeOp,
    st.lists(
        st.tuples(st.sampled_from(LOOSE_LABELS[:5]), TIMES, st.one_of(st.none(), st.sampled_from(HISTOGRAMS))),
        min_size=1,
        max_size=6,
    ).map(tuple),
)
delete_ops = st.builds(DeleteOp, st.sampled_from(MATCHERS), TIMES, TIMES)
cut_ops = st.builds(CutOp, st.sampled_from([1, 2000, 3000, 51_000, 3 * HOUR, 2**50]))
OPS = st.one_of(
    append_ops(),
    loose_ops,
    loose_ops,
    delete_ops,
    append_ops(),
    append_ops(),
    native_ops,
    st.builds(TargetOp, st.integers(0, 1), st.integers(0, len(TARGETS) - 1)),
    provisional_ops(),
    provisional_ops(),
    st.builds(CorrectOp, st.integers(0, 1), st.integers(0, 1)),
    st.sampled_from(["commit", "restart", "maintain", "relieve", "relieve", "relieve", "clean", "give up"]),
    st.sampled_from(["flush", "snapshot", "freeze"]),
    cut_ops,
)
LATE_OPS = st.one_of(
    native_ops,
    native_ops,
    loose_ops,
    delete_ops,
    cut_ops,
    st.sampled_from(["relieve", "maintain", "restart", "clean", "snapshot"]),
)
"""What comes loose, late and in place of what was deleted, between all that moves it."""

Cell = tuple[str, bytes | None]
"""Kind and bits, so that -0 is not 0 (every NaN that is no marker is the same); None for a staleness marker."""
Content = dict[Labels, dict[int, Cell]]


def float_cell(value: float) -> Cell:
    return "float", None if is_stale(value) else b"nan" if math.isnan(value) else struct.pack("<d", value)


def native_cell(value: FloatHistogram | None) -> Cell:
    if value is None:
        return "histogram", None
    # What the store adds is looked at elsewhere.
    known = value.with_hint(ResetHint.UNKNOWN) if value.hint is ResetHint.NOT_RESET else value
    return "histogram", native.encode(Stored(known))


class Samples:
    """First come, first kept."""

    def __init__(self) -> None:
        self._series: Content = {}

    def add(self, labels: Labels, time: int, cell: Cell) -> None:
        self._series.setdefault(labels, {}).setdefault(time, cell)

    def delete(self, matcher: Matcher, start: int, end: int) -> None:
        for labels, samples in self._series.items():
            if match_all([matcher], labels):
                self._series[labels] = {at: cell for at, cell in samples.items() if not start <= at <= end}

    def shift(self, labels: Labels, time: int, by: int) -> None:
        cell = self._series.get(labels, {}).pop(time, None)
        if cell is not None:
            self.add(labels, time + by, cell)

    def read(self, matchers: list[Matcher], start: int, end: int) -> Content:
        found = {
            labels: {at: cell for at, cell in samples.items() if start <= at <= end}
            for labels, samples in self._series.items()
            if match_all(matchers, labels)
        }
        return {labels: samples for labels, samples in found.items() if samples}


class Model:
    """What the store must hold: the dictionary model, target labels, and frames by key."""

    def __init__(self) -> None:
        self.samples = Samples()
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
                    self.samples.add(full, time, float_cell(STALE_NAN if state == STALE else value))
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
                self.samples.add(full, time, float_cell(STALE_NAN if state == STALE else value))
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


def content(batches: Iterable[RowBatch]) -> Content:
    """Samples by series; no label set may occur twice in a kind, no time in both, histograms come first."""
    found: Content = {}
    native_ones: dict[tuple[Labels, int], FloatHistogram] = {}
    seen = set()
    floats = False
    for batch in batches:
        floats |= batch.kind is ValueKind.FLOAT
        assert batch.kind is ValueKind.FLOAT or not floats
        for row, labels in enumerate(batch.labels):
            assert (labels, batch.kind) not in seen
            seen.add((labels, batch.kind))
            line = batch.timelines[batch.timeline_of[row]]
            times = line.timestamps.tolist()
            assert times == sorted(set(times))
            stale = [False] * len(times) if line.stale is None else line.stale.tolist()
            cells = found.setdefault(labels, {})
            for at, (time, marker) in enumerate(zip(times, stale, strict=True)):
                assert time not in cells
                if batch.histograms is None:
                    cells[time] = float_cell(STALE_NAN if marker else float(batch.values[row, at]))
                    continue
                cells[time] = native_cell(None if marker else batch.histograms.cells[row, at])
                if not marker:
                    native_ones[labels, time] = batch.histograms.cells[row, at]
    for (labels, time), value in native_ones.items():
        before = max((at for at in found[labels] if at < time), default=None)
        if value.hint is ResetHint.NOT_RESET and before is not None:
            assert not value.with_hint(ResetHint.UNKNOWN).resets_after(native_ones[labels, before])
    return found


@pytest.fixture(autouse=True, scope="module")
def small_parts() -> Iterator[None]:
    """Chunks of two slots, a tail of two samples, packs merged by twos, days in one block: a few appends do it all.

    What looks at many samples, some at once, looks at three.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("common.tsdb.lanes.SLOTS", 2)
        patch.setattr("common.tsdb.loose.TAIL", 2)
        patch.setattr("common.tsdb.packs.FEW", 1)
        patch.setattr("common.tsdb.cut.MAX_WINDOWS", 1)
        patch.setattr("common.tsdb.cut.SOME", 3)
        patch.setattr("common.tsdb.loose.SOME", 3)
        yield


class Run:
    """A store in a directory, and the model of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.options = StoreOptions(wal_segment_bytes=2000, retention_ms=0, seal_bytes=0, max_provisional_ms=5000)
        self.clock = FakeClock()
        self.model = Model()
        self.copies = 0
        self.open()

    def open(self) -> None:
        self.store = Store.open(self.folder, self.options, self.clock, UnsyncedFiles())
        for schema in SCHEMAS:
            self.store.add_schema(encode_schema(schema))

    def do(self, op: Op) -> None:
        store, model = self.store, self.model
        match op:
            case AppendOp():
                assert store.append_frame(frame_bytes(op)).outcome is model.append(op)
            case ProvisionalOp():
                assert store.append_frame(provisional_bytes(op)).outcome is model.append_provisional(op)
            case CorrectOp():
                store.append_frame(correction_bytes(op))
                model.correct(op)
            case "give up":
                self.clock.pass_by(10)
                store.maintain()
                model.waiting.clear()
            case TargetOp():
                store.set_target(SOURCES[op.source], TARGETS[op.target])
                model.targets[op.source] = TARGETS[op.target]
            case CutOp():
                store.cut(op.before)
            case LooseOp():
                store.append_loose(SOURCES[0], op.samples)
                for labels, time, value in op.samples:
                    model.samples.add(labels, time, float_cell(value))
            case NativeOp():
                store.append_histograms([(labels, time, value, 0) for labels, time, value in op.samples])
                for labels, time, histogram in op.samples:
                    model.samples.add(labels, time, native_cell(histogram))
            case DeleteOp():
                store.delete([op.matcher], op.start, op.end)
                model.samples.delete(op.matcher, op.start, op.end)
            case "clean":
                store.clean_deletions()
            case "commit":
                store.commit()
            case "flush":
                store.flush()
            case "relieve":
                store.relieve()
            case "maintain":
                store.maintain()
            case "snapshot":
                self.copies += 1
                self.same(Store.open(store.snapshot(f"{self.copies}"), self.options, self.clock, UnsyncedFiles()))
            case "freeze":
                store.commit()
                self.same(open_frozen(self.folder, self.clock, self.options))
            case _:
                store.close()
                self.open()

    def same(self, copy: Store) -> None:
        """A copy must hold all that the model does."""
        try:
            assert content(copy.select([], *EVERYTHING)) == self.model.samples.read([], *EVERYTHING)
        finally:
            copy.close()


def run(ops: list[Op], start: int, end: int, matcher: Matcher) -> None:
    with tempfile.TemporaryDirectory() as folder:
        each = Run(Path(folder))
        try:
            seen = Seen(each.store, set())
            for op in ops:
                each.do(op)
                compare(each.store, each.model.samples, start, end, matcher)
                seen = seen.look(each.store)
            assert not each.store.stats().loss
        finally:
            each.store.close()


class Seen:
    """What a store held, and its generation then."""

    def __init__(self, store: Store, samples: set[tuple[Labels, int, Cell]]) -> None:
        self.store = store
        self.generation = store.changes.generation
        self.samples = samples

    def look(self, store: Store) -> "Seen":
        """What it holds now; the store must have told of every time at which that differs."""
        read = content(store.select([], *EVERYTHING))
        now = Seen(store, {(labels, at, cell) for labels, samples in read.items() for at, cell in samples.items()})
        if store is self.store:
            told = store.changes.since(self.generation)
            for _, time, _ in self.samples ^ now.samples:
                assert any(first <= time <= last for first, last in told)
        return now


def last(rows: Content) -> Content:
    """Of each series the newest sample."""
    return {labels: {max(cells): cells[max(cells)]} for labels, cells in rows.items()}


def compare(store: Store, model: Samples, start: int, end: int, matcher: Matcher) -> None:
    part = Millis(start), Millis(end)
    assert content(store.select([], *EVERYTHING)) == model.read([], *EVERYTHING)
    wanted = model.read([matcher], *part)
    # The second time rows are joined to be kept.
    for _ in range(2):
        assert content(store.select([matcher], *part)) == wanted
    newest = content(store.select([matcher], *part, SelectHints(newest=True)))
    assert last(newest) == last(wanted)
    assert set(store.series([[matcher]], *part)) >= set(wanted)
    assert set(store.label_names([[matcher]], *part)) >= {name for labels in wanted for name, _ in labels}
    values = {labels.get("i") for labels in model.read([], *part)} - {""}
    assert set(store.label_values("i", [], *part)) >= values


STARTS, ENDS = st.sampled_from([0, 1000, 3000, 51_000]), st.sampled_from([2000, 4000, 53_000, 3 * HOUR])


@settings(max_examples=60, deadline=None)
@given(st.lists(OPS, max_size=12), STARTS, ENDS, st.sampled_from(MATCHERS))
def test_any_sequence_of_appends_deletions_and_restarts_reads_back_as_the_model_says(
    ops: list[Op], start: int, end: int, matcher: Matcher
) -> None:
    run(ops, start, end, matcher)


@settings(max_examples=60, deadline=None)
@given(st.lists(LATE_OPS, max_size=12), STARTS, ENDS, st.sampled_from(MATCHERS))
def test_late_samples_in_place_of_deleted_ones_read_back_as_the_model_says(
    ops: list[Op], start: int, end: int, matcher: Matcher
) -> None:
    run(ops, start, end, matcher)
