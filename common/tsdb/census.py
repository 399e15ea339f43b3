"""What the series of a store or a log are made of, for `bramblectl tsdb analyze`. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from common.labels import NAME
from common.tsdb.block import Block
from common.tsdb.index import RowIndex, Target
from common.tsdb.rows import Group, code_text

Ranking = list[tuple[str, int]]
Metrics = Iterable[tuple[RowIndex, NDArray[np.intp], NDArray[np.intp]]]


class Census:
    """Counts series by label pair, each label set once however often it is met, and how much they come and go.

    A series churns by the share (0 to 1) of a block's or a log's time in which it had not begun or had ended.
    """

    def __init__(self) -> None:
        self.series = 0
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.churn: dict[tuple[str, str], float] = {}
        self._seen = np.empty(0, np.uint64)

    def add(
        self, metrics: Metrics, targets: Sequence[Target], prints: NDArray[np.uint64], absent: NDArray[np.float64]
    ) -> None:
        """Count series: indexes, with rows in them and numbers of targets; prints and absence of all, in that order."""
        fresh = np.zeros(len(prints), np.bool_)
        fresh[np.unique(prints, return_index=True)[1]] = True
        fresh &= ~np.isin(prints, self._seen)
        self._seen = np.union1d(self._seen, prints)
        self.series += int(np.count_nonzero(fresh))
        shared = {}
        for name in sorted({name for target in targets for name in target.names}):
            values = {value: None for target in targets if (value := target.values.get(name, ""))}
            place = {value: code for code, value in enumerate(values)}
            shared[name] = list(values), np.array([place.get(t.values.get(name, ""), -1) for t in targets])
        at = 0
        for index, rows, numbers in metrics:
            mine = slice(at, at + len(rows))
            at += len(rows)
            for name, column in index.columns().items():
                self._count(name, list(column.values), column.codes[rows], fresh[mine], absent[mine])
            for name, (texts, codes_of) in shared.items():
                codes = codes_of[numbers]
                own = index.columns().get(name)
                if own is not None:
                    codes = np.where(own.codes[rows] < 0, codes, -1)
                self._count(name, texts, codes, fresh[mine], absent[mine])

    def _count(
        self,
        name: str,
        values: Sequence[str],
        codes: NDArray[np.integer],
        fresh: NDArray[np.bool_],
        absent: NDArray[np.float64],
    ) -> None:
        there = np.flatnonzero(codes >= 0)
        if not len(there):
            return
        known = codes[there]
        counts, weights = np.bincount(known, fresh[there]), np.bincount(known, absent[there])
        for code in np.flatnonzero((counts > 0) | (weights > 0)).tolist():
            pair = (name, values[code])
            self.pairs[pair] += round(counts[code])
            if weights[code] > 0:
                self.churn[pair] = self.churn.get(pair, 0.0) + float(weights[code])

    @classmethod
    def of(cls, blocks: Sequence[Block], parts: Sequence[tuple[RowIndex, Target]]) -> "Census":
        """Of blocks and a head. Long."""
        census = cls()
        for block in blocks:
            census.block(block)
        census.head(parts)
        return census

    def block(self, block: Block) -> None:
        """Count a block's series."""
        first, last = block.spans()
        absent = 1 - (last - first) / max(1, block.max - block.min)
        self.add(block.census(), block.targets, block.prints, absent)

    def head(self, parts: Sequence[tuple[RowIndex, Target]]) -> None:
        """Count the series of a head; how much they churn is not known before they are in a block."""
        for index, target in parts:
            rows = np.arange(len(index.rows))
            self.add([(index, rows, np.zeros(len(rows), np.intp))], [target], index.prints(target), np.zeros(len(rows)))

    def rankings(self, limit: int) -> list[tuple[str, Ranking]]:
        """Titles as of `promtool tsdb analyze`, and the `limit` highest counts of each."""
        churning = Counter({f"{name}={value}": round(weight) for (name, value), weight in self.churn.items()})
        names: Counter[str] = Counter()
        for (name, _), weight in self.churn.items():
            names[name] += round(1000 * weight)
        lengths: Counter[str] = Counter()
        for name, value in self.pairs:
            lengths[name] += len(value.encode())
        return [
            ("Label pairs most involved in churning", _top(churning, limit)),
            ("Label names most involved in churning", _top(Counter({n: c // 1000 for n, c in names.items()}), limit)),
            ("Most common label pairs", _top(Counter({f"{n}={v}": c for (n, v), c in self.pairs.items()}), limit)),
            ("Label names with highest cumulative label value length", _top(lengths, limit)),
            ("Highest cardinality labels", _top(Counter(name for name, _ in self.pairs), limit)),
            (
                "Highest cardinality metric names",
                _top(Counter({value: c for (name, value), c in self.pairs.items() if name == NAME}), limit),
            ),
        ]


def _top(counts: Counter[str], limit: int) -> Ranking:
    found = sorted(((what, count) for what, count in counts.items() if count), key=lambda each: (-each[1], each[0]))
    return found[:limit]


def encodings(blocks: Sequence[Block]) -> list[tuple[str, int, int]]:
    """Row encodings in use: in words, rows and cells (slots of these rows), the most cells first."""
    rows: Counter[str] = Counter()
    cells: Counter[str] = Counter()
    for block in blocks:
        for group in block.groups():
            if isinstance(group, Group):
                codes, counts = np.unique(group.codes, return_counts=True)
                for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
                    rows[code_text(code)] += count
                    cells[code_text(code)] += count * group.slots
            else:
                rows["native histograms"] += group.rows
                cells["native histograms"] += sum(len(group.decode(row)) for row in range(group.rows))
    return [(what, rows[what], count) for what, count in cells.most_common()]
