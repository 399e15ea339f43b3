"""Segments of the edge's log as bytes: header, trailer, and what a possibly damaged file still holds. See FORMAT.md."""

import re
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from common.errors import FrameError
from common.frames.envelope import check
from common.frames.model import Epoch, Flags, FrameHeader, SchemaHash, SourceId
from common.frames.ranges import RangeSet
from common.frames.schema import join_schema, schema_hash, schema_length, split_schema
from common.sample import Millis

HEADER_MAGIC: Final = b"BRl\xb1"
TRAILER_MAGIC: Final = b"BRt\xb1"
END_MAGIC: Final = b"BRe\xb1"
VERSION: Final = 1
PROVISIONAL, CORRECTIONS = 1, 2

_HEADER = struct.Struct("<4sBBHI16sq16s")
_TRAILER = struct.Struct("<4sBBHIIIqq")
_RANGE = struct.Struct("<QQQ")
_COUNT = struct.Struct("<I")
_END = struct.Struct("<I4s")
_ITEM = re.compile(rb"BR[fst]\xb1")
HEADER_SIZE: Final = _HEADER.size
MAX_TRAILER: Final = 16 << 20


def encode_header(source: SourceId, created: int, boot_id: bytes) -> bytes:
    """The first bytes of a segment."""
    head = _HEADER.pack(HEADER_MAGIC, VERSION, 0, 0, 0, source, created, boot_id)
    return head[:8] + zlib.crc32(head).to_bytes(4, "little") + head[12:]


def header_source(data: bytes) -> SourceId | None:
    """The source id in a segment's header, or None where it is damaged or cut."""
    if len(data) < HEADER_SIZE:
        return None
    magic, version, _, _, crc, source, _, _ = _HEADER.unpack_from(data)
    whole = zlib.crc32(data[:8] + bytes(4) + data[12:HEADER_SIZE]) == crc
    return SourceId(source) if whole and magic == HEADER_MAGIC and version == VERSION else None


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a frame lies in its segment."""

    epoch: Epoch
    seq: int
    offset: int
    length: int
    first: Millis
    last: Millis
    provisional: bool

    @classmethod
    def of(cls, header: FrameHeader, offset: int) -> "Entry":
        """The entry of a frame at `offset`."""
        moved = Flags.PROVISIONAL in header.flags
        return cls(header.epoch, header.seq, offset, header.length, header.first, header.last, moved)

    def overlaps(self, start: int, end: int) -> bool:
        """Whether it may hold samples from `start` to `end`: a provisional frame may lie anywhere once corrected."""
        return self.provisional or (self.first <= end and self.last >= start)


@dataclass(slots=True)
class Summary:
    """What a segment holds, as its trailer says it."""

    frames: int = 0
    first: Millis = Millis(2**63 - 1)
    last: Millis = Millis(-(2**63))
    bits: int = 0
    have: dict[Epoch, RangeSet] = field(default_factory=dict)
    schemas: set[SchemaHash] = field(default_factory=set)

    def add(self, header: FrameHeader) -> None:
        """Count one frame."""
        self.frames += 1
        self.have[header.epoch] = self.have.get(header.epoch, RangeSet()).add(header.seq)
        if header.slots:
            self.first = min(self.first, header.first)
            self.last = max(self.last, header.last)
            if Flags.PROVISIONAL in header.flags:
                self.bits |= PROVISIONAL
        else:
            self.bits |= CORRECTIONS

    def overlaps(self, start: int, end: int) -> bool:
        """Whether any frame may hold samples from `start` to `end`."""
        return bool(self.bits & PROVISIONAL) or (self.first <= end and self.last >= start)

    def encode(self) -> bytes:
        """The trailer."""
        ranges = [(epoch, a, b) for epoch, numbers in self.have.items() for a, b in numbers.ranges]
        rest = b"".join(
            (
                _COUNT.pack(len(ranges)),
                *(_RANGE.pack(*item) for item in ranges),
                _COUNT.pack(len(self.schemas)),
                *sorted(self.schemas),
            )
        )
        length = _TRAILER.size + len(rest) + _END.size
        head = _TRAILER.pack(TRAILER_MAGIC, VERSION, 0, self.bits, length, 0, self.frames, self.first, self.last)
        out = head + rest + _END.pack(length, END_MAGIC)
        return out[:12] + zlib.crc32(out).to_bytes(4, "little") + out[16:]


def decode_trailer(data: bytes) -> Summary:
    """The inverse of `Summary.encode`; FrameError for anything else."""
    try:
        magic, version, _, bits, length, crc, frames, first, last = _TRAILER.unpack_from(data)
        if magic != TRAILER_MAGIC or version != VERSION or length != len(data):
            raise FrameError("no trailer")
        if zlib.crc32(data[:12] + bytes(4) + data[16:]) != crc:
            raise FrameError("trailer with a wrong checksum")
        at = _TRAILER.size
        (count,) = _COUNT.unpack_from(data, at)
        at += _COUNT.size
        summary = Summary(frames, Millis(first), Millis(last), bits)
        for _ in range(count):
            epoch, a, b = _RANGE.unpack_from(data, at)
            at += _RANGE.size
            summary.have[Epoch(epoch)] = summary.have.get(Epoch(epoch), RangeSet()).add(a, b)
        (count,) = _COUNT.unpack_from(data, at)
        at += _COUNT.size
        for _ in range(count):
            summary.schemas.add(SchemaHash(data[at : at + 16]))
            at += 16
    except (struct.error, ValueError) as err:
        raise FrameError(f"damaged trailer: {err}") from None
    if at + _END.size != length:
        raise FrameError("damaged trailer: wrong length")
    return summary


def trailer_length(tail: bytes) -> int | None:
    """How long the trailer is that ends with `tail` (at least 8 bytes), None if none does."""
    if len(tail) < _END.size:
        return None
    length, magic = _END.unpack(tail[-_END.size :])
    return int(length) if magic == END_MAGIC and length <= MAX_TRAILER else None


@dataclass(slots=True)
class Scan:
    """What a segment's bytes hold: entries in order, schemas by place, damage.

    `end` is where the last whole item ends; `bad` lists damaged byte ranges before it.
    """

    summary: Summary
    entries: list[Entry]
    schemas: dict[SchemaHash, tuple[int, int]]
    bad: list[tuple[int, int]]
    end: int
    trailer: bool


def scan(data: bytes) -> Scan:
    """Everything readable in a segment; never raises, whatever the bytes are."""
    found = Scan(Summary(), [], {}, [], 0, trailer=False)
    at = HEADER_SIZE if header_source(data) is not None else 0
    found.end = at
    while at < len(data):
        try:
            size = _item(data, at, found)
        except FrameError:
            following = _resync(data, at + 1)
            if following is None:
                break
            found.bad.append((at, following))
            at = following
            continue
        at += size
        found.end = at
    return found


def _item(data: bytes, at: int, found: Scan) -> int:
    magic = data[at : at + 4]
    if magic == b"BRf\xb1":
        header = check(data, at)
        found.entries.append(Entry.of(header, at))
        found.summary.add(header)
        found.trailer = False
        return header.length
    if magic == b"BRs\xb1":
        size = schema_length(data, at)
        digest = schema_hash(data[at : at + size])
        found.schemas[digest] = (at, size)
        found.summary.schemas.add(digest)
        return size
    if magic == TRAILER_MAGIC and len(data) - at >= _TRAILER.size:
        size = _TRAILER.unpack_from(data, at)[4]
        decode_trailer(data[at : at + size])
        found.trailer = True
        return int(size)
    raise FrameError(f"no item at byte {at}")


def _resync(data: bytes, at: int) -> int | None:
    probe = Scan(Summary(), [], {}, [], 0, trailer=False)
    for match in _ITEM.finditer(data, at):
        try:
            _item(data, match.start(), probe)
        except FrameError:
            continue
        return match.start()
    return None


def whole_schema(data: bytes, found: Scan, digest: SchemaHash) -> bytes | None:
    """The schema with all its sub-schemas inline, put together from a segment's schemas; None if parts are missing."""
    place = found.schemas.get(digest)
    if place is None:
        return None
    parts = split_schema(data[place[0] : place[0] + place[1]])
    wanted = {name for name, encoded in parts if encoded is None}
    inline: dict[SchemaHash, bytes] = {}
    for offset, size in found.schemas.values():
        if not wanted:
            break
        for name, encoded in split_schema(data[offset : offset + size]):
            if encoded is not None and name in wanted:
                inline[name] = encoded
                wanted.discard(name)
    if wanted:
        return None
    return join_schema([(name, encoded if encoded is not None else inline[name]) for name, encoded in parts])


def join_have(haves: Iterable[dict[Epoch, RangeSet]]) -> dict[Epoch, RangeSet]:
    """The union, epochs in order of first appearance."""
    out: dict[Epoch, RangeSet] = {}
    for have in haves:
        for epoch, numbers in have.items():
            known = out.get(epoch)
            out[epoch] = numbers if known is None else known.union(numbers)
    return out
