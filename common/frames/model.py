"""Words of frames and their header, without numpy. FORMAT.md draws the bytes."""

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final, NewType

from common.errors import FrameError
from common.frames.schema import (
    NO_SCHEMA,
    Schema,
    SchemaHash,
    SubSchema,
    decode_schema,
    encode_schema,
)
from common.sample import Millis

__all__ = [
    "ABSENT",
    "FRAME_MAGIC",
    "HEADER_SIZE",
    "MAX_CELLS",
    "MAX_FRAME_BYTES",
    "MAX_U64",
    "MEDIA_TYPE",
    "NO_SCHEMA",
    "PRESENT",
    "STALE",
    "VERSION",
    "Correction",
    "Epoch",
    "Flags",
    "FrameHeader",
    "FrameKey",
    "Provisional",
    "Schema",
    "SchemaHash",
    "Section",
    "SourceId",
    "SubSchema",
    "decode_schema",
    "encode_schema",
    "read_header",
]

SourceId = NewType("SourceId", bytes)
"""16 random bytes that name a device (or any other source) for ever."""

Epoch = NewType("Epoch", int)
"""64 random bits drawn at each start of a log writer and at each clock step."""

VERSION: Final = 1
MEDIA_TYPE: Final = "application/vnd.bramble.frames"
"""Of frames one after the other; with the parameter `version`."""
FRAME_MAGIC: Final = b"BRf\xb1"
HEADER_SIZE: Final = 96
MAX_FRAME_BYTES: Final = 64 << 20
MAX_CELLS: Final = 4 << 20
MAX_U64: Final = 2**64 - 1

ABSENT: Final = 0
PRESENT: Final = 1
STALE: Final = 2

_HEADER = struct.Struct("<4sBBHII16sQQ16sIIIIqq")
assert _HEADER.size == HEADER_SIZE


class Flags(IntFlag):
    """Bits of the header that a reader may ignore."""

    SYNCED = 1
    """The wall clock was synchronised at every slot."""
    PROVISIONAL = 2
    """Timestamps are estimates that a correction may move (section PROVISIONAL)."""


NO_FLAGS: Final = Flags(0)


class Section(IntEnum):
    """Types of sections in a frame's body."""

    TIMESTAMPS = 1
    PRESENCE = 2
    VALUES = 3
    PROVISIONAL = 4
    CORRECTION = 5


@dataclass(frozen=True, slots=True)
class FrameKey:
    """What an encoder is told about a frame besides its content."""

    source: SourceId
    epoch: Epoch
    seq: int
    lane: int
    schema: SchemaHash
    flags: Flags = NO_FLAGS


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """A frame's header; `first` and `last` are its timestamps' bounds (0, 0 without slots)."""

    version: int
    source: SourceId
    epoch: Epoch
    seq: int
    lane: int
    schema: SchemaHash
    slots: int
    rows: int
    flags: Flags
    length: int
    crc: int
    body_length: int
    first: Millis
    last: Millis

    @property
    def key(self) -> FrameKey:
        """The part that an encoder needs."""
        return FrameKey(self.source, self.epoch, self.seq, self.lane, self.schema, self.flags)


@dataclass(frozen=True, slots=True)
class Provisional:
    """When a provisional frame's first slot was sampled: ms on the monotonic clock of boot `boot_id` (16 bytes)."""

    boot_id: bytes
    monotonic_ms: int


@dataclass(frozen=True, slots=True)
class Correction:
    """Wall clock minus monotonic clock of boot `boot_id` (16 bytes), ms, as known once time was synchronised."""

    boot_id: bytes
    offset_ms: int

    def shift(self, provisional: Provisional, first: int) -> int | None:
        """Milliseconds to add to every timestamp of a frame that starts at `first`; None for another boot's."""
        if provisional.boot_id != self.boot_id:
            return None
        return provisional.monotonic_ms + self.offset_ms - first


def pack_header(
    key: FrameKey, slots: int, rows: int, length: int, body_length: int, first: int, last: int, crc: int = 0
) -> bytes:
    """The 96 bytes of a header."""
    try:
        return _HEADER.pack(
            FRAME_MAGIC, VERSION, 0, key.flags, length, crc, key.source, key.epoch, key.seq, key.schema,
            key.lane, slots, rows, body_length, first, last,
        )  # fmt: skip
    except struct.error as err:
        raise FrameError(f"frame header out of range ({err}): {key}") from None


def read_header(buffer: bytes | bytearray | memoryview, offset: int = 0) -> FrameHeader:
    """The header at `offset`; FrameError if none is there, its version is unknown, or a limit is exceeded.

    The checksum is not verified and the frame may be cut: see `common.frames.envelope.check`.
    """
    if len(buffer) - offset < HEADER_SIZE:
        raise FrameError(f"cut inside a frame header at byte {offset}")
    (
        magic, version, reserved, flags, length, crc, source, epoch, seq, schema,
        lane, slots, rows, body_length, first, last,
    ) = _HEADER.unpack_from(buffer, offset)  # fmt: skip
    if magic != FRAME_MAGIC:
        raise FrameError(f"no frame at byte {offset}")
    if version != VERSION or reserved:
        raise FrameError(
            f"frame of format version {version}.{reserved}; this program reads version {VERSION}: update it"
        )
    if not HEADER_SIZE <= length <= MAX_FRAME_BYTES or body_length > MAX_FRAME_BYTES:
        raise FrameError(f"frame at byte {offset} claims {length} bytes ({body_length} unpacked)")
    if slots * rows > MAX_CELLS:
        raise FrameError(f"frame of {slots} x {rows} cells; at most {MAX_CELLS} are allowed")
    return FrameHeader(
        version, SourceId(source), Epoch(epoch), seq, lane, SchemaHash(schema), slots, rows, Flags(flags),
        length, crc, body_length, Millis(first), Millis(last),
    )  # fmt: skip
