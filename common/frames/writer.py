"""The edge's frame encoder: `array`, slices and big integers instead of numpy, same body as common.frames.codec."""

import re
import sys
from array import array
from collections.abc import Sequence

from common.errors import FrameError
from common.frames.envelope import LEVEL, pack, record_sections, section, timestamps_section
from common.frames.model import ABSENT, PRESENT, STALE, Correction, FrameKey, Provisional, Section

_GAP = re.compile(b"[^\x01]")
_CELLS = bytes([ABSENT, PRESENT, STALE])


def encode(
    key: FrameKey,
    timestamps: Sequence[int],
    columns: "Sequence[array[float]]",
    presences: Sequence[bytes | None],
    *,
    provisional: Provisional | None = None,
    correction: Correction | None = None,
    level: int = LEVEL,
) -> bytes:
    """A frame of T slots: `columns[t]` holds S values of slot t, `presences[t]` their S states (None: all PRESENT)."""
    rows = len(columns[0]) if columns else 0
    return pack(key, timestamps, rows, encode_body(timestamps, columns, presences, provisional, correction), level)


def encode_body(
    timestamps: Sequence[int],
    columns: "Sequence[array[float]]",
    presences: Sequence[bytes | None],
    provisional: Provisional | None = None,
    correction: Correction | None = None,
) -> bytes:
    """The uncompressed body of that frame."""
    slots = len(timestamps)
    rows = len(columns[0]) if columns else 0
    if len(columns) != slots or len(presences) != slots or any(len(c) != rows for c in columns):
        raise FrameError("as many columns and presences as timestamps are needed, all of one length")
    out = [timestamps_section(timestamps)] if slots else []
    if slots and rows:
        gaps = [[] if p is None else [m.start() for m in _GAP.finditer(p)] for p in presences]
        if any(gaps):
            out.append(section(Section.PRESENCE, _presence(presences, gaps, slots, rows)))
        elif any(p is not None and len(p) != rows for p in presences):
            raise FrameError("as many cell states as values are needed")
        out.append(section(Section.VALUES, _values(columns, gaps, slots, rows)))
    out.append(record_sections(provisional, correction))
    return b"".join(out)


def _presence(presences: Sequence[bytes | None], gaps: list[list[int]], slots: int, rows: int) -> bytes:
    full = bytes([PRESENT]) * rows
    cells = [full if p is None else p for p in presences]
    if any(len(p) != rows or p.translate(None, _CELLS) for p in cells):
        raise FrameError("cell states are 0, 1 or 2, one a value")
    width = (slots + 3) // 4
    patterns: dict[bytes, int] = {}
    index = [0] * rows
    for row in sorted({row for gap in gaps for row in gap}):
        packed = bytearray(width)
        for slot, states in enumerate(cells):
            packed[slot >> 2] |= states[row] << 2 * (slot & 3)
        index[row] = patterns.setdefault(bytes(packed), len(patterns) + 1)
    size = 1 if len(patterns) < 256 else 2 if len(patterns) < 65_536 else 4
    indexes = bytes(index) if size == 1 else b"".join(i.to_bytes(size, "little") for i in index)
    return len(patterns).to_bytes(4, "little") + b"".join(patterns) + indexes


def _values(columns: "Sequence[array[float]]", gaps: list[list[int]], slots: int, rows: int) -> bytes:
    rest = slots - 1
    out = bytearray(1 + 8 * rows * slots)
    base = 1 + 8 * rows
    before = b""
    previous = 0
    for slot, column in enumerate(columns):
        data = _little(column)
        if gaps[slot]:
            # By bytes, not by floats: a float on its way through a 32-bit x87 register would lose a NaN's payload.
            filled = bytearray(data)
            for row in gaps[slot]:
                filled[8 * row : 8 * row + 8] = before[8 * row : 8 * row + 8] or bytes(8)
            data = bytes(filled)
        bits = int.from_bytes(data, "little")
        if slot == 0:
            for plane in range(8):
                out[1 + plane * rows : 1 + (plane + 1) * rows] = data[plane::8]
        else:
            change = (bits ^ previous).to_bytes(8 * rows, "little")
            for plane in range(8):
                start = base + plane * rows * rest
                out[start + slot - 1 : start + rows * rest : rest] = change[plane::8]
        before, previous = data, bits
    return bytes(out)


def _little(column: "array[float]") -> bytes:
    if sys.byteorder == "big":  # pragma: no cover - no Pi is
        column = array("d", column)
        column.byteswap()
    return column.tobytes()
