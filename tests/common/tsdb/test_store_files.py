"""Every file of a data directory, cut and flipped anywhere: the store starts, keeps the rest, says what it lost."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

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
from common.labels import Labels, Matcher, MatchType
from common.sample import Millis
from common.testing import FakeClock
from common.testing_files import UnsyncedFiles
from common.tsdb.memory import read_all
from common.tsdb.options import Outcome, StoreOptions
from common.tsdb.store import Store

EVERY = int(os.environ.get("BRAMBLE_CUT_EVERY", "61"))
"""Each byte that many is tried; `make kills` tries all."""
SOURCE = SourceId(b"s" * 16)
BOOT = b"b" * 16
ROWS = tuple(Labels.of(__name__="m", i=str(i)) for i in range(3))
SCHEMA = Schema((SubSchema("a", ROWS),))
START = 1_699_920_000_000
HOUR = 3_600_000
Samples = dict[Labels, list[tuple[int, float | None]]]


def opened(path: Path) -> Store:
    return Store.open(path, StoreOptions(retention_ms=0), FakeClock(START + 9 * HOUR), UnsyncedFiles())


def frame(seq: int, at: int, provisional: bool = False) -> bytes:
    flags = Flags.PROVISIONAL if provisional else Flags.SYNCED
    key = FrameKey(SOURCE, Epoch(1), seq, 0, SCHEMA.hash, flags)
    values = np.full((3, 1), float(seq))
    return encode(key, [at], values, provisional=Provisional(BOOT, 1000 * seq) if provisional else None)


def append(store: Store, data: bytes) -> None:
    assert store.append_frame(data).outcome is Outcome.ACCEPTED


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two blocks, deletions, a snapshot, and every kind of record in its log."""
    path = tmp_path_factory.mktemp("whole") / "data"
    store = opened(path)
    store.set_target(SOURCE, Labels.of(instance="pi"))
    store.add_schema(encode_schema(SCHEMA))
    for seq in range(6):
        append(store, frame(seq, START + seq * HOUR))
    store.append_loose(SOURCE, [(Labels.of(__name__="loose", i=str(i)), START + i * HOUR, float(i)) for i in range(4)])
    store.cut(START + 4 * HOUR)
    store.delete([Matcher(MatchType.EQ, "i", "2")], START, START + HOUR)
    store._wal.roll()
    append(store, frame(6, START + 6 * HOUR))
    append(store, frame(7, START - 40 * HOUR, provisional=True))
    store.append_loose(SOURCE, [(Labels.of(__name__="loose", i="9"), START + 6 * HOUR, 9.0)])
    key = FrameKey(SOURCE, Epoch(2), 0, 0, NO_SCHEMA, Flags.SYNCED)
    append(store, encode(key, [], np.empty((0, 0)), correction=Correction(BOOT, START + 7 * HOUR)))
    append(store, frame(8, START - 30 * HOUR, provisional=True))
    store.commit()
    store.snapshot("copy")
    store.close()
    return path


def samples(path: Path) -> tuple[Samples, bool]:
    """What a store holds, and whether it says that something was lost."""
    store = opened(path)
    try:
        loss = store.stats().loss
        found = read_all(store.select([], Millis(-(2**62)), Millis(2**62)))
        # It must go on, too.
        store.append_loose(SOURCE, [(Labels.of(__name__="more"), START, 1.0)])
        store.commit()
        return found, bool(loss) or bool(loss.quarantined)
    finally:
        store.close()


def files(whole: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(whole.rglob("*")):
        if path.is_file() and path.name != "lock" and "snapshots" not in path.parts:
            yield str(path.relative_to(whole)), path.read_bytes()


def damaged(whole: Path, scratch: Path, name: str, data: bytes) -> Path:
    """A copy of the directory in which one file has other bytes."""
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(whole, scratch, ignore=shutil.ignore_patterns("snapshots"))
    (scratch / name).write_bytes(data)
    return scratch


def undeleted(found: Samples) -> Samples:
    """Without what a deletion took: that may come back if the list of deletions is damaged and its log is gone."""
    return {k: v for k, v in found.items() if k.get("i") != "2"}


def test_the_directory_has_every_kind_of_file(whole: Path) -> None:
    names = [name for name, _ in files(whole)]
    assert [name.split("/")[0] for name in names].count("wal") >= 2
    assert [name.endswith(".blk") for name in names].count(True) >= 2
    assert "blocks/deletions" in names
    assert samples(shutil.copytree(whole, whole.parent / "intact"))[1] is False


def test_a_file_cut_anywhere_costs_only_samples_of_its_own_and_is_noticed(whole: Path, tmp_path: Path) -> None:
    everything = undeleted(samples(shutil.copytree(whole, tmp_path / "intact"))[0])
    for name, data in files(whole):
        for end in range(0, len(data), EVERY):
            found, loss = samples(damaged(whole, tmp_path / "scratch", name, data[:end]))
            kept = undeleted(found)
            kept.pop(Labels.of(__name__="more"), None)
            wrong = {k: set(v) - set(everything.get(k, [])) for k, v in kept.items()}
            # A provisional sample whose correction is cut off stands at its estimate.
            wrong = {k: {s for s in v if s[0] >= START} for k, v in wrong.items()}
            assert not any(wrong.values()), (name, end, wrong)
            missing = sum(len(set(v) - set(kept.get(k, []))) for k, v in everything.items())
            assert loss or not missing or ends_at_a_record(name, data, end), (name, end, missing)


def ends_at_a_record(name: str, data: bytes, end: int) -> bool:
    """Whether a log that ends there is whole, or empty: for all its reader can know, what follows was never there."""
    if not name.startswith("wal/"):
        return False
    at = 16 if end else 0
    while at < end:
        at += 12 + int.from_bytes(data[at + 4 : at + 8], "little")
    return at == end


def test_a_flipped_byte_anywhere_is_noticed_and_brings_no_wrong_sample(whole: Path, tmp_path: Path) -> None:
    everything = undeleted(samples(shutil.copytree(whole, tmp_path / "intact"))[0])
    for name, data in files(whole):
        for at in range(0, len(data), EVERY):
            flipped = data[:at] + bytes([data[at] ^ 0x24]) + data[at + 1 :]
            path = damaged(whole, tmp_path / "scratch", name, flipped)
            try:
                found, _ = samples(path)
            except AssertionError:
                raise
            except Exception as err:  # noqa: BLE001 - a damaged part of a block shows when it is read, by name
                assert name.endswith(".blk"), (name, at, err)
                assert name.rsplit("/", 1)[-1].removesuffix(".blk") in str(err) or "block" in str(err), err
                continue
            kept = undeleted(found)
            wrong = {k: {s for s in set(v) - set(everything.get(k, [])) if s[0] >= START} for k, v in kept.items()}
            wrong.pop(Labels.of(__name__="more"), None)
            assert not any(wrong.values()), (name, at, wrong)


def test_a_snapshot_with_a_damaged_file_opens_like_any_other_directory(whole: Path, tmp_path: Path) -> None:
    copy = whole / "snapshots" / "copy"
    for path in sorted(p for p in copy.rglob("*") if p.is_file() and p.name != "lock"):
        data = path.read_bytes()
        for end in range(0, len(data), max(EVERY, len(data) // 20)):
            samples(damaged(copy, tmp_path / "scratch", str(path.relative_to(copy)), data[:end]))
