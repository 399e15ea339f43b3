"""Turns the collectors' results into rows of a schema that stays the same while the series stay the same. Pure."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from common.exposition.model import Desc, Reading
from common.frames.model import ABSENT, PRESENT, STALE, Schema, SubSchema
from common.labels import Labels
from common.sample import MetricMeta
from edge.collectors.runner import CollectorResult

MAX_SERIES = 50_000
"""Rows of one schema; readings beyond are left out and counted."""

_LEFT_OUT = -1
_Key = tuple[Desc, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Slot:
    """One instant of a lane: a value and a cell state (ABSENT, PRESENT, STALE) for each row of the schema."""

    schema: Schema
    values: "array[float]"
    presence: bytes


class _Part:
    """One collector's rows. Rows of vanished series stay until new ones appear, so that flapping costs no schema."""

    __slots__ = ("identity", "index", "keys", "meta", "presence", "series", "sub", "where")

    def __init__(self, name: str) -> None:
        self.sub = SubSchema(name, (), ())
        self.index: dict[Labels, int] = {}
        self.meta: dict[str, MetricMeta] = {}
        self.presence = b""
        self.keys: list[_Key] = []
        self.series: dict[_Key, Labels] = {}
        self.where: list[int] = []
        self.identity = True


class RowTable:
    """Keeps the rows of one lane from one instant to the next."""

    def __init__(self, max_series: int = MAX_SERIES) -> None:
        self._max = max_series
        self._parts: dict[str, _Part] = {}
        self._owned: set[Labels] = set()
        self.schema = Schema(())
        """The schema of the last slot."""
        self.left_out = 0
        """Readings left out so far: their series had a reading already, or the rows are at their limit."""

    def update(self, results: Sequence[CollectorResult]) -> Slot:
        """The slot of these results; a series that is gone since the last slot gets one STALE cell, then ABSENT."""
        given = {result.name: result.samples for result in results}
        for name in given:
            if name not in self._parts:
                self._parts[name] = _Part(name)
        values: array[float] = array("d")
        presence: list[bytes] = []
        for name, part in self._parts.items():
            values.extend(self._fill(part, given.get(name, ())))
            presence.append(part.presence)
        subs = tuple(part.sub for part in self._parts.values())
        if len(subs) != len(self.schema.parts) or any(a is not b for a, b in zip(subs, self.schema.parts, strict=True)):
            self.schema = Schema(subs)
        return Slot(self.schema, values, b"".join(presence))

    def compact(self) -> None:
        """Drop the rows that were absent in the last slot: the moment for it is the start of a new segment."""
        for part in self._parts.values():
            if ABSENT in part.presence:
                self._grow(part)
                self._place(part, part.keys)

    def _fill(self, part: _Part, readings: Sequence[Reading]) -> "array[float]":
        """The part's values; its presence is brought up to date."""
        keys = [(desc, values) for desc, values, _ in readings]
        if keys != part.keys:
            self._place(part, keys)
        if part.identity:
            part.presence = bytes([PRESENT]) * len(keys)
            return array("d", [value for _, _, value in readings])
        values = array("d", bytes(8 * len(part.sub.rows)))
        now = bytearray(len(part.sub.rows))
        for row, (_, _, value) in zip(part.where, readings, strict=True):
            if row == _LEFT_OUT:
                self.left_out += 1
            else:
                values[row] = value
                now[row] = PRESENT
        for row, state in enumerate(part.presence):
            if state == PRESENT and now[row] == ABSENT:
                now[row] = STALE
        part.presence = bytes(now)
        return values

    def _place(self, part: _Part, keys: list[_Key]) -> None:
        """Give each key a row, or none where its series has one already."""
        part.keys = keys
        part.series = {key: part.series.get(key) or key[0].series(key[1]) for key in keys}
        if any(series not in part.index for series in part.series.values()):
            self._grow(part)
        part.where = []
        used: set[int] = set()
        for key in keys:
            row = part.index.get(part.series[key], _LEFT_OUT)
            part.where.append(_LEFT_OUT if row in used else row)
            used.add(row)
        part.identity = part.where == list(range(len(part.sub.rows)))

    def _grow(self, part: _Part) -> None:
        """Add rows for new series, and drop those that were already absent and still are."""
        wanted = set(part.series.values())
        kept = [
            (row, state)
            for row, state in zip(part.sub.rows, part.presence, strict=True)
            if state == PRESENT or row in wanted
        ]
        self._owned.difference_update(part.sub.rows)
        self._owned.update(row for row, _ in kept)
        rows = [row for row, _ in kept]
        families = {row.name for row in rows}
        for (desc, _), series in part.series.items():
            if series not in self._owned and len(self._owned) < self._max:
                self._owned.add(series)
                rows.append(series)
            part.meta.setdefault(desc.name, desc.meta)
            families.add(desc.name)
        part.meta = {name: meta for name, meta in part.meta.items() if name in families}
        part.presence = bytes(state for _, state in kept) + bytes(len(rows) - len(kept))
        part.index = {row: at for at, row in enumerate(rows)}
        if tuple(rows) != part.sub.rows:
            metas = {meta.name: meta for meta in part.meta.values()}
            part.sub = SubSchema(part.sub.name, tuple(rows), tuple(metas.values()))
