"""Reading the edge's log from its directory, beside the agent that writes it or without one. Blocking; no numpy."""

import errno
import os
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from common.edgelog.segment import (
    CORRECTIONS,
    HEADER_SIZE,
    Entry,
    Scan,
    Summary,
    decode_trailer,
    scan,
    trailer_length,
    whole_schema,
)
from common.errors import FrameError
from common.frames.envelope import check, read_records
from common.frames.model import Correction, Epoch, Flags, Provisional, Schema, SchemaHash, read_header
from common.frames.ranges import RangeSet
from common.logs import EventLog

MAX_INDEXES: Final = 8
_log = EventLog("log")


@dataclass(frozen=True, slots=True)
class Pending:
    """Slots of a lane that are not in a frame yet, as the arguments of `common.frames.writer.encode`."""

    schema: Schema
    flags: Flags
    provisional: Provisional | None
    timestamps: list[int]
    columns: "list[array[float]]"
    presences: list[bytes | None]


class FrameSource(Protocol):
    """What `LogQuerier` reads: the agent's own log, or its files."""

    def between(self, start: int, end: int) -> tuple[Iterator[bytes], list[Pending]]:
        """Frames that may hold samples from `start` to `end` (ms, inclusive), and slots that are in none yet."""
        ...

    def corrections(self) -> dict[bytes, Correction]:
        """The latest correction by boot id."""
        ...

    def schema(self, digest: SchemaHash) -> bytes | None:
        """The whole schema of that hash, if a frame uses it."""
        ...

    def schemas_between(self, start: int, end: int) -> set[SchemaHash]:
        """Hashes of schemas that may have samples from `start` to `end`."""
        ...


@dataclass(slots=True, eq=False)
class Segment:
    """One file. `size` counts its durable bytes; nothing beyond is read."""

    number: int
    path: Path
    size: int
    summary: Summary
    subs: set[SchemaHash] = field(default_factory=set)


@dataclass(slots=True)
class Loss:
    """What reading found damaged: bytes and frames."""

    lost_bytes: int = 0
    lost_frames: int = 0
    quarantined_segments: int = 0


def segment_name(number: int) -> str:
    """The file name of segment `number`."""
    return f"{number:016x}.seg"


def segment_files(directory: Path) -> list[tuple[int, Path]]:
    """Segments (`.seg`) and unreadable ones (`.bad`) in a directory by number, lowest first."""
    found = []
    for path in directory.iterdir():
        stem, _, kind = path.name.partition(".")
        if kind in ("seg", "bad") and len(stem) == 16:
            try:
                found.append((int(stem, 16), path))
            except ValueError:
                continue
    return sorted(found)


def read_trailer(path: Path) -> Summary | None:
    """What the file's trailer says; None where there is none."""
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


class SegmentReader:
    """Reads segments, oldest first in `segments`, of which the owner keeps the list. For one writer and any readers."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.corrections: dict[bytes, Correction] = {}
        self.loss = Loss()
        self._indexes: OrderedDict[int, Scan] = OrderedDict()

    def frames(self, have: dict[Epoch, RangeSet], newest: bool) -> Iterator[tuple[Epoch, int, bytes]]:
        """Frames that `have` lacks, newest or oldest first, each verified; damaged ones are counted and left out."""
        segments = list(self.segments)
        for segment in reversed(segments) if newest else segments:
            held = segment.summary.have
            if not any(have.get(epoch, RangeSet()).missing(numbers) for epoch, numbers in list(held.items())):
                continue
            index = self.load(segment)
            if index is not None:
                entries = [e for e in index.entries if e.seq not in have.get(e.epoch, RangeSet())]
                yield from self._frames(segment, entries[::-1] if newest else entries)

    def between(self, start: int, end: int) -> Iterator[tuple[Epoch, int, bytes]]:
        """Frames that may hold samples from `start` to `end`, oldest first, of the segments there are now."""
        return self._between([s for s in self.segments if s.summary.overlaps(start, end)], start, end)

    def _between(self, segments: list[Segment], start: int, end: int) -> Iterator[tuple[Epoch, int, bytes]]:
        for segment in segments:
            index = self.load(segment)
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

    def contents(self, segment: Segment) -> Iterator[bytes]:
        """All frames of one segment."""
        return (data for _, _, data in self._between([segment], -(2**63), 2**63 - 1))

    def schema(self, digest: SchemaHash) -> bytes | None:
        """The whole schema of that hash, from the newest segment that holds it."""
        for segment in reversed(list(self.segments)):
            if digest not in segment.summary.schemas:
                continue
            try:
                index = self.load(segment)
                encoded = whole_schema(_read(segment), index, digest) if index is not None else None
            except (FileNotFoundError, FrameError):
                continue
            if encoded is not None:
                return encoded
        return None

    def note(self, frame: bytes) -> None:
        """Remember the correction that a frame carries, if any."""
        if read_header(frame).slots == 0:
            correction = read_records(frame)[2]
            if correction is not None:
                self.corrections[correction.boot_id] = correction

    def collect(self) -> None:
        """Remember the corrections in all segments."""
        for segment in self.segments:
            index = self.load(segment) if segment.summary.bits & CORRECTIONS else None
            if index is not None:
                for _, _, frame in self._frames(segment, index.entries):
                    self.note(frame)

    def load(self, segment: Segment) -> Scan | None:
        """Where everything lies in a segment; None if it is gone or can't be read."""
        known = self._indexes.get(segment.number)
        if known is not None:
            return known
        try:
            index = scan(_read(segment))
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
        self.keep(segment.number, index)
        return index

    def keep(self, number: int, index: Scan | None) -> None:
        """Remember the index of a segment that doesn't change any more, for a while."""
        if index is not None:
            self._indexes[number] = index
            while len(self._indexes) > MAX_INDEXES:
                self._indexes.popitem(last=False)

    def _lose(self, segment: Segment, epoch: Epoch, seq: int, reason: str) -> None:
        held = segment.summary.have.get(epoch, RangeSet())
        if seq in held:
            segment.summary.have[epoch] = RangeSet.of(seq).missing(held)
            self.loss.lost_frames += 1
            _log.error("frame lost", path=segment.path, epoch=f"{epoch:016x}", seq=seq, error=reason)

    def _lose_all(self, segment: Segment, reason: str) -> None:
        lost = sum(numbers.count for numbers in segment.summary.have.values())
        self.loss.lost_frames += lost
        segment.summary.have = {}
        _log.error("segment unreadable", path=segment.path, frames=lost, error=reason)


def _read(segment: Segment) -> bytes:
    with segment.path.open("rb") as file:
        return file.read(segment.size)


class LogFiles:
    """A FrameSource over the files of a log: what is on the disk when it is opened. Changes nothing, takes no lock.

    A running agent's newest samples are not there yet (its `commit_interval`). What is damaged is left out and counted
    in `loss`; what retention removes meanwhile is left out.
    """

    def __init__(self, directory: Path) -> None:
        """Look at all segments; OSError if the directory or a file can't be read."""
        self._reader = SegmentReader()
        for number, path in segment_files(directory):
            if path.suffix == ".seg":
                self._open(number, path)
        self._reader.collect()

    def _open(self, number: int, path: Path) -> None:
        try:
            summary, size = read_trailer(path), path.stat().st_size
            if summary is None:
                data = path.read_bytes()
                found = scan(data)
                summary, size = found.summary, found.end
                self.loss.lost_bytes += sum(end - start for start, end in found.bad)
        except FileNotFoundError:
            return
        self._reader.segments.append(Segment(number, path, size, summary))

    @property
    def loss(self) -> Loss:
        """What was found damaged so far; not bytes after the last whole item of a file, to which an agent may add."""
        return self._reader.loss

    @property
    def last(self) -> int | None:
        """The greatest timestamp stored, uncorrected."""
        times = [s.summary.last for s in self._reader.segments if s.summary.first <= s.summary.last]
        return max(times) if times else None

    def segments(self) -> Iterator[tuple[Segment, Iterator[bytes]]]:
        """All segments with their frames, oldest first."""
        for segment in self._reader.segments:
            yield segment, self._reader.contents(segment)

    def between(self, start: int, end: int) -> tuple[Iterator[bytes], list[Pending]]:
        """See FrameSource."""
        return (data for _, _, data in self._reader.between(start, end)), []

    def corrections(self) -> dict[bytes, Correction]:
        """See FrameSource."""
        return dict(self._reader.corrections)

    def schema(self, digest: SchemaHash) -> bytes | None:
        """See FrameSource."""
        return self._reader.schema(digest)

    def schemas_between(self, start: int, end: int) -> set[SchemaHash]:
        """See FrameSource."""
        return self._reader.schemas(start, end)
