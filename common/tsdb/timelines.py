"""Distinct timelines of a block: timestamps and staleness marks that rows share. Pure; FORMAT.md draws the bytes."""

import struct
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from common.errors import FormatError
from common.tsdb.ints import joined
from common.tsdb.querier import FAR, Timelines

Times = tuple[NDArray[np.int64], NDArray[np.bool_] | None]
"""Timestamps and, unless there is none, which of them are staleness markers."""

_HEADER: Final = struct.Struct("<II")
_LINE: Final = np.dtype([("base", "<i8"), ("step", "<i8"), ("slots", "<u4"), ("width", "u1")])
_FRACTION: Final = 16
"""Bits of a step behind the point: long lines keep to their grid, though their clocks drift."""
_WIDTHS: Final = (1, 2, 4, 8)


def encode_timelines(lines: Sequence[Times]) -> bytes:
    """Bytes of some timelines, none of them empty."""
    parted = [_parted(times) for times, _ in lines]
    table = np.array([(*place, len(words), _width(words)) for place, words in parted], _LINE)
    starts = np.cumsum(table["slots"], dtype=np.int64) - table["slots"]
    marks = [
        np.flatnonzero(stale) + start for (_, stale), start in zip(lines, starts, strict=True) if stale is not None
    ]
    mark = np.concatenate(marks) if marks else np.empty(0, np.int64)
    out = [_HEADER.pack(len(lines), len(mark)), table.tobytes(), mark.astype("<u4").tobytes()]
    for width in np.unique(table["width"]).tolist():
        flat = np.concatenate([words for _, words in parted if _width(words) == width])
        out.append(flat.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width].T.tobytes())
    return b"".join(out)


def _parted(times: NDArray[np.int64]) -> tuple[tuple[int, int], NDArray[np.uint64]]:
    """Base and step of a line, and how far its timestamps are above what these say."""
    # Steps of a millisecond, if they fit as well: lines of one interval then have the same.
    exact = (int(times[-1]) - int(times[0]) << _FRACTION) // max(1, len(times) - 1)
    found = []
    for step in (exact + (1 << _FRACTION - 1) >> _FRACTION << _FRACTION, exact):
        least = step & (1 << 63) - 1
        above = times - _grid(len(times), np.int64(least))
        base = above.min()
        found.append(((int(base), least), (above - base).view(np.uint64)))
    return min(found, key=lambda each: _width(each[1]))


def _width(words: NDArray[np.uint64]) -> int:
    top = int(words.max(initial=0))
    return next(width for width in _WIDTHS if width == 8 or top < 1 << 8 * width)


def _grid(slots: int, step: NDArray[np.int64] | np.int64) -> NDArray[np.int64]:
    """Where slots are expected, from the first one on; what overflows does so when it is read, too."""
    found: NDArray[np.int64] = (np.arange(slots) * step) >> _FRACTION
    return found


def decode_timelines(body: bytes, which: NDArray[np.intp] | None = None) -> Timelines:
    """The inverse, or some of them by number (ascending); FormatError for anything else."""
    if len(body) < _HEADER.size:
        raise FormatError("timelines of a block end inside their header")
    count, marked = _HEADER.unpack_from(body)
    at = _HEADER.size + count * _LINE.itemsize + 4 * marked
    if not count or len(body) < at:
        raise FormatError("timelines of a block are cut")
    table = np.frombuffer(body, _LINE, count, _HEADER.size)
    lengths, widths = table["slots"].astype(np.intp), table["width"]
    starts = np.cumsum(lengths) - lengths
    marks = np.frombuffer(body, "<u4", marked, at - 4 * marked)
    kinds = set(widths.tolist())
    known = lengths.all() and kinds.issubset(_WIDTHS) and marks.max(initial=0) < lengths.sum()
    if not known or len(body) != at + int((lengths * widths).sum()):
        raise FormatError("timelines of a block don't add up")
    wanted = np.arange(count) if which is None else which
    slots = int(lengths[wanted].max())
    times = np.empty((len(wanted), slots), np.int64)
    for width in sorted(kinds):
        mine = np.flatnonzero(widths == width) if len(kinds) > 1 else np.arange(count)
        size = int(lengths[mine].sum())
        some = np.flatnonzero(widths[wanted] == width) if len(kinds) > 1 else np.arange(len(wanted))
        if len(some):
            lines = wanted[some]
            begins = (np.cumsum(lengths[mine]) - lengths[mine])[np.searchsorted(mine, lines)]
            words = _words(np.frombuffer(body, np.uint8, width * size, at).reshape(width, size), begins, slots)
            step = table["step"][lines]
            alike = bool((step == step[0]).all())
            grid = _grid(slots, step[0] if alike else step[:, None]) + table["base"][lines, None]
            times[some] = np.add(grid, words, out=grid)
        at += width * size
    lengths, starts = lengths[wanted], starts[wanted]
    short = np.flatnonzero(lengths < slots)
    if len(short):
        times[short] = np.where(np.arange(slots) < lengths[short, None], times[short], FAR)
    return Timelines(times, lengths, _stale(marks, starts, lengths, slots) if marked else None)


def _words(planes: NDArray[np.uint8], begins: NDArray[np.intp], slots: int) -> NDArray[np.integer]:
    """`slots` words from each of some beginnings on."""
    width, size = planes.shape
    padded = np.concatenate((planes.reshape(-1), np.zeros(slots, np.uint8)))
    windows = np.ndarray((width * size + 1, slots), np.uint8, padded, strides=(1, 1))
    words = joined(windows[begins + size * np.arange(width)[:, None]])
    return words.view(np.int64) if width == 8 else words


def _stale(
    marks: NDArray[np.uint32], starts: NDArray[np.intp], lengths: NDArray[np.intp], slots: int
) -> NDArray[np.bool_] | None:
    """Marks, counted over all lines, as flags of some lines that begin at `starts`; None if they have none."""
    line = np.searchsorted(starts, marks, "right") - 1
    slot = marks - starts[line]
    mine = np.flatnonzero((line >= 0) & (slot < lengths[line]))
    if not len(mine):
        return None
    stale = np.zeros((len(starts), slots), np.bool_)
    stale[line[mine], slot[mine]] = True
    return stale
