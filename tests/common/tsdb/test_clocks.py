"""Samples stamped before their device knew the time, in the store: moved by corrections, whichever comes first."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import FrameError
from common.frames.codec import decode, encode
from common.frames.model import (
    NO_SCHEMA,
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
from common.labels import Labels
from common.sample import Millis
from common.testing import FakeClock
from common.tsdb.clocks import decode_correction, encode_correction
from common.tsdb.cut import outside
from common.tsdb.memory import read_all
from common.tsdb.options import Outcome, StoreOptions
from common.tsdb.store import Store

SOURCE = SourceId(b"s" * 16)
BOOT, OTHER = b"b" * 16, b"o" * 16
ROW = Labels.of(__name__="a")
SCHEMA = Schema((SubSchema("x", (ROW,)),))
ELSE = Schema((SubSchema("y", (Labels.of(__name__="other"),)),))
NOW = FakeClock().now()
WRONG = NOW - 86_400_000 * 3


def provisional(seq: int, first: int, monotonic: int, value: float, boot: bytes = BOOT) -> bytes:
    """Two slots, a second apart, with an estimated time."""
    key = FrameKey(SOURCE, Epoch(1), seq, 0, SCHEMA.hash, Flags.PROVISIONAL)
    values = np.array([[value, value + 1]])
    return encode(key, [first, first + 1000], values, provisional=Provisional(boot, monotonic))


def ordinary(seq: int, at: int, value: float) -> bytes:
    """One slot of another source whose clock is right."""
    key = FrameKey(SourceId(b"t" * 16), Epoch(1), seq, 0, ELSE.hash, Flags.SYNCED)
    return encode(key, [at], np.array([[value]]))


def correction(seq: int, offset: int) -> bytes:
    key = FrameKey(SOURCE, Epoch(2), seq, 0, NO_SCHEMA, Flags.SYNCED)
    return encode(key, [], np.empty((0, 0)), correction=Correction(BOOT, offset))


def open_store(path: Path) -> Store:
    return Store.open(path, StoreOptions(), FakeClock())


def samples(store: Store, start: int = 0, end: int = NOW * 2) -> list[tuple[int, float | None]]:
    return read_all(store.select([], Millis(start), Millis(end))).get(ROW, [])


def append(store: Store, *frames: bytes) -> None:
    store.add_schema(encode_schema(SCHEMA))
    store.add_schema(encode_schema(ELSE))
    for frame in frames:
        assert store.append_frame(frame).outcome in (Outcome.ACCEPTED, Outcome.DUPLICATE)
    store.commit()


FRAMES = [provisional(0, WRONG, 500, 1.0), provisional(1, WRONG + 5000, 5500, 3.0)]
EXPECTED = [(NOW + 500, 1.0), (NOW + 1500, 2.0), (NOW + 5500, 3.0), (NOW + 6500, 4.0)]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [0, 2, 1], [1, 2, 0]])
def test_provisional_samples_stand_at_their_corrected_time_whatever_came_first(
    tmp_path: Path, order: list[int]
) -> None:
    store = open_store(tmp_path)
    append(store, *([*FRAMES, correction(0, NOW)][i] for i in order))
    assert samples(store) == EXPECTED
    store.close()
    store = open_store(tmp_path)
    assert samples(store) == EXPECTED
    store.close()


def test_without_a_correction_the_estimate_stands(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, correction(0, NOW), provisional(0, WRONG, 500, 1.0, OTHER))
    assert samples(store) == [(WRONG, 1.0), (WRONG + 1000, 2.0)]
    store.close()


def test_a_correction_outlives_the_log_segment_it_came_in(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, correction(0, NOW))
    append(store, *FRAMES)
    store.close()
    kinds = [path.read_bytes() for path in sorted(tmp_path.rglob("*.wal"))] or [
        path.read_bytes() for path in sorted((tmp_path / "wal").iterdir())
    ]
    assert any(SOURCE + encode_correction(Correction(BOOT, NOW)) in data for data in kinds)


def test_moved_samples_survive_the_cut_of_a_block_and_a_restart(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, *FRAMES, correction(0, NOW))
    store.cut(NOW + 3000)
    assert samples(store) == EXPECTED
    store.close()
    store = open_store(tmp_path)
    assert samples(store) == EXPECTED
    store.close()


FAR = Millis(NOW * 2)


def test_a_block_that_holds_the_time_zero_has_no_correction_passed_over(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, *FRAMES, correction(0, NOW))
    store.append_loose(SourceId(b"l" * 16), [(ELSE.parts[0].rows[0], at, 1.0) for at in (0, NOW + 10_000)])
    store.cut(NOW + 3000)
    store.close()
    store = open_store(tmp_path)
    assert samples(store) == EXPECTED
    store.close()


def test_slots_that_a_block_holds_leave_a_frame_with_its_clock_record() -> None:
    frame = decode(provisional(0, WRONG, 500, 1.0))
    rest = outside(frame, WRONG, WRONG)
    assert rest.timestamps.tolist() == [WRONG + 1000]
    assert rest.provisional == frame.provisional


def test_samples_that_wait_for_a_correction_are_in_no_block(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, *FRAMES, ordinary(9, WRONG, 7.0))
    store.cut(FAR)
    assert (store.stats().blocks, store.stats().provisional_slots) == (1, 4)
    assert samples(store) == [(WRONG, 1.0), (WRONG + 1000, 2.0), (WRONG + 5000, 3.0), (WRONG + 6000, 4.0)]
    store.close()


@pytest.mark.parametrize("restarts", [(), ("cut",), ("correct",), ("cut", "correct", "again")])
def test_a_correction_after_a_cut_moves_every_sample_once_through_restarts_and_compaction(
    tmp_path: Path, restarts: tuple[str, ...]
) -> None:
    store = open_store(tmp_path)

    def restart(after: str) -> None:
        nonlocal store
        if after in restarts:
            store.close()
            store = open_store(tmp_path)
            store.add_schema(encode_schema(SCHEMA))

    append(store, *FRAMES, *(ordinary(10 + i, NOW - 86_400_000 + i * 7_200_000, 0.0) for i in range(12)))
    before = WRONG - 1
    store.cut(NOW - 3_600_000)
    restart("cut")
    append(store, correction(0, NOW))
    restart("correct")
    assert samples(store) == EXPECTED
    store.cut(NOW + 3000)
    restart("again")
    store.cut(FAR)
    store.maintain()
    store.close()
    store = open_store(tmp_path)
    assert samples(store) == EXPECTED
    assert not samples(store, before, WRONG + 10_000)
    assert store.stats().provisional_slots == 0
    store.close()


def test_a_correction_while_a_cut_is_under_way_loses_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, *FRAMES, ordinary(9, NOW - 7_200_000, 7.0))
    write = store._blocks.write

    def interrupted(*args: Any, **kwargs: Any) -> list[Path]:
        paths = write(*args, **kwargs)
        append(store, correction(0, NOW))
        return paths

    store._blocks.write = interrupted  # type: ignore[method-assign]
    store.cut(FAR)
    assert samples(store) == EXPECTED
    store.close()


def test_the_log_keeps_what_waits_and_lets_go_of_it_once_corrected(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, *FRAMES)
    for seq in range(10, 13):
        append(store, ordinary(seq, NOW, 0.0))
        store.cut(FAR)
    assert len(list((tmp_path / "wal").iterdir())) == 3
    append(store, correction(0, NOW))
    store.cut(FAR)
    assert len(list((tmp_path / "wal").iterdir())) == 1
    store.close()


async def test_after_its_time_a_sample_keeps_the_estimate_for_ever(tmp_path: Path) -> None:
    clock = FakeClock()
    store = Store.open(tmp_path, StoreOptions(max_provisional_ms=60_000), clock)
    append(store, *FRAMES)
    await clock.advance(61)
    store.maintain()
    assert (store.stats().provisional_slots, store.stats().given_up_slots) == (0, 4)
    append(store, provisional(2, WRONG + 10_000, 10_500, 5.0))
    estimates = [(WRONG, 1.0), (WRONG + 1000, 2.0), (WRONG + 5000, 3.0), (WRONG + 6000, 4.0)]
    for _ in range(2):
        append(store, correction(0, NOW))
        assert samples(store) == [*estimates, (NOW + 10_500, 5.0), (NOW + 11_500, 6.0)]
        store.close()
        store = open_store(tmp_path)
    store.cut(FAR)
    assert samples(store) == [*estimates, (NOW + 10_500, 5.0), (NOW + 11_500, 6.0)]
    store.close()


def test_of_too_many_waiting_frames_the_oldest_boot_keeps_its_estimates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.tsdb.clocks.MAX_WAITING", 2)
    store = open_store(tmp_path)
    append(store, provisional(0, WRONG, 500, 1.0, OTHER), *(provisional(i, WRONG + 5000 * i, 0, 3.0) for i in (1, 2)))
    store.maintain()
    assert (store.stats().provisional_slots, store.stats().given_up_slots) == (4, 2)
    store.close()


def test_retention_spares_what_waits_since_its_time_is_not_known(tmp_path: Path) -> None:
    store = Store.open(tmp_path, StoreOptions(retention_ms=3_600_000), FakeClock())
    append(store, *FRAMES, ordinary(9, NOW, 0.0))
    store.maintain()
    append(store, correction(0, NOW - 10_000))
    assert len(samples(store)) == 4
    store.close()


def test_a_damaged_correction_record_is_refused() -> None:
    with pytest.raises(FrameError):
        decode_correction(b"short")
