"""Label sets that a rule makes of those of its query's result, remembered from one evaluation to the next. Pure."""

from collections.abc import Callable, Sequence

from common.labels import Labels


class Naming:
    """A function of label sets: what it gave in the last call is kept, since most come again as the same objects."""

    def __init__(self, derive: Callable[[Labels], Labels]) -> None:
        self._derive = derive
        # By identity, which needs no call into Python as hashing a label set does; each entry keeps its key alive.
        self._known: dict[int, tuple[Labels, Labels]] = {}

    def all_of(self, found: Sequence[Labels]) -> list[Labels]:
        """What it gives for each; equal results of different label sets are one object."""
        try:
            return [self._known[mark][1] for mark in map(id, found)]
        except KeyError:
            pass
        before, distinct = self._known, dict[Labels, Labels]()
        self._known = {}
        for labels in found:
            entry = before.get(id(labels))
            result = self._derive(labels) if entry is None else entry[1]
            self._known[id(labels)] = labels, distinct.setdefault(result, result)
        return [self._known[mark][1] for mark in map(id, found)]


def distinct(labels: Sequence[Labels]) -> bool:
    """Whether no two of the results of one call are equal, given different label sets."""
    return len(set(map(id, labels))) == len(labels)
