"""The store through its public face: what goes in comes out, also after a restart."""

import math
import threading
from pathlib import Path

import numpy as np
import pytest

from common.errors import LimitError, StorageError
from common.frames.codec import Slot, encode
from common.frames.model import (
    ABSENT,
    PRESENT,
    STALE,
    Epoch,
    FrameKey,
    Schema,
    SchemaHash,
    SourceId,
    SubSchema,
    encode_schema,
)
from common.frames.ranges import RangeSet
from common.labels import Labels, Matcher, MatchType
from common.sample import MetricMeta, MetricType, Millis
from common.testing import FakeClock
from common.tsdb.memory import read_all
from common.tsdb.options import Outcome, StoreOptions
from common.tsdb.store import Store
from common.tsdb.writer import SourceWriter

SOURCE = SourceId(b"s" * 16)
OTHER = SourceId(b"o" * 16)
EPOCH = Epoch(7)
UP = Labels.of(__name__="up")
CPU = [Labels.of(__name__="cpu", mode=mode) for mode in ("idle", "user")]
META = MetricMeta("cpu", MetricType.COUNTER, "Seconds.")
SCHEMA = Schema((SubSchema("a", (UP,)), SubSchema("b", tuple(CPU), (META,))))
ALL = (Millis(-(2**62)), Millis(2**62))
PI = Labels.of(instance="pi:9100", job="node")


def frame(
    seq: int,
    times: list[int],
    values: list[list[float]],
    presence: list[list[int]] | None = None,
    *,
    schema: Schema = SCHEMA,
    source: SourceId = SOURCE,
    epoch: int = 7,
) -> bytes:
    cells = None if presence is None else np.array(presence, np.uint8)
    return encode(FrameKey(source, Epoch(epoch), seq, 0, schema.hash), times, np.array(values, float), cells)


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock):
    opened = Store.open(tmp_path / "data", StoreOptions(), clock)
    opened.set_target(SOURCE, PI)
    opened.add_schema(encode_schema(SCHEMA))
    yield opened
    opened.close()


def everything(store: Store) -> dict[str, list[tuple[int, float | None]]]:
    return {str(labels): samples for labels, samples in read_all(store.select([], *ALL)).items()}


def reopen(store: Store, clock: FakeClock, options: StoreOptions | None = None) -> Store:
    store.close()
    return Store.open(store.path, options or StoreOptions(), clock)


UP_PI = 'up{instance="pi:9100", job="node"}'
IDLE_PI = 'cpu{instance="pi:9100", job="node", mode="idle"}'
USER_PI = 'cpu{instance="pi:9100", job="node", mode="user"}'


def test_a_frame_is_readable_at_once_with_target_labels(store: Store) -> None:
    result = store.append_frame(frame(0, [1000, 2000], [[1, 1], [5, 6], [7, 8]]))
    assert (result.outcome, result.samples) == (Outcome.ACCEPTED, 6)
    assert everything(store) == {
        UP_PI: [(1000, 1.0), (2000, 1.0)],
        IDLE_PI: [(1000, 5.0), (2000, 6.0)],
        USER_PI: [(1000, 7.0), (2000, 8.0)],
    }


def test_matchers_choose_by_row_labels_and_by_target_labels(store: Store) -> None:
    store.append_frame(frame(0, [1000], [[1], [5], [7]]))
    store.set_target(OTHER, Labels.of(instance="other"))
    store.append_frame(frame(0, [1000], [[2], [3], [4]], source=OTHER))
    chosen = [Matcher(MatchType.RE, "mode", "i.*"), Matcher(MatchType.EQ, "job", "")]
    assert list(read_all(store.select(chosen, *ALL))) == [Labels.of(__name__="cpu", mode="idle", instance="other")]
    assert store.label_values("instance", [[Matcher(MatchType.EQ, "job", "node")]], *ALL) == ["pi:9100"]


def test_a_row_label_holds_over_a_target_label(store: Store) -> None:
    row = Labels.of(__name__="x", job="mine")
    schema = Schema((SubSchema("a", (row, UP)),))
    store.add_schema(encode_schema(schema))
    store.append_frame(frame(0, [1000], [[1], [2]], schema=schema))
    assert list(everything(store)) == ['x{instance="pi:9100", job="mine"}', UP_PI]
    assert store.series([[Matcher(MatchType.EQ, "job", "mine")]], *ALL) == [
        Labels.of(__name__="x", instance="pi:9100", job="mine")
    ]
    assert len(store.series([[Matcher(MatchType.EQ, "job", "node")]], *ALL)) == 1


def test_absent_cells_and_markers_are_not_samples(store: Store) -> None:
    store.append_frame(
        frame(
            0,
            [1000, 2000, 3000],
            [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
            [[PRESENT] * 3, [PRESENT, ABSENT, PRESENT], [PRESENT, STALE, ABSENT]],
        )
    )
    assert everything(store) == {
        UP_PI: [(1000, 1.0), (2000, 2.0), (3000, 3.0)],
        IDLE_PI: [(1000, 4.0), (3000, 6.0)],
        USER_PI: [(1000, 7.0), (2000, None)],
    }


def test_late_frames_are_merged_in_order_at_once(store: Store) -> None:
    store.append_frame(frame(2, [5000, 6000], [[5, 6]] * 3))
    store.append_frame(frame(1, [3000, 5500], [[3, 5.5]] * 3))
    store.append_frame(frame(0, [1000], [[1]] * 3))
    assert everything(store)[UP_PI] == [(1000, 1.0), (3000, 3.0), (5000, 5.0), (5500, 5.5), (6000, 6.0)]


def test_the_first_sample_at_a_timestamp_wins_also_across_epochs_and_sources(store: Store) -> None:
    store.append_frame(frame(0, [1000, 2000], [[1, 2]] * 3))
    store.append_frame(frame(0, [2000, 3000], [[9, 3]] * 3, epoch=8))
    store.set_target(OTHER, PI)
    store.append_frame(frame(0, [3000, 4000], [[9, 4]] * 3, source=OTHER))
    assert everything(store)[UP_PI] == [(1000, 1.0), (2000, 2.0), (3000, 3.0), (4000, 4.0)]


def test_rows_of_one_label_set_are_joined_across_schema_changes(store: Store) -> None:
    other = Schema((SubSchema("b", tuple(CPU), (META,)), SubSchema("c", (Labels.of(__name__="new"), UP))))
    store.add_schema(encode_schema(other))
    store.append_frame(frame(0, [1000], [[1], [2], [3]]))
    store.append_frame(frame(1, [2000], [[20], [30], [40], [10]], schema=other))
    store.append_frame(frame(2, [3000], [[100], [200], [300]]))
    got = everything(store)
    assert got[UP_PI] == [(1000, 1.0), (2000, 10.0), (3000, 100.0)]
    assert got[IDLE_PI] == [(1000, 2.0), (2000, 20.0), (3000, 200.0)]
    assert got['new{instance="pi:9100", job="node"}'] == [(2000, 40.0)]


def test_new_target_labels_hold_for_later_frames_only(store: Store) -> None:
    store.append_frame(frame(0, [1000], [[1]] * 3))
    store.set_target(SOURCE, Labels.of(instance="renamed"))
    store.append_frame(frame(1, [2000], [[2]] * 3))
    got = everything(store)
    assert got[UP_PI] == [(1000, 1.0)]
    assert got['up{instance="renamed"}'] == [(2000, 2.0)]


def test_a_repeated_frame_is_a_duplicate_and_another_one_with_its_key_is_quarantined(store: Store) -> None:
    store.append_frame(frame(0, [1000], [[1]] * 3))
    assert store.append_frame(frame(0, [1000], [[1]] * 3)).outcome is Outcome.DUPLICATE
    clash = store.append_frame(frame(0, [1000], [[2]] * 3))
    assert (clash.outcome, clash.reason) == (Outcome.QUARANTINED, "clash")
    assert everything(store)[UP_PI] == [(1000, 1.0)]
    assert len(list((store.path / "quarantine").iterdir())) == 1


def test_damaged_frames_are_quarantined_and_change_nothing(store: Store) -> None:
    data = bytearray(frame(0, [1000], [[1]] * 3))
    data[-3] ^= 1
    result = store.append_frame(bytes(data))
    assert (result.outcome, result.reason) == (Outcome.QUARANTINED, "damaged")
    assert store.append_frame(frame(0, [1000], [[1]] * 3)).outcome is Outcome.ACCEPTED


def test_a_frame_of_an_unknown_schema_is_refused_until_the_schema_comes(store: Store) -> None:
    schema = Schema((SubSchema("z", (Labels.of(__name__="z"),)),))
    data = frame(0, [1000], [[1]], schema=schema)
    result = store.append_frame(data)
    assert (result.outcome, result.reason, result.detail) == (Outcome.REFUSED, "unknown_schema", schema.hash.hex())
    store.add_schema(encode_schema(schema))
    assert store.append_frame(data).outcome is Outcome.ACCEPTED


def test_only_committed_frames_count_as_had(store: Store) -> None:
    store.append_frame(frame(0, [1000], [[1]] * 3))
    assert store.have(SOURCE) == {}
    store.commit()
    store.append_frame(frame(2, [3000], [[1]] * 3))
    assert store.have(SOURCE) == {EPOCH: RangeSet.of(0)}
    store.commit()
    assert store.have(SOURCE) == {EPOCH: RangeSet.of(0, 2)}


def test_a_restart_keeps_samples_targets_ranges_metadata_and_first_wins(store: Store, clock: FakeClock) -> None:
    store.append_frame(frame(0, [1000, 2000], [[1, math.nan], [-0.0, math.inf], [5e-324, -math.inf]]))
    store.append_frame(frame(1, [2000], [[9]] * 3))
    before, had = everything(store), store.have(SOURCE)
    store.commit()
    had = store.have(SOURCE)
    again = reopen(store, clock)
    try:
        assert str(everything(again)) == str(before)
        assert again.have(SOURCE) == had
        assert again.target(SOURCE) == PI
        assert again.metadata() == {"cpu": [META]}
        assert again.append_frame(frame(0, [1000], [[4]] * 3)).outcome is Outcome.QUARANTINED
        assert again.append_frame(frame(2, [3000], [[4]] * 3)).outcome is Outcome.ACCEPTED
    finally:
        again.close()


def test_a_second_store_in_the_same_directory_is_told_who_has_it(store: Store, clock: FakeClock) -> None:
    with pytest.raises(StorageError, match=r"is in use by hub \(process \d+\)"):
        Store.open(store.path, StoreOptions(), clock)


def test_samples_of_1970_are_kept_while_they_are_the_newest(store: Store) -> None:
    store.append_frame(frame(0, [0, 60_000], [[1, 2]] * 3))
    store.maintain()
    assert everything(store)[UP_PI] == [(0, 1.0), (60_000, 2.0)]


def test_retention_drops_old_samples_and_log_segments_but_not_ranges(tmp_path: Path, clock: FakeClock) -> None:
    options = StoreOptions(retention_ms=10_000, wal_segment_bytes=1)
    store = Store.open(tmp_path, options, clock)
    store.add_schema(encode_schema(SCHEMA))
    for seq in range(60):
        store.append_frame(frame(seq, [seq * 1000], [[seq]] * 3))
    store.commit()
    store.maintain()
    assert store.stats().wal_segments < 20
    again = reopen(store, clock, options)
    try:
        kept = everything(again)["up"]
        assert kept == [(t * 1000, float(t)) for t in range(49, 60)]
        assert again.have(SOURCE) == {EPOCH: RangeSet([(0, 59)])}
    finally:
        again.close()


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (StoreOptions(max_series=2), "max_series"),
        (StoreOptions(max_series_per_source=2), "max_series_per_source"),
        (StoreOptions(max_schemas_per_hour=0), "max_schemas_per_hour"),
        (StoreOptions(max_pending_bytes=10), "max_pending_bytes"),
    ],
)
def test_a_limit_refuses_frames_by_name(tmp_path: Path, clock: FakeClock, limits: StoreOptions, reason: str) -> None:
    store = Store.open(tmp_path, limits, clock)
    store.add_schema(encode_schema(SCHEMA))
    result = store.append_frame(frame(0, [1000], [[1]] * 3))
    assert (result.outcome, result.reason) == (Outcome.REFUSED, reason)
    assert store.stats().refused == {reason: 1}
    assert everything(store) == {}
    store.close()


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (StoreOptions(max_labels=1), "max_labels"),
        (StoreOptions(max_label_name_bytes=3), "max_label_name_bytes"),
        (StoreOptions(max_label_value_bytes=3), "max_label_value_bytes"),
    ],
)
def test_a_limit_refuses_label_sets_by_name(
    tmp_path: Path, clock: FakeClock, limits: StoreOptions, reason: str
) -> None:
    store = Store.open(tmp_path, limits, clock)
    with pytest.raises(LimitError, match=reason):
        store.add_schema(encode_schema(SCHEMA))
    assert store.stats().refused == {reason: 1}
    store.close()


def slot(seq: int, at: int, values: list[float], presence: list[int] | None = None) -> Slot:
    cells = None if presence is None else np.array(presence, np.uint8)
    return Slot(FrameKey(SOURCE, EPOCH, seq, 0, SCHEMA.hash), at, np.array(values), cells)


def test_slots_are_what_frames_would_be_at_once_and_after_a_restart(store: Store, clock: FakeClock) -> None:
    def fill(target: Store) -> None:
        assert target.append_slot(slot(0, 2000, [1.0, 5.5, math.inf])).samples == 3
        assert target.append_slot(slot(1, 3000, [0.0, 6.0, 0.0], [ABSENT, PRESENT, STALE])).samples == 2
        assert target.append_slot(slot(2, 1000, [3.0, 4.0, 5.0])).outcome is Outcome.ACCEPTED

    fill(store)
    expected: dict[str, list[tuple[int, float | None]]] = {
        UP_PI: [(1000, 3.0), (2000, 1.0)],
        IDLE_PI: [(1000, 4.0), (2000, 5.5), (3000, 6.0)],
        USER_PI: [(1000, 5.0), (2000, math.inf), (3000, None)],
    }
    assert everything(store) == expected
    assert (store.stats().samples, store.stats().late_slots) == (8, 1)
    store.flush()
    store.append_slot(slot(3, 4000, [7.0] * 3))
    expected = {name: [*samples, (4000, 7.0)] for name, samples in expected.items()}
    store.commit()
    assert store.have(SOURCE)[EPOCH] == RangeSet.of(0, 1, 2, 3)
    again = reopen(store, clock)
    assert everything(again) == expected
    assert (
        again.append_slot(Slot(FrameKey(OTHER, EPOCH, 0, 0, SchemaHash(OTHER)), 0, np.zeros(1))).reason
        == "unknown_schema"
    )
    again.close()


def test_many_slots_of_a_lane_are_all_there(store: Store) -> None:
    for at in range(300):
        store.append_slot(slot(at, 1000 * at, [float(at), 0.5 * at, 1.0]))
    assert everything(store)[IDLE_PI] == [(1000 * at, 0.5 * at) for at in range(300)]


def test_a_writer_marks_series_that_vanish_and_joins_those_that_come_back(store: Store) -> None:
    writer = SourceWriter(store, OTHER, Labels.of(job="j"))
    a, b = Labels.of(__name__="a"), Labels.of(__name__="b")
    writer.write(Millis(1000), [(a, 1.0), (b, 2.0)])
    assert writer.write(Millis(2000), [(b, 3.0)]).stale == 1
    assert writer.write(Millis(3000), [(b, 4.0), (a, 5.0), (a, 6.0)]).duplicates == 1
    assert writer.stale_all(Millis(4000)) == 2
    assert everything(store) == {
        'a{job="j"}': [(1000, 1.0), (2000, None), (3000, 5.0), (4000, None)],
        'b{job="j"}': [(1000, 2.0), (2000, 3.0), (3000, 4.0), (4000, None)],
    }


def test_a_writer_with_ever_new_rows_keeps_its_schema_small(tmp_path: Path, clock: FakeClock) -> None:
    store = Store.open(tmp_path, StoreOptions(), clock)
    writer = SourceWriter(store, OTHER, Labels())
    stay = Labels.of(__name__="stay")
    for i in range(60):
        writer.write(Millis(i * 1000), [(stay, float(i)), (Labels.of(__name__="come", i=str(i)), 1.0)])
    got = everything(store)
    assert got["stay"] == [(i * 1000, float(i)) for i in range(60)]
    assert got['come{i="7"}'] == [(7000, 1.0), (8000, None)]
    assert len(got) == 61
    store.close()


def test_cardinality_counts_series_by_metric_and_label(store: Store) -> None:
    store.append_frame(frame(0, [1000], [[1]] * 3))
    figures = store.cardinality()
    assert figures.series == 3
    assert figures.by_metric[0] == ("cpu", 2)
    assert ("instance=pi:9100", 3) in figures.by_pair
    assert dict(figures.values_by_label)["mode"] == 2


def test_series_that_look_alike_at_first_are_all_stated_in_the_log(store: Store, clock: FakeClock) -> None:
    expected = set()
    for host in range(40):
        labels = [Labels.of(__name__=f"m{row}", host=f"{host:03d}", device=f"disk-{row % 10}") for row in range(100)]
        store.append_columns(labels, np.arange(100), np.full(100, 1000 + host), np.zeros(100))
        expected.update(labels)
    store = reopen(store, clock)
    assert not store.stats().loss
    assert set(store.series([], *ALL)) == expected
    store.close()


def test_two_commits_at_once_forget_no_frame_that_came_between(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    began, came = threading.Event(), threading.Event()
    commit = store._wal.commit

    def second() -> None:
        began.set()
        assert came.wait(60)
        commit()

    def first() -> None:
        monkeypatch.setattr(store._wal, "commit", second)
        other = threading.Thread(target=store.commit)
        other.start()
        assert began.wait(60)
        store.append_frame(frame(1, [2000], [[1], [5], [7]]))
        came.set()
        other.join()
        commit()

    store.append_frame(frame(0, [1000], [[1], [5], [7]]))
    monkeypatch.setattr(store._wal, "commit", first)
    store.commit()
    store.commit()
    assert store.have(SOURCE) == {EPOCH: RangeSet.of(0, 1)}
