"""A block's index as reading needs it: the series and groups of all metrics side by side, in as few bytes as hold them.

Matchers then cost a few array calls for all metrics. A hub has dozens of blocks of all its series: what each of them
takes while it is open counts, so that `Interner.indexes` keeps no more of them than its bound allows.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.labels import Labels, Matcher
from common.sample import MetricMeta
from common.tsdb.index import Interner, RowIndex, Target
from common.tsdb.querier import ValueKind

if TYPE_CHECKING:
    from common.tsdb.block import BlockIndex

_OBJECT_BYTES = 250
"""Of a row or a target that no other open block has: its label set, and what is found by it."""
_SLOT_BYTES = 9
"""Of a series whose label set was asked for."""

Numbers = NDArray[np.integer]
"""Not negative, of the smallest type that holds them."""


@dataclass(slots=True, weakref_slot=True, eq=False)
class Shelf:
    """Series s is row `row[s]` of `rows[m]` under `targets[target[s]]`, where m is its metric.

    Metric m has the series `series_at[m]:series_at[m + 1]` and the entries `place_at[m]:place_at[m + 1]`; group g has
    the entries from `start[g]` on. Entry e is series `series[e]` (None: e) on the timeline `line_of[e]`.
    """

    targets: list[Target]
    rows: list[RowIndex]
    by_name: dict[str, list[int]]
    metrics: list[tuple[str, tuple[MetricMeta, ...], int]]
    """Name, metadata and bound of the cells of each metric."""
    series_at: NDArray[np.int64]
    place_at: NDArray[np.int64]
    row: Numbers
    target: Numbers
    prints: NDArray[np.uint64]
    series: NDArray[np.int32] | None
    line_of: Numbers
    start: NDArray[np.int64]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    native: NDArray[np.bool_] | None
    """By series; None: no metric has histograms."""
    native_group: NDArray[np.bool_]
    line_first: NDArray[np.int64]
    line_last: NDArray[np.int64]
    part_first: NDArray[np.int64]
    part_offset: NDArray[np.int64]
    part_length: NDArray[np.int64]
    of_targets: RowIndex
    """The labels of the targets."""
    size: int
    """About how many bytes it takes, without what it shares with those that were opened before."""

    @classmethod
    def of(cls, index: "BlockIndex", interner: Interner) -> "Shelf":
        """Arrange an index."""
        entries = index.metrics
        before = interner.made
        targets = [interner.target(labels) for labels in index.targets]
        rows = [interner.rows(entry.schema) for entry in entries]
        made = interner.made - before
        by_name: dict[str, list[int]] = {}
        for number, entry in enumerate(entries):
            by_name.setdefault(entry.schema.name, []).append(number)
        series_at = np.cumsum([0, *(len(entry.row) for entry in entries)])
        place_at = np.cumsum([0, *(len(entry.series) for entry in entries)])
        target = _smallest([entry.target for entry in entries])
        nothing = interner.target(Labels())
        prints = np.empty(int(series_at[-1]), np.uint64)
        for at, known, entry in zip(series_at.tolist(), rows, entries, strict=False):
            prints[at : at + len(entry.row)] = known.prints(nothing)[entry.row]
        prints += np.array([each.print for each in targets], np.uint64)[target]
        series: NDArray[np.int32] | None = None
        if not all(len(entry.series) == len(entry.row) and _counts_up(entry.series) for entry in entries):
            series = np.empty(int(place_at[-1]), np.int32)
            for place, first, entry in zip(place_at.tolist(), series_at.tolist(), entries, strict=False):
                series[place : place + len(entry.series)] = entry.series + first
        start = [entry.start[:-1] + first for entry, first in zip(entries, place_at.tolist(), strict=False)]
        kinds = np.array([entry.kind is ValueKind.HISTOGRAM for entry in entries], np.bool_)
        shelf = cls(
            targets=targets,
            rows=rows,
            by_name=by_name,
            metrics=[(entry.schema.name, entry.schema.meta, entry.cells) for entry in entries],
            series_at=series_at,
            place_at=place_at,
            row=_smallest([entry.row for entry in entries]),
            target=target,
            prints=prints,
            series=series,
            line_of=_smallest([entry.line for entry in entries]),
            start=_joined(start),
            offset=_joined([entry.offset for entry in entries]),
            length=_joined([entry.length for entry in entries]),
            native=np.repeat(kinds, [len(entry.row) for entry in entries]) if kinds.any() else None,
            native_group=np.repeat(kinds, [len(entry.offset) for entry in entries]),
            line_first=index.line_first,
            line_last=index.line_last,
            part_first=index.part_first,
            part_offset=index.part_offset,
            part_length=index.part_length,
            of_targets=RowIndex(index.targets),
            size=0,
        )
        parts = [getattr(shelf, field.name) for field in fields(cls)]
        shelf.size = (
            sum(part.nbytes for part in parts if isinstance(part, np.ndarray))
            + _SLOT_BYTES * int(series_at[-1])
            + _OBJECT_BYTES * (len(entries) + len(targets) + made)
        )
        return shelf

    def outcomes(self, matcher: Matcher) -> NDArray[np.bool_]:
        """For each target, whether a matcher holds on a row that doesn't name the label itself; bool [targets]."""
        nowhere = matcher.matches("")
        column = self.of_targets.columns().get(matcher.name)
        return np.full(len(self.targets), nowhere) if column is None else column.match(matcher, nowhere)

    def series_of(self, places: NDArray[np.intp]) -> NDArray[np.intp]:
        """The series of some entries."""
        return places if self.series is None else self.series[places].astype(np.intp)

    def group_of(self, places: NDArray[np.intp]) -> NDArray[np.intp]:
        """The groups of some entries."""
        found: NDArray[np.intp] = np.searchsorted(self.start, places, "right") - 1
        return found

    def metric_of(self, series: int) -> int:
        """The metric of one series."""
        # Metrics without series share their place with the next one: the last of them owns it.
        return bisect.bisect_right(self.series_at, series) - 1


def _counts_up(numbers: NDArray[np.int64]) -> bool:
    return bool((numbers == np.arange(len(numbers))).all())


def _joined(arrays: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(arrays) if arrays else np.empty(0, np.int64)


def _smallest(arrays: Sequence[NDArray[np.int64]]) -> Numbers:
    """The arrays one after the other, in the smallest type for their numbers, which are below 2**31."""
    top = max((int(each.max(initial=0)) for each in arrays), default=0)
    kind = np.uint8 if top < 1 << 8 else np.uint16 if top < 1 << 16 else np.int32
    return np.concatenate(arrays, dtype=kind, casting="unsafe") if arrays else np.empty(0, kind)
