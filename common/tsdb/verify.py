"""Checks the files of a hub's store: lengths, checksums, content, and what refers to what. Reads only."""

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import FormatError
from common.frames.codec import decode
from common.frames.model import SchemaHash, decode_schema, read_header
from common.frames.ranges import parse_have
from common.frames.varint import Reader
from common.tsdb.block import HEADER as BLOCK_HEADER
from common.tsdb.block import Block, BlockIndex, Footer, MetricEntry, decode_index, unpack_part
from common.tsdb.blocks import DELETIONS
from common.tsdb.cache import DecodeCache
from common.tsdb.clocks import decode_correction
from common.tsdb.deletion import Deletion
from common.tsdb.index import Interner
from common.tsdb.native import HistogramGroup
from common.tsdb.native import decode as decode_histogram
from common.tsdb.querier import Timeline, ValueKind
from common.tsdb.records import unpack_histograms, unpack_loose, unpack_series, unpack_target
from common.tsdb.rows import Group
from common.tsdb.timelines import Part
from common.tsdb.wal import HEADER, MAGIC, VERSION, RecordType, read_record, resume
from common.units import format_size

MAX_PROBLEMS = 20
"""Problems of one file that are listed; the rest is counted."""


class Verdict(StrEnum):
    """What became of a file's check."""

    OK = "ok"
    NOTE = "note"
    """Nothing is lost, but it is not as a clean stop leaves it."""
    BAD = "BAD"


@dataclass(slots=True)
class Report:
    """One file: what is in it, what is wrong with it, what else is to be said."""

    name: str
    content: str = ""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """The worst of what was found."""
        return Verdict.BAD if self.problems else Verdict.NOTE if self.notes else Verdict.OK

    def lines(self) -> list[str]:
        """As text: the file, and a line for each thing to say."""
        more = len(self.problems) - MAX_PROBLEMS
        shown = [*self.problems[:MAX_PROBLEMS], *([f"and {more} more"] if more > 0 else []), *self.notes]
        return [f"{self.verdict:4}  {self.name}  {self.content}".rstrip(), *(f"      {each}" for each in shown)]


def verify_store(path: Path) -> Iterator[Report]:
    """A report for each file of the store in `path`. Files that a running hub removes meanwhile are left out."""
    segments = sorted((path / "wal").glob("*.wal"))
    blocks = sorted((path / "blocks").glob("*"))
    for each in [*segments, *blocks, *sorted((path / "quarantine").glob("*"))]:
        name = str(each.relative_to(path))
        try:
            if each.parent.name == "wal":
                yield verify_segment(name, each.read_bytes(), newest=each == segments[-1])
            elif each.parent.name == "quarantine":
                size = format_size(each.stat().st_size)
                yield Report(name, size, notes=["set aside as damaged; kept for inspection only"])
            elif each.suffix == ".blk":
                yield verify_block(each, name)
            elif each.name == DELETIONS:
                yield verify_deletions(name, each.read_bytes())
            else:
                yield Report(name, notes=["not finished, or not the store's; the next start removes *.tmp"])
        except FileNotFoundError:
            continue
        except OSError as err:
            yield Report(name, problems=[f"cannot be read: {err.strerror or err}"])


# Write-ahead log


@dataclass(slots=True)
class _Stated:
    """What a segment has said so far, for the records that refer to it."""

    schemas: dict[SchemaHash, int] = field(default_factory=dict)
    sources: set[bytes] = field(default_factory=set)
    series: set[int] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    samples: int = 0


def verify_segment(name: str, data: bytes, newest: bool) -> Report:
    """A segment of the log. Bytes behind the last whole record of the newest are a note: it may be written just now."""
    report = Report(name)
    if len(data) < HEADER.size or data[:4] != MAGIC:
        # A crash may leave the newest without its first bytes.
        (report.notes if newest else report.problems).append(f"no log segment: {len(data)} bytes without its header")
        return report
    _, version, number = HEADER.unpack_from(data)
    if version != VERSION:
        report.problems.append(f"version {version}; this program reads version {VERSION}")
        return report
    if Path(name).stem != f"{number:08d}":
        report.problems.append(f"is segment {number} by its header")
    stated = _Stated()
    at = HEADER.size
    while at < len(data):
        record = read_record(data, at)
        if record is None:
            end = resume(data, at)
            if newest and end == len(data):
                report.notes.append(
                    f"{end - at} bytes after the last whole record: a write under way, or a crash (the next start "
                    "cuts them off)"
                )
            else:
                report.problems.append(f"bytes {at} to {end}: no record whose checksum holds")
            at = end
            continue
        kind, body, end = record
        try:
            note = _record(kind, bytes(body), stated)
            if note and note not in report.notes:
                report.notes.append(note)
        except (FormatError, ValueError) as err:
            report.problems.append(f"record at byte {at}: {err}")
        at = end
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(stated.counts.items()))
    report.content = f"{format_size(len(data))}, {stated.samples} samples" + (f"; records: {kinds}" if kinds else "")
    return report


def _record(kind: int, body: bytes, stated: _Stated) -> str:
    """Check one record; something to note, or the empty string."""
    try:
        what = RecordType(kind)
    except ValueError:
        return f"records of type {kind}, which this version passes over"
    stated.counts[what.name] += 1
    match what:
        case RecordType.FRAME:
            _frame(body, stated)
        case RecordType.SCHEMA:
            schema = decode_schema(body)
            stated.schemas[schema.hash] = schema.rows
        case RecordType.TARGET:
            stated.sources.add(unpack_target(body)[0])
        case RecordType.CORRECTION:
            decode_correction(body[16:])
        case RecordType.RELEASE:
            if len(body) != 32:
                raise FormatError(f"{len(body)} bytes instead of a source and a boot id")
        case RecordType.HAVE:
            parse_have(body[16:].decode("ascii"))
        case RecordType.SERIES:
            stated.series.update(number for number, _ in unpack_series(body))
        case RecordType.LOOSE:
            rows, times, _ = unpack_loose(body)
            _known(rows, stated)
            stated.samples += len(times)
        case RecordType.HISTOGRAMS:
            rows, times, encoded = unpack_histograms(body)
            _known(rows, stated)
            for each in encoded:
                if each:
                    decode_histogram(each)
            stated.samples += len(times)
        case RecordType.DELETE:
            Deletion.unpack(body)
    return ""


def _frame(body: bytes, stated: _Stated) -> None:
    header = read_header(body)
    frame = decode(body)
    if header.source not in stated.sources:
        raise FormatError("frame of a source whose target labels the segment does not state before")
    if header.rows:
        rows = stated.schemas.get(header.schema)
        if rows is None:
            raise FormatError(f"frame of schema {header.schema.hex()}, which the segment does not state before")
        if rows != header.rows:
            raise FormatError(f"frame has {header.rows} rows, its schema {rows}")
    stated.samples += frame.values.size if frame.presence is None else int(np.count_nonzero(frame.presence))


def _known(rows: NDArray[np.int64], stated: _Stated) -> None:
    unknown = set(np.unique(rows).tolist()) - stated.series
    if unknown:
        raise FormatError(f"samples of series {min(unknown)}, which the segment does not state before")


# Blocks


def verify_block(path: Path, name: str = "") -> Report:
    """A block: every part, and whether index, timelines, groups and footer agree. OSError as usual."""
    report = Report(name or path.name)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        try:
            block = Block(path, DecodeCache(0), Interner())
            block.close()
            number, footer = block.number, block.footer
            body = os.pread(descriptor, footer.index_length, footer.index_offset)
            index = decode_index(unpack_part(body, "index"))
        except FormatError as err:
            report.problems.append(str(err))
            return report
        if path.stem != f"{number:08d}":
            report.problems.append(f"is block {number} by its header")
        _Parts(descriptor, index, footer, report).check()
        report.content = f"{format_size(size)}, {footer.series} series, {footer.samples} samples"
    finally:
        os.close(descriptor)
    return report


class _Parts:
    """The parts of a block against its index and footer."""

    def __init__(self, descriptor: int, index: BlockIndex, footer: Footer, report: Report) -> None:
        self._descriptor = descriptor
        self._index = index
        self._footer = footer
        self._problems = report.problems
        self._lengths = np.zeros(len(index.line_first), np.int64)

    def _read(self, offset: int, length: int, what: str) -> bytes:
        return unpack_part(os.pread(self._descriptor, length, offset), f"{what} at byte {offset}")

    def check(self) -> None:
        """Note everything that is wrong."""
        index, footer = self._index, self._footer
        self._lines()
        samples = series = 0
        for metric in index.metrics:
            series += len(metric.row)
            samples += int(self._lengths[metric.line].sum())
            for group in range(len(metric.offset)):
                try:
                    self._group(metric, group)
                except FormatError as err:
                    self._problems.append(f"metric {metric.schema.name!r}: {err}")
        times = (int(index.line_first.min()), int(index.line_last.max())) if len(index.line_first) else (0, 0)
        found = (samples, series, *times)
        said = (footer.samples, footer.series, footer.min, footer.max)
        for what, one, other in zip(("samples", "series", "first time", "last time"), found, said, strict=True):
            if one != other and not (self._problems and what == "samples"):
                self._problems.append(f"footer says {other} as {what}, the content {one}")
        self._spans()

    def _lines(self) -> None:
        index = self._index
        lines: list[Timeline] = []
        parts = zip(index.part_first.tolist(), index.part_offset.tolist(), index.part_length.tolist(), strict=True)
        for first, offset, length in parts:
            if first != len(lines):
                self._problems.append(f"a part begins with timeline {first}, not {len(lines)}")
            try:
                lines += Part(self._read(offset, length, "timelines")).lines()
            except FormatError as err:
                self._problems.append(str(err))
                return
        if len(lines) != len(index.line_first):
            self._problems.append(f"{len(lines)} timelines, {len(index.line_first)} in the index")
            return
        for at, line in enumerate(lines):
            times = line.timestamps
            self._lengths[at] = len(times)
            if (np.diff(times) <= 0).any():
                self._problems.append(f"timeline {at}: times do not increase")
            if (times[0], times[-1]) != (index.line_first[at], index.line_last[at]):
                self._problems.append(f"timeline {at}: the index has other times for it")

    def _group(self, metric: MetricEntry, group: int) -> None:
        body = self._read(int(metric.offset[group]), int(metric.length[group]), "row group")
        mine = slice(int(metric.start[group]), int(metric.start[group + 1]))
        lines = metric.line[mine]
        lengths = self._lengths[lines].tolist()
        if metric.kind is ValueKind.HISTOGRAM:
            native = HistogramGroup(body)
            rows = native.rows
            if rows == len(lengths) and [len(native.decode(row)) for row in range(rows)] != lengths:
                raise FormatError(f"group {group}: its rows are not as long as their timelines")
        else:
            floats = Group(body)
            rows = floats.rows
            if max(lengths, default=0) > floats.slots:
                raise FormatError(f"group {group}: {floats.slots} slots for timelines of {max(lengths)}")
            floats.decode()
        if rows != len(lengths):
            raise FormatError(f"group {group}: {rows} rows, {len(lengths)} in the index")
        index = self._index
        times = (index.line_first[lines].min(), index.line_last[lines].max())
        if times != (metric.first[group], metric.last[group]):
            raise FormatError(f"group {group}: the index has other times for it than its timelines")

    def _spans(self) -> None:
        """Every byte belongs to one part."""
        index, footer = self._index, self._footer
        spans = [(0, BLOCK_HEADER.size), (footer.index_offset, footer.index_offset + footer.index_length)]
        arrays = [(m.offset, m.length) for m in index.metrics] + [(index.part_offset, index.part_length)]
        for offsets, lengths in arrays:
            spans += [(at, at + length) for at, length in zip(offsets.tolist(), lengths.tolist(), strict=True)]
        for (_, end), (start, _) in itertools.pairwise(sorted(spans)):
            if end != start:
                what = "belong to no part" if end < start else "belong to two parts"
                self._problems.append(f"bytes {min(end, start)} to {max(end, start)} {what}")


def verify_deletions(name: str, data: bytes) -> Report:
    """The file of deletions."""
    report = Report(name)
    try:
        reader = Reader(unpack_part(data, DELETIONS))
        count = reader.count()
        for _ in range(count):
            Deletion.unpack(reader.take(reader.uvarint()))
        reader.end()
        report.content = f"{count} deletions"
    except FormatError as err:
        report.problems.append(str(err))
    return report
