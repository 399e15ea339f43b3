"""The edge's frame encoder: `array`, slices and big integers instead of numpy, same body as common.frames.codec."""

import re
import sys
from array import array
from collections.abc import Sequence
from math import copysign

from common.errors import FrameError
from common.frames.envelope import LEVEL, LIMIT, POWERS, RAW, pack, record_sections, section, timestamps_section
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
    filled = _fill(columns, gaps)
    scales = bytearray([RAW]) * rows
    firsts: list[int] = []
    changes: list[int] = []
    raw: list[int] = []
    for row, cells in enumerate(zip(*filled, strict=True)):
        scaled = _scaled(cells)
        if scaled is None:
            raw.append(row)
            continue
        scales[row], integers = scaled
        before = integers[0]
        firsts.append(before << 1 if before >= 0 else ~(before << 1))
        for integer in integers[1:]:
            change = integer - before
            changes.append(change << 1 if change >= 0 else ~(change << 1))
            before = integer
    widths = bytes([_width(firsts), _width(changes)])
    decimal = _planes(firsts, widths[0]) + _planes(changes, widths[1])
    return b"".join((b"\0", scales, widths, decimal, _raw(filled, raw, slots)))


def _fill(columns: "Sequence[array[float]]", gaps: list[list[int]]) -> "list[array[float]]":
    out: list[array[float]] = []
    for column, gap in zip(columns, gaps, strict=True):
        if gap:
            # By bytes, not by floats: a float on its way through a 32-bit x87 register would lose a NaN's payload.
            data = bytearray(column.tobytes())
            before = out[-1].tobytes() if out else bytes(len(data))
            for row in gap:
                data[8 * row : 8 * row + 8] = before[8 * row : 8 * row + 8]
            column = array("d")
            column.frombytes(data)
        out.append(column)
    return out


def _scaled(cells: tuple[float, ...]) -> tuple[int, list[int]] | None:
    """Scale and integers of a decimal row, None for a raw one."""
    first = cells[0]
    if first == 0.0 and any(cell == 0.0 and copysign(1.0, cell) < 0 for cell in cells):
        return None
    constant = cells.count(first) == len(cells)
    for scale, power in enumerate(POWERS):
        integers = []
        for cell in cells[:1] if constant else cells:
            product = cell * power
            if not -LIMIT < product < LIMIT:
                return None
            integer = round(product)
            if integer / power != cell:
                break
            if not integer and copysign(1.0, cell) < 0:
                return None
            integers.append(integer)
        else:
            return scale, integers * len(cells) if constant else integers
    return None


def _width(numbers: list[int]) -> int:
    return (max(numbers, default=0).bit_length() + 7) // 8


def _planes(numbers: list[int], width: int) -> bytes:
    data = _little(array("Q", numbers))
    return b"".join(data[plane::8] for plane in range(width))


def _raw(columns: "Sequence[array[float]]", rows: list[int], slots: int) -> bytes:
    if not rows:
        return b""
    count, rest = len(rows), slots - 1
    out = bytearray(8 * count * slots)
    previous = 0
    for slot, column in enumerate(columns):
        data = _little(column)
        data = b"".join([data[8 * row : 8 * row + 8] for row in rows])
        bits = int.from_bytes(data, "little")
        if slot == 0:
            for plane in range(8):
                out[plane * count : (plane + 1) * count] = data[plane::8]
        else:
            change = (bits ^ previous).to_bytes(8 * count, "little")
            for plane in range(8):
                start = 8 * count + plane * count * rest
                out[start + slot - 1 : start + count * rest : rest] = change[plane::8]
        previous = bits
    return bytes(out)


def _little(numbers: "array[float] | array[int]") -> bytes:
    if sys.byteorder == "big":  # pragma: no cover - no Pi is
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()
