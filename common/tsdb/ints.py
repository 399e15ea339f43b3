"""Lists of integers as byte planes: how indexes and timelines of blocks are written. Pure; see FORMAT.md."""

import numpy as np
from numpy.typing import NDArray

from common.errors import FormatError
from common.frames.varint import Reader, put_uvarint

_KINDS = {1: (np.uint8, np.int8), 2: (np.uint16, np.int16), 4: (np.uint32, np.int32), 8: (np.uint64, np.int64)}


def put_ints(out: bytearray, numbers: NDArray[np.int64]) -> None:
    """Append a list: uvarint count, one byte of width, planes of the zigzag differences."""
    numbers = np.asarray(numbers, np.int64)
    put_uvarint(out, len(numbers))
    steps = np.diff(numbers, prepend=np.int64(0))
    words = ((steps << 1) ^ (steps >> 63)).view(np.uint64)
    top = int(words.max(initial=0))
    width = next(width for width in _KINDS if width == 8 or top < 1 << 8 * width)
    out.append(width)
    out += words.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width].T.tobytes()


def get_ints(reader: Reader) -> NDArray[np.int64]:
    """The list that `put_ints` wrote; FormatError if there is none."""
    count = reader.count()
    width = reader.byte()
    if width not in _KINDS:
        raise FormatError(f"list of integers of {width} bytes")
    planes = np.frombuffer(reader.take(count * width), np.uint8).reshape(width, count)
    unsigned, signed = _KINDS[width]
    words = planes[0].astype(unsigned)
    for k in range(1, width):
        words |= planes[k].astype(unsigned) << unsigned(8 * k)
    steps = (words >> unsigned(1)).view(signed) ^ -(words & unsigned(1)).view(signed)
    return np.cumsum(steps, dtype=np.int64)
