"""Texts of decimal numbers, many rows at a time: digits come from tables by array calls. Pure.

Most gauges and counters have at most three digits behind the point. Such a value is a whole number of thousandths, and
its shortest text (15 digits at most, so that no shorter one means the same float64) is that number with a point in it.
Every point of a row gets fields of four bytes: the text before it, sign, groups of four digits, fraction. What a field
does not need is blanks, which are deleted in the end.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SCALE = 1000
MOST = 10**15
"""Thousandths from which on a value is no decimal here: with more digits texts are not unique."""

_BLANK = b" "
_GROUP = 10_000

Words = NDArray[np.uint32]


def _words(texts: Sequence[bytes]) -> Words:
    return np.frombuffer(b"".join(texts), np.uint32)


_NUMBERS = [b"%d" % number for number in range(_GROUP)]
_FULL = [number.rjust(4, b"0") for number in _NUMBERS]
_LEADING = _words([b"    ", *(number.rjust(4) for number in _NUMBERS[1:]), *_FULL])
"""A group of digits by its number, with its zeros if `_GROUP` is added; of no digits if it is zero."""
_LAST = _words([*(number.rjust(4) for number in _NUMBERS), *_FULL])
"""The same for the group before the point, which is never without digits."""
_FRACTIONS = _words([(b".%03d" % number).rstrip(b"0").rstrip(b".").ljust(4) for number in range(SCALE)])
_SIGNS = _words([b"    ", b"   -"])
_NOTHING = _SIGNS[0]


class DecimalRows:
    """Writes rows of points that share the texts between them: prefixes[k] stands before the value at k; no blanks."""

    def __init__(self, prefixes: Sequence[bytes]) -> None:
        self._width = -(-max(map(len, prefixes), default=0) // 4)
        size = 4 * self._width
        self._prefixes = np.frombuffer(b"".join(prefix.rjust(size) for prefix in prefixes), f"V{size}")

    def texts(self, values: NDArray[np.float64], presence: NDArray[np.bool_] | None) -> list[bytes | None]:
        """Each row's present points of values float64 [S, K], presence bool [S, K] (None: all); None if not decimal.

        A row is decimal if all its present values are whole numbers of thousandths below MOST, and none is -0.
        """
        texts: list[bytes | None] = [None] * len(values)
        values = np.ascontiguousarray(values)
        with np.errstate(all="ignore"):
            scaled = np.rint(values * SCALE) + 0.0
            exact = (scaled / SCALE).view(np.int64) == values.view(np.int64)
            exact &= np.abs(scaled) < MOST
        if presence is not None:
            exact |= ~presence
        rows = np.flatnonzero(exact.all(axis=1))
        if not len(rows):
            return texts
        if len(rows) < len(values):
            scaled = scaled[rows]
            presence = None if presence is None else presence[rows]
        absent = None if presence is None else ~presence
        if absent is not None:
            scaled[absent] = 0.0
        words = self._written(scaled.astype(np.int64))
        if absent is not None:
            words[absent] = _NOTHING
        for row, part in zip(rows.tolist(), words, strict=True):
            texts[row] = part.tobytes().translate(None, _BLANK)
        return texts

    def _written(self, thousandths: NDArray[np.int64]) -> Words:
        """Fields of all points, uint32 [S, K, fields]."""
        fields: list[Words] = []
        if int(thousandths.min()) < 0:
            fields.append(_SIGNS[(thousandths < 0).view(np.uint8)])
            thousandths = np.abs(thousandths)
        whole = thousandths // SCALE
        fraction = thousandths - whole * SCALE
        largest, table = int(whole.max()), _LAST
        groups: list[Words] = []
        while largest >= _GROUP:
            higher = whole // _GROUP
            groups.append(table[whole - higher * _GROUP + _GROUP * (higher > 0)])
            whole, largest, table = higher, largest // _GROUP, _LEADING
        groups.append(table[whole])
        fields += groups[::-1]
        if fraction.any():
            fields.append(_FRACTIONS[fraction])
        words = np.empty((*thousandths.shape, self._width + len(fields)), np.uint32)
        # One item of many bytes is copied faster than many items.
        whole_points = words.view([("before", self._prefixes.dtype), ("fields", np.uint32, (len(fields),))])
        whole_points["before"] = self._prefixes[:, None]
        for at, field in enumerate(fields, self._width):
            words[:, :, at] = field
        return words
