"""The edge log's files: opening after any crash, one write and fsync a commit, retention, reading. Blocking."""

import contextlib
import errno
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from common.errors import FrameError
from common.files import Appender, Files
from common.frames.envelope import check, read_records
from common.frames.model import Correction, Epoch, Schema, SchemaHash, SourceId, encode_schema, read_header
from common.frames.ranges import RangeSet
from common.logs import EventLog
from common.sample import Millis
from edge.log_segment import (
    CORRECTIONS,
    HEADER_SIZE,
    Entry,
    Scan,
    Summary,
    decode_trailer,
    encode_header,
    header_source,
    join_have,
    scan,
    trailer_length,
    whole_schema,
)

MAX_INDEXES: Final = 8
_log = EventLog("log")


@dataclass(frozen=True, slots=True)
class Unit:
    """A sealed frame on its way to disk, with the schema that must lie there with it (None without rows)."""

    epoch: Epoch
    seq: int
    data: bytes
    schema: Schema | None


@dataclass(slots=True, eq=False)
class Segment:
    """One file. `size` counts its durable bytes; nothing beyond is read."""

    number: int
    path: Path
    size: int
    summary: Summary
    subs: set[SchemaHash] = field(default_factory=set)


@dataclass(slots=True)
class DiskStats:
    """Counters since the start; bytes and frames."""

    bytes_written: int = 0
    syncs: int = 0
    frames_expired: int = 0
    segments_expired: int = 0
    recovered_frames: int = 0
    lost_bytes: int = 0
    lost_frames: int = 0
    quarantined_segments: int = 0


def segment_name(number: int) -> str:
    """The file name of segment `number`."""
    return f"{number:016x}.seg"


class LogDisk:
    """Segments in a directory. Not thread-safe, but for `read`, which may run beside one writer."""

    def __init__(self, directory: Path, files: Files, source: SourceId) -> None:
        """Open what is in `directory`, repairing the newest segment as far as the disk allows."""
        self.directory = directory
        self.files = files
        self.source = source
        self.stats = DiskStats()
        self.segments: list[Segment] = []
        self.corrections: dict[bytes, Correction] = {}
        self._bad: list[tuple[Path, int]] = []
        self._former = [(path, path.stat().st_size) for path in sorted(directory.glob("former-*/*"))]
        self._indexes: OrderedDict[int, Scan] = OrderedDict()
        self._active: Segment | None = None
        self._out: Appender | None = None
        self._index: Scan | None = None
        self._next = 0
        self._recover()

    @property
    def generation(self) -> int:
        """The number of the segment that the next commit goes to."""
        return self._next if self._active is None else self._active.number

    @property
    def size(self) -> int:
        """Bytes of all segments, unreadable ones and those of a former device too."""
        return sum(s.size for s in self.segments) + sum(size for _, size in (*self._bad, *self._former))

    @property
    def last(self) -> Millis | None:
        """The greatest timestamp stored, uncorrected."""
        times = [s.summary.last for s in self.segments if s.summary.first <= s.summary.last]
        return max(times) if times else None

    def have(self) -> dict[Epoch, RangeSet]:
        """What the segments hold, oldest epoch first."""
        return join_have(s.summary.have for s in list(self.segments))

    # Opening

    def _recover(self) -> None:
        numbers = []
        for path in self.directory.iterdir():
            stem, _, kind = path.name.partition(".")
            if kind not in ("seg", "bad") or len(stem) != 16:
                continue
            try:
                number = int(stem, 16)
            except ValueError:
                continue
            self._next = max(self._next, number + 1)
            if kind == "bad":
                self._bad.append((path, path.stat().st_size))
            else:
                numbers.append((number, path))
        for number, path in sorted(numbers):
            try:
                self._open_segment(number, path)
            except OSError as err:
                _log.error("segment cannot be read", path=path, error=err)
                self.stats.quarantined_segments += 1
        for segment in self.segments:
            if segment.summary.bits & CORRECTIONS:
                self._collect(segment)

    def _open_segment(self, number: int, path: Path) -> None:
        summary = self._read_trailer(path)
        size = path.stat().st_size
        if summary is not None:
            self.segments.append(Segment(number, path, size, summary))
            return
        data = path.read_bytes()
        found = scan(data)
        lost = len(data) - found.end + sum(b - a for a, b in found.bad)
        self.stats.lost_bytes += lost
        self.stats.recovered_frames += len(found.entries)
        if lost:
            _log.warn("segment repaired", path=path, frames=len(found.entries), lost_bytes=lost)
        if not found.entries:
            self._set_aside(path, bad=bool(found.bad) or header_source(data) is None, size=len(data))
            return
        segment = Segment(number, path, found.end, found.summary)
        self.segments.append(segment)
        if not found.trailer:
            try:
                out = self.files.append(path)
                try:
                    out.truncate(found.end)
                    self._finish(out, segment)
                    out.sync()
                finally:
                    out.close()
            except OSError as err:
                _log.warn("segment not finished, it will be read whole at each start", path=path, error=err)

    def _read_trailer(self, path: Path) -> Summary | None:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < HEADER_SIZE:
                return None
            file.seek(max(0, size - 8))
            length = trailer_length(file.read(8))
            if length is None or length > size:
                return None
            file.seek(size - length)
            try:
                return decode_trailer(file.read(length))
            except FrameError:
                return None

    def _set_aside(self, path: Path, bad: bool, size: int) -> None:
        try:
            if not bad or not size:
                self.files.unlink(path)
                return
            target = path.with_suffix(".bad")
            self.files.replace(path, target)
            self._bad.append((target, size))
            self.stats.quarantined_segments += 1
            _log.error("segment holds nothing readable, set aside", path=target, bytes=size)
        except OSError as err:
            _log.warn("unreadable segment stays where it is", path=path, error=err)

    def _collect(self, segment: Segment) -> None:
        index = self._load(segment)
        if index is None:
            return
        for _, _, frame in self._frames(segment, index.entries):
            self.note(frame)

    def note(self, frame: bytes) -> None:
        """Remember the correction that a frame carries, if any."""
        if read_header(frame).slots == 0:
            correction = read_records(frame)[2]
            if correction is not None:
                self.corrections[correction.boot_id] = correction

    # Writing

    def write(self, units: Sequence[Unit], now: Millis, boot_id: bytes, segment_bytes: int) -> None:
        """Append frames with the schemas they need in one write, and sync.

        After an OSError none of them counts as stored: write them again, into the next segment.
        """
        if self._active is not None and self._active.size >= segment_bytes:
            self.roll()
        segment = self._active
        if segment is None:
            path = self.directory / segment_name(self._next)
            segment = Segment(self._next, path, 0, Summary())
            self._next += 1
        data = bytearray(encode_header(self.source, now, boot_id) if segment.size == 0 else b"")
        added = Scan(Summary(), [], {}, [], 0, trailer=False)
        subs: set[SchemaHash] = set()
        for unit in units:
            schema = unit.schema
            if schema is not None and schema.hash not in segment.summary.schemas and schema.hash not in added.schemas:
                encoded = encode_schema(schema, segment.subs | subs)
                added.schemas[schema.hash] = (segment.size + len(data), len(encoded))
                subs.update(part.hash for part in schema.parts)
                data += encoded
            added.entries.append(Entry.of(read_header(unit.data), segment.size + len(data)))
            data += unit.data
        try:
            if self._out is None:
                self._out = self.files.create(segment.path)
                self._out.reserve(segment_bytes)
                self._out.write(bytes(data))
                self._out.sync()
                self.files.sync_dir(self.directory)
            else:
                self._out.write(bytes(data))
                self._out.sync()
        except OSError:
            self._abandon(segment)
            raise
        self.stats.bytes_written += len(data)
        self.stats.syncs += 1
        index = self._index or added
        if index is not added:
            index.entries.extend(added.entries)
            index.schemas.update(added.schemas)
        segment.subs |= subs
        segment.summary.schemas.update(added.schemas)
        for unit in units:
            segment.summary.add(read_header(unit.data))
            self.note(unit.data)
        segment.size += len(data)
        self._index = index
        if self._active is None:
            self._active = segment
            self.segments.append(segment)

    def roll(self) -> None:
        """End the current segment; the next write begins another. The trailer is not synced: it only saves time."""
        if self._active is not None and self._out is not None:
            with contextlib.suppress(OSError):
                self._finish(self._out, self._active)
                self._out.truncate(self._out.size)
            self._keep(self._active.number, self._index)
            self._out.close()
        self._active = self._out = self._index = None

    def _finish(self, out: Appender, segment: Segment) -> None:
        trailer = segment.summary.encode()
        out.write(trailer)
        segment.size = out.size
        self.stats.bytes_written += len(trailer)

    def _abandon(self, segment: Segment) -> None:
        # A failed fsync leaves pages marked clean: this file must not be trusted with more (see fsyncgate).
        if self._out is not None:
            self._out.close()
        if segment is not self._active:
            with contextlib.suppress(OSError):
                self.files.unlink(segment.path)
        elif self._index is not None:
            self._keep(segment.number, self._index)
        self._active = self._out = self._index = None

    def close(self) -> None:
        """End the current segment, so that the next start need not read it."""
        self.roll()

    # Retention

    def retain(self, oldest: Millis | None, max_bytes: int) -> int:
        """Remove oldest segments over `max_bytes` or wholly before `oldest`, never the current one; how many.

        What a former device left goes first, then what is unreadable.
        """
        removed = 0
        for aside in (self._former, self._bad):
            while aside and (self.size > max_bytes or self._before(aside[0][0], oldest)):
                path, _ = aside.pop(0)
                self.files.unlink(path)
                if path.parent != self.directory and not any(path.parent.iterdir()):
                    self.files.rmdir(path.parent)
        while self.segments and self.segments[0] is not self._active:
            segment = self.segments[0]
            old = oldest is not None and segment.summary.first <= segment.summary.last < oldest
            if not old and self.size <= max_bytes:
                break
            self.files.unlink(segment.path)
            del self.segments[0]
            self._indexes.pop(segment.number, None)
            self.stats.frames_expired += segment.summary.frames
            self.stats.segments_expired += 1
            removed += 1
        return removed

    @staticmethod
    def _before(path: Path, oldest: Millis | None) -> bool:
        return oldest is not None and path.stat().st_mtime * 1000 < oldest

    # Reading

    def frames(self, have: dict[Epoch, RangeSet], newest: bool) -> Iterator[tuple[Epoch, int, bytes]]:
        """Frames that `have` lacks, newest or oldest first, each verified; damaged ones are counted and left out."""
        segments = list(self.segments)
        for segment in reversed(segments) if newest else segments:
            held = segment.summary.have
            if not any(have.get(epoch, RangeSet()).missing(numbers) for epoch, numbers in list(held.items())):
                continue
            index = self._load(segment)
            if index is not None:
                entries = [e for e in index.entries if e.seq not in have.get(e.epoch, RangeSet())]
                yield from self._frames(segment, entries[::-1] if newest else entries)

    def between(self, start: int, end: int) -> Iterator[tuple[Epoch, int, bytes]]:
        """Frames that may hold samples from `start` to `end`, oldest first, of the segments there are now."""
        return self._between([s for s in self.segments if s.summary.overlaps(start, end)], start, end)

    def _between(self, segments: list[Segment], start: int, end: int) -> Iterator[tuple[Epoch, int, bytes]]:
        for segment in segments:
            index = self._load(segment)
            if index is not None:
                yield from self._frames(segment, [e for e in list(index.entries) if e.overlaps(start, end)])

    def schemas(self, start: int, end: int) -> set[SchemaHash]:
        """Schemas of the segments that may hold samples from `start` to `end`."""
        found = [s.summary.schemas for s in list(self.segments) if s.summary.overlaps(start, end)]
        return set().union(*found)

    def _frames(self, segment: Segment, entries: Sequence[Entry]) -> Iterator[tuple[Epoch, int, bytes]]:
        try:
            fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # retention was faster
        try:
            for entry in entries:
                data = os.pread(fd, entry.length, entry.offset)
                try:
                    header = check(data)
                    if (header.epoch, header.seq) != (entry.epoch, entry.seq):
                        raise FrameError("another frame stands there")
                except FrameError as err:
                    self._lose(segment, entry.epoch, entry.seq, str(err))
                    continue
                yield entry.epoch, entry.seq, data
        finally:
            os.close(fd)

    def schema(self, digest: SchemaHash) -> bytes | None:
        """The whole schema of that hash, from the newest segment that holds it."""
        for segment in reversed(list(self.segments)):
            if digest not in segment.summary.schemas:
                continue
            try:
                index = self._load(segment)
                encoded = whole_schema(self._read(segment), index, digest) if index is not None else None
            except (FileNotFoundError, FrameError):
                continue
            if encoded is not None:
                return encoded
        return None

    def _read(self, segment: Segment) -> bytes:
        with segment.path.open("rb") as file:
            return file.read(segment.size)

    def _load(self, segment: Segment) -> Scan | None:
        if segment is self._active and self._index is not None:
            return self._index
        known = self._indexes.get(segment.number)
        if known is not None:
            return known
        try:
            index = scan(self._read(segment))
        except FileNotFoundError:
            return None
        except OSError as err:
            if err.errno != errno.EIO:
                raise
            self._lose_all(segment, str(err))
            return None
        present = index.summary.have
        for epoch, numbers in list(segment.summary.have.items()):
            for seq in present.get(epoch, RangeSet()).missing(numbers):
                self._lose(segment, epoch, seq, "damaged")
        self._keep(segment.number, index)
        return index

    def _keep(self, number: int, index: Scan | None) -> None:
        if index is not None:
            self._indexes[number] = index
            while len(self._indexes) > MAX_INDEXES:
                self._indexes.popitem(last=False)

    def _lose(self, segment: Segment, epoch: Epoch, seq: int, reason: str) -> None:
        held = segment.summary.have.get(epoch, RangeSet())
        if seq in held:
            segment.summary.have[epoch] = RangeSet.of(seq).missing(held)
            self.stats.lost_frames += 1
            _log.error("frame lost", path=segment.path, epoch=f"{epoch:016x}", seq=seq, error=reason)

    def _lose_all(self, segment: Segment, reason: str) -> None:
        lost = sum(numbers.count for numbers in segment.summary.have.values())
        self.stats.lost_frames += lost
        segment.summary.have = {}
        _log.error("segment unreadable", path=segment.path, frames=lost, error=reason)
