"""Distinct timelines of a block: timestamps and staleness marks that rows share. Pure; FORMAT.md draws the bytes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import FormatError
from common.frames.varint import Reader
from common.tsdb.ints import get_ints, put_ints

Times = tuple[NDArray[np.int64], NDArray[np.bool_] | None]
"""Timestamps and, unless there is none, which of them are staleness markers."""


def encode_timelines(lines: Sequence[Times]) -> bytes:
    """Bytes of some timelines, none of them empty."""
    out = bytearray()
    lengths = np.array([len(times) for times, _ in lines], np.int64)
    put_ints(out, lengths)
    put_ints(out, np.array([times[0] for times, _ in lines], np.int64))
    steps = [np.diff(times) for times, _ in lines]
    # `put_ints` takes differences: of steps, these are the differences of differences.
    put_ints(out, np.concatenate(steps) if steps else np.empty(0, np.int64))
    starts = np.cumsum(lengths) - lengths
    marks = [
        np.flatnonzero(stale) + start for (_, stale), start in zip(lines, starts, strict=True) if stale is not None
    ]
    put_ints(out, np.concatenate(marks) if marks else np.empty(0, np.int64))
    return bytes(out)


def decode_timelines(body: bytes) -> list[Times]:
    """The inverse; FormatError for anything else."""
    reader = Reader(body)
    lengths, firsts, steps, marks = (get_ints(reader) for _ in range(4))
    reader.end()
    if len(firsts) != len(lengths) or (lengths < 1).any() or len(steps) != int((lengths - 1).sum()):
        raise FormatError("timelines of a block don't add up")
    if len(marks) and not 0 <= marks.min() <= marks.max() < lengths.sum():
        raise FormatError("staleness marks outside of their timelines")
    stale = np.zeros(int(lengths.sum()), np.bool_)
    stale[marks] = True
    out: list[Times] = []
    at = 0
    for k, (length, first) in enumerate(zip(lengths.tolist(), firsts.tolist(), strict=True)):
        times = np.empty(length, np.int64)
        times[0] = first
        np.cumsum(steps[at - k : at - k + length - 1], out=times[1:])
        times[1:] += first
        mine = stale[at : at + length]
        out.append((times, mine if mine.any() else None))
        at += length
    return out
