"""The dictionary model of a store: what every `Querier` must answer, written to be obviously right."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from common.labels import Labels, Matcher, match_all
from common.sample import MetricMeta, Millis, is_stale
from common.tsdb.querier import Budget, RowBatch, SelectHints, Timeline


class MemoryQuerier:
    """A Querier over plain dicts, for tests and small data. Writing is not thread-safe."""

    def __init__(self, rows_per_batch: int = 4096) -> None:
        """`rows_per_batch` bounds the rows of a batch; 1 makes readers prove that they join batches."""
        self._series: dict[Labels, dict[int, float]] = {}
        self._meta: dict[str, list[MetricMeta]] = {}
        self._rows_per_batch = rows_per_batch
        self.duplicates = 0

    def add(self, labels: Labels, timestamp: int, value: float) -> bool:
        """Store one sample (ms; STALE_NAN is a staleness marker); the first one at a timestamp wins, False if late."""
        samples = self._series.setdefault(labels, {})
        if timestamp in samples:
            self.duplicates += 1
            return False
        samples[timestamp] = value
        return True

    def add_metadata(self, meta: MetricMeta) -> None:
        """Make `meta` known, once."""
        known = self._meta.setdefault(meta.name, [])
        if meta not in known:
            known.append(meta)

    def delete(self, matchers: Sequence[Matcher], start: int, end: int) -> None:
        """Forget samples of matching series with start <= timestamp <= end."""
        for labels in [x for x in self._series if match_all(matchers, x)]:
            kept = {t: v for t, v in self._series[labels].items() if not start <= t <= end}
            if kept:
                self._series[labels] = kept
            else:
                del self._series[labels]

    def samples(self) -> dict[Labels, list[tuple[int, float]]]:
        """Everything stored, by series, in order of time."""
        return {labels: sorted(samples.items()) for labels, samples in self._series.items()}

    def select(
        self,
        matchers: Sequence[Matcher],
        start: Millis,
        end: Millis,
        hints: SelectHints | None = None,
        budget: Budget | None = None,
    ) -> Iterator[RowBatch]:
        """As Querier.select; rows with equal timestamps and markers share a timeline."""
        found: list[tuple[Labels, list[tuple[int, float]]]] = []
        for labels, samples in self._series.items():
            if match_all(matchers, labels):
                inside = sorted((t, v) for t, v in samples.items() if start <= t <= end)
                if inside:
                    found.append((labels, inside))
        for at in range(0, len(found), self._rows_per_batch):
            part = found[at : at + self._rows_per_batch]
            if budget is not None:
                budget.charge(sum(len(samples) for _, samples in part))
            yield _batch(part)

    def label_names(self, matchers: Sequence[Sequence[Matcher]], start: Millis, end: Millis) -> list[str]:
        """As Querier.label_names."""
        return sorted({name for labels in self.series(matchers, start, end) for name, _ in labels})

    def label_values(self, name: str, matchers: Sequence[Sequence[Matcher]], start: Millis, end: Millis) -> list[str]:
        """As Querier.label_values."""
        return sorted({labels.get(name) for labels in self.series(matchers, start, end)} - {""})

    def series(self, matchers: Sequence[Sequence[Matcher]], start: Millis, end: Millis) -> list[Labels]:
        """As Querier.series, exact: only series with a sample in the range."""
        return sorted(
            labels
            for labels, samples in self._series.items()
            if (not matchers or any(match_all(each, labels) for each in matchers))
            and any(start <= t <= end for t in samples)
        )

    def metadata(self, name: str = "") -> dict[str, list[MetricMeta]]:
        """As Querier.metadata."""
        return {key: list(metas) for key, metas in self._meta.items() if not name or key == name}


def read_all(batches: Iterable[RowBatch]) -> dict[Labels, list[tuple[int, float | None]]]:
    """Batches as (timestamp, value) by series, None for a staleness marker; no label set may occur twice."""
    out: dict[Labels, list[tuple[int, float | None]]] = {}
    for batch in batches:
        for row, labels in enumerate(batch.labels):
            line = batch.timelines[batch.timeline_of[row]]
            stale = [False] * len(line.timestamps) if line.stale is None else line.stale.tolist()
            values = batch.values[row, : len(line.timestamps)].tolist()
            assert labels not in out, f"{labels} occurs in two rows"
            out[labels] = [
                (t, None if marker else value)
                for t, value, marker in zip(line.timestamps.tolist(), values, stale, strict=True)
            ]
    return out


def _batch(rows: Sequence[tuple[Labels, list[tuple[int, float]]]]) -> RowBatch:
    lines: dict[tuple[tuple[int, ...], tuple[bool, ...]], int] = {}
    timeline_of = np.empty(len(rows), dtype=np.intp)
    values = np.zeros((len(rows), max(len(samples) for _, samples in rows)))
    for row, (_, samples) in enumerate(rows):
        stale = tuple(is_stale(value) for _, value in samples)
        key = (tuple(t for t, _ in samples), stale)
        timeline_of[row] = lines.setdefault(key, len(lines))
        values[row, : len(samples)] = [
            0.0 if marker else value for (_, value), marker in zip(samples, stale, strict=True)
        ]
    timelines = [
        Timeline(np.array(times, dtype=np.int64), np.array(stale) if any(stale) else None) for times, stale in lines
    ]
    return RowBatch([labels for labels, _ in rows], values, timelines, timeline_of)
