"""What every node of an evaluation yields: label sets, values, presence, one column a step."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from common.errors import QueryError
from common.histogram_grid import Grid
from common.labels import EMPTY, NAME, Labels
from common.order import in_order
from common.promql.stepnotes import StepNote

METADATA_LABELS = (NAME, "__type__", "__unit__")
"""Labels that say what a metric is; operations that change its meaning drop them."""

SAME_LABELSET = "vector cannot contain metrics with the same labelset"

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Times = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """Series over common steps: `values` float64 [S, K], `presence` bool [S, K], `timestamps` int64 ms [K].

    Where `presence` is False the value means nothing. Where `histograms` [S, K] holds one
    the cell is that histogram, not its value. `drop_name` (bool [S]) marks series whose metric name is removed
    at the end of the query. A scalar is one series with no labels, present at every step.
    """

    labels: Sequence[Labels]
    values: Floats
    presence: Bools
    timestamps: Times
    histograms: Grid | None = None
    drop_name: Bools | None = None

    @property
    def cells(self) -> int:
        """Number of cells, present or not."""
        return self.presence.size

    def is_histogram(self) -> Bools | None:
        """Which present cells are histograms, bool [S, K]; None if none can be."""
        if self.histograms is None:
            return None
        return self.histograms.there & self.presence

    def floats_only(self) -> "Matrix":
        """The same without its histogram cells."""
        mask = self.is_histogram()
        if mask is None:
            return self
        return replace(self, presence=self.presence & ~mask, histograms=None)

    def rows(self, index: NDArray[np.intp] | Sequence[int]) -> "Matrix":
        """The series at `index`, in that order."""
        at = np.asarray(index, dtype=np.intp)
        return Matrix(
            [self.labels[i] for i in at],
            self.values[at],
            self.presence[at],
            self.timestamps,
            None if self.histograms is None else self.histograms[at],
            None if self.drop_name is None else self.drop_name[at],
        )

    def without_empty(self) -> "Matrix":
        """Only series that are present at some step."""
        kept = np.logical_or.reduce(self.presence, axis=1)
        return self if np.logical_and.reduce(kept) else self.rows(np.flatnonzero(kept))

    def broadcast(self, timestamps: Times) -> "Matrix":
        """A matrix of one step, repeated at every one of `timestamps`."""
        shape = (len(self.labels), len(timestamps))
        return replace(
            self,
            values=np.broadcast_to(self.values, shape),
            presence=np.broadcast_to(self.presence, shape),
            timestamps=timestamps,
            histograms=None if self.histograms is None else self.histograms.broadcast(shape),
        )

    def flags(self) -> Bools:
        """`drop_name`, as an array even where none is set."""
        return np.zeros(len(self.labels), dtype=np.bool_) if self.drop_name is None else self.drop_name


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Raw samples of one series: `timestamps` int64 ms [T], `values` float64 [T].

    Where `histograms` ([T], or None for none) holds one the sample is that.
    """

    labels: Labels
    timestamps: Times
    values: Floats
    histograms: Grid | None = None


def of_each(there: Bools, rows: int) -> Bools:
    """`there` [K] for each of some rows."""
    # A twentieth of what broadcasting takes, for the many queries of one row.
    return there[None] if rows == 1 else np.broadcast_to(there, (rows, len(there)))


def empty(timestamps: Times) -> Matrix:
    """No series."""
    shape = (0, len(timestamps))
    return Matrix([], np.empty(shape), np.empty(shape, dtype=np.bool_), timestamps)


def scalar(values: Floats, timestamps: Times) -> Matrix:
    """One series without labels, present everywhere; `values` float64 [K]."""
    return Matrix([EMPTY], values[None, :], np.ones((1, len(timestamps)), dtype=np.bool_), timestamps)


def concat(parts: Iterable[Matrix], timestamps: Times) -> Matrix:
    """The series of all parts, one after the other; all have the steps `timestamps`."""
    kept = [part for part in parts if len(part.labels)]
    if not kept:
        return empty(timestamps)
    if len(kept) == 1:
        return kept[0]
    histograms: Grid | None = None
    if any(part.histograms is not None for part in kept):
        histograms = Grid.joined(
            [Grid.none(part.presence.shape) if part.histograms is None else part.histograms for part in kept]
        )
    flags = None
    if any(part.drop_name is not None for part in kept):
        flags = np.concatenate([part.flags() for part in kept])
    return Matrix(
        [labels for part in kept for labels in part.labels],
        np.concatenate([part.values for part in kept]),
        np.concatenate([part.presence for part in kept]),
        timestamps,
        histograms,
        flags,
    )


def without_metadata(labels: Labels) -> Labels:
    """`labels` without metric name, type and unit."""
    return labels.drop(METADATA_LABELS)


def has_duplicates(labels: Sequence[Labels]) -> bool:
    """Whether a label set occurs twice."""
    return len(labels) > 1 and len(set(labels)) < len(labels)


def merge_same_labels(matrix: Matrix) -> Matrix:
    """Join series of equal label sets; QueryError where two are present at the same step."""
    if not has_duplicates(matrix.labels):
        return matrix
    slot: dict[Labels, int] = {}
    target = np.array([slot.setdefault(labels, len(slot)) for labels in matrix.labels], dtype=np.intp)
    shape = (len(slot), matrix.presence.shape[1])
    values = np.zeros(shape)
    presence = np.zeros(shape, dtype=np.bool_)
    flags = np.zeros(len(slot), dtype=np.bool_)
    places = np.full(shape, -1, np.intp)
    own = matrix.flags()
    for row, to in enumerate(target):
        here = matrix.presence[row]
        if (presence[to] & here).any():
            raise QueryError(SAME_LABELSET)
        presence[to] |= here
        values[to, here] = matrix.values[row, here]
        flags[to] |= own[row]
        if matrix.histograms is not None:
            places[to, here] = matrix.histograms.places[row, here]
    histograms = None if matrix.histograms is None else Grid(places, matrix.histograms.blocks)
    return Matrix(list(slot), values, presence, matrix.timestamps, histograms, flags)


def remove_names(matrix: Matrix) -> Matrix:
    """Carry out delayed removal: drop the metadata labels of marked series and join what became equal."""
    if matrix.drop_name is None:
        return matrix
    if not matrix.drop_name.any():
        return replace(matrix, drop_name=None)
    labels = [
        without_metadata(labels) if drop else labels
        for labels, drop in zip(matrix.labels, matrix.drop_name, strict=True)
    ]
    return replace(merge_same_labels(replace(matrix, labels=labels)), drop_name=None)


def sort_by_labels(matrix: Matrix) -> Matrix:
    """The series in order of their labels."""
    if len(matrix.labels) < 2:
        return matrix
    order = in_order(range(len(matrix.labels)), key=lambda i: matrix.labels[i].pairs)
    return matrix if order == list(range(len(order))) else matrix.rows(order)


@dataclass(slots=True)
class Notes:
    """Annotations of one query, each text once, with `(line:column)` of what caused it last."""

    query: str
    warnings: dict[str, str] = field(default_factory=dict)
    """Those with the position by those without."""
    infos: dict[str, str] = field(default_factory=dict)
    native: bool = False
    """Whether native histograms were looked at: their sums depend on the order of series."""
    by_step: dict[str, StepNote] = field(default_factory=dict)
    """Of the infos those of which is known at which steps of the query they arise."""
    subqueries: int = 0
    """How many subqueries what is evaluated now stands in: their steps are not the query's."""

    def warn(self, text: str, start: int) -> None:
        """Add `PromQL warning: text (position)`; `start` is a byte offset into the query."""
        text = f"PromQL warning: {text}"
        self.warnings[text] = f"{text} ({self._position(start)})"

    def info(self, text: str, start: int) -> None:
        """Add `PromQL info: text (position)`; `start` is a byte offset into the query."""
        text = f"PromQL info: {text}"
        self.infos[text] = f"{text} ({self._position(start)})"

    def info_by_step(
        self, text: str, start: int, times: Times, counts: NDArray[np.int64], fixes: Floats | None = None
    ) -> None:
        """Add an info for evenly spaced steps `times` [K]; counts and fixes are as in StepNote."""
        note = StepNote(self.query, f"PromQL info: {text}", self._position(start), counts, fixes)
        step = int(times[1] - times[0]) if len(times) > 1 else 0
        told = note.told(int(times[0]), step)
        key = note.text if fixes is None else told
        if key in self.infos or self.subqueries:
            # Arises elsewhere, too.
            self.by_step.pop(key, None)
        else:
            self.by_step[key] = note
        self.infos[key] = told

    def _position(self, start: int) -> str:
        before = self.query.encode()[:start]
        return f"{before.count(10) + 1}:{start - (before.rfind(10) + 1) + 1}"
