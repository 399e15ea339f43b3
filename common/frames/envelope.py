"""Header, sections, checksum and zstd around a frame's content; used by both encoders, without numpy."""

import itertools
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Final

import zstandard

from common.errors import FrameError
from common.frames.model import (
    HEADER_SIZE,
    MAX_CELLS,
    MAX_FRAME_BYTES,
    NO_SCHEMA,
    Correction,
    Flags,
    FrameHeader,
    FrameKey,
    Provisional,
    Section,
    pack_header,
    read_header,
)
from common.frames.schema import unzstd
from common.frames.varint import Reader, put_varint

LEVEL: Final = 3
RAW: Final = 255
POWERS: Final = tuple(10.0**scale for scale in range(10))
LIMIT: Final = 2.0**53

_SECTION = struct.Struct("<BBBBI")
_BOOT = struct.Struct("<16sq")
_CRITICAL = 1

Buffer = bytes | bytearray | memoryview


def section(kind: Section, payload: Buffer, critical: bool = True, value_kind: int = 0) -> bytes:
    """One section of a body."""
    return _SECTION.pack(kind, value_kind, _CRITICAL if critical else 0, 0, len(payload)) + payload


def timestamps_section(timestamps: Sequence[int]) -> bytes:
    """Section TIMESTAMPS; FrameError unless they strictly increase."""
    out = bytearray()
    previous = 0
    for left, right in itertools.pairwise(timestamps):
        delta = right - left
        if delta <= 0:
            raise FrameError(f"timestamps do not increase: {left}, {right}")
        put_varint(out, delta - previous)
        previous = delta
    return section(Section.TIMESTAMPS, bytes(out))


def read_timestamps(payload: bytes, header: FrameHeader) -> list[int]:
    """The timestamps of a section TIMESTAMPS; FrameError if they disagree with the header."""
    reader = Reader(payload)
    at, delta = int(header.first), 0
    out = [at]
    for _ in range(header.slots - 1):
        delta += reader.varint()
        if delta <= 0:
            raise FrameError("timestamps do not increase")
        at += delta
        out.append(at)
    reader.end()
    if at != header.last:
        raise FrameError(f"last timestamp is {at}, the header says {header.last}")
    return out


def record_sections(provisional: Provisional | None, correction: Correction | None) -> bytes:
    """Sections PROVISIONAL and CORRECTION, where given."""
    out = b""
    if provisional is not None:
        out += section(Section.PROVISIONAL, _BOOT.pack(provisional.boot_id, provisional.monotonic_ms), critical=False)
    if correction is not None:
        out += section(Section.CORRECTION, _BOOT.pack(correction.boot_id, correction.offset_ms), critical=False)
    return out


def read_provisional(payload: Buffer) -> Provisional:
    """The content of a section PROVISIONAL."""
    return Provisional(*_boot(payload))


def read_correction(payload: Buffer) -> Correction:
    """The content of a section CORRECTION."""
    return Correction(*_boot(payload))


def _boot(payload: Buffer) -> tuple[bytes, int]:
    if len(payload) < _BOOT.size:
        raise FrameError("clock record ends too early")
    boot_id, value = _BOOT.unpack_from(payload)
    return boot_id, value


def pack(
    key: FrameKey,
    timestamps: Sequence[int],
    rows: int,
    body: bytes,
    level: int = LEVEL,
    compressor: zstandard.ZstdCompressor | None = None,
) -> bytes:
    """A whole frame around an uncompressed `body`; `compressor` is one of that level, for who makes many frames."""
    slots = len(timestamps)
    if slots * rows > MAX_CELLS or len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"frame of {slots} x {rows} cells; at most {MAX_CELLS} are allowed")
    if (key.schema == NO_SCHEMA) != (rows == 0):
        raise FrameError("a frame has rows if and only if it has a schema")
    packed = (compressor or zstandard.ZstdCompressor(level=level)).compress(body)
    first, last = (timestamps[0], timestamps[-1]) if slots else (0, 0)
    head = pack_header(key, slots, rows, HEADER_SIZE + len(packed), len(body), first, last)
    crc = zlib.crc32(packed, zlib.crc32(head[16:], zlib.crc32(head[:12])))
    return b"".join((head[:12], crc.to_bytes(4, "little"), head[16:], packed))


def check(buffer: Buffer, offset: int = 0) -> FrameHeader:
    """The header of the whole frame at `offset`; FrameError if it is cut or its checksum is wrong."""
    header = read_header(buffer, offset)
    view = memoryview(buffer)[offset : offset + header.length]
    if len(view) < header.length:
        raise FrameError(f"cut inside a frame: {len(view)} of {header.length} bytes")
    if zlib.crc32(view[16:], zlib.crc32(view[:12])) != header.crc:
        raise FrameError(f"frame {header.epoch:016x}/{header.seq} has a wrong checksum")
    return header


def split(buffer: Buffer) -> Iterator[memoryview]:
    """The frames of a stream one by one, not verified; FrameError at the first that does not begin or is cut."""
    view = memoryview(buffer)
    at = 0
    while at < len(view):
        length = read_header(view, at).length
        if at + length > len(view):
            raise FrameError(f"cut inside a frame: {len(view) - at} of {length} bytes")
        yield view[at : at + length]
        at += length


def unpack(buffer: Buffer, offset: int = 0) -> tuple[FrameHeader, bytes]:
    """Header and uncompressed body of the frame at `offset`, all checked."""
    header = check(buffer, offset)
    return header, unzstd(memoryview(buffer)[offset + HEADER_SIZE : offset + header.length], header.body_length)


def sections(body: bytes) -> dict[Section, tuple[int, memoryview]]:
    """Value kind and payload of each known section; FrameError for an unknown critical one or broken lengths."""
    view = memoryview(body)
    found: dict[Section, tuple[int, memoryview]] = {}
    at = last = 0
    while at < len(view):
        if at + _SECTION.size > len(view):
            raise FrameError("cut inside a section header")
        number, kind, bits, reserved, length = _SECTION.unpack_from(view, at)
        at += _SECTION.size
        if reserved or number <= last:
            raise FrameError(f"section {number} after section {last}: not in order")
        last = number
        if at + length > len(view):
            raise FrameError(f"section {number} ends beyond the body")
        try:
            found[Section(number)] = (kind, view[at : at + length])
        except ValueError:
            if bits & _CRITICAL:
                raise FrameError(f"frame needs section type {number}, unknown to this version: update it") from None
        at += length
    return found


def read_records(buffer: Buffer, offset: int = 0) -> tuple[FrameHeader, Provisional | None, Correction | None]:
    """Header and clock records of a frame, without decoding its samples."""
    header, body = unpack(buffer, offset)
    found = sections(body)
    provisional = read_provisional(found[Section.PROVISIONAL][1]) if Section.PROVISIONAL in found else None
    correction = read_correction(found[Section.CORRECTION][1]) if Section.CORRECTION in found else None
    if Flags.PROVISIONAL in header.flags and provisional is None:
        raise FrameError("provisional frame without its clock record")
    return header, provisional, correction
