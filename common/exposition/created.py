"""Start timestamps of a scrape: OpenMetrics's `_created` samples as what they say of their family's series. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from common.exposition.lines import Exposed
from common.exposition.parse import FAMILY_LABEL, SUFFIXES
from common.labels import NAME, Labels
from common.sample import MetricMeta, MetricType

CREATED = "_created"
_FARTHEST = float(2**62)


@dataclass(slots=True)
class StartReader:
    """Reads the scrapes of one target; what depends on label sets is kept while they stay the same objects."""

    _labels: Sequence[Labels] = ()
    _meta: Sequence[MetricMeta] = ()
    _kept: Sequence[Labels] = ()
    _rest: NDArray[np.intp] | None = None
    _of: NDArray[np.intp] | None = None

    def read(self, found: Exposed) -> Exposed:
        """The scrape with its `starts`, without the `_created` samples of counters, histograms and summaries."""
        if found.labels is not self._labels or found.meta is not self._meta:
            self._plan(found)
        if self._rest is None or self._of is None:
            return found
        seconds = np.append(found.values, 0.0)[self._of]
        with np.errstate(invalid="ignore", over="ignore"):
            ms = np.where(np.abs(seconds * 1000) < _FARTHEST, seconds * 1000, 0.0).astype(np.int64)
        return replace(found.only(self._rest, self._kept), starts=ms)

    def _plan(self, found: Exposed) -> None:
        kinds = {meta.name: meta.type for meta in found.meta if meta.type in SUFFIXES}
        created: dict[tuple[str, Labels], int] = {}
        rest: list[int] = []
        for at, labels in enumerate(found.labels):
            name = labels.name
            base = name.removesuffix(CREATED)
            if name.endswith(CREATED) and base in kinds:
                created[base, _key(labels, kinds[base])] = at
            else:
                rest.append(at)
        self._labels, self._meta = found.labels, found.meta
        self._rest = self._of = None
        if created:
            nowhere = len(found.labels)
            of = []
            for at in rest:
                base = _family(found.labels[at].name, kinds)
                of.append(created.get((base, _key(found.labels[at], kinds[base])), nowhere) if base else nowhere)
            self._rest, self._of = np.array(rest, np.intp), np.array(of, np.intp)
            self._kept = [found.labels[at] for at in rest]


def _key(labels: Labels, kind: MetricType) -> Labels:
    return labels.drop((NAME, FAMILY_LABEL.get(kind, NAME)))


def _family(name: str, kinds: dict[str, MetricType]) -> str:
    """The family that a series of this name belongs to; empty if it is none that has `_created` samples."""
    for suffix in {suffix for suffixes in SUFFIXES.values() for suffix in suffixes}:
        base = name.removesuffix(suffix)
        if name.endswith(suffix) and base in kinds and suffix in SUFFIXES[kinds[base]]:
            return base
    return ""
