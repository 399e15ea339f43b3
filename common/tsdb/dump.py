"""Everything a Querier has, as text: OpenMetrics or the text format, with timestamps, family by family."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from common.exposition.encode import Format, format_value, series_text
from common.exposition.families import Family, arrange
from common.labels import NAME, Labels, Matcher, MatchType, match_all
from common.sample import Millis
from common.tsdb.querier import Querier, Timeline, ValueKind

MAX_CELLS: Final = 1 << 22
"""Samples held at once, unless a single metric has more: 32 MB of values."""
_PLAIN = re.compile(r"[A-Za-z0-9_:/-]+\Z")
_MAX_PATTERN = 400

Matchers = Sequence[Matcher]


@dataclass(slots=True)
class Counts:
    """What was written, and what no text can hold: staleness markers and native histograms."""

    samples: int = 0
    series: int = 0
    families: int = 0
    stale: int = 0
    histograms: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    labels: Labels
    times: NDArray[np.int64]
    values: NDArray[np.float64]


class _Lines:
    """Timelines of a batch without staleness markers, each looked at once, so that rows share their times."""

    def __init__(self, lines: Sequence[Timeline]) -> None:
        self._lines = lines
        self._known: dict[int, tuple[NDArray[np.int64], slice | NDArray[np.bool_], int]] = {}

    def get(self, number: int) -> tuple[NDArray[np.int64], slice | NDArray[np.bool_], int]:
        """Times of the samples, which slots these are, and how many others there are."""
        found = self._known.get(number)
        if found is None:
            line = self._lines[number]
            if line.stale is None:
                found = line.timestamps, slice(None), 0
            else:
                found = line.timestamps[~line.stale], ~line.stale, int(np.count_nonzero(line.stale))
            self._known[number] = found
        return found


class Dump:
    """Samples of a Querier from `start` to `end` (ms, inclusive) of series that satisfy one of `sets` (none: all)."""

    def __init__(
        self,
        querier: Querier,
        cells: Mapping[str, int],
        *,
        sets: Sequence[Matchers] = (),
        start: Millis,
        end: Millis,
        form: Format = "openmetrics",
        streams: bool = True,
        max_cells: int = MAX_CELLS,
    ) -> None:
        """`cells` bounds the samples by metric name; `streams`: a selection of any size comes in bounded batches."""
        self.counts = Counts()
        self._querier = querier
        self._cells = Counter(dict(cells))
        self._sets: Sequence[Matchers] = sets or ((),)
        self._start, self._end = start, end
        self._form = form
        self._streams = streams
        self._max_cells = max_cells

    def pages(self) -> Iterator[str]:
        """The text in pieces, `# EOF` last in OpenMetrics; `counts` is complete at the end.

        A timestamp in OpenMetrics has the digits that make Prometheus, which multiplies and cuts off, read the same
        millisecond again. NaN is NaN: staleness markers, which would become one, are left out.
        """
        names = self._querier.label_values(NAME, list(self._sets), self._start, self._end)
        together: list[Family] = []
        held = 0
        for family in arrange(names, self._querier.metadata(), self._series, self._form):
            size = sum(self._cells[name] for name in family.metrics)
            if held + size > self._max_cells and together:
                yield from self._write(together)
                together, held = [], 0
            if size <= self._max_cells:
                together.append(family)
                held += size
            elif family.grouped or not self._streams:
                parts = (self._read(family.metrics, part) for part in self._parts(family, size))
                yield from self._once(family, (self._text(family, list(rows)) for rows in parts))
            else:
                yield from self._once(family, [self._rows(self._read(family.metrics, ()))])
        yield from self._write(together)
        if self._form == "openmetrics":
            yield "# EOF\n"

    def _series(self, names: Sequence[str]) -> list[Labels]:
        asked = [(*matchers, *each) for matchers in _named(names) for each in self._sets]
        return self._querier.series(asked, self._start, self._end)

    def _write(self, families: Sequence[Family]) -> Iterator[str]:
        """Families small enough to be held together."""
        names = [name for family in families for name in family.metrics]
        rows: dict[str, list[_Row]] = {}
        for row in self._read(names, ()):
            rows.setdefault(row.labels.name, []).append(row)
        for family in families:
            mine = [row for name in family.metrics for row in rows.pop(name, ())]
            yield from self._once(family, [self._text(family, mine)])

    def _once(self, family: Family, parts: Iterable[Iterator[str]]) -> Iterator[str]:
        """The family's head, if there is anything below it."""
        head = family.head(self._form)
        for part in parts:
            for text in part:
                if head:
                    self.counts.families += 1
                    yield head
                    head = ""
                yield text

    def _read(self, names: Sequence[str], extra: Matchers) -> Iterator[_Row]:
        """Series of some metrics with their samples, each once."""
        for matchers in _named(names):
            for number, each in enumerate(self._sets):
                before = self._sets[:number]
                for batch in self._querier.select((*matchers, *each, *extra), self._start, self._end):
                    native = batch.kind is ValueKind.HISTOGRAM
                    lines = _Lines(batch.timelines)
                    for row, labels in enumerate(batch.labels):
                        if any(match_all(one, labels) for one in before):
                            continue
                        times, keep, stale = lines.get(int(batch.timeline_of[row]))
                        self.counts.stale += stale
                        if native:
                            self.counts.histograms += len(times)
                        elif len(times):
                            self.counts.series += 1
                            self.counts.samples += len(times)
                            yield _Row(labels, times, batch.values[row, : len(times) + stale][keep])

    def _parts(self, family: Family, size: int) -> Iterator[Matchers]:
        """Matchers that divide a large family into parts that can be held, never a metric of it."""
        series = self._series(family.metrics)
        metrics = Counter(family.metric(labels) for labels in series)
        yield from self._divide(metrics, size / max(1, len(series)), ())

    def _divide(self, metrics: Mapping[Labels, int], each: float, given: Matchers) -> Iterator[Matchers]:
        sizes: dict[str, Counter[str]] = {}
        names = {name for metric in metrics for name, _ in metric}
        for metric, count in metrics.items():
            for name in names:
                sizes.setdefault(name, Counter())[metric.get(name)] += count
        if sum(metrics.values()) * each <= self._max_cells or all(len(values) < 2 for values in sizes.values()):
            yield given
            return
        name = max(sorted(sizes), key=lambda name: len(sizes[name]))
        for values in _bins(sizes[name], self._max_cells / each):
            kind = MatchType.EQ if len(values) == 1 else MatchType.RE
            matcher = Matcher(kind, name, "|".join(value.replace(".", "\\.") for value in values))
            if kind is MatchType.EQ:
                matcher = Matcher(kind, name, values[0])
            chosen = {metric: count for metric, count in metrics.items() if metric.get(name) in values}
            yield from self._divide(chosen, each, (*given, matcher))

    # Text

    def _text(self, family: Family, rows: list[_Row]) -> Iterator[str]:
        """Rows that are held, in order of labels."""
        if family.grouped:
            return self._points(family, rows)
        return self._rows(sorted(rows, key=lambda row: row.labels))

    def _rows(self, rows: Iterable[_Row]) -> Iterator[str]:
        """Series one after the other."""
        last: NDArray[np.int64] | None = None
        moments: list[str] = []
        for row in rows:
            if row.times is not last:
                moments, last = self._moments(row.times), row.times
            start = _prefix(row.labels)
            yield "".join([f"{start}{value} {at}\n" for value, at in zip(_texts(row.values), moments, strict=True)])

    def _points(self, family: Family, rows: list[_Row]) -> Iterator[str]:
        """Metrics one after the other, of each the samples of one time together."""
        metrics: dict[Labels, list[_Row]] = {}
        for row in rows:
            metrics.setdefault(family.metric(row.labels), []).append(row)
        for metric in sorted(metrics):
            members = sorted(metrics[metric], key=lambda row: family.place(row.labels))
            prefixes = [_prefix(row.labels) for row in members]
            times = np.concatenate([row.times for row in members])
            order = np.argsort(times, kind="stable")
            who = np.repeat(np.arange(len(members)), [len(row.times) for row in members])[order].tolist()
            values = _texts(np.concatenate([row.values for row in members])[order])
            moments = self._moments(times[order])
            yield "".join([f"{prefixes[i]}{value} {at}\n" for i, value, at in zip(who, values, moments, strict=True)])

    def _moments(self, times: NDArray[np.int64]) -> list[str]:
        return seconds(times) if self._form == "openmetrics" else list(map(str, times.tolist()))


def seconds(times: NDArray[np.int64]) -> list[str]:
    """Milliseconds (int64 [T]) as decimal seconds t with `int(t * 1000)` and `round(t * 1000)` the same again.

    Mostly the obvious text; where the float product falls short (1.001 s is 1000.9999999999999 ms) the next float.
    """
    moments = times / 1000.0
    short = (moments * 1000).astype(np.int64) != times
    if short.any():
        moments[short] = np.nextafter(moments[short], np.where(times[short] < 0, -np.inf, np.inf))
    return [repr(each).removesuffix(".0") for each in moments.tolist()]


def _texts(values: NDArray[np.float64]) -> list[str]:
    show = repr if np.isfinite(values).all() else format_value
    return list(map(show, values.tolist()))


def _prefix(labels: Labels) -> str:
    return series_text(labels.name, [pair for pair in labels.pairs if pair[0] != NAME]) + " "


def _named(names: Sequence[str]) -> list[tuple[Matcher, ...]]:
    """Matchers for metrics with one of these names: one selection where the names need no escapes."""
    plain = [name for name in names if _PLAIN.match(name)]
    odd = [name for name in names if not _PLAIN.match(name)]
    found: list[tuple[Matcher, ...]] = [(Matcher(MatchType.EQ, NAME, name),) for name in odd]
    return [*found, (Matcher(MatchType.RE, NAME, "|".join(plain)),)] if plain else found


def _bins(sizes: Mapping[str, int], most: float) -> Iterator[list[str]]:
    """Values of a label in bins of at most `most` series (but one value at least) that a short expression can name."""
    held: list[str] = []
    count = length = 0
    for value, size in sorted(sizes.items()):
        if not _PLAIN.match(value.replace(".", "")):
            yield [value]
            continue
        if held and (count + size > most or length + len(value) > _MAX_PATTERN):
            yield held
            held, count, length = [], 0, 0
        held.append(value)
        count += size
        length += len(value) + value.count(".") + 1
    if held:
        yield held
