"""Frames as numpy arrays: what the hub and the readers of a log use. FORMAT.md draws the bytes."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import zstandard
from numpy.typing import NDArray

from common.errors import FrameError
from common.frames.envelope import (
    LEVEL,
    LIMIT,
    POWERS,
    RAW,
    Buffer,
    pack,
    read_correction,
    read_provisional,
    read_timestamps,
    record_sections,
    section,
    sections,
    timestamps_section,
    unpack,
)
from common.frames.model import (
    ABSENT,
    HEADER_SIZE,
    PRESENT,
    STALE,
    Correction,
    Flags,
    FrameHeader,
    FrameKey,
    Provisional,
    Section,
)

BATCH_CELLS = 1 << 16
"""Cells that are encoded together: few enough for the processor's caches, and for other threads not to wait long."""

_ONE_TIME = timestamps_section([0])
_F64 = np.dtype("<f8")
_U64 = np.dtype("<u8")
_POWERS = np.array(POWERS)
_FRACTIONAL = _POWERS[1:]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A decoded frame: timestamps int64 [T], values float64 [S, T], presence uint8 [S, T] (None: all PRESENT).

    The value of a cell that is not PRESENT repeats the one before it in its row (0 at first) and means nothing.
    """

    header: FrameHeader
    timestamps: NDArray[np.int64]
    values: NDArray[np.float64]
    presence: NDArray[np.uint8] | None
    provisional: Provisional | None = None
    correction: Correction | None = None

    @property
    def cells(self) -> NDArray[np.uint8]:
        """`presence`, made where it is None."""
        return np.full(self.values.shape, PRESENT, np.uint8) if self.presence is None else self.presence


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """What is to be a frame of one slot: values float64 [S], presence uint8 [S] (None: all PRESENT)."""

    key: FrameKey
    timestamp: int
    values: NDArray[np.float64]
    presence: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        """Bytes that the frame has at most, or nearly so."""
        return HEADER_SIZE + 64 + 10 * len(self.values)


def encode(
    key: FrameKey,
    timestamps: Sequence[int] | NDArray[np.int64],
    values: NDArray[np.float64],
    presence: NDArray[np.uint8] | None = None,
    *,
    provisional: Provisional | None = None,
    correction: Correction | None = None,
    level: int = LEVEL,
) -> bytes:
    """A frame of values float64 [S, T] at T strictly increasing ms; presence uint8 [S, T] (None: all PRESENT)."""
    times = [int(t) for t in timestamps]
    body = encode_body(times, values, presence, provisional, correction)
    return pack(key, times, len(values) if times else 0, body, level)


def encode_body(
    timestamps: Sequence[int],
    values: NDArray[np.float64],
    presence: NDArray[np.uint8] | None = None,
    provisional: Provisional | None = None,
    correction: Correction | None = None,
) -> bytes:
    """The uncompressed body of that frame."""
    if not timestamps:
        return record_sections(provisional, correction)
    if (
        values.ndim != 2
        or values.shape[1] != len(timestamps)
        or (presence is not None and presence.shape != values.shape)
    ):
        raise FrameError("values and presence need the shape [rows, timestamps]")
    out = [timestamps_section(timestamps)]
    if values.size:
        bits = np.ascontiguousarray(values, _F64).view(_U64)
        if presence is not None and not (presence == PRESENT).all():
            if presence.max() > STALE:
                raise FrameError("cell states are 0, 1 or 2, one a value")
            out.append(section(Section.PRESENCE, _encode_presence(presence)))
            bits = _fill(bits, presence)
        out.append(section(Section.VALUES, _encode_values(bits)))
    out.append(record_sections(provisional, correction))
    return b"".join(out)


def encode_slots(slots: Sequence[Slot]) -> list[bytes]:
    """The frames that `encode` makes of some slots, one each and byte by byte, in far fewer array calls."""
    compressor = zstandard.ZstdCompressor(level=LEVEL)
    out: list[bytes] = []
    for some in _batches(slots):
        plain = [slot.values for slot in some if slot.presence is None and len(slot.values)]
        bodies = iter(_slot_values(plain))
        for slot in some:
            if slot.presence is not None or not len(slot.values):
                cells = None if slot.presence is None else slot.presence[:, None]
                body = encode_body([slot.timestamp], slot.values[:, None], cells)
            else:
                body = _ONE_TIME + section(Section.VALUES, next(bodies))
            out.append(pack(slot.key, [slot.timestamp], len(slot.values), body, compressor=compressor))
    return out


def _batches(slots: Sequence[Slot]) -> Iterator[list[Slot]]:
    """Slots in runs of not many more than BATCH_CELLS."""
    some: list[Slot] = []
    cells = 0
    for slot in slots:
        some.append(slot)
        cells += len(slot.values)
        if cells >= BATCH_CELLS:
            yield some
            some, cells = [], 0
    if some:
        yield some


def _slot_values(rows: Sequence[NDArray[np.float64]]) -> Iterator[bytes]:
    """Content of the section VALUES of single slots, each with one value at least."""
    if not rows:
        return
    flat = np.concatenate(rows)
    scales, integers = _scales_of_one(flat)
    raw = scales == RAW
    first = _zigzag(integers)
    bits = flat.astype(_F64, copy=False).view(_U64)
    ends = np.cumsum([len(values) for values in rows])
    starts = ends - [len(values) for values in rows]
    tops = np.maximum.reduceat(first, starts).tolist()
    odd = np.add.reduceat(raw, starts, dtype=np.intp).tolist()
    for begin, end, top, count in zip(starts.tolist(), ends.tolist(), tops, odd, strict=True):
        width = (top.bit_length() + 7) // 8
        mine, rest = first[begin:end], b""
        if count:
            some = raw[begin:end]
            mine, rest = mine[~some], _planes(bits[begin:end][some], 8)
        yield b"".join((b"\0", scales[begin:end].tobytes(), bytes([width, 0]), _planes(mine, width), rest))


def decode(buffer: Buffer, offset: int = 0) -> Frame:
    """The frame at `offset`; FrameError for anything damaged, cut, or written by a later version."""
    header, body = unpack(buffer, offset)
    return decode_body(header, body)


def decode_body(header: FrameHeader, body: bytes) -> Frame:
    """The frame of a header and its uncompressed body."""
    found = sections(body)
    slots, rows = header.slots, header.rows
    provisional = read_provisional(found[Section.PROVISIONAL][1]) if Section.PROVISIONAL in found else None
    correction = read_correction(found[Section.CORRECTION][1]) if Section.CORRECTION in found else None
    if Flags.PROVISIONAL in header.flags and provisional is None:
        raise FrameError("provisional frame without its clock record")
    if not slots:
        return Frame(header, np.empty(0, np.int64), np.empty((0, 0)), None, provisional, correction)
    if Section.TIMESTAMPS not in found or (rows and Section.VALUES not in found):
        raise FrameError("frame without timestamps or values")
    try:
        timestamps = np.array(read_timestamps(bytes(found[Section.TIMESTAMPS][1]), header), np.int64)
    except OverflowError:
        raise FrameError("timestamps beyond 64 bits") from None
    values = _decode_values(*found[Section.VALUES], rows, slots) if rows else np.empty((0, slots))
    presence = None
    if Section.PRESENCE in found:
        presence = _decode_presence(found[Section.PRESENCE][1], rows, slots)
    return Frame(header, timestamps, values, presence, provisional, correction)


def _scales(values: NDArray[np.float64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The scale of each row (RAW where it isn't decimal), and the integers of the decimal rows in order."""
    if values.shape[1] == 1:
        scales, whole = _scales_of_one(values[:, 0])
        return scales, whole[scales != RAW, None]
    scales = np.full(len(values), RAW, np.uint8)
    integers = np.zeros(values.shape, np.int64)
    left = np.flatnonzero(~(np.signbit(values) & (values == 0)).any(axis=1))
    with np.errstate(invalid="ignore", over="ignore"):
        for scale, power in enumerate(POWERS):
            if not len(left):
                break
            cells = values[left]
            products = cells * power
            small = (np.abs(products) < LIMIT).all(axis=1)
            if not small.all():
                left, cells, products = left[small], cells[small], products[small]
            rounded = np.rint(products)
            exact = (rounded / power == cells).all(axis=1)
            scales[left[exact]] = scale
            integers[left[exact]] = rounded[exact]
            left = left[~exact]
    return scales, integers[scales != RAW]


def _scales_of_one(values: NDArray[np.float64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Scale and integer (0 where it isn't decimal) of each of N cells: all powers at once, in few calls of numpy."""
    scales = np.full(len(values), RAW, np.uint8)
    integers = np.zeros(len(values), np.int64)
    with np.errstate(invalid="ignore", over="ignore"):
        rounded = np.rint(values)
        usable = (np.abs(values) < LIMIT) & ~((values == 0) & np.signbit(values))
        whole = (rounded == values) & usable
        scales[whole] = 0
        integers[whole] = rounded[whole]
        left = np.flatnonzero(usable & ~whole)
        if len(left):
            cells = values[left, None]
            products = cells * _FRACTIONAL
            rounded = np.rint(products)
            exact = (rounded / _FRACTIONAL == cells) & (np.abs(products) < LIMIT)
            first = exact.argmax(axis=1)
            decimal = np.flatnonzero(exact[np.arange(len(left)), first])
            found = left[decimal]
            scales[found] = first[decimal] + 1
            integers[found] = rounded[decimal, first[decimal]]
    return scales, integers


def _encode_values(bits: NDArray[np.uint64]) -> bytes:
    scales, integers = _scales(bits.view(_F64))
    first, changes = _zigzag(integers[:, 0]), _zigzag(np.diff(integers, axis=1))
    widths = bytes([_width(first), _width(changes)])
    raw = bits[scales == RAW]
    return b"".join(
        (
            b"\0",
            scales.tobytes(),
            widths,
            _planes(first, widths[0]),
            _planes(changes, widths[1]),
            _planes(raw[:, 0], 8),
            _planes(raw[:, 1:] ^ raw[:, :-1], 8),
        )
    )


def _zigzag(numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    return ((numbers << 1) ^ (numbers >> 63)).view(_U64)


def _unzigzag(numbers: NDArray[np.uint64]) -> NDArray[np.int64]:
    return (numbers >> np.uint64(1)).view(np.int64) ^ -(numbers & np.uint64(1)).view(np.int64)


def _width(numbers: NDArray[np.uint64]) -> int:
    return (int(numbers.max(initial=0)).bit_length() + 7) // 8


def _planes(numbers: NDArray[np.uint64], width: int) -> bytes:
    return np.ascontiguousarray(numbers).view(np.uint8).reshape(-1, 8)[:, :width].T.tobytes()


def _unplane(data: memoryview, count: int, width: int) -> NDArray[np.uint64]:
    out = np.zeros((count, 8), np.uint8)
    out[:, :width] = np.frombuffer(data, np.uint8).reshape(width, count).T
    return out.view(_U64).reshape(count)


def _fill(bits: NDArray[np.uint64], presence: NDArray[np.uint8]) -> NDArray[np.uint64]:
    here = presence == PRESENT
    source = np.where(here, np.arange(1, bits.shape[1] + 1), 0)
    np.maximum.accumulate(source, axis=1, out=source)
    padded = np.concatenate((np.zeros((len(bits), 1), _U64), bits), axis=1)
    return np.take_along_axis(padded, source, axis=1)


def _decode_values(kind: int, payload: memoryview, rows: int, slots: int) -> NDArray[np.float64]:
    if kind != 0:
        raise FrameError(f"values of kind {kind}; this version reads floats (0): update it")
    if not payload or payload[0] != 0:
        raise FrameError("values of an unknown encoding: update this program")
    rest = slots - 1
    if len(payload) < rows + 3:
        raise FrameError("values end too early")
    scales = np.frombuffer(payload[1 : rows + 1], np.uint8)
    raw = scales == RAW
    decimal = rows - int(np.count_nonzero(raw))
    widths = payload[rows + 1], payload[rows + 2]
    sizes = [decimal * widths[0], decimal * rest * widths[1], 8 * (rows - decimal), 8 * (rows - decimal) * rest]
    if max(widths) > 8 or len(payload) != rows + 3 + sum(sizes):
        raise FrameError(f"{len(payload)} bytes of values for {rows} x {slots} cells")
    if scales[~raw].max(initial=0) >= len(POWERS):
        raise FrameError("values with an unknown scale")
    at = np.cumsum([rows + 3, *sizes])
    parts = [payload[a:b] for a, b in itertools.pairwise(at.tolist())]
    bits: NDArray[np.uint64] | None = None
    if decimal < rows:
        bits = np.empty((rows - decimal, slots), _U64)
        bits[:, 0] = _unplane(parts[2], rows - decimal, 8)
        if rest:
            bits[:, 1:] = _unplane(parts[3], (rows - decimal) * rest, 8).reshape(-1, rest)
            np.bitwise_xor.accumulate(bits, axis=1, out=bits)
        if not decimal:
            return bits.view(_F64)
    integers = np.empty((decimal, slots), np.int64)
    integers[:, 0] = _unzigzag(_unplane(parts[0], decimal, widths[0]))
    if rest:
        integers[:, 1:] = _unzigzag(_unplane(parts[1], decimal * rest, widths[1])).reshape(-1, rest)
        np.cumsum(integers, axis=1, out=integers)
    values = np.empty((rows, slots), _F64)
    if bits is None:
        np.divide(integers, _POWERS[scales][:, None], out=values)
    else:
        values[raw] = bits.view(_F64)
        values[~raw] = integers / _POWERS[scales[~raw]][:, None]
    return values


def _encode_presence(presence: NDArray[np.uint8]) -> bytes:
    rows, slots = presence.shape
    width = (slots + 3) // 4
    padded = np.zeros((rows, 4 * width), np.uint8)
    padded[:, :slots] = presence
    quads = padded.reshape(rows, width, 4)
    packed = quads[:, :, 0] | quads[:, :, 1] << 2 | quads[:, :, 2] << 4 | quads[:, :, 3] << 6
    patterns: dict[bytes, int] = {}
    index = np.zeros(rows, np.uint32)
    gaps = np.flatnonzero((presence != PRESENT).any(axis=1))
    data = packed.tobytes()
    for row in gaps.tolist():
        index[row] = patterns.setdefault(data[row * width : (row + 1) * width], len(patterns) + 1)
    return len(patterns).to_bytes(4, "little") + b"".join(patterns) + index.astype(_index_type(len(patterns))).tobytes()


def _index_type(patterns: int) -> str:
    return "u1" if patterns < 256 else "<u2" if patterns < 65_536 else "<u4"


def _decode_presence(payload: memoryview, rows: int, slots: int) -> NDArray[np.uint8]:
    if len(payload) < 4:
        raise FrameError("presence ends too early")
    count = int.from_bytes(payload[:4], "little")
    width = (slots + 3) // 4
    kind = np.dtype(_index_type(count))
    if count > rows or len(payload) != 4 + count * width + rows * kind.itemsize:
        raise FrameError(f"{len(payload)} bytes of presence for {count} patterns, {rows} x {slots} cells")
    packed = np.frombuffer(payload[4 : 4 + count * width], np.uint8).reshape(count, width)
    index = np.frombuffer(payload[4 + count * width :], kind)
    cells = np.full((count + 1, 4 * width), PRESENT, np.uint8)
    for shift in range(4):
        cells[1:, shift::4] = packed >> 2 * shift & 3
    cells = cells[:, :slots]
    if cells.max(initial=ABSENT) > STALE or index.max(initial=0) > count:
        raise FrameError("presence with an unknown cell state or pattern")
    return np.ascontiguousarray(cells[index])
