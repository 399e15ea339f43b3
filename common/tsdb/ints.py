"""Lists of integers as byte planes: how indexes and timelines of blocks are written. Pure; see FORMAT.md."""

from collections.abc import Sequence

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


def get_many(planes: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
    """Lists of `count` numbers each, of which the planes that `put_ints` made stand in rows [N, count * width]."""
    width = planes.shape[1] // count if count else 1
    unsigned, signed = _KINDS[width]
    words = planes[:, :count].astype(unsigned)
    for k in range(1, width):
        words |= planes[:, k * count : (k + 1) * count].astype(unsigned) << unsigned(8 * k)
    steps = (words >> unsigned(1)).view(signed) ^ -(words & unsigned(1)).view(signed)
    return np.cumsum(steps, axis=1, dtype=np.int64)


def get_ints(reader: Reader) -> NDArray[np.int64]:
    """The list that `put_ints` wrote; FormatError if there is none."""
    count = reader.count()
    width = reader.byte()
    if width not in _KINDS:
        raise FormatError(f"list of integers of {width} bytes")
    planes = np.frombuffer(reader.take(count * width), np.uint8).reshape(width, count)
    return np.cumsum(unfolded(joined(planes)), dtype=np.int64)


def joined(planes: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> NDArray[np.unsignedinteger]:
    """Words from their planes (1, 2, 4 or 8, the lowest first), as narrow as they are."""
    unsigned, _ = _KINDS[len(planes)]
    words: NDArray[np.unsignedinteger] = planes[0].astype(unsigned)
    for k in range(1, len(planes)):
        words |= planes[k].astype(unsigned) << unsigned(8 * k)
    return words


def unfolded(words: NDArray[np.unsignedinteger]) -> NDArray[np.signedinteger]:
    """The integers of zigzag words."""
    signed = _KINDS[words.itemsize][1]
    found: NDArray[np.signedinteger] = (words >> 1).view(signed) ^ -(words & 1).view(signed)
    return found
