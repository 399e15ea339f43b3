"""Derived label sets, remembered: the same series come by again and again, and label work is Python, not numpy."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from common.labels import NAME, Labels
from common.promql.matrix import METADATA_LABELS

MAX_ENTRIES = 200_000
"""Label sets that one derivation remembers; when it is full it starts anew."""

MAX_DERIVATIONS = 256
"""Derivations (grouping clauses) that are remembered; when there are more, those that came first go."""


class Numbering:
    """Numbers label sets as they come, equal ones alike; `labels` are the distinct ones by number."""

    def __init__(self) -> None:
        self.labels: list[Labels] = []
        self._numbers: dict[Labels, int] = {}
        # By identity first: equal ones are mostly one object, and hashing them by value is slow.
        self._marks: dict[int, int] = {}
        self._alive: list[Labels] = []

    def all_of(self, labels: Sequence[Labels]) -> NDArray[np.intp]:
        """The number of each."""
        known, marks = self._marks, list(map(id, labels))
        fresh = dict(zip(marks, labels, strict=True))
        if known:
            fresh = {mark: each for mark, each in fresh.items() if mark not in known}
        if fresh:
            self._alive.extend(fresh.values())
            self._add(fresh)
        return np.fromiter(map(known.__getitem__, marks), np.intp, len(marks))

    def _add(self, fresh: dict[int, Labels]) -> None:
        distinct = dict.fromkeys(fresh.values())
        if len(distinct) == len(fresh) and not self.labels:
            self._marks.update(zip(fresh, range(len(fresh)), strict=False))
            self._numbers = dict(zip(distinct, range(len(distinct)), strict=True))
            self.labels.extend(distinct)
            return
        for mark, each in fresh.items():
            number = self._marks[mark] = self._numbers.setdefault(each, len(self.labels))
            if number == len(self.labels):
                self.labels.append(each)


def by_number(
    numbers: NDArray[np.intp], count: int, within: NDArray[np.float64] | None = None
) -> list[NDArray[np.intp]]:
    """For each number below `count` the places that have it, ascending, or as `within` [places] ascends."""
    order = np.argsort(numbers, kind="stable") if within is None else np.lexsort((within, numbers))
    ends = np.cumsum(np.bincount(numbers, minlength=count)).tolist()
    return [order[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


class _Derived(dict[int, tuple[Labels, Labels]]):
    """Label set, by identity, to itself and the derived one; equal derived ones are one object.

    Hashing a label set by value is a call into Python, by identity it is not. An entry keeps its label set alive, so
    that no other object has its identity.
    """

    def __init__(self, derive: Callable[[Labels], Labels]) -> None:
        super().__init__()
        self._derive = derive
        self._distinct: dict[Labels, Labels] = {}

    def all_of(self, labels: Iterable[Labels]) -> list[Labels]:
        """The derived label set of each."""
        found = list(labels)
        try:
            return [self[key][1] for key in map(id, found)]
        except KeyError:
            return [self._one(each) for each in found]

    def _one(self, labels: Labels) -> Labels:
        entry = self.get(id(labels))
        if entry is None:
            if len(self) >= MAX_ENTRIES:
                self.clear()
                self._distinct = {}
            value = self._derive(labels)
            entry = self[id(labels)] = labels, self._distinct.setdefault(value, value)
        return entry[1]


class LabelCache:
    """Bounded memory of `keep` and `drop` on label sets; may be used from several threads."""

    def __init__(self) -> None:
        self._derived: dict[tuple[bool, frozenset[str]], _Derived] = {}

    def _of(self, keep: bool, names: frozenset[str]) -> _Derived:
        key = (keep, names)
        found = self._derived.get(key)
        if found is None:
            # Other threads may do so, too.
            for oldest in list(self._derived)[: max(0, len(self._derived) + 1 - MAX_DERIVATIONS)]:
                self._derived.pop(oldest, None)
            found = self._derived[key] = _Derived(
                (lambda labels: labels.keep(names)) if keep else (lambda labels: labels.drop(names))
            )
        return found

    def keep(self, labels: Iterable[Labels], names: frozenset[str]) -> list[Labels]:
        """Each label set with only `names`."""
        return self._of(True, names).all_of(labels)

    def drop(self, labels: Iterable[Labels], names: frozenset[str]) -> list[Labels]:
        """Each label set without `names`."""
        return self._of(False, names).all_of(labels)

    def without_metadata(self, labels: Sequence[Labels]) -> list[Labels]:
        """Each label set without metric name, type and unit."""
        return self.drop(labels, _METADATA)


_METADATA = frozenset(METADATA_LABELS)
NAME_ONLY = frozenset((NAME,))
