"""The write-ahead log under damage and failing disks."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.errors import StorageError
from common.files import SYSTEM_FILES, Appender, SystemAppender, SystemFiles
from common.frames.codec import Slot, encode_slots
from common.frames.model import Epoch, FrameKey, SchemaHash, SourceId
from common.tsdb.wal import HEADER, NO_TIME, Loss, RecordType, Wal


def open_wal(path: Path, files: SystemFiles = SYSTEM_FILES, segment_bytes: int = 1 << 20) -> tuple[Wal, list[bytes]]:
    """A log and the frame records that it recovered."""
    wal = Wal(path, files, segment_bytes, threading.RLock(), list)
    bodies = [bytes(body) for _, _, kind, body in wal.recover(lambda name, data: True) if kind == RecordType.FRAME]
    return wal, bodies


def write(wal: Wal, *bodies: bytes | Slot, commit: bool = True) -> None:
    for body in bodies:
        wal.begin()
        wal.append(RecordType.FRAME, body, NO_TIME)
    if commit:
        wal.commit()


BODIES = [bytes([i]) * (i + 1) for i in range(6)]


def test_only_committed_records_survive(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path)
    write(wal, b"one", b"two")
    write(wal, b"three", commit=False)
    wal.close()
    assert open_wal(tmp_path)[1] == [b"one", b"two"]


def test_a_log_cut_at_any_byte_starts_and_loses_only_what_follows(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path)
    write(wal, *BODIES)
    wal.close()
    (path,) = tmp_path.glob("*.wal")
    whole = path.read_bytes()
    ends = [HEADER.size]
    for body in BODIES:
        ends.append(ends[-1] + 12 + len(body))
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        wal, bodies = open_wal(tmp_path)
        kept = max((i for i, end in enumerate(ends) if end <= cut), default=0)
        assert bodies == BODIES[:kept]
        assert wal.loss.truncated_bytes == cut - (ends[kept] if cut >= HEADER.size else 0)
        wal, bodies = open_wal(tmp_path)
        assert (bodies, wal.loss) == (BODIES[:kept], Loss())


def test_a_flipped_bit_costs_at_most_its_record_and_the_rest_if_its_length_is_hit(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path)
    write(wal, *BODIES)
    wal.close()
    (path,) = tmp_path.glob("*.wal")
    whole = path.read_bytes()
    starts = [HEADER.size + sum(12 + len(body) for body in BODIES[:i]) for i in range(len(BODIES))]
    for at in range(HEADER.size, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        wal, bodies = open_wal(tmp_path)
        assert bodies == [body for body in BODIES if body in bodies]
        assert len(bodies) < len(BODIES)
        assert wal.loss.damaged_records or wal.loss.truncated_bytes
        start = max(begin for begin in starts if begin <= at)
        if not start + 4 <= at < start + 8:
            assert len(bodies) == len(BODIES) - 1


def test_damage_in_an_older_segment_is_quarantined_and_later_ones_are_read(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path, segment_bytes=1)
    write(wal, *BODIES)
    wal.close()
    second = sorted(tmp_path.glob("*.wal"))[1]
    second.write_bytes(second.read_bytes()[:-1])
    kept: list[tuple[str, bytes]] = []
    again = Wal(tmp_path, SYSTEM_FILES, 1 << 20, threading.RLock(), list)

    def keep(name: str, data: bytes) -> bool:
        kept.append((name, data))
        return True

    bodies = [bytes(body) for *_, body in again.recover(keep)]
    assert bodies == [BODIES[0], *BODIES[2:]]
    assert [name for name, _ in kept] == ["00000002.wal.16"]
    assert again.loss.damaged_bytes == len(kept[0][1])


def test_what_records_refer_to_is_stated_once_a_segment(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path, segment_bytes=60)
    for body in BODIES:
        wal.begin()
        wal.state(RecordType.SCHEMA, b"key", b"schema")
        wal.append(RecordType.FRAME, body)
    wal.commit()
    wal.close()
    for path in tmp_path.glob("*.wal"):
        assert path.read_bytes().count(b"schema") == 1


SLOTS = [
    Slot(FrameKey(SourceId(bytes(16)), Epoch(1), seq, 0, SchemaHash(b"s" * 16)), 1000 + seq, np.array([seq, 0.1 * seq]))
    for seq in range(5)
]
FRAMES = encode_slots(SLOTS)


def test_slots_are_frames_in_their_places_once_they_are_written(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path)
    write(wal, SLOTS[0], b"between", *SLOTS[1:3], commit=False)
    assert wal.pending > 0
    wal.flush()
    write(wal, SLOTS[3], commit=False)
    wal.flush()
    write(wal, SLOTS[4])
    assert wal.pending == 0
    wal.close()
    assert open_wal(tmp_path)[1] == [FRAMES[0], b"between", *FRAMES[1:]]


def test_a_new_segment_that_was_asked_for_begins_though_slots_shrink(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path)
    write(wal, SLOTS[0], commit=False)
    number = wal.roll()
    wal.commit()
    write(wal, SLOTS[1])
    wal.close()
    assert [segment.number for segment in wal.segments] == [1, 2]
    assert number() == 2


class FailingFiles(SystemFiles):
    """Fails the next `writes` writes or `syncs` syncs with ENOSPC, after half of the data was written."""

    def __init__(self) -> None:
        self.writes = 0
        self.syncs = 0

    def create(self, path: Path) -> Appender:
        return FailingFile(self, super().create(path))


class FailingFile:
    def __init__(self, owner: FailingFiles, file: Appender) -> None:
        self._owner = owner
        self._file = file
        self.truncate = file.truncate
        self.reserve = file.reserve
        self.close = file.close

    @property
    def path(self) -> Path:
        return self._file.path

    @property
    def size(self) -> int:
        return self._file.size

    def write(self, data: bytes) -> None:
        if self._owner.writes:
            self._owner.writes -= 1
            self._file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        self._file.write(data)

    def sync(self) -> None:
        if self._owner.syncs:
            self._owner.syncs -= 1
            raise OSError(errno.EIO, "Input/output error")
        self._file.sync()


@pytest.mark.parametrize("kind", ["writes", "syncs"])
@pytest.mark.parametrize("first", [True, False])
def test_a_failed_commit_keeps_its_records_for_the_next_one_in_another_file(
    tmp_path: Path, kind: str, first: bool
) -> None:
    files = FailingFiles()
    wal, _ = open_wal(tmp_path, files)
    expected = []
    if not first:
        write(wal, b"before")
        expected.append(b"before")
    setattr(files, kind, 2)
    wal.begin()
    wal.state(RecordType.SCHEMA, b"k", b"schema")
    write(wal, b"x" * 100, SLOTS[0], commit=False)
    for _ in range(2):
        with pytest.raises(StorageError, match=str(tmp_path)):
            wal.commit()
    write(wal, b"after")
    assert wal.pending == 0
    wal.close()
    again, bodies = open_wal(tmp_path)
    assert bodies == [*expected, b"x" * 100, FRAMES[0], b"after"]
    assert again.loss == Loss()
    assert max(tmp_path.glob("*.wal")).read_bytes().count(b"schema") == 1


class BusyFiles(SystemFiles):
    """Files where something happens `meanwhile` at the first sync."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], None] = lambda: None

    def create(self, path: Path) -> Appender:
        return _BusyAppender(path, os.O_CREAT | os.O_EXCL, self)


class _BusyAppender(SystemAppender):
    def __init__(self, path: Path, flags: int, files: BusyFiles) -> None:
        super().__init__(path, flags)
        self._files = files

    def sync(self) -> None:
        meanwhile, self._files.meanwhile = self._files.meanwhile, lambda: None
        meanwhile()
        super().sync()


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("opened", [False, True])
def test_records_that_come_during_a_commit_outlive_the_next_segments_beginning(
    tmp_path: Path, opened: bool, flushed: bool
) -> None:
    files = BusyFiles()
    wal, _ = open_wal(tmp_path, files)
    if opened:
        write(wal, b"zero")

    def meanwhile() -> None:
        write(wal, b"two", commit=False)
        wal.roll()
        write(wal, b"three", commit=False)

    files.meanwhile = meanwhile
    write(wal, b"one", commit=False)
    if flushed:
        wal.flush()
    wal.commit()
    wal.commit()
    assert wal.pending == 0
    wal.close()
    assert open_wal(tmp_path)[1] == [*([b"zero"] if opened else []), b"one", b"two", b"three"]
