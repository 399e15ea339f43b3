"""Distinct timelines of a block: timestamps and staleness marks that rows share. Pure; FORMAT.md draws the bytes."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
_LONG: Final = 1 << 46
_WIDE: Final = 1 << 40
"""No block spans as many ms as the first, and steps below the second part that into more slots than any line has."""


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
        above = times - _grid(np.arange(len(times), dtype=np.int64), np.int64(least))
        base = above.min()
        found.append(((int(base), least), (above - base).view(np.uint64)))
    return min(found, key=lambda each: _width(each[1]))


def _width(words: NDArray[np.uint64]) -> int:
    top = int(words.max(initial=0))
    return next(width for width in _WIDTHS if width == 8 or top < 1 << 8 * width)


def _grid(slots: NDArray[np.int64], step: NDArray[np.int64] | np.int64) -> NDArray[np.int64]:
    """Where slots are expected, from the first one on; what overflows does so when it is read, too."""
    found: NDArray[np.int64] = (slots * step) >> _FRACTION
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Class:
    """Lines whose words have one width: their numbers, ascending, and where each begins in `planes`."""

    lines: NDArray[np.intp]
    begins: NDArray[np.intp]
    planes: NDArray[np.uint8]

    def words(self, lines: NDArray[np.intp], first: int, slots: int) -> NDArray[np.integer]:
        """Words of some lines, `slots` of each from `first` on; what stands behind a line's last one means nothing."""
        width, size = self.planes.shape
        begins = self.begins[np.searchsorted(self.lines, lines)] + first
        padded = np.concatenate((self.planes.reshape(-1), np.zeros(slots, np.uint8)))
        windows = np.ndarray((width * size + 1, slots), np.uint8, padded, strides=(1, 1))
        words = joined(windows[np.minimum(begins, size) + size * np.arange(width)[:, None]])
        return words.view(np.int64) if width == 8 else words


class Part:
    """Encoded timelines, opened: all or some of them can be read, whole or in part."""

    def __init__(self, body: bytes) -> None:
        """Open what `encode_timelines` wrote; FormatError if it is anything else."""
        if len(body) < _HEADER.size:
            raise FormatError("timelines of a block end inside their header")
        count, marked = _HEADER.unpack_from(body)
        at = _HEADER.size + count * _LINE.itemsize + 4 * marked
        if not count or len(body) < at:
            raise FormatError("timelines of a block are cut")
        table = np.frombuffer(body, _LINE, count, _HEADER.size)
        self._base, self._step = table["base"], table["step"]
        self._lengths, widths = table["slots"].astype(np.intp), table["width"]
        self._marks = np.frombuffer(body, "<u4", marked, at - 4 * marked)
        kinds = set(widths.tolist())
        known = self._lengths.all() and kinds.issubset(_WIDTHS) and self._marks.max(initial=0) < self._lengths.sum()
        if not known or len(body) != at + int((self._lengths * widths).sum()):
            raise FormatError("timelines of a block don't add up")
        self._classes: list[_Class] = []
        for width in sorted(kinds):
            lines = np.flatnonzero(widths == width)
            ends = np.cumsum(self._lengths[lines])
            size = int(ends[-1])
            planes = np.frombuffer(body, np.uint8, width * size, at).reshape(width, size)
            self._classes.append(_Class(lines, ends - self._lengths[lines], planes))
            at += width * size
        self._widths = widths

    def __len__(self) -> int:
        return len(self._lengths)

    def lines(self, which: NDArray[np.intp] | None = None) -> Timelines:
        """All lines, or some of them by number (ascending)."""
        which = np.arange(len(self)) if which is None else which
        lengths = self._lengths[which]
        times = np.full((len(which), int(lengths.max())), FAR, np.int64)
        for some, kind in self._of(which):
            slots = int(lengths[some].max())
            times[some, :slots] = self._times(kind, which[some], 0, slots)
        return Timelines(times, lengths, self._stale(which, np.zeros(len(which), np.intp), lengths, times.shape[1]))

    def between(self, which: NDArray[np.intp], start: int, end: int) -> tuple[Timelines, NDArray[np.intp]]:
        """What of some lines (by number, ascending) lies between two times (inclusive), and how many slots come before.

        Lines may be empty then.
        """
        skips, lengths = np.zeros((2, len(which)), np.intp)
        found = []
        for some, kind in self._of(which):
            lines = which[some]
            first, stop = self._bounds(kind, lines, start, end)
            if first >= stop:
                continue
            times = self._times(kind, lines, first, stop)
            below = np.count_nonzero(times < start, axis=1)
            lengths[some] = np.maximum(np.count_nonzero(times <= end, axis=1) - below, 0)
            skips[some] = first + below
            found.append((some, times, below))
        width = int(lengths.max())
        slots = np.arange(width)
        cut = np.full((len(which), width), FAR, np.int64)
        for some, times, below in found:
            at = np.minimum(below[:, None] + slots, times.shape[1] - 1)
            cut[some] = np.where(slots < lengths[some, None], np.take_along_axis(times, at, axis=1), FAR)
        return Timelines(cut, lengths, self._stale(which, skips, lengths, width)), skips

    def _of(self, which: NDArray[np.intp]) -> Iterator[tuple[NDArray[np.intp], _Class]]:
        """Positions in `which` of the lines of each class that has some."""
        widths = self._widths[which]
        for kind in self._classes:
            some = np.flatnonzero(widths == len(kind.planes))
            if len(some):
                yield some, kind

    def _times(self, kind: _Class, lines: NDArray[np.intp], first: int, stop: int) -> NDArray[np.int64]:
        """Timestamps of slots `first` to `stop` (exclusive) of some lines, FAR behind their last ones."""
        step, lengths = self._step[lines], self._lengths[lines]
        slots = np.arange(first, stop, dtype=np.int64)
        alike = bool((step == step[0]).all())
        times: NDArray[np.int64] = _grid(slots, step[0] if alike else step[:, None]) + self._base[lines, None]
        times += kind.words(lines, first, stop - first)
        short = np.flatnonzero(lengths < stop)
        if len(short):
            times[short] = np.where(slots < lengths[short, None], times[short], FAR)
        return times

    def _bounds(self, kind: _Class, lines: NDArray[np.intp], start: int, end: int) -> tuple[int, int]:
        """Slots (exclusive at the end) outside of which no line has times between two (inclusive)."""
        base, step, lengths = self._base[lines], np.maximum(self._step[lines], 1), self._lengths[lines]
        width = len(kind.planes)
        if width > 2 or int(step.max()) >= _WIDE:
            return 0, int(lengths.max())
        # What a slot's time is below is (slot + 1) * step, what it is above is slot * step, but for base and word.
        over = np.clip(start - base - (1 << 8 * width), 0, _LONG) << _FRACTION
        under = np.clip(end - base + 1, 0, _LONG) << _FRACTION
        first, stop = over // step, -(-under // step)
        return int(np.minimum(first, lengths).min()), int(np.minimum(stop, lengths).max())

    def _stale(
        self, which: NDArray[np.intp], skips: NDArray[np.intp], lengths: NDArray[np.intp], width: int
    ) -> NDArray[np.bool_] | None:
        """Which of `lengths` slots behind the first `skips` of some lines are markers; None if none is."""
        if not len(self._marks):
            return None
        starts = (np.cumsum(self._lengths) - self._lengths)[which]
        line = np.searchsorted(starts, self._marks, "right") - 1
        slot = self._marks - starts[line] - skips[line]
        ends = np.minimum(lengths, self._lengths[which] - skips)
        mine = np.flatnonzero((line >= 0) & (slot >= 0) & (slot < ends[line]))
        if not len(mine):
            return None
        stale = np.zeros((len(which), width), np.bool_)
        stale[line[mine], slot[mine]] = True
        return stale
