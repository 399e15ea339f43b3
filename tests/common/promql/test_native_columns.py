"""Queries on native histograms in columns give to the bit what those on the same histograms as objects give."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from common.errors import QueryError
from common.histogram import CUSTOM_SCHEMA, FloatHistogram, ResetHint, side
from common.histogram_grid import Grid, columns_of, in_columns
from common.labels import Labels
from common.promql.engine import Engine, EngineOptions, Result
from common.promql.promqltest_store import ScriptStore
from common.sample import STALE_NAN
from common.tsdb.querier import RowBatch

STEP, SLOTS = 15_000, 40
RANGES = (
    *("rate", "increase", "delta", "irate", "idelta", "sum_over_time", "avg_over_time", "resets", "changes"),
    *("last_over_time", "count_over_time", "present_over_time", "max_over_time"),
)
QUERIES = (
    "h",
    *(f"{func}(h[{window}])" for func in RANGES for window in ("50s", "5m")),
    *(f"{op}{by}(h)" for op in ("sum", "avg", "count", "max") for by in ("", " by (job)")),
    *(f"{op} by (job)({func}(h[2m]))" for op in ("sum", "avg") for func in ("rate", "sum_over_time")),
    *(f"histogram_quantile({q}, {of}(h[2m]))" for q in (-1, 0, 0.3, 0.5, 0.9, 1, 2) for of in ("rate", "delta")),
    *(f"histogram_quantile({q}, h)" for q in (0, 0.1, 0.5, 0.77, 1, "NaN", "time() / 2000")),
    *(
        f"histogram_fraction({limits}, h)"
        for limits in ("0, 0.2", "-1, 1", "0.3, 0.3", "-Inf, +Inf", "NaN, 1", "1, 5e9")
    ),
    *(f"histogram_fraction({limits}, rate(h[2m]))" for limits in ("-0.001, 0.7", "0, time() / 900")),
    *(f"histogram_{what}({of})" for what in ("count", "sum", "avg", "stddev", "stdvar") for of in ("h", "rate(h[2m])")),
    *("h * 3", "h / 7", "h * -1", "-h", "2 * h", "h / 0", "h * NaN", "h / +Inf", "h + h", "h == h", "h - h offset 1m"),
    *("sum(rate(h[2m])) * 60", "sum_over_time(rate(h[1m])[3m:30s])", "rate(sum(h)[3m:30s])", "h > 1", "h and h * 2"),
    *("histogram_quantile(0.9, sum by (job)(rate(h[2m])))", "avg(h) by (job)", "sum(-h)", "count_values('x', h)"),
)


class Objects(ScriptStore):
    """The same store, with histograms as objects."""

    def select(self, *args: object, **named: object) -> Iterator[RowBatch]:
        for batch in super().select(*args, **named):  # type: ignore[arg-type]
            grid = batch.histograms
            yield batch if grid is None else replace(batch, histograms=Grid.of(grid.cells))


def _histogram(rng: np.random.Generator, before: FloatHistogram | None, style: str) -> FloatHistogram:
    """One that mostly goes on from the one before."""
    if before is None or rng.random() < 0.04:
        schema = int(rng.integers(0, 3))
        if style == "custom":
            custom = ((0.5, 1.0, 4.0), (0.5, 4.0), (-1.0, 0.0, 2.0))[schema]
            return FloatHistogram(CUSTOM_SCHEMA, 6.0, 3.5, positive=side(0, [2.0, 1.0, 3.0]), custom=custom)
        negative = side(0, [1.0, 0.0, 2.0]) if rng.random() < 0.3 else side(0, [])
        positive = side(-2, [1.0, 2.0]) if rng.random() < 0.9 else side(0, [])
        found = positive.counts.sum() + negative.counts.sum() + 1
        hint = ResetHint.GAUGE if style == "gauge" else ResetHint.UNKNOWN
        threshold = 0.001 if rng.random() < 0.9 else 0.4
        return FloatHistogram(schema, float(found), 2.5, 1.0, threshold, positive, negative, hint=hint)
    if rng.random() < 0.03 and before.schema > -2:
        before = before.laid_out(before.schema - 1, before.zero_threshold, ())
    if rng.random() < 0.02:
        return replace(before, sum=float("nan"), count=before.count + 1)
    if before.sum != before.sum:
        before = replace(before, sum=3.0)
    low = 0 if before.is_custom else int(rng.integers(-6, 6))
    width = len(before.custom) + 1 if before.is_custom else 4
    more = rng.integers(0, 3, width).astype(float)
    if style == "float":
        more *= 0.1
    if style == "gauge":
        more -= 1
    first = min(low, before.positive.offset)
    counts = before.positive.within(first, max(low + width, before.positive.offset + len(before.positive.counts)))
    counts[low - first : low - first + width] += more
    count = before.count + float(more.sum())
    return replace(before, count=count, sum=before.sum + float(more.sum()) * 0.37, positive=side(first, counts))


def _stores(seed: int) -> tuple[ScriptStore, ScriptStore]:
    rng = np.random.default_rng(seed)
    stores = ScriptStore(), Objects()
    for number in range(4):
        style = str(rng.choice(["counter", "counter", "float", "gauge", "custom"]))
        labels = Labels.of(__name__="h", job=str(number % 2), i=str(number))
        mixed = rng.random() < 0.2
        before: FloatHistogram | None = None
        for slot in range(SLOTS):
            chance = rng.random()
            if chance < 0.05:
                continue
            at = slot * STEP
            if chance < 0.08:
                for store in stores:
                    store.add(labels, at, STALE_NAN if chance < 0.065 or not mixed else 4.0)
                continue
            before = _histogram(rng, before, style)
            for store in stores:
                store.add_histogram(labels, at, before)
                if seed % 5 == 4 and number == 1:
                    store.set_start(labels, at, max(1, at // 200_000 * 200_000))
    return stores


def _same(one: Result, other: Result) -> None:
    assert (one.warnings, one.infos) == (other.warnings, other.infos)
    assert one.loaded.tolist() == other.loaded.tolist()
    assert one.matrix is not None
    assert other.matrix is not None
    assert one.matrix.labels == other.matrix.labels
    assert (one.matrix.presence == other.matrix.presence).all()
    natives = [matrix.is_histogram() for matrix in (one.matrix, other.matrix)]
    masks = [np.zeros_like(one.matrix.presence) if each is None else each for each in natives]
    assert (masks[0] == masks[1]).all()
    floats = one.matrix.presence & ~masks[0]
    mine, theirs = one.matrix.values[floats], other.matrix.values[floats]
    assert ((mine == theirs) | (np.isnan(mine) & np.isnan(theirs))).all()
    if one.matrix.histograms is not None and other.matrix.histograms is not None:
        pairs = zip(one.matrix.histograms.cells[masks[0]], other.matrix.histograms.cells[masks[0]], strict=True)
        for each, known in pairs:
            assert _unsigned(each).equals(_unsigned(known)), (str(each), str(known))
            assert each.hint is known.hint


def _unsigned(histogram: FloatHistogram) -> FloatHistogram:
    """With no minus before empty buckets, which nobody sees."""
    positive, negative = histogram.positive, histogram.negative
    positive, negative = side(positive.offset, positive.counts + 0.0), side(negative.offset, negative.counts + 0.0)
    return replace(histogram, positive=positive, negative=negative)


@pytest.mark.parametrize("seed", range(5))
def test_columns_give_what_objects_give(seed: int) -> None:
    stores = _stores(seed)
    engine = Engine(EngineOptions())
    for query in QUERIES:
        for start, end, step in ((0, SLOTS * STEP, 40_000), (7 * STEP, 7 * STEP, 1)):
            try:
                known: Result | str = engine.range(stores[1], query, start, end, step)
            except QueryError as err:
                known = str(err)
            try:
                found: Result | str = engine.range(stores[0], query, start, end, step)
            except QueryError as err:
                found = str(err)
            if isinstance(known, str) or isinstance(found, str):
                assert found == known, query
            else:
                _same(found, known)


def test_objects_survive_columns() -> None:
    rng = np.random.default_rng(3)
    made: list[FloatHistogram] = []
    for style in ("counter", "custom", "gauge", "float"):
        before = None
        for _ in range(40):
            before = _histogram(rng, before, style)
            made.append(before)
    grid = in_columns(columns_of(made), len(made))
    assert len(grid.blocks) < len(made)
    for each, known in zip(grid.tolist(), made, strict=True):
        assert each is not None
        assert each.equals(known)
        assert each.hint is known.hint
