"""Some cells of some rows of many row groups, decoded by as few array calls as those of one. Pure; see FORMAT.md."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from common.errors import FormatError
from common.tsdb.rows import (
    CONSTANT,
    FAMILY,
    FLOAT,
    HAS_NAN,
    HEADER,
    MAX_CELLS,
    POWERS,
    integers,
    summed,
)

_CODES: Final = np.arange(128)
_SKIPPED: Final = np.where(_CODES & 3 == 2, 2, 1)
"""By code: cells of a row that have no word."""
_WIDTH: Final = np.where(_CODES & FAMILY, 1 << (_CODES >> 2 & 3), 0)
"""By code: bytes of a word."""


def excerpt(
    bodies: Sequence[bytes], group_of: NDArray[np.intp], members: NDArray[np.intp], low: int, high: int
) -> NDArray[np.float64]:
    """Cells `low` to `high` (exclusive) of rows `members[i]` of groups `bodies[group_of[i]]`: float64 [R, high - low].

    Behind the last slot of its group a row has zeros. FormatError if a group is damaged.
    """
    many = len(bodies)
    sizes = np.array([len(body) for body in bodies])
    if sizes.min() < HEADER.size:
        raise FormatError("row group ends inside its header")
    rows, slots = np.array([HEADER.unpack_from(body) for body in bodies], np.int64).T
    if not slots.all() or (rows * slots > MAX_CELLS).any() or (sizes < HEADER.size + 10 * rows).any():
        raise FormatError("row groups don't have the cells that they claim")
    # Windows of as many bytes as are wanted may begin anywhere in the last one.
    data = np.frombuffer(b"".join([*bodies, bytes(high)]), np.uint8)
    codes_at = np.cumsum(sizes) - sizes + HEADER.size
    flagged = np.frombuffer(
        b"".join([b[HEADER.size : HEADER.size + n] for b, n in zip(bodies, rows.tolist(), strict=True)]), np.uint8
    )
    # Rows of all groups are numbered, and so are classes: rows of one group and one code.
    row_at = np.cumsum(rows) - rows
    classes = (flagged & 0x7F) + np.repeat(np.arange(many) << 7, rows)
    counts = np.bincount(classes, minlength=many << 7)
    place = np.empty(len(classes), np.intp)
    place[np.argsort(classes, kind="stable")] = np.arange(len(classes)) - np.repeat(np.cumsum(counts) - counts, counts)
    counts = counts.reshape(many, 128)
    twice = _Marks(classes & 3 == 2, row_at)
    nan = _Marks(flagged >= HAS_NAN, row_at)
    seconds_at = codes_at + 10 * rows
    table = counts * _WIDTH * (slots[:, None] - _SKIPPED)
    words_at = (seconds_at + 8 * twice.count)[:, None] + np.cumsum(table, axis=1)
    maps_at, map_size = words_at[:, -1], (slots + 7) // 8
    words_at -= table
    if (maps_at + nan.count * map_size != np.cumsum(sizes)).any():
        raise FormatError("row groups don't have the bytes that they claim")

    wanted = row_at[group_of] + members
    codes = flagged[wanted] & 0x7F
    height, at = rows[group_of], codes_at[group_of] + members
    first = _column(data, at + 2 * height, height)
    out = np.empty((len(members), high - low))
    bits = out.view(np.int64)
    kinds = set(codes.tolist())
    for code in kinds:
        some = np.flatnonzero(codes == code) if len(kinds) > 1 else np.arange(len(codes))
        if code & FAMILY == CONSTANT:
            bits[some] = first[some, None]
            continue
        group, row = group_of[some], wanted[some]
        second = None
        if code & 3 == 2:
            second = _column(data, seconds_at[group] + twice.place(row, group), twice.count[group])
        wide = slots[group] - _SKIPPED[code]
        words = _windows(data, max(0, high - int(_SKIPPED[code])))
        begin, plane = words_at[group, code] + place[row] * wide, counts[group, code] * wide
        numbers = integers(code, [words[begin + k * plane] for k in range(int(_WIDTH[code]))])
        cells = summed(code, first[some], second, numbers, high)[:, low:]
        if code & FAMILY == FLOAT:
            bits[some] = cells
            continue
        scales = data[at[some] + height[some]]
        out[some] = cells / POWERS[scales][:, None] if scales.any() else cells
    some = np.flatnonzero(nan.of[wanted])
    if len(some):
        group = group_of[some]
        begin = maps_at[group] + nan.place(wanted[some], group) * map_size[group] + low // 8
        maps = _windows(data, (high + 7) // 8 - low // 8)[begin]
        holes = np.unpackbits(maps, axis=1, bitorder="little")[:, low % 8 :][:, : high - low].astype(np.bool_)
        out[some] = np.where(holes, np.nan, out[some])
    if int(slots.min()) < high:
        out[np.arange(low, high) >= slots[group_of][:, None]] = 0
    return out


class _Marks:
    """Rows with something that is stored for them only: `of` bool by row, `count` by group."""

    def __init__(self, of: NDArray[np.bool_], row_at: NDArray[np.int64]) -> None:
        self.of = of
        self._before: NDArray[np.intp] = np.cumsum(of) - of
        ends = np.append(self._before, np.count_nonzero(of))
        self._at = ends[row_at]
        self.count = np.diff(ends[np.append(row_at, len(of))])

    def place(self, rows: NDArray[np.intp], groups: NDArray[np.intp]) -> NDArray[np.intp]:
        """Which of the marked rows of its group each of some rows is."""
        return self._before[rows] - self._at[groups]


def _windows(data: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The bytes from each one on: uint8 [beginnings, size]."""
    return np.ndarray((len(data) - size + 1, size), np.uint8, data, strides=(1, 1))


def _column(data: NDArray[np.uint8], at: NDArray[np.intp], step: NDArray[np.intp]) -> NDArray[np.int64]:
    """Integers whose eight bytes stand `step` apart."""
    return data[at[:, None] + step[:, None] * np.arange(8)].view("<i8")[:, 0]
