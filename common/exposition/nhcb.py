"""Classic histograms of a scrape as native ones with custom buckets (`convert_classic_histograms_to_nhcb`). Pure.

As Prometheus converts them: the series `_bucket`, `_count` and `_sum` of one label set are one histogram. What does not
add up (buckets that are not cumulative, a count that is not that of the last bucket) is none, and its series are lost
unless classic ones are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from common.errors import FormatError
from common.exposition.lines import Exposed
from common.exposition.native import NativeSeries
from common.histogram import CUSTOM_SCHEMA, MAX_BUCKETS, FloatHistogram, side
from common.labels import NAME, Labels
from common.sample import MetricMeta, MetricType

_NOWHERE = -1


@dataclass(slots=True)
class _Group:
    """One histogram: where its series are among those of the scrape, `bounds` of buckets with their places."""

    labels: Labels
    timestamp: int | None
    bounds: dict[float, int] = field(default_factory=dict)
    count: int = _NOWHERE
    sum: int = _NOWHERE


@dataclass(frozen=True, slots=True)
class _Place:
    """A group: places in order of bounds, `custom` the bounds below +Inf, `open` where there is no bucket of that."""

    labels: Labels
    timestamp: int | None
    at: NDArray[np.intp]
    custom: tuple[float, ...]
    open: bool
    count: int
    sum: int

    @property
    def any(self) -> int:
        """One of its series."""
        return int(self.at[0]) if len(self.at) else max(self.count, self.sum)


@dataclass(slots=True)
class Converter:
    """Converts the scrapes of one target; what depends on label sets only is kept while they stay the same objects."""

    keep: bool
    """Whether the classic series are kept beside the native ones."""
    _labels: Sequence[Labels] = ()
    _meta: Sequence[MetricMeta] = ()
    _natives: frozenset[Labels] = frozenset()
    _places: list[_Place] = field(default_factory=list)
    _rest: NDArray[np.intp] | None = None
    _kept: Sequence[Labels] = ()

    def convert(self, found: Exposed) -> Exposed:
        """The scrape with native histograms in place of, or beside, classic ones; those that are native stay so."""
        natives = frozenset(each.labels for each in found.histograms)
        same = found.labels is self._labels and found.meta is self._meta and found.timestamps is None
        if not same or natives != self._natives:
            self._plan(found, natives)
        if not self._places:
            return found
        made = [made for place in self._places if (made := _histogram(place, found)) is not None]
        rest = found if self.keep or self._rest is None else found.only(self._rest, self._kept)
        return replace(rest, histograms=[*found.histograms, *made])

    def _plan(self, found: Exposed, natives: frozenset[Labels]) -> None:
        families = {meta.name for meta in found.meta if meta.type is MetricType.HISTOGRAM}
        groups: dict[tuple[Labels, int | None], _Group] = {}
        rest: list[int] = []
        for at, labels in enumerate(found.labels):
            stamp = None if found.timestamps is None else found.timestamps[at]
            if not _sort(labels, at, stamp, families, natives, groups):
                rest.append(at)
        self._labels, self._meta, self._natives = found.labels, found.meta, natives
        self._places = [_place(group) for group in groups.values()]
        self._rest = np.array(rest, np.intp)
        self._kept = [found.labels[at] for at in rest]


def _sort(
    labels: Labels,
    at: int,
    stamp: int | None,
    families: set[str],
    natives: frozenset[Labels],
    groups: dict[tuple[Labels, int | None], _Group],
) -> bool:
    """Whether the series is part of a classic histogram, to whose group it is added then."""
    base, _, suffix = labels.name.rpartition("_")
    if suffix not in ("bucket", "count", "sum") or base not in families:
        return False
    bound = 0.0
    if suffix == "bucket":
        try:
            # Python reads digits with underscores between them as numbers, too.
            bound = float(labels.get("le").replace("_", "x"))
        except ValueError:
            return False
        if bound != bound:
            return False
    key = Labels.from_sorted(tuple((n, base if n == NAME else v) for n, v in labels.pairs if n != "le"))
    if key in natives:
        return False
    group = groups.setdefault((key, stamp), _Group(key, stamp))
    if suffix == "bucket":
        group.bounds.setdefault(bound, at)
    elif suffix == "count":
        group.count = at
    else:
        group.sum = at
    return True


def _place(group: _Group) -> _Place:
    bounds = sorted(group.bounds)
    at = np.array([group.bounds[bound] for bound in bounds], np.intp)
    closed = bool(bounds) and bounds[-1] == float("inf")
    custom = tuple(bounds[:-1] if closed else bounds)
    return _Place(group.labels, group.timestamp, at, custom, not closed, group.count, group.sum)


def _histogram(place: _Place, found: Exposed) -> NativeSeries | None:
    """The histogram; None if its numbers do not add up, or a bound is infinite."""
    if place.custom[:1] == (-float("inf"),):
        return None
    values = found.values
    cumulative = values[place.at]
    if place.count != _NOWHERE:
        count = float(values[place.count])
    else:
        count = float(cumulative[-1]) if len(cumulative) else 0.0
    if place.open:
        cumulative = np.append(cumulative, count)
    counts = np.diff(cumulative, prepend=0.0)
    if len(counts) > MAX_BUCKETS or cumulative[-1] != count or (counts < 0).any():
        return None
    try:
        positive = side(0, counts)
    except FormatError:
        return None
    total = 0.0 if place.sum == _NOWHERE else float(values[place.sum])
    histogram = FloatHistogram(CUSTOM_SCHEMA, count, total, positive=positive, custom=place.custom)
    start = 0 if found.starts is None else int(found.starts[place.any])
    return NativeSeries(place.labels, histogram, place.timestamp, start)
