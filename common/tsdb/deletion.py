"""Deletion by matchers: what is gone, and how it is taken out of pieces and chunks. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import FormatError
from common.frames.varint import Reader, put_text, put_uvarint, put_varint
from common.labels import Matcher, MatchType
from common.tsdb.join import L, Line, Piece


@dataclass(frozen=True, slots=True)
class Deletion:
    """Samples between two times (ms, inclusive) of series that satisfy every matcher, where they were stored then.

    In blocks these are those with a number below `blocks`; the head applies it at once.
    """

    matchers: tuple[Matcher, ...]
    start: int
    end: int
    blocks: int

    def pack(self) -> bytes:
        """Body of a DELETE record."""
        out = bytearray()
        put_varint(out, self.start)
        put_varint(out, self.end)
        put_uvarint(out, self.blocks)
        put_uvarint(out, len(self.matchers))
        for matcher in self.matchers:
            for text in (matcher.type.value, matcher.name, matcher.value):
                put_text(out, text)
        return bytes(out)

    @classmethod
    def unpack(cls, body: bytes) -> "Deletion":
        """The inverse; FormatError for anything else."""
        reader = Reader(body)
        start, end, blocks = reader.varint(), reader.varint(), reader.uvarint()
        try:
            matchers = tuple(
                Matcher(MatchType(reader.text()), reader.text(), reader.text()) for _ in range(reader.count(3))
            )
        except ValueError as err:
            raise FormatError(f"deletion with an unusable matcher: {err}") from None
        reader.end()
        return cls(matchers, start, end, blocks)


def punched(piece: Piece[L], gone: Sequence[tuple[NDArray[np.bool_], int, int]]) -> Piece[L]:
    """A piece without some samples: each of `gone` says of which rows (bool [R]), and from when to when (inclusive)."""
    rows = np.arange(len(piece.prints))
    lines: list[Line] = []
    kept: list[NDArray[np.intp] | None] = []
    numbers: dict[tuple[int, bytes], int] = {}
    line_of = np.empty(len(rows), np.intp)
    hit = np.stack([mask for mask, _, _ in gone], axis=1)
    for row, (line, mask) in enumerate(zip(piece.line_of.tolist(), hit, strict=True)):
        key = (line, mask.tobytes())
        number = numbers.get(key)
        if number is None:
            number = numbers[key] = _add(piece.lines[line], mask, gone, lines, kept)
        line_of[row] = number
    alive = np.flatnonzero(line_of >= 0)
    line_of = line_of[alive]

    def values(some: NDArray[np.intp]) -> NDArray[np.float64]:
        found = piece.values(rows[alive[some]])
        out = found.copy()
        for line in np.unique(line_of[some]).tolist():
            keep = kept[line]
            if keep is not None:
                mine = np.flatnonzero(line_of[some] == line)
                out[mine, : len(keep)] = found[mine[:, None], keep]
        return out

    return Piece(piece.prints[alive], lines, line_of, values, lambda some: piece.labels(alive[some]))


def _add(
    line: Line,
    mask: NDArray[np.bool_],
    gone: Sequence[tuple[NDArray[np.bool_], int, int]],
    lines: list[Line],
    kept: list[NDArray[np.intp] | None],
) -> int:
    """Add the line less what the chosen ones of `gone` take from it; its number, or -1 if nothing is left."""
    stay = np.ones(len(line.timestamps), np.bool_)
    for chosen, (_, start, end) in zip(mask.tolist(), gone, strict=True):
        if chosen:
            stay &= (line.timestamps < start) | (line.timestamps > end)
    if not stay.any():
        return -1
    if stay.all():
        lines.append(line)
        kept.append(None)
    else:
        keep = np.flatnonzero(stay)
        stale = None if line.stale is None else line.stale[keep]
        arrival = line.arrival if isinstance(line.arrival, int) else line.arrival[keep]
        lines.append(Line(line.timestamps[keep], stale, arrival))
        kept.append(keep)
    return len(lines) - 1
