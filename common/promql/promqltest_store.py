"""The dictionary model of a store, with native histograms and start timestamps, for promqltest scripts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from common.histogram import CUSTOM_SCHEMA, FloatHistogram, detected_hints, side
from common.histogram_grid import columns_of, in_columns
from common.labels import NAME, Labels, Matcher, match_all
from common.promql.gonumber import parse
from common.promql.promqltest_script import Cell
from common.sample import Millis
from common.tsdb.memory import MemoryQuerier
from common.tsdb.querier import Budget, RowBatch, SelectHints, Timeline, ValueKind


def custom_histograms(series: Mapping[Labels, tuple[Cell, ...]]) -> dict[Labels, tuple[Cell, ...]]:
    """The classic histograms among `series` (`_bucket`, `_count`, `_sum`) as native ones with custom buckets."""
    found: dict[Labels, dict[str, tuple[Cell, ...]]] = {}
    for labels, cells in series.items():
        for suffix in ("_bucket", "_count", "_sum"):
            if labels.name.endswith(suffix):
                key = labels.drop(("le",)).merge({NAME: labels.name.removesuffix(suffix)})
                part = f"le={labels.get('le')}" if suffix == "_bucket" else suffix
                found.setdefault(key, {})[part] = cells
    out: dict[Labels, tuple[Cell, ...]] = {}
    for key, parts in found.items():
        # Of bounds that are the same number the first counts, as where Prometheus converts.
        bounds: dict[float, str] = {}
        for name in parts:
            if name.startswith("le=") and len(name) > 3:
                bounds.setdefault(parse(name[3:]), name)
        uppers = sorted(bounds.items())
        if not uppers:
            continue
        length = max(len(cells) for cells in parts.values())
        out[key] = tuple(_custom(parts, uppers, slot) for slot in range(length))
    return out


def _custom(parts: Mapping[str, tuple[Cell, ...]], uppers: Sequence[tuple[float, str]], slot: int) -> Cell:
    def value(name: str) -> float | None:
        cell = parts[name][slot] if name in parts and slot < len(parts[name]) else None
        return cell if isinstance(cell, float | int) else None

    counts = [value(name) for _, name in uppers]
    if all(count is None for count in counts):
        return None
    cumulative = np.array([0.0 if count is None else count for count in counts])
    bounds = tuple(upper for upper, _ in uppers if upper != float("inf"))
    total = value("_count")
    if total is None:
        total = float(cumulative[-1])
    if len(bounds) == len(uppers):
        cumulative = np.append(cumulative, total)
    return FloatHistogram(
        schema=CUSTOM_SCHEMA,
        count=total,
        sum=value("_sum") or 0.0,
        positive=side(0, np.diff(cumulative, prepend=0.0)),
        custom=bounds,
    )


class ScriptStore(MemoryQuerier):
    """The dictionary model with native histograms and start timestamps."""

    def __init__(self, rows_per_batch: int = 4096) -> None:
        super().__init__(rows_per_batch)
        self._starts: dict[Labels, dict[int, int]] = {}
        self._histograms: dict[Labels, dict[int, FloatHistogram]] = {}

    def add_histogram(self, labels: Labels, timestamp: int, value: FloatHistogram) -> None:
        """Store one histogram (ms); the first at a timestamp wins."""
        self._histograms.setdefault(labels, {}).setdefault(timestamp, value)

    def set_start(self, labels: Labels, timestamp: int, start: int) -> None:
        """Say when the counter behind a sample began, ms."""
        self._starts.setdefault(labels, {})[timestamp] = start

    def select(
        self,
        matchers: Sequence[Matcher],
        start: Millis,
        end: Millis,
        hints: SelectHints | None = None,
        budget: Budget | None = None,
    ) -> Iterator[RowBatch]:
        """As Querier.select."""
        for labels, samples in self._hinted().items():
            inside = sorted(time for time in samples if start <= time <= end)
            if inside and match_all(matchers, labels):
                grid = in_columns(columns_of([samples[time] for time in inside]), len(inside))[None]
                yield RowBatch(
                    [labels],
                    np.zeros(grid.shape),
                    [Timeline(np.array(inside, dtype=np.int64))],
                    np.zeros(1, dtype=np.intp),
                    ValueKind.HISTOGRAM,
                    self._known_starts([labels], [inside]),
                    grid,
                    apart=labels not in self._series,
                )
        for batch in super().select(matchers, start, end, hints, budget):
            if not any(labels in self._starts for labels in batch.labels):
                yield batch
                continue
            times = [batch.timelines[of].timestamps.tolist() for of in batch.timeline_of]
            yield replace(batch, starts=self._known_starts(batch.labels, times))

    def _hinted(self) -> dict[Labels, dict[int, FloatHistogram]]:
        """All histograms with hints as a storage answers them."""
        out: dict[Labels, dict[int, FloatHistogram]] = {}
        for labels, samples in self._histograms.items():
            times = sorted({*samples, *self._series.get(labels, ())})
            hinted = detected_hints([samples.get(time) for time in times])
            out[labels] = {time: sample for time, sample in zip(times, hinted, strict=True) if sample is not None}
        return out

    def _known_starts(self, labels: Sequence[Labels], times: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        starts = np.zeros((len(labels), max(len(line) for line in times)), dtype=np.int64)
        for row, (one, line) in enumerate(zip(labels, times, strict=True)):
            known = self._starts.get(one, {})
            starts[row, : len(line)] = [known.get(time, 0) for time in line]
        return starts
