"""Label sets that many sources share, indexed so that a matcher runs once per distinct value, never per series.

A series is a row (labels of a sub-schema) under a target (labels of a source). Where both name a label, the row's
value holds: that is what `honor_labels` means, and who doesn't want it renames the row's label before.
"""

import itertools
import threading
import weakref
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from common.frames.model import SubSchema
from common.labels import Labels, Matcher
from common.tsdb.cache import DecodeCache

_MASK = (1 << 64) - 1
MANY_ROWS = 1024
"""From so many rows on an index remembers what matchers chose from it."""
MAX_REMEMBERED = 64
MAX_REMEMBERED_ROWS = 4096
"""Largest choice that is remembered."""
_serials = itertools.count(1)


def pair_print(name: str, value: str) -> int:
    """A 64-bit hash of one label, keyed by the process: prints of a label set are sums of these, modulo 2**64."""
    # Of texts, which CPython hashes by a keyed pseudo-random function (SipHash; PEP 456), and twice, since it gives 32
    # bits on small machines. Its hashes of tuples are nearly linear: sums of them meet where two labels swap values.
    text = f"{len(name)}:{name}{value}"
    return ((hash(f"+{text}") << 32) ^ (hash(text) & 0xFFFFFFFF)) & _MASK


class Target:
    """Target labels of a source at one version."""

    __slots__ = ("__weakref__", "labels", "names", "print", "serial", "values")

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.values = dict(labels.pairs)
        self.names = frozenset(self.values)
        self.serial = next(_serials)
        self.print = sum(pair_print(*pair) for pair in labels) & _MASK

    def outcomes(self, matchers: Sequence[Matcher]) -> tuple[bool, ...]:
        """For each matcher, whether it holds on a row that doesn't name the label itself."""
        get = self.values.get
        return tuple([matcher.matches(get(matcher.name, "")) for matcher in matchers])


class Column:
    """One label of all rows: distinct values by code, and each row's code (-1 where it is missing)."""

    __slots__ = ("codes", "values")

    def __init__(self, values: dict[str, int], codes: NDArray[np.int32]) -> None:
        self.values = values
        self.codes = codes

    def match(self, matcher: Matcher, otherwise: NDArray[np.bool_] | bool) -> NDArray[np.bool_]:
        """Which rows satisfy a matcher on this label; `otherwise` is the answer for those without it."""
        if matcher.type == "=":
            hit = self.codes == self.values.get(matcher.value, -2)
        else:
            # One more entry for code -1, replaced below.
            table = np.array([*map(matcher.matches, self.values), False], np.bool_)
            hit = table[self.codes]
        return np.where(self.codes < 0, otherwise, hit)


class RowIndex:
    """The rows of one sub-schema or of one block's metric: an inverted index, built at first use."""

    __slots__ = ("__weakref__", "_columns", "_matches", "_prints", "rows", "serial")

    def __init__(self, rows: Sequence[Labels]) -> None:
        self.rows = rows
        self.serial = next(_serials)
        self._columns: dict[str, Column] | None = None
        self._prints: NDArray[np.uint64] | None = None
        self._matches: dict[tuple[Matcher | bool, ...], NDArray[np.intp]] = {}

    def columns(self) -> dict[str, Column]:
        """All labels by name."""
        if self._columns is None:
            distinct, pairs, counts = self._pairs()
            values: dict[str, dict[str, int]] = {}
            code_of = [values.setdefault(name, {}).setdefault(value, len(values[name])) for name, value in distinct]
            number = {name: at for at, name in enumerate(values)}
            name_of = np.array([number[name] for name, _ in distinct], np.intp)[pairs]
            codes, row_of = np.array(code_of, np.int32)[pairs], np.repeat(np.arange(len(self.rows)), counts)
            columns: dict[str, Column] = {}
            for name, known in values.items():
                mine = name_of == number[name]
                column = np.full(len(self.rows), -1, np.int32)
                column[row_of[mine]] = codes[mine]
                columns[name] = Column(known, column)
            # Whole at once: queries on other threads look for it meanwhile.
            self._columns = columns
        return self._columns

    def _pairs(self) -> tuple[list[tuple[str, str]], NDArray[np.intp], NDArray[np.intp]]:
        """Distinct labels; which of them all rows have, row after row; how many each row has."""
        places: dict[tuple[str, str], int] = {}
        flat = [places.setdefault(pair, len(places)) for labels in self.rows for pair in labels.pairs]
        counts = np.array([len(labels.pairs) for labels in self.rows], np.intp)
        return list(places), np.array(flat, np.intp), counts

    def match(self, matchers: Sequence[Matcher], outcomes: Sequence[bool]) -> NDArray[np.intp]:
        """Rows that satisfy every matcher, ascending, given the `outcomes` for rows without the label; for reading."""
        if len(self.rows) < MANY_ROWS:
            return self._match(matchers, outcomes)
        key: tuple[Matcher | bool, ...] = (*matchers, *outcomes)
        found = self._matches.get(key)
        if found is None:
            found = self._match(matchers, outcomes)
            if len(found) <= MAX_REMEMBERED_ROWS:
                kept = self._matches if len(self._matches) < MAX_REMEMBERED else {}
                self._matches = {**kept, key: found}
        return found

    def _match(self, matchers: Sequence[Matcher], outcomes: Sequence[bool]) -> NDArray[np.intp]:
        columns = self.columns()
        mask: NDArray[np.bool_] | None = None
        for matcher, otherwise in zip(matchers, outcomes, strict=True):
            # Most sub-schemas don't have the metric at all.
            if not otherwise and not _possible(matcher, columns.get(matcher.name)):
                return np.empty(0, dtype=np.intp)
        for matcher, otherwise in zip(matchers, outcomes, strict=True):
            column = columns.get(matcher.name)
            if column is not None:
                hit = column.match(matcher, otherwise)
                mask = hit if mask is None else mask & hit
        return np.arange(len(self.rows), dtype=np.intp) if mask is None else np.flatnonzero(mask)

    def prints(self, target: Target) -> NDArray[np.uint64]:
        """Prints of the full label sets under `target`, uint64 [rows]: equal sets have equal prints."""
        if self._prints is None:
            distinct, pairs, counts = self._pairs()
            known = np.array([pair_print(*pair) for pair in distinct], np.uint64)
            # Unsigned sums wrap, as they should; the zero in front makes rows without labels come out as 0.
            sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(known[pairs], dtype=np.uint64)))
            ends = np.cumsum(counts)
            self._prints = sums[ends] - sums[ends - counts]
        prints = self._prints + np.uint64(target.print)
        for name in target.names & self.columns().keys():
            prints[self.columns()[name].codes >= 0] -= np.uint64(pair_print(name, target.values[name]))
        return prints

    def labels(self, row: int, target: Target) -> Labels:
        """The full label set of a row under `target`."""
        mine = self.rows[row]
        if target.names.isdisjoint(self.columns()):
            return Labels.from_sorted(tuple(sorted(mine.pairs + target.labels.pairs)))
        return target.labels.merge(mine)


def _possible(matcher: Matcher, column: Column | None) -> bool:
    """Whether a row that has the label may satisfy the matcher."""
    return column is not None and (matcher.type != "=" or matcher.value in column.values)


Name = tuple[RowIndex, int, Target]
"""A series by its place: index, row in it, target."""


class Slots:
    """Label sets of numbered series, found by array calls: object [series], and which of them are there, bool."""

    __slots__ = ("known", "labels")

    def __init__(self, series: int) -> None:
        self.labels = np.full(series, None, dtype=object)
        self.known = np.zeros(series, np.bool_)


class LabelCache:
    """Full label sets by (index, target, row); at `limit` entries it starts over. Thread-safe."""

    def __init__(self, limit: int = 200_000) -> None:
        self._limit = limit
        self._count = 0
        self._lock = threading.Lock()
        self._tables: dict[tuple[int, int], dict[int, Labels]] = {}
        self._slots: weakref.WeakKeyDictionary[object, Slots] = weakref.WeakKeyDictionary()

    def numbered(
        self, owner: object, count: int, series: NDArray[np.intp], names: Callable[[NDArray[np.intp]], list[Name]]
    ) -> list[Labels]:
        """Label sets of some of the `count` series that `owner` numbers, kept while it lives; `names` tells places."""
        slots = self._slots.get(owner)
        if slots is None:
            slots = self._slots[owner] = Slots(count)
        missing = series[~slots.known[series]]
        if len(missing):
            for number, labels in zip(missing.tolist(), self.many(names(missing)), strict=True):
                slots.labels[number] = labels
            slots.known[missing] = True
        found: list[Labels] = slots.labels[series].tolist()
        return found

    def get(self, index: RowIndex, target: Target, rows: NDArray[np.intp]) -> list[Labels]:
        """Full label sets of `rows`, in that order."""
        with self._lock:
            table = self._table(index, target)
            return [self._find(table, index, row, target) for row in rows.tolist()]

    def many(self, names: Sequence[Name]) -> list[Labels]:
        """Full label sets of any series."""
        out = []
        with self._lock:
            # Neighbours mostly share their index and target.
            at_index: RowIndex | None = None
            at_target: Target | None = None
            table: dict[int, Labels] = {}
            for index, row, target in names:
                if index is not at_index or target is not at_target:
                    table, at_index, at_target = self._table(index, target), index, target
                labels = table.get(row)
                out.append(self._find(table, index, row, target) if labels is None else labels)
        return out

    def _table(self, index: RowIndex, target: Target) -> dict[int, Labels]:
        table = self._tables.get((index.serial, target.serial))
        if table is None:
            if self._count > self._limit:
                self._tables = {}
                self._slots.clear()
                self._count = 0
            table = self._tables[index.serial, target.serial] = {}
        return table

    def _find(self, table: dict[int, Labels], index: RowIndex, row: int, target: Target) -> Labels:
        labels = table.get(row)
        if labels is None:
            labels = table[row] = index.labels(row, target)
            self._count += 1
        return labels

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._tables = {}
            self._slots.clear()
            self._count = 0


class Interner:
    """Hands out one object for equal targets and for equal sub-schemas, as long as somebody holds it.

    `indexes` are those of blocks that are open, the latest at least, in `index_bytes` as they count them.
    """

    def __init__(self, index_bytes: int = 64 << 20) -> None:
        self.indexes = DecodeCache(index_bytes, least=1)
        self.made = 0
        """Label sets of objects that were not there before, of all that were handed out."""
        self._targets: weakref.WeakValueDictionary[Labels, Target] = weakref.WeakValueDictionary()
        self._rows: weakref.WeakValueDictionary[bytes, RowIndex] = weakref.WeakValueDictionary()

    def target(self, labels: Labels) -> Target:
        """The target with these labels."""
        found = self._targets.get(labels)
        if found is None:
            found = self._targets[labels] = Target(labels)
            self.made += 1
        return found

    def rows(self, part: SubSchema) -> RowIndex:
        """The index over the rows of `part`."""
        found = self._rows.get(part.hash)
        if found is None:
            found = self._rows[part.hash] = RowIndex(part.rows)
            self.made += len(part.rows)
        return found
