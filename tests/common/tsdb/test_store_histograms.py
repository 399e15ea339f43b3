"""Native histograms in the store: against a dictionary model, through restarts, cuts, compaction and deletion."""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from common.errors import BusyError, FormatError, LimitError
from common.frames.model import SourceId
from common.histogram import CUSTOM_SCHEMA, FloatHistogram, ResetHint, side
from common.labels import Labels, Matcher, MatchType, match_all
from common.promql.budget import QueryBudget
from common.sample import STALE_NAN, Millis, is_stale
from common.testing import FakeClock
from common.testing_files import UnsyncedFiles
from common.tsdb.options import StoreOptions
from common.tsdb.querier import RowBatch, ValueKind
from common.tsdb.store import Store

SOURCE = SourceId(bytes(16))
SERIES = [Labels.of(__name__=name, i=str(i)) for name in ("a", "b") for i in range(2)]
EVERYTHING = Millis(-(2**62)), Millis(2**62)
HOUR = 3_600_000


def plain(size: float, hint: ResetHint = ResetHint.UNKNOWN) -> FloatHistogram:
    return FloatHistogram(1, 4 * size, 9.5 * size, size, 0.001, side(-3, [size, 0, 2 * size]), hint=hint)


SAMPLES = [
    *(plain(size) for size in (1.0, 2.0, 7.0, 2.5)),
    plain(3.0, ResetHint.GAUGE),
    plain(3.0, ResetHint.RESET),
    FloatHistogram(0, 2, 3.0, negative=side(4, [1, 1])),
    FloatHistogram(CUSTOM_SCHEMA, 3, 3.0, positive=side(1, [1.0, 2.0]), custom=(0.5, 1.0, 2.0)),
]


@dataclass(frozen=True)
class NativeOp:
    samples: tuple[tuple[Labels, int, FloatHistogram | None], ...]


@dataclass(frozen=True)
class LooseOp:
    samples: tuple[tuple[Labels, int, float], ...]


@dataclass(frozen=True)
class CutOp:
    before: int


@dataclass(frozen=True)
class DeleteOp:
    matcher: Matcher
    start: int
    end: int


Op = NativeOp | LooseOp | CutOp | DeleteOp | str
TIMES = st.sampled_from([0, 1000, 2000, 3000, 4000, 2 * HOUR, 3 * HOUR, 50 * HOUR])
MATCHERS = [Matcher(MatchType.EQ, "i", "0"), Matcher(MatchType.RE, "__name__", "b.*")]
native_ops = st.builds(
    NativeOp,
    st.lists(
        st.tuples(st.sampled_from(SERIES), TIMES, st.one_of(st.none(), st.sampled_from(SAMPLES))),
        min_size=1,
        max_size=6,
    ).map(tuple),
)
loose_ops = st.builds(
    LooseOp,
    st.lists(
        st.tuples(st.sampled_from(SERIES), TIMES, st.sampled_from([1.0, 2.5, STALE_NAN])), min_size=1, max_size=3
    ).map(tuple),
)
OPS = st.one_of(
    native_ops,
    native_ops,
    native_ops,
    loose_ops,
    st.sampled_from(["commit", "restart", "maintain", "clean"]),
    st.builds(CutOp, st.sampled_from([2000, 3000, 2 * HOUR, 2**50])),
    st.builds(DeleteOp, st.sampled_from(MATCHERS), TIMES, TIMES),
)

Cell = tuple[str, float | FloatHistogram | None]
"""Kind, and the value or None for a staleness marker."""
Content = dict[Labels, dict[int, Cell]]


def content(batches: Iterable[RowBatch]) -> Content:
    """Samples by series; no label set may occur twice in a kind, none of a time in both, histograms come first."""
    found: Content = {}
    seen = set()
    floats = False
    for batch in batches:
        floats |= batch.kind is ValueKind.FLOAT
        assert batch.kind is ValueKind.FLOAT or not floats
        for row, labels in enumerate(batch.labels):
            assert (labels, batch.kind) not in seen
            seen.add((labels, batch.kind))
            line = batch.timelines[batch.timeline_of[row]]
            assert (np.diff(line.timestamps) > 0).all()
            for at, time in enumerate(line.timestamps.tolist()):
                stale = line.stale is not None and bool(line.stale[at])
                if batch.histograms is not None:
                    cell: Cell = ("histogram", None if stale else batch.histograms.cells[row, at])
                else:
                    cell = ("float", None if stale else float(batch.values[row, at]))
                assert time not in found.setdefault(labels, {})
                found[labels][time] = cell
    return found


def same(stored: Content, model: Content) -> None:
    assert stored.keys() == model.keys()
    for labels, samples in model.items():
        times = sorted(samples)
        assert sorted(stored[labels]) == times
        for before, time in zip([None, *times], times, strict=False):
            kind, wanted = samples[time]
            found_kind, found = stored[labels][time]
            assert found_kind == kind
            if isinstance(wanted, FloatHistogram):
                assert isinstance(found, FloatHistogram)
                assert found.equals(wanted)
                told = wanted.hint is not ResetHint.UNKNOWN
                assert found.hint is wanted.hint if told else found.hint in (ResetHint.UNKNOWN, ResetHint.NOT_RESET)
                if not told and found.hint is ResetHint.NOT_RESET and before is not None:
                    previous = samples[before][1]
                    assert isinstance(previous, FloatHistogram)
                    assert not wanted.resets_after(previous)
            else:
                assert found == wanted


class Model:
    """First come, first kept."""

    def __init__(self) -> None:
        self.samples: Content = {}

    def add(self, labels: Labels, time: int, kind: str, value: float | FloatHistogram | None) -> None:
        self.samples.setdefault(labels, {}).setdefault(time, (kind, value))

    def delete(self, matcher: Matcher, start: int, end: int) -> None:
        for labels, samples in self.samples.items():
            if match_all([matcher], labels):
                self.samples[labels] = {t: v for t, v in samples.items() if not start <= t <= end}

    def read(self, matchers: list[Matcher], start: int, end: int) -> Content:
        found = {
            labels: {time: cell for time, cell in samples.items() if start <= time <= end}
            for labels, samples in self.samples.items()
            if match_all(matchers, labels)
        }
        return {labels: samples for labels, samples in found.items() if samples}


def run(ops: list[Op], start: int, end: int, matcher: Matcher) -> None:
    model = Model()
    with tempfile.TemporaryDirectory() as folder:
        options = StoreOptions(wal_segment_bytes=500, retention_ms=0)
        store = Store.open(Path(folder), options, FakeClock(), UnsyncedFiles())
        try:
            for op in ops:
                match op:
                    case NativeOp():
                        store.append_histograms([(labels, time, value, 0) for labels, time, value in op.samples])
                        for labels, time, histogram in op.samples:
                            model.add(labels, time, "histogram", histogram)
                    case LooseOp():
                        store.append_loose(SOURCE, op.samples)
                        for labels, time, value in op.samples:
                            model.add(labels, time, "float", None if is_stale(value) else value)
                    case CutOp():
                        store.cut(op.before)
                    case DeleteOp():
                        store.delete([op.matcher], op.start, op.end)
                        model.delete(op.matcher, op.start, op.end)
                    case "clean":
                        store.clean_deletions()
                    case "commit":
                        store.commit()
                    case "maintain":
                        store.maintain()
                    case _:
                        store.close()
                        store = Store.open(Path(folder), options, FakeClock(), UnsyncedFiles())
                same(content(store.select([], *EVERYTHING)), model.read([], *EVERYTHING))
                part = Millis(start), Millis(end)
                # The second time rows are joined to be kept.
                for _ in range(2):
                    same(content(store.select([matcher], *part)), model.read([matcher], *part))
                assert set(store.series([[matcher]], *part)) >= set(model.read([matcher], *part))
                values = {labels.get("i") for labels in model.read([], *part)}
                assert set(store.label_values("i", [], *part)) >= values
            assert not store.stats().loss
        finally:
            store.close()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(OPS, max_size=12),
    st.sampled_from([0, 1000, 3000, 2 * HOUR]),
    st.sampled_from([2000, 4000, 3 * HOUR]),
    st.sampled_from(MATCHERS),
)
def test_any_sequence_reads_back_as_the_model_says(ops: list[Op], start: int, end: int, matcher: Matcher) -> None:
    run(ops, start, end, matcher)


def opened(path: Path, **options: int) -> Store:
    return Store.open(path, StoreOptions(**{"retention_ms": 0, **options}), FakeClock(), UnsyncedFiles())


def hints(store: Store) -> list[ResetHint]:
    (samples,) = content(store.select([], *EVERYTHING)).values()
    return [value.hint for _, (_, value) in sorted(samples.items()) if isinstance(value, FloatHistogram)]


def test_a_histogram_that_goes_on_says_that_it_was_not_reset(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.append_histograms([(SERIES[0], 1000 * at, plain(size), 0) for at, size in enumerate((1.0, 2.0, 1.0, 3.0))])
    wanted = [ResetHint.UNKNOWN, ResetHint.NOT_RESET, ResetHint.UNKNOWN, ResetHint.NOT_RESET]
    assert hints(store) == wanted
    store.close()
    store = opened(tmp_path)
    assert hints(store) == wanted
    store.cut(2**50)
    assert hints(store) == wanted
    store.close()


def test_what_comes_late_takes_the_word_from_the_hint_after_it(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.append_histograms([(SERIES[0], at, plain(size), 0) for at, size in ((1000, 1.0), (3000, 2.0))])
    store.append_histograms([(SERIES[0], 2000, plain(9.0), 0)])
    assert hints(store) == [ResetHint.UNKNOWN] * 3
    store.close()


@pytest.mark.parametrize("between", ["nothing", "cut", "relieve", "restart", "clean"])
def test_what_comes_in_place_of_a_deleted_one_takes_the_word_from_the_hint_after_it(
    tmp_path: Path, between: str
) -> None:
    store = opened(tmp_path, seal_bytes=0)

    def pass_by() -> None:
        nonlocal store
        match between:
            case "cut":
                store.cut(2000)
            case "relieve":
                store.relieve()
            case "clean":
                store.cut(2**50)
                store.clean_deletions()
            case "restart":
                store.close()
                store = opened(tmp_path, seal_bytes=0)

    store.append_histograms([(SERIES[0], at, plain(size), 0) for at, size in ((1000, 1.0), (3000, 2.0))])
    pass_by()
    assert hints(store) == [ResetHint.UNKNOWN, ResetHint.NOT_RESET]
    store.delete([MATCHERS[0]], 1000, 1000)
    pass_by()
    store.append_histograms([(SERIES[0], 1000, plain(7.0), 0)])
    pass_by()
    assert hints(store) == [ResetHint.UNKNOWN] * 2
    store.maintain()
    assert hints(store) == [ResetHint.UNKNOWN] * 2
    store.close()


def test_start_timestamps_of_histograms_are_kept(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.append_histograms([(SERIES[0], 1000, plain(1.0), 0), (SERIES[0], 2000, plain(1.0), 500)])
    for _ in range(2):
        (batch,) = store.select([], *EVERYTHING)
        assert batch.starts is not None
        assert batch.starts.tolist() == [[0, 500]]
        store.cut(2**50)
    store.close()


def test_one_that_is_not_usable_refuses_all_that_came_with_it(tmp_path: Path) -> None:
    store = opened(tmp_path, max_histogram_buckets=10)
    with pytest.raises(FormatError, match="limit max_histogram_buckets"):
        store.append_histograms(
            [(SERIES[0], 0, plain(1.0), 0), (SERIES[1], 0, FloatHistogram(positive=side(0, [1] * 11)), 0)]
        )
    assert not list(store.select([], *EVERYTHING))
    store.close()


@pytest.mark.parametrize(
    ("options", "error"), [({"max_series": 1}, LimitError), ({"max_pending_bytes": 100}, BusyError)]
)
def test_limits_hold_for_histograms_too(tmp_path: Path, options: dict[str, int], error: type[Exception]) -> None:
    store = opened(tmp_path, **options)
    with pytest.raises(error, match=next(iter(options))):
        store.append_histograms([(labels, 0, plain(1.0), 0) for labels in SERIES])
    store.close()


def test_a_histogram_costs_a_query_as_many_samples_as_in_prometheus(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.append_histograms([(SERIES[0], 0, FloatHistogram(positive=side(0, [1.0] * 64)), 0)])
    budget = QueryBudget(10_000)
    list(store.select([], *EVERYTHING, budget=budget))
    assert budget.read == (32 + 64) // 2
    store.close()


def test_a_damaged_group_of_histograms_is_named_and_the_rest_stays(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.append_histograms([(SERIES[0], at, plain(1.0 + at), 0) for at in range(50)])
    store.cut(2**50)
    store.append_histograms([(SERIES[1], 0, plain(1.0), 0)])
    store.close()
    (path,) = (tmp_path / "blocks").glob("*.blk")
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    store = opened(tmp_path)
    with pytest.raises(FormatError, match="checksum"):
        list(store.select([Matcher(MatchType.EQ, "i", "0")], *EVERYTHING))
    assert list(content(store.select([Matcher(MatchType.EQ, "i", "1")], *EVERYTHING))) == [SERIES[1]]
    store.close()


def test_old_histograms_go_with_retention_and_a_snapshot_has_the_rest(tmp_path: Path) -> None:
    clock = FakeClock()
    store = Store.open(tmp_path, StoreOptions(retention_ms=HOUR), clock, UnsyncedFiles())
    now = clock.now()
    store.append_histograms([(SERIES[0], now - 3 * HOUR, plain(1.0), 0), (SERIES[1], now, plain(2.0), 0)])
    store.maintain()
    assert list(content(store.select([], *EVERYTHING))) == [SERIES[1]]
    copy = Store.open(store.snapshot("one"), StoreOptions(retention_ms=0), clock, UnsyncedFiles())
    assert SERIES[1] in content(copy.select([], *EVERYTHING))
    copy.close()
    store.close()


def test_a_histogram_is_told_as_a_change_of_its_time(tmp_path: Path) -> None:
    store = Store.open(tmp_path, StoreOptions(), FakeClock(), UnsyncedFiles())
    before = store.changes.generation
    store.append_histograms([(SERIES[0], HOUR, plain(1.0), 0)])
    ((first, last),) = store.changes.since(before)
    assert first <= HOUR <= last
    store.close()


def test_large_histograms_are_parted_into_records_and_groups_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.tsdb.records._HISTOGRAM_BYTES", 1000)
    monkeypatch.setattr("common.tsdb.build.GROUP_WORDS", 5000)
    store = opened(tmp_path)
    wide = [FloatHistogram(count=1.0, positive=side(0, np.full(1000, 0.5 + at))) for at in range(20)]
    store.append_histograms([(labels, at, each, 0) for labels in SERIES[:2] for at, each in enumerate(wide)])
    for _ in range(2):
        store.close()
        store = opened(tmp_path)
        found = content(store.select([], *EVERYTHING))
        assert [len(found[labels]) for labels in SERIES[:2]] == [20, 20]
        for at, each in enumerate(wide):
            kept = found[SERIES[1]][at][1]
            assert isinstance(kept, FloatHistogram)
            assert kept.equals(each)
        store.cut(2**50)
    (block,) = store.blocks
    assert len(block._open().offset) == 2 * 5
    store.close()
