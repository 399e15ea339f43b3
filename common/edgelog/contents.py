"""What an agent's log consists of, for `bramblectl tsdb analyze`. Needs numpy."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from common.edgelog.reader import LogFiles
from common.errors import FrameError
from common.frames.codec import decode_body
from common.frames.envelope import RAW, sections, unpack
from common.frames.model import ABSENT, SchemaHash, Section, decode_schema
from common.labels import EMPTY
from common.tsdb.census import Census
from common.tsdb.index import RowIndex, Target


@dataclass(slots=True)
class Tally:
    """A segment, or all of them: times in ms (None without samples), uncorrected."""

    name: str
    size: int
    frames: int = 0
    samples: int = 0
    first: int | None = None
    last: int | None = None

    def add(self, other: "Tally") -> None:
        """Count another one in."""
        self.size += other.size
        self.frames += other.frames
        self.samples += other.samples
        self.extend(other.first, other.last)

    def extend(self, first: int | None, last: int | None) -> None:
        """Let the times reach from `first` to `last`."""
        if first is not None and last is not None:
            self.first = first if self.first is None else min(self.first, first)
            self.last = last if self.last is None else max(self.last, last)


@dataclass(frozen=True, slots=True)
class Contents:
    """Segments and their sum; row encodings as in `common.tsdb.census.encodings`; what the series are made of."""

    segments: list[Tally]
    total: Tally
    schemas: int
    encodings: list[tuple[str, int, int]]
    census: Census


def contents(files: LogFiles) -> Contents:
    """Read everything in a log; damaged frames are left out and counted in `files.loss`."""
    segments: list[Tally] = []
    total = Tally("all segments", 0)
    used: dict[SchemaHash, Tally] = {}
    rows: Counter[str] = Counter()
    cells: Counter[str] = Counter()
    for segment, frames in files.segments():
        tally = Tally(segment.path.name, segment.size)
        for data in frames:
            tally.frames += 1
            header, body = unpack(data)
            if not header.rows or not header.slots:
                continue
            frame = decode_body(header, body)
            here = frame.values.size if frame.presence is None else int(np.count_nonzero(frame.presence != ABSENT))
            tally.samples += here
            tally.extend(header.first, header.last)
            used.setdefault(header.schema, Tally("", 0)).extend(header.first, header.last)
            scales = np.frombuffer(sections(body)[Section.VALUES][1][1 : header.rows + 1], np.uint8)
            raw = int(np.count_nonzero(scales == RAW))
            for what, count in (("float bits", raw), ("decimal", header.rows - raw)):
                rows[what] += count
                cells[what] += count * header.slots
        segments.append(tally)
        total.add(tally)
    found = [(what, rows[what], count) for what, count in cells.most_common() if count]
    return Contents(segments, total, len(used), found, _census(files, used, total))


def _census(files: LogFiles, used: dict[SchemaHash, Tally], total: Tally) -> Census:
    """Series of all schemas; one that several have lived from the first to the last of these."""
    nobody = Target(EMPTY)
    indexes: list[RowIndex] = []
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for digest, tally in used.items():
        encoded = files.schema(digest)
        try:
            schema = None if encoded is None else decode_schema(encoded)
        except FrameError:
            continue
        if schema is None or tally.first is None or tally.last is None:
            continue
        index = RowIndex(tuple(schema.labels()))
        indexes.append(index)
        for each in index.prints(nobody).tolist():
            first[each] = min(first.get(each, tally.first), tally.first)
            last[each] = max(last.get(each, tally.last), tally.last)
    census = Census()
    length = max(1, (total.last or 0) - (total.first or 0))
    met: set[int] = set()
    for index in indexes:
        prints = index.prints(nobody)
        rows = np.array([row for row, each in enumerate(prints.tolist()) if each not in met], np.intp)
        met.update(prints.tolist())
        prints = prints[rows]
        absent = np.array([1 - (last[each] - first[each]) / length for each in prints.tolist()])
        census.add([(index, rows, np.zeros(len(rows), np.intp))], [nobody], prints, absent)
    return census
