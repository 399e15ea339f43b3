"""Annotations that arise step by step, kept so that those of neighbouring ranges can be put together. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from common.promql import gonumber
from common.promql.gotext import short_float
from common.times import rfc3339


@dataclass(frozen=True, slots=True, eq=False)
class StepNote:
    """An info of `query`: how many samples cause it at each step, int64 [K].

    `text` is what it says of any, `position` where. `fixes` float64 [3, K] are the lowest and highest upper bound and
    the largest difference of histograms that were made monotonic, None for other infos.
    """

    query: str
    text: str
    position: str
    counts: NDArray[np.int64]
    fixes: NDArray[np.float64] | None = None

    def told(self, first: int, step: int) -> str:
        """The annotation; the steps are `first`, `first + step`, … (ms), and at one at least it arises."""
        if self.fixes is None:
            return f"{self.text} ({self.position})"
        at = np.flatnonzero(self.counts)
        lowest, highest, largest = self.fixes[:, at]
        begin, end = (_moment(first + int(at[edge]) * step) for edge in (0, -1))
        return (
            f"{self.text}, from buckets {short_float(float(lowest.min()))} to {short_float(float(highest.max()))},"
            f" with a max diff of {gonumber.two_digits(float(largest.max()))}, over {int(self.counts.sum())} samples"
            f" from {begin} to {end} ({self.position})"
        )

    def cut(self, begin: int, end: int) -> "StepNote | None":
        """For the steps `begin` <= i < `end`; None if it arises at none."""
        counts = self.counts[begin:end]
        if not counts.any():
            return None
        return replace(self, counts=counts, fixes=None if self.fixes is None else self.fixes[:, begin:end])

    def like(self, other: "StepNote") -> bool:
        """Whether the other says the same of other steps."""
        mine, theirs = (self.query, self.text, self.position), (other.query, other.text, other.position)
        return mine == theirs and (self.fixes is None) == (other.fixes is None)


def put_together(notes: Sequence[StepNote | None], counts: Sequence[int]) -> StepNote | None:
    """One note for ranges of `counts` steps that follow each other; all that are not None are alike."""
    some = next((note for note in notes if note is not None), None)
    if some is None:
        return None
    parts = [np.zeros(n, np.int64) if note is None else note.counts for note, n in zip(notes, counts, strict=True)]
    fixes = None
    if some.fixes is not None:
        fixes = np.concatenate(
            [
                np.zeros((3, n)) if note is None or note.fixes is None else note.fixes
                for note, n in zip(notes, counts, strict=True)
            ],
            axis=1,
        )
    return replace(some, counts=np.concatenate(parts), fixes=fixes)


def _moment(ms: int) -> str:
    return rfc3339(int(ms / 1000) * 1000)
