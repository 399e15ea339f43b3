"""The row encodings of row groups: float64 [R, T] to bytes and back, in a handful of array calls. Pure; see FORMAT.md.

Each row gets the encoding that suits it: constant, decimal-scaled integers, or float bits. Bytes of equal significance
stand together ("planes"), so that a general compressor finds little left to say about most of them.
"""

import struct
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from common.errors import FormatError
from common.tsdb.ints import joined, unfolded

CONSTANT: Final = 0
DECIMAL: Final = 1 << 5
FLOAT: Final = 2 << 5
HAS_NAN: Final = 1 << 7
SIGNED: Final = 1 << 4
FAMILY: Final = 3 << 5
"""Bits that hold CONSTANT, DECIMAL or FLOAT."""
MAX_SCALE: Final = 15
MAX_CELLS: Final = 1 << 22

HEADER = struct.Struct("<II")
POWERS = 10.0 ** np.arange(MAX_SCALE + 1)
_PROBE = 16
_EXACT = float(1 << 53)


def encode_rows(values: NDArray[np.float64]) -> bytes:
    """Bytes of R x T values, T >= 1; every bit of every value survives, but NaNs all become one NaN."""
    values = np.ascontiguousarray(values, np.float64)
    rows, slots = values.shape
    codes = np.zeros(rows, np.uint8)
    scales = np.zeros(rows, np.uint8)
    values, nan_rows, bitmap = _split_nan(values)
    bits = values.view(np.int64)
    integers = bits.copy()
    varying = np.flatnonzero((bits != bits[:, :1]).any(axis=1))
    codes[varying] = FLOAT
    decimal, scale, scaled = _decimals(values, varying)
    codes[decimal] = DECIMAL
    scales[decimal] = scale
    integers[decimal] = scaled

    words = np.zeros((rows, slots), np.uint64)
    seconds = np.zeros(rows, np.int64)
    if len(varying) and slots > 1:
        _differences(integers, varying, codes, words, seconds)
    out = [HEADER.pack(rows, slots)]
    flagged = codes.copy()
    flagged[nan_rows] |= HAS_NAN
    out += [flagged.tobytes(), scales.tobytes(), _planes(integers[:, 0].view(np.uint64), 8)]
    out.append(_planes(seconds[(codes & 3) == 2].view(np.uint64), 8))
    for code in np.unique(codes[varying]).tolist():
        mine = np.flatnonzero(codes == code)
        skip = 2 if code & 3 == 2 else 1
        out.append(_planes(words[mine, skip:].reshape(-1), 1 << (code >> 2 & 3)))
    out.append(bitmap)
    return b"".join(out)


def _split_nan(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.intp], bytes]:
    """Values with each NaN replaced by the value before it, which rows had any, and where."""
    nan = np.isnan(values)
    rows = np.flatnonzero(nan.any(axis=1))
    if not len(rows):
        return values, rows, b""
    values = values.copy()
    where = np.where(nan[rows], 0, np.arange(1, values.shape[1] + 1))
    np.maximum.accumulate(where, axis=1, out=where)
    padded = np.concatenate((np.zeros((len(rows), 1)), values[rows]), axis=1)
    values[rows] = np.take_along_axis(padded, where, axis=1)
    return values, rows, np.packbits(nan[rows], axis=1, bitorder="little").tobytes()


def _decimals(
    values: NDArray[np.float64], candidates: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.uint8], NDArray[np.int64]]:
    """Which candidate rows are integers over a power of ten exactly, the smallest such power, and the integers."""
    some = values[candidates]
    fit = np.isfinite(some).all(axis=1) & ~((some == 0) & np.signbit(some)).any(axis=1)
    left = candidates[fit]
    found, scales, integers = [], [], []
    for scale in range(MAX_SCALE + 1):
        if not len(left):
            break
        # A few values decide about most rows that don't fit.
        _, good = _scaled(values[left, :_PROBE], scale)
        maybe = np.flatnonzero(good)
        if not len(maybe):
            continue
        scaled, good = _scaled(values[left[maybe]], scale)
        hit = maybe[good]
        if len(hit):
            found.append(left[hit])
            scales.append(np.full(len(hit), scale, np.uint8))
            integers.append(scaled[good].astype(np.int64))
            left = np.delete(left, hit)
    if not found:
        return candidates[:0], np.empty(0, np.uint8), np.empty((0, values.shape[1]), np.int64)
    return np.concatenate(found), np.concatenate(scales), np.concatenate(integers)


def _scaled(values: NDArray[np.float64], scale: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    power = POWERS[scale]
    with np.errstate(over="ignore"):
        scaled = np.rint(values * power)
    return scaled, ((scaled / power == values) & (np.abs(scaled) < _EXACT)).all(axis=1)


def _differences(
    integers: NDArray[np.int64],
    varying: NDArray[np.intp],
    codes: NDArray[np.uint8],
    words: NDArray[np.uint64],
    seconds: NDArray[np.int64],
) -> None:
    """Choose order, sign and width of each varying row; fill `words`, `seconds` and the low bits of `codes`."""
    numbers = integers[varying]
    first = np.diff(numbers, axis=1)
    orders = [numbers[:, 1:] - numbers[:, :1], first]
    if numbers.shape[1] > 2:
        orders.append(np.diff(first, axis=1))
    cost = np.stack([np.log2(np.abs(d.astype(np.float64)) + 1).sum(axis=1) for d in orders])
    # Second differences have to earn their place: they double the noise.
    best = cost.argmin(axis=0)
    for order, each in enumerate(orders):
        mine = np.flatnonzero(best == order)
        if not len(mine):
            continue
        chosen = each[mine]
        negative = np.less(chosen, 0).any(axis=1)
        unsigned = chosen.view(np.uint64)
        zigzag = ((chosen << 1) ^ (chosen >> 63)).view(np.uint64)
        coded = np.where(negative[:, None], zigzag, unsigned)
        top = coded.max(axis=1)
        width = (top >= 1 << 8).astype(np.uint8) + (top >= 1 << 16) + (top >= 1 << 32)
        rows = varying[mine]
        codes[rows] |= (order | width << 2 | np.where(negative, SIGNED, 0)).astype(np.uint8)
        words[rows, numbers.shape[1] - each.shape[1] :] = coded
        if order == 2:
            seconds[rows] = first[mine, 0]


def _planes(words: NDArray[np.uint64], width: int) -> bytes:
    return np.ascontiguousarray(words).astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width].T.tobytes()


def code_text(code: int) -> str:
    """A code in words, without its bit for NaNs: `decimal, 2 bytes, differences`."""
    if not code & FAMILY:
        return "constant"
    orders = ("from the first", "differences", "differences of differences")
    family = "decimal" if code & FAMILY == DECIMAL else "float bits"
    size = 1 << (code >> 2 & 3)
    return f"{family}, {size} byte{'s' if size > 1 else ''}, {orders[min(code & 3, 2)]}"


class Group:
    """An encoded group, opened: rows can be decoded one, some or all."""

    __slots__ = (
        "_body", "_classes", "_codes", "_first", "_nan_at", "_nan_of", "_place", "_scales", "_seconds", "rows", "slots"
    )  # fmt: skip

    def __init__(self, body: bytes) -> None:
        """Open what `encode_rows` wrote; FormatError if the lengths don't add up."""
        if len(body) < HEADER.size:
            raise FormatError("row group ends inside its header")
        rows, slots = HEADER.unpack_from(body)
        at = HEADER.size
        if not slots or rows * slots > MAX_CELLS or len(body) < at + 10 * rows:
            raise FormatError(f"row group of {rows} x {slots} cells in {len(body)} bytes")
        self.rows: int = rows
        self.slots: int = slots
        self._body = np.frombuffer(body, np.uint8)
        flagged = self._body[at : at + rows]
        self._codes = flagged & 0x7F
        self._scales = self._body[at + rows : at + 2 * rows]
        at += 2 * rows
        self._first = self._column(at, rows)
        at += 8 * rows
        counts = np.bincount(self._codes, minlength=128)
        order = np.argsort(self._codes, kind="stable")
        # Which row of its class each row is.
        place = np.empty(rows, np.intp)
        place[order] = np.arange(rows) - np.repeat(np.cumsum(counts) - counts, counts)
        second = np.flatnonzero((self._codes & 3) == 2)
        self._seconds = np.zeros(rows, np.int64)
        if len(body) < at + 8 * len(second):
            raise FormatError("row group is cut")
        self._seconds[second] = self._column(at, len(second))
        at += 8 * len(second)
        self._place = place
        self._classes: dict[int, NDArray[np.uint8]] = {}
        for code in np.flatnonzero(counts).tolist():
            if not code & FAMILY:
                continue
            mine = int(counts[code])
            width, wide = 1 << (code >> 2 & 3), slots - (2 if code & 3 == 2 else 1)
            size = width * mine * wide
            if len(body) < at + size:
                raise FormatError("row group is cut")
            self._classes[code] = self._body[at : at + size].reshape(width, mine, wide)
            at += size
        marked = np.flatnonzero(flagged & HAS_NAN)
        self._nan_of = np.full(rows, -1, np.intp)
        self._nan_of[marked] = np.arange(len(marked))
        self._nan_at = at
        if len(body) != at + len(marked) * ((slots + 7) // 8):
            raise FormatError(f"row group has {len(body)} bytes instead of {at + len(marked) * ((slots + 7) // 8)}")

    @property
    def codes(self) -> NDArray[np.integer]:
        """The code of each row, without its bit for NaNs."""
        return self._codes

    def _column(self, at: int, count: int) -> NDArray[np.int64]:
        planes = self._body[at : at + 8 * count].reshape(8, count)
        return np.ascontiguousarray(planes.T).view("<i8").reshape(count)

    @property
    def size(self) -> int:
        """Bytes held."""
        return len(self._body) + 40 * self.rows

    def decode(
        self, rows: NDArray[np.intp] | None = None, low: int = 0, high: int | None = None
    ) -> NDArray[np.float64]:
        """Values float64 [len(rows), high - low] of some rows, or of all, from slot `low` to `high` (exclusive)."""
        rows = np.arange(self.rows) if rows is None else rows
        high = self.slots if high is None else min(high, self.slots)
        codes = self._codes[rows]
        out = np.empty((len(rows), high - low))
        bits = out.view(np.int64)
        for code in set(codes.tolist()):
            # Mostly a few rows of one kind: what a numpy call costs counts.
            mine = np.flatnonzero(codes == code)
            chosen = rows[mine]
            if code & FAMILY == CONSTANT:
                bits[mine] = self._first[chosen, None]
                continue
            numbers = self._numbers(code, self._place[chosen], chosen, high)[:, low:]
            if code & FAMILY == FLOAT:
                bits[mine] = numbers
                continue
            scales = self._scales[chosen]
            if scales.any():
                out[mine] = numbers / POWERS[scales][:, None]
            else:
                out[mine] = numbers
        marked = np.flatnonzero(self._nan_of[rows] >= 0) if self._nan_at < len(self._body) else ()
        if len(marked):
            width = (self.slots + 7) // 8
            maps = self._body[self._nan_at :].reshape(-1, width)[self._nan_of[rows[marked]]]
            nan = np.unpackbits(maps, axis=1, count=high, bitorder="little")[:, low:].astype(np.bool_)
            some = out[marked]
            some[nan] = np.nan
            out[marked] = some
        return out

    def _numbers(self, code: int, place: NDArray[np.intp], rows: NDArray[np.intp], slots: int) -> NDArray[np.int64]:
        """The integers of rows of one class: int64 [len(rows), slots]."""
        words = max(0, slots - (2 if code & 3 == 2 else 1))
        numbers = integers(code, [plane[place, :words] for plane in self._classes[code]])
        return summed(code, self._first[rows], self._seconds[rows], numbers, slots)


def integers(code: int, planes: Sequence[NDArray[np.uint8]]) -> NDArray[np.signedinteger]:
    """Words of rows with a code from their planes, uint8 [R, words] each, the lowest first."""
    # As narrow as they are until they are summed up.
    words = joined(planes)
    return unfolded(words) if code & SIGNED else words.astype(np.int64)


def summed(
    code: int,
    first: NDArray[np.int64],
    second: NDArray[np.int64] | None,
    numbers: NDArray[np.signedinteger],
    slots: int,
) -> NDArray[np.int64]:
    """The integers of rows in their first `slots` slots: int64 [R, slots]; order 2 has a `second`."""
    order = code & 3
    out = np.empty((len(first), slots), np.int64)
    out[:, 0] = first
    if order == 0:
        out[:, 1:] = numbers + first[:, None]
    elif order == 1:
        out[:, 1:] = numbers
        np.cumsum(out, axis=1, out=out)
    elif slots > 1:
        assert second is not None
        out[:, 1] = second
        out[:, 2:] = numbers
        np.cumsum(out[:, 1:], axis=1, out=out[:, 1:])
        np.cumsum(out, axis=1, out=out)
    return out
