"""Samples stamped before their device knew the time, in the store: moved by corrections, whichever comes first."""

from pathlib import Path

import numpy as np
import pytest

from common.errors import FrameError
from common.frames.codec import encode
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
from common.tsdb.memory import read_all
from common.tsdb.options import Outcome, StoreOptions
from common.tsdb.store import Store

SOURCE = SourceId(b"s" * 16)
BOOT, OTHER = b"b" * 16, b"o" * 16
ROW = Labels.of(__name__="a")
SCHEMA = Schema((SubSchema("x", (ROW,)),))
NOW = FakeClock().now()
WRONG = NOW - 86_400_000 * 3


def provisional(seq: int, first: int, monotonic: int, value: float, boot: bytes = BOOT) -> bytes:
    """Two slots, a second apart, with an estimated time."""
    key = FrameKey(SOURCE, Epoch(1), seq, 0, SCHEMA.hash, Flags.PROVISIONAL)
    values = np.array([[value, value + 1]])
    return encode(key, [first, first + 1000], values, provisional=Provisional(boot, monotonic))


def correction(seq: int, offset: int) -> bytes:
    key = FrameKey(SOURCE, Epoch(2), seq, 0, NO_SCHEMA, Flags.SYNCED)
    return encode(key, [], np.empty((0, 0)), correction=Correction(BOOT, offset))


def open_store(path: Path) -> Store:
    return Store.open(path, StoreOptions(), FakeClock())


def samples(store: Store) -> list[tuple[int, float | None]]:
    return read_all(store.select([], Millis(0), Millis(NOW * 2))).get(ROW, [])


def append(store: Store, *frames: bytes) -> None:
    store.add_schema(encode_schema(SCHEMA))
    for frame in frames:
        assert store.append_frame(frame).outcome is Outcome.ACCEPTED
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


def test_what_was_cut_at_its_estimate_is_not_lost_when_corrected(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, *FRAMES)
    store.cut(WRONG + 10_000)
    append(store, correction(0, NOW))
    values = {value for _, value in samples(store)}
    store.close()
    store = open_store(tmp_path)
    assert {value for _, value in samples(store)} >= values == {1.0, 2.0, 3.0, 4.0}
    store.close()


def test_a_damaged_correction_record_is_refused() -> None:
    with pytest.raises(FrameError):
        decode_correction(b"short")
