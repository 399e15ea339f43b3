"""Which labels make the series: the figures behind `/api/v1/status/tsdb`. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.labels import NAME
from common.tsdb.index import RowIndex, Target


@dataclass(frozen=True, slots=True)
class Cardinality:
    """Counts of series, and the highest (name, count) pairs first."""

    series: int
    label_pairs: int
    by_metric: list[tuple[str, int]]
    values_by_label: list[tuple[str, int]]
    bytes_by_label: list[tuple[str, int]]
    by_pair: list[tuple[str, int]]


def cardinality(used: Sequence[tuple[RowIndex, Target]], series: int, limit: int) -> Cardinality:
    """The figures for rows under targets; `series` is the number of distinct ones."""
    pairs: Counter[tuple[str, str]] = Counter()
    targets: Counter[RowIndex] = Counter(index for index, _ in used)
    for index, many in targets.items():
        for name, column in index.columns().items():
            sizes = np.bincount(column.codes[column.codes >= 0], minlength=len(column.values))
            for value, size in zip(column.values, sizes.tolist(), strict=True):
                pairs[name, value] += size * many
    for index, target in used:
        for pair in target.labels:
            pairs[pair] += len(index.rows)
    metrics = Counter({value: count for (name, value), count in pairs.items() if name == NAME})
    distinct: Counter[str] = Counter(name for name, _ in pairs)
    weight: Counter[str] = Counter()
    for (name, value), count in pairs.items():
        weight[name] += len(value.encode()) * count
    return Cardinality(
        series,
        len(pairs),
        metrics.most_common(limit),
        distinct.most_common(limit),
        weight.most_common(limit),
        [(f"{name}={value}", count) for (name, value), count in pairs.most_common(limit)],
    )
