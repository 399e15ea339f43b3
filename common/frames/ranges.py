"""Sets of sequence numbers as ranges: what a log holds and what a hub has."""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping

from common.errors import FormatError
from common.frames.model import MAX_U64, Epoch

MAX_TEXT = 1 << 20
MAX_RANGES = 65_536
CUT = "+"

_EPOCH = re.compile(r"[0-9a-f]{16}\Z")
_RANGE = re.compile(r"(\d{1,20})(?:-(\d{1,20}))?\Z", re.ASCII)


class RangeSet:
    """An immutable set of integers >= 0, kept as sorted, disjoint, non-adjacent inclusive ranges."""

    __slots__ = ("ranges",)
    ranges: tuple[tuple[int, int], ...]

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        """The union of inclusive ranges (first, last); a range with last < first is a ValueError."""
        merged: list[tuple[int, int]] = []
        for first, last in sorted(ranges):
            if first < 0 or last < first:
                raise ValueError(f"not a range of numbers from 0 on: {first}-{last}")
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(merged[-1][1], last))
            else:
                merged.append((first, last))
        self.ranges = tuple(merged)

    @classmethod
    def of(cls, *numbers: int) -> "RangeSet":
        """The set of these numbers."""
        return cls((n, n) for n in numbers)

    def add(self, first: int, last: int | None = None) -> "RangeSet":
        """This set with `first` to `last` (inclusive; `first` alone without it)."""
        last = first if last is None else last
        if self.ranges and first == self.ranges[-1][1] + 1 and last >= first:
            grown = RangeSet.__new__(RangeSet)
            grown.ranges = (*self.ranges[:-1], (self.ranges[-1][0], last))
            return grown
        return RangeSet((*self.ranges, (first, last)))

    def union(self, other: "RangeSet") -> "RangeSet":
        """What is in either."""
        return RangeSet((*self.ranges, *other.ranges))

    def missing(self, wanted: "RangeSet") -> "RangeSet":
        """What is in `wanted` and not in this set."""
        out: list[tuple[int, int]] = []
        mine = iter(self.ranges)
        have = next(mine, None)
        for first, last in wanted.ranges:
            while have is not None and have[1] < first:
                have = next(mine, None)
            while have is not None and have[0] <= last:
                if first < have[0]:
                    out.append((first, have[0] - 1))
                first = have[1] + 1
                if have[1] > last:
                    break
                have = next(mine, None)
            if first <= last:
                out.append((first, last))
        return RangeSet(out)

    def intersection(self, other: "RangeSet") -> "RangeSet":
        """What is in both."""
        return self.missing(other).missing(other)

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, int):
            return False
        at = bisect_right(self.ranges, number, key=_first) - 1
        return at >= 0 and number <= self.ranges[at][1]

    def __iter__(self) -> Iterator[int]:
        """Every number, ascending."""
        for first, last in self.ranges:
            yield from range(first, last + 1)

    def __reversed__(self) -> Iterator[int]:
        for first, last in reversed(self.ranges):
            yield from range(last, first - 1, -1)

    @property
    def count(self) -> int:
        """How many numbers are in the set (`len` would overflow on hostile ranges)."""
        return sum(last - first + 1 for first, last in self.ranges)

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and self.ranges == other.ranges

    def __hash__(self) -> int:
        return hash(self.ranges)

    def __str__(self) -> str:
        return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in self.ranges)

    def __repr__(self) -> str:
        return f"RangeSet({self})"


EMPTY = RangeSet()

Have = Mapping[Epoch, RangeSet]
"""Sequence numbers per epoch; the order of epochs is their order of importance to `format_have`."""


def _first(pair: tuple[int, int]) -> int:
    return pair[0]


def format_have(have: Have, limit: int | None = None) -> str:
    """`EPOCH:a-b,c;EPOCH2:d-e`, epochs as 16 hex digits in the mapping's order.

    With `limit`, at most that many characters: what does not fit is left out from the end, oldest numbers of an
    epoch first, and the text then ends with `;+` (see `is_cut`). Leaving out is safe for a `have`: it is sent again.
    """
    parts: list[str] = []
    room = MAX_TEXT if limit is None else limit - len(CUT) - 1
    for epoch, ranges in have.items():
        if not ranges:
            continue
        head = f"{epoch:016x}:"
        text = head + str(ranges)
        if len(text) + 1 <= room:
            parts.append(text)
            room -= len(text) + 1
            continue
        kept = list(ranges.ranges)
        while kept and len(head + str(RangeSet(kept))) + 1 > room:
            del kept[: max(1, len(kept) // 8)]
        if kept:
            parts.append(head + str(RangeSet(kept)))
        return ";".join([*parts, CUT])
    return ";".join(parts)


def is_cut(text: str) -> bool:
    """Whether `format_have` left something out of `text`."""
    return text == CUT or text.endswith(";" + CUT)


def parse_have(text: str) -> dict[Epoch, RangeSet]:
    """The inverse of `format_have`; FormatError names the part that is wrong. At most MAX_RANGES ranges."""
    if len(text) > MAX_TEXT:
        raise FormatError(f"list of ranges longer than {MAX_TEXT} characters")
    have: dict[Epoch, RangeSet] = {}
    left = MAX_RANGES
    for part in text.split(";"):
        if not part or part == CUT:
            continue
        name, colon, ranges = part.partition(":")
        if not colon or not _EPOCH.match(name):
            raise FormatError(f"expected an epoch of 16 hex digits and ':', got {part[:40]!r}")
        pairs: list[tuple[int, int]] = []
        for item in ranges.split(","):
            match = _RANGE.match(item)
            if match is None:
                raise FormatError(f"expected a range like 3-17 for epoch {name}, got {item[:40]!r}")
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first or last > MAX_U64:
                raise FormatError(f"range {item} of epoch {name} runs backwards or beyond 64 bits")
            pairs.append((first, last))
        left -= len(pairs)
        if left < 0:
            raise FormatError(f"more than {MAX_RANGES} ranges")
        epoch = Epoch(int(name, 16))
        have[epoch] = have.get(epoch, EMPTY).union(RangeSet(pairs))
    return have
