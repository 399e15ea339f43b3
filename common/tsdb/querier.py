"""The one interface through which PromQL, the API and federation read stored samples.

The hub's store, the edge's log and the tests' dictionary model implement it. All methods are synchronous,
may be called from any thread, and see a consistent snapshot taken when they are called.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from common.histogram_grid import Grid
from common.labels import Labels, Matcher
from common.sample import MetricMeta, Millis


class ValueKind(IntEnum):
    """What the values of a batch are; stored in frame sections and row groups."""

    FLOAT = 0
    HISTOGRAM = 1


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """Timestamps that one or more rows share: strictly increasing ms, int64 [T].

    Every slot holds a sample of every row on this timeline; `stale` (bool [T], or None for none) marks slots
    that are staleness markers, whose value means nothing.
    """

    timestamps: NDArray[np.int64]
    stale: NDArray[np.bool_] | None = None


FAR: Final = 1 << 62
"""What stands behind the last timestamp of a line in arrays of several lines: later than any sample."""


class Timelines(Sequence[Timeline]):
    """Timelines side by side: line l has the timestamps `times[l, :lengths[l]]`, behind them stands FAR.

    `times` int64 [L, W], W >= 1, `lengths` intp [L], `stale` bool [L, W] (False behind the end) or None for no marker.
    """

    __slots__ = ("lengths", "stale", "times")

    def __init__(
        self, times: NDArray[np.int64], lengths: NDArray[np.intp], stale: NDArray[np.bool_] | None = None
    ) -> None:
        self.times = times
        self.lengths = lengths
        self.stale = stale

    @classmethod
    def of(cls, lines: Sequence[Timeline]) -> "Timelines":
        """The same lines as arrays; `lines` itself if it is that already."""
        if isinstance(lines, Timelines):
            return lines
        lengths = np.array([len(line.timestamps) for line in lines], np.intp)
        times = np.full((len(lines), int(lengths.max(initial=1))), FAR, np.int64)
        stale = np.zeros(times.shape, np.bool_) if any(line.stale is not None for line in lines) else None
        for number, line in enumerate(lines):
            times[number, : lengths[number]] = line.timestamps
            if stale is not None and line.stale is not None:
                stale[number, : lengths[number]] = line.stale
        return cls(times, lengths, stale)

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, number: int) -> Timeline: ...

    @overload
    def __getitem__(self, number: slice) -> "Timelines": ...

    def __getitem__(self, number: int | slice) -> "Timeline | Timelines":
        if isinstance(number, slice):
            return Timelines(
                self.times[number], self.lengths[number], None if self.stale is None else self.stale[number]
            )
        length = int(self.lengths[number])
        stale = None if self.stale is None else self.stale[number, :length]
        return Timeline(self.times[number, :length], stale if stale is not None and stale.any() else None)


@dataclass(frozen=True, slots=True, eq=False)
class RowBatch:
    """Rows of samples: row s has its samples at `values[s, :T]`, T the length of its timeline.

    `values` is float64 [S, max T], left-aligned; what lies behind a row's T is padding and means nothing.
    A NaN in `values` is a real NaN sample. `timeline_of` is intp [S], an index into `timelines`. The array `values`
    is the reader's: it may change it.

    Of kind HISTOGRAM the samples are `histograms[s, :T]` ([S, max T], None for markers and padding) and
    `values` means nothing; batches of this kind come before those of floats.

    `starts` int64 [S, max T], where known, are the samples' start timestamps, ms, 0 for unknown.
    """

    labels: Sequence[Labels]
    values: NDArray[np.float64]
    timelines: Sequence[Timeline]
    timeline_of: NDArray[np.intp]
    kind: ValueKind = ValueKind.FLOAT
    starts: NDArray[np.int64] | None = None
    histograms: Grid | None = None
    apart: bool = False
    """Whether it is known of histograms that no series of the batch has floats, too."""


class Budget(Protocol):
    """What a query may still use; storage calls `charge` while it reads."""

    def charge(self, samples: int) -> None:
        """Count samples read; raises QueryLimitError, QueryTimeoutError or QueryCanceledError."""
        ...


@dataclass(frozen=True, slots=True)
class SelectHints:
    """What the caller will do with the rows, to be used or ignored: ms, function name, grouping.

    `newest`: of each series it needs the last sample only, be it a staleness marker.
    """

    step: int = 0
    range: int = 0
    func: str = ""
    grouping: tuple[str, ...] = ()
    by: bool = False
    newest: bool = False


class Querier(Protocol):
    """Reads samples of a store; times are inclusive at both ends."""

    def select(
        self,
        matchers: Sequence[Matcher],
        start: Millis,
        end: Millis,
        hints: SelectHints | None = None,
        budget: Budget | None = None,
    ) -> Iterator[RowBatch]:
        """Samples of all series that satisfy every matcher, with start <= timestamp <= end.

        A label set occurs in at most one row per value kind over all batches: sources, schema changes and blocks
        are joined before. Series without a sample in the range do not occur. Order is unspecified.
        """
        ...

    def label_names(self, matchers: Sequence[Sequence[Matcher]], start: Millis, end: Millis) -> list[str]:
        """Sorted names of labels of series that satisfy any of the matcher sets (no sets: all series)."""
        ...

    def label_values(self, name: str, matchers: Sequence[Sequence[Matcher]], start: Millis, end: Millis) -> list[str]:
        """Sorted values of label `name`, of series as in `label_names`."""
        ...

    def series(self, matchers: Sequence[Sequence[Matcher]], start: Millis, end: Millis) -> list[Labels]:
        """Sorted label sets of series as in `label_names` that may have samples in the range."""
        ...

    def metadata(self, name: str = "") -> dict[str, list[MetricMeta]]:
        """Known metadata by family name, each distinct (type, help, unit) once; only `name` if given."""
        ...
