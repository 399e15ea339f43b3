"""The edge log's files: opening after any crash, one write and fsync a commit, retention, reading. Blocking."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.edgelog.reader import Loss, Segment, SegmentReader, read_trailer, segment_files, segment_name
from common.edgelog.segment import (
    Entry,
    Scan,
    Summary,
    encode_header,
    header_source,
    join_have,
    scan,
)
from common.files import Appender, Files
from common.frames.model import Epoch, Schema, SchemaHash, SourceId, encode_schema, read_header
from common.frames.ranges import RangeSet
from common.logs import EventLog
from common.sample import Millis

_log = EventLog("log")


@dataclass(frozen=True, slots=True)
class Unit:
    """A sealed frame on its way to disk, with the schema that must lie there with it (None without rows)."""

    epoch: Epoch
    seq: int
    data: bytes
    schema: Schema | None


@dataclass(slots=True)
class DiskStats(Loss):
    """Counters since the start; bytes and frames."""

    bytes_written: int = 0
    syncs: int = 0
    frames_expired: int = 0
    segments_expired: int = 0
    recovered_frames: int = 0


class LogDisk(SegmentReader):
    """Segments in a directory. Not thread-safe, but for `read`, which may run beside one writer."""

    def __init__(self, directory: Path, files: Files, source: SourceId) -> None:
        """Open what is in `directory`, repairing the newest segment as far as the disk allows."""
        super().__init__()
        self.directory = directory
        self.files = files
        self.source = source
        self.loss = self.stats = DiskStats()
        self._bad: list[tuple[Path, int]] = []
        self._former = [(path, path.stat().st_size) for path in sorted(directory.glob("former-*/*"))]
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
        for number, path in segment_files(self.directory):
            self._next = max(self._next, number + 1)
            try:
                if path.suffix == ".bad":
                    self._bad.append((path, path.stat().st_size))
                else:
                    self._open_segment(number, path)
            except OSError as err:
                _log.error("segment cannot be read", path=path, error=err)
                self.stats.quarantined_segments += 1
        self.collect()

    def _open_segment(self, number: int, path: Path) -> None:
        summary = read_trailer(path)
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

    def load(self, segment: Segment) -> Scan | None:
        """As SegmentReader.load; the index of the segment that is written is at hand."""
        return self._index if segment is self._active and self._index is not None else super().load(segment)

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
            self.keep(self._active.number, self._index)
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
            self.keep(segment.number, self._index)
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
