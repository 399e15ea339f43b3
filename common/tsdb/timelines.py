"""Distinct timelines of a block: timestamps and staleness marks that rows share. Pure; FORMAT.md draws the bytes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import FormatError
from common.frames.varint import Reader
from common.tsdb.ints import get_ints, put_ints
from common.tsdb.querier import FAR, Timeline, Timelines

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


def decode_timelines(body: bytes, which: NDArray[np.intp] | None = None) -> Timelines:
    """The inverse, or some of them by number (ascending); FormatError for anything else."""
    reader = Reader(body)
    lengths, firsts, steps, marks = (get_ints(reader) for _ in range(4))
    reader.end()
    if len(firsts) != len(lengths) or (lengths < 1).any() or len(steps) != int((lengths - 1).sum()):
        raise FormatError("timelines of a block don't add up")
    total = int(lengths.sum())
    if len(marks) and not 0 <= marks.min() <= marks.max() < total:
        raise FormatError("staleness marks outside of their timelines")
    if which is not None:
        before = np.cumsum(lengths) - lengths
        chosen = zip(which.tolist(), before[which].tolist(), lengths[which].tolist(), strict=True)
        return Timelines.of([_line(firsts, steps, marks, *each) for each in chosen])
    width = int(lengths.max(initial=0))
    stale = np.zeros(total, np.bool_)
    stale[marks] = True
    if total == len(lengths) * width:
        times = np.empty((len(lengths), width), np.int64)
        times[:, :1] = firsts[:, None]
        times[:, 1:] = steps.reshape(len(lengths), max(0, width - 1))
        flags = stale.reshape(times.shape)
        return Timelines(np.cumsum(times, axis=1, out=times), lengths.astype(np.intp), flags if len(marks) else None)
    starts = np.cumsum(lengths) - lengths
    flat = np.zeros(total, np.int64)
    later = np.ones(total, np.bool_)
    later[starts] = False
    flat[later] = steps
    np.cumsum(flat, out=flat)
    flat += np.repeat(firsts - flat[starts], lengths.astype(np.intp))
    inside = np.arange(width) < lengths[:, None]
    times, flags = np.full(inside.shape, FAR, np.int64), np.zeros(inside.shape, np.bool_)
    times[inside], flags[inside] = flat, stale
    return Timelines(times, lengths.astype(np.intp), flags if len(marks) else None)


def _line(
    firsts: NDArray[np.int64], steps: NDArray[np.int64], marks: NDArray[np.int64], number: int, start: int, length: int
) -> Timeline:
    """Line `number`, whose first sample is sample `start` of all."""
    times = np.empty(length, np.int64)
    times[0] = firsts[number]
    # Each line before it has one step less than samples.
    times[1:] = steps[start - number : start - number + length - 1]
    mine = marks[(marks >= start) & (marks < start + length)] - start
    stale = None
    if len(mine):
        stale = np.zeros(length, np.bool_)
        stale[mine] = True
    return Timeline(np.cumsum(times, out=times), stale)
