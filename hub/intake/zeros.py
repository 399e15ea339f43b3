"""Zero samples at start timestamps (`--enable-feature=created-timestamp-zero-ingestion`).

A counter that was created between two scrapes had the value 0 then; with a sample that says so, `rate` and `increase`
see all that it counted. There is one, as in Prometheus, where the series has no sample between its start and the sample
that tells of it, and these are at most REACH_MS apart.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.histogram import FloatHistogram, ResetHint
from common.labels import NAME, Labels, Matcher, MatchType
from common.sample import Millis
from common.tsdb.querier import RowBatch

ZERO_SAMPLES = "created-timestamp-zero-ingestion"
REACH_MS = 3_600_000
"""How old a start may be: Prometheus's head takes nothing older than half the span of a block either."""
MAX_REMEMBERED = 1_000_000
"""Series whose start is remembered; beyond, all are forgotten and looked up anew."""
_ASKED = 500
"""Series that are looked up at once."""


class ZeroStore(Protocol):
    """The part of the store that this needs."""

    def select(self, matchers: Sequence[Matcher], start: Millis, end: Millis) -> Iterator[RowBatch]:
        """Samples of matching series, as a Querier."""
        ...

    def append_columns(
        self, labels: Sequence[Labels], rows: NDArray[np.intp], times: NDArray[np.int64], values: NDArray[np.float64]
    ) -> int:
        """Take loose samples."""
        ...

    def append_histograms(self, samples: Sequence[tuple[Labels, int, FloatHistogram | None, int]]) -> int:
        """Take native histograms."""
        ...


@dataclass(frozen=True, slots=True)
class Started:
    """A series' full label set, and a sample's start and own time (ms); its histogram if it is one."""

    labels: Labels
    start: int
    time: int
    histogram: FloatHistogram | None = None


class Zeros:
    """Writes zero samples for one writer, whose starts it remembers, so that only new ones cost anything."""

    def __init__(self, store: ZeroStore) -> None:
        self._store = store
        self._known: dict[Labels, int] = {}

    def take(self, samples: Sequence[Started]) -> int:
        """Append zeros for starts that are new, before the samples are there themselves; how many.

        Errors are those of the store's append; the starts are tried again then.
        """
        # A start that is not before its sample may be before the next one.
        fresh = [each for each in samples if 0 < each.start < each.time and self._known.get(each.labels) != each.start]
        if not fresh:
            return 0
        recent = _newest([each for each in fresh if each.time - REACH_MS <= each.start])
        written = 0
        for at in range(0, len(recent), _ASKED):
            part = recent[at : at + _ASKED]
            taken = self._taken(part)
            written += self._write([each for each in part if each.labels not in taken])
        if len(self._known) + len(fresh) > MAX_REMEMBERED:
            self._known.clear()
        self._known.update((each.labels, each.start) for each in fresh)
        return written

    def _write(self, samples: Sequence[Started]) -> int:
        floats = [each for each in samples if each.histogram is None]
        if floats:
            times = np.array([each.start for each in floats], np.int64)
            rows = np.arange(len(floats), dtype=np.intp)
            self._store.append_columns([each.labels for each in floats], rows, times, np.zeros(len(floats)))
        histograms = [(each.labels, each.start, zero(each.histogram), 0) for each in samples if each.histogram]
        if histograms:
            self._store.append_histograms(histograms)
        return len(samples)

    def _taken(self, samples: Sequence[Started]) -> set[Labels]:
        """Those which have a sample, or a staleness marker, from their start to their time."""
        wanted: Mapping[Labels, Started] = {each.labels: each for each in samples}
        first, last = min(each.start for each in samples), max(each.time for each in samples)
        found: set[Labels] = set()
        for batch in self._store.select(shared(list(wanted)), Millis(first), Millis(last)):
            for row, labels in enumerate(batch.labels):
                if (each := wanted.get(labels)) is not None:
                    times = batch.timelines[batch.timeline_of[row]].timestamps
                    low, high = np.searchsorted(times, [each.start, each.time + 1])
                    if high > low:
                        found.add(labels)
        return found


def _newest(samples: Sequence[Started]) -> list[Started]:
    """One of each series, that with the youngest start."""
    found: dict[Labels, Started] = {}
    for each in samples:
        known = found.get(each.labels)
        if known is None or each.start > known.start:
            found[each.labels] = each
    return list(found.values())


def zero(histogram: FloatHistogram) -> FloatHistogram:
    """An empty histogram with the same buckets, which is a counter reset by what it says."""
    return FloatHistogram(
        histogram.schema, zero_threshold=histogram.zero_threshold, custom=histogram.custom, hint=ResetHint.RESET
    )


def shared(series: Sequence[Labels]) -> list[Matcher]:
    """Matchers that all of the series satisfy: labels that they share, and their names."""
    common = set(series[0].pairs).intersection(*(each.pairs for each in series[1:]))
    matchers = [Matcher(MatchType.EQ, name, value) for name, value in sorted(common)]
    names = sorted({each.name for each in series})
    if len(names) > 1:
        matchers.append(Matcher(MatchType.RE, NAME, "|".join(_escaped(name) for name in names)))
    return matchers


def _escaped(name: str) -> str:
    return "".join(char if char.isalnum() or char == "_" else "\\" + char for char in name)
