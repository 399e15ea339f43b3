"""Derived label sets, remembered: the same series come by again and again, and label work is Python, not numpy."""

from collections.abc import Callable, Iterable, Sequence

from common.labels import NAME, Labels
from common.promql.matrix import METADATA_LABELS

MAX_ENTRIES = 200_000
"""Label sets that one derivation remembers; when it is full it starts anew."""

MAX_DERIVATIONS = 64
"""Derivations (grouping clauses) that are remembered; when there are more, all start anew."""


class _Derived(dict[Labels, Labels]):
    """Label set to derived label set, computed when first asked for."""

    def __init__(self, derive: Callable[[Labels], Labels]) -> None:
        super().__init__()
        self._derive = derive

    def __missing__(self, labels: Labels) -> Labels:
        if len(self) >= MAX_ENTRIES:
            self.clear()
        value = self[labels] = self._derive(labels)
        return value


class LabelCache:
    """Bounded memory of `keep` and `drop` on label sets; may be used from several threads."""

    def __init__(self) -> None:
        self._derived: dict[tuple[bool, frozenset[str]], _Derived] = {}

    def _of(self, keep: bool, names: frozenset[str]) -> _Derived:
        key = (keep, names)
        found = self._derived.get(key)
        if found is None:
            if len(self._derived) >= MAX_DERIVATIONS:
                self._derived.clear()
            found = self._derived[key] = _Derived(
                (lambda labels: labels.keep(names)) if keep else (lambda labels: labels.drop(names))
            )
        return found

    def keep(self, labels: Iterable[Labels], names: frozenset[str]) -> list[Labels]:
        """Each label set with only `names`."""
        derived = self._of(True, names)
        return [derived[x] for x in labels]

    def drop(self, labels: Iterable[Labels], names: frozenset[str]) -> list[Labels]:
        """Each label set without `names`."""
        derived = self._of(False, names)
        return [derived[x] for x in labels]

    def without_metadata(self, labels: Sequence[Labels]) -> list[Labels]:
        """Each label set without metric name, type and unit."""
        return self.drop(labels, _METADATA)


_METADATA = frozenset(METADATA_LABELS)
NAME_ONLY = frozenset((NAME,))
