"""The write-ahead log: segment files of checksummed records. FORMAT.md draws the bytes.

A segment can be read without the ones before it: what records refer to (schemas, targets) is written again on its
first use in each segment. Records are buffered by `append` and made durable, all of them, by `commit`.
"""

import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Final

from common.files import Appender, Files, explain
from common.frames.codec import Slot, encode_slots

MAGIC: Final = b"BRw\xb1"
VERSION: Final = 1
HEADER: Final = struct.Struct("<4sB3xQ")
RECORD: Final = struct.Struct("<IIB3x")
MAX_RECORD_BYTES: Final = 128 << 20
NO_TIME: Final = -(1 << 63)


class RecordType(IntEnum):
    """What a record is; readers skip types that they don't know."""

    FRAME = 1
    SCHEMA = 2
    TARGET = 3
    HAVE = 4
    LOOSE = 5
    DELETE = 6
    CORRECTION = 7
    SERIES = 8
    RELEASE = 9
    HISTOGRAMS = 10


Key = tuple[RecordType, bytes]
Part = tuple[RecordType, bytes, bytes | Slot]
"""Type, key (empty if nothing refers to it) and body of a record; a Slot becomes its frame when it is written."""
Record = tuple[RecordType, bytes, bytes]


@dataclass(slots=True)
class Loss:
    """What recovery could not read."""

    truncated_bytes: int = 0
    damaged_records: int = 0
    damaged_bytes: int = 0
    quarantined: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.truncated_bytes or self.damaged_records)


@dataclass(slots=True, eq=False)
class Segment:
    """One file: its number, durable size, the newest timestamp in it (NO_TIME: none).

    `written`: ms, when the file was last written to, of those that recovery found.
    """

    number: int
    path: Path
    size: int
    last: int = NO_TIME
    written: int = 0


@dataclass(slots=True, eq=False)
class _Batch:
    """Records of one segment that are not durable yet, and the referred-to ones (`stated`) that are."""

    parts: list[Part] = field(default_factory=list)
    known: set[Key] = field(default_factory=set)
    stated: dict[Key, bytes] = field(default_factory=dict)
    segment: Segment | None = None
    first: int | None = None
    """Number of the first file with some of it."""
    file: Appender | None = None
    written: int = 0
    """How many of `parts` stand in the file already, not synced, and in how many bytes (`unsynced`)."""
    unsynced: int = 0
    size: int = 0
    full: bool = False
    """Whether the next record begins another segment in any case."""
    last: int = NO_TIME


def pack_record(kind: RecordType, body: bytes) -> bytes:
    """Header and body of a record."""
    tail = struct.pack("<IB3x", len(body), kind)
    return struct.pack("<I", zlib.crc32(body, zlib.crc32(tail))) + tail + body


def read_record(data: bytes, at: int) -> tuple[int, memoryview, int] | None:
    """Type, body and end of the record at `at`; None unless it is whole and its checksum holds."""
    if at + RECORD.size > len(data):
        return None
    crc, length, kind = RECORD.unpack_from(data, at)
    end = at + RECORD.size + length
    if length > MAX_RECORD_BYTES or end > len(data):
        return None
    view = memoryview(data)[at + 4 : end]
    if zlib.crc32(view) != crc:
        return None
    return kind, view[RECORD.size - 4 :], end


class Wal:
    """The log in a directory. `begin`, `state` and `append` need the owner's lock; the other methods take it."""

    def __init__(
        self,
        directory: Path,
        files: Files,
        segment_bytes: int,
        lock: threading.RLock,
        preamble: Callable[[], list[tuple[bytes, bytes]]],
    ) -> None:
        """A log whose segments begin with HAVE records of `preamble()`: (key, body); call `recover` before all else."""
        self._directory = directory
        self._files = files
        self._segment_bytes = segment_bytes
        self._lock = lock
        self._preamble = preamble
        self._commit_lock = threading.Lock()
        self._batches: list[_Batch] = []
        self._number = 0
        self.segments: list[Segment] = []
        self.loss = Loss()
        self.bytes_written = 0
        self.serial = 0
        """Counts the segments begun."""
        self.pending = 0
        """Bytes appended and not yet durable."""

    def recover(
        self, quarantine: Callable[[str, bytes], bool], least: int = 0
    ) -> Iterator[tuple[Segment, bool, int, memoryview]]:
        """All readable records as (segment, whether it is the oldest, type, body), oldest first; `loss` has the rest.

        Bytes after the last good record of the last segment are cut off; damage elsewhere goes to `quarantine`, which
        says whether it could keep it: if not, the file stays. Numbers of new segments come after `least`, too.
        """
        self._number = least
        found = sorted((int(p.stem), p) for p in self._directory.glob("*.wal") if p.stem.isdigit())
        for number, path in found:
            data = path.read_bytes()
            self._number = max(self._number, number)
            newest, oldest = number == found[-1][0], number == found[0][0]
            if len(data) < HEADER.size or data[:4] != MAGIC or HEADER.unpack_from(data)[1] != VERSION:
                if self._damage(quarantine, path, data, 0, len(data), newest):
                    self._files.unlink(path)
                continue
            segment = Segment(number, path, len(data), written=path.stat().st_mtime_ns // 1_000_000)
            self.segments.append(segment)
            at = HEADER.size
            while at < len(data):
                record = read_record(data, at)
                if record is not None:
                    kind, body, at = record
                    yield segment, oldest, kind, body
                    continue
                end = resume(data, at)
                self._damage(quarantine, path, data, at, end, newest)
                if end == len(data):
                    segment.size = at
                at = end

    def _damage(
        self, quarantine: Callable[[str, bytes], bool], path: Path, data: bytes, at: int, end: int, newest: bool
    ) -> bool:
        """Count damaged bytes and set them aside; whether the file need not keep them."""
        if newest and end == len(data):
            self.loss.truncated_bytes += end - at
            if at >= HEADER.size:
                file = self._files.append(path)
                try:
                    file.truncate(at)
                    file.sync()
                finally:
                    file.close()
            return True
        self.loss.damaged_records += 1
        self.loss.damaged_bytes += end - at
        name = f"{path.name}.{at}"
        kept = quarantine(name, data[at:end])
        if kept:
            self.loss.quarantined.append(name)
        return kept

    def append(self, kind: RecordType, body: bytes | Slot, last: int = NO_TIME) -> None:
        """Buffer a record whose newest sample is at `last`."""
        self._put(self._batches[-1], kind, b"", body, last)

    def state(self, kind: RecordType, key: bytes, body: bytes, again: bool = False) -> None:
        """Buffer a record that others refer to, unless the segment has it (or `again`)."""
        batch = self._batches[-1]
        if again or (kind, key) not in batch.known:
            batch.known.add((kind, key))
            self._put(batch, kind, key, body, NO_TIME)

    def stated(self, kind: RecordType, key: bytes) -> bool:
        """Whether the segment has that record; `begin` comes before."""
        return (kind, key) in self._batches[-1].known

    def begin(self) -> None:
        """Begin a new segment if this one is full; records up to the next `begin` stay in one segment."""
        if not self._batches or self._batches[-1].full or self._batches[-1].size >= self._segment_bytes:
            batch = _Batch()
            self.serial += 1
            for key, body in self._preamble():
                self._put(batch, RecordType.HAVE, key, body, NO_TIME)
            self._batches.append(batch)

    def _put(self, batch: _Batch, kind: RecordType, key: bytes, body: bytes | Slot, last: int) -> None:
        batch.parts.append((kind, key, body))
        batch.size += RECORD.size + len(body)
        batch.last = max(batch.last, last)
        self.pending += RECORD.size + len(body)

    def commit(self) -> None:
        """Make all records durable that were appended before the call; StorageError keeps them for the next try."""
        with self._commit_lock:
            for batch, parts, last in self._made():
                self._settle(batch, parts, last)

    def _made(self) -> list[tuple[_Batch, list[Record], int]]:
        """All batches with their records and newest timestamps as they are now; what was a slot is a frame for good."""
        with self._lock:
            taken = [(batch, batch.parts[:], batch.last) for batch in self._batches]
        slots = [body for _, parts, _ in taken for _, _, body in parts if isinstance(body, Slot)]
        frames = iter(encode_slots(slots))
        out = []
        for batch, parts, last in taken:
            records: list[Record] = []
            saved = 0
            for kind, key, body in parts:
                record = kind, key, next(frames) if isinstance(body, Slot) else body
                saved += len(body) - len(record[2])
                records.append(record)
            if slots:
                with self._lock:
                    batch.parts[: len(records)] = records
                    batch.size -= saved
                    self.pending -= saved
            out.append((batch, records, last))
        return out

    def _settle(self, batch: _Batch, parts: list[Record], last: int) -> None:
        if parts:
            self._write(batch, parts, last)
        with self._lock:
            del batch.parts[: len(parts)]
            self.pending -= sum(RECORD.size + len(body) for _, _, body in parts)
            batch.stated.update({(kind, key): body for kind, key, body in parts if key})
            # More may have come to it before the next segment began: that is the next commit's.
            if batch is not self._batches[-1] and not batch.parts:
                self._close(batch)
                self._batches.remove(batch)

    def flush(self) -> None:
        """Hand records to the kernel without making them durable: they outlive the process, not the power.

        StorageError keeps them for the next try.
        """
        with self._commit_lock:
            batches = self._made()
            if any(batch.file is None and parts for batch, parts, _ in batches):
                # A new file has to be made durable by name in any case; segments become durable in their order.
                for batch, parts, last in batches:
                    self._settle(batch, parts, last)
                return
            for batch, all_parts, _ in batches:
                parts = all_parts[batch.written :]
                if batch.file is None or not parts:
                    continue
                data = b"".join([pack_record(kind, body) for kind, _, body in parts])
                path = batch.file.path
                try:
                    batch.file.write(data)
                except OSError as err:
                    self._abandon(batch)
                    raise explain(err, path, "--storage.tsdb.path") from err
                batch.written += len(parts)
                batch.unsynced += len(data)

    def _write(self, batch: _Batch, parts: list[Record], last: int) -> None:
        data = b"".join([pack_record(kind, body) for kind, _, body in parts[batch.written :]])
        path = self._directory
        try:
            if batch.file is None:
                self._number += 1
                path = self._directory / f"{self._number:08d}.wal"
                stated = [pack_record(kind, body) for (kind, _), body in batch.stated.items()]
                data = b"".join([HEADER.pack(MAGIC, VERSION, self._number), *stated, data])
                batch.file = self._files.create(path)
                batch.segment = Segment(self._number, path, 0)
                batch.first = self._number if batch.first is None else batch.first
                batch.file.write(data)
                batch.file.sync()
                self._files.sync_dir(self._directory)
                with self._lock:
                    self.segments.append(batch.segment)
            else:
                path = batch.file.path
                if data:
                    batch.file.write(data)
                batch.file.sync()
        except OSError as err:
            # After a failed write or fsync the descriptor is in doubt: the next try writes another file, which
            # begins with what this one has stated. What stands in this one up to its durable size stays.
            self._abandon(batch)
            raise explain(err, path, "--storage.tsdb.path") from err
        assert batch.segment is not None
        size = batch.unsynced + len(data)
        batch.written = batch.unsynced = 0
        batch.segment.size += size
        with self._lock:
            batch.segment.last = max(batch.segment.last, last)
        self.bytes_written += size

    def _abandon(self, batch: _Batch) -> None:
        file, segment = batch.file, batch.segment
        self._close(batch)
        batch.segment = None
        batch.written = batch.unsynced = 0
        if file is None or segment is None:
            return
        try:
            if segment.size:
                file = self._files.append(file.path)
                file.truncate(segment.size)
                file.close()
            else:
                self._files.unlink(file.path)
        except OSError:
            # Then recovery finds the torn record, counts it, and finds its content again in the next segment.
            return

    def _close(self, batch: _Batch) -> None:
        if batch.file is not None:
            batch.file.close()
            batch.file = None

    def place(self) -> Callable[[], int]:
        """A function that says in which segment, or in a later one, the records stand that are appended now."""
        batch = self._batches[-1]
        return lambda: self._number + 1 if batch.first is None else batch.first

    def stretch(self, first: int, last: int) -> None:
        """Have segments from number `first` on last up to a later time: samples in them have moved."""
        for segment in self.segments:
            if segment.number >= first:
                segment.last = max(segment.last, last)
        for batch in self._batches:
            batch.last = max(batch.last, last)

    def roll(self) -> Callable[[], int]:
        """Begin a new segment with the next record; after a commit the result is a number between old and new ones."""
        with self._lock:
            newest = self._batches[-1] if self._batches else None
            if newest is not None:
                newest.full = True

        def number() -> int:
            segment = newest.segment if newest is not None else None
            return 1 + (segment.number if segment is not None else self._number)

        return number

    def drop(self, unneeded: Callable[[Segment], bool]) -> int:
        """Remove the oldest segments while they are `unneeded`, never one that is still written; how many."""
        with self._commit_lock:
            with self._lock:
                open_now = [batch.segment for batch in self._batches]
                gone: list[Segment] = []
                # The newest one stays in any case: the ranges that were taken are nowhere else.
                for segment in self.segments[:-1]:
                    if segment in open_now or not unneeded(segment):
                        break
                    gone.append(segment)
            for segment in gone:
                try:
                    self._files.unlink(segment.path)
                except OSError as err:
                    raise explain(err, segment.path, "--storage.tsdb.path") from err
                with self._lock:
                    self.segments.remove(segment)
            return len(gone)

    @property
    def size(self) -> int:
        """Durable bytes of all segments."""
        return sum(segment.size for segment in self.segments)

    def close(self) -> None:
        """Release the files; what was not committed is lost."""
        with self._commit_lock:
            for batch in self._batches:
                self._close(batch)


def resume(data: bytes, at: int) -> int:
    """Where reading can go on after a bad record: right behind it if its length leads to a good one, else the end."""
    if at + RECORD.size <= len(data):
        end = at + RECORD.size + int(RECORD.unpack_from(data, at)[1])
        if read_record(data, end) is not None:
            return end
    return len(data)
